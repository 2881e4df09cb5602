//! Snapshots: one moment, however long they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::acme::id::OrderId;
use crate::acme::job::Work;
use crate::store::contract::{Backend, account, answered, at, create, far, finalized, names, order};
use crate::store::{Snapshot, Store, Versioned};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

async fn rest(mut snapshot: Box<dyn Snapshot>) -> Entries {
    let mut all = Entries::new();
    loop {
        let entries = snapshot.next().await.unwrap();
        if entries.is_empty() {
            return all;
        }
        for entry in entries {
            assert!(
                all.insert(entry.key, entry.value).is_none(),
                "an entry comes twice"
            );
        }
    }
}

/// Changes, makes and deletes orders.
async fn write(store: &Arc<dyn Store>, ids: &[OrderId]) {
    for id in ids {
        let Versioned { value, version } = store.order(*id).await.unwrap().unwrap();
        let (value, work) = answered(value);
        let job = crate::acme::job::Job::now(work, value.account(), value.upstream_name(), at(1));
        store
            .commit(Versioned::with(version, value), Some(job))
            .await
            .unwrap();
        create(store, &order(account().id()), None).await;
    }
}

pub(crate) async fn a_snapshot_shows_one_moment_whatever_is_written_meanwhile(backend: &impl Backend) {
    let store = backend.open().await;
    let mut ids = Vec::new();
    for number in 0..150 {
        let order = order(account().id());
        create(&store, &order, None).await;
        ids.push(order.id());
        store.create_account(&account()).await.unwrap();
        if number % 10 == 0 {
            // Longer than one value.
            let order = finalized(names(&["long.example.com"]), at(0));
            create(&store, &order, Some(Work::Issue(order.id()))).await;
        }
    }
    let quiet = rest(store.snapshot().await.unwrap()).await;
    assert!(quiet.len() > 600, "several pages: {}", quiet.len());
    let (before, mut half) = (store.snapshot().await.unwrap(), store.snapshot().await.unwrap());
    let mut begun: Entries = half
        .next()
        .await
        .unwrap()
        .into_iter()
        .map(|e| (e.key, e.value))
        .collect();
    write(&store, &ids).await;
    assert!(begun.len() < quiet.len(), "it is read in parts");
    let after = rest(store.snapshot().await.unwrap()).await;
    store.sweep(far(), 1000).await.unwrap();
    begun.extend(rest(half).await);
    assert_eq!(begun, quiet);
    assert_eq!(rest(before).await, quiet);
    assert!(after.len() > quiet.len() + 2 * ids.len());
    assert!(rest(store.snapshot().await.unwrap()).await.len() < quiet.len());
}

pub(crate) async fn a_snapshot_that_is_taken_amid_writes_has_each_of_them_whole_or_not_at_all(
    backend: &impl Backend,
) {
    let store = backend.open().await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        let order = order(account().id());
        create(&store, &order, None).await;
        ids.push(order.id());
    }
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { write(&store, &ids).await })
    };
    let mut sizes = Vec::new();
    while !writer.is_finished() {
        let (one, same) = tokio::join!(store.snapshot(), store.snapshot());
        let entries = rest(one.unwrap()).await;
        drop(same);
        // Each of the writes adds a job to an order, or makes an order with two index entries: more of one than of the
        // other is half of a write.
        let count = |kind: u8| entries.keys().filter(|key| key.first() == Some(&kind)).count();
        assert_eq!(count(b'o'), count(b'b'), "orders, and their accounts' entries");
        assert_eq!(count(b'o'), count(b'd'), "orders, and when they may be deleted");
        sizes.push(entries.len());
    }
    writer.await.unwrap();
    assert!(sizes.is_sorted(), "{sizes:?}");
}
