//! Answers http-01 challenges (RFC 8555 §8.3), for the demo's client and for the load generator's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use http::header::HOST;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// In a host's name: it takes every request and never answers.
pub(crate) const SILENT: &str = ".silent.";

type Answers = Arc<Mutex<HashMap<String, String>>>;

/// A web server that answers until this is dropped.
pub(crate) struct Http01 {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    answers: Answers,
    server: JoinHandle<()>,
}

impl Http01 {
    /// From now on, answers requests for the token with the key authorization.
    pub(crate) fn publish(&self, token: &str, key_authorization: &str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(token.to_owned(), key_authorization.to_owned());
    }
}

impl Drop for Http01 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Starts to listen; port 0 takes a free one.
pub(crate) async fn start(listen: SocketAddr) -> anyhow::Result<Http01> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the http-01 responder cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let answers = Answers::default();
    let router = Router::new()
        .route("/.well-known/acme-challenge/{token}", get(show))
        .with_state(answers.clone());
    let server = tokio::spawn(async move {
        // It only ends when it is aborted.
        let _ = axum::serve(listener, router).await;
    });
    Ok(Http01 {
        address,
        answers,
        server,
    })
}

async fn show(
    State(answers): State<Answers>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| host.contains(SILENT)) {
        std::future::pending::<()>().await;
    }
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    answers.get(&token).cloned().ok_or(StatusCode::NOT_FOUND)
}
