//! One worker: the requests that `certbot certonly` makes for a certificate, in its order.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Connection, Reply, Target};
use crate::http01::Http01;
use crate::keys::{AccountKey, Request};
use crate::report::{Endpoint, Samples};

/// What all workers do alike.
pub(crate) struct Plan {
    pub(crate) directory: String,
    pub(crate) target: Target,
    pub(crate) web: Http01,
    /// Key identifier and MAC key.
    pub(crate) eab: Option<(String, String)>,
    pub(crate) connection_per_issuance: bool,
    pub(crate) account_per_issuance: bool,
    pub(crate) poll_interval: Duration,
    /// Whether to wait as long as the server says, also after it has turned us away.
    pub(crate) obey: bool,
    pub(crate) patience: Duration,
}

/// One client.
pub(crate) struct Worker {
    plan: Arc<Plan>,
    /// Where it connects from, if not the usual address.
    from: Option<Ipv4Addr>,
    key: AccountKey,
    account: Option<String>,
    connection: Option<Connection>,
    nonce: Option<String>,
    /// How long to stay away, since the last answer said so.
    turned_away: Option<Duration>,
    pub(crate) samples: Samples,
}

/// Why an issuance failed: the endpoint, and the problem type or what else happened.
pub(crate) struct Failure(String);

type Outcome<T> = Result<T, Failure>;

