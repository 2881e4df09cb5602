//! acme-proxy itself, the program that cargo has built, with a `ca.json` for Pebble.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::dns::DNS01;
use crate::knot::SECRET;
use crate::pebble::EAB_HMAC_KEY;
use crate::pebble::EAB_KID;
use crate::pebble::Pebble;
use crate::process::Daemon;
use crate::process::free_port;
use crate::process::program;
use crate::process::read;
use crate::web::Web;

/// The name that it goes by. It is in no DNS but that of the tests: clients come through an HTTPS proxy, which works
/// for every user on every machine, where an entry in `/etc/hosts` or a mount namespace would not.
pub(crate) const NAME: &str = "acmeproxy.example.com";

/// The key of acme-proxy's own, which binds clients' accounts under the second provisioner.
pub(crate) const CLIENTS_KID: &str = "team-a";
pub(crate) const CLIENTS_HMAC_KEY: &str = "Y2xpZW50cy1rZXktb2YtdGVhbS1hLW9mLTMyLWJ5dGU";

/// How to make acme-proxy ready for what the CA asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// It has a program for dns-01.
    Dns01,
    /// It updates the zone at this server.
    Rfc2136(SocketAddr),
    /// It has none: all names have to be pre-validated.
    Prevalidated,
}

/// Where everything is that stays over a restart.
pub(crate) struct Place {
    pub(crate) port: u16,
    metrics_port: u16,
    /// Where clients answer http-01, each on an address of its own.
    pub(crate) http_port: u16,
    /// Where clients answer tls-alpn-01, likewise.
    pub(crate) tls_port: u16,
}

/// A running acme-proxy.
pub(crate) struct AcmeProxy {
    daemon: Daemon,
    web: Web,
    metrics_url: String,
}

impl Place {
    /// On ports that are free.
    pub(crate) fn free() -> Self {
        Self {
            port: free_port(),
            metrics_port: free_port(),
            http_port: free_port(),
            tls_port: free_port(),
        }
    }

    /// The URL of a provisioner's directory, for clients.
    pub(crate) fn directory_url(&self, provisioner: &str) -> String {
        format!("https://{NAME}:{}/acme/{provisioner}/directory", self.port)
    }
}

impl AcmeProxy {
    /// Starts it, and waits until it has a certificate from the CA and says under it that all is well.
    pub(crate) fn start(directory: &Path, place: &Place, pebble: &Pebble, upstream: Upstream) -> Self {
        let config = directory.join("ca.json");
        std::fs::write(&config, ca_json(directory, place, pebble, upstream).to_string()).unwrap();
        let mut command = program(env!("CARGO_BIN_EXE_acme-proxy"));
        command.arg(config).env("ACME_PROXY_LOG", "info");
        let log = directory.join("acme-proxy.log");
        let mut daemon = Daemon::start("acme-proxy", "acme-proxy", &mut command, log);
        let web = Web::trusting(&pebble.issuing_root, NAME);
        let health = format!("https://{NAME}:{}/health", place.port);
        daemon.wait_for("its health", || {
            let answer: Value = serde_json::from_str(&web.get(&health)?).unwrap();
            (answer["status"] == "ok").then_some(())
        });
        Self {
            daemon,
            web,
            metrics_url: format!("http://127.0.0.1:{}/metrics", place.metrics_port),
        }
    }

    /// Asks it to end, which it must do well.
    pub(crate) fn end(self) {
        let status = self.daemon.end();
        assert!(status.success(), "acme-proxy has ended: {status}");
    }

    /// The value of a line of its metrics page; 0 if there is no such line.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.web.get(&self.metrics_url).expect("the metrics page");
        let values = page
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// How often it has logged this path of a request.
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.daemon.log().matches(path).count()
    }

    /// The end of what it has said so far.
    pub(crate) fn log(&self) -> String {
        let log = self.daemon.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// What the program for dns-01 has been told so far: action, name, value.
pub(crate) fn dns01_calls(directory: &Path) -> Vec<Vec<String>> {
    let calls = read(&calls(directory));
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    calls.lines().map(words).collect()
}

fn calls(directory: &Path) -> std::path::PathBuf {
    directory.join("dns01.calls")
}

fn ca_json(directory: &Path, place: &Place, pebble: &Pebble, upstream: Upstream) -> Value {
    let mut ca_json = json!({
        "address": format!("127.0.0.1:{}", place.port),
        "dnsNames": [NAME],
        "logger": { "format": "text" },
        "db": { "type": "sled", "dataSource": directory.join("db") },
        "authority": {
            "type": "externalcas",
            "config": {
                "ca_url": pebble.directory_url(),
                "ca_root": pebble.tls_root,
                "account_email": "certadmin@example.com",
                "eab_kid": EAB_KID,
                "eab_hmac_key": EAB_HMAC_KEY,
                "metrics": { "enabled": true, "port": place.metrics_port },
                "validation": {
                    "resolvers": [pebble.dns.address().to_string()],
                    "allow": ["127.0.0.0/8"],
                    "http_port": place.http_port,
                    "tls_port": place.tls_port,
                },
            },
            "provisioners": [{ "type": "ACME", "name": "acme" }, {
                "type": "ACME",
                "name": "bound",
                "requireEAB": true,
                "eabKeys": [{ "kid": CLIENTS_KID, "hmacKey": CLIENTS_HMAC_KEY }],
            }],
        },
    });
    let dns01_txt = match upstream {
        Upstream::Dns01 => json!({
            "provider": "exec",
            "dns_servers": [pebble.dns.address().to_string()],
            "env_vars": {
                "EXEC_PATH": DNS01,
                "DNS_PORT": pebble.dns.management_port().to_string(),
                "CALLS": calls(directory),
            },
        }),
        Upstream::Rfc2136(server) => json!({
            "provider": "rfc2136",
            "dns_servers": [server.to_string()],
            "env_vars": {
                "RFC2136_NAMESERVER": server.to_string(),
                "RFC2136_TSIG_KEY": "hmac-sha256",
                "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
                "RFC2136_TSIG_SECRET": SECRET,
            },
        }),
        Upstream::Prevalidated => return ca_json,
    };
    ca_json["authority"]["config"]["dns01_txt"] = dns01_txt;
    ca_json
}
