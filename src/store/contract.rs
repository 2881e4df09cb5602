//! The contract of [`Store`] as tests, run against each backend: `contract!(Backend)` in the backend's own tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};
use tokio::task::JoinSet;

use crate::acme::account::Account;
use crate::acme::certificate::{Der, IssuedChain, to_pem};
use crate::acme::challenge::ChallengeType;
use crate::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Work, WorkKind};
use crate::acme::order::{Accepted, Order, Settled, Verdict};
use crate::acme::problem::Problem;
use crate::jose::jwk::{Curve, Jwk};
use crate::store::{Lease, Next, Registration, Settlement, Store, StoreError, Versioned};

/// A place where a backend keeps a store.
#[async_trait]
pub(crate) trait Backend {
    /// A new, empty place.
    fn new() -> Self;

    /// Opens the store. The one that was opened before has been dropped.
    async fn open(&self) -> Arc<dyn Store>;

    /// How many keys or rows the closed store has.
    async fn size(&self) -> usize;

    /// Adds a due job of a kind that nobody knows to the closed store.
    async fn plant_unknown_job(&self, order: OrderId);
}

/// Makes a test of each function of this module.
macro_rules! contract {
    ($backend:ty) => {
        $crate::store::contract::contract! { $backend:
            a_key_has_one_account_however_many_register_it
            an_account_is_replaced_by_compare_and_swap
            of_many_commits_on_one_version_one_wins
            an_order_and_its_job_are_one_write
            an_acknowledged_write_is_visible_to_every_reader
            a_job_is_leased_by_one_holder_the_longest_due_first
            a_lease_runs_out_unless_it_is_renewed
            a_lost_lease_settles_nothing
            a_refused_settlement_writes_nothing_and_keeps_the_lease
            a_job_goes_back_into_the_queue_with_its_faults
            enqueuing_twice_is_enqueuing_once
            f24_a_crash_voids_leases_but_loses_no_job
            a_waiting_worker_is_woken
            the_line_is_ordered_by_finalization
            orders_are_listed_by_account
            a_large_order_reads_back_whole
            issuers_are_stored_once
            small_values_are_replaced_by_compare_and_swap
            the_sweep_leaves_nothing_behind
            the_sweep_spares_what_has_changed
            jobs_of_unknown_kinds_are_left_alone
            f24_everything_is_there_after_reopening
        }
    };
    ($backend:ty: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let backend = <$backend as $crate::store::contract::Backend>::new();
                $crate::store::contract::$name(&backend).await;
            }
        )*
    };
}
pub(crate) use contract;

const LIFETIME: Duration = Duration::from_secs(24 * 3600);

fn at(seconds: u64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds)
}

/// The first moment at which nothing is of use any more.
fn far() -> Timestamp {
    at(400 * 24 * 3600)
}

/// An account with a key of its own.
pub(crate) fn account() -> Account {
    let key = Jwk::Ec {
        crv: Curve::P256,
        x: OrderId::random().to_string(),
        y: OrderId::random().to_string(),
    };
    Account::new("acme".to_owned(), key, Vec::new(), true, at(0))
}

fn names(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::dns(name).unwrap()).collect()
}

/// A pending order for one name.
pub(crate) fn order(owner: AccountId) -> Order {
    let offered = (names(&["www.example.com"]).remove(0), vec![ChallengeType::Http01]);
    Order::new(owner, "acme".to_owned(), vec![offered], at(0), LIFETIME)
}

fn finalized(identifiers: Vec<Identifier>, now: Timestamp) -> Order {
    Order::for_daemon(
        OrderId::random(),
        identifiers,
        Der::new(vec![7; 8192]),
        now,
        LIFETIME,
    )
}

/// The order with a challenge that is being validated, and the work.
pub(crate) fn answered(order: Order) -> (Order, Work) {
    let id = ChallengeId {
        authorization: AuthorizationId {
            order: order.id(),
            index: 0,
        },
        kind: ChallengeType::Http01,
    };
    match order.accept_challenge(id, at(1)) {
        Ok(Accepted::Started(order, work)) => (order, work),
        other => panic!("{other:?}"),
    }
}

