//! Accounts, orders, indexes and small values: compare-and-swap, visibility, deletion.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::acme::account::Account;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::job::{Job, Work, WorkKind};
use crate::acme::order::{Order, Settled, Verdict};
use crate::acme::problem::Problem;
use crate::jose::jwk::Jwk;
use crate::store::contract::{
    Backend, HERE, account, again, all, answered, at, create, done, far, finalized, issued, lease, names,
    opened, order,
};
use crate::store::{Registration, StoreError, Versioned};

pub(crate) async fn a_key_has_one_account_however_many_register_it(backend: &impl Backend) {
    let store = backend.open().await;
    let first = account();
    let attempts = (0..100).map(|_| {
        let store = Arc::clone(&store);
        // The same key, but each time with an id of its own.
        let account = Account::new("acme".to_owned(), first.key().clone(), Vec::new(), true, at(0));
        async move { (account.id(), store.create_account(&account).await.unwrap()) }
    });
    let (mut created, mut existing) = (Vec::new(), BTreeSet::new());
    for (id, registration) in all(attempts).await {
        match registration {
            Registration::Created => created.push(id),
            Registration::Exists(account) => drop(existing.insert(account.value.id())),
            Registration::KeyUsed => panic!("no key was used"),
        }
    }
    assert_eq!(created.len(), 1);
    assert_eq!(existing, created.iter().copied().collect());
    // Another provisioner's accounts are others.
    let elsewhere = Account::new("other".to_owned(), first.key().clone(), Vec::new(), true, at(0));
    assert!(matches!(
        store.create_account(&elsewhere).await,
        Ok(Registration::Created)
    ));
    let thumbprint = first.key().thumbprint();
    let found = store.account_by_key("other", &thumbprint).await.unwrap().unwrap();
    assert_eq!(found.value, elsewhere);
    assert_eq!(store.account_by_key("third", &thumbprint).await, Ok(None));
}

pub(crate) async fn an_account_is_replaced_by_compare_and_swap(backend: &impl Backend) {
    let store = backend.open().await;
    let account = account();
    store.create_account(&account).await.unwrap();
    let read = store.account(account.id()).await.unwrap().unwrap();
    assert_eq!(read.value, account);
    let changed = Versioned::with(read.version, account.clone().deactivated(at(5)));
    assert_eq!(store.update_account(changed.clone()).await, Ok(()));
    assert_eq!(
        store.update_account(changed.clone()).await,
        Err(StoreError::Conflict)
    );
    let read = store
        .account_by_key("acme", &account.key().thumbprint())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.value, changed.value);
    assert_eq!(store.account(AccountId::random()).await, Ok(None));
}

pub(crate) async fn an_accounts_new_key_leads_to_it_and_the_old_one_to_nobody(backend: &impl Backend) {
    let store = backend.open().await;
    let wanted = account().key().clone();
    let rivals: Vec<Account> = (0..20).map(|_| account()).collect();
    for rival in &rivals {
        store.create_account(rival).await.unwrap();
    }
    let attempts = rivals.iter().map(|rival| {
        let (store, changed) = (Arc::clone(&store), rival.clone().with_key(wanted.clone()));
        async move {
            let version = store.account(changed.id()).await.unwrap().unwrap().version;
            let changed = Versioned::with(version, changed);
            (changed.value.id(), store.update_account(changed).await)
        }
    });
    let outcomes = all(attempts).await;
    let winners: Vec<AccountId> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.is_ok())
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(winners.len(), 1);
    let lost = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == Err(StoreError::Conflict));
    assert_eq!(lost.count(), 19);
    let holder = |key: &Jwk| {
        let (store, thumbprint) = (Arc::clone(&store), key.thumbprint());
        async move {
            let found = store.account_by_key("acme", &thumbprint).await.unwrap();
            found.map(|found| found.value.id())
        }
    };
    assert_eq!(holder(&wanted).await, Some(winners[0]));
    for rival in &rivals {
        let expected = (rival.id() != winners[0]).then_some(rival.id());
        assert_eq!(holder(rival.key()).await, expected);
    }
}

