//! Where the races are run: the real registration authority and two real workers over one real store that is shaken,
//! a clock moved by hand, a CA that keeps account.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use acme_proxy::acme::account::Account;
use acme_proxy::acme::challenge::ChallengeType;
use acme_proxy::acme::id::{AccountId, AccountName, AuthorizationId, ChallengeId, OrderId};
use acme_proxy::acme::order::{Order, OrderStatus};
use acme_proxy::acme::problem::{NamedIdentifier, Problem};
use acme_proxy::acme::upstream::UpstreamName;
use acme_proxy::clock::Clock;
use acme_proxy::jose::jwk::{Curve, Jwk};
use acme_proxy::metrics::Metrics;
use acme_proxy::policy::blocked_keys::BlockedKeys;
use acme_proxy::policy::limits::Limits;
use acme_proxy::policy::routes::Routes;
use acme_proxy::policy::rules::Rules;
use acme_proxy::policy::{self, ExternalAccounts, Policy, Provisioner};
use acme_proxy::ra::account::NewAccount;
use acme_proxy::ra::order::NewOrder;
use acme_proxy::ra::{Refusal, RegistrationAuthority};
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{self, Store as _};
use acme_proxy::tls::CertificateSlot;
use acme_proxy::validate::{self, Validator};
use acme_proxy::worker::upstream::Upstream;
use acme_proxy::worker::{self, Worker};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::web::Web;
use crate::races::dice::Dice;
use crate::races::issuer::SlowCa;
use crate::races::journal::{Entry, Journal, check};
use crate::races::shaken::{Shaken, Side};

/// The one provisioner.
pub(crate) const PROVISIONER: &str = "acme";

/// How long an order may be open, and how long at the CA.
pub(crate) const ORDER_LIFETIME: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// How many workers run on the store.
const WORKERS: usize = 2;

/// How many names there are to order, and how many CSRs for the first of them.
const NAMES: usize = 100;
const KEYS: usize = 4;

/// How long everything may take to come to rest, in milliseconds.
const REST: u32 = 60_000;

/// One of those who race.
pub(crate) type Contender<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What came of a contender's try.
pub(crate) type Tried<T> = Result<T, Problem>;

pub(crate) struct Arena {
    pub(crate) ra: Arc<RegistrationAuthority>,
    /// Another replica's, whose clock stands still.
    pub(crate) behind: RegistrationAuthority,
    pub(crate) store: Arc<SledStore>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) web: Web,
    pub(crate) clock: Clock,
    pub(crate) ca: Arc<SlowCa>,
    pub(crate) lossy: Arc<AtomicBool>,
    names: Vec<String>,
    csrs: Vec<Vec<u8>>,
    _place: TempDir,
    _stop: watch::Sender<bool>,
}

impl Arena {
    pub(crate) async fn new(dns: SocketAddr) -> Self {
        let place = match Path::new("/dev/shm").is_dir() {
            true => TempDir::new_in("/dev/shm").unwrap(),
            false => TempDir::new().unwrap(),
        };
        let store = SledStore::open(store::Settings {
            path: place.path().join("db"),
            reserve_bytes: 0,
            cache_bytes: 4 << 20,
            gather: Duration::ZERO,
        });
        let store = Arc::new(store.unwrap());
        let (dice, journal) = (Arc::new(Dice::new(0)), Arc::new(Journal::default()));
        let clock = Clock::by_hand(Clock::system().now());
        let ca = Arc::new(SlowCa::new(&dice, &journal));
        let lossy = Arc::new(AtomicBool::new(false));
        let shaken = |side| {
            Arc::new(Shaken {
                side,
                store: store.clone(),
                dice: dice.clone(),
                journal: journal.clone(),
                clock: clock.clone(),
                lossy: lossy.clone(),
            })
        };
        let web = Web::start().await;
        let (stop, stopped) = watch::channel(false);
        for _ in 0..WORKERS {
            let upstream = Upstream {
                name: UpstreamName::DEFAULT,
                ca_url: String::new(),
                issuer: ca.clone(),
                failover: None,
            };
            let worker = Worker::new(
                shaken(Side::Back),
                vec![upstream],
                validator(dns, &web),
                clock.clone(),
                Arc::new(Metrics::new().unwrap()),
                Arc::new(CertificateSlot::with_stand_in().unwrap()),
                worker_settings(),
            );
            tokio::spawn(worker.run(stopped.clone()));
        }
        let names: Vec<String> = (0..NAMES).map(|n| format!("n{n}.example.com")).collect();
        let csr = |_| csr::plain(&Key::new(), &[&names[0]]);
        Self {
            ra: Arc::new(RegistrationAuthority::new(
                shaken(Side::Front),
                policy(),
                clock.clone(),
            )),
            behind: RegistrationAuthority::new(shaken(Side::Front), policy(), Clock::by_hand(clock.now())),
            csrs: (0..KEYS).map(csr).collect(),
            names,
            store,
            dice,
            journal,
            web,
            clock,
            ca,
            lossy,
            _place: place,
            _stop: stop,
        }
    }

    /// A new account, with a key that nobody else has.
    pub(crate) async fn account(&self) -> Account {
        let made = self.ra.register(PROVISIONER, self.key(), NewAccount::default());
        made.await.unwrap().0
    }

    /// A public key. Nothing is ever signed with it.
    pub(crate) fn key(&self) -> Jwk {
        let coordinate = || format!("{:016x}", self.dice.next());
        Jwk::Ec {
            crv: Curve::P256,
            x: coordinate(),
            y: coordinate(),
        }
    }

    /// A request for an order for the first so many names.
    pub(crate) fn request(&self, names: usize) -> NewOrder {
        let named = |name: &String| NamedIdentifier {
            kind: "dns".to_owned(),
            value: name.clone(),
        };
        NewOrder {
            identifiers: self.names.iter().take(names).map(named).collect(),
            ..NewOrder::default()
        }
    }

