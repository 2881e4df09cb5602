//! The queue: leases, settlements, wake-ups.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::acme::id::AccountId;
use crate::acme::job::{Job, Lane, Work, WorkKind};
use crate::acme::problem::Problem;
use crate::store::contract::{
    Backend, HERE, LIFETIME, again, all, answered, at, create, done, far, finalized, issued, lease, leased,
    leased_for, names, opened, order,
};
use crate::store::{Lease, Next, Settlement, Store, StoreError, Versioned};

pub(crate) async fn a_job_is_leased_by_one_holder_the_longest_due_first(backend: &impl Backend) {
    let store = backend.open().await;
    let mut longest_due = Vec::new();
    for due in (0..60).rev() {
        let order = finalized(names(&["a.example.com"]), at(0));
        let job = Job {
            due: at(due),
            ..Job::now(Work::Issue(order.id()), order.account(), HERE, at(0))
        };
        store.create_order(&order, Some(job)).await.unwrap();
        longest_due.insert(0, job);
    }
    assert!(lease(&store, WorkKind::Revoke, 99).await.is_empty());
    let first = store
        .lease(Lane::Issue(HERE), at(4), LIFETIME, 3, 99, 999)
        .await
        .unwrap();
    assert_eq!(
        first.iter().map(|lease| lease.job).collect::<Vec<_>>(),
        longest_due[..3]
    );
    let others = (0..16).map(|_| {
        let store = Arc::clone(&store);
        async move {
            store
                .lease(Lane::Issue(HERE), at(49), LIFETIME, 5, 99, 999)
                .await
                .unwrap()
        }
    });
    let others: Vec<Lease> = all(others).await.into_iter().flatten().collect();
    let works: BTreeSet<Work> = others.iter().map(|lease| lease.job.work).collect();
    assert_eq!((others.len(), works.len()), (47, 47));
    assert_eq!(works, longest_due[3..50].iter().map(|job| job.work).collect());
    let tokens: BTreeSet<u64> = first.iter().chain(&others).map(|lease| lease.token).collect();
    assert_eq!(tokens.len(), 50);
    let waiting = store.census().await.unwrap().lanes[&Lane::Issue(HERE)];
    assert_eq!((waiting.jobs, waiting.since), (60, at(0)), "leased or not");
}

pub(crate) async fn a_lane_hands_out_its_own_jobs_only(backend: &impl Backend) {
    let mut store = backend.open().await;
    let there = "another".parse().unwrap();
    let mut orders = Vec::new();
    for upstream in [HERE, there, there] {
        let order = finalized(names(&["a.example.com"]), at(0)).placed_at(upstream, at(0));
        create(&store, &order, Some(Work::Issue(order.id()))).await;
        orders.push(order.id());
    }
    let take = async |store: &Arc<dyn Store>, lane, span| {
        let leases = store.lease(lane, at(9), span, 99, 99, 999).await.unwrap();
        leases
            .iter()
            .map(|lease| lease.job.work.order())
            .collect::<BTreeSet<_>>()
    };
    let of_there = BTreeSet::from([orders[1], orders[2]]);
    assert_eq!(take(&store, Lane::Issue(there), LIFETIME).await, of_there);
    assert!(take(&store, Lane::Revoke(there), LIFETIME).await.is_empty());
    assert!(take(&store, Lane::Validate, LIFETIME).await.is_empty());
    let lanes = store.census().await.unwrap().lanes;
    assert_eq!(
        (
            lanes.len(),
            lanes[&Lane::Issue(HERE)].jobs,
            lanes[&Lane::Issue(there)].jobs
        ),
        (2, 1, 2)
    );
    // Lanes are known after a restart, and when leases have run out.
    drop(store);
    store = backend.open().await;
    for span in [Duration::ZERO, LIFETIME] {
        assert_eq!(
            take(&store, Lane::Issue(HERE), span).await,
            BTreeSet::from([orders[0]])
        );
        assert_eq!(take(&store, Lane::Issue(there), span).await, of_there);
    }
}

pub(crate) async fn a_job_can_be_looked_at_as_long_as_there_is_one(backend: &impl Backend) {
    let mut store = backend.open().await;
    let (order, held) = leased(&store).await;
    let work = Work::Issue(order.value.id());
    assert_eq!(store.job(&work).await, Ok(Some(held.job)), "leased");
    assert_eq!(store.job(&Work::Revoke(order.value.id())).await, Ok(None));
    store.settle(held, again(7, 3)).await.unwrap();
    for _ in 0..2 {
        let waiting = store.job(&work).await.unwrap().unwrap();
        assert_eq!((waiting.due, waiting.faults), (at(7), 3));
        drop(store);
        store = backend.open().await;
    }
    let held = lease(&store, WorkKind::Issue, 9).await.remove(0);
    store.settle(held, done(None)).await.unwrap();
    assert_eq!(store.job(&work).await, Ok(None), "done");
}

