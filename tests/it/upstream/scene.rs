//! The daemon in this process, before a CA that the test scripts, with a clock that the test moves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::secret::Secret;
use acme_proxy::clock::Clock;
use acme_proxy::upstream::Eab;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use rcgen::PublicKeyData as _;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::advance;
use tokio::time::pause;
use tokio::time::resume;
use tokio::time::sleep;

use crate::harness::answer::Answer;
use crate::harness::ca;
use crate::harness::ca::Options;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::ca::state::OrderStats;
use crate::harness::check;
use crate::harness::client::Client;
use crate::harness::client::Order;
use crate::harness::client::PATIENCE;
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::key::unb64;
use crate::harness::metrics;
use crate::harness::process::free_address;
use crate::harness::server::Daemon;
use crate::harness::server::Plan;
use crate::upstream::MemoryVault;
use crate::upstream::now;

/// How long the worker gets to do what has become due: longer than it lets pass between two looks at the queue.
const LOOK: Duration = Duration::from_millis(350);

pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    clock: Clock,
    metrics: SocketAddr,
}

/// A finalized order, and the key that its certificate is for.
pub(crate) struct Finalized {
    pub(crate) order: Order,
    pub(crate) key: Key,
    /// What finalize was answered with.
    pub(crate) answer: Answer,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With another CA.
    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::configured(change, json!({})).await
    }

    /// With another CA, and with more in `ca.json`.
    pub(crate) async fn configured(change: impl FnOnce(&mut Options), more: Value) -> Self {
        let mut ca = Options::default();
        change(&mut ca);
        let (clock, metrics) = (Clock::by_hand(now()), free_address());
        let mut more = more;
        more["metricsAddress"] = metrics.to_string().into();
        let plan = Plan {
            clock: clock.clone(),
            ca,
            more: Some(more),
            ..Plan::default()
        };
        let daemon = Daemon::start_with(plan).await;
        let client = daemon.account().await;
        Self {
            daemon,
            client,
            clock,
            metrics,
        }
    }

    /// The same after a restart of the daemon, with another `ca.json`.
    pub(crate) async fn restarted_with(self, change: impl FnOnce(&mut Value)) -> Self {
        Self {
            daemon: self.daemon.restart_with(change).await,
            client: self.client.clone(),
            ..self
        }
    }

    /// The same after a restart, with something done to the daemon's directory in between.
    pub(crate) async fn restarted_after(self, meanwhile: impl FnOnce(&Path)) -> Self {
        Self {
            daemon: self.daemon.restart_after(meanwhile).await,
            client: self.client.clone(),
            ..self
        }
    }

    /// From now on, this goes wrong at the CA at this step so often.
    pub(crate) fn will(&self, at: Step, times: Times, what: Twist) {
        self.daemon.ca.will(at, times, what);
    }

    /// How often the CA was asked for this.
    pub(crate) fn asked(&self, step: Step) -> usize {
        self.daemon.ca.asked(step)
    }

    /// How often the CA was asked for anything.
    pub(crate) fn asked_in_all(&self) -> usize {
        self.daemon.ca.stats().asked.values().sum()
    }

    /// The orders that were opened at the CA for these names.
    pub(crate) fn orders_at_ca(&self, names: &[&str]) -> Vec<OrderStats> {
        let orders = self.daemon.ca.stats().orders;
        orders
            .into_iter()
            .filter(|order| order.identifiers == names)
            .collect()
    }

    /// That one order was opened at the CA for these names, one CSR sent, and one certificate issued.
    #[track_caller]
    pub(crate) fn bought_once(&self, names: &[&str]) {
        let orders = self.orders_at_ca(names);
        let figures: Vec<_> = orders
            .iter()
            .map(|order| (order.finalizes, order.issued))
            .collect();
        assert_eq!(figures, [(1, 1)], "{names:?}");
    }

    /// An order of these names, with the CSR handed in.
    pub(crate) async fn finalized(&self, names: &[&str]) -> Finalized {
        let order = self.client.ready(&self.daemon, names).await;
        let key = Key::new();
        let answer = self.client.finalize(&order, &csr::plain(&key, names)).await;
        let answer = answer.expect(200);
        Finalized { order, key, answer }
    }

    /// The order as the client sees it.
    pub(crate) async fn look(&self, of: &Finalized) -> Value {
        self.client.look(&of.order.url).await
    }

    /// Time passes, and everything is done that has become due.
    pub(crate) async fn pass(&self, span: Duration) {
        self.clock.advance(span);
        sleep(LOOK).await;
        // The one that is kept may have become too old.
        drop(self.client.nonce().await);
    }

    /// Time passes until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "waited for long until {what}");
            self.clock.advance(Duration::from_secs(2));
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until something holds; the clock stands.
    pub(crate) async fn soon(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "waited for long until {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Time passes until the order is valid or invalid.
    pub(crate) async fn end(&self, of: &Finalized) -> Value {
        let mut last = Value::Null;
        self.until("the order ends", async || {
            last = self.look(of).await;
            last["status"] != "processing"
        })
        .await;
        last
    }

    /// Time passes until the order is valid; its chain, whose leaf is for the client's key.
    pub(crate) async fn issued(&self, of: &Finalized, names: &[&str]) -> String {
        let order = self.end(of).await;
        assert_eq!(order["status"], "valid", "{order}");
        let chain = self.chain(&order).await;
        assert_is_for(&chain, &of.key, names, &self.daemon.ca.root_pem);
        chain
    }

    /// The chain of a valid order.
    pub(crate) async fn chain(&self, order: &Value) -> String {
        self.client.chain(order).await
    }

    /// Time passes until the order is invalid; its error's type and detail.
    pub(crate) async fn failed(&self, of: &Finalized) -> (String, String) {
        let order = self.end(of).await;
        assert_eq!(order["status"], "invalid", "{order}");
        assert!(order.get("certificate").is_none(), "{order}");
        let text = |member: &str| order["error"][member].as_str().unwrap().to_owned();
        let kind = text("type");
        (kind.rsplit(':').next().unwrap().to_owned(), text("detail"))
    }

    /// What the health page says about the account at the CA; nothing if all is well.
    pub(crate) async fn account_trouble(&self) -> String {
        self.missing("upstream account").await
    }

    /// What the health page says about something that is missing; nothing if it is not.
    pub(crate) async fn missing(&self, part: &str) -> String {
        let health = self.daemon.site.get("/health").await.expect(200).json();
        let trouble = health["missing"][part].as_str();
        trouble.unwrap_or_default().to_owned()
    }

    /// Waits until there is an account at the CA.
    pub(crate) async fn ready(&self) {
        self.soon("there is an account", async || {
            self.account_trouble().await.is_empty()
        })
        .await;
    }

    /// A line of the metrics, by name and labels; 0 if there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        metrics::figure(self.metrics, series).await.unwrap_or_default()
    }
}