/// An order whose certificate is here, with the issuers' certificates.
fn issued(host: &str) -> (Order, Vec<Der>) {
    let authority = |name: &str, size: usize| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4; size]);
        params.custom_extensions.push(padding);
        params
    };
    let (root, intermediate, key) = (
        KeyPair::generate().unwrap(),
        KeyPair::generate().unwrap(),
        KeyPair::generate().unwrap(),
    );
    let root_params = authority("Root", 6000);
    let root_certificate = root_params.self_signed(&root).unwrap();
    let intermediate_params = authority("Intermediate", 100);
    let intermediate_certificate = intermediate_params
        .signed_by(&intermediate, &Issuer::new(root_params, root))
        .unwrap();
    let mut leaf_params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    leaf_params.not_after = rcgen::date_time_ymd(2026, 4, 1);
    let csr = leaf_params.serialize_request(&key).unwrap();
    let leaf = leaf_params
        .signed_by(&key, &Issuer::new(intermediate_params, intermediate))
        .unwrap();
    let chain = [leaf.der(), intermediate_certificate.der(), root_certificate.der()];
    let chain = chain.map(|der| Der::new(der.to_vec()));
    let csr = Der::new(csr.der().to_vec());
    let order = Order::for_daemon(OrderId::random(), names(&[host]), csr, at(0), LIFETIME);
    let chain = IssuedChain::verify(&to_pem(&chain), &order.validated(at(1)).unwrap(), at(1)).unwrap();
    (order.issued(chain.certificate, at(1)), chain.issuers)
}

async fn create(store: &Arc<dyn Store>, order: &Order, work: Option<Work>) {
    let job = work.map(|work| Job::now(work, at(1)));
    store.create_order(order, job).await.unwrap();
}

async fn lease(store: &Arc<dyn Store>, kind: WorkKind, now: u64) -> Vec<Lease> {
    store.lease(kind, at(now), at(now + 100), 1000).await.unwrap()
}

fn done(order: Option<Versioned<Order>>) -> Settlement {
    Settlement {
        next: Next::Done,
        order,
        issuers: Vec::new(),
    }
}

fn again(due: u64, faults: u32) -> Settlement {
    let next = Next::Again { due: at(due), faults };
    Settlement { next, ..done(None) }
}

async fn all<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    tasks.into_iter().collect::<JoinSet<T>>().join_all().await
}

pub(crate) async fn a_key_has_one_account_however_many_register_it(backend: &impl Backend) {
    let store = backend.open().await;
    let first = account();
    let attempts = (0..100).map(|_| {
        let store = Arc::clone(&store);
        // The same key, but each time with an id of its own.
        let account = Account::new("acme".to_owned(), first.key().clone(), Vec::new(), true, at(0));
        async move { (account.id(), store.create_account(&account).await.unwrap()) }
    });
    let (mut created, mut existing) = (Vec::new(), BTreeSet::new());
    for (id, registration) in all(attempts).await {
        match registration {
            Registration::Created => created.push(id),
            Registration::Exists(account) => drop(existing.insert(account.value.id())),
        }
    }
    assert_eq!(created.len(), 1);
    assert_eq!(existing, created.iter().copied().collect());
    // Another provisioner's accounts are others.
    let elsewhere = Account::new("other".to_owned(), first.key().clone(), Vec::new(), true, at(0));
    assert!(matches!(
        store.create_account(&elsewhere).await,
        Ok(Registration::Created)
    ));
    let thumbprint = first.key().thumbprint();
    let found = store.account_by_key("other", &thumbprint).await.unwrap().unwrap();
    assert_eq!(found.value, elsewhere);
    assert_eq!(store.account_by_key("third", &thumbprint).await, Ok(None));
}

pub(crate) async fn an_account_is_replaced_by_compare_and_swap(backend: &impl Backend) {
    let store = backend.open().await;
    let account = account();
    store.create_account(&account).await.unwrap();
    let read = store.account(account.id()).await.unwrap().unwrap();
    assert_eq!(read.value, account);
    let changed = Versioned::with(read.version, account.clone().deactivated(at(5)));
    assert_eq!(store.update_account(changed.clone()).await, Ok(()));
    assert_eq!(
        store.update_account(changed.clone()).await,
        Err(StoreError::Conflict)
    );
    let read = store
        .account_by_key("acme", &account.key().thumbprint())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.value, changed.value);
    assert_eq!(store.account(AccountId::random()).await, Ok(None));
}

