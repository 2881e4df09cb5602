//! Stores that an earlier version has written, which knew fewer index entries.

use super::*;
use crate::acme::identifier::Identifier;
use crate::store::contract::{at, finalized, names};
use crate::store::sled::record::{Head, Writes};

const ORDERS: usize = 150;

fn name() -> Identifier {
    Identifier::dns("www.example.com").unwrap()
}

/// A closed store of before: its orders do not know for which names they count, and it has no mark.
async fn of_before() -> (Sled, Vec<OrderId>) {
    let place = Sled::new();
    let store = opened(&settings(place.0.path()));
    let orders: Vec<_> = (0..ORDERS)
        .map(|n| finalized(names(&["www.example.com"]), at(n.try_into().unwrap())))
        .collect();
    let answers: Vec<_> = orders
        .iter()
        .map(|order| {
            let put = Some(Box::new(put::order_put(order, 0).unwrap()));
            let (constants, jobs) = (Vec::new(), Jobs::Untouched);
            let bounds = Vec::new();
            store.send(Change::Write {
                put,
                constants,
                jobs,
                bounds,
            })
        })
        .collect();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    drop(store);
    let db = database(&place);
    forget(&db);
    assert_eq!(db.scan_prefix(b"y").count(), 0);
    drop(db);
    (place, orders.iter().map(crate::acme::order::Order::id).collect())
}

fn database(place: &Sled) -> sled::Db {
    patiently(|| open::open(&settings(place.0.path()))).unwrap().db
}

/// Makes the orders as they were before, and takes the mark away.
fn forget(db: &sled::Db) {
    let view = view::Overlay::new(db);
    let mut writes = Writes::new();
    for key in view.stored_keys(&keys::orders()).unwrap() {
        let head = Head::read(&view, &key).unwrap().unwrap();
        let body = record::read(&view, &key).unwrap().unwrap().value;
        let kept = head.indexes.iter().filter(|key| !key.starts_with(b"y"));
        let kept = kept.map(|key| record::Index {
            key: key.clone(),
            value: db.get(key).unwrap().unwrap().to_vec(),
        });
        let kept: Vec<_> = kept.collect();
        record::replace(&view, &key, Some(&head), &body, &kept, &mut writes).unwrap();
    }
    writes.insert(keys::complete(), None);
    for (key, value) in writes {
        match value {
            Some(value) => db.insert(key, value).unwrap(),
            None => db.remove(key).unwrap(),
        };
    }
}

/// The versions of the orders' records: 1 and one more for each time that they were written again.
async fn versions(store: &SledStore, orders: &[OrderId]) -> Vec<u64> {
    let mut versions = Vec::new();
    for id in orders {
        versions.push(store.order(*id).await.unwrap().unwrap().version);
    }
    versions
}

#[tokio::test]
async fn orders_of_an_earlier_version_count_for_their_names_from_the_opening_on() {
    let (place, orders) = of_before().await;
    let store = opened(&settings(place.0.path()));
    let counted = store.orders_for(&name(), at(0)).await.unwrap();
    assert_eq!(counted.len(), ORDERS);
    assert!(counted.is_sorted());
    assert_eq!(versions(&store, &orders).await, [3; ORDERS]);
    // Each group is as small as any other, or a power cut may leave a store that can not be opened.
    let syncs = store.census().await.unwrap().syncs;
    assert!((3..50).contains(&syncs), "{syncs}");
    drop(store);
    // It is done once.
    let store = opened(&settings(place.0.path()));
    assert_eq!(store.census().await.unwrap().syncs, 0);
    assert_eq!(store.orders_for(&name(), at(0)).await, Ok(counted));
    // What is written and deleted from now on is indexed as ever.
    store.sweep(contract::far(), ORDERS).await.unwrap();
    assert_eq!(store.orders_for(&name(), at(0)).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_new_store_has_nothing_to_be_indexed() {
    let place = Sled::new();
    let store = opened(&settings(place.0.path()));
    assert_eq!(store.census().await.unwrap().syncs, 0);
}

#[tokio::test]
async fn whoever_is_killed_while_indexing_goes_on_where_that_was() {
    let (place, orders) = of_before().await;
    // The third group is written, and nobody knows whether it is on the disk.
    let cut = |log: File| -> Sync {
        let mut syncs = 0;
        Box::new(move || {
            syncs += 1;
            match syncs < 3 {
                true => log.sync_data(),
                false => Err(std::io::Error::other("killed")),
            }
        })
    };
    let killed = patiently(|| SledStore::open_with(settings(place.0.path()), cut));
    let Err(StoreError::Failed(why)) = killed else {
        panic!("{killed:?}")
    };
    assert!(why.contains("killed"), "{why}");
    let db = database(&place);
    let done = db.scan_prefix(b"y").count();
    assert!((1..ORDERS).contains(&done), "{done}");
    assert_eq!(db.get(keys::complete()), Ok(None));
    drop(db);
    let store = opened(&settings(place.0.path()));
    assert_eq!(store.orders_for(&name(), at(0)).await.unwrap().len(), ORDERS);
    assert_eq!(versions(&store, &orders).await, [3; ORDERS]);
}

#[tokio::test]
async fn an_order_that_can_not_be_read_keeps_no_other_one_from_being_indexed() {
    let (place, orders) = of_before().await;
    let db = database(&place);
    db.insert(keys::order(orders[7]), b"damaged").unwrap();
    drop(db);
    let store = opened(&settings(place.0.path()));
    assert_eq!(store.orders_for(&name(), at(0)).await.unwrap().len(), ORDERS - 1);
    assert!(matches!(
        store.order(orders[7]).await,
        Err(StoreError::Corrupt(_))
    ));
}

#[tokio::test]
async fn f21_a_full_disk_puts_the_indexing_off_until_there_is_room() {
    let (place, _) = of_before().await;
    let full = Settings {
        reserve_bytes: u64::MAX,
        ..settings(place.0.path())
    };
    let store = opened(&full);
    assert_eq!(store.orders_for(&name(), at(0)).await, Ok(Vec::new()));
    drop(store);
    let store = opened(&settings(place.0.path()));
    assert_eq!(store.orders_for(&name(), at(0)).await.unwrap().len(), ORDERS);
}

/// A backup that an earlier version has made has no mark either.
#[tokio::test]
async fn what_is_restored_of_an_earlier_version_is_indexed_as_well() {
    let (place, _) = of_before().await;
    let db = database(&place);
    let entries: Vec<_> = db
        .iter()
        .map(|entry| {
            let (key, value) = entry.unwrap();
            Ok::<_, StoreError>(Entry {
                key: key.to_vec(),
                value: value.to_vec(),
            })
        })
        .collect();
    drop(db);
    let other = Sled::new();
    SledStore::restore(&settings(other.0.path()), entries.into_iter()).unwrap();
    let store = opened(&settings(other.0.path()));
    assert_eq!(store.orders_for(&name(), at(0)).await.unwrap().len(), ORDERS);
}
