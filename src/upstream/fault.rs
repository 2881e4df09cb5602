//! What went wrong between the CA and us, and what that means for an order: wait, give up, or open another one
//! (UPSTREAM rule 5, RFC 8555 §6.7).
//!
//! Only what the CA says in a problem document of its own can end an order. Everything else, from a reset connection to
//! a proxy's HTML page, passes.

use std::fmt;
use std::time::Duration;

use instant_acme::Error as AcmeError;
use instant_acme::Problem as Document;
use instant_acme::Subproblem as Subdocument;

use crate::acme::problem::NamedIdentifier;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::Subproblem;
use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Says;

/// No more characters of the CA's words than this are kept.
const MAX_DETAIL: usize = 200;

/// No more subproblems than this are passed on.
const MAX_SUBPROBLEMS: usize = 10;

/// Why a request came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The request was not made: the CA named a URL that is not its own.
    #[error("{0} is not an https URL of the CA's own host; it is not used")]
    Foreign(String),
    /// There was no answer, or it broke off: DNS, connection, TLS.
    #[error("no answer from the CA: {0}")]
    Unreachable(String),
    /// There was no whole answer before the deadline.
    #[error("no answer from the CA in time: {0}")]
    TimedOut(String),
    /// There was an answer, and it is not what the protocol asks for.
    #[error("the CA's answer is not understood: {0}")]
    Nonsense(String),
    /// The CA said no.
    #[error("the CA refused: {0}")]
    Refused(Refusal),
}

/// An answer with an error status, or an error inside a CA's object.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status, or 0 if the error stood inside an object.
    pub status: u16,
    /// The CA's `Retry-After`, clamped.
    pub retry_after: Option<Duration>,
    /// The problem document, if the answer was one.
    pub document: Option<Document>,
}

