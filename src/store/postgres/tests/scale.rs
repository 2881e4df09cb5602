//! What is done again and again, however much is stored: in bounded portions, each a transaction of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::acme::order::Order;
use crate::store::contract::{account, answered, at, create, far, issued, issued_to, order};
use crate::store::postgres::tests::{number, two_stores};
use crate::store::{Store, Versioned, names_of};

const ORDERS: &str = "SELECT count(*) FROM acme_proxy.orders";

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_no_more_than_its_limit_in_one_transaction_and_replicas_share_the_work() {
    let (one, other, mut client) = two_stores().await;
    let one: Arc<dyn Store> = Arc::new(one);
    for _ in 0..205 {
        let (order, work) = answered(order(account().id()));
        create(&one, &order, Some(work)).await;
    }
    for left in [165, 125] {
        assert_eq!(one.sweep(far(), 40).await, Ok(40));
        assert_eq!(number(&client, ORDERS).await, left, "they are gone at once");
        assert_eq!(
            number(&client, "SELECT count(*) FROM acme_proxy.jobs").await,
            left,
            "and their jobs"
        );
    }
    // What another replica is about to delete is not waited for.
    let deleting = client.transaction().await.unwrap();
    let theirs = "SELECT acme_proxy.sweep_orders(9000000000000000000, 100, ARRAY['validate'])";
    let search = "SET LOCAL search_path = acme_proxy";
    deleting.batch_execute(search).await.unwrap();
    assert_eq!(
        deleting.query_one(theirs, &[]).await.unwrap().get::<_, i64>(0),
        100
    );
    assert_eq!(other.sweep(far(), 40).await, Ok(25), "the others");
    assert_eq!(one.sweep(far(), 40).await, Ok(0), "none is left for it");
    deleting.rollback().await.unwrap();
    let mut swept = Vec::new();
    while swept.last() != Some(&0) {
        swept.push(one.sweep(far(), 40).await.unwrap());
    }
    assert_eq!(swept, [40, 40, 20, 0]);
    assert_eq!(number(&client, ORDERS).await, 0);
}

/// All of it, so many at a time.
async fn latest(store: &dyn Store, limit: usize) -> BTreeMap<[u8; 32], Timestamp> {
    let (shared, mut all, mut after) = (store.shared().unwrap(), BTreeMap::new(), None);
    loop {
        let page = shared.latest_certificates(after, limit).await.unwrap();
        assert!(page.len() <= limit && page.is_sorted());
        after = page.last().map(|(names, _)| *names);
        if after.is_none() {
            return all;
        }
        for (names, end) in page {
            assert_eq!(all.insert(names, end), None, "each names are on one page");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_certificate_for_each_names_is_found_page_by_page() {
    let (store, _, client) = two_stores().await;
    let store: Arc<dyn Store> = Arc::new(store);
    assert!(latest(&*store, 3).await.is_empty());
    let owner = account().id();
    let mut expected = BTreeMap::new();
    let mut clients: Vec<Order> = Vec::new();
    for number in 0..7 {
        let (order, _) = issued_to(owner, &format!("{number}.example.com"));
        create(&store, &order, None).await;
        expected.insert(names_of(&order), order.certificate().unwrap().not_after());
        clients.push(order);
    }
    assert_eq!(latest(&*store, 100).await, expected);
    assert_eq!(latest(&*store, 3).await, expected);
    assert_eq!(latest(&*store, 1).await, expected);
    // A later one for the same names takes the place of the first.
    let (renewed, _) = issued_to(owner, "0.example.com");
    create(&store, &renewed, None).await;
    let later = "UPDATE acme_proxy.orders SET valid_until = valid_until + 1000000000 WHERE id = $1";
    let id = renewed.id();
    client.execute(later, &[&id.as_bytes().as_slice()]).await.unwrap();
    let end = expected.get_mut(&names_of(&renewed)).unwrap();
    *end += std::time::Duration::from_secs(1);
    assert_eq!(latest(&*store, 2).await, expected);
    // The daemon's own, one that is revoked, and one without a certificate do not count.
    create(&store, &issued("own.example.com").0, None).await;
    create(&store, &order(owner), None).await;
    let last = clients.pop().unwrap();
    expected.remove(&names_of(&last));
    let (revoked, _) = last.request_revocation(None, at(2)).unwrap();
    store.commit(Versioned::with(1, revoked), None).await.unwrap();
    assert_eq!(latest(&*store, 3).await, expected);
}
