//! `acme-proxy upstream`: the account at the CA in the operator's hands, beside a running daemon and without one
//! (UPSTREAM rule 1, SECURITY F24).

mod again;
mod import;

use std::process::Stdio;
use std::sync::Arc;

use crate::harness::process::Daemon;
use crate::harness::storm::{Moment, Step};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

/// What a command prints, if it succeeds.
async fn prints(world: &World, arguments: &[&str]) -> String {
    world.installation.prints("upstream", arguments).await
}

/// What a command complains of, in its last line; audit and error events stand before it.
async fn complains(world: &World, arguments: &[&str]) -> String {
    let error = world.installation.complains("upstream", arguments).await;
    let last = error.lines().last().unwrap().to_owned();
    assert!(last.starts_with("acme-proxy: "), "{error}");
    last
}

/// Cuts a command off, and the daemon with it if there is one, when it has come to this moment of this step at the CA.
/// What is shown then.
async fn cut_off(
    world: &World,
    arguments: &[&str],
    (moment, step): (Moment, Step),
    daemon: Option<Daemon>,
) -> String {
    world.storm.stop(moment, step);
    let mut command = world.installation.operator("upstream", arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut command = command.spawn().unwrap();
    world.storm.has_caught_one().await;
    if let Some(daemon) = daemon {
        daemon.kill().await;
    }
    command.kill().await.unwrap();
    world.storm.let_go();
    prints(world, &["show"]).await
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
pub(crate) async fn issues(world: &Arc<World>, name: &str) {
    let ledger = Arc::new(Ledger::default());
    Client::new(world, &ledger).obtain(&[name]).await;
    ledger.has_no_complaint();
    assert_eq!(world.finalizes_for(&[name]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_registering_without_a_daemon_spends_the_eab_once_whoever_registers_or_starts_after_it() {
    let world = World::new().await;
    let before = complains(&world, &["show"]).await;
    assert!(before.contains("there is no store"), "{before}");
    world.installation.prints("eab", &["add"]).await;
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
            let shown = cut_off(&world, &["rotate-key"], (moment, "key-change"), daemon).await;
            assert!(shown.contains("a change of the key was cut off"), "{shown}");
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
    world.installation.prints("eab", &["add"]).await;
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
