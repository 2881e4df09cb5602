//! PostgreSQL as the store of several processes.

pub mod connect;
pub mod fault;
pub mod survey;
#[cfg(test)]
mod tests;
mod tls;
pub mod url;

use crate::acme::secret::Secret;
use crate::store::StoreError;
use crate::store::postgres::connect::{Connections, unavailable};

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
}

impl PostgresStore {
    /// Opens the store, or makes one if the database has none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the database can not be reached.
    pub async fn open(settings: Settings) -> Result<Self, StoreError> {
        let connections = Connections::new(&settings.connection)?;
        let client = connections.get().await?;
        client
            .batch_execute("SELECT")
            .await
            .map_err(|e| unavailable(&e))?;
        drop(client);
        Ok(Self { connections })
    }
}
