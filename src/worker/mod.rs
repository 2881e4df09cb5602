//! The worker: runs the queue of jobs that committed changes have left, and the daemon's own upkeep.
//!
//! A job is leased, does one step, and settles: the order and what becomes of the job in one commit. A crash at any
//! point loses at most the step, which is then done again by whoever leases the job next.

mod collection;
pub(crate) mod database;
mod failover;
mod inventory;
mod issuance;
mod lane;
mod late;
mod lead;
mod moment;
pub(crate) mod own_certificate;
mod pause;
mod places;
mod renewal;
mod revocation;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod upkeep;
pub mod upstream;
mod validation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::acme::identifier::DnsName;
use crate::acme::job::{Lane, WorkKind};
use crate::acme::order::Order;
use crate::acme::random::random_fraction;
use crate::acme::upstream::UpstreamName;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Lease, Next, Settlement, Store, StoreError};
use crate::tls::CertificateSlot;
use crate::upstream::{Error, Says};
use crate::validate::Validator;
use crate::worker::database::{PAUSE, give_back};
use crate::worker::lane::{most_of, name_of, portion};
use crate::worker::lead::Lead;
use crate::worker::places::Places;
use crate::worker::target::Targets;
use crate::worker::upstream::{Upstream, Watched};

/// How long a lease holds. That long does a job stand still whose process was killed.
const LEASE: Duration = Duration::from_secs(30);

/// How often a lease is renewed as long as the job is worked on.
const RENEWAL: Duration = Duration::from_secs(10);

/// How long one step may take: every request to the CA and every validation has a deadline, too.
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

/// The longest wait between two looks at an order that the CA is at, unless it asks for a longer one.
const POLL_CEILING: Duration = Duration::from_secs(60);

/// How long a lane is left alone after the store could not be asked. What is under way comes first when it is back: those
/// who hold leases give them back or renew them more often than this.
const AFTER_FAULT: Duration = Duration::from_secs(3);

/// The share of the time that an order has been at the CA which it waits at least between two looks.
const POLL_SHARE: u32 = 20;

/// How the worker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The names of the daemon's own certificate, the common name first, if it is to be bought from a CA.
    pub own_certificate_names: Option<Vec<DnsName>>,
    /// Where it is bought.
    pub own_certificate_upstream: UpstreamName,
    /// How many validations run at a time.
    pub validations: usize,
    /// How many orders are worked on at each CA at a time.
    pub issuances: usize,
    /// How often a challenge is tried before a passing fault counts as final.
    pub validation_attempts: u32,
    /// How long the daemon's own order may stay at the CA.
    pub issuance_deadline: Duration,
}

/// Everything that a job needs.
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) upstreams: BTreeMap<UpstreamName, Arc<Watched>>,
    pub(crate) validator: Validator,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slot: Arc<CertificateSlot>,
    pub(crate) settings: Settings,
    pub(crate) targets: Arc<Targets>,
    pub(crate) validating: Arc<Places>,
    /// If there are replicas.
    pub(crate) lead: Option<Arc<Lead>>,
}

impl Context {
    /// The upstream of this name, if it is configured.
    pub(crate) fn upstream(&self, name: UpstreamName) -> Option<&Watched> {
        self.upstreams.get(&name).map(Arc::as_ref)
    }
}

/// Runs jobs until told to stop.
#[derive(Clone)]
pub struct Worker {
    context: Arc<Context>,
}

impl Worker {
    /// A worker over a store, the CAs and a validator.
    pub fn new(
        store: Arc<dyn Store>,
        upstreams: Vec<Upstream>,
        validator: Validator,
        clock: Clock,
        metrics: Arc<Metrics>,
        slot: Arc<CertificateSlot>,
        settings: Settings,
    ) -> Self {
        let now = clock.now();
        let upstreams = upstreams.into_iter().map(|upstream| {
            let name = upstream.name;
            (name, Arc::new(Watched::new(upstream, now)))
        });
        let context = Context {
            lead: Lead::of(&store),
            store,
            upstreams: upstreams.collect(),
            validator,
            clock,
            metrics,
            slot,
            settings,
            targets: Arc::default(),
            validating: Arc::default(),
        };
        upkeep::report_unknown(&context);
        lead::follow(&context);
        Self {
            context: Arc::new(context),
        }
    }

