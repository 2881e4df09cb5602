//! What is counted and logged of each request, and the id by which it is found again.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::header::{REFERER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use http_body::Body as _;
use jiff::Timestamp;

use crate::acme::certificate::Leaf;
use crate::acme::id::OrderId;
use crate::acme::problem::cleaned;
use crate::server::Shared;
use crate::server::order::wire_time;
use crate::server::peers::Peer;
use crate::server::respond::Rejected;

/// The header that carries a request's id whatever the configuration says, as in step-ca.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 64;

/// The longest path, referer or user agent that is logged, in characters.
const MAX_TEXT: usize = 200;

/// The endpoint's name in metrics: the route's last fixed segment, so that their number does not grow with paths.
fn endpoint_of(request: &Request) -> &'static str {
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

/// The request's id, for its handler.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// What the log says of a request, seen before it is carried out.
pub(crate) struct Seen {
    pub(crate) endpoint: &'static str,
    pub(crate) request_id: String,
    time: Timestamp,
    method: Method,
    uri: String,
    protocol: String,
    peer: Option<Peer>,
    referer: String,
    user_agent: String,
}

impl Seen {
    pub(crate) fn of(request: &Request, shared: &Shared) -> Self {
        let header = |name| {
            let value = request.headers().get(name).map(HeaderValue::as_bytes);
            cleaned(&String::from_utf8_lossy(value.unwrap_or_default()), MAX_TEXT)
        };
        let uri = request.uri();
        let uri = uri.path_and_query().map_or(uri.path(), PathAndQuery::as_str);
        Self {
            endpoint: endpoint_of(request),
            request_id: request_id(request, shared),
            time: shared.ra.clock().now(),
            method: request.method().clone(),
            uri: cleaned(uri, MAX_TEXT),
            protocol: format!("{:?}", request.version()),
            peer: request.extensions().get().copied(),
            referer: header(REFERER),
            user_agent: header(USER_AGENT),
        }
    }
}

/// What the log says of a certificate that is downloaded. Travels with the response.
#[derive(Debug, Clone)]
pub(crate) struct Downloaded {
    pub(crate) leaf: Leaf,
    pub(crate) provisioner: String,
}

/// The client's own request id if it is a sensible one, otherwise a new one. As in step-ca, `X-Request-Id` goes before the
/// configured header.
fn request_id(request: &Request, shared: &Shared) -> String {
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

/// A request's line. The names are the Go program's; `cause` is ours: what the client is not told.
macro_rules! line {
    ($level:ident, $seen:ident, $response:ident, $took:ident) => {{
        let extensions = $response.extensions();
        let rejected = extensions.get::<Rejected>();
        let downloaded = extensions.get::<Downloaded>();
        let leaf = downloaded.map(|downloaded| &downloaded.leaf);
        let nonce = $response.headers().get("replay-nonce");
        tracing::$level!(
            "request-id" = $seen.request_id,
            "remote-address" = $seen.peer.map(|peer| peer.0.to_canonical().to_string()).unwrap_or_default(),
            name = "ca",
            "user-id" = "",
            "fields.time" = wire_time($seen.time),
            "duration-ns" = u64::try_from($took.as_nanos()).unwrap_or(u64::MAX),
            duration = ?$took,
            method = %$seen.method,
            path = $seen.uri,
            protocol = $seen.protocol,
            status = $response.status().as_u16(),
            size = $response.body().size_hint().exact().unwrap_or_default(),
            referer = $seen.referer,
            "user-agent" = $seen.user_agent,
            nonce = nonce.and_then(|nonce| nonce.to_str().ok()),
            error = rejected.map(|rejected| rejected.detail.as_str()),
            cause = rejected.and_then(|rejected| rejected.cause.as_deref()),
            serial = leaf.map(|leaf| leaf.serial.as_str()),
            subject = leaf.map(|leaf| leaf.subject.as_str()),
            issuer = leaf.map(|leaf| leaf.issuer.as_str()),
            sans = leaf.map(|leaf| leaf.names.as_str()),
            "valid-from" = leaf.map(|leaf| wire_time(leaf.not_before)),
            "valid-to" = leaf.map(|leaf| wire_time(leaf.not_after)),
            provisioner = downloaded.map(|downloaded| downloaded.provisioner.as_str()),
        )
    }};
}

/// Counts and logs a request with its answer.
pub(crate) fn record(shared: &Shared, seen: &Seen, took: Duration, response: &Response) {
    let (status, metrics) = (response.status(), &shared.metrics);
    metrics
        .requests
        .with_label_values(&[seen.endpoint, status.as_str()])
        .inc();
    metrics
        .request_duration
        .with_label_values(&[seen.endpoint])
        .observe(took.as_secs_f64());
    let rejected = response.extensions().get::<Rejected>();
    if let Some(rejected) = rejected {
        metrics.problems.with_label_values(&[rejected.kind.name()]).inc();
    }
    // Who is turned away because others came before is no fault of ours.
    let is_busy =
        status == StatusCode::SERVICE_UNAVAILABLE && rejected.is_none_or(|rejected| rejected.cause.is_none());
    if status.is_server_error() && !is_busy {
        line!(error, seen, response, took);
    } else if status.is_server_error() || status.is_client_error() {
        line!(warn, seen, response, took);
    } else {
        line!(info, seen, response, took);
    }
}
