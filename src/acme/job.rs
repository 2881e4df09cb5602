//! Jobs: work that a committed change has caused and that the worker does in the background.
//!
//! A job is named by what it is about, so that enqueuing it twice is enqueuing it once.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::id::{AccountId, ChallengeId, OrderId};
use crate::acme::upstream::UpstreamName;

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

/// Jobs that wait for the same thing: work of one kind, at one upstream. What holds up one lane holds up no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// All validations: they wait for the applicants' hosts.
    Validate,
    /// Issuance at this upstream.
    Issue(UpstreamName),
    /// Revocation at this upstream.
    Revoke(UpstreamName),
}

impl Lane {
    /// The lane of work of this kind for an order of this upstream.
    pub fn of(kind: WorkKind, upstream: UpstreamName) -> Self {
        match kind {
            WorkKind::Validate => Self::Validate,
            WorkKind::Issue => Self::Issue(upstream),
            WorkKind::Revoke => Self::Revoke(upstream),
        }
    }

    /// The kind of work in it.
    pub fn kind(self) -> WorkKind {
        match self {
            Self::Validate => WorkKind::Validate,
            Self::Issue(_) => WorkKind::Issue,
            Self::Revoke(_) => WorkKind::Revoke,
        }
    }

    /// The upstream that the work waits for, if it waits for one.
    pub fn upstream(self) -> Option<UpstreamName> {
        match self {
            Self::Validate => None,
            Self::Issue(upstream) | Self::Revoke(upstream) => Some(upstream),
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
#[serde(from = "Stored")]
pub struct Job {
    /// What is to be done.
    pub work: Work,
    /// Whose order it is for: places are shared out fairly between owners.
    pub owner: AccountId,
    /// The upstream of the order that it is for.
    #[serde(skip_serializing_if = "UpstreamName::is_default")]
    pub upstream: UpstreamName,
    /// Since when it waits to be done.
    pub since: Timestamp,
    /// Not before this time.
    pub due: Timestamp,
    /// How often in a row it has been put off because of a fault. Drives the back-off.
    pub faults: u32,
}

impl Job {
    /// Work that is due at once.
    pub fn now(work: Work, owner: AccountId, upstream: UpstreamName, now: Timestamp) -> Self {
        Self {
            work,
            owner,
            upstream,
            since: now,
            due: now,
            faults: 0,
        }
    }

    /// What it waits for.
    pub fn lane(&self) -> Lane {
        Lane::of(self.work.kind(), self.upstream)
    }
}

/// A job as it may stand in the store, also in forms without some of the members: as if all such jobs were of one
/// owner, at the default upstream, and had been due from the start.
#[derive(Deserialize)]
struct Stored {
    work: Work,
    #[serde(default = "nobody")]
    owner: AccountId,
    #[serde(default)]
    upstream: UpstreamName,
    since: Option<Timestamp>,
    due: Timestamp,
    faults: u32,
}

impl From<Stored> for Job {
    fn from(stored: Stored) -> Self {
        Self {
            work: stored.work,
            owner: stored.owner,
            upstream: stored.upstream,
            since: stored.since.unwrap_or(stored.due),
            due: stored.due,
            faults: stored.faults,
        }
    }
}

fn nobody() -> AccountId {
    AccountId::DAEMON
}
