//! A client that gets one certificate after the other, each request from any replica, and notes down what it is
//! answered. A request without an answer, and one that is told to come again, is made again; nobody else may refuse.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::dice::Dice;
use crate::figures::{Figure, Figures};
use crate::history::{History, Said, Status, Wish};
use crate::http01::Http01;
use crate::keys::{self, AccountKey, Request};
use crate::wire::{Connection, Reply, Target};

/// How long an answer may take. The client then knows nothing, and asks again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two questions about the same thing.
const PAUSE: Duration = Duration::from_millis(300);

/// The challenge that clients meet.
const HTTP01: &str = "http-01";

/// Between two questions about an order that takes its time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How many orders of one client may be under way.
const MOST_OPEN: usize = 30;

/// How many orders an account makes before the client takes another one.
const ORDERS_PER_ACCOUNT: usize = 20;

/// What all clients share.
pub(crate) struct World {
    /// The base of all URLs, `https://` and the host.
    pub(crate) base: String,
    /// The replicas.
    pub(crate) targets: Vec<Target>,
    pub(crate) web: Http01,
    pub(crate) history: History,
    pub(crate) figures: Figures,
}

/// An account and its orders.
pub(crate) struct Account {
    pub(crate) key: AccountKey,
    pub(crate) url: String,
    orders: Mutex<Vec<String>>,
}

impl Account {
    fn has_ordered(&self, url: &str) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.push(url.to_owned());
    }

    fn orders(&self) -> usize {
        self.all_orders().len()
    }

    /// The URLs of its orders.
    pub(crate) fn all_orders(&self) -> Vec<String> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.clone()
    }
}

/// An order that has not ended.
struct Open {
    account: Arc<Account>,
    url: String,
    request: Request,
    begun: Instant,
    /// When to look at it again.
    due: Instant,
    pause: Duration,
}

/// One client.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) number: usize,
    pub(crate) accounts: Vec<Arc<Account>>,
    dice: Dice,
    /// One to each replica.
    connections: Vec<Option<Connection>>,
    nonce: Option<String>,
    orders: usize,
}

/// Why a request did not do what it should.
pub(crate) enum Setback {
    /// There is no answer, or one that says to come again.
    Passing,
    /// It was refused by this replica, in these words.
    Refused(usize, String),
}

pub(crate) type Outcome<T> = Result<T, Setback>;

/// Who signs a request.
#[derive(Clone, Copy)]
pub(crate) struct Signer<'a> {
    pub(crate) key: &'a AccountKey,
    /// The account's URL, once it has one.
    pub(crate) url: Option<&'a str>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
pub(crate) struct Order {
    pub(crate) status: Status,
    pub(crate) authorizations: Vec<String>,
    finalize: String,
    pub(crate) certificate: Option<String>,
}

/// An account, an authorization or a challenge.
#[derive(Deserialize)]
pub(crate) struct Object {
    pub(crate) status: Status,
    #[serde(default)]
    challenges: Vec<Challenge>,
}