pub(crate) async fn of_many_commits_on_one_version_one_wins(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, work) = answered(order(AccountId::random()));
    create(&store, &order, None).await;
    for _ in 0..5 {
        let version = store.order(order.id()).await.unwrap().unwrap().version;
        let commits = (0..50).map(|_| {
            let (store, order) = (Arc::clone(&store), Versioned::with(version, order.clone()));
            async move { store.commit(order, Some(Job::now(work, at(1)))).await }
        });
        let outcomes = all(commits).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let lost = outcomes
            .iter()
            .filter(|outcome| **outcome == Err(StoreError::Conflict));
        assert_eq!(lost.count(), 49);
    }
    assert_eq!(store.create_order(&order, None).await, Err(StoreError::Conflict));
    let missing = self::order(AccountId::random());
    assert_eq!(
        store.commit(Versioned::with(1, missing), None).await,
        Err(StoreError::Conflict)
    );
}

pub(crate) async fn an_order_and_its_job_are_one_write(backend: &impl Backend) {
    let store = backend.open().await;
    let pending = order(AccountId::random());
    create(&store, &pending, None).await;
    let (answered, work) = answered(pending);
    let job = Some(Job::now(work, at(1)));
    let stale = Versioned::with(7, answered.clone());
    assert_eq!(store.commit(stale, job).await, Err(StoreError::Conflict));
    assert!(lease(&store, WorkKind::Validate, 1).await.is_empty());
    assert_eq!(
        store.create_order(&answered, job).await,
        Err(StoreError::Conflict)
    );
    assert!(lease(&store, WorkKind::Validate, 1).await.is_empty());
    let read = store.order(answered.id()).await.unwrap().unwrap();
    assert_eq!(
        store
            .commit(Versioned::with(read.version, answered.clone()), job)
            .await,
        Ok(())
    );
    assert_eq!(lease(&store, WorkKind::Validate, 1).await.len(), 1);
    assert_eq!(store.order(answered.id()).await.unwrap().unwrap().value, answered);
}

pub(crate) async fn an_acknowledged_write_is_visible_to_every_reader(backend: &impl Backend) {
    let store = backend.open().await;
    let writers = (0..32).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let owner = AccountId::random();
            for count in 1..=5 {
                let order = finalized(names(&["a.example.com"]), at(0));
                create(&store, &order, Some(Work::Issue(order.id()))).await;
                let read = store.order(order.id()).await.unwrap().unwrap();
                assert_eq!(read.value, order);
                let order = self::order(owner);
                create(&store, &order, None).await;
                assert_eq!(store.orders_of(owner, None, 99).await.unwrap().len(), count);
            }
        }
    });
    all(writers).await;
}

pub(crate) async fn a_job_is_leased_by_one_holder_the_longest_due_first(backend: &impl Backend) {
    let store = backend.open().await;
    let mut longest_due = Vec::new();
    for due in (0..60).rev() {
        let order = finalized(names(&["a.example.com"]), at(0));
        let job = Job {
            due: at(due),
            ..Job::now(Work::Issue(order.id()), at(0))
        };
        store.create_order(&order, Some(job)).await.unwrap();
        longest_due.insert(0, job);
    }
    assert!(lease(&store, WorkKind::Revoke, 99).await.is_empty());
    let first = store.lease(WorkKind::Issue, at(4), at(200), 3).await.unwrap();
    assert_eq!(
        first.iter().map(|lease| lease.job).collect::<Vec<_>>(),
        longest_due[..3]
    );
    let others = (0..16).map(|_| {
        let store = Arc::clone(&store);
        async move { store.lease(WorkKind::Issue, at(49), at(200), 5).await.unwrap() }
    });
    let others: Vec<Lease> = all(others).await.into_iter().flatten().collect();
    let works: BTreeSet<Work> = others.iter().map(|lease| lease.job.work).collect();
    assert_eq!((others.len(), works.len()), (47, 47));
    assert_eq!(works, longest_due[3..50].iter().map(|job| job.work).collect());
    let tokens: BTreeSet<u64> = first.iter().chain(&others).map(|lease| lease.token).collect();
    assert_eq!(tokens.len(), 50);
    assert_eq!(store.census().await.unwrap().jobs[&WorkKind::Issue], 60);
}

