//! PostgreSQL as the store of several processes. What the contract asks for is in `operations`, each one statement; the
//! tables, and the functions that make changes, are in `schema.sql`.
//!
//! Nothing that only this process knows decides anything: whatever replicas must agree on is a row, a lock or a clock of
//! the database.

pub mod connect;
pub mod fault;
pub(crate) mod migrate;
pub mod moving;
mod operations;
mod queue;
mod records;
mod restore;
mod rows;
mod seal;
mod shared;
mod snapshot;
mod statement;
pub mod survey;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
pub mod url;
mod wake;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::acme::secret::Secret;
use crate::store::StoreError;
use crate::store::postgres::connect::Connections;
use crate::store::postgres::seal::Keys;
use crate::store::postgres::wake::{Listening, Wake};

/// How the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How to reach the database.
    pub connection: connect::Settings,
    /// What keys are made of that no replica stores: the same for all of them.
    pub secret: Secret<Vec<u8>>,
}

/// The store in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    connections: Connections,
    keys: Arc<Keys>,
    wake: Wake,
    statements: AtomicU64,
    commits: AtomicU64,
}

impl PostgresStore {
    /// Opens the store, makes one if the database has none, and brings an older one up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the database can not be reached, or a migration has it for itself.
    /// [`StoreError::Refused`] if waiting changes nothing: the schema is newer than this program, the secret is another one,
    /// or the database may lose what it acknowledges.
    pub async fn open(settings: Settings) -> Result<Self, StoreError> {
        let keys = Keys::of(&settings.secret)?;
        let connections = Connections::new(&settings.connection)?;
        let mut first = Listening::new(&connections).await?;
        moving::enter(&first.client).await?;
        migrate::check_durability(&first.client).await?;
        migrate::migrate(&mut first.client, migrate::STEPS, &keys.proof()).await?;
        Ok(Self {
            wake: Wake::new(connections.clone(), first),
            connections,
            keys: Arc::new(keys),
            statements: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        })
    }

    /// Whether the database has a store.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`StoreError::Refused`] also if to open it would bring it up to date.
    pub async fn is_made(settings: &Settings) -> Result<bool, StoreError> {
        let (client, _task) = Connections::new(&settings.connection)?.alone(drop).await?;
        migrate::is_made(&client, migrate::STEPS).await
    }
}
