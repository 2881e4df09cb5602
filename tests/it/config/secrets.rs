//! Keys in `ca.json`: where they may come from, and that they are never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use acme_proxy::config::Config;
use acme_proxy::config::Overrides;
use serde_json::json;
use tempfile::TempDir;

use crate::config::KEY;
use crate::config::load;
use crate::config::minimal;
use crate::config::warned;
use crate::config::with;
use crate::config::write;

#[test]
fn secrets_come_from_files_and_the_environment_too() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("key");
    fs::write(&secret, format!("{KEY}=\n")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    let file = format!("file:{}", secret.display());
    let changes = [
        ("/authority/config/eab_hmac_key", json!(file)),
        ("/authority/config/eab_kid", json!("env:PATH")),
    ];
    let config = load(&changes).unwrap();
    let eab = config.upstreams[0].settings.eab.clone().unwrap();
    assert_eq!(eab.hmac_key.reveal(), &(0..32).collect::<Vec<u8>>());
    assert_eq!(eab.kid.reveal(), std::env::var("PATH").unwrap().trim());
    assert_eq!(config.warnings, [""; 0]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(warned(&load(&changes).unwrap(), "authority.config.eab_hmac_key"));
}

#[test]
fn external_account_keys_are_read_and_what_they_lack_is_named() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("key");
    fs::write(&secret, format!("{KEY}=\n")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    let keys = json!([
        { "kid": "web", "hmacKey": KEY, "policy": { "x509": { "allow": { "dns": ["*.web.example.com"] } } } },
        { "kid": "once", "hmacKey": format!("file:{}", secret.display()), "reusable": false },
    ]);
    let changes = [
        ("/authority/provisioners/0/requireEAB", json!(true)),
        ("/authority/provisioners/0/eabKeys", keys),
    ];
    let config = load(&changes).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert!(config.server.provisioners[0].external_account_required);
    let read = &config.policy.provisioners[0].external_accounts;
    assert!(read.required);
    let terms: Vec<_> = read
        .keys
        .iter()
        .map(|key| (key.kid.as_str(), key.one_time))
        .collect();
    assert_eq!(terms, [("web", false), ("once", true)]);
    for key in &read.keys {
        assert_eq!(key.mac_key.as_bytes(), (0..32).collect::<Vec<u8>>());
    }
    let report = config.report();
    assert!(
        report.contains("registration: only with an external account key"),
        "{report}"
    );
    assert!(
        report.contains("key web: for any number of accounts, admitted: only *.web.example.com"),
        "{report}"
    );

    let not_required = load(&changes[1..]).unwrap();
    assert!(warned(&not_required, "authority.provisioners[0].eabKeys"));
    assert!(!not_required.policy.provisioners[0].external_accounts.required);
    let short = json!([{ "kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODw" }]);
    let short = load(&[changes[0].clone(), ("/authority/provisioners/0/eabKeys", short)]).unwrap();
    assert!(
        short.warnings[0].contains("is only 16 bytes long"),
        "{:?}",
        short.warnings
    );
    assert_eq!(
        load(&changes[..1]).unwrap().warnings,
        [""; 0],
        "keys may all be in the store"
    );

    let path = write(&dir, with(&changes).to_string());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let config = Config::load(&path, &Overrides::default()).unwrap();
    assert!(warned(&config, "authority.provisioners[0].eabKeys[0].hmacKey"));
    assert!(!warned(&config, "authority.provisioners[0].eabKeys[1].hmacKey"));
}

#[test]
fn t5_a_file_with_secrets_that_everybody_may_read_is_a_warning() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, minimal().to_string());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let config = Config::load(&path, &Overrides::default()).unwrap();
    assert!(
        config.warnings.iter().any(|line| line.contains("mode 644")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn t5_a_file_that_only_says_where_its_secrets_are_may_be_read() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, KEY).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    let file = format!("file:{}", secret.display());
    for (variables, is_secret) in [
        (json!({ "DESEC_TOKEN": file, "DESEC_TTL": "3600" }), false),
        (json!({ "DESEC_TOKEN_FILE": secret }), false),
        (json!({ "DESEC_TOKEN": "the-token" }), true),
    ] {
        let changes = [
            ("/authority/config/eab_hmac_key", json!(file)),
            ("/authority/config/eab_kid", json!(file)),
            (
                "/authority/config/dns01_txt",
                json!({ "provider": "desec", "env_vars": variables }),
            ),
        ];
        let path = write(&dir, with(&changes).to_string());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let config = Config::load(&path, &Overrides::default()).unwrap();
        let warned = config.warnings.iter().any(|line| line.contains("mode 644"));
        assert_eq!(warned, is_secret, "{:?}", config.warnings);
    }
}

