//! What the throwaway CA answers when it refuses (RFC 7807, RFC 8555 §6.7).

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

/// A refusal.
#[derive(Debug)]
pub(crate) struct Problem {
    status: u16,
    kind: &'static str,
    detail: String,
}

impl Problem {
    /// A refusal with the status, the error type after `urn:ietf:params:acme:error:`, and a sentence.
    pub(crate) fn new(status: u16, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
        }
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
        let body = serde_json::json!({
            "type": format!("urn:ietf:params:acme:error:{}", self.kind),
            "status": self.status,
            "detail": self.detail,
        });
        (
            status,
            [(CONTENT_TYPE, "application/problem+json")],
            body.to_string(),
        )
            .into_response()
    }
}
