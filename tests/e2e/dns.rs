//! The DNS of these tests: hosts get their addresses there, and acme-proxy and its clients their TXT records.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::challenge_dns;
use crate::challenge_dns::ChallengeDns;
use crate::environment::Host;
use crate::web::Web;

/// The program that publishes TXT records in it, by the contract of lego's exec provider. Its variable `DNS_PORT` is
/// [`Dns::management_port`]; what a host's [`hook`] calls is a copy of it.
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

/// A program on the host for a client to call, with this text in the language of bash. `publish NAME VALUE` and
/// `withdraw NAME VALUE` in it are about the TXT record below the name that a certificate is for.
pub(crate) fn hook(host: &Host<'_>, text: &str) -> PathBuf {
    let (hook, dns01) = (host.directory.join("hook.sh"), host.directory.join("dns01.sh"));
    // Whoever the client runs as, it finds its way to the host's directory, and maybe not to ours.
    std::fs::copy(DNS01, &dns01).unwrap();
    let port = host.environment.pebble.dns.management_port();
    let program = dns01.display();
    let text = format!(
        "#!/bin/bash\nset -eu\nexport DNS_PORT={port}\n\
        publish() {{ {program} present \"_acme-challenge.$1.\" \"$2\"; }}\n\
        withdraw() {{ {program} cleanup \"_acme-challenge.$1.\" \"$2\"; }}\n{text}\n"
    );
    std::fs::write(&hook, text).unwrap();
    std::fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    hook
}