#[derive(Deserialize)]
struct Challenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    status: Status,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize, dice: Dice) -> Self {
        Self {
            world: Arc::clone(world),
            number,
            accounts: Vec::new(),
            dice,
            connections: world.targets.iter().map(|_| None).collect(),
            nonce: None,
            orders: 0,
        }
    }

    /// Orders certificates until it is told to stop, and then ends what it has begun, for as long as it is let. An order
    /// that takes its time holds up no other one.
    pub(crate) async fn work(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let is_over = *stop.borrow();
            if is_over && open.is_empty() {
                return Ok(());
            }
            if !is_over && open.len() < MOST_OPEN {
                open.push(self.order().await?);
            }
            let mut still_open = Vec::new();
            for mut order in open {
                let has_ended = order.due <= Instant::now() && self.tend(&mut order).await;
                if !has_ended {
                    still_open.push(order);
                }
            }
            open = still_open;
            let pause = self.dice.millis(200, 1800);
            sleep(if is_over { PAUSE } else { pause }).await;
        }
    }

    async fn register(&mut self) -> anyhow::Result<Account> {
        let key = AccountKey::generate()?;
        let url = format!("{}/acme/acme/new-account", self.world.base);
        let payload = json!({ "termsOfServiceAgreed": true }).to_string();
        loop {
            let signer = Signer { key: &key, url: None };
            match self.post(signer, &url, &payload).await {
                Ok((replica, reply)) => {
                    let url = reply.header("location").context("an account without a URL")?;
                    let object: Object = serde_json::from_slice(&reply.body)?;
                    self.world
                        .history
                        .note(&url, replica, Said::Account(object.status));
                    let orders = Mutex::default();
                    return Ok(Account { key, url, orders });
                }
                Err(setback) => self.again("a new account", setback).await,
            }
        }
    }

    /// A new order, of an account that is not used up.
    async fn order(&mut self) -> anyhow::Result<Open> {
        let account = match self.accounts.last() {
            Some(account) if account.orders() < ORDERS_PER_ACCOUNT => Arc::clone(account),
            _ => {
                let account = Arc::new(self.register().await?);
                self.accounts.push(Arc::clone(&account));
                account
            }
        };
        let request = self.request()?;
        let identifiers = request.names.iter();
        let identifiers: Vec<_> = identifiers
            .map(|name| json!({ "type": "dns", "value": name }))
            .collect();
        let payload = json!({ "identifiers": identifiers }).to_string();
        let new_order = format!("{}/acme/acme/new-order", self.world.base);
        loop {
            match self.post(Signer::of(&account), &new_order, &payload).await {
                Ok((replica, reply)) => {
                    let url = reply.header("location").context("an order without a URL")?;
                    self.world.history.wished(Wish {
                        url: url.clone(),
                        names: request.names.clone(),
                        public_key: public_key(&request.csr)?,
                    });
                    let order: Order = serde_json::from_slice(&reply.body)?;
                    self.world.history.note(&url, replica, Said::Order(order.status));
                    account.has_ordered(&url);
                    return Ok(Open {
                        account,
                        url,
                        request,
                        begun: Instant::now(),
                        due: Instant::now(),
                        pause: PAUSE,
                    });
                }
                Err(setback) => self.again(&account.url, setback).await,
            }
        }
    }

    /// Looks at the order, does as much as can be done now, and says whether it has ended.
    async fn tend(&mut self, open: &mut Open) -> bool {
        let account = Arc::clone(&open.account);
        let advanced = self.advance(Signer::of(&account), &open.url, &open.request).await;
        open.pause = (open.pause * 3 / 2).min(LONGEST_PAUSE);
        open.due = Instant::now() + open.pause;
        match advanced {
            Ok(has_ended) => {
                let seconds = open.begun.elapsed().as_secs();
                self.world.figures.at_least(Figure::SlowestOrder, seconds);
                has_ended
            }
            Err(setback) => {
                self.again(&open.url, setback).await;
                false
            }
        }
    }

    /// Names that nobody else has, but for each tenth order: then every client asks for the same ones.
    fn request(&mut self) -> anyhow::Result<Request> {
        self.orders += 1;
        let (number, order) = (self.number, self.orders);
        let domain = match order % 10 {
            0 => format!("all.o{order}.chaos.example.com"),
            _ => format!("c{number}.o{order}.chaos.example.com"),
        };
        let names = 1 + usize::from(order % 3 == 0);
        let names: Vec<String> = (0..names).map(|name| format!("n{name}.{domain}")).collect();
        keys::request(names)
    }

    /// Looks at the order, and does the next thing. True when there is nothing left to do.
    async fn advance(&mut self, signer: Signer<'_>, url: &str, request: &Request) -> Outcome<bool> {
        let order = self.look_at_order(signer, url).await?;
        match order.status {
            Status::Pending => {
                for url in &order.authorizations {
                    self.prove(signer, url).await?;
                }
                Ok(false)
            }
            Status::Ready => {
                let payload = json!({ "csr": request.csr }).to_string();
                let (replica, reply) = self.post(signer, &order.finalize, &payload).await?;
                let order: Order = json_of(replica, &reply)?;
                self.world.history.note(url, replica, Said::Order(order.status));
                Ok(false)
            }
            Status::Processing => Ok(false),
            Status::Valid => self.fetch(signer, url, &order).await.map(|()| true),
            _ => Ok(true),
        }
    }

    /// The order, as it is now.
    pub(crate) async fn look_at_order(&mut self, signer: Signer<'_>, url: &str) -> Outcome<Order> {
        let (replica, reply) = self.post(signer, url, "").await?;
        let order: Order = json_of(replica, &reply)?;
        self.world.history.note(url, replica, Said::Order(order.status));
        Ok(order)
    }

    /// The authorization, as it is now.
    pub(crate) async fn look_at_authorization(&mut self, signer: Signer<'_>, url: &str) -> Outcome<Object> {
        let (replica, reply) = self.post(signer, url, "").await?;
        let object: Object = json_of(replica, &reply)?;
        let history = &self.world.history;
        history.note(url, replica, Said::Authorization(object.status));
        // When one is met, the others are not shown any more.
        let met = object
            .challenges
            .iter()
            .filter(|challenge| challenge.kind == HTTP01);
        for challenge in met {
            history.note(&challenge.url, replica, Said::Challenge(challenge.status));
        }
        Ok(object)
    }

    /// The order's certificate.
    pub(crate) async fn fetch(&mut self, signer: Signer<'_>, url: &str, order: &Order) -> Outcome<()> {
        let Some(certificate) = &order.certificate else {
            return Err(Setback::Refused(
                0,
                format!("{url} is valid without a certificate"),
            ));
        };
        let (replica, reply) = self.post(signer, certificate, "").await?;
        let chain = String::from_utf8_lossy(&reply.body).into_owned();
        self.world.history.note(url, replica, Said::Chain(chain));
        Ok(())
    }

    async fn prove(&mut self, signer: Signer<'_>, url: &str) -> Outcome<()> {
        let authorization = self.look_at_authorization(signer, url).await?;
        let mut challenges = authorization.challenges.into_iter();
        let challenge = challenges.find(|challenge| challenge.kind == HTTP01);
        let Some(challenge) = challenge.filter(|challenge| challenge.status == Status::Pending) else {
            return Ok(());
        };
        let token = challenge.token.as_deref().unwrap_or_default();
        self.world
            .web
            .publish(token, &signer.key.key_authorization(token));
        let (replica, reply) = self.post(signer, &challenge.url, "{}").await?;
        let object: Object = json_of(replica, &reply)?;
        let said = Said::Challenge(object.status);
        self.world.history.note(&challenge.url, replica, said);
        Ok(())
    }

    /// Waits before the next attempt; a refusal is noted.
    async fn again(&self, about: &str, setback: Setback) {
        if let Setback::Refused(replica, why) = setback {
            self.world.history.note(about, replica, Said::Denied(why));
            // Nothing is won by asking at once.
            sleep(PAUSE * 10).await;
        }
        sleep(PAUSE).await;
    }

    /// A signed request to any replica, and which one has answered it.
    pub(crate) async fn post(
        &mut self,
        signer: Signer<'_>,
        url: &str,
        payload: &str,
    ) -> Outcome<(usize, Reply)> {
        let nonce = match self.nonce.take() {
            Some(nonce) => nonce,
            None => {
                let replica = self.dice.below(self.world.targets.len());
                let new_nonce = format!("{}/acme/acme/new-nonce", self.world.base);
                let reply = self
                    .send(replica, Method::HEAD, &new_nonce, String::new())
                    .await?;
                reply.header("replay-nonce").ok_or(Setback::Passing)?
            }
        };
        self.nonce = None;
        let body = signer.key.sign(url, &nonce, signer.url, payload);
        let replica = self.dice.below(self.world.targets.len());
        let body = body.map_err(|error| Setback::Refused(replica, error.to_string()))?;
        let reply = self.send(replica, Method::POST, url, body).await?;
        if reply.status.is_success() {
            return Ok((replica, reply));
        }
        Err(self.setback(replica, &reply))
    }

    fn setback(&self, replica: usize, reply: &Reply) -> Setback {
        if reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS {
            self.world.figures.add(Figure::ComeAgain, 1);
            return Setback::Passing;
        }
        let problem = serde_json::from_slice(&reply.body).unwrap_or(Problem {
            kind: String::new(),
            detail: reply.status.to_string(),
        });
        match problem.kind.rsplit(':').next() {
            Some("badNonce") => {
                self.world.figures.add(Figure::BadNonces, 1);
                Setback::Passing
            }
            // The answer to the request before was lost, not the request.
            Some("orderNotReady") => Setback::Passing,
            _ => Setback::Refused(replica, format!("{}: {}", problem.kind, problem.detail)),
        }
    }

    async fn send(&mut self, replica: usize, method: Method, url: &str, body: String) -> Outcome<Reply> {
        let world = Arc::clone(&self.world);
        world.figures.add(Figure::Requests, 1);
        let kept = self.connections.get_mut(replica).and_then(Option::take);
        let exchange = async {
            let mut connection = match kept.filter(|kept| !kept.is_closed()) {
                Some(connection) => connection,
                None => {
                    world
                        .targets
                        .get(replica)
                        .context("no such replica")?
                        .connect(None)
                        .await?
                }
            };
            let reply = connection.send(method, url, body).await?;
            anyhow::Ok((connection, reply))
        };
        let Ok(Ok((connection, reply))) = timeout(PATIENCE, exchange).await else {
            world.figures.add(Figure::Unanswered, 1);
            return Err(Setback::Passing);
        };
        if reply.header("connection").as_deref() != Some("close")
            && let Some(place) = self.connections.get_mut(replica)
        {
            *place = Some(connection);
        }
        if let Some(nonce) = reply.header("replay-nonce") {
            self.nonce = Some(nonce);
        }
        Ok(reply)
    }
}

impl<'a> Signer<'a> {
    pub(crate) fn of(account: &'a Account) -> Self {
        Self {
            key: &account.key,
            url: Some(&account.url),
        }
    }
}

fn json_of<T: DeserializeOwned>(replica: usize, reply: &Reply) -> Outcome<T> {
    let body = serde_json::from_slice(&reply.body);
    body.map_err(|error| Setback::Refused(replica, format!("an answer that can not be read: {error}")))
}

/// The key that the CSR (base64url) is for.
fn public_key(csr: &str) -> anyhow::Result<Vec<u8>> {
    let der = BASE64_URL_SAFE_NO_PAD.decode(csr)?;
    let (_, request) = X509CertificationRequest::from_der(&der)?;
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}