pub(crate) async fn of_many_commits_on_one_version_one_wins(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, work) = answered(order(AccountId::random()));
    create(&store, &order, None).await;
    for _ in 0..5 {
        let version = store.order(order.id()).await.unwrap().unwrap().version;
        let commits = (0..50).map(|_| {
            let (store, order) = (Arc::clone(&store), Versioned::with(version, order.clone()));
            let job = Job::now(work, order.value.account(), HERE, at(1));
            async move { store.commit(order, Some(job)).await }
        });
        let outcomes = all(commits).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let lost = outcomes
            .iter()
            .filter(|outcome| **outcome == Err(StoreError::Conflict));
        assert_eq!(lost.count(), 49);
    }
    assert_eq!(store.create_order(&order, None).await, Err(StoreError::Conflict));
    let missing = self::order(AccountId::random());
    assert_eq!(
        store.commit(Versioned::with(1, missing), None).await,
        Err(StoreError::Conflict)
    );
}

pub(crate) async fn an_order_and_its_job_are_one_write(backend: &impl Backend) {
    let store = backend.open().await;
    let pending = order(AccountId::random());
    create(&store, &pending, None).await;
    let (answered, work) = answered(pending);
    let job = Some(Job::now(work, answered.account(), HERE, at(1)));
    let stale = Versioned::with(7, answered.clone());
    assert_eq!(store.commit(stale, job).await, Err(StoreError::Conflict));
    assert!(lease(&store, WorkKind::Validate, 1).await.is_empty());
    assert_eq!(
        store.create_order(&answered, job).await,
        Err(StoreError::Conflict)
    );
    assert!(lease(&store, WorkKind::Validate, 1).await.is_empty());
    let read = store.order(answered.id()).await.unwrap().unwrap();
    assert_eq!(
        store
            .commit(Versioned::with(read.version, answered.clone()), job)
            .await,
        Ok(())
    );
    assert_eq!(lease(&store, WorkKind::Validate, 1).await.len(), 1);
    assert_eq!(store.order(answered.id()).await.unwrap().unwrap().value, answered);
}

pub(crate) async fn an_acknowledged_write_is_visible_to_every_reader(backend: &impl Backend) {
    let store = backend.open().await;
    let writers = (0..32).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let owner = AccountId::random();
            for count in 1..=5 {
                let order = finalized(names(&["a.example.com"]), at(0));
                create(&store, &order, Some(Work::Issue(order.id()))).await;
                let read = store.order(order.id()).await.unwrap().unwrap();
                assert_eq!(read.value, order);
                let order = self::order(owner);
                create(&store, &order, None).await;
                assert_eq!(store.orders_of(owner, None, 99).await.unwrap().len(), count);
            }
        }
    });
    all(writers).await;
}

pub(crate) async fn the_line_is_ordered_by_finalization(backend: &impl Backend) {
    let store = backend.open().await;
    let (ab, ba) = (
        names(&["a.example.com", "b.example.com"]),
        names(&["b.example.com", "a.example.com"]),
    );
    let late = finalized(ab.clone(), at(20));
    let mut tied = [finalized(ab.clone(), at(10)), finalized(ba, at(10))];
    tied.sort_by_key(Order::id);
    let [first, second] = tied;
    let alone = finalized(names(&["a.example.com"]), at(1));
    assert_eq!(store.first_in_line(&late).await, Ok(None));
    for order in [&late, &second, &first, &alone] {
        create(&store, order, None).await;
    }
    for next in [&first, &second, &late] {
        assert_eq!(store.first_in_line(&late).await, Ok(Some(next.id())));
        let ended = next.clone().failed(Problem::internal(), at(30));
        store.commit(Versioned::with(1, ended), None).await.unwrap();
    }
    assert_eq!(store.first_in_line(&late).await, Ok(None));
    assert_eq!(store.first_in_line(&alone).await, Ok(Some(alone.id())));
}