    /// A pending order for the first so many names.
    pub(crate) async fn order(&self, account: &Account, names: usize) -> Order {
        let request = self.request(names);
        self.ra.new_order(account, request).await.unwrap()
    }

    /// An order that waits for its CSR.
    pub(crate) async fn ready(&self, account: &Account) -> Order {
        let order = self.order(account, 1).await;
        self.publish(account, &order);
        let id = challenge(&order, 0);
        self.ra.accept_challenge(account, id).await.unwrap();
        self.rest().await;
        self.stored(order.id()).await
    }

    /// An order whose certificate is here.
    pub(crate) async fn issued(&self, account: &Account) -> Order {
        let order = self.ready(account).await;
        self.ra
            .finalize(account, order.id(), self.csr(0), None)
            .await
            .unwrap();
        self.rest().await;
        self.stored(order.id()).await
    }

    /// From now on, every challenge of the order is met.
    pub(crate) fn publish(&self, account: &Account, order: &Order) {
        let thumbprint = account.key().thumbprint();
        for authorization in order.authorizations() {
            let token = authorization.token();
            self.web
                .publish(token.as_str(), &token.key_authorization(&thumbprint));
        }
    }

    /// One of the CSRs for the first name, each with a key of its own.
    pub(crate) fn csr(&self, which: usize) -> Vec<u8> {
        self.csrs[which % KEYS].clone()
    }

    /// What is stored of the order.
    pub(crate) async fn stored(&self, id: OrderId) -> Order {
        self.store.order(id).await.unwrap().unwrap().value
    }

    /// What the order's status is now.
    pub(crate) async fn status(&self, id: OrderId) -> OrderStatus {
        self.stored(id).await.status(self.clock.now())
    }

    /// Lets them all run at the same time, each in a task of its own, and gives what came of each.
    pub(crate) async fn race<T: Send + 'static>(&self, contenders: Vec<Contender<T>>) -> Vec<T> {
        let start = |contender: Contender<T>| {
            let dice = self.dice.clone();
            tokio::spawn(async move {
                dice.linger().await;
                contender.await
            })
        };
        let running: Vec<_> = contenders.into_iter().map(start).collect();
        let mut results = Vec::new();
        for contender in running {
            results.push(contender.await.unwrap());
        }
        results
    }

    /// Waits until no work is left. Work that has been put off gets its time.
    pub(crate) async fn rest(&self) {
        for waited in 1..=REST {
            let census = self.store.census().await.unwrap();
            if census.lanes.is_empty() && self.journal.is_complete() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            if waited % 100 == 0 {
                self.clock.advance(Duration::from_secs(1));
            }
        }
        panic!("I7: work is left that nobody does");
    }

    /// Lets everything come to rest, checks what is always true, and gives how many conflicts there were.
    pub(crate) async fn settle(&self) -> usize {
        self.rest().await;
        let entries = self.journal.take();
        check(&entries);
        let now = self.clock.now();
        for entry in &entries {
            if let Entry::Wrote { order, .. } = entry
                && let Some(stored) = self.store.order(order.id()).await.unwrap()
            {
                let status = stored.value.status(now);
                assert_ne!(status, OrderStatus::Processing, "I7: nobody works on it");
            }
        }
        let conflict = |entry: &&Entry| matches!(entry, Entry::Conflict);
        entries.iter().filter(conflict).count()
    }
}

/// Whoever is refused is told why. A conflict is nobody's fault, and never an answer.
pub(crate) fn tried<T>(result: Result<T, Refusal>) -> Tried<T> {
    result.map_err(|refusal| match refusal {
        Refusal::Problem(problem) => problem,
        Refusal::Later { problem, cause, .. } => panic!("{cause}: {problem}"),
    })
}

/// What the server does before anything else: the account that signs, if it may.
pub(crate) async fn signer(ra: &RegistrationAuthority, id: AccountId) -> Tried<Account> {
    tried(ra.signing_account(PROVISIONER, &AccountName::Ours(id)).await)
}

/// The order's http-01 challenge for this name.
pub(crate) fn challenge(order: &Order, index: u16) -> ChallengeId {
    ChallengeId {
        authorization: AuthorizationId {
            order: order.id(),
            index,
        },
        kind: ChallengeType::Http01,
    }
}

fn validator(dns: SocketAddr, web: &Web) -> Validator {
    let settings = validate::Settings {
        resolvers: vec![dns],
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        http_port: web.address.port(),
        ..validate::Settings::default()
    };
    assert_eq!(web.address.ip(), Ipv4Addr::LOCALHOST);
    Validator::new(settings).unwrap()
}

fn worker_settings() -> worker::Settings {
    worker::Settings {
        own_certificate_names: None,
        own_certificate_upstream: UpstreamName::DEFAULT,
        validations: 64,
        issuances: 8,
        validation_attempts: 3,
        issuance_deadline: DEADLINE,
    }
}

fn policy() -> Policy {
    Policy::new(policy::Settings {
        provisioners: vec![Provisioner {
            name: PROVISIONER.to_owned(),
            challenges: vec![ChallengeType::Http01],
            terms_of_service: None,
            website: None,
            caa_identities: Vec::new(),
            rules: Rules::default(),
            upstream: None,
            external_accounts: ExternalAccounts::default(),
        }],
        rules: Rules::default(),
        routes: Routes::default(),
        issuance_deadline: DEADLINE,
        order_lifetime: ORDER_LIFETIME,
        limits: Limits::default(),
        wishes: std::collections::BTreeMap::new(),
        blocked_keys: BlockedKeys::default(),
    })
}
