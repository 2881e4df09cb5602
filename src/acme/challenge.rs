//! Challenges (RFC 8555 §7.1.5, §8): one way each to prove control of a name, and how far the proof has come.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::problem::Problem;
use crate::acme::random::random_bytes;

/// The validation methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChallengeType {
    /// RFC 8555 §8.3.
    #[serde(rename = "http-01")]
    Http01,
    /// RFC 8555 §8.4.
    #[serde(rename = "dns-01")]
    Dns01,
    /// RFC 8737.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl ChallengeType {
    /// Every type known here.
    pub const ALL: [Self; 3] = [Self::Http01, Self::Dns01, Self::TlsAlpn01];

    /// The registered name, e.g. `http-01`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl fmt::Display for ChallengeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no challenge type that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown challenge type; the known ones are http-01, dns-01 and tls-alpn-01")]
pub struct UnknownChallengeType;

impl FromStr for ChallengeType {
    type Err = UnknownChallengeType;

    fn from_str(text: &str) -> Result<Self, UnknownChallengeType> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or(UnknownChallengeType)
    }
}

/// The random value that a challenge is answered with: 192 bits, base64url (RFC 8555 §8.1 asks for at least 128).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A new token.
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random_bytes::<24>()))
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key authorization: the token and the account key's RFC 7638 thumbprint (RFC 8555 §8.1).
    pub fn key_authorization(&self, thumbprint: &str) -> String {
        format!("{}.{thumbprint}", self.0)
    }
}

/// A challenge's stored facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The validation method.
    #[serde(rename = "type")]
    pub(in crate::acme) kind: ChallengeType,
    /// How far it has come.
    pub(in crate::acme) state: ChallengeState,
}

/// How far a challenge has come (RFC 8555 §7.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeState {
    /// Offered; the client has not answered it.
    Pending,
    /// The client has answered, and validation is under way.
    Processing {
        /// How many attempts have failed so far, each for a passing reason.
        failed_attempts: u32,
        /// Why the latest one failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// Control of the name was proved at this time.
    Valid(Timestamp),
    /// Validation has failed for good.
    Invalid(Problem),
}

impl Challenge {
    /// A challenge that is offered and not answered yet.
    pub(crate) fn offered(kind: ChallengeType) -> Self {
        Self {
            kind,
            state: ChallengeState::Pending,
        }
    }

    /// The validation method.
    pub fn kind(&self) -> ChallengeType {
        self.kind
    }

    /// How far it has come.
    pub fn state(&self) -> &ChallengeState {
        &self.state
    }

    /// The status as it goes over the wire (RFC 8555 §7.1.6).
    pub fn status(&self) -> &'static str {
        match self.state {
            ChallengeState::Pending => "pending",
            ChallengeState::Processing { .. } => "processing",
            ChallengeState::Valid(_) => "valid",
            ChallengeState::Invalid(_) => "invalid",
        }
    }
}
