//! Pebble, the CA: it wants EAB, is strict, refuses one good nonce in twenty, and looks for its challenges in the DNS.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use serde_json::Value;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::dns::Dns;
use crate::process::Daemon;
use crate::process::free_port;
use crate::process::program;
use crate::web::Web;

/// The EAB's key identifier.
pub(crate) const EAB_KID: &str = "kid-1";

/// The EAB's MAC key, base64url.
pub(crate) const EAB_HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// The CA.
pub(crate) struct Pebble {
    /// The root of Pebble's own TLS certificate, PEM.
    pub(crate) tls_root: PathBuf,
    /// The root of the certificates that it issues, PEM. Pebble makes it when it starts.
    pub(crate) issuing_root: PathBuf,
    /// The root of another chain for the same certificates, PEM.
    pub(crate) other_root: PathBuf,
    /// Its DNS.
    pub(crate) dns: Dns,
    port: u16,
    management_port: u16,
    web: Web,
    daemon: Daemon,
}

/// What Pebble knows about a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CertificateStatus {
    Valid,
    /// With the reason code of RFC 5280 §5.3.1, if one was given.
    Revoked(Option<u64>),
}

impl Pebble {
    /// Starts it with its DNS, which it asks unless there is another, and waits until it answers. The variables say more
    /// about how it behaves.
    pub(crate) fn start(
        directory: &Path,
        runtime: &Runtime,
        variables: &[(&str, &str)],
        zone: Option<SocketAddr>,
    ) -> Self {
        let tls_root = directory.join("pebble-tls-root.pem");
        make_certificate(directory, &tls_root);
        let dns = Dns::start(runtime);
        let (port, management_port) = (free_port(), free_port());
        let config = directory.join("pebble.json");
        let settings = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": directory.join("pebble.pem"),
            "privateKey": directory.join("pebble.key"),
            "externalAccountBindingRequired": true,
            "externalAccountMACKeys": { EAB_KID: EAB_HMAC_KEY },
            "certificateValidityPeriod": 90 * 86_400,
        }});
        std::fs::write(&config, settings.to_string()).unwrap();
        let mut command = program("pebble");
        command.arg("-strict").arg("-config").arg(&config);
        command.args(["-dnsserver", &zone.unwrap_or(dns.address()).to_string()]);
        command
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_CHAIN_LENGTH", "3")
            .env("PEBBLE_ALTERNATE_ROOTS", "2")
            .envs(variables.iter().copied());
        let mut daemon = Daemon::start("pebble", "pebble", &mut command, directory.join("pebble.log"));

        let web = Web::trusting(&tls_root, "localhost");
        let mut root = |number: u8| {
            let url = format!("https://127.0.0.1:{management_port}/roots/{number}");
            let file = directory.join(format!("issuing-root-{number}.pem"));
            let root = daemon.wait_for("its root", || web.get(&url));
            std::fs::write(&file, root).unwrap();
            file
        };
        let (issuing_root, other_root) = (root(0), root(1));
        let directory = format!("https://127.0.0.1:{port}/dir");
        daemon.wait_for("its directory", || web.get(&directory));
        Self {
            tls_root,
            issuing_root,
            other_root,
            dns,
            port,
            management_port,
            web,
            daemon,
        }
    }

    /// The URL for acme-proxy.
    pub(crate) fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// What it says about the certificate with this serial number.
    pub(crate) fn status(&self, serial: &str) -> CertificateStatus {
        let url = format!(
            "https://127.0.0.1:{}/cert-status-by-serial/{serial}",
            self.management_port
        );
        let answer = self.web.get(&url).expect("Pebble knows the certificate");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        match answer["Status"].as_str() {
            Some("Valid") => CertificateStatus::Valid,
            Some("Revoked") => CertificateStatus::Revoked(answer["Reason"].as_u64()),
            _ => panic!("{answer}"),
        }
    }

    /// How many accounts it has.
    pub(crate) fn accounts(&self) -> usize {
        self.counted("accounts in memory")
    }

    /// How many orders it has had.
    pub(crate) fn orders(&self) -> usize {
        self.counted("orders in the db")
    }

    /// Pebble tells of each new one how many there are now.
    fn counted(&self, what: &str) -> usize {
        let log = self.daemon.log();
        let counts = log.lines().filter_map(|line| {
            let count = line.split_once("There are now ")?.1.strip_suffix(what)?;
            count.trim().parse().ok()
        });
        counts.max().unwrap_or(0)
    }
}

/// The certificate of Pebble's own listeners, which has nothing to do with those that it issues.
fn make_certificate(directory: &Path, root: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    std::fs::write(root, ca.pem()).unwrap();
    std::fs::write(directory.join("pebble.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("pebble.key"), key.serialize_pem()).unwrap();
}
