//! The throwaway CA's listener: HTTP/1.1 with keep-alive over TLS, and the routes.

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LINK};
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::Answer;
use super::pki::Flaw;
use super::problem::Problem;
use super::protocol::{Ca, Verified};
use super::script::{Step, Twist};
use super::state::lock;
use super::wire::{Hijack, Wire};

/// Serves until it is aborted; its connections end with it.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, ca: Arc<Ca>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        if ca.options.trouble.is_down() {
            continue;
        }
        let (acceptor, ca) = (acceptor.clone(), ca.clone());
        connections.spawn(async move {
            tokio::select! {
                () = ca.options.trouble.going_down() => {}
                () = serve_connection(tcp, &acceptor, &ca) => {}
            }
        });
    }
}

async fn serve_connection(tcp: TcpStream, acceptor: &TlsAcceptor, ca: &Ca) {
    let _ = tcp.set_nodelay(true);
    if let Ok(tls) = acceptor.accept(tcp).await {
        let hijack = Hijack::default();
        let service = service_fn(|request: Request<Incoming>| {
            let hijack = hijack.clone();
            async move { Ok::<_, Infallible>(answered(ca, &hijack, request).await) }
        });
        // A connection that breaks is the client's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(Wire::new(tls, hijack.clone())), service)
            .await;
    }
}

/// What is asked, with what the script says about it.
async fn answered(ca: &Ca, hijack: &Hijack, request: Request<Incoming>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let body = body.to_bytes();
    let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
    if path == ["stats"] {
        return json(StatusCode::OK, &ca.stats());
    }
    let Some(step) = Step::of(ca.without_prefix(&path)) else {
        return Problem::not_found().into_response();
    };
    match ca.script.begin(step) {
        None => done(ca, step, &parts, body, None).await,
        Some(Twist::Refuse(problem)) => with_headers(ca, step, problem.into_response()),
        Some(Twist::Instead(answer)) => answer.into_response(),
        Some(Twist::Flaw(flaw)) => done(ca, step, &parts, body, Some(&flaw)).await,
        Some(Twist::Edit(change)) => {
            let mut answer = Answer::of(done(ca, step, &parts, body, None).await).await;
            change(&mut answer);
            answer.into_response()
        }
        Some(Twist::Raw(raw)) => {
            let answer = done(ca, step, &parts, body, None).await;
            *lock(hijack) = Some(raw);
            answer
        }
        Some(Twist::Silence) => {
            done(ca, step, &parts, body, None).await;
            std::future::pending().await
        }
    }
}

/// What is asked, done as it should be, except for the certificate's flaw.
async fn done(ca: &Ca, step: Step, parts: &Parts, body: Bytes, flaw: Option<&Flaw>) -> Response {
    let path = parts.uri.path();
    let answer = match step {
        Step::Directory => match parts.uri.path_and_query() {
            Some(asked) if asked.as_str() == ca.directory_path() => {
                return json(StatusCode::OK, &ca.directory());
            }
            _ => Err(Problem::not_found()),
        },
        Step::NewNonce => Ok(match parts.method {
            Method::HEAD => StatusCode::OK.into_response(),
            _ => StatusCode::NO_CONTENT.into_response(),
        }),
        Step::RenewalInfo => ca.renewal_info(path),
        _ => signed(ca, parts, &body, flaw).await,
    };
    with_headers(ca, step, answer.into_response())
}

/// Every signed request: checked first, then sent where the path says.
async fn signed(ca: &Ca, parts: &Parts, body: &Bytes, flaw: Option<&Flaw>) -> Result<Response, Problem> {
    let path = parts.uri.path();
    if parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) != Some(b"application/jose+json") {
        return Err(Problem::new(415, "malformed", "send application/jose+json"));
    }
    ca.options.trouble.before(path).await?;
    let answer = ca
        .authenticate(path, body)
        .and_then(|request| route(ca, path, request, flaw));
    ca.options.trouble.after(path).await;
    answer
}

fn route(ca: &Ca, path: &str, request: Verified, flaw: Option<&Flaw>) -> Result<Response, Problem> {
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match ca.without_prefix(&path) {
        ["new-account"] => ca.new_account(request),
        ["account", id] => ca.show_account(&request, id),
        ["key-change"] => ca.key_change(&request),
        ["new-order"] => ca.new_order(&request),
        ["order", id] => ca.show_order(&request, id),
        ["order", id, "finalize"] => ca.finalize(&request, id, flaw),
        ["authz", id, index] => ca.show_authorization(&request, id, index),
        ["challenge", id, index, kind] => ca.accept_challenge(&request, id, index, kind),
        ["certificate", serial] => ca.certificate(&request, serial, "0"),
        ["certificate", serial, alternate] => ca.certificate(&request, serial, alternate),
        ["revoke-cert"] => ca.revoke(&request),
        _ => Err(Problem::not_found()),
    }
}

/// RFC 8555 §6.5: a nonce with every answer to a POST, and with newNonce; §7.1: the link to the directory.
fn with_headers(ca: &Ca, step: Step, mut response: Response) -> Response {
    if step == Step::RenewalInfo {
        return response;
    }
    let headers = response.headers_mut();
    if let Ok(nonce) = HeaderValue::from_str(&ca.memory.mint_nonce()) {
        headers.insert("replay-nonce", nonce);
    }
    if let Ok(link) = HeaderValue::from_str(&format!("<{}{}>;rel=\"index\"", ca.base, ca.directory_path())) {
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
