//! Answers, and the only place where errors become HTTP (RFC 8555 §6.7).

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::acme::problem::{Problem, ProblemType};
use crate::acme::random::random_fraction;
use crate::jose::jwk::Algorithm;
use crate::jose::jws::JwsError;
use crate::ra::Refusal;

/// When a client may come back after a fault of ours that says nothing else about it.
const RETRY_AFTER_OUR_FAULT: Duration = Duration::from_secs(30);

/// How much later than it could a client is told to come back, at most. Those who are turned away in one moment must not
/// come back in one moment (SECURITY F50).
const SPREAD: Duration = Duration::from_secs(30);

/// An answer that is a problem document.
#[derive(Debug)]
pub(crate) struct Rejection {
    problem: Problem,
    retry_after: Option<Duration>,
    /// For the log: what must not be told to the client.
    cause: Option<Box<str>>,
    /// The request says nothing, because nobody has signed it.
    is_unsigned: bool,
}

/// What the metrics and the request log want to know of a rejection. Travels with the response.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    pub(crate) kind: ProblemType,
    pub(crate) detail: String,
    pub(crate) cause: Option<String>,
    pub(crate) is_unsigned: bool,
}

impl Rejection {
    /// With what the log says about it.
    pub(crate) fn because(problem: Problem, cause: &str) -> Self {
        Self {
            cause: Some(cause.into()),
            ..problem.into()
        }
    }
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            retry_after: None,
            cause: None,
            is_unsigned: false,
        }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Problem(problem) => problem.into(),
            Refusal::Later {
                problem,
                retry_after,
                cause,
            } => Self {
                problem,
                retry_after: Some(retry_after),
                cause: Some(cause.into()),
                is_unsigned: false,
            },
        }
    }
}

impl From<JwsError> for Rejection {
    fn from(error: JwsError) -> Self {
        let problem = match error {
            JwsError::Malformed(detail) => Problem::malformed(detail),
            JwsError::Key(detail) => Problem::new(ProblemType::BadPublicKey, detail),
            JwsError::Algorithm => {
                let names: Vec<String> = Algorithm::ALL.iter().map(ToString::to_string).collect();
                let detail = format!("the signature algorithm must be one of {}", names.join(", "));
                // RFC 8555 §6.2: "The problem document returned with the error MUST include an "algorithms" field".
                Problem {
                    algorithms: names,
                    ..Problem::new(ProblemType::BadSignatureAlgorithm, detail)
                }
            }
        };
        Self {
            is_unsigned: true,
            ..problem.into()
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let ours = (self.problem.status >= 500).then_some(RETRY_AFTER_OUR_FAULT);
        if let Some(wait) = self.retry_after.or(ours) {
            let wait = wait + SPREAD.mul_f64(random_fraction());
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response.extensions_mut().insert(Rejected {
            kind: self.problem.kind,
            detail: self.problem.detail,
            cause: self.cause.map(String::from),
            is_unsigned: self.is_unsigned,
        });
        response
    }
}

/// A JSON answer with headers.
pub(crate) fn json<const N: usize>(
    status: StatusCode,
    headers: [(HeaderName, String); N],
    object: &impl Serialize,
) -> Result<Response, Rejection> {
    let body = serde_json::to_vec(object).map_err(|error| Rejection {
        problem: Problem::internal(),
        retry_after: None,
        cause: Some(format!("an answer can not be written: {error}").into()),
        is_unsigned: false,
    })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}
