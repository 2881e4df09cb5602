//! `ca.json` from the outside: the Go program's files start, and every fault is named with its key, value and fix.

mod database;
mod faults;
mod providers;
mod secrets;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use acme_proxy::config::Config;
use acme_proxy::config::ConfigError;
use acme_proxy::config::LogFormat;
use acme_proxy::config::Overrides;
use acme_proxy::policy::limits::Limits;
use acme_proxy::server::OwnCertificate;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// The smallest file without warnings.
pub(crate) fn minimal() -> Value {
    json!({
        "address": ":443",
        "dnsNames": ["acmeproxy.example.com"],
        "db": { "type": "sled", "dataSource": "/opt/acme-proxy/db/sled" },
        "authority": {
            "type": "externalcas",
            "config": { "ca_url": "https://ca.example.com/dir", "eab_kid": "kid-1", "eab_hmac_key": KEY },
            "provisioners": [{ "type": "ACME", "name": "acme", "challenges": ["http-01"] }],
        },
    })
}

/// Sets the value at a JSON pointer, making the objects on the way.
fn set(file: &mut Value, pointer: &str, value: Value) {
    let mut at = file;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) => {
                let list = at.as_array_mut().unwrap();
                if index == list.len() {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            Err(_) => &mut at[key],
        };
    }
    *at = value;
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut file = minimal();
    for (pointer, value) in changes {
        set(&mut file, pointer, value.clone());
    }
    file
}

pub(crate) fn write(dir: &TempDir, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join("ca.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    path
}

pub(crate) fn load_text(text: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
    let dir = TempDir::new().unwrap();
    Config::load(&write(&dir, text), &Overrides::default())
}

pub(crate) fn load(changes: &[(&str, Value)]) -> Result<Config, ConfigError> {
    load_text(serde_json::to_string_pretty(&with(changes)).unwrap())
}

pub(crate) fn lines(result: Result<Config, ConfigError>) -> Vec<String> {
    match result.unwrap_err() {
        ConfigError::Invalid { lines } => lines,
        other => panic!("{other}"),
    }
}

pub(crate) fn sample(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(name)).unwrap()
}

fn filled(name: &str) -> Config {
    let text = sample(name)
        .replace("\"ca_url\": \"\"", "\"ca_url\": \"https://ca.example.com/dir\"")
        .replace("\"eab_kid\": \"\"", "\"eab_kid\": \"kid-1\"")
        .replace("\"eab_hmac_key\": \"\"", &format!("\"eab_hmac_key\": \"{KEY}\""));
    load_text(text).unwrap()
}

fn warned(config: &Config, key: &str) -> bool {
    config
        .warnings
        .iter()
        .any(|line| line.contains(&format!(" {key}: ")))
}

#[test]
fn the_shipped_file_starts_without_a_warning_once_it_is_filled_in() {
    assert_eq!(filled("ca.json").warnings, [""; 0]);
}

#[test]
fn the_shipped_file_as_it_is_says_what_to_fill_in() {
    let lines = lines(load_text(sample("ca.json")));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("authority.config.ca_url: is missing; write the CA's directory URL"),
        "{lines:?}"
    );
}

#[test]
fn the_three_files_of_the_go_program_start() {
    for (name, metrics, store, format) in [
        (
            "esnet-ca.json",
            "127.0.0.1:9234",
            "/opt/acme-proxy/db/bbolt.sled",
            LogFormat::Json,
        ),
        (
            "esnet-installer-ca.json",
            "127.0.0.1:9234",
            "/opt/acme-proxy/db/bbolt.sled",
            LogFormat::Json,
        ),
        (
            "older-ca.json",
            "127.0.0.1:9123",
            "/opt/acme-proxy/db/sled",
            LogFormat::Text,
        ),
    ] {
        let config = filled(&format!("tests/samples/{name}"));
        assert_eq!(config.metrics, Some(metrics.parse().unwrap()), "{name}");
        assert_eq!(config.store.path, Path::new(store), "{name}");
        assert_eq!(config.logger.format, format, "{name}");
        assert_eq!(config.server.address, "[::]:443".parse().unwrap());
        assert_eq!(config.server.trace_header, "X-Smallstep-Id");
        assert!(config.upstreams[0].settings.eab.is_some() && config.upstreams[0].settings.dns01.is_none());
        assert!(config.server.tls.tls12 && config.server.tls.tls13);
        assert_eq!(config.policy.provisioners[0].name, "acme");
    }
}

