//! Where the accounts at the CAs are kept: in the store, each of them changed by one at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::config;
use crate::store::shared::Hold;
use crate::store::{Store, Versioned};
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
            held: Mutex::default(),
        })
    }
}

/// The account at one CA.
struct StoredAccount {
    name: String,
    store: Arc<dyn Store>,
    turn: Arc<Mutex<()>>,
    /// While it is being changed, if other processes have the store open, too.
    held: Mutex<Option<Hold>>,
}

impl StoredAccount {
    async fn read(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, String> {
        self.store.load(name).await.map_err(|error| error.to_string())
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), String> {
        let version = self.read(name).await?.map_or(0, |stored| stored.version);
        let saved = self.store.save(name, Versioned::with(version, bytes)).await;
        saved.map(drop).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Vault for StoredAccount {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.read(&self.name).await?.map(|stored| stored.value))
    }

    async fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        self.write(&self.name, bytes).await
    }

    async fn keep(&self, id: &str, bytes: Vec<u8>) -> Result<(), String> {
        self.write(&format!("{}/{id}", self.name), bytes).await
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
        let Some(shared) = self.store.shared() else {
            return Ok(turn);
        };
        let held = shared
            .hold(&self.name, CHANGE)
            .await
            .map_err(|error| error.to_string())?;
        let held = held.ok_or("another acme-proxy is changing it at the moment; try again in a minute")?;
        *self.held.lock().await = Some(held);
        Ok(turn)
    }

    async fn end(&self, turn: OwnedMutexGuard<()>) {
        if let (Some(shared), Some(held)) = (self.store.shared(), self.held.lock().await.take())
            && let Err(error) = shared.release(held).await
        {
            tracing::warn!(%error, "the account at the CA can not be changed by another process for a while");
        }
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

    #[tokio::test]
    async fn f5_an_account_is_changed_by_one_at_a_time_and_a_change_that_is_cut_off_is_over() {
        let place = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: place.path().join("db"),
            reserve_bytes: 0,
            cache_bytes: 4 << 20,
            gather: Duration::ZERO,
        };
        let vaults = Vaults::of(Arc::new(SledStore::open(settings).unwrap()));
        let [before, after, other] =
            ["upstream/a", "upstream/a", "upstream/b"].map(|name| vaults.named(name.to_owned()));
        let turn = before.begin().await.unwrap();
        assert!(timeout(SOON, after.begin()).await.is_err(), "both at a time");
        other.end(other.begin().await.unwrap()).await;
        before.end(turn).await;
        drop(after.begin().await.unwrap());
        before.end(before.begin().await.unwrap()).await;
    }
}
