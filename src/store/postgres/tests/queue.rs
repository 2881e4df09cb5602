//! The queue between replicas: whose turn it is, and that each job is one replica's at a time (SECURITY F43).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Barrier, Mutex};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::acme::id::{AccountId, OrderId};
use crate::acme::job::{Job, Lane, Work};
use crate::acme::order::Order;
use crate::acme::random::random_bytes;
use crate::store::contract::{HERE, LIFETIME, again, at, create, done, far, finalized, names, order};
use crate::store::postgres::tests::{number, two_stores};
use crate::store::{Store, StoreError, Versioned};

const ISSUE: Lane = Lane::Issue(HERE);

/// Adds jobs of these owners, the latest due first, without orders.
async fn plant(client: &Client, owner: AccountId, jobs: i32, due: i64) {
    let sql = "INSERT INTO acme_proxy.jobs (work, order_id, lane, owner, since, due, body) \
               SELECT 'issue/' || id, decode(id, 'hex'), 'issue/default', $1, 0, $3, convert_to( \
                 '{\"v\":1,\"record\":{\"kind\":\"issue\",\"job\":{\"work\":{\"issue\":\"' || id || '\"},\"owner\":\"' || $4 || \
                 '\",\"since\":\"1970-01-01T00:00:00Z\",\"due\":\"1970-01-01T00:00:00Z\",\"faults\":0}}}', 'UTF8') \
               FROM (SELECT md5(random()::text || n) id FROM generate_series(1, $2) n) made";
    let bytes = owner.as_bytes().as_slice();
    client
        .execute(sql, &[&bytes, &jobs, &due, &owner.to_string()])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_each_job_is_leased_by_one_replica_and_never_more_than_a_lane_may_have() {
    let (one, other, client) = two_stores().await;
    for _ in 0..6 {
        plant(&client, AccountId::random(), 50, 0).await;
    }
    let stores = [Arc::new(one), Arc::new(other)];
    let (out, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for number in 0..8 {
        let store = Arc::clone(&stores[number % 2]);
        let (out, most, taken) = (Arc::clone(&out), Arc::clone(&most), Arc::clone(&taken));
        workers.spawn(async move {
            loop {
                let leases = store.lease(ISSUE, at(9), LIFETIME, 4, 99, 10).await.unwrap();
                let now = out.fetch_add(leases.len(), Ordering::SeqCst) + leases.len();
                most.fetch_max(now, Ordering::SeqCst);
                let is_last = leases.is_empty() && taken.lock().await.len() >= 300;
                for lease in leases {
                    taken.lock().await.push(lease.job.work);
                    out.fetch_sub(1, Ordering::SeqCst);
                    store.settle(lease, done(None)).await.unwrap();
                }
                if is_last {
                    break;
                }
            }
        });
    }
    workers.join_all().await;
    let taken = taken.lock().await;
    let different: BTreeSet<&Work> = taken.iter().collect();
    assert_eq!((taken.len(), different.len()), (300, 300));
    assert!(most.load(Ordering::SeqCst) <= 10, "{most:?}");
    assert_eq!(number(&client, "SELECT count(*) FROM acme_proxy.jobs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_replicas_that_ask_at_the_same_time_get_no_more_than_a_lane_may_have() {
    let (one, other, client) = two_stores().await;
    for _ in 0..20 {
        plant(&client, AccountId::random(), 20, 0).await;
    }
    let stores = [Arc::new(one), Arc::new(other)];
    for round in 0..5 {
        let start = Arc::new(Barrier::new(16));
        let mut asking = JoinSet::new();
        for number in 0..16 {
            let (store, start) = (Arc::clone(&stores[number % 2]), Arc::clone(&start));
            asking.spawn(async move {
                start.wait().await;
                store.lease(ISSUE, at(9), LIFETIME, 10, 99, 10).await.unwrap()
            });
        }
        let leases = asking.join_all().await.concat();
        assert_eq!(leases.len(), 10, "round {round}");
        for lease in leases {
            stores[0].settle(lease, done(None)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_leases_run_by_the_databases_clock_whatever_the_replicas_clocks_say() {
    let (one, other, client) = two_stores().await;
    plant(&client, AccountId::random(), 1, 0).await;
    // One replica lives in 2026, the other one a year later: neither time is the database's.
    let held = one
        .lease(ISSUE, at(1), LIFETIME, 9, 9, 9)
        .await
        .unwrap()
        .remove(0);
    let left = "SELECT extract(epoch FROM until - clock_timestamp())::bigint FROM acme_proxy.jobs";
    let left = number(&client, left).await;
    let span = i64::try_from(LIFETIME.as_secs()).unwrap();
    assert!((span - 3600..=span).contains(&left), "{left}");
    assert_eq!(other.lease(ISSUE, far(), LIFETIME, 9, 9, 9).await, Ok(vec![]));
    let over = "UPDATE acme_proxy.jobs SET until = clock_timestamp() - interval '1 millisecond'";
    client.batch_execute(over).await.unwrap();
    let theirs = other
        .lease(ISSUE, at(1), LIFETIME, 9, 9, 9)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(theirs.job, held.job);
    assert_eq!(one.settle(held, done(None)).await, Err(StoreError::LeaseLost));
    assert_eq!(other.settle(theirs, done(None)).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_however_many_jobs_of_one_owner_wait_the_next_owner_is_next() {
    let (store, _, client) = two_stores().await;
    let (many, few) = (AccountId::random(), AccountId::random());
    plant(&client, many, 20_000, 0).await;
    plant(&client, few, 1, 1).await;
    let owners = async || {
        let leases = store.lease(ISSUE, at(9), LIFETIME, 1, 99, 999).await.unwrap();
        leases.iter().map(|lease| lease.job.owner).collect::<Vec<_>>()
    };
    assert_eq!(owners().await, [many]);
    // Those of the first owner are passed by a few thousand at a time, and never again.
    let mut next = Vec::new();
    while !next.contains(&few) {
        assert!(next.len() < 20, "{next:?}");
        next.extend(owners().await);
    }
    let leading = "SELECT count(*) FROM acme_proxy.jobs WHERE leads AND token IS NULL";
    assert_eq!(number(&client, leading).await, 1);
}

/// A step of somebody who has a replica's store, chosen at random.
async fn disturb(store: &Arc<dyn Store>, owners: &[AccountId], orders: &Mutex<Vec<OrderId>>) {
    let [dice, which, due, ..] = random_bytes::<8>();
    let known = orders.lock().await.get(usize::from(which)).copied();
    match (dice % 8, known) {
        (0..=2, _) | (_, None) => {
            let owner = owners[usize::from(which) % owners.len()];
            let order = order(owner);
            let job = Job {
                due: at(u64::from(due)),
                ..Job::now(Work::Issue(order.id()), owner, HERE, at(0))
            };
            store.create_order(&order, Some(job)).await.unwrap();
            orders.lock().await.push(order.id());
        }
        (3, Some(id)) => {
            let Some(read) = store.order(id).await.unwrap() else {
                return;
            };
            let job = Job {
                due: at(u64::from(due)),
                ..Job::now(Work::Issue(id), read.value.account(), HERE, at(0))
            };
            let written = store
                .commit(Versioned::with(read.version, read.value), Some(job))
                .await;
            assert!(
                matches!(written, Ok(()) | Err(StoreError::Conflict)),
                "{written:?}"
            );
        }
        (4, Some(_)) => drop(store.sweep(far(), 1).await.unwrap()),
        (_, Some(_)) => {
            let span = if due < 40 { Duration::ZERO } else { LIFETIME };
            let leases = store
                .lease(ISSUE, at(u64::from(which)), span, 3, 2, 8)
                .await
                .unwrap();
            for lease in leases {
                let end = match due % 3 {
                    0 => done(None),
                    1 => again(u64::from(due), lease.job.faults),
                    _ => again(u64::from(due), 1),
                };
                let settled = store.settle(lease, end).await;
                assert!(
                    matches!(settled, Ok(()) | Err(StoreError::LeaseLost)),
                    "{settled:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_whatever_happens_at_once_every_owner_who_waits_has_a_job_that_leads() {
    let (one, other, client) = two_stores().await;
    let stores: [Arc<dyn Store>; 2] = [Arc::new(one), Arc::new(other)];
    let owners: Arc<Vec<AccountId>> = Arc::new((0..4).map(|_| AccountId::random()).collect());
    let orders = Arc::new(Mutex::new(Vec::new()));
    let mut disturbing = JoinSet::new();
    for number in 0..8 {
        let (store, owners) = (Arc::clone(&stores[number % 2]), Arc::clone(&owners));
        let orders = Arc::clone(&orders);
        disturbing.spawn(async move {
            for _ in 0..60 {
                disturb(&store, &owners, &orders).await;
            }
        });
    }
    disturbing.join_all().await;
    let unled = "SELECT count(*) FROM (SELECT owner, (array_agg(leads ORDER BY due, work))[1] AS leads \
                 FROM acme_proxy.jobs WHERE token IS NULL GROUP BY owner) first WHERE NOT leads";
    assert_eq!(number(&client, unled).await, 0, "the first of each owner's leads");
    let over = "UPDATE acme_proxy.jobs SET until = '-infinity' WHERE token IS NOT NULL";
    client.batch_execute(over).await.unwrap();
    let jobs = number(&client, "SELECT count(*) FROM acme_proxy.jobs").await;
    let mut settled = 0;
    while let leases @ [_, ..] = stores[0]
        .lease(ISSUE, far(), LIFETIME, 9, 99, 99)
        .await
        .unwrap()
        .as_slice()
    {
        for lease in leases {
            stores[0].settle(lease.clone(), done(None)).await.unwrap();
            settled += 1;
        }
    }
    assert!(settled >= jobs, "{settled} of {jobs} were handed out");
    assert_eq!(number(&client, "SELECT count(*) FROM acme_proxy.jobs").await, 0);
    assert_eq!(
        number(&client, "SELECT count(*) FROM acme_proxy.jobs_after").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_the_next_job_of_an_owner_leads_when_the_one_before_it_is_put_off_or_swept() {
    for is_swept in [false, true] {
        let (one, _, client) = two_stores().await;
        let store: Arc<dyn Store> = Arc::new(one);
        let owner = AccountId::random();
        let (first, second) = (order(owner), order(owner));
        let job = |order: &Order, due| Job {
            due: at(due),
            ..Job::now(Work::Issue(order.id()), owner, HERE, at(0))
        };
        for (order, due) in [(&first, 1), (&second, 2)] {
            store.create_order(order, Some(job(order, due))).await.unwrap();
        }
        // As lease() leaves them when it has met both.
        let id = first.id();
        let id = id.as_bytes().as_slice();
        let leads = "UPDATE acme_proxy.jobs SET leads = (order_id = $1)";
        client.execute(leads, &[&id]).await.unwrap();
        match is_swept {
            true => {
                let over = "UPDATE acme_proxy.orders SET delete_after = 0 WHERE id = $1";
                client.execute(over, &[&id]).await.unwrap();
                assert_eq!(store.sweep(at(1), 10).await, Ok(1));
            }
            false => {
                let later = job(&first, 100);
                store
                    .commit(Versioned::with(1, first.clone()), Some(later))
                    .await
                    .unwrap();
            }
        }
        let leases = store.lease(ISSUE, at(9), LIFETIME, 9, 9, 9).await.unwrap();
        let works: Vec<Work> = leases.iter().map(|lease| lease.job.work).collect();
        assert_eq!(works, [Work::Issue(second.id())], "is swept: {is_swept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_job_keeps_no_other_from_being_done() {
    let (one, _, client) = two_stores().await;
    plant(&client, AccountId::random(), 1, 0).await;
    client
        .batch_execute("UPDATE acme_proxy.jobs SET body = 'x'")
        .await
        .unwrap();
    let store: Arc<dyn Store> = Arc::new(one);
    let order = finalized(names(&["a.example.com"]), at(0));
    create(&store, &order, Some(Work::Issue(order.id()))).await;
    let leases = store.lease(ISSUE, at(9), LIFETIME, 9, 9, 9).await.unwrap();
    let works: BTreeMap<Work, u64> = leases.iter().map(|it| (it.job.work, it.token)).collect();
    assert_eq!(works.keys().collect::<Vec<_>>(), [&Work::Issue(order.id())]);
}
