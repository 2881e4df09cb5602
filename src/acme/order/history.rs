//! What has happened to an order so far, for people who ask why it is stuck. Nothing is decided by it.
//!
//! The order's making is not among the steps: the record says it anyway. Orders of before there were steps have none.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::order::{Order, Stage};
use crate::acme::problem::cleaned;

/// The most steps that are kept: with their texts, about as much as a record has without them.
const MAX_STEPS: usize = 32;

/// The longest text of a step, in characters.
const MAX_ABOUT: usize = 200;

/// Something that has happened to an order; the same several times in a row is one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, for the first time.
    pub at: Timestamp,
    /// What.
    pub kind: StepKind,
    /// Which, why, or where; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// When for the last time, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}

/// What can happen to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// The client says that a challenge is met.
    Answered,
    /// An attempt at a challenge has failed.
    AttemptFailed,
    /// A challenge is met.
    Validated,
    /// The client has given up an authorization.
    Deactivated,
    /// The client has handed in its CSR.
    Finalized,
    /// The order has gone to another upstream.
    Moved,
    /// An order was opened at the CA.
    Opened,
    /// The CA, or the way to it, has failed.
    CaFailed,
    /// The CA's order is dead.
    Gone,
    /// The certificate of an earlier order was taken instead of buying one.
    HandedOver,
    /// The certificate has come.
    Issued,
    /// The client has fetched the certificate.
    Fetched,
    /// The order has ended without a certificate.
    Failed,
    /// The certificate has come after the order's end.
    CameLate,
    /// Nobody looks for a late certificate any more.
    Abandoned,
    /// Somebody has asked for the certificate's revocation.
    RevocationRequested,
    /// The CA has revoked the certificate.
    Revoked,
    /// The CA has refused to revoke the certificate.
    RevocationRefused,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "the client has answered a challenge",
            Self::AttemptFailed => "a validation attempt has failed",
            Self::Validated => "validated",
            Self::Deactivated => "the client has given up an authorization",
            Self::Finalized => "finalized: the client has handed in its CSR",
            Self::Moved => "moved to another upstream",
            Self::Opened => "opened at the CA",
            Self::CaFailed => "the CA did not answer as it should",
            Self::Gone => "the CA's order is gone",
            Self::HandedOver => "got the certificate of an earlier order",
            Self::Issued => "the certificate has come",
            Self::Fetched => "the client has fetched the certificate",
            Self::Failed => "failed",
            Self::CameLate => "the certificate has come after the order's end",
            Self::Abandoned => "no certificate is looked for any more",
            Self::RevocationRequested => "revocation asked for",
            Self::Revoked => "revoked by the CA",
            Self::RevocationRefused => "the CA has refused the revocation",
        })
    }
}

impl Order {
    /// What has happened to it, the first thing first. Of very many steps some are forgotten ([`Self::forgotten_steps`]):
    /// the oldest of the kind that there are most of, so that nothing that happens often drives out what happens seldom.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many steps are forgotten.
    pub fn forgotten_steps(&self) -> u32 {
        self.forgotten_steps
    }

    /// Something has happened to it.
    pub fn noting(mut self, kind: StepKind, about: &str, now: Timestamp) -> Self {
        self.note(kind, about, now);
        self
    }

    pub(crate) fn note(&mut self, kind: StepKind, about: &str, now: Timestamp) {
        let about = cleaned(about, MAX_ABOUT);
        if let Some(latest) = self.steps.last_mut()
            && latest.kind == kind
            && latest.about == about
        {
            latest.times = latest.times.saturating_add(1);
            latest.last = Some(now);
            return;
        }
        if self.steps.len() >= MAX_STEPS {
            let alike = |kind| self.steps.iter().filter(|step| step.kind == kind).count();
            let latest_first = self.steps.iter().enumerate().rev();
            let place = latest_first.max_by_key(|(_, step)| alike(step.kind));
            if let Some((place, _)) = place {
                self.steps.remove(place);
                self.forgotten_steps = self.forgotten_steps.saturating_add(1);
            }
        }
        self.steps.push(Step {
            at: now,
            kind,
            about,
            times: 1,
            last: None,
        });
    }

    /// When the certificate came, if it came in time.
    pub fn issued_at(&self) -> Option<Timestamp> {
        match &self.stage {
            Stage::Issued { issued, .. } => Some(*issued),
            Stage::Open
            | Stage::Processing { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => None,
        }
    }

    /// Whether its client has come for the certificate.
    pub fn is_fetched(&self) -> bool {
        match &self.stage {
            Stage::Issued { fetched, .. } => *fetched,
            Stage::Open
            | Stage::Processing { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => false,
        }
    }

    /// The URL of the order at the CA, if one is known.
    pub fn url_at_ca(&self) -> Option<&str> {
        let upstream = match &self.stage {
            Stage::Processing { upstream, .. } | Stage::Issued { upstream, .. } => upstream.as_ref(),
            Stage::Awaited { upstream, .. } | Stage::Late { upstream, .. } => Some(upstream),
            Stage::Open | Stage::Failed { .. } => None,
        };
        upstream.map(|upstream| upstream.url.as_str())
    }
}
