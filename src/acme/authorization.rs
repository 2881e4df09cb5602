//! Authorizations (RFC 8555 §7.1.4): an account's proof of control over one identifier, within one order.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::challenge::{Challenge, ChallengeState, ChallengeType, Token};
use crate::acme::id::OrderId;
use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;

/// An authorization's stored facts. It lives and expires with its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The order that it was made for, and with it the account. Older records do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::acme) order: Option<OrderId>,
    pub(in crate::acme) identifier: Identifier,
    /// One token for all challenges of the authorization, never used for another authorization.
    pub(in crate::acme) token: Token,
    pub(in crate::acme) challenges: Vec<Challenge>,
    /// When its owner gave it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::acme) deactivated: Option<Timestamp>,
}

/// RFC 8555 §7.1.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationStatus {
    /// No challenge has come to an end.
    Pending,
    /// One challenge is valid.
    Valid,
    /// One challenge is invalid.
    Invalid,
    /// Given up by its owner.
    Deactivated,
    /// The order's time is over.
    Expired,
}

impl fmt::Display for AuthorizationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
        })
    }
}

impl Authorization {
    /// An authorization within this order that offers challenges of these types.
    pub(crate) fn offering(order: OrderId, identifier: Identifier, kinds: &[ChallengeType]) -> Self {
        Self {
            order: Some(order),
            identifier,
            token: Token::random(),
            challenges: kinds.iter().copied().map(Challenge::offered).collect(),
            deactivated: None,
        }
    }

    /// What control is proved over.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// The token of its challenges.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The challenges that a client may see: all of them, or only the one that settled the matter (RFC 8555 §7.1.4).
    pub fn challenges(&self) -> impl Iterator<Item = &Challenge> {
        let settled = self.challenges.iter().any(is_settled);
        let shown = move |challenge: &&Challenge| !settled || is_settled(challenge);
        self.challenges.iter().filter(shown)
    }

    /// The challenge of this type, if one is offered.
    pub fn challenge(&self, kind: ChallengeType) -> Option<&Challenge> {
        self.challenges.iter().find(|c| c.kind == kind)
    }

    /// The status, by the first rule that applies (RFC 8555 §7.1.6):
    ///
    /// 1. a challenge is invalid: invalid;
    /// 2. its owner has given it up: deactivated;
    /// 3. the order's time is over: expired;
    /// 4. a challenge is valid: valid;
    /// 5. otherwise pending.
    pub fn status(&self, expires: Timestamp, now: Timestamp) -> AuthorizationStatus {
        if self.problem().is_some() {
            return AuthorizationStatus::Invalid;
        }
        if self.is_deactivated() {
            return AuthorizationStatus::Deactivated;
        }
        if expires <= now {
            return AuthorizationStatus::Expired;
        }
        let valid = |c: &Challenge| matches!(c.state, ChallengeState::Valid(_));
        match self.challenges.iter().any(valid) {
            true => AuthorizationStatus::Valid,
            false => AuthorizationStatus::Pending,
        }
    }

    /// Whether its owner has given it up (RFC 8555 §7.5.2).
    pub fn is_deactivated(&self) -> bool {
        self.deactivated.is_some()
    }

    /// Why the authorization is invalid.
    pub fn problem(&self) -> Option<&Problem> {
        self.challenges.iter().find_map(|c| match &c.state {
            ChallengeState::Invalid(problem) => Some(problem),
            ChallengeState::Pending | ChallengeState::Processing { .. } | ChallengeState::Valid(_) => None,
        })
    }
}

fn is_settled(challenge: &Challenge) -> bool {
    match challenge.state {
        ChallengeState::Valid(_) | ChallengeState::Invalid(_) => true,
        ChallengeState::Pending | ChallengeState::Processing { .. } => false,
    }
}
