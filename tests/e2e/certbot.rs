//! certbot, standalone (http-01): Debian's, and the latest from `PyPI`.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::acme_proxy::CLIENTS_HMAC_KEY;
use crate::acme_proxy::CLIENTS_KID;
use crate::acme_proxy::Upstream;
use crate::certificate::Leaf;
use crate::certificate::check;
use crate::certificate::check_up_to;
use crate::certificate::openssl;
use crate::dns::hook;
use crate::environment::Environment;
use crate::environment::Host;
use crate::pebble::CertificateStatus;
use crate::process::read;

/// certbot on a host.
struct Certbot<'a> {
    host: Host<'a>,
    names: &'a [&'a str],
    program: PathBuf,
}

impl<'a> Certbot<'a> {
    fn on(environment: &'a Environment, names: &'a [&'a str]) -> Self {
        Self::running("certbot".into(), environment, names)
    }

    fn running(program: PathBuf, environment: &'a Environment, names: &'a [&'a str]) -> Self {
        let host = environment.host(names);
        // Not what the machine's administrator has in /etc/letsencrypt.
        std::fs::write(host.directory.join("cli.ini"), "").unwrap();
        Self { host, names, program }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let directory = &self.host.directory;
        let mut certbot = self.host.program(&self.program);
        certbot.env("REQUESTS_CA_BUNDLE", self.host.root());
        certbot.arg(arguments[0]).arg("--non-interactive");
        certbot.arg("--config").arg(directory.join("cli.ini"));
        for kind in ["config", "work", "logs"] {
            certbot.arg(format!("--{kind}-dir")).arg(directory.join(kind));
        }
        certbot
            .args(["--server", &self.host.directory_url()])
            .args(&arguments[1..]);
        self.host.run(&certbot, "certbot")
    }

    fn obtain(&self, arguments: &[&str]) -> Leaf {
        self.ask(arguments);
        self.leaf()
    }

    /// Gets a certificate by http-01, unchecked.
    fn ask(&self, arguments: &[&str]) {
        let address = self.host.address.to_string();
        let port = self.host.http_port().to_string();
        let standalone = [
            "--standalone",
            "--http-01-address",
            &address,
            "--http-01-port",
            &port,
        ];
        self.ask_by(&standalone, arguments);
    }

    fn obtain_by(&self, authenticator: &[&str], arguments: &[&str]) -> Leaf {
        self.ask_by(authenticator, arguments);
        self.leaf()
    }

    fn ask_by(&self, authenticator: &[&str], arguments: &[&str]) {
        let mut all = vec!["certonly"];
        all.extend(authenticator);
        all.extend(["--agree-tos", "--register-unsafely-without-email"]);
        all.extend(["--cert-name", self.names[0].trim_start_matches("*.")]);
        all.extend(self.names.iter().flat_map(|name| ["-d", name]));
        all.extend(arguments);
        self.run(&all);
    }

    fn revoke(&self, arguments: &[&str]) {
        let leaf = self.file("cert.pem");
        let mut all = vec![
            "revoke",
            "--no-delete-after-revoke",
            "--cert-path",
            leaf.to_str().unwrap(),
        ];
        all.extend(arguments);
        self.run(&all);
    }

    /// Its latest certificate, checked.
    fn leaf(&self) -> Leaf {
        check(
            &self.host,
            &self.file("fullchain.pem"),
            &self.file("privkey.pem"),
            self.names,
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host
            .directory
            .join("config/live")
            .join(self.names[0].trim_start_matches("*."))
            .join(name)
    }

    fn status(&self, leaf: &Leaf) -> CertificateStatus {
        self.host.environment.pebble.status(&leaf.serial)
    }
}

#[test]
fn l2_certbot_gets_the_chain_that_it_prefers() {
    let environment = Environment::shared();
    let names = ["chain.example.com"];
    let certbot = Certbot::on(&environment, &names);
    let root = &environment.pebble.other_root;
    let subject = openssl(&[
        &"x509",
        &"-in",
        root,
        &"-noout",
        &"-subject",
        &"-nameopt",
        &"multiline",
    ]);
    let (_, name) = subject.trim().rsplit_once("= ").unwrap();
    certbot.ask(&["--preferred-chain", name]);
    let (chain, key) = (certbot.file("fullchain.pem"), certbot.file("privkey.pem"));
    let leaf = check_up_to(root, &chain, &key, &names);
    assert_eq!(certbot.status(&leaf), CertificateStatus::Valid);
    let pem = std::fs::read_to_string(chain).unwrap();
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 4, "three intermediates");
}

#[test]
fn certbot_gets_an_ecdsa_certificate_renews_it_by_force_and_revokes_it_by_its_account() {
    let environment = Environment::shared();
    let certbot = Certbot::on(&environment, &["certbot.example.com"]);
    let first = certbot.obtain(&["--key-type", "ecdsa"]);
    assert!(first.is_p256(), "{first:?}");

    certbot.run(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    let second = certbot.leaf();
    assert_ne!(first.serial, second.serial);
    assert_eq!(certbot.status(&second), CertificateStatus::Valid);

    certbot.revoke(&["--reason", "superseded"]);
    assert_eq!(certbot.status(&second), CertificateStatus::Revoked(Some(4)));
    assert_eq!(certbot.status(&first), CertificateStatus::Valid);
}

#[test]
fn certbot_revokes_by_the_certificates_key_because_that_is_compromised() {
    let environment = Environment::shared();
    let certbot = Certbot::on(&environment, &["compromised.example.com"]);
    let leaf = certbot.obtain(&[]);
    let key = certbot.file("privkey.pem");
    certbot.revoke(&["--key-path", key.to_str().unwrap(), "--reason", "keycompromise"]);
    assert_eq!(certbot.status(&leaf), CertificateStatus::Revoked(Some(1)));
}

#[test]
fn certbot_gets_an_rsa_certificate_for_three_names() {
    let environment = Environment::shared();
    let names = [
        "three.example.com",
        "www.three.example.com",
        "mail.three.example.com",
    ];
    let certbot = Certbot::on(&environment, &names);
    let leaf = certbot.obtain(&["--key-type", "rsa", "--rsa-key-size", "2048"]);
    assert!(leaf.is_rsa_2048(), "{leaf:?}");
}

#[test]
fn certbot_gets_a_certificate_for_a_wildcard_and_its_base_by_dns_01() {
    let environment = Environment::shared();
    let names = ["*.wild.certbot.example.com", "wild.certbot.example.com"];
    let certbot = Certbot::on(&environment, &names);
    let text = "$1 \"$CERTBOT_DOMAIN\" \"$CERTBOT_VALIDATION\"";
    let hook = hook(&certbot.host, text).display().to_string();
    let (add, remove) = (format!("{hook} publish"), format!("{hook} withdraw"));
    let manual = ["--manual", "--preferred-challenges", "dns"];
    let hooks = ["--manual-auth-hook", &add, "--manual-cleanup-hook", &remove];
    certbot.obtain_by(&[&manual[..], &hooks].concat(), &[]);
}

/// The latest certbot, in an environment of its own under cargo's target directory.
fn of_pypi() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certbot");
    // pip needs the user's own settings: proxies, mirrors, roots.
    let succeeds = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    succeeds(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&place),
    );
    let install = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--upgrade",
        "certbot",
    ];
    succeeds(Command::new(place.join("bin/pip")).args(install));
    place.join("bin/certbot")
}

