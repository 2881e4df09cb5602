//! A network as rules have it.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

/// The text is no network that a rule could be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It is none at all.
    #[error("is no network; write e.g. \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"")]
    Syntax,
    /// It may be a mistake in either half.
    #[error("has bits set beyond its prefix length; write the network (e.g. \"10.0.0.0/8\") or one address")]
    HostBits,
    /// Addresses are compared as IPv4 where they are (RFC 4291 §2.5.5.2), so that the rule would be about nobody.
    #[error("is IPv4 inside IPv6; write it as IPv4, e.g. \"10.1.0.0/16\" for \"::ffff:10.1.0.0/112\"")]
    Mapped,
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let network = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse().map_err(|_| InvalidNetwork::Syntax)?,
        };
        match network {
            network if network != network.trunc() => Err(InvalidNetwork::HostBits),
            network if network.prefix_len() >= 96 && network.addr().to_canonical() != network.addr() => {
                Err(InvalidNetwork::Mapped)
            }
            network => Ok(Self(network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_unless_a_rule_with_them_would_be_about_nobody() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::/64", "::/64"),
        ] {
            assert_eq!(text.parse(), Ok(Network(network.parse().unwrap())), "{text}");
        }
        use InvalidNetwork::*;
        for (text, error) in [
            ("", Syntax),
            ("example.com", Syntax),
            ("10.0.0.0/33", Syntax),
            ("10.0.0.1/8", HostBits),
            ("2001:db8::1/32", HostBits),
            ("::ffff:10.1.0.1/112", HostBits),
            ("::ffff:10.1.0.0/112", Mapped),
            ("::ffff:0:0/96", Mapped),
            ("::ffff:192.0.2.1", Mapped),
            ("::ffff:c000:201", Mapped),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }
}