/// A stored order with a leased issue job: held until 101.
async fn leased(store: &Arc<dyn Store>) -> (Versioned<Order>, Lease) {
    let order = finalized(names(&["a.example.com"]), at(0));
    create(store, &order, Some(Work::Issue(order.id()))).await;
    let lease = lease(store, WorkKind::Issue, 1).await.remove(0);
    (store.order(order.id()).await.unwrap().unwrap(), lease)
}

pub(crate) async fn a_lease_runs_out_unless_it_is_renewed(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased(&store).await;
    assert!(lease(&store, WorkKind::Issue, 100).await.is_empty());
    let opened = order.value.opened_upstream("https://ca.example.com/1".to_owned());
    let renewed = Lease {
        until: at(300),
        ..held.clone()
    };
    let order = store
        .checkpoint(&renewed, Versioned::with(order.version, opened))
        .await
        .unwrap();
    assert_eq!(store.order(order.value.id()).await, Ok(Some(order.clone())));
    assert!(lease(&store, WorkKind::Issue, 299).await.is_empty());
    let next = lease(&store, WorkKind::Issue, 300).await.remove(0);
    assert_eq!(next.job, held.job);
    assert_ne!(next.token, held.token);
    assert_eq!(store.settle(next, done(Some(order))).await, Ok(()));
    assert!(lease(&store, WorkKind::Issue, 9999).await.is_empty());
}

pub(crate) async fn a_lost_lease_settles_nothing(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased(&store).await;
    let other = lease(&store, WorkKind::Issue, 101).await.remove(0);
    let changed = order.value.clone().failed(Problem::internal(), at(2));
    let changed = Versioned::with(order.version, changed);
    let late = store.checkpoint(&held, changed.clone()).await;
    assert_eq!(late, Err(StoreError::LeaseLost));
    for late in [done(Some(changed.clone())), done(None), again(5, 0), again(5, 1)] {
        assert_eq!(store.settle(held.clone(), late).await, Err(StoreError::LeaseLost));
    }
    assert_eq!(store.order(order.value.id()).await, Ok(Some(order)));
    assert_eq!(store.settle(other.clone(), done(Some(changed))).await, Ok(()));
    assert_eq!(store.settle(other, done(None)).await, Err(StoreError::LeaseLost));
}

pub(crate) async fn a_refused_settlement_writes_nothing_and_keeps_the_lease(backend: &impl Backend) {
    let store = backend.open().await;
    let (issued, issuers) = issued("a.example.com");
    let (order, held) = leased(&store).await;
    let stale = Settlement {
        issuers: issuers.clone(),
        ..done(Some(Versioned::with(order.version + 1, order.value.clone())))
    };
    assert_eq!(store.settle(held.clone(), stale).await, Err(StoreError::Conflict));
    let fingerprints = issued.certificate().unwrap().issuers();
    assert!(matches!(
        store.issuers(fingerprints).await,
        Err(StoreError::Corrupt(_))
    ));
    assert!(lease(&store, WorkKind::Issue, 50).await.is_empty());
    assert_eq!(store.settle(held, done(Some(order))).await, Ok(()));
}

pub(crate) async fn a_job_goes_back_into_the_queue_with_its_faults(backend: &impl Backend) {
    let mut store = backend.open().await;
    let (_, held) = leased(&store).await;
    assert_eq!(store.settle(held.clone(), again(20, 0)).await, Ok(()));
    assert!(lease(&store, WorkKind::Issue, 19).await.is_empty());
    let held = lease(&store, WorkKind::Issue, 20).await.remove(0);
    assert_eq!((held.job.due, held.job.faults), (at(20), 0));
    assert_eq!(store.settle(held, again(40, 3)).await, Ok(()));
    for _ in 0..2 {
        assert!(lease(&store, WorkKind::Issue, 39).await.is_empty());
        let held = lease(&store, WorkKind::Issue, 40).await.remove(0);
        assert_eq!((held.job.due, held.job.faults), (at(40), 3));
        drop(store);
        store = backend.open().await;
    }
}

