//! Identifiers (RFC 8555 §9.7.7, RFC 8738): what an account asks a certificate for, normalised once, here.
//!
//! A [`DnsName`] is lower-case A-labels without a trailing dot, and can not be mistaken for an address. Whether a name
//! is admitted is the policy's business.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no DNS name that a certificate could be issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// RFC 1035 §2.3.4.
    #[error("the name is longer than 253 characters")]
    TooLong,
    /// Two dots in a row, or one at either end.
    #[error("the name has an empty label or a trailing dot")]
    EmptyLabel,
    /// RFC 1035 §2.3.4.
    #[error("a label is longer than 63 characters")]
    LabelTooLong,
    /// Letters, digits and hyphens only (RFC 5280 §4.2.1.6); internationalised names come as A-labels.
    #[error(
        "the name has a character other than a-z, 0-9, '-' and '.'; write an internationalised name as A-labels (xn--)"
    )]
    Character,
    /// RFC 5890 §2.3.1.
    #[error("a label starts or ends with a hyphen")]
    Hyphen,
    /// RFC 5890 §2.3.2.1.
    #[error("a label that begins with xn-- is no valid A-label")]
    ALabel,
    /// `??--` labels other than A-labels are reserved (RFC 5890 §2.3.1).
    #[error("a label has '--' as its third and fourth character, which is reserved")]
    ReservedLabel,
    /// The public and any private CA wants at least two labels.
    #[error("the name has a single label; write it with its domain")]
    SingleLabel,
    /// An address in one of its many spellings (RFC 8738 has its own identifier type).
    #[error("the name is an IP address or ends in a number")]
    Address,
    /// Only `*.` at the left end (RFC 8555 §7.1.3).
    #[error("a wildcard may only be the whole leftmost label, over a name of at least two labels")]
    Wildcard,
}

/// A DNS name in its one normal form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// The name, e.g. `www.example.com`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A host's name in its own network, which may be a single label: never one to issue a certificate for.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] says what is wrong with it.
    pub fn of_own_network(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        // ASCII only, so that no Unicode case rule can turn one name into another.
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        {
            return Err(match text.contains('*') {
                true => InvalidName::Wildcard,
                false => InvalidName::Character,
            });
        }
        if text.len() > 253 {
            return Err(InvalidName::TooLong);
        }
        let name = text.to_ascii_lowercase();
        for label in name.split('.') {
            check_label(label)?;
        }
        // The last label decides how URL parsers and resolvers read a host: `2130706433`, `0x7f.1` and `10.0.0.5` are
        // addresses to them (WHATWG URL §3.5).
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last
            .strip_prefix("0x")
            .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        if last.bytes().all(|b| b.is_ascii_digit()) || hexadecimal {
            return Err(InvalidName::Address);
        }
        Ok(Self(name))
    }
}

impl FromStr for DnsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = Self::of_own_network(text)?;
        match name.0.contains('.') {
            true => Ok(name),
            false => Err(InvalidName::SingleLabel),
        }
    }
}

fn check_label(label: &str) -> Result<(), InvalidName> {
    if label.is_empty() {
        return Err(InvalidName::EmptyLabel);
    }
    if label.len() > 63 {
        return Err(InvalidName::LabelTooLong);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidName::Hyphen);
    }
    match label.get(2..4) == Some("--") {
        true if !label.starts_with("xn--") => Err(InvalidName::ReservedLabel),
        true if !is_a_label(label) => Err(InvalidName::ALabel),
        true | false => Ok(()),
    }
}

/// Whether the lower-case label is the one A-label of some U-label (RFC 5890 §2.3.2.1).
fn is_a_label(label: &str) -> bool {
    let (unicode, decoded) = idna_to_unicode(label);
    decoded && !unicode.is_ascii() && idna_to_ascii(&unicode).as_deref() == Some(label)
}

fn idna_to_unicode(label: &str) -> (String, bool) {
    let (unicode, result) = idna::domain_to_unicode(label);
    (unicode, result.is_ok())
}

fn idna_to_ascii(label: &str) -> Option<String> {
    idna::domain_to_ascii_strict(label).ok()
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is no address in its one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither IPv4 nor IPv6, or with a zone, a prefix length, brackets or leading zeros.
    #[error("the value is no IP address")]
    Syntax,
    /// RFC 8738 §3: IPv6 addresses are written as RFC 5952 §4 has it, IPv4 addresses as RFC 1123 §2.1 has it.
    #[error("the address is not written in its canonical form (RFC 5952); write {0}")]
    Spelling(IpAddr),
    /// An IPv4 address inside an IPv6 address.
    #[error("the address is IPv4 inside IPv6; write the IPv4 address")]
    Mapped,
}

/// What a certificate is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identifier {
    /// One host.
    Dns(DnsName),
    /// Every name one label below this one, e.g. `*.example.com`.
    Wildcard(DnsName),
    /// One address (RFC 8738).
    Ip(IpAddr),
}

impl Identifier {
    /// Parses a `dns` identifier's value.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] says what is wrong with it.
    pub fn dns(value: &str) -> Result<Self, InvalidName> {
        match value.strip_prefix("*.") {
            None => value.parse().map(Self::Dns),
            Some(base) => match base.parse() {
                Err(InvalidName::SingleLabel | InvalidName::Empty) => Err(InvalidName::Wildcard),
                parsed => parsed.map(Self::Wildcard),
            },
        }
    }