pub(crate) async fn a_job_moves_to_another_lane_with_its_order_or_not_at_all(backend: &impl Backend) {
    let mut store = backend.open().await;
    let there = "another".parse().unwrap();
    let (order, held) = leased(&store).await;
    let moved = |version| Settlement {
        next: Next::Moved {
            upstream: there,
            due: at(5),
        },
        order: Some(Versioned::with(
            version,
            order.value.clone().placed_at(there, at(0)),
        )),
        issuers: Vec::new(),
    };
    let stale = store.settle(held.clone(), moved(order.version + 1)).await;
    assert_eq!(stale, Err(StoreError::Conflict));
    assert_eq!(store.settle(held.clone(), moved(order.version)).await, Ok(()));
    for _ in 0..2 {
        assert!(lease(&store, WorkKind::Issue, 500).await.is_empty());
        let found = store
            .lease(Lane::Issue(there), at(5), LIFETIME, 9, 9, 999)
            .await
            .unwrap();
        let found: Vec<_> = found.iter().map(|lease| lease.job).collect();
        assert_eq!(
            found,
            [Job {
                upstream: there,
                due: at(5),
                ..held.job
            }]
        );
        let stored = store.order(order.value.id()).await.unwrap().unwrap();
        assert_eq!(stored.value.upstream_name(), there);
        drop(store);
        store = backend.open().await;
    }
}

pub(crate) async fn f20_leases_are_shared_out_between_owners(backend: &impl Backend) {
    let mut store = backend.open().await;
    let owners = [40, 3, 1].map(|jobs| (AccountId::random(), jobs));
    for (owner, jobs) in owners {
        for _ in 0..jobs {
            let (order, work) = answered(order(owner));
            create(&store, &order, Some(work)).await;
        }
    }
    let take = async |store: &Arc<dyn Store>, span, limit, share| {
        let leases = store.lease(Lane::Validate, at(9), span, limit, share, 999);
        leases.await.unwrap()
    };
    let of = |leases: &[Lease]| {
        owners.map(|(owner, _)| leases.iter().filter(|lease| lease.job.owner == owner).count())
    };
    let mut held = take(&store, LIFETIME, 5, 99).await;
    assert_eq!(of(&held), [2, 2, 1], "turn by turn, not the longest due first");
    held.extend(take(&store, LIFETIME, 3, 99).await);
    assert_eq!(of(&held), [4, 3, 1], "what the others leave is not left unused");
    assert!(
        take(&store, LIFETIME, 99, 4).await.is_empty(),
        "an owner with its share gets no more"
    );
    held.extend(take(&store, LIFETIME, 99, 6).await);
    assert_eq!(of(&held), [6, 3, 1]);
    // What is given back frees a place of the share, whether it is done, waits, or was lost.
    for (lease, end) in held.iter().zip([done(None), again(500, 0), again(500, 1)]) {
        store.settle(lease.clone(), end).await.unwrap();
    }
    let freed = of(&held[..3])[0];
    assert_eq!(of(&take(&store, LIFETIME, 99, 6).await)[0], freed);
    drop(store);
    store = backend.open().await;
    for _ in 0..2 {
        let next = take(&store, Duration::ZERO, 99, 5).await;
        assert_eq!(of(&next)[0], 5, "leases that have run out do not count");
    }
}

pub(crate) async fn a_lane_never_has_more_leases_than_it_may_have(backend: &impl Backend) {
    let store = backend.open().await;
    for number in 0..40 {
        let name = format!("{number}.example.com");
        let order = finalized(names(&[&name]), at(0));
        create(&store, &order, Some(Work::Issue(order.id()))).await;
    }
    let take = async |span, most| {
        let takers = (0..8).map(|_| {
            let store = Arc::clone(&store);
            async move {
                store
                    .lease(Lane::Issue(HERE), at(9), span, 3, 99, most)
                    .await
                    .unwrap()
            }
        });
        all(takers).await.concat()
    };
    let mut held = take(LIFETIME, 10).await;
    assert_eq!(held.len(), 10);
    assert!(take(LIFETIME, 10).await.is_empty());
    for lease in held.drain(..4) {
        store.settle(lease, done(None)).await.unwrap();
    }
    assert_eq!(
        take(Duration::ZERO, 9).await.len(),
        24,
        "what has run out does not count"
    );
    assert_eq!(take(LIFETIME, 10).await.len(), 4);
}

