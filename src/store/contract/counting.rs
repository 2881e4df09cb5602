//! How many orders a name has had (`policy.per_name`), whoever has made them.

use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::acme::problem::Problem;
use crate::store::Versioned;
use crate::store::contract::{Backend, account, at, create, far, finalized, issued, issued_to, names, order};

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
