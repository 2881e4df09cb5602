//! The web server of the clients' hosts: answers http-01 challenges (RFC 8555 §8.3), counts who looks, and can be told
//! to let them wait. Hosts below `silent.example.com` take every request and never answer.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use http::header::HOST;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::RwLock;

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, String>>,
    looks: AtomicUsize,
    /// How many requests are not being answered now, and how many at most at any time.
    unanswered: Mutex<(usize, usize)>,
    gate: Arc<RwLock<()>>,
}

impl Web {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let routes = Router::new()
            .route("/.well-known/acme-challenge/{token}", axum::routing::get(show))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, shared }
    }

    /// From now on, answers requests for the token with this content.
    pub(crate) fn publish(&self, token: &str, content: &str) {
        let mut answers = self.shared.answers.lock().unwrap();
        answers.insert(token.to_owned(), content.to_owned());
    }

    /// How often anybody has asked for any token.
    pub(crate) fn looks(&self) -> usize {
        self.shared.looks.load(Ordering::SeqCst)
    }

    /// How many requests to silent hosts hung at a time at most.
    pub(crate) fn most_unanswered(&self) -> usize {
        self.shared.unanswered.lock().unwrap().1
    }

    /// How many requests to silent hosts hang now.
    pub(crate) fn unanswered(&self) -> usize {
        self.shared.unanswered.lock().unwrap().0
    }

    /// Lets everybody wait for an answer until the guard is dropped.
    pub(crate) async fn hold(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.shared.gate).write_owned().await
    }
}

/// Ends with the request's connection.
struct Hanging<'a>(&'a Mutex<(usize, usize)>);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

async fn show(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    shared.looks.fetch_add(1, Ordering::SeqCst);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| host.contains(".silent.example.com")) {
        let hanging = Hanging(&shared.unanswered);
        {
            let mut unanswered = shared.unanswered.lock().unwrap();
            unanswered.0 += 1;
            unanswered.1 = unanswered.1.max(unanswered.0);
        }
        std::future::pending::<()>().await;
        drop(hanging);
    }
    let _open = shared.gate.read().await;
    let answers = shared.answers.lock().unwrap();
    answers.get(&token).cloned().ok_or(StatusCode::NOT_FOUND)
}
