//! `acme-proxy import step-ca`: accounts of a real step-ca, beside a running daemon and without one; and what an imported
//! account is on the wire.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use acme_proxy::acme::account::{Account, Foreign};
use acme_proxy::app::control::Request;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::key::Key;
use crate::harness::server::Daemon;
use crate::harness::world::World;
use crate::rfc8555::s7_3_5_key_change::change;

/// Eleven accounts, one of them deactivated; tests/samples/step-ca/README.md says how it was made.
fn sample() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples/step-ca/accounts.bbolt")
}

const ID: &str = "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vxo";

fn foreign(id: &str, key: &Key, deactivated: bool) -> Account {
    let time = "2023-01-02T03:04:05Z".parse().unwrap();
    Account::from(Foreign {
        id: id.parse().unwrap(),
        provisioner: "acme".to_owned(),
        key: serde_json::from_value(key.jwk.clone()).unwrap(),
        contact: vec!["mailto:ops@example.com".parse().unwrap()],
        created: time,
        deactivated: deactivated.then_some(time),
    })
}

/// Has an account imported, and gives what came of it.
async fn import(daemon: &Daemon, account: Account) -> Value {
    let accounts = vec![account];
    let request = Request::ImportAccounts {
        accounts,
        dry_run: false,
    };
    let outcomes: Value = serde_json::from_str(&daemon.control(request).await.unwrap()).unwrap();
    outcomes[0].clone()
}

/// The client as it was before: it knows its key and its account's URL.
fn client(daemon: &Daemon, key: Key, name: &str) -> Client {
    let kid = daemon.site.url(&format!("account/{name}"));
    Client::new(&daemon.site, Arc::new(key), Some(kid))
}

