//! The writer: accounts, orders of 1 to 100 names through their whole lives, jobs leased and settled, certificates with
//! their issuers, revocations, deletions; by several clients and workers at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acme_proxy::acme::account::{Account, Contact};
use acme_proxy::acme::authorization::AuthorizationStatus;
use acme_proxy::acme::certificate::{Der, IssuedChain, to_pem};
use acme_proxy::acme::challenge::{ChallengeState, ChallengeType};
use acme_proxy::acme::csr::Csr;
use acme_proxy::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::job::{Job, Lane, Work, WorkKind};
use acme_proxy::acme::order::{Accepted, Order, OrderStatus, Settled, ValidatedOrder, Verdict};
use acme_proxy::acme::problem::Problem;
use acme_proxy::acme::upstream::{UpstreamName, UpstreamOrder};
use acme_proxy::jose::jwk::{Curve, Jwk};
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{Lease, Next, Registration, Settings, Settlement, Store, StoreError, Versioned};
use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::journal::{Intent, Journal};

const CLIENTS: usize = 48;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The day on which everything happens. Half of the certificates expire so early that the sweep deletes their orders.
const TODAY: &str = "2026-01-01T00:00:00Z";

/// When the sweep thinks it is.
pub(crate) const SWEPT_AT: &str = "2026-06-01T00:00:00Z";

struct Life {
    store: Arc<SledStore>,
    journal: Journal,
    ca: Ca,
    now: Timestamp,
    swept_at: Timestamp,
    doomed: Mutex<Vec<OrderId>>,
}

/// Lives until it is killed.
pub(crate) fn write(settings: Settings) -> Result<std::process::ExitCode> {
    let life = Arc::new(Life {
        store: Arc::new(SledStore::open(settings)?),
        journal: Journal::new(),
        ca: Ca::new()?,
        now: TODAY.parse()?,
        swept_at: SWEPT_AT.parse()?,
        doomed: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            tasks.spawn(client(Arc::clone(&life)));
        }
        for kind in WorkKind::ALL {
            tasks.spawn(worker(Arc::clone(&life), kind));
        }
        tasks.spawn(sweeper(Arc::clone(&life)));
        match tasks.join_next().await {
            Some(ended) => ended?,
            None => bail!("nobody lives"),
        }
    })
}

async fn client(life: Arc<Life>) -> Result<std::process::ExitCode> {
    let mut dice = Dice::new();
    let mut counter = 0;
    loop {
        let account = life.new_account().await?;
        for _ in 0..6 {
            let names = match dice.roll(10) {
                0 => 100,
                1 | 2 => 10 + dice.roll(20),
                _ => 1 + dice.roll(3),
            };
            let order = life.new_order(account, names, dice.roll(2) == 0).await?;
            life.drive(order, &mut dice).await?;
        }
        counter += 1;
        life.save(&format!("counter-{account}"), counter).await?;
    }
}

impl Life {
    async fn new_account(&self) -> Result<AccountId> {
        let random = || OrderId::random().to_string();
        let key = Jwk::Ec {
            crv: Curve::P256,
            x: random(),
            y: random(),
        };
        let contact = |name: &str| name.parse::<Contact>().map_err(|problem| anyhow!("{problem}"));
        let account = Account::new(
            "acme".to_owned(),
            key,
            vec![contact("mailto:a@example.com")?],
            true,
            self.now,
        );
        let record = format!("account/{}", account.id());
        let intent = self.journal.intend(&record, 1, &account)?;
        match self.store.create_account(&account).await? {
            Registration::Created => self.journal.acknowledged(intent)?,
            Registration::Exists(_) | Registration::KeyUsed => bail!("{record} exists already"),
        }
        let changed = account
            .clone()
            .with_contact(vec![contact("mailto:b@example.com")?]);
        let intent = self.journal.intend(&record, 2, &changed)?;
        let written = self.store.update_account(Versioned::with(1, changed)).await;
        self.conclude(intent, written)?;
        Ok(account.id())
    }