#[test]
fn a_file_that_is_too_long_for_a_secret_is_not_read_in_part() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("key");
    fs::write(&secret, KEY.repeat(2000)).unwrap();
    let change = (
        "/authority/config/eab_kid",
        json!(format!("file:{}", secret.display())),
    );
    let error = load(&[change]).unwrap_err().to_string();
    assert!(error.contains("more than 64 KiB"), "{error}");
}

#[test]
fn no_secret_is_ever_printed() {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("dns.sh");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let solver = json!({
        "provider": "exec",
        "env_vars": { "EXEC_PATH": program, "EXEC_POLLING_INTERVAL": "5", "TOKEN": "CANARY-token" },
    });
    let good = [
        ("/authority/config/eab_kid", json!("CANARY-kid")),
        ("/authority/config/eab_hmac_key", json!("CANARY-hmac")),
        ("/authority/config/dns01_txt", solver.clone()),
        ("/authority/config/eab_hmac", json!("CANARY-typo")),
        ("/password", json!("CANARY-password")),
        ("/authority/provisioners/0/requireEAB", json!(true)),
        (
            "/authority/provisioners/0/eabKeys",
            json!([{ "kid": "team", "hmacKey": "CANARY-hmac-of-a-client" }]),
        ),
    ];
    let config = load(&good).unwrap();
    let solver_settings = config.upstreams[0].settings.dns01.as_ref().unwrap();
    assert_eq!(solver_settings.secrets[0].reveal(), "CANARY-token");
    assert_eq!(solver_settings.polling_interval, Duration::from_secs(5));
    assert_eq!(
        config.upstreams[0].settings.eab.as_ref().unwrap().kid.reveal(),
        "CANARY-kid"
    );
    let mut printed = format!(
        "{config:?}\n{config:#?}\n{}\n{}",
        config.report(),
        config.warnings.join("\n")
    );

    let mut exec = solver;
    exec["env_vars"]["EXEC_POLLING_INTERVAL"] = json!("CANARY-number");
    for change in [
        ("/authority/config/eab_hmac_key", json!("CANARY not base64")),
        ("/authority/config/eab_hmac_key", json!(["CANARY"])),
        (
            "/authority/provisioners/0/eabKeys",
            json!([{ "kid": "team", "hmacKey": "CANARY not base64" }]),
        ),
        (
            "/authority/provisioners/0/eabKeys",
            json!([{ "kid": "team", "hmacKey": "CANARY" }]),
        ),
        ("/authority/config/eab_kid", json!({"CANARYkey": 1})),
        ("/authority/config/dns01_txt", exec),
        (
            "/authority/config/dns01_txt",
            json!({"provider": "exec", "env_vars": {"EXEC_PATH": "CANARY"}}),
        ),
        (
            "/authority/config/ca_url",
            json!("https://user:CANARY@ca.example.com/dir"),
        ),
        (
            "/authority/config/ca_url",
            json!("http://user:CANARY@ca.example.com/dir"),
        ),
    ] {
        let mut changes = good.to_vec();
        changes.push(change);
        let error = load(&changes).unwrap_err();
        printed.push_str(&format!("{error}\n{error:?}\n"));
    }
    let bytes = format!("{:?}", b"CANARY".as_slice());
    assert!(
        !printed.contains("CANARY") && !printed.contains(bytes.trim_matches(['[', ']'])),
        "{printed}"
    );
    assert!(printed.contains("[redacted]"));
}