pub(crate) async fn enqueuing_twice_is_enqueuing_once(backend: &impl Backend) {
    let store = backend.open().await;
    let (order, held) = leased(&store).await;
    let job = Some(held.job);
    store.commit(order.clone(), job).await.unwrap();
    assert!(
        lease(&store, WorkKind::Issue, 50).await.is_empty(),
        "while it is being done"
    );
    assert_eq!(store.settle(held, done(None)).await, Ok(()));
    let held = lease(&store, WorkKind::Issue, 50).await;
    assert_eq!(held.len(), 1, "it is done once more after that");
    assert_eq!(store.settle(held[0].clone(), again(60, 1)).await, Ok(()));
    store
        .commit(Versioned::with(order.version + 1, order.value), job)
        .await
        .unwrap();
    let held = lease(&store, WorkKind::Issue, 50).await;
    assert_eq!(held.len(), 1, "the new one takes the place of the one that waits");
    assert_eq!(held[0].job.faults, 0);
    assert_eq!(store.settle(held[0].clone(), done(None)).await, Ok(()));
    assert!(lease(&store, WorkKind::Issue, 9999).await.is_empty());
}

pub(crate) async fn f24_a_crash_voids_leases_but_loses_no_job(backend: &impl Backend) {
    let store = backend.open().await;
    let (_, held) = leased(&store).await;
    drop(store);
    let store = backend.open().await;
    let next = lease(&store, WorkKind::Issue, 200).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].job, held.job);
    assert_eq!(store.settle(held, done(None)).await, Err(StoreError::LeaseLost));
}

pub(crate) async fn a_waiting_worker_is_woken(backend: &impl Backend) {
    let store = backend.open().await;
    let waiting = Arc::clone(&store);
    let worker = tokio::spawn(async move {
        loop {
            let leases = lease(&waiting, WorkKind::Validate, 1).await;
            if !leases.is_empty() {
                return leases;
            }
            waiting.job_added().await;
        }
    });
    let (order, work) = answered(order(AccountId::random()));
    create(&store, &order, Some(work)).await;
    assert_eq!(worker.await.unwrap()[0].job.work, work);
}

pub(crate) async fn the_line_is_ordered_by_finalization(backend: &impl Backend) {
    let store = backend.open().await;
    let (ab, ba) = (
        names(&["a.example.com", "b.example.com"]),
        names(&["b.example.com", "a.example.com"]),
    );
    let late = finalized(ab.clone(), at(20));
    let mut tied = [finalized(ab.clone(), at(10)), finalized(ba, at(10))];
    tied.sort_by_key(Order::id);
    let [first, second] = tied;
    let alone = finalized(names(&["a.example.com"]), at(1));
    assert_eq!(store.first_in_line(&late).await, Ok(None));
    for order in [&late, &second, &first, &alone] {
        create(&store, order, None).await;
    }
    for next in [&first, &second, &late] {
        assert_eq!(store.first_in_line(&late).await, Ok(Some(next.id())));
        let ended = next.clone().failed(Problem::internal(), at(30));
        store.commit(Versioned::with(1, ended), None).await.unwrap();
    }
    assert_eq!(store.first_in_line(&late).await, Ok(None));
    assert_eq!(store.first_in_line(&alone).await, Ok(Some(alone.id())));
}

pub(crate) async fn orders_are_listed_by_account(backend: &impl Backend) {
    let store = backend.open().await;
    let (owner, other) = (AccountId::random(), AccountId::from_bytes([0xff; 16]));
    let mut ids = Vec::new();
    for owner in [owner, other].repeat(5) {
        let order = order(owner);
        create(&store, &order, None).await;
        ids.push((owner, order.id()));
    }
    for owner in [owner, other] {
        let mut mine: Vec<OrderId> = ids
            .iter()
            .filter(|(o, _)| *o == owner)
            .map(|(_, id)| *id)
            .collect();
        mine.sort();
        assert_eq!(store.orders_of(owner, None, 99).await.unwrap(), mine);
        assert_eq!(store.orders_of(owner, None, 2).await.unwrap(), mine[..2]);
        assert_eq!(
            store.orders_of(owner, Some(mine[1]), 2).await.unwrap(),
            mine[2..4]
        );
        assert_eq!(store.orders_of(owner, Some(mine[4]), 2).await.unwrap(), []);
    }
    assert_eq!(store.orders_of(AccountId::random(), None, 99).await.unwrap(), []);
}