pub(crate) async fn each_upstream_has_lines_of_its_own(backend: &impl Backend) {
    let store = backend.open().await;
    let there = "another".parse().unwrap();
    let here = finalized(names(&["a.example.com"]), at(1));
    let beside = finalized(names(&["a.example.com"]), at(2)).placed_at(there, at(2));
    for order in [&here, &beside] {
        create(&store, order, None).await;
        assert_eq!(store.first_in_line(order).await, Ok(Some(order.id())));
    }
    let moved = here.clone().placed_at(there, at(3));
    store
        .commit(Versioned::with(1, moved.clone()), None)
        .await
        .unwrap();
    assert_eq!(store.first_in_line(&here).await, Ok(None), "it has left its line");
    let first = store.first_in_line(&moved).await;
    assert_eq!(first, Ok(Some(beside.id())), "whoever comes stands behind");
    let ended = beside.failed(Problem::internal(), at(30));
    store.commit(Versioned::with(1, ended), None).await.unwrap();
    assert_eq!(store.first_in_line(&moved).await, Ok(Some(moved.id())));
}

pub(crate) async fn rule_2_what_is_open_at_the_ca_is_first_in_line_whatever_the_clock_says(
    backend: &impl Backend,
) {
    let store = backend.open().await;
    let open = finalized(names(&["a.example.com"]), at(5)).opened_upstream(opened());
    let before = finalized(names(&["a.example.com"]), at(1));
    for order in [&before, &open] {
        create(&store, order, None).await;
        assert_eq!(store.first_in_line(order).await, Ok(Some(order.id())));
    }
    let ended = open.failed(Problem::internal(), at(30));
    store.commit(Versioned::with(1, ended), None).await.unwrap();
    assert_eq!(store.first_in_line(&before).await, Ok(Some(before.id())));
}

pub(crate) async fn rule_2_of_the_orders_in_a_line_one_is_open_at_the_ca(backend: &impl Backend) {
    let store = backend.open().await;
    let [one, other] = [1, 5].map(|time| finalized(names(&["a.example.com"]), at(time)));
    for order in [&one, &other] {
        create(&store, order, None).await;
    }
    let open = async |order: &Order, version: u64| {
        let opened = order.clone().opened_upstream(opened());
        store.commit(Versioned::with(version, opened), None).await
    };
    assert_eq!(open(&other, 1).await, Ok(()));
    assert_eq!(open(&one, 1).await, Err(StoreError::Conflict));
    assert_eq!(open(&other, 2).await, Ok(()), "it is the one");
    let ended = other.failed(Problem::internal(), at(30));
    store.commit(Versioned::with(3, ended), None).await.unwrap();
    assert_eq!(open(&one, 1).await, Ok(()));
}

pub(crate) async fn orders_are_listed_by_account(backend: &impl Backend) {
    let store = backend.open().await;
    let (owner, other) = (AccountId::random(), AccountId::from_bytes([0xff; 16]));
    let mut ids = Vec::new();
    for owner in [owner, other].repeat(5) {
        let order = order(owner);
        create(&store, &order, None).await;
        ids.push((owner, order.id()));
    }
    for owner in [owner, other] {
        let mut mine: Vec<OrderId> = ids
            .iter()
            .filter(|(o, _)| *o == owner)
            .map(|(_, id)| *id)
            .collect();
        mine.sort();
        assert_eq!(store.orders_of(owner, None, 99).await.unwrap(), mine);
        assert_eq!(store.orders_of(owner, None, 2).await.unwrap(), mine[..2]);
        assert_eq!(
            store.orders_of(owner, Some(mine[1]), 2).await.unwrap(),
            mine[2..4]
        );
        assert_eq!(store.orders_of(owner, Some(mine[4]), 2).await.unwrap(), []);
    }
    assert_eq!(store.orders_of(AccountId::random(), None, 99).await.unwrap(), []);
}

