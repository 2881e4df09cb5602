//! The throwaway CA's listener: HTTP/1.1 with keep-alive over TLS, and the routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LINK};
use http::{HeaderMap, StatusCode, Uri};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::problem::Problem;
use super::protocol::{Ca, Verified};

/// Serves until it is aborted; its connections end with it.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, ca: Arc<Ca>) {
    let service = TowerToHyperService::new(routes(ca.clone()));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        if ca.options.trouble.is_down() {
            continue;
        }
        let (acceptor, service, ca) = (acceptor.clone(), service.clone(), ca.clone());
        connections.spawn(async move {
            tokio::select! {
                () = ca.options.trouble.going_down() => {}
                () = serve_connection(tcp, &acceptor, service) => {}
            }
        });
    }
}

async fn serve_connection(tcp: TcpStream, acceptor: &TlsAcceptor, service: TowerToHyperService<Router>) {
    let _ = tcp.set_nodelay(true);
    if let Ok(tls) = acceptor.accept(tcp).await {
        // A connection that breaks is the client's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(tls), service)
            .await;
    }
}

fn routes(ca: Arc<Ca>) -> Router {
    let acme = Router::new()
        .route(
            "/new-nonce",
            get(async || StatusCode::NO_CONTENT).head(async || StatusCode::OK),
        )
        .fallback(post)
        .layer(middleware::from_fn_with_state(ca.clone(), add_headers))
        .with_state(ca.clone());
    Router::new()
        .route("/directory", get(directory))
        .route("/stats", get(stats))
        .with_state(ca)
        .merge(acme)
}

async fn directory(State(ca): State<Arc<Ca>>) -> Response {
    json(StatusCode::OK, &ca.directory())
}

async fn stats(State(ca): State<Arc<Ca>>) -> Response {
    json(StatusCode::OK, &ca.memory.stats())
}

/// Every signed request: checked first, then sent where the path says.
async fn post(
    State(ca): State<Arc<Ca>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    if headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) != Some(b"application/jose+json") {
        return Err(Problem::new(415, "malformed", "send application/jose+json"));
    }
    ca.options.trouble.before(uri.path()).await?;
    let answer = ca
        .authenticate(uri.path(), &body)
        .and_then(|request| route(&ca, uri.path(), request));
    ca.options.trouble.after(uri.path()).await;
    answer
}

fn route(ca: &Ca, path: &str, request: Verified) -> Result<Response, Problem> {
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match path.as_slice() {
        ["new-account"] => ca.new_account(request),
        ["account", id] => ca.show_account(&request, id),
        ["key-change"] => ca.key_change(&request),
        ["new-order"] => ca.new_order(&request),
        ["order", id] => ca.show_order(&request, id),
        ["order", id, "finalize"] => ca.finalize(&request, id),
        ["authz", id, index] => ca.show_authorization(&request, id, index),
        ["challenge", id, index, kind] => ca.accept_challenge(&request, id, index, kind),
        ["certificate", serial] => ca.certificate(&request, serial),
        ["revoke-cert"] => ca.revoke(&request),
        _ => Err(Problem::not_found()),
    }
}

/// RFC 8555 §6.5: a nonce with every answer to a POST, and with newNonce; §7.1: the link to the directory.
async fn add_headers(State(ca): State<Arc<Ca>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(nonce) = HeaderValue::from_str(&ca.memory.mint_nonce()) {
        headers.insert("replay-nonce", nonce);
    }
    if let Ok(link) = HeaderValue::from_str(&format!("<{}/directory>;rel=\"index\"", ca.base)) {
        headers.append(LINK, link);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}