pub(crate) async fn f20_a_late_owner_does_not_wait_for_an_early_ones_jobs(backend: &impl Backend) {
    let mut store = backend.open().await;
    let (early, late) = (AccountId::random(), AccountId::random());
    for owner in [[early; 20].as_slice(), &[late]].concat() {
        let (order, work) = answered(order(owner));
        create(&store, &order, Some(work)).await;
    }
    // Owners are known after a restart, too.
    drop(store);
    store = backend.open().await;
    let held = store
        .lease(Lane::Validate, at(9), LIFETIME, 1, 99, 999)
        .await
        .unwrap();
    let next = store
        .lease(Lane::Validate, at(9), LIFETIME, 1, 99, 999)
        .await
        .unwrap();
    let mut owners = [held[0].job.owner, next[0].job.owner];
    owners.sort_unstable();
    let mut both = [early, late];
    both.sort_unstable();
    assert_eq!(owners, both);
}

pub(crate) async fn f30_no_step_of_the_clock_ends_a_lease_or_prolongs_it(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, held) = leased(&store).await;
    let ahead = store.lease(Lane::Issue(HERE), far(), LIFETIME, 9, 9, 999);
    assert_eq!(ahead.await, Ok(vec![]));
    assert_eq!(store.settle(held, done(None)).await, Ok(()));
    let order = finalized(names(&["a.example.com"]), at(0));
    create(&store, &order, Some(Work::Issue(order.id()))).await;
    let over = store.lease(Lane::Issue(HERE), far(), Duration::ZERO, 9, 9, 999);
    let over = over.await.unwrap().remove(0);
    let next = lease(&store, WorkKind::Issue, 1).await.remove(0);
    assert_eq!(next.job, over.job);
    assert_ne!(next.token, over.token);
    assert!(lease(&store, WorkKind::Issue, 1).await.is_empty());
}

pub(crate) async fn a_lease_that_is_renewed_holds_from_then_on(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, held) = leased_for(&store, Duration::ZERO).await;
    assert_eq!(store.renew(&held, LIFETIME).await, Ok(()), "nobody has it yet");
    assert!(lease(&store, WorkKind::Issue, 9999).await.is_empty());
    // The last time counts, though it be the shorter one.
    assert_eq!(store.renew(&held, Duration::ZERO).await, Ok(()));
    let other = lease(&store, WorkKind::Issue, 1).await.remove(0);
    assert_eq!(store.renew(&held, LIFETIME).await, Err(StoreError::LeaseLost));
    assert_eq!(store.renew(&other, LIFETIME).await, Ok(()));
    assert_eq!(store.settle(other.clone(), again(1, 0)).await, Ok(()));
    assert_eq!(store.renew(&other, LIFETIME).await, Err(StoreError::LeaseLost));
    let other = lease(&store, WorkKind::Issue, 1).await.remove(0);
    assert_eq!(store.settle(other.clone(), done(None)).await, Ok(()));
    assert_eq!(store.renew(&other, LIFETIME).await, Err(StoreError::LeaseLost));
}

pub(crate) async fn a_checkpoint_keeps_the_lease(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased(&store).await;
    let opened = order.value.opened_upstream(opened());
    let order = store
        .checkpoint(&held, Versioned::with(order.version, opened))
        .await
        .unwrap();
    assert_eq!(store.order(order.value.id()).await, Ok(Some(order.clone())));
    assert!(lease(&store, WorkKind::Issue, 9999).await.is_empty());
    assert_eq!(store.settle(held, done(Some(order))).await, Ok(()));
}

pub(crate) async fn a_lost_lease_settles_nothing(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased_for(&store, Duration::ZERO).await;
    let other = lease(&store, WorkKind::Issue, 1).await.remove(0);
    let changed = order.value.clone().failed(Problem::internal(), at(2));
    let changed = Versioned::with(order.version, changed);
    let late = store.checkpoint(&held, changed.clone()).await;
    assert_eq!(late, Err(StoreError::LeaseLost));
    for late in [done(Some(changed.clone())), done(None), again(5, 0), again(5, 1)] {
        assert_eq!(store.settle(held.clone(), late).await, Err(StoreError::LeaseLost));
    }
    assert_eq!(store.order(order.value.id()).await, Ok(Some(order)));
    assert_eq!(store.settle(other.clone(), done(Some(changed))).await, Ok(()));
    assert_eq!(store.settle(other, done(None)).await, Err(StoreError::LeaseLost));
}

