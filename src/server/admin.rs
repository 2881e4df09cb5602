//! Health and metrics, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::metrics::Metrics;
use crate::metrics::health::Checks;
use crate::server::respond::{self, Rejection};

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    missing: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Checked {
    status: &'static str,
    checks: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// The routes of the metrics listener.
pub(crate) fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    let routes = Router::new()
        .route("/metrics", get(page))
        .route("/health", get(health_of))
        .route("/livez", get(alive))
        .route("/readyz", get(ready));
    routes.with_state(metrics)
}

/// GET health: `ok`, or `degraded` with what is missing. The status is 200 as long as the process serves requests.
pub(crate) fn health(metrics: &Metrics) -> Result<Response, Rejection> {
    let missing = metrics.health.missing();
    let status = if missing.is_empty() { "ok" } else { "degraded" };
    respond::json(StatusCode::OK, [], &Health { status, missing })
}

/// GET version.
pub(crate) async fn version() -> Result<Response, Rejection> {
    let version = env!("CARGO_PKG_VERSION");
    respond::json(StatusCode::OK, [], &Version { version })
}

async fn health_of(State(metrics): State<Arc<Metrics>>) -> Result<Response, Rejection> {
    health(&metrics)
}

/// GET livez: whether the process is of any use. If not, a restart helps.
async fn alive(State(metrics): State<Arc<Metrics>>) -> Result<Response, Rejection> {
    checks(metrics.health.alive())
}

/// GET readyz: whether clients can be served.
async fn ready(State(metrics): State<Arc<Metrics>>) -> Result<Response, Rejection> {
    checks(metrics.health.ready())
}

/// 200 or 503, with each check and what is wrong with it.
fn checks((good, checks): (bool, Checks)) -> Result<Response, Rejection> {
    let (status, word) = match good {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let said = |state: Result<(), String>| state.err().unwrap_or_else(|| "ok".to_owned());
    let checks = checks.into_iter().map(|(part, state)| (part, said(state)));
    let answer = Checked {
        status: word,
        checks: checks.collect(),
    };
    respond::json(status, [], &answer)
}

async fn page(State(metrics): State<Arc<Metrics>>) -> Response {
    let (status, page) = match metrics.page() {
        Ok(page) => (StatusCode::OK, page),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4"),
    );
    response
}
