//! The address guard (SECURITY 1.2 T2 and T3, C601): which addresses validation may connect to.
//!
//! Private networks may: they are what the product is for. Each form that an address can be read in counts, so that an
//! IPv6 address which a translator or tunnel turns into `127.0.0.1` is refused as that is. Only [`Guard::admit`] makes an
//! [`Admitted`], and only an [`Admitted`] can be dialled.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;

use ipnet::IpNet;

use crate::validate::Settings;

/// An address and port that passed the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted(SocketAddr);

impl Admitted {
    /// What to dial.
    pub(crate) fn address(self) -> SocketAddr {
        self.0
    }
}

/// Why an address may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Denied,
    Loopback,
    LinkLocal,
    Metadata,
    Multicast,
    Unspecified,
    Reserved,
    OwnListener,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "in a network that the configuration denies",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata service",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "the unspecified address",
            Self::Reserved => "a reserved address",
            Self::OwnListener => "this server itself",
        })
    }
}

/// The rules, from the settings.
#[derive(Debug)]
pub(crate) struct Guard {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    own_listeners: Vec<SocketAddr>,
    is_local: fn(IpAddr) -> bool,
}

impl Guard {
    /// The rules of the settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            allow: settings.allow.clone(),
            deny: settings.deny.clone(),
            own_listeners: settings.own_listeners.clone(),
            is_local,
        }
    }

    /// Decides about one address, in each of its forms: one form that may not be connected to refuses them all.
    pub(crate) fn admit(&self, address: IpAddr, port: u16) -> Result<Admitted, Refusal> {
        let address = address.to_canonical();
        for form in forms(address) {
            self.check(form, port)?;
        }
        Ok(Admitted(SocketAddr::new(address, port)))
    }

    fn check(&self, form: IpAddr, port: u16) -> Result<(), Refusal> {
        if self.deny.iter().any(|net| net.contains(&form)) {
            return Err(Refusal::Denied);
        }
        let named = IpNet::from(form);
        if self.is_own_listener(form, port) && !self.allow.contains(&named) {
            return Err(Refusal::OwnListener);
        }
        match special(form) {
            Some(refusal) if !self.allow.iter().any(|net| net.contains(&form)) => Err(refusal),
            _ => Ok(()),
        }
    }

    fn is_own_listener(&self, form: IpAddr, port: u16) -> bool {
        self.own_listeners
            .iter()
            .filter(|own| own.port() == port)
            .map(|own| own.ip().to_canonical())
            .any(|own| own == form || (own.is_unspecified() && (self.is_local)(form)))
    }
}

/// The address, and each IPv4 address that a translator, tunnel or socket layer may make of it.
fn forms(address: IpAddr) -> Vec<IpAddr> {
    let mut forms = vec![address];
    if let IpAddr::V6(v6) = address {
        forms.extend(embedded(v6).into_iter().map(IpAddr::V4));
    }
    forms
}

fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = v6.to_bits();
    match v6.segments() {
        // RFC 4291 §2.5.5.1, IPv4-compatible; `::` and `::1` are judged as they stand.
        [0, 0, 0, 0, 0, 0, _, _] if bits > 1 => vec![octets_at(bits, 96)],
        // RFC 2765 §2.1, IPv4-translated.
        [0, 0, 0, 0, 0xffff, 0, _, _] => vec![octets_at(bits, 96)],
        // RFC 6052 §2.1, NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => vec![octets_at(bits, 96)],
        // RFC 8215, NAT64 with a prefix of the network's own choice.
        [0x64, 0xff9b, 1, ..] => local_nat64(bits),
        // RFC 3056, 6to4.
        [0x2002, ..] => vec![octets_at(bits, 16)],
        // RFC 4380 §4, Teredo: the server, and the client with its bits flipped.
        [0x2001, 0, ..] => vec![octets_at(bits, 32), octets_at(!bits, 96)],
        // RFC 5214 §6.1, ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => vec![octets_at(bits, 96)],
        _ => Vec::new(),
    }
}

/// The four octets that start at the bit, counted from the left.
fn octets_at(bits: u128, start: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((bits << start >> 96) as u32)
}

/// RFC 6052 §2.2: the prefix may be 48, 56, 64 or 96 bits long, and bits 64 to 71 hold no part of the IPv4 address. The
/// length is not known here, so that each counts; the lengths that it is not read as zeros, which no translator forwards.
fn local_nat64(bits: u128) -> Vec<Ipv4Addr> {
    let without_bits_64_to_71 = (bits >> 64 << 64) | (bits << 72 >> 64);
    let mut found: Vec<Ipv4Addr> = [48, 56, 64]
        .into_iter()
        .map(|start| octets_at(without_bits_64_to_71, start))
        .collect();
    found.push(octets_at(bits, 96));
    found.retain(|v4| !matches!(v4.octets(), [0, ..]));
    found
}

/// The address's own special purpose, if connecting there could do harm or makes no sense.
fn special(address: IpAddr) -> Option<Refusal> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(v4: Ipv4Addr) -> Option<Refusal> {
    match v4.octets() {
        // Alibaba Cloud, Azure and Oracle Cloud; those of AWS, Google and others are link-local.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => Some(Refusal::Metadata),
        // All of 0.0.0.0/8: Linux connects 0.0.0.0 to this host (RFC 1122 §3.2.1.3).
        [0, ..] => Some(Refusal::Unspecified),
        [127, ..] => Some(Refusal::Loopback),
        [169, 254, ..] => Some(Refusal::LinkLocal),
        [224..=239, ..] => Some(Refusal::Multicast),
        // RFC 6890 protocol assignments; class E with the limited broadcast address.
        [192, 0, 0, _] | [240..=255, ..] => Some(Refusal::Reserved),
        _ => None,
    }
}

fn special_v6(v6: Ipv6Addr) -> Option<Refusal> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refusal::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refusal::Loopback),
        // AWS and Google Cloud.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => {
            Some(Refusal::Metadata)
        }
        // fe80::/10, and the site-local fec0::/10 that RFC 3879 withdrew.
        [0xfe80..=0xfeff, ..] => Some(Refusal::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Refusal::Multicast),
        // RFC 6666, discard-only.
        [0x100, 0, 0, 0, ..] => Some(Refusal::Reserved),
        _ => None,
    }
}

/// Whether the address is one of this machine's, asked of the kernel without sending a packet: only a local address can
/// be bound to, and the route to it has it as its source. The first question proves nothing where the administrator lets
/// programs bind to foreign addresses (`ip_nonlocal_bind`), and the second misses a network's secondary addresses.
fn is_local(address: IpAddr) -> bool {
    let (any, foreign): (IpAddr, IpAddr) = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(240, 0, 0, 1).into()),
        IpAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let can_bind = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    let own_source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    address.is_loopback()
        || own_source().is_ok_and(|source| source.ip() == address)
        || (can_bind(address) && !can_bind(foreign))
}

#[cfg(test)]
mod tests;
