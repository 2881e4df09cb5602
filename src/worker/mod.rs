//! The worker: runs the queue of jobs that committed changes have left, and the daemon's own upkeep.
//!
//! A job is leased, does one step, and settles: the order and what becomes of the job in one commit. A crash at any
//! point loses at most the step, which is then done again by whoever leases the job next.

mod issuance;
mod own_certificate;
mod renewal;
mod revocation;
mod target;
mod upkeep;
mod validation;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::acme::identifier::DnsName;
use crate::acme::job::WorkKind;
use crate::acme::random::random_fraction;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Lease, Next, Settlement, Store, StoreError};
use crate::tls::CertificateSlot;
use crate::upstream::{self, Issuer};
use crate::validate::Validator;
use crate::worker::target::Targets;

/// How long a lease holds. Longer than any step may take: every request to the CA and every validation has a deadline.
const LEASE: Duration = Duration::from_secs(300);

/// How long one step may take; ends before the lease does.
const STEP: Duration = Duration::from_secs(240);

/// How often a verdict is held against the order again. Each conflict is somebody else's success, and an order may have
/// 100 names.
const MAX_CONFLICTS: usize = 256;

/// How often the queue is looked at when no wake-up comes, for jobs that become due.
const TICK: Duration = Duration::from_millis(250);

/// The first back-off after a fault, doubled with each further one.
const BACKOFF_FLOOR: Duration = Duration::from_secs(1);

/// The longest back-off of one order at the CA.
const BACKOFF_CEILING: Duration = Duration::from_secs(300);

/// So many faults of the CA in a row open the circuit breaker: then one probe at a time goes through.
const BREAKER_THRESHOLD: u32 = 5;

/// How the worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The names of the daemon's own certificate, the common name first, if it is to be bought from the CA.
    pub own_certificate_names: Option<Vec<DnsName>>,
    /// How many validations run at a time.
    pub validations: usize,
    /// How many orders are worked on at the CA at a time.
    pub issuances: usize,
    /// How often a challenge is tried before a passing fault counts as final.
    pub validation_attempts: u32,
    /// How long the daemon's own order may stay at the CA.
    pub issuance_deadline: Duration,
    /// The label of the metric that says whether the CA is up.
    pub ca_url: String,
}

/// Everything that a job needs.
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) issuer: Arc<dyn Issuer>,
    pub(crate) validator: Validator,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slot: Arc<CertificateSlot>,
    pub(crate) settings: Settings,
    pub(crate) ca: CaHealth,
    pub(crate) targets: Targets,
}

/// Runs jobs until told to stop.
#[derive(Clone)]
pub struct Worker {
    context: Arc<Context>,
}

impl Worker {
    /// A worker over a store, a CA and a validator.
    pub fn new(
        store: Arc<dyn Store>,
        issuer: Arc<dyn Issuer>,
        validator: Validator,
        clock: Clock,
        metrics: Arc<Metrics>,
        slot: Arc<CertificateSlot>,
        settings: Settings,
    ) -> Self {
        let context = Context {
            store,
            issuer,
            validator,
            clock,
            metrics,
            slot,
            settings,
            ca: CaHealth::default(),
            targets: Targets::default(),
        };
        upkeep::report_unknown(&context);
        Self {
            context: Arc::new(context),
        }
    }

    /// Works until told to stop. Steps that are under way then are finished.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let settings = &self.context.settings;
        let validations = self.queue(WorkKind::Validate, settings.validations, stop.clone());
        let issuances = self.queue(WorkKind::Issue, settings.issuances, stop.clone());
        let revocations = self.queue(WorkKind::Revoke, settings.issuances, stop.clone());
        let upkeep = upkeep::run(Arc::clone(&self.context), stop);
        tokio::join!(validations, issuances, revocations, upkeep);
    }

    /// Leases jobs of one kind as long as there are free places, and runs each as a task.
    async fn queue(&self, kind: WorkKind, places: usize, mut stop: watch::Receiver<bool>) {
        let free = Arc::new(Semaphore::new(places));
        let mut tasks = JoinSet::new();
        while !*stop.borrow() {
            while tasks.try_join_next().is_some() {}
            let free_now = self.places(kind, free.available_permits(), places);
            let (limit, share) = portion(kind, free_now);
            let leased = self.lease(kind, limit, share).await;
            let more_may_wait = !leased.is_empty() && leased.len() == limit;
            for lease in leased {
                let (context, place) = (Arc::clone(&self.context), Arc::clone(&free));
                // Only this loop takes places, and it leased no more jobs than there were.
                let Ok(place) = place.try_acquire_owned() else {
                    continue;
                };
                tasks.spawn(async move {
                    step(&context, lease).await;
                    drop(place);
                });
            }
            if more_may_wait && free.available_permits() > 0 {
                continue;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = self.context.store.job_added() => {}
                () = tokio::time::sleep(TICK) => {}
                Some(_) = tasks.join_next() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn lease(&self, kind: WorkKind, limit: usize, share: usize) -> Vec<Lease> {
        if limit == 0 {
            return Vec::new();
        }
        let now = self.context.clock.now();
        let until = crate::acme::order::after(now, LEASE);
        match self.context.store.lease(kind, now, until, limit, share).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::error!(job.kind = kind.name(), %error, "no job can be leased");
                Vec::new()
            }
        }
    }

    /// How many jobs of the kind may be started now.
    fn places(&self, kind: WorkKind, free: usize, all: usize) -> usize {
        match kind {
            WorkKind::Validate => free,
            WorkKind::Issue | WorkKind::Revoke => self.context.ca.places(free, all, self.context.clock.now()),
        }
    }
}

