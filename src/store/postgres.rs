//! PostgreSQL as the store of several processes.

pub mod connect;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::store::StoreError;
use crate::store::postgres::connect::{Connections, unavailable};

/// How the store is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to reach the database.
    pub connection: connect::Settings,
    /// What keys are made of that no replica stores: the same for all of them.
    pub secret: Secret,
}

/// A secret of the configuration. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
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
