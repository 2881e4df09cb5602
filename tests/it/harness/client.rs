//! An ACME client that signs by hand: it can do everything right, or put its name to anything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::harness::answer::Answer;
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::Daemon;
use crate::harness::wire::{Connection, Site};

/// The longest that a test waits for something that is to happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a client signs.
pub(crate) trait Payload {
    fn bytes(self) -> Vec<u8>;
}

impl Payload for &str {
    fn bytes(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Payload for Vec<u8> {
    fn bytes(self) -> Vec<u8> {
        self
    }
}

impl Payload for Value {
    fn bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

/// The empty payload of a POST-as-GET.
pub(crate) const GET: &str = "";

/// A key at a daemon, with or without an account. Keeps one connection.
pub(crate) struct Client {
    pub(crate) site: Site,
    pub(crate) key: Arc<Key>,
    /// The account's URL.
    pub(crate) kid: Option<String>,
    nonce: Mutex<Option<String>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self::new(&self.site, Arc::clone(&self.key), self.kid.clone())
    }
}

/// An order's URLs.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) url: String,
    pub(crate) finalize: String,
    pub(crate) authorizations: Vec<String>,
}

impl Order {
    /// The one that new-order has answered with.
    pub(crate) fn of(answer: &Answer) -> Self {
        let object = answer.json();
        let urls = object["authorizations"].as_array().unwrap();
        Self {
            url: answer.location(),
            finalize: object["finalize"].as_str().unwrap().to_owned(),
            authorizations: urls.iter().map(|url| url.as_str().unwrap().to_owned()).collect(),
        }
    }
}

/// A certificate and where it came from.
pub(crate) struct Issued {
    pub(crate) order: Order,
    pub(crate) url: String,
    pub(crate) pem: String,
    pub(crate) leaf: Vec<u8>,
    pub(crate) key: Key,
}

impl Client {
    pub(crate) fn new(site: &Site, key: Arc<Key>, kid: Option<String>) -> Self {
        Self {
            site: site.clone(),
            key,
            kid,
            nonce: Mutex::default(),
            connection: tokio::sync::Mutex::default(),
        }
    }

    /// A client without an account.
    pub(crate) fn stranger(site: &Site) -> Self {
        Self::new(site, Arc::new(Key::new()), None)
    }

    /// A client with a new account for the key.
    pub(crate) async fn register(site: &Site, key: Key) -> Self {
        let newcomer = Self::new(site, Arc::new(key), None);
        let answer = newcomer
            .post(&site.url("new-account"), json!({}))
            .await
            .expect(201);
        Self {
            kid: Some(answer.location()),
            ..newcomer
        }
    }

    #[track_caller]
    pub(crate) fn kid(&self) -> &str {
        self.kid.as_deref().unwrap()
    }

    /// The next nonce to use: from the latest answer, or a new one.
    pub(crate) async fn nonce(&self) -> String {
        let kept = self.nonce.lock().unwrap().take();
        match kept {
            Some(nonce) => nonce,
            None => {
                let answer = self.send("HEAD", "/acme/acme/new-nonce", &[], b"").await;
                let fresh = self.nonce.lock().unwrap().take();
                fresh.unwrap_or_else(|| panic!("no nonce: {answer:?}"))
            }
        }
    }

    /// The protected header of an honest request.
    pub(crate) fn protected(&self, url: &str, nonce: &str) -> Map<String, Value> {
        let mut header = Map::new();
        header.insert("alg".into(), self.key.alg.into());
        header.insert("nonce".into(), nonce.into());
        header.insert("url".into(), url.into());
        match &self.kid {
            Some(kid) => header.insert("kid".into(), kid.as_str().into()),
            None => header.insert("jwk".into(), self.key.jwk.clone()),
        };
        header
    }

    /// The body of an honest request.
    pub(crate) fn signed(&self, url: &str, nonce: &str, payload: impl Payload) -> Vec<u8> {
        let protected = Value::Object(self.protected(url, nonce)).to_string();
        let envelope = self.key.envelope(protected.as_bytes(), &payload.bytes());
        envelope.to_string().into_bytes()
    }

    /// Signs and sends an honest request.
    pub(crate) async fn post(&self, url: &str, payload: impl Payload) -> Answer {
        let nonce = self.nonce().await;
        let answer = self.post_body(url, &self.signed(url, &nonce, payload)).await;
        if !(url.ends_with("/directory") && answer.status == 200) {
            answer.acme();
        }
        answer
    }

    /// The same for an answer that may be a 5xx.
    pub(crate) async fn try_post(&self, url: &str, payload: impl Payload) -> Answer {
        let nonce = self.nonce().await;
        self.post_body(url, &self.signed(url, &nonce, payload)).await
    }

    /// Sends a body as it is.
    pub(crate) async fn post_body(&self, url: &str, body: &[u8]) -> Answer {
        let jose = [("Content-Type", "application/jose+json")];
        self.send("POST", self.site.path_of(url), &jose, body).await
    }

