//! A provider's API of a test's own: a real HTTP server on loopback, whose answers are computed by the test, and which
//! keeps what it was asked.

use std::sync::Arc;
use std::sync::Mutex;

use axum::body::Bytes;
use axum::body::to_bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::StatusCode;
use serde_json::Value;

use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::web::Web;

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `POST /path?query`.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The server.
pub(crate) struct Api {
    /// Its URL.
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Api {
    pub(crate) async fn start<A>(answer: A) -> Self
    where
        A: Fn(&Asked) -> (u16, String) + Clone + Send + Sync + 'static,
    {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        let handler = move |request: Request<axum::body::Body>| {
            let (kept, answer) = (kept.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body: Bytes = to_bytes(body, 100_000).await.unwrap();
                let asked = Asked {
                    line: format!("{} {}", parts.method, parts.uri),
                    headers: parts.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                kept.lock().unwrap().push(asked.clone());
                let (status, body) = answer(&asked);
                Response::builder()
                    .status(StatusCode::from_u16(status).unwrap())
                    .header("etag", "\"tag\"")
                    .body(axum::body::Body::from(body))
                    .unwrap()
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = axum::serve(listener, axum::Router::new().fallback(handler));
        tokio::spawn(async move { server.await.unwrap() });
        Self { url, asked }
    }

    /// What came since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The first lines of what came since the last call.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

/// A record of www.example.com.
pub(crate) fn record() -> Record {
    Record {
        value: "ours".to_owned(),
        ..Record::new(&"www.example.com".parse().unwrap(), "token", "thumbprint").unwrap()
    }
}

pub(crate) async fn present(provider: &dyn Provider) -> Result<(), String> {
    provider
        .apply(Action::Present, &record(), &Web::new(None).unwrap())
        .await
}

pub(crate) async fn withdraw(provider: &dyn Provider) -> Result<(), String> {
    provider
        .apply(Action::Withdraw, &record(), &Web::new(None).unwrap())
        .await
}