pub(crate) async fn a_large_order_reads_back_whole(backend: &impl Backend) {
    let store = backend.open().await;
    let hosts: Vec<String> = (0..100)
        .map(|n| format!("host-{n}.{}.example.com", "x".repeat(60)))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let large = finalized(names(&hosts), at(0));
    create(&store, &large, None).await;
    let larger = large
        .clone()
        .opened_upstream("https://ca.example.com/1".to_owned());
    store
        .commit(Versioned::with(1, larger.clone()), None)
        .await
        .unwrap();
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.order(large.id()).await.unwrap().unwrap().value, larger);
    let smaller = larger.failed(Problem::internal(), at(2));
    store
        .commit(Versioned::with(2, smaller.clone()), None)
        .await
        .unwrap();
    assert_eq!(store.order(large.id()).await.unwrap().unwrap().value, smaller);
}

pub(crate) async fn issuers_are_stored_once(backend: &impl Backend) {
    let (issued, issuers) = issued("a.example.com");
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let store = backend.open().await;
        let (order, held) = leased(&store).await;
        let settlement = Settlement {
            issuers: issuers.clone(),
            ..done(Some(order))
        };
        store.settle(held, settlement).await.unwrap();
        let fingerprints = issued.certificate().unwrap().issuers();
        assert_eq!(store.issuers(fingerprints).await.unwrap(), issuers);
        let reversed: Vec<_> = fingerprints.iter().rev().copied().collect();
        assert_eq!(store.issuers(&reversed).await.unwrap()[0], issuers[1]);
        drop(store);
        sizes.push(backend.size().await);
    }
    // Each round adds an order; only the first one adds the issuers.
    assert_eq!(sizes[2] - sizes[1], sizes[1] - sizes[0]);
    let store = backend.open().await;
    let missing = Der::new(vec![1]).fingerprint();
    assert!(matches!(
        store.issuers(&[missing]).await,
        Err(StoreError::Corrupt(_))
    ));
}

pub(crate) async fn small_values_are_replaced_by_compare_and_swap(backend: &impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.load("upstream-account").await, Ok(None));
    let value = |version, size: usize| Versioned::with(version, vec![0xff; size]);
    assert_eq!(store.save("upstream-account", value(0, 3)).await, Ok(1));
    assert_eq!(
        store.save("upstream-account", value(0, 4)).await,
        Err(StoreError::Conflict)
    );
    assert_eq!(store.save("upstream-account", value(1, 20_000)).await, Ok(2));
    assert_eq!(store.load("upstream-account").await, Ok(Some(value(2, 20_000))));
    assert_eq!(store.load("upstream").await, Ok(None));
    assert_eq!(store.save("upstream", value(0, 1)).await, Ok(1));
}

