//! The nonces of servers that share a store.

use jiff::Timestamp;

use crate::ra::{Refusal, RegistrationAuthority};

impl RegistrationAuthority {
    /// The time by which nonces and orders grow old.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The key that all servers with this store mint nonces under; `None` if this one has it to itself.
    pub fn nonce_key(&self) -> Option<[u8; 32]> {
        self.store.shared().map(|shared| shared.key("nonces"))
    }

    /// Uses a nonce of any of these servers up: whether nobody has before. That is remembered until then at least.
    ///
    /// # Errors
    ///
    /// Only the store's.
    pub async fn use_nonce(&self, nonce: &[u8], until: Timestamp) -> Result<bool, Refusal> {
        match self.store.shared() {
            Some(shared) => Ok(shared.use_nonce(nonce, until).await?),
            None => Ok(false),
        }
    }
}