/// How many jobs to lease now, and how many leases one owner may hold after that.
///
/// Validations wait for hosts of the applicant's choice, which may be as slow as they like. So an owner gets at most a
/// quarter as many places as are free: one gets a fifth of all, and however many there are, some stay free for the
/// next. For the same reason they are leased a few at a time. All other work waits for the CA alone.
fn portion(kind: WorkKind, free: usize) -> (usize, usize) {
    match kind {
        WorkKind::Validate => (free.div_ceil(8), free.div_ceil(4)),
        WorkKind::Issue | WorkKind::Revoke => (free, usize::MAX),
    }
}

/// Runs one job and gives it back.
async fn step(context: &Context, lease: Lease) {
    let work = lease.job.work;
    let mut found = None;
    for _ in 0..MAX_CONFLICTS {
        let settlement = decide(context, &lease, &mut found).await;
        let next = settlement.next;
        match context.store.settle(lease.clone(), settlement).await {
            Ok(()) => return,
            // Somebody else has changed the order: what was found out is held against what is there now.
            Err(StoreError::Conflict) if found.is_some() => {}
            Err(StoreError::Conflict) => break,
            Err(error) => {
                tracing::warn!(job.work = %work, ?next, %error, "a job can not be given back");
                return;
            }
        }
    }
    // The next step decides again on what is there then.
    let retry = again(context, Duration::ZERO, lease.job.faults);
    if let Err(error) = context.store.settle(lease, retry).await {
        tracing::warn!(job.work = %work, %error, "a job can not be given back");
    }
}

/// Does the job's next thing, and says what is to become of it.
async fn decide(context: &Context, lease: &Lease, found: &mut Option<validation::Found>) -> Settlement {
    let work = lease.job.work;
    let ended = tokio::time::timeout(STEP, async {
        match work.kind() {
            WorkKind::Validate => validation::step(context, lease, found).await,
            WorkKind::Issue => issuance::step(context, lease).await,
            WorkKind::Revoke => revocation::step(context, lease).await,
        }
    })
    .await;
    match ended {
        Ok(Ok(settlement)) => settlement,
        Ok(Err(StoreError::Conflict)) => again(context, Duration::ZERO, lease.job.faults),
        Ok(Err(error)) => {
            tracing::error!(job.work = %work, %error, "a job can not be worked on");
            again_after_fault(context, lease, None)
        }
        Err(_) => {
            tracing::warn!(job.work = %work, "a job took too long");
            again_after_fault(context, lease, None)
        }
    }
}

/// The job is done, and the order stays as it is.
pub(crate) fn done() -> Settlement {
    Settlement {
        next: Next::Done,
        order: None,
        issuers: Vec::new(),
    }
}

/// The job goes on after a wait.
pub(crate) fn again(context: &Context, wait: Duration, faults: u32) -> Settlement {
    Settlement {
        next: Next::Again {
            due: crate::acme::order::after(context.clock.now(), wait),
            faults,
        },
        order: None,
        issuers: Vec::new(),
    }
}

/// The job goes on after a back-off that grows with its faults, or after the time that the other side asks for.
pub(crate) fn again_after_fault(context: &Context, lease: &Lease, asked: Option<Duration>) -> Settlement {
    let faults = lease.job.faults.saturating_add(1);
    let wait = asked
        .unwrap_or(Duration::ZERO)
        .max(backoff(faults, BACKOFF_CEILING));
    again(context, wait, faults)
}

/// 1, 2, 4 ... seconds up to the ceiling, each with up to a quarter more or less, never under half a second.
pub(crate) fn backoff(faults: u32, ceiling: Duration) -> Duration {
    let doublings = faults.saturating_sub(1).min(16);
    let base = BACKOFF_FLOOR.saturating_mul(1 << doublings).min(ceiling);
    let jitter = 0.75 + random_fraction() / 2.0;
    base.mul_f64(jitter).max(BACKOFF_FLOOR / 2)
}

/// What the latest answers of the CA mean for all orders there: pauses, and the circuit breaker.
#[derive(Default)]
pub(crate) struct CaHealth {
    ready: AtomicBool,
    faults_in_a_row: AtomicU32,
    paused_until: Mutex<Option<Timestamp>>,
}

