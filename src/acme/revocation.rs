//! Revocation (RFC 8555 §7.6): asked for by a client, done by the CA.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::problem::{Problem, ProblemType};

/// Why a certificate is revoked: the `CRLReason` codes that a subscriber may give (RFC 5280 §5.3.1, and the CA/B
/// Forum's Baseline Requirements §4.9.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// Code 0.
    Unspecified,
    /// Code 1.
    KeyCompromise,
    /// Code 3.
    AffiliationChanged,
    /// Code 4.
    Superseded,
    /// Code 5.
    CessationOfOperation,
}

impl RevocationReason {
    /// The reason with this code.
    ///
    /// # Errors
    ///
    /// `badRevocationReason`, which lists the codes that are allowed (RFC 8555 §7.6).
    pub fn from_code(code: i64) -> Result<Self, Problem> {
        match code {
            0 => Ok(Self::Unspecified),
            1 => Ok(Self::KeyCompromise),
            3 => Ok(Self::AffiliationChanged),
            4 => Ok(Self::Superseded),
            5 => Ok(Self::CessationOfOperation),
            _ => Err(Problem::new(
                ProblemType::BadRevocationReason,
                "the allowed reasons are 0 (unspecified), 1 (keyCompromise), 3 (affiliationChanged), 4 (superseded) and 5 (cessationOfOperation)",
            )),
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
        })
    }
}

/// RFC 8555 §7.6: "If the certificate has already been revoked, the server returns an error response with status code 400
/// (Bad Request) and type "urn:ietf:params:acme:error:alreadyRevoked"."
pub fn already_revoked() -> Problem {
    Problem::new(ProblemType::AlreadyRevoked, "the certificate is revoked already")
}

/// How far a revocation has come. Only the CA's confirmation makes a certificate revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// Asked for; on its way to the CA.
    Requested {
        /// The reason, if one was given.
        reason: Option<RevocationReason>,
        /// When it was asked for.
        at: Timestamp,
    },
    /// The CA has confirmed it.
    Confirmed {
        /// The reason, if one was given.
        reason: Option<RevocationReason>,
        /// When the CA confirmed it.
        at: Timestamp,
    },
    /// The CA has refused it for good.
    Refused {
        /// Why.
        problem: Problem,
        /// When the CA refused it.
        at: Timestamp,
    },
}
