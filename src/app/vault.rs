//! Where the accounts at the CAs are kept: in the store, each of them changed by one at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::config;
use crate::store::shared::Hold;
use crate::store::{Store, StoreError, Versioned};
use crate::upstream::account::{self, VAULT, Vault};

/// How long a change of the account at a CA may take: some requests, each of which may take half a minute.
const CHANGE: Duration = Duration::from_secs(300);

/// The accounts of a store.
pub(crate) struct Vaults {
    store: Arc<dyn Store>,
    /// Whose turn it is to change an account, by the name of its record. Before and after a reload there may be two who
    /// work with the same one.
    turns: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

impl Vaults {
    pub(crate) fn of(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            turns: std::sync::Mutex::default(),
        }
    }

    /// Where the account of this upstream is kept.
    pub(crate) fn of_upstream(&self, configured: &config::Upstream) -> Arc<dyn Vault> {
        self.named(account::vault_name(configured.name, &configured.settings))
    }

    fn named(&self, name: String) -> Arc<dyn Vault> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Arc::clone(turns.entry(name.clone()).or_default());
        Arc::new(StoredAccount {
            name,
            store: Arc::clone(&self.store),
            turn,
            change: Mutex::default(),
        })
    }
}

/// The account at one CA.
struct StoredAccount {
    name: String,
    store: Arc<dyn Store>,
    turn: Arc<Mutex<()>>,
    change: Mutex<Option<Change>>,
}

/// What is under way with a record.
struct Change {
    /// Of the record that was found, and then of each that took its place: who has slept for longer than the hold lasts
    /// overwrites nothing that others have written meanwhile.
    version: u64,
    /// If other processes have the store open, too.
    hold: Option<Hold>,
}

impl StoredAccount {
    async fn read(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, String> {
        self.store.load(name).await.map_err(|error| error.to_string())
    }

    async fn hold(&self) -> Result<Option<Hold>, String> {
        let Some(shared) = self.store.shared() else {
            return Ok(None);
        };
        let held = shared.hold(&self.name, CHANGE).await;
        let held = held.map_err(|error| error.to_string())?;
        held.map(Some).ok_or_else(|| {
            "another acme-proxy is changing it at the moment; try again in a minute".to_owned()
        })
    }

    async fn release(&self, hold: Option<Hold>) {
        if let (Some(shared), Some(hold)) = (self.store.shared(), hold)
            && let Err(error) = shared.release(hold).await
        {
            tracing::warn!(%error, "the account at the CA can not be changed by another process for a while");
        }
    }
}

#[async_trait]
impl Vault for StoredAccount {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.read(&self.name).await?.map(|stored| stored.value))
    }

    async fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        let mut change = self.change.lock().await;
        let change = change.as_mut().ok_or("no change of it has begun")?;
        let record = Versioned::with(change.version, bytes);
        change.version = match self.store.save(&self.name, record).await {
            Err(StoreError::Conflict) => {
                return Err(
                    "another acme-proxy has changed it meanwhile; it is left as that one wrote it".to_owned(),
                );
            }
            saved => saved.map_err(|error| error.to_string())?,
        };
        Ok(())
    }

    async fn keep(&self, id: &str, bytes: Vec<u8>) -> Result<(), String> {
        let copy = Versioned::with(0, bytes);
        match self.store.save(&format!("{}/{id}", self.name), copy).await {
            // It is there: the id is the content's.
            Ok(_) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
        let names = self.store.names(VAULT).await.map_err(|error| error.to_string())?;
        let mut others = Vec::new();
        for name in names.iter().filter(|name| **name != self.name) {
            others.extend(self.read(name).await?.map(|stored| stored.value));
        }
        Ok(others)
    }

    async fn begin(&self) -> Result<OwnedMutexGuard<()>, String> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let hold = self.hold().await?;
        let version = match self.read(&self.name).await {
            Ok(found) => found.map_or(0, |record| record.version),
            Err(error) => {
                self.release(hold).await;
                return Err(error);
            }
        };
        *self.change.lock().await = Some(Change { version, hold });
        Ok(turn)
    }

    async fn end(&self, turn: OwnedMutexGuard<()>) {
        let change = self.change.lock().await.take();
        self.release(change.and_then(|change| change.hold)).await;
        drop(turn);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::store::Settings;
    use crate::store::sled::SledStore;

    const SOON: Duration = Duration::from_millis(50);

    fn store(place: &tempfile::TempDir) -> Arc<dyn Store> {
        let settings = Settings {
            path: place.path().join("db"),
            reserve_bytes: 0,
            cache_bytes: 4 << 20,
            gather: Duration::ZERO,
        };
        Arc::new(SledStore::open(settings).unwrap())
    }

    #[tokio::test]
    async fn f5_an_account_is_changed_by_one_at_a_time_and_a_change_that_is_cut_off_is_over() {
        let place = tempfile::tempdir().unwrap();
        let vaults = Vaults::of(store(&place));
        let [before, after, other] =
            ["upstream/a", "upstream/a", "upstream/b"].map(|name| vaults.named(name.to_owned()));
        let turn = before.begin().await.unwrap();
        assert!(timeout(SOON, after.begin()).await.is_err(), "both at a time");
        other.end(other.begin().await.unwrap()).await;
        before.end(turn).await;
        drop(after.begin().await.unwrap());
        before.end(before.begin().await.unwrap()).await;
    }

    /// The same store without a hold is what a process has that has slept for longer than its hold lasts.
    #[tokio::test]
    async fn f5_who_has_slept_for_too_long_in_a_change_of_the_account_overwrites_nothing() {
        let place = tempfile::tempdir().unwrap();
        let store = store(&place);
        let [sleeper, other] =
            [&store, &store].map(|store| Vaults::of(Arc::clone(store)).named("upstream/a".to_owned()));
        for known in [None, Some(b"changed".to_vec())] {
            let turn = sleeper.begin().await.unwrap();
            assert_eq!(sleeper.load().await, Ok(known));
            let its = other.begin().await.unwrap();
            for record in ["registering", "registered", "changed"] {
                other.save(record.into()).await.unwrap();
            }
            other.end(its).await;
            // It may look again before it writes, and has decided on what it saw before.
            assert_eq!(sleeper.load().await, Ok(Some(b"changed".to_vec())));
            let refused = sleeper.save(b"another key".to_vec()).await.unwrap_err();
            assert!(refused.contains("another acme-proxy has changed it"), "{refused}");
            sleeper.end(turn).await;
            assert_eq!(other.load().await, Ok(Some(b"changed".to_vec())));
        }
        sleeper.save(b"unasked".to_vec()).await.unwrap_err();
        for _ in 0..2 {
            sleeper.keep("id", b"a copy".to_vec()).await.unwrap();
        }
        assert_eq!(other.others().await, Ok(vec![b"a copy".to_vec()]));
    }
}