#[test]
fn every_key_of_the_go_programs_file_without_effect_is_named_once() {
    let config = filled("tests/samples/esnet-ca.json");
    for key in [
        "db.type",
        "authority.config.metrics.dataSource",
        "authority.provisioners[0].claims",
        "authority.provisioners[0].options.ssh",
        "authority.template",
        "authority.backdate",
        "tls.minVersion",
    ] {
        let named = config
            .warnings
            .iter()
            .filter(|line| line.contains(&format!(" {key}: ")))
            .count();
        assert_eq!(named, 1, "{key}: {:#?}", config.warnings);
    }
    assert!(
        filled("tests/samples/older-ca.json")
            .warnings
            .iter()
            .any(|line| line.contains("4 bytes long"))
    );
}

#[test]
fn the_file_is_read_with_the_leniency_of_go() {
    let text = serde_json::to_string_pretty(&minimal()).unwrap();
    let altered = text
        .replace("\"address\"", "\"ADDRESS\"")
        .replace("\"ca_url\"", "\"CA_Url\"")
        .replace("\"dnsNames\"", "\"commonname\": null, \"DNSnames\"")
        .replace("\"db\"", "\"address\": null, \"db\"")
        .replace('\n', "\r\n");
    let config = load_text(format!("\u{feff}{altered}\r\n}} garbage")).unwrap();
    assert_eq!(config.server.address, "[::]:443".parse().unwrap());
    assert_eq!(
        config.upstreams[0].settings.directory,
        "https://ca.example.com/dir"
    );
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("everything from here on is ignored"));
}