pub(crate) async fn a_refused_settlement_writes_nothing_and_keeps_the_lease(backend: &impl Backend) {
    let store = backend.open().await;
    let (issued, issuers) = issued("a.example.com");
    let (order, held) = leased(&store).await;
    let stale = Settlement {
        issuers: issuers.clone(),
        ..done(Some(Versioned::with(order.version + 1, order.value.clone())))
    };
    assert_eq!(store.settle(held.clone(), stale).await, Err(StoreError::Conflict));
    let fingerprints = issued.certificate().unwrap().issuers();
    assert!(matches!(
        store.issuers(fingerprints).await,
        Err(StoreError::Corrupt(_))
    ));
    assert!(lease(&store, WorkKind::Issue, 50).await.is_empty());
    assert_eq!(store.settle(held, done(Some(order))).await, Ok(()));
}

pub(crate) async fn a_job_goes_back_into_the_queue_with_its_faults(backend: &impl Backend) {
    let mut store = backend.open().await;
    let (_, held) = leased(&store).await;
    assert_eq!(store.settle(held.clone(), again(20, 0)).await, Ok(()));
    assert!(lease(&store, WorkKind::Issue, 19).await.is_empty());
    let held = lease(&store, WorkKind::Issue, 20).await.remove(0);
    assert_eq!((held.job.due, held.job.faults), (at(20), 0));
    assert_eq!(store.settle(held, again(40, 3)).await, Ok(()));
    for _ in 0..2 {
        assert!(lease(&store, WorkKind::Issue, 39).await.is_empty());
        let held = lease(&store, WorkKind::Issue, 40).await.remove(0);
        assert_eq!((held.job.due, held.job.faults), (at(40), 3));
        drop(store);
        store = backend.open().await;
    }
}

pub(crate) async fn enqueuing_twice_is_enqueuing_once(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased(&store).await;
    let job = Some(held.job);
    store.commit(order.clone(), job).await.unwrap();
    assert!(
        lease(&store, WorkKind::Issue, 50).await.is_empty(),
        "while it is being done"
    );
    assert_eq!(store.settle(held, done(None)).await, Ok(()));
    let held = lease(&store, WorkKind::Issue, 50).await;
    assert_eq!(held.len(), 1, "it is done once more after that");
    assert_eq!(store.settle(held[0].clone(), again(60, 1)).await, Ok(()));
    store
        .commit(Versioned::with(order.version + 1, order.value), job)
        .await
        .unwrap();
    let held = lease(&store, WorkKind::Issue, 50).await;
    assert_eq!(held.len(), 1, "the new one takes the place of the one that waits");
    assert_eq!(held[0].job.faults, 0);
    assert_eq!(store.settle(held[0].clone(), done(None)).await, Ok(()));
    assert!(lease(&store, WorkKind::Issue, 9999).await.is_empty());
}

pub(crate) async fn f24_a_crash_voids_leases_but_loses_no_job(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, held) = leased(&store).await;
    drop(store);
    let store = backend.open().await;
    let next = lease(&store, WorkKind::Issue, 200).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].job, held.job);
    assert_eq!(store.settle(held, done(None)).await, Err(StoreError::LeaseLost));
}

pub(crate) async fn a_waiting_worker_is_woken(backend: &impl Backend) {
    let store = backend.open().await;
    let waiting = Arc::clone(&store);
    let worker = tokio::spawn(async move {
        loop {
            let leases = lease(&waiting, WorkKind::Validate, 1).await;
            if !leases.is_empty() {
                return leases;
            }
            waiting.job_added().await;
        }
    });
    let (order, work) = answered(order(AccountId::random()));
    create(&store, &order, Some(work)).await;
    assert_eq!(worker.await.unwrap()[0].job.work, work);
}

pub(crate) async fn jobs_of_unknown_kinds_are_left_alone(backend: &impl Backend) {
    let store = backend.open().await;
    let order = order(AccountId::random());
    create(&store, &order, None).await;
    drop(store);
    let without = backend.size().await;
    backend.plant_unknown_job(order.id()).await;
    let store = backend.open().await;
    for kind in WorkKind::ALL {
        assert!(lease(&store, kind, 9999).await.is_empty());
    }
    assert!(store.census().await.unwrap().lanes.is_empty());
    store.commit(Versioned::with(1, order), None).await.unwrap();
    drop(store);
    assert_eq!(backend.size().await, without + 1);
    let store = backend.open().await;
    assert_eq!(store.sweep(far(), 100).await, Ok(1));
    drop(store);
    assert!(backend.size().await > 0);
}
