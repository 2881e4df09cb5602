//! The registration authority: what an account may do with its objects. Every use case is: load, pure transition,
//! compare-and-swap; on a conflict the transition decides again on what it finds then.
//!
//! It knows nothing of HTTP, and asks neither the network nor the CA: it leaves jobs for the worker.

pub mod account;
pub mod authorization;
pub mod backup;
pub mod certificate;
pub mod external_account;
pub mod import;
pub mod inventory;
pub mod key_change;
pub(crate) mod limit;
pub mod nonce;
pub mod order;
pub mod policy;
pub mod renewal;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::acme::account::Account;
use crate::acme::id::OrderId;
use crate::acme::order::Order;
use crate::acme::problem::{Problem, ProblemType};
use crate::clock::Clock;
use crate::jose::jwk::Jwk;
use crate::policy::{Policy, Provisioner};
use crate::ra::limit::RateLimits;
use crate::store::{Store, StoreError, Versioned};

/// How often a use case decides again after a conflict. Each conflict is somebody else's success: an order of 100 names
/// has 100 challenges that may be answered at once, and as many verdicts.
const MAX_CONFLICTS: usize = 256;

/// Why a use case ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request is refused: the client reads why.
    Problem(Problem),
    /// The client did nothing wrong; it may come back after a while.
    Later {
        /// What the client reads.
        problem: Problem,
        /// How long to wait.
        retry_after: Duration,
        /// What the log reads.
        cause: String,
    },
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let (detail, seconds) = match &error {
            StoreError::Full { .. } => (
                "the server has no room for new accounts and orders; try again later",
                300,
            ),
            StoreError::Unavailable(_) | StoreError::Refused(_) => {
                ("the server can not use its database; try again later", 10)
            }
            StoreError::Conflict | StoreError::LeaseLost => {
                ("the object changed while it was worked on; try again", 1)
            }
            StoreError::InUse { .. }
            | StoreError::Corrupt(_)
            | StoreError::Overtaken
            | StoreError::Stalled { .. }
            | StoreError::Failed(_) => ("the server met an internal error; try again later", 60),
        };
        Self::Later {
            problem: Problem::new(ProblemType::ServerInternal, detail).with_status(503),
            retry_after: Duration::from_secs(seconds),
            cause: error.to_string(),
        }
    }
}

/// The registration authority.
pub struct RegistrationAuthority {
    store: Arc<dyn Store>,
    policy: Policy,
    clock: Clock,
    limits: Arc<RateLimits>,
    own_keys: Option<Arc<dyn OwnKeys>>,
}

/// The daemon's own keys, which are in no client's certificate and are no client's account's.
#[async_trait]
pub trait OwnKeys: Send + Sync {
    /// Whether this is one of them.
    async fn contain(&self, key: &Jwk) -> Result<bool, StoreError>;
}

impl RegistrationAuthority {
    /// A registration authority over a store, under a policy.
    pub fn new(store: Arc<dyn Store>, policy: Policy, clock: Clock) -> Self {
        Self {
            limits: Arc::new(RateLimits::new(policy.limits())),
            store,
            policy,
            clock,
            own_keys: None,
        }
    }

    /// The same, refusing CSRs and accounts by a key of the daemon's own.
    pub fn with_own_keys(self, own_keys: Box<dyn OwnKeys>) -> Self {
        Self {
            own_keys: Some(Arc::from(own_keys)),
            ..self
        }
    }

    /// The same under another policy. What accounts and addresses have asked for counts on unless the limits are others.
    pub fn under(&self, policy: Policy) -> Self {
        Self {
            store: Arc::clone(&self.store),
            limits: match policy.limits() == self.policy.limits() {
                true => Arc::clone(&self.limits),
                false => Arc::new(RateLimits::new(policy.limits())),
            },
            policy,
            clock: self.clock.clone(),
            own_keys: self.own_keys.clone(),
        }
    }

    /// The clock that decides what is expired.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What to tell a client about a key that is not the client's alone. A compromised key still signs for what ends its
    /// use: an account that has it already may change it, and a certificate that has it may be revoked.
    async fn shared_with_others(&self, key: &Jwk) -> Result<Option<String>, StoreError> {
        if let Some(source) = self.policy.source_of_blocked(&key.number_hash()) {
            let known = format!("is no secret, it is known from {source}; make a new one");
            return Ok(Some(known));
        }
        let own = match &self.own_keys {
            Some(own_keys) => own_keys.contain(key).await?,
            None => false,
        };
        Ok(own.then(|| "is this server's own; make a new one".to_owned()))
    }

    fn provisioner_of(&self, account: &Account) -> Result<&Provisioner, Refusal> {
        let provisioner = self.policy.provisioner(account.provisioner());
        Ok(provisioner.ok_or_else(Problem::not_found)?)
    }

    /// The account's order, or the one answer for orders that do not exist and orders of others.
    async fn own_order(&self, account: &Account, id: OrderId) -> Result<Versioned<Order>, Refusal> {
        match self.store.own_order(account.id(), id).await? {
            Some(order) if order.value.account() == account.id() => {
                // From here on the log says of what order the request is.
                tracing::Span::current().record("order.request.id", order.value.request_id());
                Ok(order)
            }
            Some(_) | None => Err(Problem::not_found().into()),
        }
    }
}
