//! Which request goes where, and what every answer gets on its way out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH,
    CONTENT_TYPE, HOST, LINK,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::acme::problem::{Problem, ProblemType};
use crate::metrics::Metrics;
use crate::metrics::health::AUDIT_LOG;
use crate::server::Shared;
use crate::server::access_log::{REQUEST_ID, RequestId, Seen, record};
use crate::server::link::Links;
use crate::server::overload::{self, Room};
use crate::server::peers::Peer;
use crate::server::respond::{Rejected, Rejection};
use crate::server::signed::{acme_path, provisioner_in};
use crate::server::{account, authorization, certificate, directory, key_change, operations, order, renewal};

/// How long a request may be worked on. A wait for the CA's answer to a revocation ends before that.
const DEADLINE: Duration = Duration::from_secs(40);

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

impl Shared {
    /// Every route of the ACME listener.
    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        let shared = Arc::clone(self);
        // The second place is that of step-ca's older clients; links always lead to the first.
        let acme = acme_below("/acme").merge(acme_below("/2.0/acme"));
        acme.merge(operations::routes())
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), around))
            .with_state(shared)
    }
}

/// Every ACME route, below a prefix. They are not nested: handlers see the whole path, which clients sign.
fn acme_below(prefix: &str) -> Router<Arc<Shared>> {
    let at = |path: &str| format!("{prefix}/{{provisioner}}/{path}");
    Router::new()
        .route(&at("directory"), get(directory::get).post(directory::post))
        .route(
            &at("new-nonce"),
            get(directory::nonce_get)
                .head(directory::nonce_head)
                .post(directory::nonce_post),
        )
        .route(&at("new-account"), post(account::new))
        .route(&at("account/{id}"), post(account::post))
        .route(&at("account/{id}/orders"), post(account::orders))
        .route(&at("new-order"), post(order::new))
        .route(&at("order/{id}"), post(order::get))
        .route(&at("order/{id}/finalize"), post(order::finalize))
        .route(&at("authz/{id}"), post(authorization::post))
        .route(&at("challenge/{authz}/{type}"), post(authorization::challenge))
        .route(&at("certificate/{id}"), post(certificate::get))
        .route(&at("certificate/{id}/{number}"), post(certificate::alternate))
        .route(&at("renewal-info/{id}"), get(renewal::get))
        .route(&at("revoke-cert"), post(certificate::revoke))
        .route(&at("key-change"), post(key_change::post))
}

async fn not_found() -> Rejection {
    Problem::malformed("there is no such resource")
        .with_status(404)
        .into()
}

async fn method_not_allowed() -> Rejection {
    Problem::malformed("the resource does not take this method")
        .with_status(405)
        .into()
}

