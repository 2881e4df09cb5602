//! Problem documents (RFC 7807, RFC 8555 §6.7): what went wrong, in words that a client may read.
//!
//! [`ProblemType::ALL`] is the one table of the registered error types. A problem never carries internal detail: that
//! goes to the log where it arises.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::acme::identifier::Identifier;

const URN: &str = "urn:ietf:params:acme:error:";

macro_rules! problem_types {
    ($($(#[$doc:meta])* $variant:ident $name:literal $status:literal;)*) => {
        /// The error types registered for ACME.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemType { $($(#[$doc])* $variant,)* }

        impl ProblemType {
            /// Every registered type, in the RFC's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last part of the type's URN, e.g. `badNonce`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status that a problem of this type is sent with, unless the problem says otherwise.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

problem_types! {
    /// RFC 8555 §6.7: the named account does not exist.
    AccountDoesNotExist "accountDoesNotExist" 400;
    /// RFC 9773 §7.4: the certificate to be replaced has been replaced already.
    AlreadyReplaced "alreadyReplaced" 409;
    /// RFC 8555 §7.6: the certificate is revoked already.
    AlreadyRevoked "alreadyRevoked" 400;
    /// RFC 8555 §7.4: the CSR is unacceptable.
    BadCsr "badCSR" 400;
    /// RFC 8555 §6.5: the anti-replay nonce is not acceptable; try again with the one in this answer.
    BadNonce "badNonce" 400;
    /// RFC 8555 §6.2: the account's key is of a kind that is not accepted.
    BadPublicKey "badPublicKey" 400;
    /// RFC 8555 §7.6: the revocation reason is not allowed.
    BadRevocationReason "badRevocationReason" 400;
    /// RFC 8555 §6.2: the signature algorithm is not accepted; `algorithms` lists those that are.
    BadSignatureAlgorithm "badSignatureAlgorithm" 400;
    /// RFC 8555 §6.7: a CAA record forbids issuance.
    Caa "caa" 403;
    /// RFC 8555 §6.7.1: see the subproblems.
    Compound "compound" 400;
    /// RFC 8555 §8: the server could not connect to the validation target.
    Connection "connection" 400;
    /// RFC 8555 §8: a DNS query failed during validation.
    Dns "dns" 400;
    /// RFC 8555 §7.3.4: the account needs an external account binding.
    ExternalAccountRequired "externalAccountRequired" 403;
    /// RFC 8555 §8: the response to a challenge is not the expected one.
    IncorrectResponse "incorrectResponse" 403;
    /// RFC 8555 §7.3: a contact URL is invalid.
    InvalidContact "invalidContact" 400;
    /// RFC 9799 and draft-aaron-acme-profiles: the profile is not offered.
    InvalidProfile "invalidProfile" 400;
    /// RFC 8555 §6: the request is malformed.
    Malformed "malformed" 400;
    /// RFC 8555 §7.4: the order is not in the state that finalization needs.
    OrderNotReady "orderNotReady" 403;
    /// RFC 8555 §6.6: a rate limit is exceeded.
    RateLimited "rateLimited" 429;
    /// RFC 8555 §7.4: no certificate will be issued for the identifier.
    RejectedIdentifier "rejectedIdentifier" 400;
    /// RFC 8555 §6.7: the server met an internal error.
    ServerInternal "serverInternal" 500;
    /// RFC 8555 §8: a TLS error during validation.
    Tls "tls" 400;
    /// RFC 8555 §6.7: the client lacks authorization.
    Unauthorized "unauthorized" 403;
    /// RFC 8555 §7.3: a contact URL has a scheme that is not supported.
    UnsupportedContact "unsupportedContact" 400;
    /// RFC 8555 §7.4: the identifier's type is not supported.
    UnsupportedIdentifier "unsupportedIdentifier" 400;
    /// RFC 8555 §7.3.3: the user must act first; see `instance`.
    UserActionRequired "userActionRequired" 403;
}

impl fmt::Display for ProblemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{URN}{}", self.name())
    }
}

impl FromStr for ProblemType {
    type Err = UnknownProblemType;

    fn from_str(urn: &str) -> Result<Self, UnknownProblemType> {
        let name = urn.strip_prefix(URN).ok_or(UnknownProblemType)?;
        let known = Self::ALL.iter().find(|kind| kind.name() == name);
        known.copied().ok_or(UnknownProblemType)
    }
}

/// The text is no URN of a registered ACME error type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a registered ACME error type")]
pub struct UnknownProblemType;

impl Serialize for ProblemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProblemType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let urn = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        urn.parse().map_err(serde::de::Error::custom)
    }
}

/// A problem document, serialised as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The error type.
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// Text for people: what is wrong with the request, and what to do.
    pub detail: String,
    /// The HTTP status that the problem is sent with.
    pub status: u16,
    /// One problem for each identifier that is at fault (RFC 8555 §6.7.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subproblems: Vec<Subproblem>,
    /// The accepted signature algorithms; only in a `badSignatureAlgorithm` (RFC 8555 §6.2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
}

