//! What several processes with one store share, and a process that has a store to itself keeps in its memory.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::store::StoreError;

/// What is shared by the processes that have a store open.
///
/// The contract:
///
/// - Of any number of uses of one nonce, one is the first.
/// - What is held is held by at most one at a time, until it is given back or its time is over by the store's own clock.
#[async_trait]
pub trait Shared: Send + Sync {
    /// A key for this purpose: the same in each process that has the same secret, and stored nowhere.
    fn key(&self, purpose: &str) -> [u8; 32];

    /// Uses a nonce up: whether nobody has done so before. That is remembered until then at least.
    async fn use_nonce(&self, nonce: &[u8], until: Timestamp) -> Result<bool, StoreError>;

    /// Takes something in hand for so long at most, or until it is given back; `None` if somebody has it.
    async fn hold(&self, what: &str, span: Duration) -> Result<Option<Hold>, StoreError>;

    /// Holds it for so long from now on; `false` if somebody else has had it since.
    async fn extend(&self, hold: &Hold, span: Duration) -> Result<bool, StoreError>;

    /// Gives it back.
    async fn release(&self, hold: Hold) -> Result<(), StoreError>;

    /// Names for which there are certificates, and when the latest ends: up to `limit` of those that come after these, in
    /// order. The daemon's own do not count, nor do those that are revoked.
    async fn latest_certificates(
        &self,
        after: Option<[u8; 32]>,
        limit: usize,
    ) -> Result<Vec<([u8; 32], Timestamp)>, StoreError>;
}

/// What is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What it is.
    pub what: String,
    /// Unique to this time.
    pub token: u64,
}
