//! A certbot that was registered at a step-ca, which acme-proxy takes the place of.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::acme_proxy::Upstream;
use crate::certificate::check;
use crate::environment::Environment;
use crate::environment::Host;
use crate::pebble::CertificateStatus;
use crate::process;
use crate::process::program;
use crate::process::read;

/// What a real step-ca and a real certbot have left; its README says how.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/step-ca");

const NAME: &str = "migrated.example.com";

/// certbot's directory, as if step-ca had been on acme-proxy's port.
fn take_over(from: &Path, to: &Path, port: u16) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, kind) = entry
            .map(|entry| (entry.path(), entry.file_type().unwrap()))
            .unwrap();
        let name = from.file_name().unwrap().to_str().unwrap();
        let to = to.join(name.replace("14443", &port.to_string()));
        if kind.is_dir() {
            take_over(&from, &to, port);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            let text = read(&from).replace("14443", &port.to_string());
            fs::write(&to, text).unwrap();
        }
    }
}

/// Renews as certbot's timer does, but for the time: server and account stand in its own files.
fn renew(host: &Host<'_>) -> Result<String, String> {
    let mut certbot = host.program("certbot");
    certbot.env("REQUESTS_CA_BUNDLE", host.root());
    certbot.args(["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    certbot.arg("--config").arg(host.directory.join("cli.ini"));
    for kind in ["config", "work", "logs"] {
        certbot
            .arg(format!("--{kind}-dir"))
            .arg(host.directory.join(kind));
    }
    certbot.args(["--http-01-address", &host.address.to_string()]);
    certbot.args(["--http-01-port", &host.http_port().to_string()]);
    process::run(&certbot, "certbot")
}

fn import(environment: &Environment, database: &Path) -> String {
    let mut import = program(env!("CARGO_BIN_EXE_acme-proxy"));
    import
        .args(["import", "step-ca"])
        .arg(database)
        .arg(environment.config());
    process::run(&import, "acme-proxy").unwrap()
}

/// The database, as if step-ca had been on acme-proxy's port: pages with records have no checksum.
fn database(host: &Host<'_>, port: u16) -> PathBuf {
    let mut bytes = fs::read(format!("{SAMPLE}/accounts.bbolt")).unwrap();
    let (from, to) = (b"14443", port.to_string());
    assert_eq!(to.len(), from.len(), "nothing may move");
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    }
    let path = host.directory.join("step-ca.bbolt");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_certbot_that_registered_at_a_step_ca_renews_at_acme_proxy_and_notices_nothing() {
    let environment = Environment::start(Upstream::Dns01, 50);
    let host = environment.host(&[NAME]);
    fs::write(host.directory.join("cli.ini"), "").unwrap();
    let config = host.directory.join("config");
    take_over(
        Path::new(&format!("{SAMPLE}/certbot")),
        &config,
        environment.port(),
    );
    let renewal = config.join(format!("renewal/{NAME}.conf"));
    let here = read(&renewal).replace("DIRECTORY", host.directory.to_str().unwrap());
    fs::write(&renewal, here).unwrap();
    let said = renew(&host).unwrap_err();
    assert!(said.contains("does not exist"), "{said}");

    let database = database(&host, environment.port());
    let said = import(&environment, &database);
    assert!(said.contains("imported: 11, 1 of them deactivated"), "{said}");
    assert!(!said.contains("not an URL of this server"), "{said}");
    for _ in 0..2 {
        renew(&host).unwrap_or_else(|said| panic!("{said}\n{}", environment.acme_proxy.log()));
        let live = config.join("live").join(NAME);
        let leaf = check(
            &host,
            &live.join("fullchain.pem"),
            &live.join("privkey.pem"),
            &[NAME],
        );
        assert_eq!(environment.pebble.status(&leaf.serial), CertificateStatus::Valid);
    }
    assert_eq!(
        environment.acme_proxy.requests("/acme/acme/new-account"),
        0,
        "it has registered"
    );
    assert!(environment.acme_proxy.requests("/acme/acme/new-order") >= 2);
    assert!(import(&environment, &database).contains("imported: 0"));
}