/// A problem with one identifier, inside another problem (RFC 8555 §6.7.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subproblem {
    /// The error type.
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// Text for people.
    pub detail: String,
    /// The identifier that is at fault, as the client wrote it.
    pub identifier: NamedIdentifier,
}

/// An identifier as a client wrote it, acceptable or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedIdentifier {
    /// E.g. `dns`.
    #[serde(rename = "type")]
    pub kind: String,
    /// E.g. `www.example.com`.
    pub value: String,
}

impl From<&Identifier> for NamedIdentifier {
    fn from(identifier: &Identifier) -> Self {
        Self {
            kind: identifier.type_name().to_owned(),
            value: identifier.to_string(),
        }
    }
}

impl Problem {
    /// A problem of the type, sent with the type's own HTTP status.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            status: kind.status(),
            subproblems: Vec::new(),
            algorithms: Vec::new(),
        }
    }

    /// The commonest problem: a request that breaks the protocol's rules.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Malformed, detail)
    }

    /// The request is understood, and not permitted.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Unauthorized, detail)
    }

    /// Our fault. The detail is the same for all causes: the cause goes to the log.
    pub fn internal() -> Self {
        Self::new(
            ProblemType::ServerInternal,
            "the server met an internal error; try again later",
        )
    }

    /// The same answer for an object that does not exist and one that belongs to another account, so that neither can
    /// be told from the other.
    pub fn not_found() -> Self {
        Self::malformed("no such resource for this account").with_status(404)
    }

    /// The problem, sent with another HTTP status than its type's own.
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The problem with one subproblem for each identifier at fault.
    pub fn with_subproblems(self, subproblems: Vec<Subproblem>) -> Self {
        Self { subproblems, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

impl std::error::Error for Problem {}

/// Text from outside, made safe for problem documents and logs: control characters and bidirectional overrides become
/// `?`, and no more than `limit` characters stay.
pub fn cleaned(text: &str, limit: usize) -> String {
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut clean: String = text
        .chars()
        .take(limit)
        .map(|c| if unsafe_char(c) { '?' } else { c })
        .collect();
    if text.chars().nth(limit).is_some() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_type_reads_back_from_its_urn() {
        for kind in ProblemType::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
            assert!((400..=599).contains(&kind.status()));
        }
        assert_eq!(
            "urn:ietf:params:acme:error:conflict".parse::<ProblemType>(),
            Err(UnknownProblemType)
        );
    }

    #[test]
    fn a7_a_problem_document_has_type_detail_and_status() {
        let json = serde_json::to_value(Problem::malformed("no")).unwrap();
        let expected = serde_json::json!({"type": "urn:ietf:params:acme:error:malformed", "detail": "no", "status": 400});
        assert_eq!(json, expected);
    }

    #[test]
    fn text_from_outside_loses_control_characters_and_length() {
        assert_eq!(cleaned("a\r\n\u{1b}[31mb\u{202e}", 200), "a???[31mb?");
        assert_eq!(cleaned("abcdef", 3), "abc…");
        assert_eq!(cleaned("abc", 3), "abc");
    }
}