#[test]
fn the_latest_certbot_gets_a_certificate_renews_it_by_force_and_revokes_it() {
    let program = of_pypi();
    let environment = Environment::shared();
    let certbot = Certbot::running(program, &environment, &["latest.example.com"]);
    let first = certbot.obtain(&[]);
    assert!(first.is_p256(), "{first:?}");
    certbot.run(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    let second = certbot.leaf();
    assert_ne!(first.serial, second.serial);
    certbot.revoke(&["--reason", "superseded"]);
    assert_eq!(certbot.status(&second), CertificateStatus::Revoked(Some(4)));
}

#[test]
fn f2_certbot_registers_by_external_account_binding() {
    let environment = Environment::shared();
    let certbot = Certbot::on(&environment, &["bound.certbot.example.com"]);
    let url = certbot.host.bound_directory_url();
    let binding = [
        "--server",
        &url,
        "--eab-kid",
        CLIENTS_KID,
        "--eab-hmac-key",
        CLIENTS_HMAC_KEY,
    ];
    assert!(certbot.obtain(&binding).is_p256());
}

#[test]
fn f4_half_of_all_nonces_refused_names_proved_each_time_and_long_chains_keep_no_certificate_from_certbot() {
    let pebble = [
        ("PEBBLE_WFE_NONCEREJECT", "50"),
        ("PEBBLE_CHAIN_LENGTH", "3"),
        ("PEBBLE_ALTERNATE_ROOTS", "2"),
        ("PEBBLE_AUTHZREUSE", "0"),
    ];
    let environment = Environment::start_with(Upstream::Dns01, &pebble);
    let name = "hostile.example.com";
    let names = [name];
    let certbot = Certbot::on(&environment, &names);
    let mut serials = BTreeSet::new();
    for number in 1..=4 {
        let leaf = certbot.obtain(&["--force-renewal"]);
        assert!(serials.insert(leaf.serial), "a new certificate each time");
        let chain = read(&certbot.file("fullchain.pem"));
        assert_eq!(
            chain.matches("BEGIN CERTIFICATE").count(),
            4,
            "the leaf and three intermediates"
        );
        let calls = environment.dns01_calls(name).into_iter();
        let values: BTreeSet<String> = calls.map(|(_, value)| value).collect();
        assert_eq!(values.len(), number, "each order is proved to the CA anew");
    }
    let pebble = &environment.pebble;
    assert_eq!(
        (pebble.accounts(), pebble.orders()),
        (1, 5),
        "certbot's orders, and acme-proxy's own"
    );
}
