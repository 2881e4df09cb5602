//! Another account in place of the one that is there (SECURITY F9 to F11): only when the operator says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::store::{Store as _, Versioned};
use acme_proxy::upstream::account::VAULT;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::ca::script::Step;
use crate::harness::server::store_of;
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;
use crate::upstream_cli::{complains, cut_off, generous, issues, line, prints, started};

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
        let shown = cut_off(&world, &["register", "--again"], (moment, "new-account"), None).await;
        assert!(shown.contains("another registration was cut off"), "{shown}");
        assert!(line(&shown, "account: ").ends_with("/account/0"), "{shown}");
        prints(&world, &["register", "--again"]).await;
        let stats = world.ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses), (2, 2), "{moment:?}");
        let shown = prints(&world, &["show"]).await;
        assert!(line(&shown, "account: ").ends_with("/account/1"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_orders_that_wait_for_an_account_which_the_ca_has_deactivated_are_issued_by_the_one_made_again() {
    let world = Arc::new(generous().await);
    let daemon = started(&world).await;
    issues(&world, "before.test.example.com").await;
    world.ca.deactivates_accounts();
    let names = ["a.test.example.com", "b.test.example.com", "c.test.example.com"];
    let refused = world.ca.asked(Step::NewOrder);
    let (ledger, mut waiting) = (Arc::new(Ledger::default()), JoinSet::new());
    for name in names {
        let mut client = Client::new(&world, &ledger);
        waiting.spawn(async move { client.obtain(&[name]).await });
    }
    while world.ca.asked(Step::NewOrder) == refused {
        sleep(Duration::from_millis(10)).await;
    }
    // The account is there, as far as is known here, and only the operator can tell that it is of no use.
    let kept = prints(&world, &["register"]).await;
    assert!(kept.contains("is registered already"), "{kept}");
    assert!(names.iter().all(|name| world.orders_for(&[name]) == 0));
    let again = prints(&world, &["register", "--again"]).await;
    assert!(again.contains("/account/1"), "{again}");
    while let Some(obtained) = waiting.join_next().await {
        obtained.unwrap();
    }
    for name in names {
        assert_eq!(
            (world.orders_for(&[name]), world.finalizes_for(&[name])),
            (1, 1),
            "{name}"
        );
    }
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (2, 2));
    let log = world.installation.log();
    assert!(log.contains("or has deactivated it"), "{log}");
}

/// All records of accounts in the store, whose daemon has ended.
async fn records(world: &World) -> BTreeSet<Vec<u8>> {
    let store = store_of(&world.installation.config()).await;
    let mut records = BTreeSet::new();
    for name in store.names(VAULT).await.unwrap() {
        records.insert(store.load(&name).await.unwrap().unwrap().value);
    }
    records
}

/// Cuts off the end of the one record of an account in the store, whose daemon has ended. What is left of it.
async fn damage(world: &World) -> Vec<u8> {
    let store = store_of(&world.installation.config()).await;
    let names = store.names(VAULT).await.unwrap();
    let [name] = names.as_slice() else {
        panic!("there is one account, and not {names:?}");
    };
    let Versioned { mut value, version } = store.load(name).await.unwrap().unwrap();
    value.truncate(value.len() / 2);
    store
        .save(name, Versioned::with(version, value.clone()))
        .await
        .unwrap();
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_record_that_can_not_be_read_is_kept_and_replaced_by_an_account_made_again_only() {
    for running in [true, false] {
        let world = Arc::new(generous().await);
        prints(&world, &["register"]).await;
        let damaged = damage(&world).await;
        let daemon = match running {
            true => {
                let mut daemon = world.installation.start();
                daemon.serves().await;
                Some(daemon)
            }
            false => None,
        };
        let shown = prints(&world, &["show"]).await;
        assert!(line(&shown, "state: ").contains("can not be read"), "{shown}");
        let refused = complains(&world, &["register"]).await;
        assert!(
            refused.contains("can not be read") && refused.contains("--again"),
            "{refused}"
        );
        let stats = world.ca.stats();
        assert_eq!(
            (stats.accounts, stats.eab_uses),
            (1, 1),
            "without the operator's word"
        );

        let again = prints(&world, &["register", "--again"]).await;
        assert!(again.contains("/account/1"), "{again}");
        let shown = prints(&world, &["show"]).await;
        assert_eq!(line(&shown, "state: "), "registered");
        let mut daemon = match daemon {
            Some(daemon) => daemon,
            None => world.installation.start(),
        };
        daemon.is_well().await;
        issues(&world, "www.test.example.com").await;
        daemon.stop().await;
        let stats = world.ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses), (2, 2), "one EAB more");
        let records = records(&world).await;
        assert_eq!(records.len(), 2);
        assert!(records.contains(&damaged), "not a byte of it is lost");
    }
}