#[test]
fn the_last_of_duplicate_keys_wins_and_is_named() {
    let text = minimal().to_string().replacen('{', "{\"Address\": \":1\", ", 1);
    let config = load_text(text).unwrap();
    assert_eq!(config.server.address.port(), 443);
    assert!(
        config.warnings[0].contains("address: written 2 times"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn bytes_that_are_no_utf8_are_replaced_as_in_go() {
    let mut bytes = minimal().to_string().into_bytes();
    bytes.splice(1..1, b"\"comment\": \"\xe9\", ".iter().copied());
    let config = load_text(bytes).unwrap();
    assert!(
        config.warnings.iter().any(|line| line.contains("is not UTF-8")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn f35_an_unknown_key_is_ignored_and_named_with_the_likely_one() {
    let config = load(&[
        ("/comment", json!("x")),
        ("/authority/config/account_emial", json!("x")),
    ])
    .unwrap();
    let warnings = config.warnings.join("\n");
    assert!(warnings.contains("comment: unknown key, ignored"), "{warnings}");
    let meant = "authority.config.account_emial: unknown key, ignored; did you mean \"account_email\"?";
    assert!(warnings.contains(meant), "{warnings}");
}

#[test]
fn keys_of_step_ca_without_effect_say_why() {
    for (pointer, value) in [
        ("/insecureAddress", json!(":80")),
        ("/crt", json!("x")),
        ("/key", json!("x")),
        ("/password", json!("x")),
        ("/kms", json!({})),
        ("/ssh", json!({})),
        ("/templates", json!({})),
        ("/monitoring", json!({})),
        ("/crl/cacheDuration", json!("24h")),
        ("/tls/cipherSuites", json!([])),
        ("/tls/renegotiation", json!(true)),
        ("/db/valueDir", json!("/x")),
        ("/db/database", json!("x")),
        ("/db/badgerFileLoadingMode", json!("x")),
        ("/authority/claims", json!({})),
        ("/authority/template", json!({})),
        ("/authority/backdate", json!("1m0s")),
        ("/authority/disableIssuedAtCheck", json!(true)),
        ("/authority/deploymentType", json!("standalone")),
        ("/authority/config/metrics/dataSource", json!("/x")),
        ("/authority/provisioners/0/forceCN", json!(true)),
        ("/authority/provisioners/0/attestationFormats", json!([])),
        (
            "/authority/provisioners/0/options",
            json!({"x509": {"template": "x"}}),
        ),
        (
            "/authority/policy",
            json!({"x509": {"deny": {"uri": ["x.example"]}}}),
        ),
    ] {
        let config = load(&[(pointer, value)]).unwrap();
        let named = config
            .warnings
            .iter()
            .any(|line| line.contains(" has no effect here: "));
        assert!(named, "{pointer}: {:?}", config.warnings);
        assert!(
            !config.warnings.iter().any(|line| line.contains("unknown key")),
            "{:?}",
            config.warnings
        );
    }
}

#[test]
fn metrics_are_served_in_each_form_that_asks_for_them() {
    let none = Value::Null;
    for (section, address, expected) in [
        (none.clone(), none.clone(), None),
        (json!({}), none.clone(), None),
        (json!({"port": 0, "dataSource": ""}), none.clone(), None),
        (json!({"enabled": true}), none.clone(), Some("127.0.0.1:9123")),
        (
            json!({"enabled": true, "port": 9200}),
            none.clone(),
            Some("127.0.0.1:9200"),
        ),
        (
            json!({"port": 9234, "dataSource": "/x"}),
            none.clone(),
            Some("127.0.0.1:9234"),
        ),
        (json!({"enabled": false, "port": 9234}), none, None),
        (json!({"enabled": false}), json!(":9234"), None),
        (json!({"port": 9234}), json!(":9234"), Some("[::]:9234")),
        (
            json!({"port": 9234}),
            json!("127.0.0.1:9000"),
            Some("127.0.0.1:9000"),
        ),
        (Value::Null, json!("10.0.0.1:9000"), Some("10.0.0.1:9000")),
    ] {
        let changes = [
            ("/authority/config/metrics", section.clone()),
            ("/metricsAddress", address.clone()),
        ];
        let config = load(&changes).unwrap();
        assert_eq!(
            config.metrics,
            expected.map(|text| text.parse().unwrap()),
            "{section} {address}"
        );
    }
}

#[test]
fn stores_of_the_go_program_get_a_sled_store_where_the_service_may_write() {
    for (kind, path, expected) in [
        ("sled", "/data/store", "/data/store"),
        ("badger", "/data/db/", "/data/db/sled"),
        ("badgerV2", "/data/db", "/data/db/sled"),
        ("bbolt", "/data/bbolt", "/data/bbolt.sled"),
    ] {
        let config = load(&[("/db", json!({"type": kind, "dataSource": path}))]).unwrap();
        assert_eq!(config.store.path, Path::new(expected));
        assert_eq!(warned(&config, "db.type"), kind != "sled");
    }
    // A store of an earlier version, which made it beside badger's directory.
    let directory = tempfile::tempdir().unwrap();
    let (badger, earlier) = (directory.path().join("db"), directory.path().join("db.sled"));
    let at_badger = || load(&[("/db", json!({"type": "badger", "dataSource": badger}))]).unwrap();
    fs::create_dir(&earlier).unwrap();
    assert_eq!(at_badger().store.path, badger.join("sled"));
    fs::write(earlier.join("format"), "").unwrap();
    assert_eq!(at_badger().store.path, earlier);
    let config = load(&[("/db/dataSource", json!("db/sled"))]).unwrap();
    assert!(config.store.path.is_absolute() && warned(&config, "db.dataSource"));
}

#[test]
fn tls_below_1_2_is_served_as_1_2_with_a_warning() {
    for (tls, tls12, tls13, warnings) in [
        (json!({}), true, true, 0),
        (json!({"minVersion": 1.1, "maxVersion": 1.3}), true, true, 1),
        (json!({"minVersion": 1, "maxVersion": 1.1}), true, false, 2),
        (json!({"maxVersion": 1.2}), true, false, 0),
        (json!({"minVersion": 1.3}), false, true, 0),
    ] {
        let config = load(&[("/tls", tls.clone())]).unwrap();
        let versions = config.server.tls;
        let found = (versions.tls12, versions.tls13, config.warnings.len());
        assert_eq!(found, (tls12, tls13, warnings), "{tls}");
    }
}

#[test]
fn the_own_certificate_is_for_all_names_and_the_common_name() {
    let config = load(&[
        (
            "/dnsNames",
            json!(["a.example.com", "127.0.0.1", "A.example.com", "b.example.com"]),
        ),
        ("/commonName", json!("C.example.com")),
        ("/address", json!("127.0.0.1:8443")),
    ])
    .unwrap();
    assert!(warned(&config, "dnsNames[1]"));
    assert_eq!(config.server.port_in_links, Some(8443));
    assert_eq!(config.server.names.len(), 2);
    let names = config.worker.own_certificate_names.clone().unwrap();
    assert_eq!(
        names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        "c.example.com a.example.com b.example.com"
    );
    let OwnCertificate::FromUpstream { common_name, .. } = config.server.own_certificate else {
        panic!()
    };
    assert_eq!(common_name.as_deref(), Some("c.example.com"));

    let OwnCertificate::FromUpstream { common_name, .. } = load(&[]).unwrap().server.own_certificate else {
        panic!()
    };
    assert_eq!(common_name.as_deref(), Some("acmeproxy.example.com"));
}

#[test]
fn the_own_certificate_can_come_from_files() {
    let dir = TempDir::new().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(
        &certificate,
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    fs::write(
        &key,
        "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n",
    )
    .unwrap();
    let config = load(&[
        ("/tls", json!({"certificate": certificate, "key": key})),
        ("/dnsNames", json!(["localhost"])),
    ])
    .unwrap();
    assert_eq!(
        config.server.names[0].as_str(),
        "localhost",
        "no public CA has to certify it"
    );
    assert!(config.worker.own_certificate_names.is_none());
    assert!(matches!(
        config.server.own_certificate,
        OwnCertificate::Files { .. }
    ));
}

#[test]
fn the_policy_of_step_ca_is_read_for_all_and_for_each_provisioner() {
    let config = load(&[
        (
            "/authority/policy",
            json!({"x509": {
                "allow": {"dns": ["*.example.com"]},
                "deny": {"dns": ["www.example.com"], "cn": ["mail.example.com"]},
            }}),
        ),
        (
            "/authority/provisioners/0/policy",
            json!({"x509": {"allow": {"ip": ["10.0.0.1"]}}}),
        ),
    ])
    .unwrap();
    let (general, own) = (
        &config.policy.rules.names,
        &config.policy.provisioners[0].rules.names,
    );
    assert_eq!(
        general.to_string(),
        "only *.example.com, but not www.example.com, mail.example.com, and no wildcards; no address"
    );
    assert_eq!(own.to_string(), "no name, and no wildcards; only 10.0.0.1/32");
    let wildcards = json!({"x509": {"allow": {"dns": ["*.example.com"]}, "allowWildcardNames": true}});
    assert!(
        load(&[("/authority/policy", wildcards)])
            .unwrap()
            .policy
            .rules
            .names
            .wildcards
    );
    let open = load(&[]).unwrap().policy.rules.names;
    assert_eq!(open.to_string(), "every name; every address");
    for key in ["email", "uri"] {
        let denied = json!({"x509": {"deny": {key: ["example.com"]}}});
        let denied = load(&[("/authority/policy", denied)]).unwrap().policy.rules.names;
        assert_eq!(denied.to_string(), "every name, and no wildcards; every address");
    }
    let denied = json!({"x509": {"deny": {"ip": ["10.0.0.0/8"]}}});
    let denied = load(&[("/authority/policy", denied)]).unwrap().policy.rules.names;
    assert_eq!(
        denied.to_string(),
        "every name, and no wildcards; every address, but not 10.0.0.0/8"
    );
}

#[test]
fn validation_reads_its_networks_and_the_flags_win() {
    let changes = [(
        "/authority/config/validation",
        json!({"resolvers": ["10.0.0.53"], "allow": ["127.0.0.1"], "deny": ["10.0.0.0/8", "fd00::/8"], "http_port": 5002}),
    )];
    let config = load(&changes).unwrap();
    assert_eq!(config.validate.resolvers, ["10.0.0.53:53".parse().unwrap()]);
    assert_eq!(config.validate.allow, ["127.0.0.1/32".parse().unwrap()]);
    assert_eq!(config.validate.deny.len(), 2);
    assert_eq!((config.validate.http_port, config.validate.tls_port), (5002, 443));
    assert_eq!(config.validate.own_listeners, ["[::]:443".parse().unwrap()]);
    assert!(warned(&config, "authority.config.validation.allow[0]"));

    let dir = TempDir::new().unwrap();
    let overrides = Overrides {
        resolver: Some("127.0.0.1:5353".parse().unwrap()),
        http_port: Some(5003),
        tls_port: Some(5004),
    };
    let config = Config::load(&write(&dir, with(&changes).to_string()), &overrides).unwrap();
    assert_eq!(config.validate.resolvers, ["127.0.0.1:5353".parse().unwrap()]);
    assert_eq!(
        (config.validate.http_port, config.validate.tls_port),
        (5003, 5004)
    );
}

#[test]
fn h9_h17_limits_are_read_and_off_at_0() {
    let limits = json!({
        "accounts_per_address_per_hour": 1,
        "orders_per_account_per_hour": 2,
        "pending_orders_per_account": 0,
        "names_per_order": 4,
        "bad_requests_per_address_per_minute": 5,
        "connections_per_address": 0,
        "connections": 6,
    });
    let config = load(&[("/authority/config/limits", limits)]).unwrap();
    let (limits, defaults) = (config.policy.limits, Limits::default());
    assert_eq!(
        (
            limits.accounts_per_address_per_hour,
            limits.orders_per_account_per_hour
        ),
        (1, 2)
    );
    assert_eq!(
        (limits.pending_orders_per_account, limits.names_per_order),
        (0, 4)
    );
    assert_eq!(
        limits.failed_validations_per_name_per_hour,
        defaults.failed_validations_per_name_per_hour
    );
    let peers = config.server.limits;
    assert_eq!(
        (
            peers.bad_requests_per_address_per_minute,
            peers.connections_per_address,
            peers.connections
        ),
        (5, 0, 6)
    );
    let config = load(&[("/authority/config/limits", json!({ "names_per_order": 0 }))]).unwrap();
    assert_eq!(config.policy.limits, defaults);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_report_says_what_would_happen() {
    let report = load(&[("/address", json!(":8443")), ("/comment", json!(1))])
        .unwrap()
        .report();
    for part in [
        "listens on [::]:8443",
        "https://acmeproxy.example.com:8443/acme/acme/directory",
        "challenges: http-01",
        "admitted: every name",
        "issued by https://ca.example.com/dir",
        "key id [redacted], key [redacted]",
        "kept in /opt/acme-proxy/db/sled",
        "after 24 h 0 min fails",
        "Metrics are not served",
        "Requests are not logged",
        "comment: unknown key",
        "no External Account Binding was used",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
}
