//! An answer of the throwaway CA as a test sees it, whole.

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// Status, headers and body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Of this type.
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            body: body.into(),
        }
    }

    /// An object.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// What stands before an ACME server answers when that does not: not a problem document.
    pub(crate) fn page(status: u16) -> Self {
        Self::new(status, "text/html", "<html>not the ACME server</html>")
    }

    /// The same with one more header.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a header in place of the one that is there; an empty value removes it.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        let name = HeaderName::from_static(name);
        match HeaderValue::from_str(value) {
            Ok(value) if !value.is_empty() => drop(self.headers.insert(name, value)),
            _ => drop(self.headers.remove(name)),
        }
    }

    /// Takes a response of the CA's own apart.
    pub(crate) async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec(),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = self.headers;
        // The length is that of the body, whatever it was before a test changed it.
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    }
}
