//! What several replicas on one database share, and agree on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::acme::certificate::Der;
use crate::acme::external_account::{ExternalAccountKey, NameLimits, Terms};
use crate::acme::id::AccountId;
use crate::acme::identifier::Identifier;
use crate::acme::job::Work;
use crate::acme::order::Order;
use crate::acme::secret::Secret;
use crate::store::contract::{LIFETIME, answered, at, create, far, names, order};
use crate::store::postgres::tests::{number, server, settings, two_stores};
use crate::store::postgres::{PostgresStore, Settings};
use crate::store::shared::Shared as _;
use crate::store::{NameQuota, Store, StoreError, Versioned};

#[tokio::test(flavor = "multi_thread")]
async fn f44_a_nonce_is_used_once_whoever_it_is_used_at() {
    let (one, other, client) = two_stores().await;
    assert_eq!(one.key("nonces"), other.key("nonces"));
    assert_ne!(one.key("nonces"), one.key("other"));
    assert_eq!(number(&client, "SELECT count(*) FROM acme_proxy.nonces").await, 0);
    assert_eq!(one.use_nonce(b"first", at(60)).await, Ok(true));
    assert_eq!(other.use_nonce(b"first", at(60)).await, Ok(false));
    let stores = [Arc::new(one), Arc::new(other)];
    let mut uses = JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&stores[number % 2]);
        uses.spawn(async move { store.use_nonce(b"second", at(60)).await.unwrap() });
    }
    assert_eq!(
        uses.join_all().await.into_iter().filter(|first| *first).count(),
        1
    );
    let restarted = PostgresStore::open(settings_of(&client).await).await.unwrap();
    assert_eq!(restarted.use_nonce(b"second", at(60)).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_a_used_nonce_is_forgotten_by_the_slower_clock_and_some_minutes_later() {
    let (one, _, client) = two_stores().await;
    let count = async || number(&client, "SELECT count(*) FROM acme_proxy.nonces").await;
    for number in 0..2500_u32 {
        let nonce = number.to_be_bytes();
        one.use_nonce(&nonce, at(1000)).await.unwrap();
    }
    one.sweep(at(1000), 10).await.unwrap();
    one.sweep(at(1299), 10).await.unwrap();
    assert_eq!(count().await, 2500, "our clock has not passed it by enough");
    one.sweep(at(1301), 10).await.unwrap();
    assert_eq!(count().await, 0, "in batches, and all of them");
    one.use_nonce(b"by the database", far()).await.unwrap();
    one.sweep(far() + Duration::from_secs(3600), 10).await.unwrap();
    assert_eq!(count().await, 1, "the database's clock has not passed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_ahead_deletes_no_order_of_another_one_before_its_time() {
    let (one, other, client) = two_stores().await;
    let other: Arc<dyn Store> = Arc::new(other);
    let pending = order(AccountId::DAEMON);
    create(&other, &pending, None).await;
    let lasts_until = async |interval: &str| {
        let sql = format!(
            "UPDATE acme_proxy.orders SET delete_after = \
             (extract(epoch FROM clock_timestamp() + interval '{interval}') * 1000000000)::bigint"
        );
        client.batch_execute(&sql).await.unwrap();
    };
    let years_ahead = far() + Duration::from_secs(10 * 365 * 86_400);
    lasts_until("1 hour").await;
    assert_eq!(one.sweep(years_ahead, 10).await, Ok(0));
    assert!(other.order(pending.id()).await.unwrap().is_some());
    lasts_until("-1 hour").await;
    let slow = at(0);
    assert_eq!(
        one.sweep(slow, 10).await,
        Ok(0),
        "nor by the database's clock alone"
    );
    assert_eq!(one.sweep(years_ahead, 10).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_holds_no_other_gets_until_it_is_given_back_or_over() {
    let (one, other, client) = two_stores().await;
    let held = one.hold("account", LIFETIME).await.unwrap().unwrap();
    assert_eq!(other.hold("account", LIFETIME).await, Ok(None));
    assert!(other.hold("another", LIFETIME).await.unwrap().is_some());
    one.release(held.clone()).await.unwrap();
    let theirs = other.hold("account", LIFETIME).await.unwrap().unwrap();
    one.release(held).await.unwrap();
    assert_eq!(one.hold("account", LIFETIME).await, Ok(None), "that was not ours");
    let over = "UPDATE acme_proxy.holds SET until = clock_timestamp() - interval '1 second'";
    client.batch_execute(over).await.unwrap();
    let ours = one.hold("account", LIFETIME).await.unwrap().unwrap();
    assert_ne!(ours.token, theirs.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_held_for_longer_unless_somebody_else_has_had_it() {
    let (one, other, client) = two_stores().await;
    let over = "UPDATE acme_proxy.holds SET until = clock_timestamp() - interval '1 second'";
    let held = one.hold("lead", LIFETIME).await.unwrap().unwrap();
    client.batch_execute(over).await.unwrap();
    assert_eq!(one.extend(&held, LIFETIME).await, Ok(true), "nobody has had it");
    assert_eq!(other.hold("lead", LIFETIME).await, Ok(None));
    client.batch_execute(over).await.unwrap();
    let theirs = other.hold("lead", LIFETIME).await.unwrap().unwrap();
    assert_eq!(one.extend(&held, LIFETIME).await, Ok(false));
    other.release(theirs).await.unwrap();
    assert_eq!(
        one.extend(&held, LIFETIME).await,
        Ok(false),
        "somebody has had it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_name_may_have_holds_for_all_replicas_together() {
    let (one, other, _) = two_stores().await;
    let stores: [Arc<dyn Store>; 2] = [Arc::new(one), Arc::new(other)];
    let mut finalizing = JoinSet::new();
    let start = Arc::new(Barrier::new(24));
    for number in 0..24 {
        let (store, start) = (Arc::clone(&stores[number % 2]), Arc::clone(&start));
        let pending = order(AccountId::DAEMON);
        create(&store, &pending, None).await;
        let mut both = ["a.example.com", "b.example.com"];
        if number % 3 == 0 {
            both.reverse();
        }
        let finalized = Order::for_daemon(pending.id(), names(&both), Der::new(vec![7]), at(30), LIFETIME);
        let quotas = both.map(|name| NameQuota {
            name: Identifier::dns(name).unwrap(),
            since: at(10),
            orders: 7,
        });
        finalizing.spawn(async move {
            start.wait().await;
            store
                .commit_within(Versioned::with(1, finalized), None, &quotas)
                .await
        });
    }
    let written = finalizing.join_all().await;
    assert_eq!(written.iter().filter(|written| written.is_ok()).count(), 7);
    let refused = written.iter().filter(|it| **it == Err(StoreError::Conflict));
    assert_eq!(refused.count(), 17);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_one_replica_adds_wakes_the_others() {
    let (one, other, client) = two_stores().await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND query LIKE 'SET synchronous_commit = off; LISTEN%'";
    while number(&client, listening).await < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What woke it when it began to listen is not what is looked for.
    while tokio::time::timeout(Duration::from_millis(200), other.wake.woken())
        .await
        .is_ok()
    {}
    let waiting = tokio::spawn(async move { other.wake.woken().await });
    let (order, work) = answered(order(AccountId::random()));
    let one: Arc<dyn Store> = Arc::new(one);
    create(&one, &order, Some(work)).await;
    let woken = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(woken.is_ok(), "nobody was woken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_secret_is_refused_and_secrets_are_sealed() {
    let (one, _, client) = two_stores().await;
    let same = settings_of(&client).await;
    let another = Settings {
        secret: Secret::new(vec![8; 32]),
        ..same.clone()
    };
    let refused = PostgresStore::open(another).await.unwrap_err();
    let StoreError::Refused(why) = &refused else {
        panic!("{refused}")
    };
    assert!(why.contains("another db.secret"), "{why}");
    one.save("upstream-account", Versioned::with(0, b"a private key".to_vec()))
        .await
        .unwrap();
    let terms = Terms {
        one_time: false,
        names: NameLimits::default(),
        upstream: None,
        expires: None,
    };
    let key = ExternalAccountKey::new("kid-1".parse().unwrap(), "acme".to_owned(), terms, at(0));
    one.create_external_account_key(&key).await.unwrap();
    let dump = "SELECT string_agg(row_to_json(sealed)::text, '') FROM acme_proxy.sealed";
    let dump: String = client.query_one(dump, &[]).await.unwrap().get(0);
    for secret in [
        "a private key",
        "YSBwcml2YXRlIGtleQ",
        key.mac_key().encoded().as_str(),
    ] {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(secret) && !dump.contains(&hex), "{secret}");
    }
    let other = PostgresStore::open(same).await.unwrap();
    let read = other.load("upstream-account").await.unwrap().unwrap();
    assert_eq!(read.value, b"a private key");
    let read = other
        .external_account_key("acme", key.kid())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.value, key);
    // A row that is put under another name is not believed.
    let moved = "UPDATE acme_proxy.sealed SET name = 'value own-key' WHERE name = 'value upstream-account'";
    client.batch_execute(moved).await.unwrap();
    assert!(matches!(other.load("own-key").await, Err(StoreError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_one_statement() {
    let (store, _, _) = two_stores().await;
    let statements = || store.statements.load(std::sync::atomic::Ordering::Relaxed);
    let mut seen = statements();
    let mut one = |what: &str| {
        assert_eq!(statements(), seen + 1, "{what}");
        seen += 1;
    };
    let account = crate::store::contract::account();
    store.create_account(&account).await.unwrap();
    one("create_account");
    store.account(account.id()).await.unwrap();
    one("account");
    store
        .account_by_key("acme", &account.key().thumbprint())
        .await
        .unwrap();
    one("account_by_key");
    let (order, work) = answered(order(account.id()));
    let job = crate::acme::job::Job::now(work, account.id(), order.upstream_name(), at(1));
    store.create_order(&order, Some(job)).await.unwrap();
    one("create_order");
    let read = store.own_order(account.id(), order.id()).await.unwrap().unwrap();
    one("own_order");
    let quota = NameQuota {
        name: Identifier::dns("www.example.com").unwrap(),
        since: at(0),
        orders: 9,
    };
    store
        .commit_within(read.clone(), Some(job), &[quota])
        .await
        .unwrap();
    one("commit_within");
    let lane = job.lane();
    let lease = store
        .lease(lane, at(9), LIFETIME, 9, 9, 9)
        .await
        .unwrap()
        .remove(0);
    one("lease");
    let next = Versioned::with(2, read.value);
    let read = store.checkpoint(&lease, next).await.unwrap();
    one("checkpoint");
    store
        .settle(lease, crate::store::contract::done(Some(read)))
        .await
        .unwrap();
    one("settle");
    store.first_in_line(&order).await.unwrap();
    one("first_in_line");
    store.use_nonce(b"nonce", at(60)).await.unwrap();
    one("use_nonce");
    assert_eq!(store.job(&Work::Issue(order.id())).await, Ok(None));
    one("job");
}

/// The settings of the database that this client is in.
async fn settings_of(client: &tokio_postgres::Client) -> Settings {
    let name = client.query_one("SELECT current_database()", &[]).await.unwrap();
    let mut config = server::Postgres::shared().unwrap();
    config.dbname(name.get::<_, &str>(0));
    settings(&config)
}