    /// A worker in other settings, to run while this one finishes what it is at. What this one knows of a CA that stays,
    /// above all how long it wants to be left alone, the next one knows, and the places of this one are not free for it.
    pub fn followed_by(&self, upstreams: Vec<Upstream>, validator: Validator, settings: Settings) -> Self {
        let before = &self.context;
        let now = before.clock.now();
        let upstreams = upstream::followed_by(&before.upstreams, upstreams, now);
        for (name, watched) in &upstreams {
            let known = before.upstream(*name);
            if known.is_none_or(|known| known.upstream.ca_url != watched.upstream.ca_url) {
                upkeep::report_unknown_account(&before.metrics, *name);
            }
        }
        let context = Context {
            store: Arc::clone(&before.store),
            upstreams,
            validator,
            clock: before.clock.clone(),
            metrics: Arc::clone(&before.metrics),
            slot: Arc::clone(&before.slot),
            settings,
            targets: Arc::clone(&before.targets),
            validating: Arc::clone(&before.validating),
            lead: before.lead.clone(),
        };
        lead::follow(&context);
        Self {
            context: Arc::new(context),
        }
    }

    /// Serves the daemon's own certificate from the store. Called before the first client is let in, or those that have
    /// waited through a restart would see the stand-in.
    pub async fn show_own_certificate(&self) {
        if self.context.settings.own_certificate_names.is_some()
            && let Err(error) = own_certificate::show(&self.context).await
        {
            tracing::error!(%error, "the own certificate can not be served");
        }
    }

    /// Works until told to stop. Steps that are under way then are finished.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let settings = &self.context.settings;
        let mut queues = JoinSet::new();
        queues.spawn(
            self.clone()
                .queue(Lane::Validate, settings.validations, stop.clone()),
        );
        for name in self.context.upstreams.keys() {
            for lane in [Lane::Issue(*name), Lane::Revoke(*name)] {
                queues.spawn(self.clone().queue(lane, settings.issuances, stop.clone()));
            }
        }
        let (ended, none_is_left) = watch::channel(false);
        let queues = async {
            while queues.join_next().await.is_some() {}
            ended.send_replace(true);
        };
        tokio::join!(
            queues,
            lead::run(&self.context, stop.clone(), none_is_left),
            upkeep::run(Arc::clone(&self.context), stop)
        );
    }

    /// Lets other processes have at once what this one alone was doing. Nothing is under way any more.
    pub async fn leave(&self) {
        if let Some(lead) = &self.context.lead {
            lead.give_back().await;
        }
    }

    /// Says nothing more of upstreams that this worker has not. Those that one before it was still at may have come up again.
    pub fn forget_others(&self) {
        upkeep::forget_others(&self.context);
    }

    /// Leases jobs of one lane as long as there are free places, and runs each as a task.
    async fn queue(self, lane: Lane, all: usize, mut stop: watch::Receiver<bool>) {
        let Some(places) = lane::places(&self.context, lane) else {
            return;
        };
        let mut tasks = JoinSet::new();
        while !*stop.borrow() {
            while tasks.try_join_next().is_some() {}
            self.context.metrics.health.turns(&name_of(lane));
            let free = lane::free(&self.context, lane, places.free(all), all);
            let (limit, share) = portion(lane.kind(), free);
            let Some(leased) = self.lease(lane, limit, share, most_of(lane, all)).await else {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(AFTER_FAULT) => {}
                }
                continue;
            };
            let more_may_wait = !leased.is_empty() && leased.len() == limit;
            for lease in leased {
                let (context, place) = (Arc::clone(&self.context), places.take());
                let span =
                    tracing::error_span!("job", order.id = %lease.job.work.order(), request.id = Empty);
                let work = async move {
                    held(&context, lease).await;
                    drop(place);
                };
                tasks.spawn(work.instrument(span));
            }
            if more_may_wait && places.free(all) > 0 {
                continue;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = self.context.store.job_added() => {}
                () = tokio::time::sleep(TICK) => {}
                Some(_) = tasks.join_next() => {}
            }
        }
        self.context.metrics.health.ends(&name_of(lane));
        while tasks.join_next().await.is_some() {}
    }

    /// `None` if the store can not be asked.
    async fn lease(&self, lane: Lane, limit: usize, share: usize, most: usize) -> Option<Vec<Lease>> {
        if limit == 0 {
            return Some(Vec::new());
        }
        let now = self.context.clock.now();
        match self
            .context
            .store
            .lease(lane, now, LEASE, limit, share, most)
            .await
        {
            Ok(leases) => Some(leases),
            Err(error) => {
                tracing::error!(job.kind = lane.kind().name(), %error, "no job can be leased");
                None
            }
        }
    }
}

/// Runs one job for as long as its lease is held.
async fn held(context: &Context, lease: Lease) {
    let gives_back = AtomicBool::new(false);
    let step = step(context, &lease, &gives_back);
    while_held(&*context.store, &lease, &gives_back, step).await;
}

