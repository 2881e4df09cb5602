//! uacme, with the hook of its package, which leaves answers to a web server (http-01).

use std::path::PathBuf;

use crate::certificate::Leaf;
use crate::certificate::check;
use crate::environment::Environment;
use crate::environment::Host;
use crate::pebble::CertificateStatus;
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
        let key = format!("private/{}/key.pem", self.names[0]);
        check(&self.host, &self.certificate(), &self.file(&key), self.names)
    }

    fn certificate(&self) -> PathBuf {
        self.file(&format!("{}/cert.pem", self.names[0]))
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