    /// Parses an `ip` identifier's value (RFC 8738 §3).
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] says what is wrong with it.
    pub fn ip(value: &str) -> Result<Self, InvalidAddress> {
        let address: IpAddr = value.parse().map_err(|_| InvalidAddress::Syntax)?;
        if address.to_canonical() != address {
            return Err(InvalidAddress::Mapped);
        }
        match address.to_string() == value {
            true => Ok(Self::Ip(address)),
            false => Err(InvalidAddress::Spelling(address)),
        }
    }

    /// An address as certificates and requests for them have it (RFC 5280 §4.2.1.6): 4 octets for IPv4, 16 for IPv6.
    /// `None` for any other number, and for IPv4 inside IPv6.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let address = match octets.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        };
        (address.to_canonical() == address).then_some(Self::Ip(address))
    }

    /// What control is proved over (RFC 8555 §7.1.4): the identifier without `*.`.
    pub fn without_wildcard(&self) -> Self {
        match self {
            Self::Wildcard(base) => Self::Dns(base.clone()),
            Self::Dns(_) | Self::Ip(_) => self.clone(),
        }
    }

    /// Whether the identifier is a wildcard.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Wildcard(_))
    }

    /// The identifier's registered type, e.g. `dns`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Dns(_) | Self::Wildcard(_) => "dns",
            Self::Ip(_) => "ip",
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "{name}"),
            Self::Wildcard(base) => write!(f, "*.{base}"),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c403_case_does_not_make_another_name() {
        assert_eq!(
            Identifier::dns("WWW.Example.COM"),
            Identifier::dns("www.example.com")
        );
    }

    #[test]
    fn c405_to_c412_names_that_no_certificate_may_have_are_refused() {
        use InvalidName::*;
        let long_label = format!("{}.example.com", "a".repeat(64));
        let long_name = format!("{}com", "a.".repeat(126));
        let cases = [
            ("", Empty),
            ("*", Wildcard),
            ("*.com", Wildcard),
            ("*.*.example.com", Wildcard),
            ("a.*.example.com", Wildcard),
            ("*a.example.com", Wildcard),
            ("*.", Wildcard),
            ("localhost", SingleLabel),
            (".example.com", EmptyLabel),
            ("a..b", EmptyLabel),
            ("example.com.", EmptyLabel),
            (&long_label, LabelTooLong),
            (&long_name, TooLong),
            ("10.0.0.1", Address),
            ("2130706433", Address),
            ("0x7f.1", Address),
            ("0177.0.0.1", Address),
            ("a.0x7f", Address),
            ("[::1]", Character),
            ("::1", Character),
            ("müller.example", Character),
            ("xn--example-.org", Hyphen),
            ("xn--\u{130}.org", Character),
            ("ab--cd.example", ReservedLabel),
            ("xn--a.example", ALabel),
            ("_acme-challenge.example.com", Character),
            ("a\0.example.com", Character),
            ("a b.example.com", Character),
            ("a.example.com:80", Character),
            ("a/b.example.com", Character),
            ("$(id).example.com", Character),
            ("-a.example.com", Hyphen),
            ("a-.example.com", Hyphen),
            ("\u{212a}elvin.example", Character),
            ("ｗｗｗ.example", Character),
        ];
        for (text, expected) in cases {
            assert_eq!(Identifier::dns(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn c409_a_valid_a_label_is_a_name() {
        let name = Identifier::dns("XN--Mller-kva.example").unwrap();
        assert_eq!(name.to_string(), "xn--mller-kva.example");
        assert_eq!(
            Identifier::dns("*.example.com").unwrap().without_wildcard(),
            Identifier::dns("example.com").unwrap()
        );
    }

    #[test]
    fn h6_an_address_has_one_spelling() {
        for good in [
            "10.0.0.1",
            "192.0.2.255",
            "2001:db8::1",
            "::1",
            "2001:db8:0:1:1:1:1:1",
        ] {
            assert_eq!(Identifier::ip(good).unwrap().to_string(), good);
        }
        for (wrong, canonical) in [
            ("2001:DB8::1", "2001:db8::1"),
            ("2001:db8:0::1", "2001:db8::1"),
            ("2001:db8::0001", "2001:db8::1"),
            ("0:0:0:0:0:0:0:1", "::1"),
        ] {
            let canonical = canonical.parse().unwrap();
            assert_eq!(
                Identifier::ip(wrong),
                Err(InvalidAddress::Spelling(canonical)),
                "{wrong}"
            );
        }
        for wrong in [
            "",
            "1",
            "10.0.0.01",
            "0x7f.1",
            "10.0.0.0/8",
            "fe80::1%eth0",
            "[::1]",
            " 10.0.0.1",
            "a.example",
        ] {
            assert_eq!(Identifier::ip(wrong), Err(InvalidAddress::Syntax), "{wrong}");
        }
        for mapped in ["::ffff:10.0.0.1", "::ffff:a00:1"] {
            assert_eq!(Identifier::ip(mapped), Err(InvalidAddress::Mapped), "{mapped}");
        }
    }
}
