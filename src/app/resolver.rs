//! The DNS server of `--resolver`, which may also go by a name, as with Go.

use std::net::SocketAddr;

use anyhow::{Result, anyhow};

use crate::config::{DnsServer, InvalidDnsServer};
use crate::upstream::lookup;

/// The address of the server that a flag names.
///
/// # Errors
///
/// It is neither an address nor a name that has one.
pub(crate) fn dns_server(text: &str) -> Result<SocketAddr> {
    if let Ok(DnsServer(address)) = text.parse() {
        return Ok(address);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(lookup::sockets(text)) {
        Ok(found) => found
            .into_iter()
            .find(|address| address.port() != 0)
            .ok_or_else(|| InvalidDnsServer.into()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Err(InvalidDnsServer.into()),
        Err(error) => Err(anyhow!("{InvalidDnsServer}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_goes_by_its_address_or_by_a_name() {
        for (text, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("[::1]:5353", "[::1]:5353"),
            ("127.0.0.1:53", "127.0.0.1:53"),
        ] {
            assert_eq!(dns_server(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        let named = dns_server("localhost:5353").unwrap();
        assert!(named.ip().is_loopback() && named.port() == 5353, "{named}");
        for text in ["", "dns.example.com", "10.0.0.53:0", "10.0.0.53:", "localhost:0"] {
            let error = dns_server(text).unwrap_err().to_string();
            assert!(
                error.starts_with("is no address of a DNS server"),
                "{text}: {error}"
            );
        }
    }
}