pub(crate) async fn all_accounts_and_orders_are_listed_page_by_page(backend: &impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.all_accounts(None, 9).await.unwrap(), []);
    assert_eq!(store.all_orders(None, 9).await.unwrap(), []);
    let (mut accounts, mut orders) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let account = account();
        store.create_account(&account).await.unwrap();
        let order = order(account.id());
        create(&store, &order, None).await;
        accounts.push(account.id());
        orders.push(order.id());
    }
    accounts.sort();
    orders.sort();
    assert_eq!(store.all_accounts(None, 9).await.unwrap(), accounts);
    assert_eq!(store.all_accounts(None, 2).await.unwrap(), accounts[..2]);
    assert_eq!(
        store.all_accounts(Some(accounts[1]), 2).await.unwrap(),
        accounts[2..]
    );
    assert_eq!(store.all_orders(None, 9).await.unwrap(), orders);
    assert_eq!(store.all_orders(None, 2).await.unwrap(), orders[..2]);
    assert_eq!(store.all_orders(Some(orders[1]), 2).await.unwrap(), orders[2..]);
    assert_eq!(store.all_orders(Some(orders[2]), 2).await.unwrap(), []);
}

pub(crate) async fn c501_an_order_is_found_for_its_account_only(backend: &impl Backend) {
    let store = backend.open().await;
    let (owner, other) = (AccountId::random(), AccountId::random());
    let (owned, others) = (order(owner), order(other));
    create(&store, &owned, None).await;
    create(&store, &others, None).await;
    let found = store.own_order(owner, owned.id()).await.unwrap();
    assert_eq!(found, store.order(owned.id()).await.unwrap());
    assert_eq!(found.map(|found| found.value), Some(owned.clone()));
    for (account, id) in [
        (owner, others.id()),
        (other, owned.id()),
        (owner, OrderId::random()),
        (AccountId::random(), owned.id()),
    ] {
        assert_eq!(store.own_order(account, id).await.unwrap(), None);
    }
    let ended = owned.clone().failed(Problem::internal(), at(30));
    store
        .commit(Versioned::with(1, ended.clone()), None)
        .await
        .unwrap();
    let found = store.own_order(owner, owned.id()).await.unwrap();
    assert_eq!(found.map(|found| found.value), Some(ended));
}

pub(crate) async fn a_large_order_reads_back_whole(backend: &impl Backend) {
    let store = backend.open().await;
    let hosts: Vec<String> = (0..100)
        .map(|n| format!("host-{n}.{}.example.com", "x".repeat(60)))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let large = finalized(names(&hosts), at(0));
    create(&store, &large, None).await;
    let larger = large.clone().opened_upstream(opened());
    store
        .commit(Versioned::with(1, larger.clone()), None)
        .await
        .unwrap();
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.order(large.id()).await.unwrap().unwrap().value, larger);
    let smaller = larger.failed(Problem::internal(), at(2));
    store
        .commit(Versioned::with(2, smaller.clone()), None)
        .await
        .unwrap();
    assert_eq!(store.order(large.id()).await.unwrap().unwrap().value, smaller);
}

pub(crate) async fn small_values_are_replaced_by_compare_and_swap(backend: &impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.load("upstream-account").await, Ok(None));
    let value = |version, size: usize| Versioned::with(version, vec![0xff; size]);
    assert_eq!(store.save("upstream-account", value(0, 3)).await, Ok(1));
    assert_eq!(
        store.save("upstream-account", value(0, 4)).await,
        Err(StoreError::Conflict)
    );
    assert_eq!(store.save("upstream-account", value(1, 20_000)).await, Ok(2));
    assert_eq!(store.load("upstream-account").await, Ok(Some(value(2, 20_000))));
    assert_eq!(store.load("upstream").await, Ok(None));
    assert_eq!(store.save("upstream", value(0, 1)).await, Ok(1));
    assert_eq!(store.save("other", value(0, 1)).await, Ok(1));
    let names = store.names("upstream").await.unwrap();
    assert_eq!(names, ["upstream", "upstream-account"]);
}

