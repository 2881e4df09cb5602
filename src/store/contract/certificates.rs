//! What is known of certificates: for which names they were issued, which came too late, and the issuers'.

use crate::acme::certificate::Der;
use crate::acme::id::AccountId;
use crate::acme::order::Order;
use crate::acme::problem::Problem;
use crate::store::contract::{
    Backend, LIFETIME, at, create, done, far, finalized, issued, leased, names, opened, ordered,
};
use crate::store::{Settlement, StoreError, Versioned};

pub(crate) async fn issued_names_are_known_to_their_account(backend: &impl Backend) {
    let mut store = backend.open().await;
    let (order, _) = issued("a.example.com");
    let again = |account, wanted: &[&str]| {
        let offered = names(wanted).into_iter().map(|name| (name, Vec::new()));
        Order::new(account, "acme".to_owned(), offered.collect(), at(0), LIFETIME)
    };
    let same = again(order.account(), &["a.example.com"]);
    create(&store, &same, None).await;
    assert_eq!(store.has_issued(&same).await, Ok(false), "it was only ordered");
    create(&store, &order, None).await;
    for _ in 0..2 {
        assert_eq!(store.has_issued(&same).await, Ok(true));
        let other = again(AccountId::random(), &["a.example.com"]);
        assert_eq!(store.has_issued(&other).await, Ok(false), "another account's");
        let more = again(order.account(), &["a.example.com", "b.example.com"]);
        assert_eq!(store.has_issued(&more).await, Ok(false));
        assert_eq!(
            store
                .has_issued(&again(order.account(), &["*.a.example.com"]))
                .await,
            Ok(false)
        );
        drop(store);
        store = backend.open().await;
    }
    assert_eq!(store.sweep(far(), 100).await, Ok(2));
    assert_eq!(store.has_issued(&same).await, Ok(false));
}

pub(crate) async fn f48_late_orders_are_found_by_account_names_and_upstream(backend: &impl Backend) {
    drop(backend.open().await);
    let empty = backend.size().await;
    let mut store = backend.open().await;
    let (order, chain) = ordered("a.example.com");
    let leaf = chain.certificate.leaf().fingerprint();
    let opened = order.opened_upstream(opened());
    let awaited = opened.ended(Problem::internal(), at(2), LIFETIME);
    create(&store, &awaited, None).await;
    let next = finalized(names(&["a.example.com"]), at(3));
    let there = next.clone().placed_at("another".parse().unwrap(), at(2));
    let other = finalized(names(&["b.example.com"]), at(3));
    let offered = names(&["a.example.com"])
        .into_iter()
        .map(|name| (name, Vec::new()));
    let stranger = Order::new(
        AccountId::random(),
        "acme".to_owned(),
        offered.collect(),
        at(0),
        LIFETIME,
    );
    assert_eq!(store.first_in_line(&next).await, Ok(Some(awaited.id())));
    let taken = awaited.taken_by_ca();
    store
        .commit(Versioned::with(1, taken.clone()), None)
        .await
        .unwrap();
    assert_eq!(
        store.first_in_line(&next).await,
        Ok(None),
        "nobody waits behind it"
    );
    assert_eq!(store.order_of_certificate(leaf).await, Ok(None));
    let late = taken.came_late(chain.certificate);
    assert!(late.certificate().is_none() && late.bought().is_some());
    for (version, order) in [(2, late.clone()), (3, late.clone())] {
        assert_eq!(store.late_orders(&next, 9).await, Ok(vec![late.id()]));
        for elsewhere in [&there, &other, &stranger] {
            assert_eq!(store.late_orders(elsewhere, 9).await, Ok(Vec::new()));
        }
        store.commit(Versioned::with(version, order), None).await.unwrap();
        assert_eq!(store.order_of_certificate(leaf).await, Ok(Some(late.id())));
        drop(store);
        store = backend.open().await;
    }
    let (revoked, _) = late.request_revocation(None, at(4)).unwrap();
    store.commit(Versioned::with(4, revoked), None).await.unwrap();
    assert_eq!(store.late_orders(&next, 9).await, Ok(Vec::new()));
    assert_eq!(store.sweep(far(), 100).await, Ok(1));
    assert_eq!(store.order_of_certificate(leaf).await, Ok(None));
    drop(store);
    assert_eq!(backend.size().await, empty);
}

pub(crate) async fn issuers_are_stored_once(backend: &impl Backend) {
    let (issued, issuers) = issued("a.example.com");
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let store = backend.open().await;
        let (order, held) = leased(&store).await;
        let settlement = Settlement {
            issuers: issuers.clone(),
            ..done(Some(order))
        };
        store.settle(held, settlement).await.unwrap();
        let fingerprints = issued.certificate().unwrap().issuers();
        assert_eq!(store.issuers(fingerprints).await.unwrap(), issuers);
        let reversed: Vec<_> = fingerprints.iter().rev().copied().collect();
        assert_eq!(store.issuers(&reversed).await.unwrap()[0], issuers[1]);
        drop(store);
        sizes.push(backend.size().await);
    }
    // Each round adds an order; only the first one adds the issuers.
    assert_eq!(sizes[2] - sizes[1], sizes[1] - sizes[0]);
    let store = backend.open().await;
    let missing = Der::new(vec![1]).fingerprint();
    assert!(matches!(
        store.issuers(&[missing]).await,
        Err(StoreError::Corrupt(_))
    ));
}