pub(crate) async fn the_sweep_leaves_nothing_behind(backend: &impl Backend) {
    drop(backend.open().await);
    let empty = backend.size().await;
    let store = backend.open().await;
    let owner = AccountId::random();
    let (issued, _) = issued("a.example.com");
    let leaf = issued.certificate().unwrap().leaf().fingerprint();
    let issued_id = issued.id();
    create(&store, &issued, Some(Work::Revoke(issued_id))).await;
    assert_eq!(store.order_of_certificate(leaf).await, Ok(Some(issued_id)));
    for _ in 0..20 {
        let (order, work) = answered(order(owner));
        create(&store, &order, Some(work)).await;
        let large = finalized(names(&["b.example.com"]), at(0));
        create(&store, &large, Some(Work::Issue(large.id()))).await;
    }
    let held = lease(&store, WorkKind::Issue, 1).await;
    assert_eq!(store.sweep(at(0), 100).await, Ok(0), "nothing's time is over yet");
    assert_eq!(store.sweep(at(2 * 24 * 3600 - 1), 100).await, Ok(0));
    assert_eq!(
        store.sweep(at(2 * 24 * 3600), 15).await,
        Ok(15),
        "no more than the limit"
    );
    assert_eq!(store.sweep(far(), 100).await, Ok(26));
    assert_eq!(store.sweep(far(), 100).await, Ok(0));
    assert_eq!(store.orders_of(owner, None, 99).await.unwrap(), []);
    assert_eq!(store.order_of_certificate(leaf).await, Ok(None));
    assert_eq!(store.order(issued_id).await, Ok(None));
    for kind in WorkKind::ALL {
        assert!(lease(&store, kind, 9999).await.is_empty());
    }
    for lease in held {
        assert_eq!(store.settle(lease, again(5, 1)).await, Err(StoreError::LeaseLost));
    }
    drop(store);
    assert_eq!(backend.size().await, empty);
}

pub(crate) async fn the_sweep_spares_what_has_changed(backend: &impl Backend) {
    let store = backend.open().await;
    let (issued, _) = issued("a.example.com");
    let processing = finalized(names(&["a.example.com"]), at(0));
    create(&store, &processing, None).await;
    create(&store, &issued, None).await;
    assert_eq!(store.sweep(at(60 * 24 * 3600), 100).await, Ok(1));
    assert_eq!(store.order(issued.id()).await.unwrap().unwrap().value, issued);
    let back = store.commit(Versioned::with(1, processing), None).await;
    assert_eq!(
        back,
        Err(StoreError::Conflict),
        "what is swept does not come back"
    );
}

pub(crate) async fn jobs_of_unknown_kinds_are_left_alone(backend: &impl Backend) {
    let store = backend.open().await;
    let order = order(AccountId::random());
    create(&store, &order, None).await;
    drop(store);
    let without = backend.size().await;
    backend.plant_unknown_job(order.id()).await;
    let store = backend.open().await;
    for kind in WorkKind::ALL {
        assert!(lease(&store, kind, 9999).await.is_empty());
        assert_eq!(store.census().await.unwrap().jobs[&kind], 0);
    }
    store.commit(Versioned::with(1, order), None).await.unwrap();
    drop(store);
    assert_eq!(backend.size().await, without + 1);
    let store = backend.open().await;
    assert_eq!(store.sweep(far(), 100).await, Ok(1));
    drop(store);
    assert!(backend.size().await > 0);
}

pub(crate) async fn f24_everything_is_there_after_reopening(backend: &impl Backend) {
    let store = backend.open().await;
    let account = account();
    store.create_account(&account).await.unwrap();
    let (answered, work) = answered(order(account.id()));
    let Work::Validate(challenge) = work else {
        panic!("other work")
    };
    create(&store, &answered, Some(work)).await;
    let held = lease(&store, WorkKind::Validate, 1).await.remove(0);
    let Settled::Finished(ready) = answered.settle_validation(challenge, 0, Verdict::Proved, 3, at(2)) else {
        panic!("another verdict")
    };
    let settled = Versioned::with(1, ready.clone());
    store.settle(held, done(Some(settled))).await.unwrap();
    let (issued, _) = issued("a.example.com");
    create(&store, &issued, Some(Work::Revoke(issued.id()))).await;
    store
        .save("key", Versioned::with(0, vec![1, 2, 3]))
        .await
        .unwrap();
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.account(account.id()).await.unwrap().unwrap().value, account);
    assert_eq!(store.order(ready.id()).await, Ok(Some(Versioned::with(2, ready))));
    let leaf = issued.certificate().unwrap().leaf().fingerprint();
    assert_eq!(store.order_of_certificate(leaf).await, Ok(Some(issued.id())));
    assert_eq!(
        store.load("key").await,
        Ok(Some(Versioned::with(1, vec![1, 2, 3])))
    );
    assert!(lease(&store, WorkKind::Validate, 9999).await.is_empty());
    let revoke = lease(&store, WorkKind::Revoke, 9999).await;
    assert_eq!(revoke[0].job.work, Work::Revoke(issued.id()));
}
