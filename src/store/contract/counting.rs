//! How many orders a name has had (`policy.per_name`), whoever has made them.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::acme::certificate::Der;
use crate::acme::id::AccountId;
use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::acme::problem::Problem;
use crate::store::contract::{
    Backend, LIFETIME, account, at, create, far, finalized, issued, issued_to, names, order,
};
use crate::store::{NameQuota, StoreError, Versioned};

pub(crate) async fn orders_count_for_their_names_once_they_are_finalized_unless_they_fail(
    backend: &impl Backend,
) {
    let store = backend.open().await;
    let name = Identifier::dns("www.example.com").unwrap();
    let since = async |seconds| store.orders_for(&name, at(seconds)).await.unwrap();
    // One that is pending counts for nothing, or anybody could use a name up.
    create(&store, &order(account().id()), None).await;
    assert_eq!(since(0).await, []);
    let both = names(&["www.example.com", "b.example.com"]);
    let hundred: Vec<String> = (0..99).map(|n| format!("{n}.example.com")).collect();
    let hundred: Vec<&str> = hundred
        .iter()
        .map(String::as_str)
        .chain(["www.example.com"])
        .collect();
    let counting: [Order; 4] = [
        finalized(names(&["www.example.com"]), at(30)),
        finalized(both, at(10)),
        finalized(names(&hundred), at(20)),
        issued_to(account().id(), "www.example.com").0,
    ];
    for order in &counting {
        create(&store, order, None).await;
    }
    for other in ["*.www.example.com", "*.example.com", "wwww.example.com"] {
        create(&store, &finalized(names(&[other]), at(15)), None).await;
    }
    create(&store, &issued("b.example.com").0, None).await;
    assert_eq!(since(0).await, [at(1), at(10), at(20), at(30)]);
    assert_eq!(since(10).await, [at(10), at(20), at(30)]);
    assert_eq!(since(31).await, []);
    let read = store.order(counting[1].id()).await.unwrap().unwrap();
    let failed = read.value.failed(Problem::internal(), at(40));
    let failed = Versioned::with(read.version, failed);
    assert_eq!(store.commit(failed, None).await, Ok(()));
    assert_eq!(since(0).await, [at(1), at(20), at(30)]);
    drop(store);
    let store = backend.open().await;
    assert_eq!(
        store.orders_for(&name, at(0)).await.unwrap(),
        [at(1), at(20), at(30)]
    );
    store.sweep(far(), 100).await.unwrap();
    assert_eq!(store.orders_for(&name, at(0)).await, Ok(Vec::new()));
}

pub(crate) async fn of_many_orders_for_a_name_at_once_as_many_are_written_as_it_may_have(
    backend: &impl Backend,
) {
    let store = backend.open().await;
    let quota = |name: &str, since, orders| NameQuota {
        name: Identifier::dns(name).unwrap(),
        since: at(since),
        orders,
    };
    // One before the time that is looked at, one within it, and one of another name.
    for (name, time) in [
        ("www.example.com", 5),
        ("www.example.com", 10),
        ("b.example.com", 20),
    ] {
        create(&store, &finalized(names(&[name]), at(time)), None).await;
    }
    let mut finalizing = JoinSet::new();
    let start = Arc::new(Barrier::new(16));
    for _ in 0..16 {
        let both = names(&["www.example.com", "c.example.com"]);
        let pending = order(AccountId::DAEMON);
        create(&store, &pending, None).await;
        let csr = Der::new(vec![7]);
        let finalized = Order::for_daemon(pending.id(), both, csr, at(30), LIFETIME);
        let quotas = [quota("c.example.com", 0, 16), quota("www.example.com", 10, 4)];
        let (store, start) = (Arc::clone(&store), Arc::clone(&start));
        finalizing.spawn(async move {
            start.wait().await;
            let written = Versioned::with(1, finalized);
            store.commit_within(written, None, &quotas).await
        });
    }
    let written = finalizing.join_all().await;
    let count = |outcome: Result<(), StoreError>| written.iter().filter(|w| **w == outcome).count();
    assert_eq!((count(Ok(())), count(Err(StoreError::Conflict))), (3, 13));
    for (name, orders) in [("www.example.com", 5), ("c.example.com", 3)] {
        let name = Identifier::dns(name).unwrap();
        assert_eq!(store.orders_for(&name, at(0)).await.unwrap().len(), orders);
    }
    let last = order(AccountId::DAEMON);
    create(&store, &last, None).await;
    let none = [quota("d.example.com", 0, 0)];
    let refused = store.commit_within(Versioned::with(1, last), None, &none).await;
    assert_eq!(refused, Err(StoreError::Conflict));
}
