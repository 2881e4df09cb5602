//! How much the committer writes at a time, for after a group that is too large a power cut may leave a store that can not
//! be opened; and what is known of it while the disk hangs.

use super::*;
use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::acme::problem::Problem;
use crate::store::contract::{at, finalized, order};

const ORDERS: usize = 16;
const NAMES: usize = 100;

/// So many index entries take 64 kB of sled's log, and more.
const AT_A_TIME: usize = 256;

/// A finalized order, which counts for all the names that an order may have.
fn large() -> Order {
    let id = OrderId::random();
    let names = (0..NAMES).map(|n| Identifier::dns(&format!("{n}.{id}.example.com")).unwrap());
    finalized(names.collect(), at(1))
}

fn write(order: &Order, version: u64) -> Change {
    Change::Write {
        put: Some(Box::new(put::order_put(order, version).unwrap())),
        constants: Vec::new(),
        jobs: Jobs::Untouched,
        bounds: Vec::new(),
    }
}

/// In how many groups the changes are written, if all of them wait at once.
async fn groups(store: &SledStore, gate: &Mutex<()>, changes: Vec<Change>) -> u64 {
    let before = store.shared.syncs.load(Ordering::SeqCst);
    let answers: Vec<_> = {
        let _closed = gate.lock().unwrap();
        changes.into_iter().map(|change| store.send(change)).collect()
    };
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    store.shared.syncs.load(Ordering::SeqCst) - before
}

#[tokio::test]
async fn index_entries_that_come_or_go_count_for_the_size_of_a_group() {
    let place = tempfile::tempdir().unwrap();
    let gate = Arc::new(Mutex::new(()));
    let open = Arc::clone(&gate);
    let sync = |_| -> Sync {
        Box::new(move || {
            drop(open.lock());
            Ok(())
        })
    };
    let store = SledStore::open_with(settings(place.path()), sync).unwrap();
    let orders: Vec<_> = (0..ORDERS).map(|_| large()).collect();
    let least = u64::try_from(ORDERS * NAMES / AT_A_TIME).unwrap();

    let made = orders.iter().map(|order| write(order, 0)).collect();
    assert!(groups(&store, &gate, made).await >= least);
    // They count for nothing any more.
    let failed = |order: &Order| order.clone().failed(Problem::internal(), at(2));
    let ended = orders.iter().map(|order| write(&failed(order), 1)).collect();
    assert!(groups(&store, &gate, ended).await >= least);
    // So does what is deleted.
    let again: Vec<_> = (0..ORDERS).map(|_| large()).collect();
    for order in &again {
        store.create_order(order, None).await.unwrap();
    }
    let deletion = |order: &Order| Change::Delete {
        key: keys::order(order.id()),
        version: 1,
    };
    let deleted = again.iter().map(deletion).collect();
    assert!(groups(&store, &gate, deleted).await >= least);
}

#[tokio::test]
async fn f22_a_disk_that_hangs_is_told_from_one_that_works_and_may_come_back() {
    let place = tempfile::tempdir().unwrap();
    let (started, is_started) = channel();
    let (release, is_released) = channel::<()>();
    let store = SledStore::open_with(settings(place.path()), |_log| {
        Box::new(move || {
            started.send(()).unwrap();
            let _released = is_released.recv();
            Ok(())
        })
    });
    let store = Arc::new(store.unwrap());
    let writing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.create_order(&order(AccountId::random()), None).await })
    };
    while is_started.try_recv().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(store.check_room().await, Ok(()), "it has only begun");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    let StoreError::Stalled { seconds } = store.check_room().await.unwrap_err() else {
        panic!("another error")
    };
    assert!(seconds >= 31, "{seconds}");
    tokio::time::resume();
    drop(release);
    writing.await.unwrap().unwrap();
    assert_eq!(store.check_room().await, Ok(()));
}