pub(crate) async fn the_sweep_leaves_nothing_behind(backend: &impl Backend) {
    drop(backend.open().await);
    let empty = backend.size().await;
    let store = backend.open().await;
    let owner = AccountId::random();
    let (issued, _) = issued("a.example.com");
    let leaf = issued.certificate().unwrap().leaf().fingerprint();
    let issued_id = issued.id();
    create(&store, &issued, Some(Work::Revoke(issued_id))).await;
    assert_eq!(store.order_of_certificate(leaf).await, Ok(Some(issued_id)));
    for _ in 0..20 {
        let (order, work) = answered(order(owner));
        create(&store, &order, Some(work)).await;
        let large = finalized(names(&["b.example.com"]), at(0));
        create(&store, &large, Some(Work::Issue(large.id()))).await;
    }
    let held = lease(&store, WorkKind::Issue, 1).await;
    assert_eq!(store.sweep(at(0), 100).await, Ok(0), "nothing's time is over yet");
    assert_eq!(store.sweep(at(2 * 24 * 3600 - 1), 100).await, Ok(0));
    assert_eq!(
        store.sweep(at(2 * 24 * 3600), 15).await,
        Ok(15),
        "no more than the limit"
    );
    assert_eq!(store.sweep(far(), 100).await, Ok(26));
    assert_eq!(store.sweep(far(), 100).await, Ok(0));
    assert_eq!(store.orders_of(owner, None, 99).await.unwrap(), []);
    assert_eq!(store.order_of_certificate(leaf).await, Ok(None));
    assert_eq!(store.order(issued_id).await, Ok(None));
    for kind in WorkKind::ALL {
        assert!(lease(&store, kind, 9999).await.is_empty());
    }
    for lease in held {
        assert_eq!(store.settle(lease, again(5, 1)).await, Err(StoreError::LeaseLost));
    }
    drop(store);
    assert_eq!(backend.size().await, empty);
}

pub(crate) async fn the_sweep_spares_what_has_changed(backend: &impl Backend) {
    let store = backend.open().await;
    let (issued, _) = issued("a.example.com");
    let processing = finalized(names(&["a.example.com"]), at(0));
    create(&store, &processing, None).await;
    create(&store, &issued, None).await;
    assert_eq!(store.sweep(at(60 * 24 * 3600), 100).await, Ok(1));
    assert_eq!(store.order(issued.id()).await.unwrap().unwrap().value, issued);
    let back = store.commit(Versioned::with(1, processing), None).await;
    assert_eq!(
        back,
        Err(StoreError::Conflict),
        "what is swept does not come back"
    );
}

pub(crate) async fn f24_everything_is_there_after_reopening(backend: &impl Backend) {
    let store = backend.open().await;
    let account = account();
    store.create_account(&account).await.unwrap();
    let (answered, work) = answered(order(account.id()));
    let Work::Validate(challenge) = work else {
        panic!("other work")
    };
    create(&store, &answered, Some(work)).await;
    let held = lease(&store, WorkKind::Validate, 1).await.remove(0);
    let Settled::Finished(ready) = answered.settle_validation(challenge, 0, Verdict::Proved, 3, at(2)) else {
        panic!("another verdict")
    };
    let settled = Versioned::with(1, ready.clone());
    store.settle(held, done(Some(settled))).await.unwrap();
    let (issued, _) = issued("a.example.com");
    create(&store, &issued, Some(Work::Revoke(issued.id()))).await;
    store
        .save("key", Versioned::with(0, vec![1, 2, 3]))
        .await
        .unwrap();
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.account(account.id()).await.unwrap().unwrap().value, account);
    assert_eq!(store.order(ready.id()).await, Ok(Some(Versioned::with(2, ready))));
    let leaf = issued.certificate().unwrap().leaf().fingerprint();
    assert_eq!(store.order_of_certificate(leaf).await, Ok(Some(issued.id())));
    assert_eq!(
        store.load("key").await,
        Ok(Some(Versioned::with(1, vec![1, 2, 3])))
    );
    assert!(lease(&store, WorkKind::Validate, 9999).await.is_empty());
    let revoke = lease(&store, WorkKind::Revoke, 9999).await;
    assert_eq!(revoke[0].job.work, Work::Revoke(issued.id()));
}