    async fn new_order(&self, account: AccountId, names: u64, daemon: bool) -> Result<OrderId> {
        let id = OrderId::random();
        // Some names are as long as names can be: their orders are the largest records that there are.
        let long = if id.as_bytes() < &[0x40; 16] { 3 } else { 0 };
        let label = format!("{}.", "long".repeat(15)).repeat(long);
        let identifiers = (0..names).map(|n| Identifier::dns(&format!("host-{n}.{label}{id}.example.com")));
        let identifiers = identifiers.collect::<Result<Vec<_>, _>>()?;
        let (order, job) = if daemon {
            let csr = self.ca.request(&identifiers)?;
            let order = Order::for_daemon(id, identifiers, csr, self.now, DAY * 365);
            (
                order,
                Some(Job::now(
                    Work::Issue(id),
                    account,
                    UpstreamName::DEFAULT,
                    self.now,
                )),
            )
        } else {
            let offered = identifiers
                .into_iter()
                .map(|name| (name, ChallengeType::ALL.to_vec()));
            (
                Order::new(account, "acme".to_owned(), offered.collect(), self.now, DAY * 365),
                None,
            )
        };
        let intent = self.announce(1, &order)?;
        let written = self.store.create_order(&order, job).await;
        self.conclude(intent, written)?;
        Ok(order.id())
    }

    /// Does what a client does next, until the order has ended.
    async fn drive(&self, id: OrderId, dice: &mut Dice) -> Result<()> {
        for _ in 0..2000 {
            let Some(Versioned {
                value: order,
                version,
            }) = self.store.order(id).await?
            else {
                return Ok(());
            };
            match order.status(self.now) {
                OrderStatus::Pending => match self.unanswered(&order) {
                    Some(challenge) => match order.accept_challenge(challenge, self.now) {
                        Ok(Accepted::Started(order, work)) => self.commit(version, order, work).await?,
                        Ok(Accepted::Unchanged(_)) | Err(_) => bail!("{id}: the challenge is not pending"),
                    },
                    None => tokio::time::sleep(Duration::from_millis(2)).await,
                },
                OrderStatus::Ready => {
                    let names: Vec<Identifier> = order.identifiers().cloned().collect();
                    let csr = Csr::parse(self.ca.request(&names)?.as_bytes().to_vec());
                    let csr = csr.and_then(|csr| csr.matching(&order, None));
                    let finalized = csr.and_then(|csr| order.finalize(csr, self.now, DAY * 365));
                    let (order, work) = finalized.map_err(|problem| anyhow!("{problem}"))?;
                    self.commit(version, order, work).await?;
                }
                OrderStatus::Processing => tokio::time::sleep(Duration::from_millis(2)).await,
                OrderStatus::Valid if dice.roll(3) == 0 => match order.request_revocation(None, self.now) {
                    Ok((order, work)) => return self.commit(version, order, work).await,
                    Err(_) => return Ok(()),
                },
                OrderStatus::Valid | OrderStatus::Invalid => return Ok(()),
            }
        }
        Ok(())
    }

    fn unanswered(&self, order: &Order) -> Option<ChallengeId> {
        (0..)
            .zip(order.authorizations())
            .find_map(|(index, authorization)| {
                let pending = authorization.status(order.expires(), self.now) == AuthorizationStatus::Pending;
                let challenge = authorization.challenge(ChallengeType::Dns01)?;
                let untouched = matches!(challenge.state(), ChallengeState::Pending);
                (pending && untouched).then_some(ChallengeId {
                    authorization: AuthorizationId {
                        order: order.id(),
                        index,
                    },
                    kind: ChallengeType::Dns01,
                })
            })
    }

    async fn commit(&self, version: u64, order: Order, work: Work) -> Result<()> {
        let intent = self.announce(version + 1, &order)?;
        let job = Job::now(work, order.account(), UpstreamName::DEFAULT, self.now);
        let written = self
            .store
            .commit(Versioned::with(version, order), Some(job))
            .await;
        self.conclude(intent, written)
    }

    async fn save(&self, name: &str, value: u64) -> Result<()> {
        let content = vec![7_u8; usize::try_from(value * 900)?];
        let version = self.store.load(name).await?.map_or(0, |stored| stored.version);
        let intent = self
            .journal
            .intend(&format!("value/{name}"), version + 1, &content)?;
        let written = self.store.save(name, Versioned::with(version, content)).await;
        self.conclude(intent, written.map(|_| ()))
    }

