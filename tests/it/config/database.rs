//! `db.type` `postgresql`: each key, each bad value with its sentence, and no secret in any of them.

use std::path::PathBuf;

use acme_proxy::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::config::{lines, load};

/// A password that must not be seen.
const CANARY: &str = "kanarienvogel";

const SECRET: &str = "Hn5Yw2Zk8Qv0Rb7Lc4Tx1Md9Sf6Jg3Pa";

/// Files with secrets.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for (name, text) in [
            ("secret", SECRET),
            ("short", "abc123"),
            ("same", &"ab".repeat(40)),
            ("password", CANARY),
        ] {
            std::fs::write(files.path(name), text).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn named(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    /// A good section, with these members in place of its own.
    fn section(&self, members: &Value) -> Value {
        let mut section = json!({
            "type": "postgresql",
            "dataSource": "postgresql://user@db1.example.com/base",
            "secret": self.named("secret"),
        });
        for (name, value) in members.as_object().unwrap() {
            section[name] = value.clone();
        }
        section
    }

    fn config(&self, members: &Value) -> Config {
        let config = load(&[("/db", self.section(members))]).unwrap();
        let all = format!("{config:?} {} {}", config.report(), config.warnings.join(" "));
        assert!(!all.contains(CANARY) && !all.contains(SECRET), "{all}");
        config
    }
}

#[test]
fn the_database_its_password_secret_and_pool_are_read() {
    let files = Files::new();
    let config = files
        .config(&json!({ "password": files.named("password"), "pool": 5, "socket_directory": "/run/a" }));
    let database = config.database.as_ref().unwrap();
    assert_eq!(database.connection.place(), "base at db1.example.com:5432");
    assert_eq!(database.connection.password.as_ref().unwrap().reveal(), CANARY);
    assert_eq!(
        (database.connection.pool, database.secret.reveal().as_slice()),
        (5, SECRET.as_bytes())
    );
    assert_eq!(config.store.path, PathBuf::from("/run/a"));
    assert!(
        config
            .report()
            .contains("kept in the PostgreSQL database base at db1.example.com:5432")
    );
    let defaults = files.config(&json!({}));
    assert_eq!(defaults.database.unwrap().connection.pool, 16);
    assert_eq!(defaults.store.path, PathBuf::from("/run/acme-proxy"));
}

#[test]
fn the_name_of_the_database_is_found_as_step_ca_finds_it() {
    let files = Files::new();
    for (members, expected) in [
        (json!({}), "base"),
        (json!({ "database": "other" }), "other"),
        (json!({ "dataSource": "postgresql://user@h" }), "user"),
        (
            json!({ "dataSource": "postgresql://user@h", "database": "other" }),
            "other",
        ),
    ] {
        let database = files.config(&members).database.unwrap();
        assert_eq!(database.connection.database, expected, "{members}");
    }
}

#[test]
fn a_password_in_the_url_is_taken_with_a_warning_and_makes_the_file_a_secret_one() {
    let files = Files::new();
    let url = format!("postgresql://user:{CANARY}@h/base");
    let eab = files.named("secret");
    let elsewhere = |url: &str| {
        let section = files.section(&json!({ "dataSource": url }));
        let config = load(&[
            ("/db", section),
            ("/authority/config/eab_kid", json!(eab)),
            ("/authority/config/eab_hmac_key", json!(eab)),
        ]);
        config.unwrap()
    };
    assert!(!elsewhere("postgresql://user@h/base").holds_secrets);
    assert!(elsewhere(&url).holds_secrets);
    let config = files.config(&json!({ "dataSource": url }));
    let warnings = config.warnings.join(" ");
    assert!(
        warnings.contains("db.dataSource: holds the password"),
        "{warnings}"
    );
    let database = config.database.unwrap();
    assert_eq!(database.connection.password.unwrap().reveal(), CANARY);
}

#[test]
fn c1201_each_bad_value_is_an_error_with_its_key_and_the_fix_and_without_the_secret() {
    let files = Files::new();
    let canary_url = format!("postgresql://user:{CANARY}@h:0/base");
    for (members, words) in [
        (json!({ "dataSource": null }), "db.dataSource: is"),
        (
            json!({ "dataSource": "" }),
            "db.dataSource: is missing; write \"postgresql://",
        ),
        (
            json!({ "dataSource": canary_url }),
            "db.dataSource: has a port that is no number",
        ),
        (
            json!({ "secret": "" }),
            "db.secret: is missing; all replicas need the same one: make one with: openssl",
        ),
        (
            json!({ "secret": SECRET }),
            "db.secret: says the secret itself; write it into a file",
        ),
        (
            json!({ "secret": files.named("short") }),
            "that can be guessed: fewer than 32 bytes",
        ),
        (
            json!({ "secret": files.named("same") }),
            "that can be guessed: fewer than 32 bytes, or not random",
        ),
        (json!({ "secret": files.named("missing") }), "can not be read"),
        (
            json!({ "password": CANARY }),
            "db.password: says the secret itself; write it into a file",
        ),
        (
            json!({ "pool": 1 }),
            "db.pool: 1 is out of range; write a number from 2 to 200",
        ),
        (json!({ "pool": 201 }), "db.pool: 201 is out of range"),
        (
            json!({ "pool": "16" }),
            "db.pool: is a string; write a number from 2 to 200",
        ),
        (
            json!({ "dataSource": "postgresql://u:x@h/base", "password": files.named("password") }),
            "db.password: says the password, and so does db.dataSource",
        ),
    ] {
        let lines = lines(load(&[("/db", files.section(&members))]));
        assert!(
            lines.len() == 1 && lines[0].contains(words),
            "{members}: {lines:#?}"
        );
        assert!(
            !lines[0].contains(CANARY) && !lines[0].contains(SECRET),
            "{lines:?}"
        );
    }
}