    /// Sends a request, on a new connection if the old one is gone.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut kept = self.connection.lock().await;
        let request = [
            self.site.head(method, path, headers, Some(body.len())).as_slice(),
            body,
        ]
        .concat();
        for _ in 0..2 {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.site.connect().await,
            };
            connection.write(&request).await;
            let Some(answer) = connection.answer(method).await else {
                continue;
            };
            if let Some(nonce) = answer.header("replay-nonce") {
                *self.nonce.lock().unwrap() = Some(nonce.to_owned());
            }
            if answer.header("connection") != Some("close") {
                *kept = Some(connection);
            }
            return answer;
        }
        panic!("{method} {path}: the connection was closed without an answer");
    }

    /// Asks for an order of these names.
    pub(crate) async fn ask_order(&self, names: &[&str]) -> Answer {
        self.ask_order_of("dns", names).await
    }

    /// Asks for an order of these names with more members.
    pub(crate) async fn ask_order_wishing(&self, names: &[&str], mut wishes: Value) -> Answer {
        wishes["identifiers"] = identifiers("dns", names);
        self.post(&self.site.url("new-order"), wishes).await
    }

    /// Asks for an order of identifiers of one type.
    pub(crate) async fn ask_order_of(&self, kind: &str, values: &[&str]) -> Answer {
        let url = self.site.url("new-order");
        self.post(&url, json!({ "identifiers": identifiers(kind, values) }))
            .await
    }

    /// A new order, pending.
    pub(crate) async fn order(&self, names: &[&str]) -> Order {
        self.order_of("dns", names).await
    }

    /// A new order of identifiers of one type, pending.
    pub(crate) async fn order_of(&self, kind: &str, values: &[&str]) -> Order {
        Order::of(&self.ask_order_of(kind, values).await.expect(201))
    }

    /// The object at a URL.
    pub(crate) async fn look(&self, url: &str) -> Value {
        self.post(url, GET).await.expect(200).json()
    }

    /// Waits until the object at the URL has the status.
    pub(crate) async fn until(&self, url: &str, status: &str) -> Value {
        let waiting = async {
            loop {
                let object = self.look(url).await;
                if object["status"] == status {
                    return object;
                }
                let moving = matches!(object["status"].as_str(), Some("pending" | "processing"));
                assert!(moving, "waiting for {status}: {object}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{url} did not become {status}"))
    }

    /// URL and token of the authorization's http-01 challenge.
    pub(crate) async fn challenge(&self, authorization: &str) -> (String, String) {
        self.challenge_by("http-01", authorization).await
    }

    /// URL and token of the authorization's challenge of the type.
    pub(crate) async fn challenge_by(&self, kind: &str, authorization: &str) -> (String, String) {
        let object = self.look(authorization).await;
        let challenges = object["challenges"].as_array().unwrap();
        let offered = challenges
            .iter()
            .find(|challenge| challenge["type"] == kind)
            .unwrap();
        let text = |member: &str| offered[member].as_str().unwrap().to_owned();
        (text("url"), text("token"))
    }

    /// What the token is to be answered with (RFC 8555 §8.1).
    pub(crate) fn key_authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.key.thumbprint())
    }

    /// Has the web server answer the authorization's http-01 challenge, and gives the challenge's URL.
    pub(crate) async fn publish(&self, daemon: &Daemon, authorization: &str) -> String {
        let (url, token) = self.challenge(authorization).await;
        daemon.web.publish(&token, &self.key_authorization(&token));
        url
    }

    /// Meets the order's challenges, and waits until it is ready.
    pub(crate) async fn prove(&self, daemon: &Daemon, order: &Order) {
        for authorization in &order.authorizations {
            let url = self.publish(daemon, authorization).await;
            self.post(&url, json!({})).await.expect(200);
        }
        self.until(&order.url, "ready").await;
    }

    /// A new order, ready.
    pub(crate) async fn ready(&self, daemon: &Daemon, names: &[&str]) -> Order {
        let order = self.order(names).await;
        self.prove(daemon, &order).await;
        order
    }

    /// Hands in a CSR.
    pub(crate) async fn finalize(&self, order: &Order, csr: &[u8]) -> Answer {
        self.post(&order.finalize, json!({ "csr": b64(csr) })).await
    }

    /// A new order with the CSR handed in, for a new key.
    pub(crate) async fn finalized(&self, daemon: &Daemon, names: &[&str]) -> Order {
        let order = self.ready(daemon, names).await;
        self.finalize(&order, &csr::plain(&Key::new(), names))
            .await
            .expect(200);
        order
    }

    /// The whole way of an order that has been made: the object of the valid one.
    pub(crate) async fn obtain(&self, daemon: &Daemon, made: &Answer, names: &[&str]) -> Value {
        let order = Order::of(made);
        self.prove(daemon, &order).await;
        self.finalize(&order, &csr::plain(&Key::new(), names))
            .await
            .expect(200);
        self.until(&order.url, "valid").await
    }

    /// The chain of a valid order.
    pub(crate) async fn chain(&self, order: &Value) -> String {
        let url = order["certificate"].as_str().unwrap();
        self.post(url, GET).await.expect(200).text()
    }

    /// A certificate, from the order to the chain.
    pub(crate) async fn issue(&self, daemon: &Daemon, names: &[&str]) -> Issued {
        let order = self.ready(daemon, names).await;
        let key = Key::new();
        self.finalize(&order, &csr::plain(&key, names)).await.expect(200);
        let valid = self.until(&order.url, "valid").await;
        let url = valid["certificate"].as_str().unwrap().to_owned();
        let pem = self.chain(&valid).await;
        let leaf = csr::first_of_pem(&pem);
        Issued {
            order,
            url,
            pem,
            leaf,
            key,
        }
    }
}

fn identifiers(kind: &str, values: &[&str]) -> Value {
    let identifier = |value: &&str| json!({ "type": kind, "value": value });
    values.iter().map(identifier).collect()
}