/// Lets a step go on for as long as the lease is held. When it is given back it is held no more, perhaps before the step
/// hears of that. If another process has it, giving it back comes to nothing.
async fn while_held(
    store: &dyn Store,
    lease: &Lease,
    gives_back: &AtomicBool,
    step: impl Future<Output = ()>,
) {
    tokio::pin!(step);
    tokio::select! {
        () = &mut step => return,
        () = renewed(store, lease) => {}
    }
    if gives_back.load(Ordering::SeqCst) && tokio::time::timeout(LEASE, step).await.is_ok() {
        return;
    }
    tracing::warn!(job.work = %lease.job.work, "a job was taken over by another process in the meantime");
}

/// Renews a lease until it is lost.
async fn renewed(store: &dyn Store, lease: &Lease) {
    let mut wait = RENEWAL;
    loop {
        tokio::time::sleep(wait).await;
        wait = match store.renew(lease, LEASE).await {
            Ok(()) => RENEWAL,
            Err(StoreError::LeaseLost) => return,
            Err(_) => PAUSE,
        };
    }
}

/// Runs one job and gives it back.
async fn step(context: &Context, lease: &Lease, gives_back: &AtomicBool) {
    let work = lease.job.work;
    let mut found = None;
    let mut put_off = None;
    for _ in 0..MAX_CONFLICTS {
        gives_back.store(false, Ordering::SeqCst);
        let settlement = decide(context, lease, &mut found).await;
        let next = settlement.next;
        gives_back.store(true, Ordering::SeqCst);
        match give_back(context, lease, settlement).await {
            Ok(()) => return,
            // Somebody else has changed the order: what was found out is held against what is there now.
            Err(StoreError::Conflict) if found.is_some() => {}
            Err(StoreError::Conflict) => {
                put_off = matches!(next, Next::Again { .. }).then_some(next);
                break;
            }
            Err(error) => {
                tracing::warn!(job.work = %work, ?next, %error, "a job can not be given back");
                return;
            }
        }
    }
    // The next step decides again on what is there then; a wait that the other side has asked for stays one.
    let retry = match put_off {
        Some(next) => Settlement { next, ..done() },
        None => again(context, Duration::ZERO, lease.job.faults),
    };
    if let Err(error) = give_back(context, lease, retry).await {
        tracing::warn!(job.work = %work, %error, "a job can not be given back");
    }
}

/// From here on the log says which request has made the order that is worked on.
pub(crate) fn works_on(order: &Order) {
    tracing::Span::current().record("request.id", order.request_id());
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

/// The job goes into the lane of its order's upstream, if it is in another one.
pub(crate) fn elsewhere(context: &Context, lease: &Lease, order: &Order) -> Option<Settlement> {
    let upstream = order.upstream_name();
    (upstream != lease.job.upstream).then(|| Settlement {
        next: Next::Moved {
            upstream,
            due: context.clock.now(),
        },
        order: None,
        issuers: Vec::new(),
    })
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

/// The job goes on after the wait that the CA asks for, or a longer one if the order has been there for long: a look more
/// or less then changes little for the client, and much for the CA. The time in line before that does not count.
pub(crate) fn again_at_ca(
    context: &Context,
    lease: &Lease,
    opened: Option<Timestamp>,
    asked: Duration,
) -> Settlement {
    let since = opened.unwrap_or(lease.job.since);
    let share = span(since, context.clock.now()) / POLL_SHARE;
    // Whole seconds: no CA is asked more often than that.
    let wait = Duration::from_secs(share.as_secs()).min(POLL_CEILING);
    again(context, asked.max(wait), 0)
}

/// How long the job has waited to be done.
pub(crate) fn age(context: &Context, lease: &Lease) -> Duration {
    span(lease.job.since, context.clock.now())
}

/// The time between the two; none if the clock was set back.
fn span(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
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

/// Logs and counts a fault of the CA, and tells how long to wait.
pub(crate) fn ca_fault(context: &Context, upstream: &Watched, lease: &Lease, error: &Error) -> Settlement {
    let (retry_after, says) = match error {
        Error::Transient {
            retry_after, says, ..
        } => (*retry_after, *says),
        Error::Permanent(_) | Error::OrderGone(_) | Error::OrderUnseen(_) => (None, Says::Nothing),
    };
    upstream.health.failed(context.clock.now(), retry_after, says);
    upstream.will_retry(context);
    let settlement = again_after_fault(context, lease, retry_after);
    tracing::warn!(upstream = %upstream.name(), job.work = %lease.job.work, job.faults = lease.job.faults, %error, ?says, "the CA did not answer as it should; will try again");
    settlement
}
