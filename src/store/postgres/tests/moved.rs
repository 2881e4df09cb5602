//! A backup of one backend makes a store of the other: the same entries come out of it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::acme::external_account::{ExternalAccountKey, NameLimits, Terms};
use crate::acme::job::Work;
use crate::store::contract::{account, answered, at, create, finalized, issued, leased, names, order};
use crate::store::postgres::PostgresStore;
use crate::store::postgres::moving::AtRest;
use crate::store::postgres::tests::{server, settings};
use crate::store::sled::SledStore;
use crate::store::{Entry, Settings, Store, StoreError, Versioned};

async fn entries(store: &dyn Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut snapshot = store.snapshot().await.unwrap();
    let mut all = BTreeMap::new();
    loop {
        let entries = snapshot.next().await.unwrap();
        if entries.is_empty() {
            // A mark of the embedded store's own.
            all.remove(b"x".as_slice());
            return all;
        }
        all.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
    }
}

/// Something of every kind, in several versions and parts.
async fn fill(store: &Arc<dyn Store>) {
    let account = account();
    store.create_account(&account).await.unwrap();
    let changed = Versioned::with(1, account.clone().deactivated(at(5)));
    store.update_account(changed).await.unwrap();
    let terms = Terms {
        one_time: true,
        names: NameLimits::default(),
        upstream: None,
        expires: None,
    };
    let key = ExternalAccountKey::new("kid-1".parse().unwrap(), "acme".to_owned(), terms, at(0));
    store.create_external_account_key(&key).await.unwrap();
    for number in 0..300 {
        let (order, work) = answered(order(account.id()));
        create(store, &order, (number % 3 == 0).then_some(work)).await;
    }
    let hundred: Vec<String> = (0..100).map(|n| format!("{n}.example.com")).collect();
    let hundred: Vec<&str> = hundred.iter().map(String::as_str).collect();
    let large = finalized(names(&hundred), at(3));
    create(store, &large, Some(Work::Issue(large.id()))).await;
    let (issued, issuers) = issued("a.example.com");
    create(store, &issued, None).await;
    let (changed, lease) = leased(store).await;
    let settlement = crate::store::Settlement {
        issuers,
        ..crate::store::contract::done(Some(changed))
    };
    store.settle(lease, settlement).await.unwrap();
    for size in [0, 3, 20_000] {
        let name = format!("value-{size}");
        store
            .save(&name, Versioned::with(0, vec![7; size]))
            .await
            .unwrap();
        store
            .save(&name, Versioned::with(1, vec![8; size]))
            .await
            .unwrap();
    }
}

fn as_backup(
    entries: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> impl Iterator<Item = Result<Entry, StoreError>> + use<'_> {
    let entry = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        Ok(Entry {
            key: key.clone(),
            value: value.clone(),
        })
    };
    entries.iter().map(entry)
}

fn embedded(directory: &tempfile::TempDir) -> Settings {
    Settings {
        path: directory.path().to_owned(),
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        gather: std::time::Duration::ZERO,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_either_backend_makes_the_same_store_in_the_other() {
    let config = server::Postgres::fresh_database().await.unwrap();
    let first: Arc<dyn Store> = Arc::new(PostgresStore::open(settings(&config)).await.unwrap());
    fill(&first).await;
    let backup = entries(first.as_ref()).await;
    assert!(backup.len() > 1000, "{}", backup.len());

    let directory = tempfile::tempdir().unwrap();
    SledStore::restore(&embedded(&directory), as_backup(&backup)).unwrap();
    let second = SledStore::open(embedded(&directory)).unwrap();
    let again = entries(&second).await;
    assert!(again == backup, "from PostgreSQL to sled");

    let config = server::Postgres::fresh_database().await.unwrap();
    let mut database = AtRest::begin(&settings(&config)).await.unwrap();
    database.restore(as_backup(&again)).await.unwrap();
    drop(database);
    let third = PostgresStore::open(settings(&config)).await.unwrap();
    assert!(entries(&third).await == backup, "and back");
    drop(third);
    let mut database = AtRest::begin(&settings(&config)).await.unwrap();
    let refused = database.restore(as_backup(&again)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_breaks_off_leaves_an_empty_store() {
    let config = server::Postgres::fresh_database().await.unwrap();
    let first: Arc<dyn Store> = Arc::new(PostgresStore::open(settings(&config)).await.unwrap());
    fill(&first).await;
    let backup = entries(first.as_ref()).await;
    let config = server::Postgres::fresh_database().await.unwrap();
    let broken = as_backup(&backup).take(900).chain([Err(StoreError::Overtaken)]);
    let mut database = AtRest::begin(&settings(&config)).await.unwrap();
    let refused = database.restore(broken).await;
    assert_eq!(refused, Err(StoreError::Overtaken));
    drop(database);
    let empty = PostgresStore::open(settings(&config)).await.unwrap();
    assert!(entries(&empty).await.is_empty());
}