/// So much time passes for all who sleep in this process, the daemon among them: what they wait for is due at once. The
/// daemon's clock stands.
pub(crate) async fn sleeps_end(span: Duration) {
    pause();
    advance(span).await;
    resume();
}

/// That the chain leads from these names and this key to the CA's root.
#[track_caller]
pub(crate) fn assert_is_for(chain: &str, key: &Key, names: &[&str], root: &str) {
    if let Err(error) = check::check(chain, &key.pair.subject_public_key_info(), names, root) {
        panic!("{error:#}");
    }
}

/// The side of the daemon that speaks to the CA, alone.
pub(crate) fn issuer(ca: &ca::Running, directory: &Path) -> Ca {
    let roots = directory.join("roots.pem");
    std::fs::write(&roots, &ca.root_pem).unwrap();
    let eab = Eab {
        kid: Secret::new(ca.eab.kid.clone()),
        hmac_key: Secret::new(unb64(&ca.eab.hmac_key)),
    };
    let settings = Settings {
        section: "authority.config".to_owned(),
        directory: ca.directory_url.clone(),
        roots: Some(roots),
        email: None,
        eab: Some(eab),
        dns01: None,
        lifetime: None,
        profile: None,
    };
    Ca::new(settings, Arc::new(MemoryVault::default())).unwrap()
}
