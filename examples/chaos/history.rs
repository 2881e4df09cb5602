//! What clients were answered, in the order in which they read it. Nothing that was noted is ever changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

/// RFC 8555 §7.1.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

/// What an answer says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// An account with this status.
    Account(Status),
    /// An order with this status.
    Order(Status),
    /// An authorization with this status.
    Authorization(Status),
    /// A challenge with this status.
    Challenge(Status),
    /// The certificate of the order, PEM.
    Chain(String),
    /// It is denied, in these words, although it was acknowledged or must be given.
    Denied(String),
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The object; for [`Said::Chain`] the order.
    pub(crate) url: String,
    /// The replica that has answered.
    pub(crate) replica: usize,
    pub(crate) said: Said,
}

/// What a client wanted when it made an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The order.
    pub(crate) url: String,
    pub(crate) names: Vec<String>,
    /// The key that the certificate is to be for, as a DER `SubjectPublicKeyInfo`.
    pub(crate) public_key: Vec<u8>,
}

/// Everything that was answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// The orders that were acknowledged.
    pub(crate) wishes: Vec<Wish>,
    /// The answers. A client that gets no answer notes none.
    pub(crate) answers: Vec<Answer>,
    /// How many answers there were before the last look at everything began.
    pub(crate) before_last_look: usize,
}

/// Where all clients note down what they were answered.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Record>);

impl History {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order was acknowledged.
    pub(crate) fn wished(&self, wish: Wish) {
        self.record().wishes.push(wish);
    }

    /// An answer was read.
    pub(crate) fn note(&self, url: &str, replica: usize, said: Said) {
        self.record().answers.push(Answer {
            url: url.to_owned(),
            replica,
            said,
        });
    }

    /// From now on only the last look is noted.
    pub(crate) fn last_look(&self) {
        let mut record = self.record();
        record.before_last_look = record.answers.len();
    }

    /// What was noted until now.
    pub(crate) fn take(&self) -> Record {
        std::mem::take(&mut self.record())
    }
}
