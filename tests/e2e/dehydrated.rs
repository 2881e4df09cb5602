//! dehydrated, which leaves its answers to a web server (http-01), to a hook (dns-01) or to a TLS server (tls-alpn-01).

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::alpn::Alpn;
use crate::certificate::Leaf;
use crate::certificate::check;
use crate::dns::hook;
use crate::environment::Environment;
use crate::environment::Host;
use crate::pebble::CertificateStatus;
use crate::webroot::Webroot;

/// dehydrated on a host.
struct Dehydrated<'a> {
    host: Host<'a>,
    names: &'a [&'a str],
}

impl<'a> Dehydrated<'a> {
    fn on(host: Host<'a>, names: &'a [&'a str], settings: &[(&str, &str)]) -> Self {
        let mut config = String::new();
        let directory = host.directory.display().to_string();
        let trust = format!("--cacert {}", host.root().display());
        let general = [
            ("CA", host.directory_url()),
            ("BASEDIR", directory),
            ("CURL_OPTS", trust),
            ("KEY_ALGO", "prime256v1".to_owned()),
        ];
        let general = general.iter().map(|(key, value)| (*key, value.as_str()));
        for (key, value) in general.chain(settings.iter().copied()) {
            writeln!(config, "{key}=\"{value}\"").unwrap();
        }
        std::fs::write(host.directory.join("config"), config).unwrap();
        let dehydrated = Self { host, names };
        dehydrated.run(&["--register", "--accept-terms"]);
        dehydrated
    }

    fn run(&self, arguments: &[&str]) {
        let mut dehydrated = self.host.program("dehydrated");
        let config = self.host.directory.join("config");
        dehydrated.args(arguments).arg("--config").arg(config);
        self.host.run(&dehydrated, "dehydrated");
    }

    fn obtain(&self, arguments: &[&str]) -> Leaf {
        let mut all = vec!["--cron", "--alias", "certificate"];
        all.extend(self.names.iter().flat_map(|name| ["--domain", name]));
        all.extend(arguments);
        self.run(&all);
        check(
            &self.host,
            &self.file("fullchain.pem"),
            &self.file("privkey.pem"),
            self.names,
        )
    }

    fn revoke(&self) {
        self.run(&["--revoke", self.file("cert.pem").to_str().unwrap()]);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.directory.join("certs/certificate").join(name)
    }

    fn status(&self, leaf: &Leaf) -> CertificateStatus {
        self.host.environment.pebble.status(&leaf.serial)
    }
}

#[test]
fn dehydrated_gets_a_certificate_by_http_01_renews_it_by_force_and_revokes_it() {
    let environment = Environment::shared();
    let names = ["dehydrated.example.com", "www.dehydrated.example.com"];
    let host = environment.host(&names);
    let webroot = Webroot::on(&host);
    let challenges = webroot.challenges.display().to_string();
    let settings = [("CHALLENGETYPE", "http-01"), ("WELLKNOWN", &challenges)];
    let dehydrated = Dehydrated::on(host, &names, &settings);
    let first = dehydrated.obtain(&[]);
    assert!(first.is_p256(), "{first:?}");
    let second = dehydrated.obtain(&["--force"]);
    assert_ne!(first.serial, second.serial);
    dehydrated.revoke();
    assert_eq!(dehydrated.status(&second), CertificateStatus::Revoked(None));
    assert_eq!(dehydrated.status(&first), CertificateStatus::Valid);
}

#[test]
fn dehydrated_gets_a_certificate_for_a_wildcard_and_its_base_by_dns_01() {
    let environment = Environment::shared();
    let names = ["*.wild.dehydrated.example.com", "wild.dehydrated.example.com"];
    let host = environment.host(&names);
    let text = "case $1 in deploy_challenge) publish $2 $4 ;; clean_challenge) withdraw $2 $4 ;; esac";
    let hook = hook(&host, text).display().to_string();
    let settings = [("CHALLENGETYPE", "dns-01"), ("HOOK", &hook)];
    Dehydrated::on(host, &names, &settings).obtain(&[]);
}

#[test]
fn dehydrated_gets_a_certificate_by_tls_alpn_01() {
    let environment = Environment::shared();
    let names = ["alpn.dehydrated.example.com"];
    let host = environment.host(&names);
    let alpn = Alpn::on(&host);
    let certificates = alpn.certificates.display().to_string();
    let settings = [("CHALLENGETYPE", "tls-alpn-01"), ("ALPNCERTDIR", &certificates)];
    Dehydrated::on(host, &names, &settings).obtain(&[]);
}
