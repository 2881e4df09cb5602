//! The header by which a load balancer says whose connection it passes on: version 2 of the PROXY protocol, section 2.2 of
//! `proxy-protocol.txt`, which HAProxy publishes. It stands before the first byte of TLS.
//!
//! What follows the two addresses (TLVs) is passed over, a checksum among it: TCP has one, and TLS comes after it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How each header begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes up to the addresses: signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;

/// The longest header, in bytes. The protocol has it fit into the smallest segment of TCP that every host must take.
const MAX: usize = 536;

/// How a header of version 1 begins, which is text.
const VERSION_1: &[u8] = b"PROXY ";

/// On whose behalf a load balancer has opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A client's, at this address. IPv4 inside IPv6 is IPv4.
    Client(IpAddr),
    /// Its own (LOCAL), as for a health check.
    Balancer,
}

/// Why a connection that must have a header is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A health check that only opens a connection looks like this, too.
    #[error("the connection has ended, or its time has, before a whole PROXY header came")]
    Incomplete,
    /// As with HAProxy's `send-proxy`.
    #[error("the PROXY header is of version 1; have version 2 sent (HAProxy: send-proxy-v2)")]
    Version1,
    /// Probably TLS at once.
    #[error(
        "there is no PROXY header of version 2; have the load balancer send one, or take its address out of authority.config.proxy_protocol.from"
    )]
    Malformed,
    /// The protocol has no such header.
    #[error("the PROXY header is longer than 536 bytes; have the load balancer put less into it")]
    TooLong,
    /// Limits and rules about clients would be about nobody.
    #[error("the PROXY header has the address of no TCP client; have the load balancer pass on TCP only")]
    NoAddress,
}

impl Refused {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Incomplete,
        Self::Version1,
        Self::Malformed,
        Self::TooLong,
        Self::NoAddress,
    ];

    /// The label in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Version1 => "version_1",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::NoAddress => "no_address",
        }
    }
}

/// Reads the header, however many pieces it comes in, and not one byte of what follows it.
///
/// # Errors
///
/// Why the connection is not to be served.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, Refused> {
    let fixed = at_most(stream, FIXED).await;
    if fixed.starts_with(VERSION_1) {
        return Err(Refused::Version1);
    }
    if !fixed
        .iter()
        .zip(SIGNATURE)
        .all(|(sent, expected)| *sent == expected)
    {
        return Err(Refused::Malformed);
    }
    let fixed: [u8; FIXED] = fixed.try_into().map_err(|_| Refused::Incomplete)?;
    let [.., version_and_command, family_and_transport, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > MAX {
        return Err(Refused::TooLong);
    }
    let rest = at_most(stream, length).await;
    if rest.len() < length {
        return Err(Refused::Incomplete);
    }
    match (version_and_command, family_and_transport) {
        // "the receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored"
        (0x20, _) => Ok(Source::Balancer),
        (0x21, 0x11) => source::<4, Ipv4Addr>(&rest),
        (0x21, 0x21) => source::<16, Ipv6Addr>(&rest),
        (0x21, other) if other >> 4 <= 3 && other & 0x0f <= 2 => Err(Refused::NoAddress),
        _ => Err(Refused::Malformed),
    }
}

/// So many bytes, or fewer if the stream ends before.
async fn at_most(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    // What came before a fault tells more than the fault.
    let _ = stream.take(count as u64).read_to_end(&mut bytes).await;
    bytes
}

