//! `acme-proxy upstream`: the account at the CA in the operator's hands, beside a running daemon and without one
//! (UPSTREAM rule 1, SECURITY F9 to F11).

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::harness::process::Daemon;
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

async fn upstream(world: &World, arguments: &[&str]) -> Output {
    let output = world.installation.run(|command| {
        command
            .arg("upstream")
            .args(arguments)
            .arg(world.installation.config());
    });
    output.await
}

/// What a command prints, if it succeeds.
async fn prints(world: &World, arguments: &[&str]) -> String {
    let output = upstream(world, arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command complains of, in its last line; audit and error events stand before it.
async fn complains(world: &World, arguments: &[&str]) -> String {
    let output = upstream(world, arguments).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    let error = text(&output.stderr);
    let last = error.lines().last().unwrap().to_owned();
    assert!(last.starts_with("acme-proxy: "), "{error}");
    last
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The line of `show` that begins with this, without it.
fn line(shown: &str, begin: &str) -> String {
    let found = shown
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(begin));
    found
        .unwrap_or_else(|| panic!("no {begin} in:\n{shown}"))
        .to_owned()
}

/// What is written at the path, and its mode.
fn file(path: &std::path::Path) -> (Value, u32) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    (
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        mode,
    )
}

async fn started(world: &World) -> Daemon {
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon
}

/// A CA whose EAB makes as many accounts as one likes.
async fn generous() -> World {
    World::with(std::time::Duration::ZERO, |options| options.eab_once = false).await
}

/// Whether a client gets a certificate.
async fn issues(world: &Arc<World>, name: &str) {
    let ledger = Arc::new(Ledger::default());
    Client::new(world, &ledger).obtain(&[name]).await;
    assert_eq!(world.finalizes_for(&[name]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_registering_without_a_daemon_spends_the_eab_once_whoever_registers_or_starts_after_it() {
    let world = World::new().await;
    let before = prints(&world, &["show"]).await;
    assert_eq!(line(&before, "state: "), "unregistered");
    assert_eq!(line(&before, "EAB: "), "configured");
    let made = prints(&world, &["register"]).await;
    assert!(
        made.starts_with("Upstream default is registered: https://"),
        "{made}"
    );
    let again = prints(&world, &["register"]).await;
    assert!(
        again.contains("is registered already") && again.contains("--again"),
        "{again}"
    );
    for _ in 0..3 {
        started(&world).await.stop().await;
    }
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let after = prints(&world, &["show"]).await;
    assert_eq!(line(&after, "state: "), "registered");
    assert!(line(&after, "account: ").ends_with("/account/0"), "{after}");
    assert_eq!(line(&after, "key: ").len(), 43, "RFC 7638, SHA-256, base64url");
    assert!(
        !after.contains("health") && !after.contains("earlier accounts"),
        "{after}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_changed_beside_a_running_daemon_which_goes_on_with_the_new_one() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    issues(&world, "before.test.example.com").await;
    let shown = prints(&world, &["show"]).await;
    assert_eq!(line(&shown, "health: "), "ok");
    let old = line(&shown, "key: ");
    let rotated = prints(&world, &["rotate-key"]).await;
    let new = line(&prints(&world, &["show"]).await, "key: ");
    assert!(
        rotated.contains(&old) && rotated.contains(&new) && old != new,
        "{rotated}"
    );
    issues(&world, "after.test.example.com").await;
    daemon.stop().await;
    prints(&world, &["rotate-key"]).await;
    let daemon = started(&world).await;
    issues(&world, "restarted.test.example.com").await;
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let shown = prints(&world, &["show"]).await;
    assert!(line(&shown, "account: ").ends_with("/account/0"), "{shown}");
    assert!(world.installation.log().contains("account key changed at the CA"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_change_of_key_that_is_cut_off_is_settled_by_what_the_ca_knows() {
    for (moment, changed) in [(Moment::Received, false), (Moment::Done, true)] {
        for running in [true, false] {
            let world = Arc::new(World::new().await);
            let daemon = started(&world).await;
            let old = line(&prints(&world, &["show"]).await, "key: ");
            let daemon = match running {
                true => Some(daemon),
                false => {
                    daemon.stop().await;
                    None
                }
            };
            world.storm.stop(moment, "key-change");
            let mut command = world.installation.command();
            command
                .args(["upstream", "rotate-key"])
                .arg(world.installation.config());
            let mut command = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            world.storm.has_caught_one().await;
            if let Some(daemon) = daemon {
                daemon.kill().await;
            }
            command.kill().await.unwrap();
            world.storm.let_go();
            let cut_off = prints(&world, &["show"]).await;
            assert!(cut_off.contains("a change of the key was cut off"), "{cut_off}");
            let daemon = started(&world).await;
            let settled = prints(&world, &["show"]).await;
            assert!(!settled.contains("cut off"), "{settled}");
            assert_eq!(line(&settled, "key: ") != old, changed, "{moment:?} {settled}");
            issues(&world, "www.test.example.com").await;
            prints(&world, &["rotate-key"]).await;
            issues(&world, "later.test.example.com").await;
            daemon.stop().await;
            let stats = world.ca.stats();
            assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_key_that_the_ca_refuses_changes_nothing() {
    let world = Arc::new(World::new().await);
    let nothing = complains(&world, &["rotate-key"]).await;
    assert!(nothing.contains("there is no account yet"), "{nothing}");
    let daemon = started(&world).await;
    let before = prints(&world, &["show"]).await;
    world.storm.refuse("key-change", 403, "unauthorized");
    let refused = complains(&world, &["rotate-key"]).await;
    assert!(
        refused.contains("the key is not changed: the CA refused"),
        "{refused}"
    );
    assert_eq!(prints(&world, &["show"]).await, before);
    issues(&world, "www.test.example.com").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_f11_another_account_is_made_only_when_told_to_and_the_one_before_is_kept() {
    let world = Arc::new(generous().await);
    let daemon = started(&world).await;
    let before = prints(&world, &["show"]).await;
    prints(&world, &["register"]).await;
    assert_eq!(world.ca.stats().accounts, 1);
    let again = prints(&world, &["register", "--again"]).await;
    assert!(again.contains("/account/1"), "{again}");
    let shown = prints(&world, &["show"]).await;
    assert!(line(&shown, "account: ").ends_with("/account/1"), "{shown}");
    let (_, earlier) = shown.split_once("earlier accounts").unwrap();
    assert!(earlier.contains(&line(&before, "account: ")), "{shown}");
    assert!(earlier.contains(&line(&before, "key: ")), "{shown}");
    issues(&world, "www.test.example.com").await;
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (2, 2));
    assert_eq!(
        prints(&world, &["show"])
            .await
            .lines()
            .filter(|l| l.contains("/account/"))
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_another_account_that_the_ca_refuses_leaves_the_one_that_is_there() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    let before = prints(&world, &["show"]).await;
    let refused = complains(&world, &["register", "--again"]).await;
    assert!(refused.contains("whether the EAB has been used"), "{refused}");
    assert!(
        refused.contains("not awaiting external account binding"),
        "{refused}"
    );
    let after = prints(&world, &["show"]).await;
    assert!(after.starts_with(&before), "{after}");
    issues(&world, "www.test.example.com").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_another_registration_that_is_cut_off_goes_on_with_the_same_key() {
    for moment in [Moment::Received, Moment::Done] {
        let world = Arc::new(generous().await);
        prints(&world, &["register"]).await;
        world.storm.stop(moment, "new-account");
        let mut command = world.installation.command();
        command
            .args(["upstream", "register", "--again"])
            .arg(world.installation.config());
        let mut command = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        world.storm.has_caught_one().await;
        command.kill().await.unwrap();
        world.storm.let_go();
        let cut_off = prints(&world, &["show"]).await;
        assert!(cut_off.contains("another registration was cut off"), "{cut_off}");
        assert!(line(&cut_off, "account: ").ends_with("/account/0"), "{cut_off}");
        prints(&world, &["register", "--again"]).await;
        let stats = world.ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses), (2, 2), "{moment:?}");
        let shown = prints(&world, &["show"]).await;
        assert!(line(&shown, "account: ").ends_with("/account/1"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_moves_to_another_machine_and_is_the_same_there() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    let path = world.installation.path("account.json");
    let name = path.to_str().unwrap();
    assert_eq!(prints(&world, &["export", name]).await, "");
    let (exported, mode) = file(&path);
    assert_eq!(mode, 0o600);
    let shown = prints(&world, &["show"]).await;
    assert_eq!(exported["account"], line(&shown, "account: "));
    assert_eq!(exported["directory"], line(&shown, "directory: "));
    let printed: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    assert_eq!(printed, exported);
    let there = complains(&world, &["export", name]).await;
    assert!(there.contains("exists; nothing is overwritten"), "{there}");
    let already = complains(&world, &["import", name]).await;
    assert!(already.contains("is this upstream's already"), "{already}");
    daemon.stop().await;

    // The other machine: the store is empty, and the EAB is spent.
    std::fs::rename(world.installation.store(), world.installation.path("old")).unwrap();
    let mut daemon = world.installation.start();
    daemon.serves().await;
    let blocked = complains(&world, &["import", name]).await;
    assert!(
        blocked.contains("there is a key already") && blocked.contains("--replace"),
        "{blocked}"
    );
    let imported = prints(&world, &["import", "--replace", name]).await;
    assert!(
        imported.contains(exported["account"].as_str().unwrap()),
        "{imported}"
    );
    daemon.is_well().await;
    issues(&world, "www.test.example.com").await;
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let log = world.installation.log();
    let key = exported["key"].as_str().unwrap().lines().nth(1).unwrap();
    assert!(!log.contains(key), "the private key is in the log");
    for audit in ["account exported with its private key", "account imported"] {
        assert!(log.contains(audit), "{audit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_lego_and_acme_sh_are_imported_once_the_ca_has_confirmed_them() {
    let world = World::new().await;
    prints(&world, &["register"]).await;
    let account: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    let (url, key) = (
        account["account"].as_str().unwrap(),
        account["key"].as_str().unwrap(),
    );
    let at = |name: &str| world.installation.path(name);
    std::fs::create_dir_all(at("lego/keys")).unwrap();
    let json = serde_json::json!({ "email": "me@example.com", "registration": { "body": {}, "uri": url } });
    std::fs::write(at("lego/account.json"), json.to_string()).unwrap();
    std::fs::write(at("lego/keys/me@example.com.key"), key).unwrap();
    std::fs::create_dir_all(at("acme.sh")).unwrap();
    std::fs::write(at("acme.sh/account.key"), key).unwrap();
    std::fs::write(at("acme.sh/ca.conf"), format!("ACCOUNT_URL='{url}'\n")).unwrap();
    for client in ["lego", "acme.sh"] {
        let _moved = std::fs::remove_dir_all(world.installation.store());
        let imported = prints(&world, &["import", at(client).to_str().unwrap()]).await;
        assert!(imported.contains(url), "{imported}");
    }
    started(&world).await.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_account_of_this_ca_is_not_imported_and_nothing_changes() {
    let world = World::new().await;
    prints(&world, &["register"]).await;
    let before = prints(&world, &["show"]).await;
    let good: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    let path = world.installation.path("account.json");
    let name = path.to_str().unwrap();
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
    let with = |member: &str, value: String| {
        let mut changed = good.clone();
        changed[member] = value.into();
        changed.to_string()
    };
    let other_account = good["account"]
        .as_str()
        .unwrap()
        .replace("/account/0", "/account/9");
    let mut foreign = good.clone();
    foreign["key"] = pem(&rcgen::PKCS_ECDSA_P256_SHA256).into();
    foreign["account"] = "https://evil.example/account/0".into();
    let cases = [
        ("{}".to_owned(), "acme-proxy upstream export"),
        (with("key", "nothing".to_owned()), "no private key"),
        (with("key", pem(&rcgen::PKCS_ECDSA_P384_SHA384)), "P-256"),
        (
            with("directory", "https://other.example/directory".to_owned()),
            "https://other.example/directory",
        ),
        (with("account", other_account), "is this upstream's already"),
        (
            with("key", pem(&rcgen::PKCS_ECDSA_P256_SHA256)),
            "does not take the key",
        ),
        (foreign.to_string(), "is not an https URL of the CA's own host"),
    ];
    for (text, why) in cases {
        std::fs::write(&path, text).unwrap();
        let error = complains(&world, &["import", "--replace", name]).await;
        assert!(error.contains(why), "{error}");
    }
    let missing = complains(&world, &["import", "/nonexistent"]).await;
    assert!(missing.contains("/nonexistent can not be read"), "{missing}");
    let empty = complains(&world, &["import", world.installation.store().to_str().unwrap()]).await;
    assert!(empty.contains("certbot") && empty.contains("lego"), "{empty}");
    for command in ["show", "register", "rotate-key"] {
        let unknown = complains(&world, &[command, "--upstream", "nobody"]).await;
        assert!(
            unknown.contains("no upstream \"nobody\"") && unknown.contains("default"),
            "{unknown}"
        );
    }
    let export = complains(&world, &["export", "--upstream", "nobody", "-"]).await;
    assert!(export.contains("nobody"), "{export}");
    assert_eq!(prints(&world, &["show"]).await, before);
    assert_eq!(world.ca.stats().eab_uses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_1_another_eab_or_none_is_another_account_and_the_one_before_is_kept() {
    let world = World::with(std::time::Duration::ZERO, |options| {
        options.eab_required = false;
        options.eab_once = false;
    })
    .await;
    let daemon = started(&world).await;
    daemon.stop().await;
    let before = prints(&world, &["show"]).await;
    world.installation.edit(|config| {
        let config = config["authority"]["config"].as_object_mut().unwrap();
        config.remove("eab_kid");
        config.remove("eab_hmac_key");
    });
    let other = prints(&world, &["show"]).await;
    assert_eq!(
        (line(&other, "state: "), line(&other, "EAB: ")),
        ("unregistered".to_owned(), "none".to_owned())
    );
    let daemon = started(&world).await;
    let after = prints(&world, &["show"]).await;
    let (_, earlier) = after.split_once("earlier accounts").unwrap();
    assert!(earlier.contains(&line(&before, "account: ")), "{after}");
    assert!(line(&after, "account: ").ends_with("/account/1"), "{after}");
    daemon.stop().await;
    assert_eq!(world.ca.stats().accounts, 2);
}