#[tokio::test]
async fn an_imported_account_keeps_its_url_and_does_all_that_an_account_does() {
    let daemon = Daemon::start().await;
    let key = Key::new();
    assert_eq!(import(&daemon, foreign(ID, &key, false)).await, "Now");
    assert_eq!(import(&daemon, foreign(ID, &key, false)).await, "Before");
    let jwk = key.jwk.clone();
    let client = client(&daemon, key, ID);
    let account = client.post(client.kid(), GET).await.expect(200);
    assert_eq!(account.location(), client.kid());
    assert_eq!(account.json()["contact"], json!(["mailto:ops@example.com"]));
    assert_eq!(account.json()["orders"], format!("{}/orders", client.kid()));

    client.issue(&daemon, &["imported.example.com"]).await;
    let orders = client
        .post(&format!("{}/orders", client.kid()), GET)
        .await
        .expect(200);
    assert_eq!(orders.json()["orders"].as_array().unwrap().len(), 1);

    // RFC 8555 §7.3.1: by its key it is found, and under the same URL.
    let stranger = Client::new(&daemon.site, Arc::clone(&client.key), None);
    let found = stranger
        .post(
            &daemon.site.url("new-account"),
            json!({ "onlyReturnExisting": true }),
        )
        .await;
    assert_eq!(found.expect(200).location(), client.kid());
    let another = daemon.account().await;
    let taken = change(
        &another,
        &Key::of(
            "ES256",
            rcgen::KeyPair::try_from(client.key.pair.serialize_der()).unwrap(),
        ),
    )
    .await;
    assert_eq!(taken.status, 409);
    assert_eq!(taken.location(), client.kid());

    let new = Key::new();
    assert_eq!(change(&client, &new).await.expect(200).location(), client.kid());
    let changed = Client::new(&daemon.site, Arc::new(new), client.kid.clone());
    let ended = changed
        .post(changed.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    assert_eq!(ended.location(), client.kid());
    // Nothing brings it back: not with the old key, and not by another import.
    let old = Key {
        alg: "ES256",
        jwk,
        pair: rcgen::KeyPair::try_from(client.key.pair.serialize_der()).unwrap(),
    };
    assert_eq!(import(&daemon, foreign(ID, &old, false)).await, "Before");
    changed
        .post(changed.kid(), GET)
        .await
        .problem(401, "unauthorized");
}

#[tokio::test]
async fn d18_an_account_has_one_url_its_id_here_is_no_way_in_and_neither_is_another_spelling() {
    let daemon = Daemon::start().await;
    let account = foreign(ID, &Key::new(), false);
    let id = account.id().to_string();
    let key = Key::new();
    let account = Account::from(Foreign {
        id: ID.parse().unwrap(),
        key: serde_json::from_value(key.jwk.clone()).unwrap(),
        provisioner: account.provisioner().to_owned(),
        contact: Vec::new(),
        created: account.created(),
        deactivated: None,
    });
    import(&daemon, account).await;
    let right = client(&daemon, key, ID);
    right.post(right.kid(), GET).await.expect(200);
    for wrong in [id.as_str(), &ID.to_lowercase(), &format!("{ID}/"), &ID[..31]] {
        let kid = daemon.site.url(&format!("account/{wrong}"));
        let client = Client::new(&daemon.site, Arc::clone(&right.key), Some(kid));
        let answer = client.post(right.kid(), GET).await;
        answer.problem(400, "accountDoesNotExist");
    }
    // E9: nor is any of these its own URL when it asks with the right one.
    for wrong in [id.as_str(), &ID.to_lowercase()] {
        let url = daemon.site.url(&format!("account/{wrong}"));
        right.post(&url, GET).await.problem(403, "unauthorized");
    }
    // Under another provisioner it is none.
    let other = daemon
        .site
        .url("account/x")
        .replace("/acme/acme/", "/acme/other/")
        .replace("/x", &format!("/{ID}"));
    let elsewhere = Client::new(&daemon.site, Arc::clone(&right.key), Some(other.clone()));
    elsewhere
        .post(&other, GET)
        .await
        .problem(400, "accountDoesNotExist");
    // An account that was made here is not found under the name that its id could be derived from.
    let ours = daemon.account().await;
    let derived = client(&daemon, Key::new(), ID);
    ours.post(derived.kid(), GET).await.problem(403, "unauthorized");
}

#[tokio::test]
async fn a_deactivated_account_comes_along_and_stays_locked_out() {
    let daemon = Daemon::start().await;
    let key = Key::new();
    assert_eq!(import(&daemon, foreign(ID, &key, true)).await, "Now");
    let client = client(&daemon, key, ID);
    client.post(client.kid(), GET).await.problem(401, "unauthorized");
    let stranger = Client::new(&daemon.site, Arc::clone(&client.key), None);
    let again = stranger.post(&daemon.site.url("new-account"), json!({})).await;
    again.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_key_that_has_an_account_here_keeps_it() {
    let daemon = Daemon::start().await;
    let here = daemon.account().await;
    let outcome = import(&daemon, foreign(ID, &here.key, false)).await;
    let id = here.kid().rsplit('/').next().unwrap();
    assert_eq!(outcome, json!({ "KeyTaken": { "Ours": id } }));
    here.post(here.kid(), GET).await.expect(200);
    let key = Key::new();
    import(&daemon, foreign(ID, &key, false)).await;
    assert_eq!(import(&daemon, foreign(ID, &key, true)).await, "StillValid");
}

/// What an import of the sample says, without the path.
pub(crate) async fn says(world: &World, flags: &[&str]) -> Vec<String> {
    says_of(world, &sample(), flags).await
}

async fn says_of(world: &World, database: &Path, flags: &[&str]) -> Vec<String> {
    let sample = database.display().to_string();
    let text = world
        .installation
        .prints("import", &[&["step-ca", &sample], flags].concat())
        .await;
    text.lines()
        .map(|line| line.replace(&sample, "FILE").trim().to_owned())
        .collect()
}

#[tokio::test]
async fn accounts_are_imported_once_and_counted_with_a_daemon_and_without() {
    for with_daemon in [true, false] {
        let world = World::new().await;
        let audit = world.installation.path("audit.log");
        world
            .installation
            .edit(|config| config["authority"]["config"]["audit"] = serde_json::json!({ "file": audit }));
        // The port in the clients' URLs.
        let daemon = match with_daemon {
            true => {
                let mut daemon = world.installation.start();
                daemon.serves().await;
                Some(daemon)
            }
            false => None,
        };
        let dry = says(&world, &["--dry-run"]).await;
        assert_eq!(
            dry[..4],
            [
                "FILE: 11 accounts",
                "to be imported: 11, 1 of them deactivated",
                "here before: 0",
                "not taken: 0"
            ]
        );
        assert!(dry[4].contains(
            "the clients of 11 know their accounts as https://acmeproxy.example.com:14443/acme/acme/account/"
        ));
        assert_eq!(dry[5..], ["Nothing was written: this was a dry run."]);
        assert_eq!(
            world.installation.store().exists(),
            with_daemon,
            "a dry run made a store"
        );
        for before in [0, 11] {
            let done = says(&world, &[]).await;
            let new = 11 - before;
            let deactivated = new / 11;
            assert_eq!(
                done[1],
                format!("imported: {new}, {deactivated} of them deactivated")
            );
            assert_eq!(
                done[2..4],
                [format!("here before: {before}"), "not taken: 0".to_owned()]
            );
        }
        assert!(
            says(&world, &["--dry-run"])
                .await
                .contains(&"here before: 11".to_owned())
        );
        // The operator may name it as its client does.
        let id = "R5zyUjDMmwGUWZVKVjH7ncaANWnRufAq";
        let shown = world.installation.prints("accounts", &["show", id]).await;
        assert!(
            shown.contains(&format!("imported as: {id}")) && shown.contains("mailto:ops@example.com"),
            "{shown}"
        );
        let url = format!("https://acmeproxy.example.com/acme/acme/account/{id}");
        let same = world.installation.prints("accounts", &["show", &url]).await;
        assert_eq!(same, shown);
        let list = world.installation.prints("accounts", &["list"]).await;
        let line = list
            .lines()
            .find(|line| line.contains("ops@example.com"))
            .unwrap();
        assert!(
            line.starts_with(&shown[..32]) && line.ends_with(&format!(" (imported as {id})")),
            "{list}"
        );
        if let Some(daemon) = daemon {
            daemon.stop().await;
        }
        let events = std::fs::read_to_string(&audit).unwrap();
        assert_eq!(
            events.matches("\"account imported from step-ca\"").count(),
            11,
            "{events}"
        );
    }
}

/// A badgerv2 database of step-ca, copied by the program in docs/MIGRATION.md; tests/samples/step-ca/README.md says how.
#[tokio::test]
async fn accounts_that_were_in_badger_are_imported_from_what_the_documented_program_has_written() {
    let world = World::new().await;
    world.installation.edit(|config| {
        config["address"] = "127.0.0.1:14449".into();
        config["dnsNames"] = json!(["acmeproxy.example.com"]);
    });
    let copied = sample().with_file_name("from-badger.bbolt");
    let done = says_of(&world, &copied, &[]).await;
    let expected = [
        "FILE: 4 accounts",
        "imported: 4, 1 of them deactivated",
        "here before: 0",
        "not taken: 0",
    ];
    // And no word of URLs that lead elsewhere.
    assert_eq!(done, expected);
}

#[tokio::test]
async fn accounts_whose_urls_have_the_prefix_of_the_api_s_version_are_this_server_s() {
    let world = World::new().await;
    world.installation.edit(|config| {
        config["address"] = "127.0.0.1:14443".into();
        config["dnsNames"] = json!(["acmep.example.com"]);
    });
    let ours = "https://acmep.example.com:14443/2.0/acme/acme/account/";
    for (prefix, lines) in [(ours, 5), (&ours.replace("2.0", "3.0"), 6)] {
        let before = "https://acmeproxy.example.com:14443/acme/acme/account/";
        assert_eq!(before.len(), prefix.len());
        let mut database = std::fs::read(sample()).unwrap();
        for at in 0..database.len() - before.len() {
            if database[at..].starts_with(before.as_bytes()) {
                database[at..at + before.len()].copy_from_slice(prefix.as_bytes());
            }
        }
        let file = world.installation.path("prefixed");
        std::fs::write(&file, database).unwrap();
        let said = says_of(&world, &file, &["--dry-run"]).await;
        assert_eq!(said[1], "to be imported: 11, 1 of them deactivated");
        assert_eq!(said.len(), lines, "{said:?}");
    }
}

#[tokio::test]
async fn a_badger_database_with_our_store_inside_is_known_to_the_deep_check() {
    let world = World::new().await;
    let badger = world.installation.path("badger");
    std::fs::create_dir(&badger).unwrap();
    std::fs::write(badger.join("MANIFEST"), b"").unwrap();
    world
        .installation
        .edit(|config| config["db"] = json!({ "type": "badgerv2", "dataSource": &badger }));
    let finding = async || {
        let mut check = world.installation.operator("check", &["--deep", "--json"]);
        let printed = check.output().await.unwrap().stdout;
        let printed = String::from_utf8(printed).unwrap();
        let findings = printed.lines().map(|line| serde_json::from_str(line).unwrap());
        let of_database = findings.filter(|finding: &Value| finding["check"] == "go-database");
        let of_database: Vec<Value> = of_database.collect();
        assert_eq!(of_database.len(), 1, "{of_database:?}");
        of_database[0].clone()
    };
    let before = finding().await;
    assert_eq!(before["level"], "warning");
    assert_eq!(before["subject"], badger.to_str().unwrap(), "{before}");
    says(&world, &[]).await;
    assert!(badger.join("sled").join("db").exists());
    assert_eq!(finding().await["level"], "ok");
}

#[tokio::test]
async fn accounts_of_other_provisioners_are_not_taken() {
    let world = World::new().await;
    world
        .installation
        .edit(|config| config["authority"]["provisioners"][0]["name"] = "internal".into());
    let said = says(&world, &["--dry-run"]).await;
    assert_eq!(said[1], "to be imported: 0, 0 of them deactivated");
    assert_eq!(said[3], "not taken: 11");
    assert!(
        said[4].ends_with("it belongs to provisioner \"acme\", and ca.json has none of that name"),
        "{said:?}"
    );
    let sample = sample().display().to_string();
    let why = world
        .installation
        .complains("import", &["step-ca", &sample, "--provisioner", "x"])
        .await;
    assert_eq!(
        why,
        "acme-proxy: ca.json has no provisioner \"x\"; it has internal\n"
    );
}

#[tokio::test]
async fn each_bad_database_has_its_own_sentence_and_nothing_is_written() {
    let world = World::new().await;
    let real = std::fs::read(sample()).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = world.installation.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let directory = |name: &str, content: &str| {
        let path = world.installation.path(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(content), b"").unwrap();
        path
    };
    let mut damaged = real.clone();
    for at in [16 + 20, 4096 + 16 + 20] {
        damaged[at] ^= 1;
    }
    let mut other = real.clone();
    for at in 0..other.len() - 13 {
        if other[at..].starts_with(b"acme_accounts") {
            other[at..at + 4].copy_from_slice(b"mail");
        }
    }
    let held = file("held", &real);
    let lock = std::fs::File::open(&held).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let socket = world.installation.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, sentence) in [
        (
            world.installation.path("nowhere"),
            "can not be read: No such file",
        ),
        (file("empty", b""), "is empty"),
        (
            file("text", b"acme_accounts\n"),
            "is no bbolt database; give the file that db.dataSource names",
        ),
        (file("short", &real[..real.len() / 4]), "cut off"),
        (file("damaged", &damaged), "neither of its two meta pages"),
        (
            file("other", &other),
            "none of a step-ca: there is no bucket acme_accounts",
        ),
        (
            directory("badger", "MANIFEST"),
            "is a badger database, which only badger itself can read",
        ),
        (directory("values", "000001.vlog"), "is a badger database"),
        (
            directory("letters", "a.txt"),
            "is a directory; give the bbolt file",
        ),
        (
            held,
            "is in use, probably by step-ca or the Go acme-proxy: stop it first",
        ),
        (socket, "is no file"),
    ] {
        let why = world
            .installation
            .complains("import", &["step-ca", path.to_str().unwrap()])
            .await;
        assert!(why.contains(sentence), "{why}");
        assert!(why.contains(path.to_str().unwrap()), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
    assert!(!world.installation.store().exists());
}
