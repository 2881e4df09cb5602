//! The DNS of these tests: hosts get their addresses there, and acme-proxy and its clients their TXT records.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::challenge_dns;
use crate::challenge_dns::ChallengeDns;
use crate::web::Web;

/// The program that publishes TXT records in it, by the contract of lego's exec provider. Its variable `DNS_PORT` is
/// [`Dns::management_port`].
pub(crate) const DNS01: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/loopback/dns01.sh");

/// The DNS server.
pub(crate) struct Dns {
    server: ChallengeDns,
    web: Web,
}

impl Dns {
    /// Starts it.
    pub(crate) fn start(runtime: &Runtime) -> Self {
        Self {
            server: runtime.block_on(challenge_dns::start()).unwrap(),
            web: Web::plain(),
        }
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Where it is told what to answer.
    pub(crate) fn management_port(&self) -> u16 {
        self.server.management.port()
    }

    /// From now on the name has this address.
    pub(crate) fn point(&self, name: &str, address: Ipv4Addr) {
        let record = json!({ "host": format!("{name}."), "value": address.to_string() });
        let url = format!("http://{}/set-a", self.server.management);
        self.web
            .post(&url, &record)
            .expect("the DNS server takes an address");
    }
}