impl CaHealth {
    /// There is an account at the CA: orders may be worked on.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::SeqCst);
    }

    /// Whether all is well: what can wait is asked only then.
    pub(crate) fn is_well(&self, now: Timestamp) -> bool {
        self.places(2, 2, now) == 2
    }

    fn places(&self, free: usize, all: usize, now: Timestamp) -> usize {
        let paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.ready.load(Ordering::SeqCst) || paused.is_some_and(|until| until > now) {
            return 0;
        }
        match self.faults_in_a_row.load(Ordering::SeqCst) >= BREAKER_THRESHOLD {
            // One probe at a time: only when nothing else is under way.
            true => usize::from(free == all),
            false => free,
        }
    }

    /// The CA has answered as it should.
    pub(crate) fn worked(&self) {
        self.faults_in_a_row.store(0, Ordering::SeqCst);
    }

    /// The CA has not answered, or asked us to slow down.
    pub(crate) fn failed(&self, now: Timestamp, retry_after: Option<Duration>, rate_limited: bool) {
        let faults = self
            .faults_in_a_row
            .fetch_add(1, Ordering::SeqCst)
            .saturating_add(1);
        let pause = match (rate_limited, faults >= BREAKER_THRESHOLD) {
            (true, _) => retry_after.unwrap_or(Duration::from_secs(60)),
            (false, true) => backoff(faults - BREAKER_THRESHOLD + 1, Duration::from_secs(60)),
            (false, false) => return,
        };
        let until = crate::acme::order::after(now, pause);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = (*paused).max(Some(until));
    }
}

/// Logs and counts a fault of the CA, and tells how long to wait.
pub(crate) fn ca_fault(context: &Context, lease: &Lease, error: &upstream::Error) -> Settlement {
    let (retry_after, rate_limited) = match error {
        upstream::Error::Transient {
            retry_after,
            rate_limited,
            ..
        } => (*retry_after, *rate_limited),
        upstream::Error::Permanent(_) | upstream::Error::OrderGone(_) => (None, false),
    };
    context.ca.failed(context.clock.now(), retry_after, rate_limited);
    let settlement = again_after_fault(context, lease, retry_after);
    tracing::warn!(job.work = %lease.job.work, job.faults = lease.job.faults, %error, rate_limited, "the CA did not answer as it should; will try again");
    settlement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_never_falls_below_its_floor_and_never_passes_its_ceiling_by_more_than_the_jitter() {
        for faults in 0..10_000 {
            let wait = backoff(faults, BACKOFF_CEILING);
            assert!(wait >= BACKOFF_FLOOR / 2, "{faults}: {wait:?}");
            assert!(wait <= BACKOFF_CEILING.mul_f64(1.25), "{faults}: {wait:?}");
        }
        assert!(backoff(8, BACKOFF_CEILING) > backoff(1, BACKOFF_CEILING));
    }

    #[test]
    fn f20_slow_validations_of_a_few_owners_never_fill_the_pool() {
        const PLACES: usize = 256;
        for (owners, left) in [(1, 192), (4, 100), (20, 32)] {
            let mut held = vec![0_usize; owners];
            loop {
                let (limit, share) = portion(WorkKind::Validate, PLACES - held.iter().sum::<usize>());
                let mut leased = 0;
                while leased < limit
                    && let Some(least) = held.iter_mut().min().filter(|least| **least < share)
                {
                    *least += 1;
                    leased += 1;
                }
                if leased == 0 {
                    break;
                }
            }
            let free = PLACES - held.iter().sum::<usize>();
            assert!(free >= left, "{owners} owners leave {free} places");
            assert_eq!(
                portion(WorkKind::Validate, 1),
                (1, 1),
                "the last place is given, too"
            );
        }
    }

    #[test]
    fn f2_after_five_faults_one_probe_at_a_time_goes_to_the_ca() {
        let ca = CaHealth::default();
        let now = Clock::system().now();
        let later = crate::acme::order::after(now, Duration::from_secs(600));
        assert_eq!(ca.places(64, 64, now), 0, "there is no account yet");
        ca.set_ready();
        assert_eq!(ca.places(64, 64, now), 64);
        for _ in 0..BREAKER_THRESHOLD {
            ca.failed(now, None, false);
        }
        assert_eq!(ca.places(64, 64, now), 0, "paused");
        assert_eq!(ca.places(64, 64, later), 1);
        assert_eq!(ca.places(63, 64, later), 0, "the probe is under way");
        ca.worked();
        assert_eq!(ca.places(63, 64, later), 63);
    }

    #[test]
    fn f3_a_429_pauses_everything_at_the_ca_for_as_long_as_it_asks() {
        let ca = CaHealth::default();
        let now = Clock::system().now();
        ca.set_ready();
        ca.failed(now, Some(Duration::from_secs(30)), true);
        assert_eq!(
            ca.places(64, 64, crate::acme::order::after(now, Duration::from_secs(29))),
            0
        );
        assert_eq!(
            ca.places(64, 64, crate::acme::order::after(now, Duration::from_secs(31))),
            64
        );
    }
}