    /// Says which order is about to be written, and whether the sweep may delete it from then on.
    fn announce(&self, version: u64, order: &Order) -> Result<Intent> {
        let record = format!("order/{}", order.id());
        if order.delete_after() <= self.swept_at {
            self.journal.may_go(&record)?;
            self.doomed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(order.id());
        }
        self.journal.intend(&record, version, order)
    }

    /// Says what came of a write that was announced.
    fn conclude(&self, intent: impl Into<Option<Intent>>, written: Result<(), StoreError>) -> Result<()> {
        match (intent.into(), written) {
            (Some(intent), Ok(())) => self.journal.acknowledged(intent),
            (Some(intent), Err(StoreError::Conflict | StoreError::LeaseLost)) => self.journal.refused(intent),
            (None, Ok(()) | Err(StoreError::Conflict | StoreError::LeaseLost)) => Ok(()),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

async fn worker(life: Arc<Life>, kind: WorkKind) -> Result<std::process::ExitCode> {
    loop {
        let leases = life
            .store
            .lease(Lane::of(kind, UpstreamName::DEFAULT), life.now, DAY, 64, 64, 64)
            .await?;
        if leases.is_empty() {
            life.store.job_added().await;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for lease in leases {
            let life = Arc::clone(&life);
            tasks.spawn(async move { life.work(lease).await });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
    }
}

impl Life {
    /// Works on a job until it is settled.
    async fn work(&self, lease: Lease) -> Result<()> {
        let mut dice = Dice::new();
        loop {
            let work = lease.job.work;
            let Some(Versioned {
                value: order,
                version,
            }) = self.store.order(work.order()).await?
            else {
                // Swept in the meantime, and the job with it.
                return Ok(());
            };
            let (next, order, issuers) = match work {
                Work::Validate(challenge) => self.validate(order, challenge, &mut dice),
                Work::Issue(_) => {
                    let opened = order
                        .validated(self.now)
                        .is_some_and(|order| order.upstream().is_some());
                    if !opened && dice.roll(20) > 0 {
                        self.open_upstream(&lease, version, order).await?;
                        continue;
                    }
                    if dice.roll(4) == 0 {
                        return self.put_off(lease, &mut dice).await;
                    }
                    self.issue(order, &mut dice)?
                }
                Work::Revoke(_) => {
                    let answer = match dice.roll(4) {
                        0 => Err(Problem::unauthorized("not today")),
                        _ => Ok(()),
                    };
                    (
                        Next::Done,
                        Some(order.settle_revocation(answer, self.now)),
                        Vec::new(),
                    )
                }
            };
            let intent = order
                .as_ref()
                .map(|order| self.announce(version + 1, order))
                .transpose()?;
            let settlement = Settlement {
                next,
                order: order.map(|order| Versioned::with(version, order)),
                issuers,
            };
            let settled = self.store.settle(lease.clone(), settlement).await;
            let conflict = settled == Err(StoreError::Conflict);
            self.conclude(intent, settled)?;
            if !conflict {
                return Ok(());
            }
        }
    }

    fn validate(&self, order: Order, id: ChallengeId, dice: &mut Dice) -> (Next, Option<Order>, Vec<Der>) {
        let Some(attempt) = order.attempt(id, self.now) else {
            return (Next::Done, None, Vec::new());
        };
        let verdict = match dice.roll(100) {
            0 => Verdict::Refused(Problem::unauthorized("not yours")),
            1..20 => Verdict::TryAgain(Problem::unauthorized("not there yet")),
            _ => Verdict::Proved,
        };
        match order.settle_validation(id, attempt, verdict, 9, self.now) {
            Settled::Finished(order) => (Next::Done, Some(order), Vec::new()),
            Settled::Repeat(order) => {
                let again = Next::Again {
                    due: self.now,
                    faults: 0,
                };
                (again, Some(order), Vec::new())
            }
            Settled::Stale => (Next::Done, None, Vec::new()),
        }
    }

    async fn open_upstream(&self, lease: &Lease, version: u64, order: Order) -> Result<()> {
        let order = order.opened_upstream(UpstreamOrder::new(
            format!("https://ca.example.com/order/{}", OrderId::random()),
            "https://ca.example.com/account/1",
        ));
        let intent = self.announce(version + 1, &order)?;
        let written = self
            .store
            .checkpoint(lease, Versioned::with(version, order))
            .await;
        self.conclude(intent, written.map(|_| ()))
    }

    /// Gives the job back, with or without a fault.
    async fn put_off(&self, lease: Lease, dice: &mut Dice) -> Result<()> {
        let fault = u32::from(dice.roll(2) == 0);
        let faults = lease.job.faults + fault;
        let intent = match fault {
            0 => None,
            _ => {
                let record = format!("faults/{}", lease.job.work.order());
                Some(self.journal.intend(&record, u64::from(faults), &())?)
            }
        };
        let settlement = Settlement {
            next: Next::Again {
                due: self.now,
                faults,
            },
            order: None,
            issuers: Vec::new(),
        };
        let settled = self.store.settle(lease, settlement).await;
        self.conclude(intent, settled)
    }

    fn issue(&self, order: Order, dice: &mut Dice) -> Result<(Next, Option<Order>, Vec<Der>)> {
        let refused = |order: Order| {
            let failed = order.failed(Problem::unauthorized("the CA refuses"), self.now);
            (Next::Done, Some(failed), Vec::new())
        };
        let validated = order
            .validated(self.now)
            .context("an order in processing is validated")?;
        if dice.roll(20) == 0 {
            return Ok(refused(order));
        }
        let pem = self.ca.sign(&validated, dice)?;
        Ok(match IssuedChain::verify(&pem, validated.ordered(), self.now) {
            Ok(chain) => (
                Next::Done,
                Some(order.issued(chain.certificate, self.now)),
                chain.issuers,
            ),
            // An order of an earlier process: the key of its CSR is gone.
            Err(_) => refused(order),
        })
    }
}

async fn sweeper(life: Arc<Life>) -> Result<std::process::ExitCode> {
    loop {
        tokio::time::sleep(Duration::from_millis(30)).await;
        life.store.sweep(life.swept_at, 20).await?;
        let doomed = std::mem::take(&mut *life.doomed.lock().unwrap_or_else(PoisonError::into_inner));
        for id in doomed {
            match life.store.order(id).await? {
                Some(_) => life
                    .doomed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(id),
                None => life.journal.gone(&format!("order/{id}"))?,
            }
        }
    }
}

/// A CA with an intermediate, and one key for all the certificates that it is asked for.
struct Ca {
    intermediate: Issuer<'static, KeyPair>,
    chain: Vec<Der>,
    subject: KeyPair,
}

impl Ca {
    fn new() -> Result<Self> {
        let authority = |name: &str, padding: usize| -> Result<CertificateParams> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.custom_extensions.push(padded(padding));
            Ok(params)
        };
        let (root_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let root = authority("Root", 100)?;
        let root_certificate = root.self_signed(&root_key)?;
        let root = Issuer::new(root, root_key);
        let params = authority("Intermediate", 3000)?;
        let certificate = params.signed_by(&key, &root)?;
        Ok(Self {
            intermediate: Issuer::new(params, key),
            chain: vec![
                Der::new(certificate.der().to_vec()),
                Der::new(root_certificate.der().to_vec()),
            ],
            subject: KeyPair::generate()?,
        })
    }

    fn params(names: &[Identifier]) -> Result<CertificateParams> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params)
    }

    fn request(&self, names: &[Identifier]) -> Result<Der> {
        let csr = Self::params(names)?.serialize_request(&self.subject)?;
        Ok(Der::new(csr.der().to_vec()))
    }

    fn sign(&self, order: &ValidatedOrder, dice: &mut Dice) -> Result<String> {
        let mut params = Self::params(order.identifiers())?;
        params.not_after = date_time_ymd(if dice.roll(2) == 0 { 2026 } else { 2027 }, 2, 1);
        params
            .custom_extensions
            .push(padded(if dice.roll(3) == 0 { 4000 } else { 200 }));
        let leaf = params.signed_by(&self.subject, &self.intermediate)?;
        let leaf = Der::new(leaf.der().to_vec());
        Ok(to_pem(std::iter::once(&leaf).chain(&self.chain)))
    }
}

fn padded(bytes: usize) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4; bytes])
}

/// Numbers that are random enough to vary a life.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = OrderId::random();
        let (half, _) = seed.as_bytes().split_at(8);
        Self(half.iter().fold(1, |seed, byte| (seed << 8) | u64::from(*byte)))
    }

    /// 0 to `sides` - 1. Splitmix64.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}