/// The first of two addresses and their ports.
fn source<const N: usize, A>(block: &[u8]) -> Result<Source, Refused>
where
    A: From<[u8; N]> + Into<IpAddr>,
{
    match block.first_chunk::<N>() {
        Some(address) if block.len() >= 2 * N + 4 => {
            let address: IpAddr = A::from(*address).into();
            Ok(Source::Client(address.to_canonical()))
        }
        _ => Err(Refused::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with this command, family and block, and one byte of TLS behind it.
    fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE, [command, family].as_slice(), &length, block, b"\x16"].concat()
    }

    /// Source, destination, and the ports 40000 and 443.
    fn block(source: &str, destination: &str) -> Vec<u8> {
        let octets = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        [octets(source), octets(destination), vec![0x9c, 0x40, 0x01, 0xbb]].concat()
    }

    fn client(text: &str) -> Result<Source, Refused> {
        Ok(Source::Client(text.parse().unwrap()))
    }

    /// What is read, and that one byte of the connection is left.
    async fn taken(bytes: &[u8]) -> Result<Source, Refused> {
        let mut rest = bytes;
        let source = read(&mut rest).await;
        if source.is_ok() {
            assert_eq!(rest, b"\x16", "what follows the header belongs to TLS");
        }
        source
    }

    #[tokio::test]
    async fn a_client_is_who_the_header_says_and_what_follows_the_addresses_is_passed_over() {
        let v4 = block("192.0.2.7", "198.51.100.1");
        let v6 = block("2001:db8::7", "2001:db8::1");
        let mapped = block("::ffff:192.0.2.7", "::ffff:198.51.100.1");
        assert_eq!(taken(&header(0x21, 0x11, &v4)).await, client("192.0.2.7"));
        assert_eq!(taken(&header(0x21, 0x21, &v6)).await, client("2001:db8::7"));
        assert_eq!(taken(&header(0x21, 0x21, &mapped)).await, client("192.0.2.7"));
        // A checksum that is wrong, and a TLV that claims to be longer than the header.
        for tlvs in [b"\x03\0\x04\0\0\0\0".as_slice(), b"\x02\xff\xff", b"\x04"] {
            let long = [v4.as_slice(), tlvs].concat();
            assert_eq!(taken(&header(0x21, 0x11, &long)).await, client("192.0.2.7"));
        }
    }

    #[tokio::test]
    async fn a_connection_of_the_balancers_own_is_its_own_whatever_else_the_header_says() {
        let v4 = block("192.0.2.7", "198.51.100.1");
        for (family, block) in [(0x00, [].as_slice()), (0x11, &v4), (0x11, b"x"), (0xff, b"junk")] {
            assert_eq!(taken(&header(0x20, family, block)).await, Ok(Source::Balancer));
        }
    }

    #[tokio::test]
    async fn what_names_no_client_of_tcp_is_refused() {
        let v4 = block("192.0.2.7", "198.51.100.1");
        for family in [0x00, 0x01, 0x10, 0x12, 0x20, 0x22, 0x31, 0x32] {
            let read = taken(&header(0x21, family, &v4)).await;
            assert_eq!(read, Err(Refused::NoAddress), "{family:#x}");
        }
        for (command, family) in [
            (0x11, 0x11),
            (0x31, 0x11),
            (0x22, 0x11),
            (0x21, 0x41),
            (0x21, 0x13),
        ] {
            let read = taken(&header(command, family, &v4)).await;
            assert_eq!(read, Err(Refused::Malformed), "{command:#x} {family:#x}");
        }
        assert_eq!(
            taken(&header(0x21, 0x11, &v4[..11])).await,
            Err(Refused::Malformed)
        );
        assert_eq!(taken(&header(0x21, 0x21, &v4)).await, Err(Refused::Malformed));
    }

    #[tokio::test]
    async fn a_header_has_536_bytes_at_most() {
        let mut block = block("192.0.2.7", "198.51.100.1");
        block.resize(MAX - FIXED, 0);
        assert_eq!(taken(&header(0x21, 0x11, &block)).await, client("192.0.2.7"));
        block.push(0);
        for command in [0x20, 0x21] {
            assert_eq!(taken(&header(command, 0x11, &block)).await, Err(Refused::TooLong));
        }
    }

    #[tokio::test]
    async fn what_is_no_header_of_version_2_is_told_apart() {
        let whole = header(0x21, 0x11, &block("192.0.2.7", "198.51.100.1"));
        for end in 0..whole.len() - 1 {
            assert_eq!(
                taken(&whole[..end]).await,
                Err(Refused::Incomplete),
                "{end} bytes"
            );
        }
        for text in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n\x16",
            "PROXY UNKNOWN\r\n",
        ] {
            assert_eq!(taken(text.as_bytes()).await, Err(Refused::Version1), "{text}");
        }
        for bytes in [
            b"\x16\x03\x01\x02\0".as_slice(),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nQ",
        ] {
            assert_eq!(taken(bytes).await, Err(Refused::Malformed), "{bytes:?}");
        }
    }
}
