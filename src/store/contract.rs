//! The contract of [`Store`] as tests, run against each backend: `contract!(Backend)` in the backend's own tests.

pub(crate) mod certificates;
pub(crate) mod counting;
pub(crate) mod external_accounts;
pub(crate) mod jobs;
pub(crate) mod records;
pub(crate) mod renewals;
pub(crate) mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};
use tokio::task::JoinSet;

use crate::acme::account::Account;
use crate::acme::certificate::{Der, IssuedChain, to_pem};
use crate::acme::challenge::ChallengeType;
use crate::acme::csr::Csr;
use crate::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, Work, WorkKind};
use crate::acme::order::{Accepted, Order, Settled, Verdict};
use crate::acme::upstream::{UpstreamName, UpstreamOrder};
use crate::jose::jwk::{Curve, Jwk};
use crate::store::{Lease, Next, Settlement, Store, Versioned};

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

/// An order at a CA.
fn opened() -> UpstreamOrder {
    UpstreamOrder::new("https://ca.example.com/1", "https://ca.example.com/account")
}

/// Makes a test of each function of the modules here.
macro_rules! contract {
    ($backend:ty) => {
        $crate::store::contract::contract! { $backend:
            records::a_key_has_one_account_however_many_register_it
            records::an_account_is_replaced_by_compare_and_swap
            records::an_accounts_new_key_leads_to_it_and_the_old_one_to_nobody
            records::of_many_commits_on_one_version_one_wins
            records::an_order_and_its_job_are_one_write
            records::an_acknowledged_write_is_visible_to_every_reader
            records::the_line_is_ordered_by_finalization
            records::each_upstream_has_lines_of_its_own
            records::rule_2_what_is_open_at_the_ca_is_first_in_line_whatever_the_clock_says
            records::rule_2_of_the_orders_in_a_line_one_is_open_at_the_ca
            records::orders_are_listed_by_account
            records::all_accounts_and_orders_are_listed_page_by_page
            records::c501_an_order_is_found_for_its_account_only
            records::a_large_order_reads_back_whole
            certificates::issued_names_are_known_to_their_account
            certificates::f48_late_orders_are_found_by_account_names_and_upstream
            certificates::issuers_are_stored_once
            records::small_values_are_replaced_by_compare_and_swap
            records::the_sweep_leaves_nothing_behind
            records::the_sweep_spares_what_has_changed
            records::f24_everything_is_there_after_reopening
            external_accounts::c309_a_one_time_key_gets_one_account_however_many_use_it
            external_accounts::a_one_time_key_stays_used_whatever_becomes_of_its_account
            external_accounts::a_key_is_replaced_by_compare_and_swap
            external_accounts::keys_are_listed_the_oldest_first_and_are_there_after_reopening
            counting::orders_count_for_their_names_once_they_are_finalized_unless_they_fail
            counting::of_many_orders_for_a_name_at_once_as_many_are_written_as_it_may_have
            renewals::n2_a_certificate_is_found_by_its_name_as_long_as_its_order_is_there
            renewals::n4_of_many_orders_that_replace_a_certificate_one_is_stored
            renewals::n4_a_failed_replacement_frees_the_certificate
            renewals::n5_the_ca_is_to_be_asked_about_those_who_have_waited_longest
            renewals::what_the_ca_offers_is_there_after_reopening
            jobs::a_job_is_leased_by_one_holder_the_longest_due_first
            jobs::a_lane_hands_out_its_own_jobs_only
            jobs::a_job_can_be_looked_at_as_long_as_there_is_one
            jobs::a_job_moves_to_another_lane_with_its_order_or_not_at_all
            jobs::f20_leases_are_shared_out_between_owners
            jobs::a_lane_never_has_more_leases_than_it_may_have
            jobs::f20_a_late_owner_does_not_wait_for_an_early_ones_jobs
            jobs::f30_no_step_of_the_clock_ends_a_lease_or_prolongs_it
            jobs::a_lease_that_is_renewed_holds_from_then_on
            jobs::a_checkpoint_keeps_the_lease
            jobs::a_lost_lease_settles_nothing
            jobs::a_refused_settlement_writes_nothing_and_keeps_the_lease
            jobs::a_job_goes_back_into_the_queue_with_its_faults
            jobs::enqueuing_twice_is_enqueuing_once
            jobs::f24_a_crash_voids_leases_but_loses_no_job
            jobs::a_waiting_worker_is_woken
            jobs::jobs_of_unknown_kinds_are_left_alone
            snapshots::a_snapshot_shows_one_moment_whatever_is_written_meanwhile
            snapshots::a_snapshot_that_is_taken_amid_writes_has_each_of_them_whole_or_not_at_all
        }
    };
    ($backend:ty: $($module:ident::$name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let backend = <$backend as $crate::store::contract::Backend>::new();
                $crate::store::contract::$module::$name(&backend).await;
            }
        )*
    };
}
pub(crate) use contract;

/// Where all is that a test does not place elsewhere.
pub(crate) const HERE: UpstreamName = UpstreamName::DEFAULT;

pub(crate) const LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn at(seconds: u64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds)
}