/// Runs a request: finds the URLs for its host, shields the process from panics and endless work, adds the headers
/// that every ACME answer has, and counts and logs the outcome.
async fn around(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let started = shared.ra.clock().instant();
    let seen = Seen::of(&request, &shared);
    let request_id = &seen.request_id;
    request.extensions_mut().insert(RequestId(request_id.clone()));
    let span = tracing::error_span!("request", request.id = request_id, order.request.id = Empty);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let endpoint = seen.endpoint;
    let is_acme = acme_path(&path).is_some();
    let provisioner = provisioner_in(&path, &shared);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let links = provisioner
        .as_deref()
        .map(|provisioner| Links::for_host(&shared.settings, host, provisioner));
    let peer = request.extensions().get::<Peer>().copied();
    let refused = peer
        .filter(|_| method == Method::POST)
        .and_then(|peer| shared.peers.refusal(peer, shared.ra.clock().now()))
        .map(Rejection::from);
    let room = request.extensions().get::<Room>().copied();
    let is_scarce = room == Some(Room::Scarce) && method == Method::POST;
    let refused = refused.or_else(|| (is_scarce && overload::is_beginning(endpoint)).then(overload::busy));
    let refused = refused.or_else(|| unaudited(&shared, endpoint));
    // Who keeps a connection to a replica that is about to stop is soon cut off.
    let is_last = refused.is_some() || is_scarce || shared.metrics.health.is_leaving();
    let mut response = match (refused, is_acme, &links) {
        // Before anything is read or verified.
        (Some(refusal), ..) => refusal.into_response(),
        (None, true, None) => not_found().await.into_response(),
        // The Host selects among the configured names; an unknown one is never reflected.
        (None, true, Some(None)) => {
            let names: Vec<&str> = shared.settings.names.iter().map(|name| name.as_str()).collect();
            let detail = format!("this server is {}; use that name", names.join(" or "));
            Rejection::from(Problem::malformed(detail).with_status(421)).into_response()
        }
        (None, true | false, links) => {
            if let Some(Some(links)) = links {
                request.extensions_mut().insert(links.clone());
            }
            match is_acme.then(|| shared.requests.admit()).transpose() {
                Ok(place) => {
                    let handler = next.run(request);
                    let handler = async move {
                        let _until_it_is_done = place;
                        handler.await
                    };
                    let handler = handler.instrument(span.clone());
                    run(&shared.metrics, DEADLINE, handler).await
                }
                Err(busy) => busy.into_response(),
            }
        }
    };
    let is_unsigned = |rejected: &Rejected| rejected.is_unsigned;
    if let Some(peer) = peer
        && response.extensions().get::<Rejected>().is_some_and(is_unsigned)
    {
        shared.peers.count_bad(peer, shared.ra.clock().now());
    }
    if response.status() == StatusCode::TOO_MANY_REQUESTS
        && let Some(help) = provisioner.and_then(|name| help(&shared, &name))
    {
        response.headers_mut().append(LINK, help);
    }
    if is_acme {
        if shared.settings.cors {
            response = open_to_web_pages(&method, endpoint, response);
        }
        add_acme_headers(
            &shared,
            &method,
            endpoint,
            links.flatten().as_ref(),
            &mut response,
        );
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        let configured = HeaderName::from_bytes(shared.settings.trace_header.as_bytes());
        for name in configured
            .into_iter()
            .chain([HeaderName::from_static(REQUEST_ID)])
        {
            response.headers_mut().insert(name, value.clone());
        }
    }
    if is_last {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let took = shared.ra.clock().instant().saturating_duration_since(started);
    span.in_scope(|| record(&shared, &seen, took, &response));
    response
}

/// The answer while the audit log can not be written: nothing begins then that would leave no trace.
fn unaudited(shared: &Shared, endpoint: &str) -> Option<Rejection> {
    let is_refused = overload::is_beginning(endpoint) && shared.metrics.health.lacks(AUDIT_LOG);
    is_refused.then(overload::busy)
}

/// RFC 8555 §6.6: "the server SHOULD send a Link header field with link relation type "help"". The provisioner's own
/// page is the nearest that we know of.
fn help(shared: &Shared, provisioner: &str) -> Option<HeaderValue> {
    let mut provisioners = shared.settings.provisioners.iter();
    let page = provisioners
        .find(|known| known.name == provisioner)?
        .website
        .as_deref()?;
    HeaderValue::from_str(&format!("<{page}>;rel=\"help\"")).ok()
}

/// The handler runs as a task of its own: it goes on if the client hangs up in the middle of a change, and if it
/// panics, only this request ends.
async fn run(
    metrics: &Metrics,
    deadline: Duration,
    handler: impl Future<Output = Response> + Send + 'static,
) -> Response {
    match tokio::time::timeout(deadline, tokio::spawn(handler)).await {
        Ok(Ok(response)) => as_problem(response),
        Ok(Err(panic)) => {
            metrics.handler_panics.inc();
            tracing::error!(error = %panic, "a request handler panicked");
            Rejection::from(Problem::internal()).into_response()
        }
        Err(_) => {
            let problem = Problem::internal().with_status(503);
            Rejection::because(problem, "it took too long").into_response()
        }
    }
}

/// axum's own refusals, of a path that is no UTF-8 for one, are plain text: they become problem documents, too
/// (RFC 8555 §6.7).
fn as_problem(response: Response) -> Response {
    let (status, headers) = (response.status(), response.headers());
    let is_problem = headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json");
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = match status.is_server_error() {
        true => Problem::internal(),
        false => Problem::malformed("the request can not be understood"),
    };
    let mut replaced = Rejection::from(problem.with_status(status.as_u16())).into_response();
    // What else the refusal said, `Allow` for one, still holds.
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| ![CONTENT_TYPE, CONTENT_LENGTH].contains(*name))
    {
        replaced.headers_mut().append(name, value.clone());
    }
    replaced
}

