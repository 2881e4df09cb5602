//! What is counted and logged of each request, and the id by which it is found again.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::{Method, StatusCode};

use crate::acme::id::OrderId;
use crate::server::Shared;
use crate::server::respond::Rejected;

/// The header that carries a request's id whatever the configuration says, as in step-ca.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 64;

/// The endpoint's name in metrics: the route's last fixed segment, so that their number does not grow with paths.
pub(crate) fn endpoint_of(request: &Request) -> &'static str {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    const NAMES: [(&str, &str); 22] = [
        ("/directory", "directory"),
        ("/new-nonce", "new-nonce"),
        ("/new-account", "new-account"),
        ("/account/{id}", "account"),
        ("/orders", "orders"),
        ("/new-order", "new-order"),
        ("/order/{id}", "order"),
        ("/finalize", "finalize"),
        ("/authz/{id}", "authz"),
        ("/challenge/{authz}/{type}", "challenge"),
        ("/certificate/{id}", "certificate"),
        ("/certificate/{id}/{number}", "certificate"),
        ("/renewal-info/{id}", "renewal-info"),
        ("/revoke-cert", "revoke-cert"),
        ("/key-change", "key-change"),
        ("/health", "health"),
        ("/version", "version"),
        ("/roots", "roots"),
        ("/roots.pem", "roots"),
        ("/root/{sha}", "root"),
        ("/federation", "federation"),
        ("/provisioners", "provisioners"),
    ];
    let known = NAMES.iter().find(|(end, _)| route.ends_with(end));
    known.map_or("unknown", |(_, name)| name)
}

/// The client's own request id if it is a sensible one, otherwise a new one. As in step-ca, `X-Request-Id` goes before the
/// configured header.
pub(crate) fn request_id(request: &Request, shared: &Shared) -> String {
    let given = [REQUEST_ID, shared.settings.trace_header.as_str()];
    let mut given = given
        .into_iter()
        .filter_map(|name| request.headers().get(name)?.to_str().ok());
    let sensible = |text: &&str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.bytes().all(plain)
    };
    match given.find(sensible) {
        Some(id) => id.to_owned(),
        None => OrderId::random().to_string(),
    }
}

/// Counts and logs a request with its answer.
pub(crate) fn record(
    shared: &Shared,
    method: &Method,
    path: &str,
    endpoint: &str,
    request_id: &str,
    took: Duration,
    response: &Response,
) {
    let status = response.status();
    let metrics = &shared.metrics;
    metrics
        .requests
        .with_label_values(&[endpoint, status.as_str()])
        .inc();
    metrics
        .request_duration
        .with_label_values(&[endpoint])
        .observe(took.as_secs_f64());
    let rejected = response.extensions().get::<Rejected>();
    if let Some(rejected) = rejected {
        metrics.problems.with_label_values(&[rejected.kind.name()]).inc();
    }
    let detail = rejected.map(|rejected| rejected.detail.as_str());
    let cause = rejected.and_then(|rejected| rejected.cause.as_deref());
    let path = crate::acme::problem::cleaned(path, 200);
    let (status, micros) = (
        status.as_u16(),
        u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    );
    // Who is turned away because others came before is no fault of ours.
    let is_busy = status == StatusCode::SERVICE_UNAVAILABLE.as_u16() && cause.is_none();
    match StatusCode::from_u16(status).map(|status| status.is_server_error()) {
        Ok(true) if !is_busy => {
            tracing::error!(request.id = request_id, %method, path, status, duration_us = micros, detail, cause, "request failed")
        }
        Ok(_) | Err(_) if status >= 400 => {
            tracing::warn!(request.id = request_id, %method, path, status, duration_us = micros, detail, cause, "request refused");
        }
        Ok(_) | Err(_) => {
            tracing::info!(request.id = request_id, %method, path, status, duration_us = micros, "request")
        }
    }
}
