//! lego, which serves http-01 and tls-alpn-01 itself, and has a program publish what dns-01 wants.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::acme_proxy::CLIENTS_HMAC_KEY;
use crate::acme_proxy::CLIENTS_KID;
use crate::acme_proxy::NAME;
use crate::acme_proxy::Upstream;
use crate::certificate::Leaf;
use crate::certificate::check;
use crate::dns::DNS01;
use crate::environment::Environment;
use crate::environment::Host;
use crate::knot::Knot;
use crate::pebble::CertificateStatus;
use crate::process;
use crate::process::free_port;

/// lego on a host.
pub(crate) struct Lego<'a> {
    host: Host<'a>,
    names: &'a [&'a str],
    key_type: &'a str,
    challenge: Challenge,
    /// Whether it registers where a binding is needed, and has the key.
    bound: Option<bool>,
}

/// How lego proves its names.
#[derive(Clone, Copy)]
enum Challenge {
    Http01,
    Dns01,
    TlsAlpn01,
}

impl<'a> Lego<'a> {
    pub(crate) fn on(environment: &'a Environment, names: &'a [&'a str], key_type: &'a str) -> Self {
        Self {
            host: environment.host(names),
            names,
            key_type,
            challenge: Challenge::Http01,
            bound: None,
        }
    }

    fn bound(self, with_key: bool) -> Self {
        Self {
            bound: Some(with_key),
            ..self
        }
    }

    fn by(self, challenge: Challenge) -> Self {
        Self { challenge, ..self }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut lego = self.host.program("lego");
        lego.env("LEGO_CA_CERTIFICATES", self.host.root());
        let url = match self.bound {
            None => self.host.directory_url(),
            Some(_) => self.host.bound_directory_url(),
        };
        if self.bound == Some(true) {
            lego.args(["--eab", "--kid", CLIENTS_KID, "--hmac", CLIENTS_HMAC_KEY]);
        }
        lego.args(["--server", &url, "--accept-tos", "--email", "admin@example.com"]);
        lego.arg("--path")
            .arg(&self.host.directory)
            .args(["--key-type", self.key_type]);
        let dns = &self.host.environment.pebble.dns;
        let at = |port| format!("{}:{port}", self.host.address);
        match self.challenge {
            Challenge::Http01 => lego.args(["--http", "--http.port", &at(self.host.http_port())]),
            Challenge::TlsAlpn01 => lego.args(["--tls", "--tls.port", &at(self.host.tls_port())]),
            Challenge::Dns01 => lego
                .env("EXEC_PATH", DNS01)
                .env("DNS_PORT", dns.management_port().to_string())
                .args(["--dns", "exec", "--dns.disable-cp"])
                .args(["--dns.resolvers", &dns.address().to_string()]),
        };
        lego.args(self.names.iter().flat_map(|name| ["--domains", name]))
            .args(arguments);
        lego
    }

    /// Asks for a certificate that it will not get; what it says about that.
    pub(crate) fn fail_to_obtain(&self) -> String {
        process::run(&self.command(&["run"]), "lego").expect_err("lego gets no certificate")
    }

    /// Gets a certificate, checked.
    pub(crate) fn obtain(&self) -> Leaf {
        self.run(&["run"]);
        self.leaf()
    }

    /// Renews it, although it is young.
    fn renew(&self) -> Leaf {
        self.run(&["renew", "--days", "9999", "--no-random-sleep"]);
        self.leaf()
    }

    fn revoke(&self, arguments: &[&str]) {
        self.run(&[&["revoke", "--keep"], arguments].concat());
    }

    fn run(&self, arguments: &[&str]) {
        self.host.run(&self.command(arguments), "lego");
    }

    fn leaf(&self) -> Leaf {
        check(&self.host, &self.file("crt"), &self.file("key"), self.names)
    }

    fn file(&self, extension: &str) -> PathBuf {
        let certificates = self.host.directory.join("certificates");
        certificates.join(format!("{}.{extension}", self.names[0].replace('*', "_")))
    }

    fn status(&self, leaf: &Leaf) -> CertificateStatus {
        self.host.environment.pebble.status(&leaf.serial)
    }
}

#[test]
fn lego_gets_an_ecdsa_certificate_renews_it_and_revokes_it() {
    let environment = Environment::shared();
    let lego = Lego::on(&environment, &["lego.example.com"], "ec256");
    let first = lego.obtain();
    assert!(first.is_p256(), "{first:?}");

    let second = lego.renew();
    assert!(second.is_p256(), "{second:?}");
    assert_ne!(first.serial, second.serial);

    lego.revoke(&["--reason", "5"]);
    assert_eq!(lego.status(&second), CertificateStatus::Revoked(Some(5)));
    assert_eq!(lego.status(&first), CertificateStatus::Valid);
}

#[test]
fn lego_gets_an_rsa_certificate_for_three_names_and_revokes_it_without_a_reason() {
    let environment = Environment::shared();
    let names = ["rsa.example.com", "www.rsa.example.com", "mail.rsa.example.com"];
    let lego = Lego::on(&environment, &names, "rsa2048");
    let leaf = lego.obtain();
    assert!(leaf.is_rsa_2048(), "{leaf:?}");
    assert_eq!(lego.status(&leaf), CertificateStatus::Valid);
    lego.revoke(&[]);
    assert_eq!(lego.status(&leaf), CertificateStatus::Revoked(Some(0)));
}

#[test]
fn lego_gets_a_certificate_for_a_wildcard_and_its_base_by_dns_01_and_renews_it() {
    let environment = Environment::shared();
    let names = ["*.wild.lego.example.com", "wild.lego.example.com"];
    let lego = Lego::on(&environment, &names, "ec256").by(Challenge::Dns01);
    assert_ne!(lego.obtain().serial, lego.renew().serial);
}

#[test]
fn f13_a_wildcard_and_its_base_name_are_proved_to_the_ca_by_signed_updates_of_a_zone_at_knot() {
    let directory = tempfile::tempdir().unwrap();
    // Its servers have no address: acme-proxy can ask the configured one only.
    let zone = "@ NS ns.nowhere.example.net.\n_acme-challenge.wild TXT \"theirs\"\n";
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let knot = Knot::start(directory.path(), address, &[("example.com", zone)]).unwrap();
    let environment = Environment::start(Upstream::Rfc2136(address), 0);
    let names = ["*.wild.example.com", "wild.example.com"];
    Lego::on(&environment, &names, "ec256")
        .by(Challenge::Dns01)
        .obtain();
    let log = std::fs::read_to_string(directory.path().join("knot.log")).unwrap();
    assert_eq!(
        knot.texts("_acme-challenge.wild.example.com").unwrap(),
        ["theirs"],
        "{log}"
    );
    let own = knot.texts(&format!("_acme-challenge.{NAME}")).unwrap();
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn lego_gets_a_certificate_by_tls_alpn_01() {
    let environment = Environment::shared();
    let names = ["alpn.lego.example.com", "www.alpn.lego.example.com"];
    let lego = Lego::on(&environment, &names, "ec256").by(Challenge::TlsAlpn01);
    lego.obtain();
}

#[test]
fn b3_f2_lego_registers_by_external_account_binding_and_sees_that_it_is_needed() {
    let environment = Environment::shared();
    let refused = Lego::on(&environment, &["unbound.lego.example.com"], "ec256").bound(false);
    let said = refused.fail_to_obtain();
    assert!(said.contains("requires External Account Binding"), "{said}");
    let lego = Lego::on(&environment, &["bound.lego.example.com"], "ec256").bound(true);
    assert!(lego.obtain().is_p256());
}