/// The first moment at which nothing is of use any more.
pub(crate) fn far() -> Timestamp {
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

pub(crate) fn names(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::dns(name).unwrap()).collect()
}

/// A pending order for one name.
pub(crate) fn order(owner: AccountId) -> Order {
    let offered = (names(&["www.example.com"]).remove(0), vec![ChallengeType::Http01]);
    Order::new(owner, "acme".to_owned(), vec![offered], at(0), LIFETIME)
}

pub(crate) fn finalized(identifiers: Vec<Identifier>, now: Timestamp) -> Order {
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

/// A CSR for the host, and a chain that answers it.
fn certified(host: &str) -> (Der, [Der; 3]) {
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
    leaf_params.distinguished_name = rcgen::DistinguishedName::new();
    leaf_params.not_after = rcgen::date_time_ymd(2026, 4, 1);
    let csr = leaf_params.serialize_request(&key).unwrap();
    leaf_params.use_authority_key_identifier_extension = true;
    let leaf = leaf_params
        .signed_by(&key, &Issuer::new(intermediate_params, intermediate))
        .unwrap();
    let chain = [leaf.der(), intermediate_certificate.der(), root_certificate.der()];
    let chain = chain.map(|der| Der::new(der.to_vec()));
    (Der::new(csr.der().to_vec()), chain)
}

fn collected(order: Order, chain: &[Der]) -> (Order, Vec<Der>) {
    let chain = answering(&order, chain);
    (order.issued(chain.certificate, at(1)), chain.issuers)
}

fn answering(order: &Order, chain: &[Der]) -> IssuedChain {
    let ordered = order.validated(at(1)).unwrap();
    IssuedChain::verify(&to_pem(chain), ordered.ordered(), at(1)).unwrap()
}

/// An order whose certificate is here, with the issuers' certificates.
pub(crate) fn issued(host: &str) -> (Order, Vec<Der>) {
    let (csr, chain) = certified(host);
    let order = Order::for_daemon(OrderId::random(), names(&[host]), csr, at(0), LIFETIME);
    collected(order, &chain)
}

/// A finalized order, and the chain that the CA has made for it.
pub(crate) fn ordered(host: &str) -> (Order, IssuedChain) {
    let (csr, chain) = certified(host);
    let order = Order::for_daemon(OrderId::random(), names(&[host]), csr, at(0), LIFETIME);
    let chain = answering(&order, &chain);
    (order, chain)
}

/// An order of a client's whose certificate is here, with the issuers' certificates.
pub(crate) fn issued_to(owner: AccountId, host: &str) -> (Order, Vec<Der>) {
    let (csr, chain) = certified(host);
    let offered = (names(&[host]).remove(0), vec![ChallengeType::Http01]);
    let order = Order::new(owner, "acme".to_owned(), vec![offered], at(0), LIFETIME);
    let (order, Work::Validate(challenge)) = answered(order) else {
        panic!("other work")
    };
    let Settled::Finished(ready) = order.settle_validation(challenge, 0, Verdict::Proved, 3, at(1)) else {
        panic!("another verdict")
    };
    let csr = Csr::parse(csr.as_bytes().to_vec()).unwrap();
    let csr = csr.matching(&ready, None).unwrap();
    let (order, _) = ready.finalize(csr, at(1), LIFETIME).unwrap();
    collected(order, &chain)
}

pub(crate) async fn create(store: &Arc<dyn Store>, order: &Order, work: Option<Work>) {
    let job = work.map(|work| Job::now(work, order.account(), order.upstream_name(), at(1)));
    store.create_order(order, job).await.unwrap();
}

/// Leases from the default upstream's lane.
pub(crate) async fn lease(store: &Arc<dyn Store>, kind: WorkKind, now: u64) -> Vec<Lease> {
    store
        .lease(Lane::of(kind, HERE), at(now), LIFETIME, 1000, 1000, 1000)
        .await
        .unwrap()
}

pub(crate) fn done(order: Option<Versioned<Order>>) -> Settlement {
    Settlement {
        next: Next::Done,
        order,
        issuers: Vec::new(),
    }
}

pub(crate) fn again(due: u64, faults: u32) -> Settlement {
    let next = Next::Again { due: at(due), faults };
    Settlement { next, ..done(None) }
}

pub(crate) async fn all<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    tasks.into_iter().collect::<JoinSet<T>>().join_all().await
}

/// A stored order with a leased issue job.
pub(crate) async fn leased(store: &Arc<dyn Store>) -> (Versioned<Order>, Lease) {
    leased_for(store, LIFETIME).await
}

/// The same with a lease that runs out.
pub(crate) async fn leased_for(store: &Arc<dyn Store>, span: Duration) -> (Versioned<Order>, Lease) {
    let order = finalized(names(&["a.example.com"]), at(0));
    create(store, &order, Some(Work::Issue(order.id()))).await;
    let leases = store
        .lease(Lane::Issue(HERE), at(1), span, 1000, 1000, 1000)
        .await;
    let lease = leases.unwrap().remove(0);
    (store.order(order.id()).await.unwrap().unwrap(), lease)
}