/// RFC 8555 §6.1: "ACME servers that are intended to be generally accessible need to use Cross-Origin Resource Sharing
/// (CORS) in order to be accessible from browser-based clients". A request proves itself by its signature and by nothing
/// that a browser adds, so any origin is as good as none; credentials are never allowed.
fn open_to_web_pages(method: &Method, endpoint: &str, mut response: Response) -> Response {
    // No route takes OPTIONS: this is what remains of it where there is one.
    let preflight = *method == Method::OPTIONS && response.status() == StatusCode::METHOD_NOT_ALLOWED;
    if preflight {
        response = StatusCode::NO_CONTENT.into_response();
    }
    let headers = response.headers_mut();
    if preflight {
        let methods = match endpoint {
            "directory" | "new-nonce" => "GET,HEAD,POST",
            "renewal-info" => "GET,HEAD",
            _ => "POST",
        };
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Content-Type"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Link, Replay-Nonce, Location, Retry-After"),
    );
    response
}

fn add_acme_headers(
    shared: &Shared,
    method: &Method,
    endpoint: &str,
    links: Option<&Links>,
    response: &mut Response,
) {
    let is_directory = endpoint == "directory" && response.status().is_success();
    let asks_for_agreement = response
        .extensions()
        .get::<Rejected>()
        .is_some_and(|rejected| rejected.kind == ProblemType::UserActionRequired);
    let headers = response.headers_mut();
    // RFC 8555 §7.1: "The "index" link relation is present on all resources other than the directory".
    if let Some(links) = links.filter(|_| !is_directory)
        && let Ok(index) = HeaderValue::from_str(&format!("<{}>;rel=\"index\"", links.directory()))
    {
        headers.append(LINK, index);
    }
    // RFC 8555 §7.3.3: the answer "MUST include a Link header field with link relation "terms-of-service"". Here, so that
    // it is there whoever asks for the agreement.
    if let Some(links) = links.filter(|_| asks_for_agreement)
        && let Some(terms) = shared.settings.terms_of_service(links.provisioner())
        && let Ok(terms) = HeaderValue::from_str(&format!("<{terms}>;rel=\"terms-of-service\""))
    {
        headers.append(LINK, terms);
    }
    // RFC 8555 §6.5: "a server MUST include a Replay-Nonce header field in every successful response to a POST
    // request and SHOULD provide it in error responses as well".
    if (*method == Method::POST || endpoint == "new-nonce")
        && let Ok(nonce) = HeaderValue::from_str(&shared.nonces.mint(shared.ra.now()))
    {
        headers.insert(REPLAY_NONCE, nonce);
    }
    if !is_directory {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::RETRY_AFTER;
    use http_body_util::BodyExt as _;

    async fn answer_to(handler: impl Future<Output = Response> + Send + 'static) -> (Metrics, Response) {
        let metrics = Metrics::new().unwrap();
        let response = run(&metrics, Duration::from_secs(1), handler).await;
        (metrics, response)
    }

    #[track_caller]
    fn assert_comes_again(response: &Response) {
        let wait: u64 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((30..=60).contains(&wait), "{wait}");
    }

    #[tokio::test]
    async fn a9_f28_a_panic_in_a_handler_is_a_problem_document_without_the_cause() {
        let (metrics, response) = answer_to(async { panic!("secret state") }).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_comes_again(&response);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "urn:ietf:params:acme:error:serverInternal");
        assert_eq!(problem["status"], 500);
        assert!(!body.windows(6).any(|part| part == b"secret"), "{problem}");
        assert_eq!(metrics.handler_panics.get(), 1);
    }

    #[tokio::test]
    async fn a13_a_handler_that_never_ends_is_answered_for_with_503() {
        let (_, response) = answer_to(std::future::pending()).await;
        assert_eq!(response.status(), 503);
        assert_comes_again(&response);
    }

    #[tokio::test]
    async fn a7_a_refusal_of_the_frameworks_becomes_a_problem_document_and_keeps_its_headers() {
        let plain = async { (StatusCode::METHOD_NOT_ALLOWED, [("allow", "POST")], "no").into_response() };
        let (_, response) = answer_to(plain).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()["allow"], "POST");
    }
}
