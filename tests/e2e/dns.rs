//! pebble-challtestsrv, the DNS of these tests: it answers 127.0.0.1 for every name that it has not been told about,
//! and it is where the TXT records for the CA's own challenges are set.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use crate::process::Daemon;
use crate::process::free_port;
use crate::process::program;
use crate::web::Web;

const PROGRAM: &str = "pebble-challtestsrv";

/// The DNS server.
pub(crate) struct Dns {
    /// Where it answers.
    pub(crate) port: u16,
    /// Where it is told what to answer.
    pub(crate) management_port: u16,
    web: Web,
    _daemon: Daemon,
}

impl Dns {
    /// Starts it, and waits until it can be told what to answer. `any_root` is not used for anything.
    pub(crate) fn start(directory: &Path, any_root: &Path) -> Self {
        let (port, management_port) = (free_port(), free_port());
        let mut command = program(PROGRAM);
        command.args(["-dns01", &format!("127.0.0.1:{port}")]);
        command.args(["-management", &format!("127.0.0.1:{management_port}")]);
        command.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut daemon = Daemon::start(PROGRAM, "pebble", &mut command, directory.join("dns.log"));
        let web = Web::new(any_root, None);
        let harmless = json!({ "host": "nobody.example.com." });
        let url = format!("http://127.0.0.1:{management_port}/clear-txt");
        daemon.wait_for("its management", || web.post(&url, &harmless));
        Self {
            port,
            management_port,
            web,
            _daemon: daemon,
        }
    }

    /// From now on the name has this address and no other.
    pub(crate) fn point(&self, name: &str, address: Ipv4Addr) {
        let record = json!({ "host": format!("{name}."), "addresses": [address.to_string()] });
        let url = format!("http://127.0.0.1:{}/add-a", self.management_port);
        self.web.post(&url, &record).expect("the DNS server takes an address");
    }
}
