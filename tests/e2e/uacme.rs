//! uacme, with a web server (http-01) or a hook (dns-01), or with ualpn of its own package (tls-alpn-01).

use std::path::PathBuf;

use crate::certificate::Leaf;
use crate::certificate::check;
use crate::dns::hook;
use crate::environment::Environment;
use crate::environment::Host;
use crate::pebble::CertificateStatus;
use crate::process::Daemon;
use crate::process::program;
use crate::process::run;
use crate::webroot::Webroot;

/// What makes it trust acme-proxy's root.
const CURL_ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/curl_root.c");

/// uacme on a host.
struct Uacme<'a> {
    host: Host<'a>,
    names: &'a [&'a str],
    /// Variables for its hook.
    variables: Vec<(&'a str, String)>,
}

impl<'a> Uacme<'a> {
    fn on(host: Host<'a>, names: &'a [&'a str], variables: Vec<(&'a str, String)>) -> Self {
        let mut cc = program("cc");
        cc.args(["-shared", "-fPIC", "-o"])
            .arg(host.directory.join("curl_root.so"));
        run(cc.arg(CURL_ROOT), "gcc").unwrap();
        let uacme = Self {
            host,
            names,
            variables,
        };
        uacme.run(&["new", "admin@example.com"]);
        uacme
    }

    fn run(&self, arguments: &[&str]) {
        let mut uacme = self.host.program("uacme");
        uacme.env("LD_PRELOAD", self.host.directory.join("curl_root.so"));
        uacme.env("CURL_ROOT", self.host.root());
        uacme.envs(self.variables.iter().map(|(name, value)| (name, value)));
        uacme.args(["--verbose", "--yes", "--acme-url", &self.host.directory_url()]);
        uacme.arg("--confdir").arg(self.host.directory.join("uacme"));
        self.host.run(uacme.args(arguments), "uacme");
    }

    fn obtain(&self, hook: &str, arguments: &[&str]) -> Leaf {
        let all = [
            &["--hook", hook, "--type", "EC"],
            arguments,
            &["issue"],
            self.names,
        ];
        self.run(&all.concat());
        let key = format!("private/{}/key.pem", self.name());
        check(&self.host, &self.certificate(), &self.file(&key), self.names)
    }

    fn certificate(&self) -> PathBuf {
        self.file(&format!("{}/cert.pem", self.name()))
    }

    /// The one that files are called after.
    fn name(&self) -> &str {
        self.names[0].trim_start_matches("*.")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.directory.join("uacme").join(name)
    }

    fn status(&self, leaf: &Leaf) -> CertificateStatus {
        self.host.environment.pebble.status(&leaf.serial)
    }
}

#[test]
fn uacme_gets_a_certificate_by_http_01_renews_it_by_force_and_revokes_it_with_a_reason() {
    let environment = Environment::shared();
    let names = ["uacme.example.com", "www.uacme.example.com"];
    let host = environment.host(&names);
    let webroot = Webroot::on(&host);
    let challenges = webroot.challenges.display().to_string();
    let uacme = Uacme::on(host, &names, vec![("UACME_CHALLENGE_PATH", challenges)]);
    let hook = "/usr/share/uacme/uacme.sh";
    let first = uacme.obtain(hook, &[]);
    assert!(first.is_p256(), "{first:?}");
    let second = uacme.obtain(hook, &["--force"]);
    assert_ne!(first.serial, second.serial);
    // It keeps what it has revoked under another name.
    uacme.run(&["--reason", "5", "revoke", uacme.certificate().to_str().unwrap()]);
    assert_eq!(uacme.status(&second), CertificateStatus::Revoked(Some(5)));
    assert_eq!(uacme.status(&first), CertificateStatus::Valid);
}

#[test]
fn uacme_gets_a_certificate_for_a_wildcard_and_its_base_by_dns_01() {
    let environment = Environment::shared();
    let names = ["wild.uacme.example.com", "*.wild.uacme.example.com"];
    let host = environment.host(&names);
    // A hook that fails has uacme try the next kind of challenge.
    let text = "case $2,$1 in
        dns-01,begin) publish $3 $5 ;;
        dns-01,*) withdraw $3 $5 ;;
        *) exit 1 ;;
    esac";
    let hook = hook(&host, text).display().to_string();
    Uacme::on(host, &names, Vec::new()).obtain(&hook, &[]);
}

#[test]
fn uacme_gets_a_certificate_by_tls_alpn_01_with_ualpn() {
    let environment = Environment::shared();
    let names = ["alpn.uacme.example.com"];
    let host = environment.host(&names);
    let socket = host.directory.join("ualpn.sock");
    let mut ualpn = program("ualpn");
    ualpn.arg("--sock").arg(&socket);
    ualpn.args(["--bind", &format!("{}@{}", host.address, host.tls_port())]);
    // Where connections go that are no challenges: there are none.
    ualpn.args(["--connect", &format!("{}@{}", host.address, host.http_port())]);
    let log = host.directory.join("ualpn.log");
    let mut ualpn = Daemon::start("ualpn", "uacme", &mut ualpn, log);
    ualpn.wait_for("its socket", || socket.exists().then_some(()));
    let text = format!(
        "tell() {{ echo \"$1\" | ualpn --sock {} | grep -q OK; }}
        case $2,$1 in
            tls-alpn-01,begin) tell \"auth $3 $5\" ;;
            tls-alpn-01,*) tell \"unauth $3\" ;;
            *) exit 1 ;;
        esac",
        socket.display()
    );
    let hook = hook(&host, &text).display().to_string();
    Uacme::on(host, &names, Vec::new()).obtain(&hook, &[]);
}
