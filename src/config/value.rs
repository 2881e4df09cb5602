//! The kinds of values that `ca.json` has besides JSON's own, each with the error that says how to write it.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;

/// A duration as Go's `time.ParseDuration` reads it, and not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoDuration(pub(crate) Duration);

/// The text is no duration that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidDuration {
    #[error("is no duration; write e.g. \"24h\", \"1h30m\" or \"90s\"")]
    Syntax,
    #[error("is negative; write e.g. \"24h\"")]
    Negative,
    #[error("is longer than 292 years; write e.g. \"24h\"")]
    Overflow,
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let nanos = match unsigned {
            "0" => 0,
            _ => nanoseconds(unsigned)?,
        };
        match negative && nanos > 0 {
            true => Err(InvalidDuration::Negative),
            false => Ok(Self(Duration::from_nanos(nanos))),
        }
    }
}

/// Sums up terms such as `1.5h`, like Go in whole nanoseconds below 2^63.
fn nanoseconds(text: &str) -> Result<u64, InvalidDuration> {
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_at(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at(after, |c| c.is_ascii_digit() || c == '.');
        rest = after;
        total = total
            .checked_add(term(number, unit)?)
            .filter(|sum| *sum <= i64::MAX.unsigned_abs().into())
            .ok_or(InvalidDuration::Overflow)?;
    }
    match text.is_empty() {
        true => Err(InvalidDuration::Syntax),
        false => u64::try_from(total).map_err(|_| InvalidDuration::Overflow),
    }
}

fn split_at(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at_checked(text.find(stop).unwrap_or(text.len()))
        .unwrap_or((text, ""))
}

fn term(number: &str, unit: &str) -> Result<u128, InvalidDuration> {
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(InvalidDuration::Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(InvalidDuration::Syntax);
    }
    let digits = |digits: &str| match digits.is_empty() {
        true => Ok(0),
        false => digits.parse::<u128>().map_err(|_| InvalidDuration::Overflow),
    };
    // More decimals than these are below a nanosecond whatever the unit.
    let fraction = fraction.get(..15).unwrap_or(fraction);
    let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
    let whole = digits(whole)?
        .checked_mul(unit)
        .ok_or(InvalidDuration::Overflow)?;
    whole
        .checked_add(digits(fraction)? * unit / scale)
        .ok_or(InvalidDuration::Overflow)
}

/// `HOST:PORT` to listen on, as Go writes it: without a host it is every address, IPv4 and IPv6; the ports of http and
/// https have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

/// The text is nothing to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidListenAddress {
    #[error("has no port; write e.g. \":443\" or \"192.0.2.1:443\"")]
    NoPort,
    #[error("has no port between 1 and 65535; write e.g. \":443\"")]
    Port,
    #[error(
        "names neither an IP address nor localhost, and names are not looked up; write e.g. \":443\", \"192.0.2.1:443\" \
         or \"[2001:db8::1]:443\""
    )]
    Host,
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            Some(_) | None => return Err(InvalidListenAddress::NoPort),
        };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port {
            "https" => Some(443),
            "http" => Some(80),
            number => number.parse().ok().filter(|port| digits && *port != 0),
        };
        let port: u16 = port.ok_or(InvalidListenAddress::Port)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match (host, bracketed) {
            ("", _) => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            ("localhost", _) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (_, Some(v6)) => v6.parse().ok().map(IpAddr::V6),
            (v4, None) => v4.parse().ok().map(IpAddr::V4),
        };
        let ip = ip.ok_or(InvalidListenAddress::Host)?;
        Ok(Self(SocketAddr::new(ip, port)))
    }
}

/// A DNS server: an address, with port 53 unless it names another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DnsServer(pub(crate) SocketAddr);

/// The text is no DNS server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no address of a DNS server; write e.g. \"10.0.0.53:53\" or \"[2001:db8::53]:53\"")]
pub(crate) struct InvalidDnsServer;

impl FromStr for DnsServer {
    type Err = InvalidDnsServer;

    fn from_str(text: &str) -> Result<Self, InvalidDnsServer> {
        let address = match text.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, 53),
            Err(_) => text.parse().map_err(|_| InvalidDnsServer)?,
        };
        match address.port() {
            0 => Err(InvalidDnsServer),
            _ => Ok(Self(address)),
        }
    }
}

/// Decodes base64url, padded or not. The standard alphabet is read too: no character means two things.
pub(crate) fn base64url(text: &str) -> Option<Vec<u8>> {
    let url_safe: String = text
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let decoded = GeneralPurpose::new(&URL_SAFE, lenient).decode(url_safe).ok()?;
    (!decoded.is_empty()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0s", 0),
            ("1m0s", 60_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("300ms", 300_000_000),
            ("+5s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1µs", 1_000),
            ("1μs", 1_000),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(
                text.parse(),
                Ok(GoDuration(Duration::from_nanos(nanos))),
                "{text}"
            );
        }
        use InvalidDuration::*;
        for (text, error) in [
            ("", Syntax),
            ("24", Syntax),
            ("1d", Syntax),
            ("h", Syntax),
            (".s", Syntax),
            ("1..5s", Syntax),
            ("1 h", Syntax),
            ("--1h", Syntax),
            ("-1h", Negative),
            ("9223372036854775808ns", Overflow),
            ("9999999999999h", Overflow),
            ("99999999999999999999999999999999999999999999h", Overflow),
        ] {
            assert_eq!(text.parse::<GoDuration>(), Err(error), "{text}");
        }
    }

    #[test]
    fn listening_addresses_are_read_as_go_writes_them() {
        for (text, address) in [
            (":443", "[::]:443"),
            ("0.0.0.0:443", "0.0.0.0:443"),
            ("127.0.0.1:8443", "127.0.0.1:8443"),
            ("[::]:443", "[::]:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("localhost:8443", "127.0.0.1:8443"),
            (":https", "[::]:443"),
            ("127.0.0.1:http", "127.0.0.1:80"),
        ] {
            assert_eq!(
                text.parse(),
                Ok(ListenAddress(address.parse().unwrap())),
                "{text}"
            );
        }
        use InvalidListenAddress::*;
        for (text, error) in [
            ("", NoPort),
            ("0.0.0.0", NoPort),
            ("[::1]", NoPort),
            (":", Port),
            (":0", Port),
            (":70000", Port),
            (":+443", Port),
            (":domain", Port),
            ("ca.example.com:443", Host),
            ("::1:443", Host),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_dns_server_has_port_53_unless_it_says_otherwise() {
        for (text, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ] {
            assert_eq!(text.parse(), Ok(DnsServer(address.parse().unwrap())), "{text}");
        }
        for text in ["", "dns.example.com", "10.0.0.53:0", "10.0.0.53:"] {
            assert_eq!(text.parse::<DnsServer>(), Err(InvalidDnsServer), "{text}");
        }
    }

    #[test]
    fn base64url_is_read_in_every_form_that_means_one_thing() {
        for text in ["-_-_aA", "-_-_aA==", "+/+/aA==", "+/+/aA"] {
            assert_eq!(base64url(text).unwrap(), [0xfb, 0xff, 0xbf, 0x68], "{text}");
        }
        for text in ["", "a", "not base64!", "aG1h\nYw"] {
            assert_eq!(base64url(text), None, "{text}");
        }
    }
}