fn failure(endpoint: Endpoint, what: impl std::fmt::Display) -> Failure {
    Failure(format!("{endpoint}: {what}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    new_order: String,
}

#[derive(Deserialize)]
struct Order {
    status: String,
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
}

#[derive(Deserialize)]
struct Authorization {
    status: String,
    challenges: Vec<Challenge>,
}

#[derive(Deserialize)]
struct Challenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
}

impl Worker {
    /// A client with a fresh account key.
    pub(crate) fn new(plan: Arc<Plan>, from: Option<Ipv4Addr>) -> anyhow::Result<Self> {
        Ok(Self {
            plan,
            from,
            key: AccountKey::generate()?,
            account: None,
            connection: None,
            nonce: None,
            turned_away: None,
            samples: Samples::default(),
        })
    }

    /// Makes its account, as a client did long before it renews a certificate. None of that is in the samples.
    pub(crate) async fn settle(&mut self) -> Result<(), String> {
        let plan = self.plan.clone();
        let settled = self.directory(&plan).await;
        self.connection = None;
        self.nonce = None;
        self.samples = Samples::default();
        settled.map(drop).map_err(|Failure(what)| what)
    }

    /// Gets one certificate; how that went is in the samples.
    pub(crate) async fn obtain(&mut self, request: &Request) {
        let plan = self.plan.clone();
        let start = Instant::now();
        let outcome = match timeout(plan.patience, self.issue(&plan, request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failure(Endpoint::Issuance, "not done in time")),
        };
        match outcome {
            Ok(_) => self.samples.record(Endpoint::Issuance, start.elapsed()),
            Err(Failure(what)) => {
                // The connection may hold half an answer.
                self.connection = None;
                self.samples.failed += 1;
                self.samples.error(what);
            }
        }
        if plan.connection_per_issuance {
            self.connection = None;
        }
    }

    /// What this client comes to have by getting a certificate and opening another order: URLs by name.
    pub(crate) async fn objects(&mut self, request: &Request) -> Result<Vec<(&'static str, String)>, String> {
        let plan = self.plan.clone();
        let all_made = async {
            let certificate = self.issue(&plan, request).await?;
            let names = request.names.iter().map(|name| format!("pending.{name}"));
            let (url, order) = self.order(&plan, &names.collect::<Vec<_>>()).await?;
            let account = self.account.clone().unwrap_or_default();
            let mut objects = vec![("account", account), ("order", url), ("certificate", certificate)];
            for url in order.authorizations {
                let reply = self.post(Endpoint::Authz, &url, "").await?;
                let authz: Authorization = json_of(Endpoint::Authz, &reply)?;
                objects.push(("authorization", url));
                let challenge = authz.challenges.into_iter().next();
                objects.extend(challenge.map(|challenge| ("challenge", challenge.url)));
            }
            Ok(objects)
        };
        all_made.await.map_err(|Failure(what)| what)
    }

    /// Has the server look for challenges at hosts that never answer, and does not wait for what comes of it.
    pub(crate) async fn send_to_silent_hosts(&mut self, names: &[String]) -> Result<(), String> {
        let plan = self.plan.clone();
        for names in names.chunks(100) {
            let all_asked = async {
                let (_, order) = self.order(&plan, names).await?;
                for url in &order.authorizations {
                    self.answer(&plan, url).await?;
                }
                Ok(())
            };
            all_asked.await.map_err(|Failure(what)| what)?;
        }
        Ok(())
    }

    /// What is at this URL, asked for as an account that has this worker's key.
    pub(crate) async fn look(&mut self, account: &str, url: &str) -> Result<Bytes, String> {
        let own = self.account.replace(account.to_owned());
        let reply = self.post(Endpoint::OrderPoll, url, "").await;
        self.account = own;
        reply.map(|reply| reply.body).map_err(|Failure(what)| what)
    }

    /// What every client begins with: the directory, a nonce, and an account if there is none.
    async fn directory(&mut self, plan: &Plan) -> Outcome<Directory> {
        let reply = self
            .send(Endpoint::Directory, Method::GET, &plan.directory, String::new())
            .await?;
        let directory: Directory = json_of(Endpoint::Directory, &reply)?;
        self.send(
            Endpoint::NewNonce,
            Method::HEAD,
            &directory.new_nonce,
            String::new(),
        )
        .await?;
        if self.account.is_none() {
            self.register(plan, &directory.new_account).await?;
        }
        Ok(directory)
    }

    /// A new order's URL, and the order.
    async fn order(&mut self, plan: &Plan, names: &[String]) -> Outcome<(String, Order)> {
        let directory = self.directory(plan).await?;
        let identifiers: Vec<_> = names
            .iter()
            .map(|name| json!({ "type": "dns", "value": name }))
            .collect();
        let payload = json!({ "identifiers": identifiers }).to_string();
        let reply = self
            .post(Endpoint::NewOrder, &directory.new_order, &payload)
            .await?;
        let order_url = reply.header("location");
        let order_url = order_url.ok_or_else(|| failure(Endpoint::NewOrder, "no Location"))?;
        Ok((order_url, json_of(Endpoint::NewOrder, &reply)?))
    }

    /// The certificate's URL.
    async fn issue(&mut self, plan: &Plan, request: &Request) -> Outcome<String> {
        if plan.account_per_issuance {
            self.account = None;
            self.key = AccountKey::generate().map_err(|error| failure(Endpoint::NewAccount, error))?;
        }
        let (order_url, order) = self.order(plan, &request.names).await?;

        let start = Instant::now();
        let mut unproved = Vec::new();
        for url in &order.authorizations {
            if self.answer(plan, url).await? {
                unproved.push(url);
            }
        }
        for url in unproved {
            self.poll(Endpoint::AuthzPoll, url, |authz: &Authorization| &authz.status)
                .await?;
        }
        self.samples.record(Endpoint::Validation, start.elapsed());

        let payload = json!({ "csr": request.csr }).to_string();
        self.post(Endpoint::Finalize, &order.finalize, &payload).await?;
        let order = self
            .poll(Endpoint::OrderPoll, &order_url, |order: &Order| &order.status)
            .await?;
        let url = order
            .certificate
            .ok_or_else(|| failure(Endpoint::OrderPoll, "no certificate URL"))?;
        let chain = self.post(Endpoint::Certificate, &url, "").await?;
        match chain.body.starts_with(b"-----BEGIN CERTIFICATE-----") {
            true => Ok(url),
            false => Err(failure(Endpoint::Certificate, "not PEM")),
        }
    }

    async fn register(&mut self, plan: &Plan, url: &str) -> Outcome<()> {
        let payload = match &plan.eab {
            Some((kid, mac_key)) => {
                let binding = self.key.bind(url, kid, mac_key);
                let binding = binding.map_err(|error| failure(Endpoint::NewAccount, error))?;
                json!({ "termsOfServiceAgreed": true, "externalAccountBinding": binding })
            }
            None => json!({ "termsOfServiceAgreed": true }),
        };
        let reply = self.post(Endpoint::NewAccount, url, &payload.to_string()).await?;
        let location = reply.header("location");
        self.account = Some(location.ok_or_else(|| failure(Endpoint::NewAccount, "no Location"))?);
        Ok(())
    }

    /// Looks at an authorization, and answers its http-01 challenge unless it is valid already.
    async fn answer(&mut self, plan: &Plan, url: &str) -> Outcome<bool> {
        let reply = self.post(Endpoint::Authz, url, "").await?;
        let authz: Authorization = json_of(Endpoint::Authz, &reply)?;
        if authz.status == "valid" {
            return Ok(false);
        }
        let challenge = authz
            .challenges
            .iter()
            .find(|challenge| challenge.kind == "http-01");
        let challenge = challenge.ok_or_else(|| failure(Endpoint::Authz, "no http-01 challenge"))?;
        let token = challenge.token.as_deref().unwrap_or_default();
        plan.web.publish(token, &self.key.key_authorization(token));
        self.post(Endpoint::Challenge, &challenge.url, "{}").await?;
        Ok(true)
    }

    /// Asks until the object is `valid`: after a wait each time.
    async fn poll<T: DeserializeOwned>(
        &mut self,
        endpoint: Endpoint,
        url: &str,
        status: impl Fn(&T) -> &String,
    ) -> Outcome<T> {
        let mut wait = self.plan.poll_interval;
        loop {
            sleep(wait).await;
            let reply = self.post(endpoint, url, "").await?;
            let told = reply.retry_after().filter(|_| self.plan.obey);
            wait = told.unwrap_or((wait + wait / 2).min(Duration::from_secs(1)));
            let object: T = json_of(endpoint, &reply)?;
            match status(&object).as_str() {
                "valid" => return Ok(object),
                "pending" | "processing" | "ready" => {}
                other => return Err(failure(endpoint, other)),
            }
        }
    }

    /// A signed request. A nonce that the server does not take is replaced, as RFC 8555 §6.5 asks, three times.
    async fn post(&mut self, endpoint: Endpoint, url: &str, payload: &str) -> Outcome<Reply> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let nonce = self
                .nonce
                .take()
                .ok_or_else(|| failure(endpoint, "no nonce to sign with"))?;
            let body = self.key.sign(url, &nonce, self.account.as_deref(), payload);
            let body = body.map_err(|error| failure(endpoint, error))?;
            match self.send(endpoint, Method::POST, url, body).await {
                Err(Failure(what)) if what.ends_with(":badNonce") && attempts < 4 => {
                    self.samples.error(format!("{what} (tried again)"));
                }
                outcome => match self.turned_away.take() {
                    Some(wait) => {
                        self.samples.turned_away += 1;
                        attempts = 0;
                        sleep(wait).await;
                    }
                    None => return outcome,
                },
            }
        }
    }

    /// Any request, timed from before it is sent until its answer is read; a connection is opened first if there is
    /// none.
    async fn send(&mut self, endpoint: Endpoint, method: Method, url: &str, body: String) -> Outcome<Reply> {
        let begun = Instant::now();
        let kept = self.connection.take();
        let mut connection = match kept.filter(|kept| !kept.is_closed()) {
            Some(connection) => connection,
            None => {
                let start = Instant::now();
                let connection = self.plan.target.connect(self.from).await;
                let connection = connection.map_err(|error| failure(Endpoint::Connect, error))?;
                self.samples.record(Endpoint::Connect, start.elapsed());
                connection
            }
        };
        let start = Instant::now();
        let reply = connection.send(method, url, body).await;
        let reply = reply.map_err(|error| failure(endpoint, format_args!("{error:#}")))?;
        self.samples.record(endpoint, start.elapsed());
        self.samples.record(Endpoint::Any, begun.elapsed());
        if reply.header("connection").as_deref() != Some("close") {
            self.connection = Some(connection);
        }
        if let Some(nonce) = reply.header("replay-nonce") {
            self.nonce = Some(nonce);
        }
        if reply.status.is_success() {
            return Ok(reply);
        }
        let is_later =
            [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&reply.status);
        if self.plan.obey && is_later {
            self.turned_away = reply.retry_after();
            self.connection = None;
        }
        Err(match serde_json::from_slice::<Problem>(&reply.body) {
            Ok(problem) => failure(endpoint, problem.kind),
            Err(_) => failure(endpoint, reply.status),
        })
    }
}

fn json_of<T: DeserializeOwned>(endpoint: Endpoint, reply: &Reply) -> Outcome<T> {
    serde_json::from_slice(&reply.body).map_err(|error| failure(endpoint, error))
}
