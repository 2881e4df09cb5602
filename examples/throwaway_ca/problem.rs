//! What the throwaway CA answers when it refuses (RFC 7807, RFC 8555 §6.7).

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: u16,
    kind: &'static str,
    detail: String,
    subproblems: Vec<Value>,
    retry_after: Option<String>,
}

impl Problem {
    /// A refusal with the status, the error type after `urn:ietf:params:acme:error:`, and a sentence.
    pub(crate) fn new(status: u16, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            subproblems: Vec::new(),
            retry_after: None,
        }
    }

    /// The same with a part for each of these names (RFC 8555 §6.7.1).
    pub(crate) fn about(mut self, names: impl IntoIterator<Item = String>) -> Self {
        let part = |name| {
            json!({
                "type": format!("urn:ietf:params:acme:error:{}", self.kind),
                "detail": self.detail,
                "identifier": { "type": "dns", "value": name },
            })
        };
        self.subproblems = names.into_iter().map(part).collect();
        self
    }

    /// The same with a `Retry-After`.
    pub(crate) fn after(mut self, retry_after: impl Into<String>) -> Self {
        self.retry_after = Some(retry_after.into());
        self
    }

    /// The request does not have the form that it should.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "malformed", detail)
    }

    /// The CSR is not acceptable.
    pub(crate) fn bad_csr(detail: impl Into<String>) -> Self {
        Self::new(400, "badCSR", detail)
    }

    /// There is no such thing, or it is another account's.
    pub(crate) fn not_found() -> Self {
        Self::new(404, "malformed", "there is no such object")
    }

    /// The double itself failed.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(500, "serverInternal", error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = json!({
            "type": format!("urn:ietf:params:acme:error:{}", self.kind),
            "status": self.status,
            "detail": self.detail,
        });
        if let (Some(members), false) = (body.as_object_mut(), self.subproblems.is_empty()) {
            members.insert("subproblems".to_owned(), self.subproblems.into());
        }
        let headers = [(CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, headers, body.to_string()).into_response();
        if let Some(Ok(value)) = self.retry_after.map(|value| HeaderValue::from_str(&value)) {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }
}