impl From<Document> for Refusal {
    fn from(document: Document) -> Self {
        Self {
            status: document.status.unwrap_or(0),
            retry_after: None,
            document: Some(document),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.document.as_ref().and_then(|d| d.r#type.as_deref());
        let kind = kind.unwrap_or("no problem document");
        let detail = cleaned(&self.detail(), MAX_DETAIL);
        write!(f, "status {}, {}: {detail}", self.status, cleaned(kind, 80))
    }
}

impl Refusal {
    /// The registered error type that the CA gave, if it gave one.
    pub fn kind(&self) -> Option<ProblemType> {
        registered(self.document.as_ref()?.r#type.as_deref())
    }

    /// Whether the CA itself says that there is nothing under the URL. A page of somebody else's with status 404 does
    /// not count.
    pub fn is_not_found(&self) -> bool {
        self.status == 404 && self.document.is_some()
    }

    /// How long the CA asks us to wait: its `Retry-After`, or what it says in words alone, as Google does (UPSTREAM 1.3).
    fn wait(&self) -> Option<Duration> {
        let said = || said_to_wait(&self.detail()).filter(|_| self.is_rate_limit());
        self.retry_after.or_else(said)
    }

    /// The CA's words, as they came.
    fn detail(&self) -> String {
        let Some(document) = &self.document else {
            return "no detail".to_owned();
        };
        let first = document.subproblems.first().and_then(|s| s.detail.as_deref());
        let detail = document.detail.as_deref().or(first);
        detail.unwrap_or("no detail").to_owned()
    }

    /// Whether the CA asks us to slow down. Load balancers say so with 503 and a time (F3).
    pub(crate) fn is_rate_limit(&self) -> bool {
        let unavailable = self.status == 503 && self.retry_after.is_some();
        self.status == 429 || unavailable || self.kind() == Some(ProblemType::RateLimited)
    }

    /// Whether the same request may be granted later. 405 is what ZeroSSL answers when it is overloaded, and a 4xx
    /// without a problem document does not come from an ACME server at all.
    fn may_pass(&self) -> bool {
        matches!(self.status, 404 | 405 | 408 | 425 | 429 | 500..)
            || self.document.is_none()
            || matches!(
                self.kind(),
                Some(
                    ProblemType::AccountDoesNotExist
                        | ProblemType::BadNonce
                        | ProblemType::ExternalAccountRequired
                        | ProblemType::OrderNotReady
                        | ProblemType::RateLimited
                        | ProblemType::ServerInternal
                        | ProblemType::UserActionRequired
                )
            )
    }

    /// Whether it is about the CA as a whole, and not about what was asked for alone.
    fn is_of_the_ca(&self) -> bool {
        !matches!(self.status, 400..500)
            || matches!(self.status, 405 | 408 | 425)
            || matches!(
                self.kind(),
                Some(
                    ProblemType::AccountDoesNotExist
                        | ProblemType::BadNonce
                        | ProblemType::ExternalAccountRequired
                        | ProblemType::ServerInternal
                        | ProblemType::UserActionRequired
                )
            )
    }

    /// The refusal in our words: what the client is told.
    pub fn problem(&self) -> Problem {
        let document = self.document.as_ref();
        let subdocuments = document.map(|d| d.subproblems.as_slice()).unwrap_or_default();
        let kind = match self.kind() {
            Some(ProblemType::Compound) => registered(subdocuments.first().and_then(|s| s.r#type.as_deref())),
            kind => kind,
        };
        let detail = cleaned(&self.detail(), MAX_DETAIL);
        let subproblems = subdocuments.iter().take(MAX_SUBPROBLEMS);
        Problem::new(for_the_client(kind), format!("the CA refused: {detail}"))
            .with_subproblems(subproblems.filter_map(subproblem).collect())
    }
}

/// `Try again in 12.47s`, rounded up and clamped to 1 s .. 1 h.
fn said_to_wait(detail: &str) -> Option<Duration> {
    let detail = detail.to_ascii_lowercase();
    let (_, span) = detail.split_once("try again in ")?;
    let (seconds, _) = span.split_once('s')?;
    let seconds: f64 = seconds.parse().ok()?;
    Duration::try_from_secs_f64(seconds.ceil().clamp(1.0, 3600.0)).ok()
}

fn registered(urn: Option<&str>) -> Option<ProblemType> {
    urn?.parse().ok()
}

fn subproblem(subdocument: &Subdocument) -> Option<Subproblem> {
    let (kind, value) = match subdocument.identifier.as_ref()? {
        instant_acme::Identifier::Dns(name) => ("dns", name.clone()),
        instant_acme::Identifier::Ip(address) => ("ip", address.to_string()),
        _ => return None,
    };
    Some(Subproblem {
        kind: for_the_client(registered(subdocument.r#type.as_deref())),
        detail: cleaned(subdocument.detail.as_deref().unwrap_or("no detail"), MAX_DETAIL),
        identifier: NamedIdentifier {
            kind: kind.to_owned(),
            value: cleaned(&value, 253),
        },
    })
}

/// What the CA's error type means to our client. `unauthorized` is about our account at the CA, not about the client's
/// with us: what it means to the client is that the CA will not certify the name. Failed validations are between the
/// CA and us.
fn for_the_client(kind: Option<ProblemType>) -> ProblemType {
    match kind {
        Some(ProblemType::Caa) => ProblemType::Caa,
        Some(ProblemType::BadCsr | ProblemType::BadPublicKey) => ProblemType::BadCsr,
        Some(ProblemType::RejectedIdentifier | ProblemType::Unauthorized) => ProblemType::RejectedIdentifier,
        Some(ProblemType::UnsupportedIdentifier) => ProblemType::UnsupportedIdentifier,
        Some(ProblemType::BadRevocationReason) => ProblemType::BadRevocationReason,
        Some(ProblemType::AlreadyRevoked) => ProblemType::AlreadyRevoked,
        Some(ProblemType::InvalidProfile) => ProblemType::InvalidProfile,
        _ => ProblemType::ServerInternal,
    }
}

impl Fault {
    /// The registered error type that the CA gave, if it gave one.
    pub fn kind(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Foreign(_) | Self::Unreachable(_) | Self::TimedOut(_) | Self::Nonsense(_) => None,
        }
    }

    /// Whether the CA asks us to slow down.
    pub fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_rate_limit())
    }

    /// Whether the answer has status 404, whoever it is from.
    pub fn has_status_404(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: 404, .. }))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let detail = fault.to_string();
        match fault {
            Fault::Refused(refusal) if refusal.is_rate_limit() || refusal.may_pass() => Self::Transient {
                detail,
                retry_after: refusal.wait(),
                says: match (refusal.is_rate_limit(), refusal.is_of_the_ca()) {
                    (true, _) if refusal.status == 503 => Says::Away,
                    (true, _) => Says::SlowDown,
                    (false, true) => Says::Failing,
                    (false, false) => Says::Nothing,
                },
            },
            Fault::Refused(refusal) => Self::Permanent(refusal.problem()),
            Fault::Unreachable(_) | Fault::TimedOut(_) => Self::transient(detail).of_the_ca(),
            Fault::Foreign(_) | Fault::Nonsense(_) => Self::transient(detail),
        }
    }
}

impl From<AcmeError> for Fault {
    fn from(error: AcmeError) -> Self {
        match error {
            AcmeError::Api(document) => Self::Refused(document.into()),
            AcmeError::Other(inner) => match inner.downcast::<Self>() {
                Ok(fault) => *fault,
                Err(other) => Self::Nonsense(cleaned(&other.to_string(), MAX_DETAIL)),
            },
            other => Self::Nonsense(cleaned(&other.to_string(), MAX_DETAIL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, kind: &str) -> Refusal {
        let json = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"no\u001b[31m"}}"#);
        Refusal {
            status,
            retry_after: None,
            document: serde_json::from_str(&json).ok(),
        }
    }

    #[test]
    fn f12_a_refusal_for_good_reaches_the_client_in_our_words() {
        let told = |status, kind| match Error::from(Fault::Refused(refusal(status, kind))) {
            Error::Permanent(problem) => problem.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(403, "caa"), ProblemType::Caa);
        assert_eq!(told(400, "badCSR"), ProblemType::BadCsr);
        assert_eq!(told(400, "rejectedIdentifier"), ProblemType::RejectedIdentifier);
        assert_eq!(told(403, "unauthorized"), ProblemType::RejectedIdentifier);
        assert_eq!(told(400, "malformed"), ProblemType::ServerInternal);
        assert_eq!(told(400, "neverHeardOf"), ProblemType::ServerInternal);
    }

    #[test]
    fn f2_f3_an_overloaded_or_absent_ca_never_ends_an_order() {
        let passes = |refusal| match Error::from(Fault::Refused(refusal)) {
            Error::Transient { says, .. } => Some(matches!(says, Says::SlowDown | Says::Away)),
            Error::Permanent(_) | Error::OrderGone(_) | Error::OrderUnseen(_) => None,
        };
        let page = |status, retry_after| Refusal {
            status,
            retry_after,
            document: None,
        };
        assert_eq!(passes(page(502, None)), Some(false));
        assert_eq!(passes(page(403, None)), Some(false));
        assert_eq!(passes(page(302, None)), Some(false));
        assert_eq!(passes(page(429, None)), Some(true));
        assert_eq!(passes(page(503, Some(Duration::from_secs(7)))), Some(true));
        assert_eq!(passes(refusal(405, "malformed")), Some(false));
        assert_eq!(passes(refusal(403, "rateLimited")), Some(true));
        assert_eq!(passes(refusal(400, "badNonce")), Some(false));
        assert_eq!(passes(refusal(400, "accountDoesNotExist")), Some(false));
    }

    #[test]
    fn f3_a_wait_that_is_said_in_words_alone_is_understood() {
        let waits = |status, detail: &str| {
            let mut refusal = refusal(status, "rateLimited");
            if let Some(document) = &mut refusal.document {
                document.detail = Some(detail.to_owned());
            }
            refusal.wait().map(|wait| wait.as_secs())
        };
        assert_eq!(waits(429, "Quota exceeded. Try again in 12.47s."), Some(13));
        assert_eq!(waits(429, "try again in 0s"), Some(1));
        assert_eq!(waits(429, "Try again in 1e300s"), Some(3600));
        for unclear in [
            "Try again in a few hours",
            "Try again in NaNs",
            "Try again in s",
            "Try again in ",
            "no",
        ] {
            assert_eq!(waits(429, unclear), None, "{unclear}");
        }
        let mut said_twice = refusal(429, "rateLimited");
        said_twice.retry_after = Some(Duration::from_secs(7));
        assert_eq!(said_twice.wait(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn c1108_the_cas_words_are_cleaned_and_capped() {
        let mut refusal = refusal(400, "rejectedIdentifier");
        assert_eq!(refusal.problem().detail, "the CA refused: no?[31m");
        if let Some(document) = &mut refusal.document {
            document.detail = Some("x".repeat(1_000_000));
        }
        assert!(refusal.problem().detail.chars().count() < 250);
        assert!(refusal.to_string().chars().count() < 350);
    }
}
