//! The files that people have: esnet's own, those of its installers and of its Ansible role, and step-ca's. Each starts once
//! the CA's address and credentials are filled in, and its paths are ones that there are.

use std::fs;
use std::path::Path;

use acme_proxy::config::{Config, Overrides};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config::{KEY, sample, write};
use crate::harness::process::NAME;
use crate::harness::world::World;

/// The files, the port that their links have, and where the store is, below `/opt/acme-proxy` or what stands for `/home/step`.
const FILES: [(&str, &str, &str); 7] = [
    ("esnet-ca.json", "", "/opt/acme-proxy/db/bbolt.sled"),
    ("esnet-installer-ca.json", "", "/opt/acme-proxy/db/bbolt.sled"),
    ("esnet-ansible-ca.json", "", "/opt/acme-proxy/db/bbolt.sled"),
    ("esnet-badger-ca.json", "", "/etc/acmeproxy/db/sled"),
    ("older-ca.json", "", "/opt/acme-proxy/db/sled"),
    ("step-ca-init-ca.json", ":9000", "/home/step/db/sled"),
    ("step-ca-all-ca.json", ":9000", "/home/step/db/step.db.sled"),
];

/// The sample with roots to read, and with a CA. A file of step-ca's own has no place for one, so it gets that, too.
fn filled(name: &str, home: &TempDir) -> Value {
    let certs = home.path().join("certs");
    fs::create_dir_all(&certs).unwrap();
    for file in ["root_ca.crt", "federated_root_ca.crt"] {
        let root = rcgen::generate_simple_self_signed([file.to_owned()]).unwrap();
        fs::write(certs.join(file), root.cert.pem()).unwrap();
    }
    let text = sample(&format!("tests/samples/{name}"));
    let text = text.replace("/home/step", home.path().to_str().unwrap());
    let mut file: Value = serde_json::from_str(&text).unwrap();
    let config = &mut file["authority"]["config"];
    config["ca_url"] = json!("https://ca.example.com/dir");
    config["eab_kid"] = json!("kid-1");
    config["eab_hmac_key"] = json!(KEY);
    file
}

#[test]
fn each_file_that_people_have_is_read_with_nothing_but_warnings_that_give_reasons() {
    for (name, port, store) in FILES {
        let home = TempDir::new().unwrap();
        let file = filled(name, &home).to_string();
        let config = Config::load(&write(&home, file), &Overrides::default()).unwrap();
        let report = config.report();
        let directory = format!("example.com{port}/acme/acme/directory");
        assert!(report.contains(&directory), "{name}: {report}");
        let store = store.replace("/home/step", home.path().to_str().unwrap());
        assert_eq!(config.store.path, Path::new(&store), "{name}");
        for warning in &config.warnings {
            let reasoned = [
                "has no effect here: ",
                "is a database of the Go program",
                "is missing, and taken as \"externalcas\"",
                "metrics are served on 127.0.0.1",
                "is not served: it is broken",
                "is skipped: ",
                "is only 4 bytes long",
            ];
            assert!(
                reasoned.iter().any(|reason| warning.contains(reason)),
                "{name}: {warning}"
            );
        }
        for (index, warning) in config.warnings.iter().enumerate() {
            assert!(
                !config.warnings[..index].contains(warning),
                "{name}: {warning} twice"
            );
        }
    }
}

#[test]
fn the_shipped_unit_lets_the_store_of_each_of_esnets_files_be_written() {
    let unit = sample("systemd/acme-proxy.service");
    let mut lines = unit.lines();
    let writable = lines
        .find_map(|line| line.strip_prefix("ReadWritePaths="))
        .unwrap();
    let below = |path: &str| {
        writable
            .split(' ')
            .any(|writable| Path::new(path).starts_with(writable))
    };
    for (name, _, store) in FILES {
        if store.starts_with("/opt/acme-proxy/") {
            assert!(below(store), "{name}: {store} is not below {writable}");
        }
    }
}

