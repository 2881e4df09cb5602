//! A double of a CA that answers whatever a test tells it to, over TLS. It checks no signature and issues nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;

use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::upstream::MemoryVault;
use crate::upstream::TlsFiles;

/// What a test wants to be answered to a path on the nth request to it; `None` for what a good CA would say.
pub(crate) type Script = dyn Fn(&str, usize) -> Option<Response> + Send + Sync;

pub(crate) struct Double {
    pub(crate) files: TlsFiles,
    base: String,
    requests: Arc<Mutex<Vec<String>>>,
    payloads: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Double {
    pub(crate) async fn start(
        script: impl Fn(&str, usize) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        Self::with_base(|_| Box::new(script)).await
    }

    /// The double's script is made when its URL is known.
    pub(crate) async fn with_base(script: impl FnOnce(&str) -> Box<Script>) -> Self {
        let files = TlsFiles::new();
        let certificate = CertificateDer::from_pem_file(files.path("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(files.path("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let payloads = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::from(script(&base));
        let router = axum::Router::new().fallback({
            let (base, requests, payloads) = (base.clone(), requests.clone(), payloads.clone());
            move |request: Request| {
                let answer = answered(&base, &requests, script.as_ref(), &request);
                let payloads = payloads.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                    payloads
                        .lock()
                        .unwrap()
                        .extend(payload(&body).map(|payload| (path, payload)));
                    answer
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let connection = hyper::server::conn::http1::Builder::new();
                        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Self {
            files,
            base,
            requests,
            payloads,
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            section: "authority.config".to_owned(),
            directory: format!("{}/dir", self.base),
            roots: Some(self.files.path("roots.pem")),
            email: None,
            eab: None,
            dns01: None,
            lifetime: None,
            profile: None,
        }
    }

    pub(crate) fn ca(&self) -> Ca {
        Ca::new(self.settings(), Arc::new(MemoryVault::default())).unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// What was signed and sent to a path.
    pub(crate) fn payloads(&self, path: &str) -> Vec<Value> {
        let payloads = self.payloads.lock().unwrap();
        let to_path = payloads.iter().filter(|(to, _)| to == path);
        to_path.map(|(_, payload)| payload.clone()).collect()
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|seen| *seen == path).count()
    }
}

fn answered(base: &str, requests: &Mutex<Vec<String>>, script: &Script, request: &Request) -> Response {
    let path = request.uri().path();
    let nth = {
        let mut requests = requests.lock().unwrap();
        requests.push(path.to_owned());
        requests.iter().filter(|seen| *seen == path).count()
    };
    let mut answer = script(path, nth).unwrap_or_else(|| good(base, path));
    let nonce = format!("nonce-{}", requests.lock().unwrap().len());
    answer
        .headers_mut()
        .insert("replay-nonce", nonce.parse().unwrap());
    answer
}

/// The payload of a signed request, if it has one.
fn payload(body: &[u8]) -> Option<Value> {
    let signed: Value = serde_json::from_slice(body).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str()?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// A good CA, which is very fast.
fn good(base: &str, path: &str) -> Response {
    match path {
        "/dir" => json_answer(200, &directory(base, base)),
        "/new-account" => located(
            json_answer(201, &json!({"status": "valid"})),
            &format!("{base}/account"),
        ),
        "/account" => json_answer(200, &json!({"status": "valid"})),
        "/new-order" => located(
            json_answer(201, &order_json(base, "ready")),
            &format!("{base}/order"),
        ),
        "/order" => json_answer(200, &order_json(base, "ready")),
        "/finalize" => json_answer(200, &order_json(base, "valid")),
        "/certificate" => Response::new(Body::from("a chain\n")),
        _ => Response::new(Body::empty()),
    }
}

pub(crate) fn directory(base: &str, of_orders: &str) -> Value {
    json!({
        "newNonce": format!("{base}/new-nonce"), "newAccount": format!("{base}/new-account"),
        "newOrder": format!("{of_orders}/new-order"), "revokeCert": format!("{base}/revoke"),
    })
}

pub(crate) fn order_json(base: &str, status: &str) -> Value {
    json!({
        "status": status, "authorizations": [], "finalize": format!("{base}/finalize"),
        "certificate": format!("{base}/certificate"),
    })
}

pub(crate) fn json_answer(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .body(Body::from(body.to_string()))
        .unwrap()
}

pub(crate) fn located(mut answer: Response, url: &str) -> Response {
    answer.headers_mut().insert("location", url.parse().unwrap());
    answer
}

pub(crate) fn problem(status: u16, kind: &str) -> Response {
    json_answer(
        status,
        &json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "because"}),
    )
}

pub(crate) fn page(status: u16, retry_after: &str) -> Response {
    let builder = Response::builder()
        .status(status)
        .header("retry-after", retry_after);
    builder
        .body(Body::from("<html>not the ACME server</html>"))
        .unwrap()
}

/// A body that never ends.
pub(crate) struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 8192])))))
    }
}
