//! Jobs: work that a committed change has caused and that the worker does in the background.
//!
//! A job is named by what it is about, so that enqueuing it twice is enqueuing it once.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::id::{AccountId, ChallengeId, OrderId};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Ask the network whether the challenge is met.
    Validate(ChallengeId),
    /// Bring the order's certificate from the CA.
    Issue(OrderId),
    /// Have the CA revoke the order's certificate.
    Revoke(OrderId),
}

/// The kinds of work, each with its own share of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkKind {
    /// [`Work::Validate`].
    Validate,
    /// [`Work::Issue`].
    Issue,
    /// [`Work::Revoke`].
    Revoke,
}

impl WorkKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Validate, Self::Issue, Self::Revoke];

    /// The kind's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
        }
    }
}

impl Work {
    /// The kind of work.
    pub fn kind(&self) -> WorkKind {
        match self {
            Self::Validate(_) => WorkKind::Validate,
            Self::Issue(_) => WorkKind::Issue,
            Self::Revoke(_) => WorkKind::Revoke,
        }
    }

    /// The order that the work is for.
    pub fn order(&self) -> OrderId {
        match self {
            Self::Validate(challenge) => challenge.authorization.order,
            Self::Issue(order) | Self::Revoke(order) => *order,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Validate(challenge) => write!(f, "validate/{challenge}"),
            Self::Issue(order) => write!(f, "issue/{order}"),
            Self::Revoke(order) => write!(f, "revoke/{order}"),
        }
    }
}

/// Work, whose it is, and when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is to be done.
    pub work: Work,
    /// Whose order it is for: places are shared out fairly between owners. Jobs of the form without it are as if all
    /// were of one owner.
    #[serde(default = "nobody")]
    pub owner: AccountId,
    /// Not before this time.
    pub due: Timestamp,
    /// How often in a row it has been put off because of a fault. Drives the back-off.
    pub faults: u32,
}

impl Job {
    /// Work that is due at once.
    pub fn now(work: Work, owner: AccountId, now: Timestamp) -> Self {
        Self {
            work,
            owner,
            due: now,
            faults: 0,
        }
    }
}

fn nobody() -> AccountId {
    AccountId::DAEMON
}
