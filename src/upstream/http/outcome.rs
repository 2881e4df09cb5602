//! What came of an HTTP request to the CA, in few kinds: for whoever counts requests.

use crate::acme::problem::ProblemType;
use crate::upstream::fault::Fault;
use crate::upstream::fault::Refusal;
use crate::upstream::http::Answer;

/// Is told what came of each request.
pub type Meter = Box<dyn Fn(Outcome) + Send + Sync>;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A status of success.
    Done,
    /// The CA did not take the nonce: the request is made again with another one.
    BadNonce,
    /// The CA asked us to slow down.
    RateLimited,
    /// Any other 5xx.
    ServerError,
    /// Any other status.
    Refused,
    /// The answer was not there, or not whole, in time.
    Timeout,
    /// There was no answer, or it broke off.
    Unreachable,
    /// The answer was longer than any may be.
    TooLong,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::BadNonce,
        Self::RateLimited,
        Self::ServerError,
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::TooLong,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::BadNonce => "bad_nonce",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::TooLong => "too_long",
        }
    }

    /// What came of a request that was made.
    pub(crate) fn of(answer: &Result<Answer, Fault>) -> Self {
        match answer {
            Ok(_) => Self::Done,
            Err(Fault::Refused(refusal)) => Self::of_refusal(refusal),
            Err(Fault::TimedOut(_)) => Self::Timeout,
            Err(Fault::Unreachable(_) | Fault::Foreign(_)) => Self::Unreachable,
            Err(Fault::Nonsense(_)) => Self::TooLong,
        }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        match refusal.kind() {
            Some(ProblemType::BadNonce) => Self::BadNonce,
            _ if refusal.is_rate_limit() => Self::RateLimited,
            _ if refusal.status >= 500 => Self::ServerError,
            _ => Self::Refused,
        }
    }
}
