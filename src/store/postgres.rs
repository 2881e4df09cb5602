//! PostgreSQL as the store of several processes.

pub mod connect;
pub mod fault;
mod tls;
pub mod url;

use crate::acme::secret::Secret;

/// How the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How to reach the database.
    pub connection: connect::Settings,
    /// What keys are made of that no replica stores: the same for all of them.
    pub secret: Secret<Vec<u8>>,
}