#[tokio::test]
async fn each_file_that_people_have_starts_and_gets_its_certificate() {
    for (name, _, _) in FILES {
        let world = World::new().await;
        let home = TempDir::new().unwrap();
        let installation = &world.installation;
        let mut file = filled(name, &home);
        // The ports and the private CA are the test's; so is where it may write.
        file["address"] = json!(installation.address.to_string());
        file["metricsAddress"] = json!(installation.metrics.to_string());
        file["dnsNames"] = json!([NAME]);
        file["db"]["dataSource"] = json!(installation.store());
        let config = file["authority"]["config"].as_object_mut().unwrap();
        config.remove("metrics");
        config.insert("ca_url".into(), json!(world.ca.directory_url));
        config.insert("ca_root".into(), json!(installation.path("root.pem")));
        config.insert("eab_kid".into(), json!(world.ca.eab.kid));
        config.insert("eab_hmac_key".into(), json!(world.ca.eab.hmac_key));
        if file["commonName"] == "acmeproxy.example.com" {
            file["commonName"] = json!(NAME);
        }
        installation.write_config(file.to_string().as_bytes());
        let mut daemon = installation.start();
        daemon.is_well().await;
        let directory = installation
            .client()
            .get(installation.directory_url())
            .send()
            .await
            .unwrap();
        assert_eq!(directory.status(), 200, "{name}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn the_flags_of_a_unit_for_the_go_program_are_taken_and_the_dead_ones_named() {
    let world = World::new().await;
    let mut daemon = world.installation.start_with(|command| {
        // A name is looked up as the system does it, as Go does with /etc/hosts.
        command.args(["--resolver", "localhost:5353", "--password-file", "/nowhere"]);
        command.args([
            "--issuer-password-file",
            "/nowhere",
            "--acme-strict-fqdn",
            "--context",
            "x",
        ]);
    });
    daemon.is_well().await;
    daemon.stop().await;
    let log = world.installation.log();
    for flag in [
        "--password-file",
        "--issuer-password-file",
        "--acme-strict-fqdn",
        "--context",
    ] {
        let named = log
            .lines()
            .filter(|line| line.contains(&format!("{flag} ")) && line.contains("has no effect here"));
        assert_eq!(named.count(), 1, "{flag}: {log}");
    }
}

#[tokio::test]
async fn the_variables_of_the_go_program_are_read_as_go_reads_them_and_the_dead_ones_named() {
    const QUIET: &str = "STEP_CA_QUIET";
    let world = World::new().await;
    for value in ["", "1", "0", "t", "TRUE", "perhaps"] {
        let version = world.installation.run(|program| {
            program.arg("version").env(QUIET, value);
        });
        assert!(version.await.status.success(), "{value:?}");
    }
    for (value, is_quiet) in [
        ("", false),
        ("0", false),
        ("False", false),
        ("1", true),
        ("t", true),
        ("TRUE", true),
    ] {
        let before = world.installation.log().len();
        let mut daemon = world.installation.start_with(|program| {
            program.env(QUIET, value);
        });
        daemon.is_well().await;
        daemon.stop().await;
        let log = world.installation.log().split_off(before);
        assert_eq!(!log.contains("Serving HTTPS on"), is_quiet, "{value:?}: {log}");
    }
    let bad = world.installation.run(|program| {
        program.arg(world.installation.config()).env(QUIET, "perhaps");
    });
    let bad = bad.await;
    assert_eq!(bad.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&bad.stderr);
    assert!(
        complaint.contains("STEP_CA_QUIET is neither true nor false; write STEP_CA_QUIET=true"),
        "{complaint}"
    );
    const DEAD: [&str; 5] = [
        "STEP_CA_TOKEN",
        "STEP_CA_CONTEXT",
        "STEP_LOGGER_LOG_REAL_IP",
        "STEPDEBUG",
        "STEP_PROF_ADDR",
    ];
    let mut daemon = world.installation.start_with(|program| {
        program.envs(DEAD.map(|variable| (variable, "hunter22")));
    });
    daemon.is_well().await;
    daemon.stop().await;
    let log = world.installation.log();
    for variable in DEAD {
        let named = format!("{variable} has no effect here: ");
        assert_eq!(log.matches(&named).count(), 1, "{variable}: {log}");
    }
    assert!(!log.contains("hunter22"));
}
