//! A CA as the worker sees it: who issues there, and what its latest answers mean for all jobs that wait for it. What
//! happens at one CA holds up nothing at another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::order::after;
use crate::acme::upstream::UpstreamName;
use crate::upstream::{Error, Issuer, Says};
use crate::worker::places::Places;
use crate::worker::{Context, backoff};

/// So many faults of the CA in a row open the circuit breaker: then one probe at a time goes through, and once one has
/// worked, one more job with each that works, so that all that waits does not go to a CA that has just come back.
const BREAKER_THRESHOLD: u32 = 5;

/// How long the breaker lets nothing through at most, before the next probe.
const PAUSE_CEILING: Duration = Duration::from_secs(60);

/// The pause after a 429 that does not say how long.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);

/// How long ago the latest fault must be for a good directory to mean that the CA is well. Longer than any back-off:
/// while jobs wait for a CA, they find out sooner.
const QUIET: Duration = Duration::from_secs(600);

/// A CA with our account there.
pub struct Upstream {
    /// Its name in the configuration.
    pub name: UpstreamName,
    /// Its directory: a label of the metric that says whether the CA is up.
    pub ca_url: String,
    /// Issues.
    pub issuer: Arc<dyn Issuer>,
    /// Where orders go when it fails, if they do.
    pub failover: Option<Failover>,
}

/// When orders that have not been opened at a CA go to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// The other one.
    pub to: UpstreamName,
    /// For how long the CA must have failed.
    pub after: Duration,
}

/// The upstreams of a worker that follows one with those: what was known of a CA stays known, be it under another name.
pub(crate) fn followed_by(
    before: &BTreeMap<UpstreamName, Arc<Watched>>,
    upstreams: Vec<Upstream>,
    now: Timestamp,
) -> BTreeMap<UpstreamName, Arc<Watched>> {
    let mut known = before.clone();
    let keeps_its_name = |upstream: &Upstream| {
        let known = before.get(&upstream.name);
        known.is_some_and(|known| known.upstream.ca_url == upstream.ca_url)
    };
    let (same, others): (Vec<_>, Vec<_>) = upstreams.into_iter().partition(keeps_its_name);
    let mut next = BTreeMap::new();
    for upstream in same.into_iter().chain(others) {
        let mut left = known.values();
        let name = match keeps_its_name(&upstream) {
            true => Some(upstream.name),
            false => left
                .find(|known| known.upstream.ca_url == upstream.ca_url)
                .map(|known| known.name()),
        };
        let watched = match name.and_then(|name| known.remove(&name)) {
            Some(known) => known.followed_by(upstream, now),
            None => Watched::new(upstream, now),
        };
        next.insert(watched.name(), Arc::new(watched));
    }
    next
}

/// What is asked of a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Register,
    Open,
    Advance,
    Revoke,
    RenewalInfo,
    Probe,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Open => "open",
            Self::Advance => "advance",
            Self::Revoke => "revoke",
            Self::RenewalInfo => "renewal",
            Self::Probe => "probe",
        }
    }

    /// The Go program's word for it, if it had one.
    fn roundtrip(self) -> Option<&'static str> {
        match self {
            Self::Register => Some("register"),
            Self::Open | Self::Advance => Some("obtain"),
            Self::Revoke => Some("revoke"),
            Self::RenewalInfo | Self::Probe => None,
        }
    }
}

/// The upstream with its state of health.
pub(crate) struct Watched {
    pub(crate) upstream: Upstream,
    pub(crate) health: Arc<CaHealth>,
}

impl Watched {
    /// Nothing is known of the CA yet, and there is no account there.
    pub(crate) fn new(upstream: Upstream, now: Timestamp) -> Self {
        Self {
            upstream,
            health: Arc::new(CaHealth::failing_since(now)),
        }
    }

    /// The same CA in other settings: what it has asked of us, and how it has done, still holds. Whether there is an
    /// account is to be found out again.
    pub(crate) fn followed_by(&self, upstream: Upstream, now: Timestamp) -> Self {
        if !Arc::ptr_eq(&self.upstream.issuer, &upstream.issuer) {
            self.health.set_unready(now);
        }
        Self {
            upstream,
            health: Arc::clone(&self.health),
        }
    }

    pub(crate) fn name(&self) -> UpstreamName {
        self.upstream.name
    }

    pub(crate) fn issuer(&self) -> &dyn Issuer {
        self.upstream.issuer.as_ref()
    }

    /// Whether this account at the CA is the one of now, as far as that is known.
    pub(crate) fn is_of_now(&self, account: &str) -> bool {
        let current = self.issuer().account();
        account.is_empty() || current.is_none_or(|current| current == account)
    }

    /// The CA has answered as it should what was asked for this account. That of an earlier one may be another CA.
    pub(crate) fn worked_for(&self, account: Option<&str>) {
        if account.is_none_or(|account| self.is_of_now(account)) {
            self.health.worked();
        }
    }

    /// Records how long a request to this CA takes, and what comes of it.
    pub(crate) async fn asked<T>(
        &self,
        context: &Context,
        operation: Operation,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let started = context.clock.instant();
        let result = request.await;
        let took = context.clock.instant().saturating_duration_since(started);
        let metrics = &context.metrics;
        if let Some(roundtrip) = operation.roundtrip() {
            metrics
                .acme_roundtrip_duration
                .with_label_values(&[roundtrip])
                .observe(took.as_secs_f64());
        }
        let (name, upstream) = (self.name(), &metrics.upstream);
        let outcome = match &result {
            Ok(_) => "done",
            Err(Error::Transient {
                says: Says::SlowDown | Says::Away,
                ..
            }) => "rate_limited",
            Err(Error::Transient { .. } | Error::OrderUnseen(_)) => "retry",
            Err(Error::Permanent(_)) => "refused",
            Err(Error::OrderGone(_)) => "gone",
        };
        upstream
            .requests
            .with_label_values(&[name.as_str(), operation.name(), outcome])
            .inc();
        if outcome == "rate_limited" {
            upstream.rate_limited.with_label_values(&[name.as_str()]).inc();
        }
        result
    }

    /// What was asked is going to be asked again.
    pub(crate) fn will_retry(&self, context: &Context) {
        let retries = &context.metrics.upstream.retries;
        retries.with_label_values(&[self.name().as_str()]).inc();
    }
}

/// What the latest answers of the CA mean for all orders there: pauses, the circuit breaker, failover.
pub(crate) struct CaHealth {
    pub(crate) issuing: Arc<Places>,
    pub(crate) revoking: Arc<Places>,
    ready: AtomicBool,
    faults_in_a_row: AtomicU32,
    /// Whether it has worked since that was last taken note of.
    has_worked: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// How many jobs may be under way at a time.
    at_a_time: usize,
    /// Until when the CA wants to be left alone, as far as it has ever said so.
    asked_until: Option<Timestamp>,
    /// Until when the breaker lets nothing through.
    broken_until: Option<Timestamp>,
    /// Since when it has done nothing that was asked of it, or has had no account of ours.
    failing_since: Option<Timestamp>,
    /// When it last failed to do what a job asked.
    last_fault: Option<Timestamp>,
    /// When the account may be asked for again, if the CA has said that.
    prepare_at: Option<Timestamp>,
}

impl State {
    fn paused_until(&self) -> Option<Timestamp> {
        self.asked_until.max(self.broken_until)
    }
}

impl CaHealth {
    fn failing_since(now: Timestamp) -> Self {
        Self {
            issuing: Arc::default(),
            revoking: Arc::default(),
            ready: AtomicBool::new(false),
            faults_in_a_row: AtomicU32::new(0),
            has_worked: AtomicBool::new(false),
            state: Mutex::new(State {
                at_a_time: usize::MAX,
                asked_until: None,
                broken_until: None,
                failing_since: Some(now),
                last_fault: None,
                prepare_at: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is an account at the CA: orders may be worked on.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::SeqCst);
        self.state().failing_since = None;
    }

    /// There is none: nothing is asked of the CA for any order.
    pub(crate) fn set_unready(&self, now: Timestamp) {
        self.ready.store(false, Ordering::SeqCst);
        let mut state = self.state();
        state.failing_since = state.failing_since.or(Some(now));
    }

    /// The account may not be asked for again for so long.
    pub(crate) fn prepare_later(&self, now: Timestamp, wait: Duration) {
        self.state().prepare_at = Some(after(now, wait));
    }

    /// How long the CA is left alone, and how long the account may not be asked for.
    pub(crate) fn waits(&self, now: Timestamp) -> (Duration, Duration) {
        let state = self.state();
        let until = |time: Option<Timestamp>| {
            let wait = time.map(|time| time.duration_since(now).try_into());
            wait.and_then(Result::ok).unwrap_or_default()
        };
        (until(state.paused_until()), until(state.prepare_at))
    }

    /// Until when the CA wants to be left alone, if it has ever said so.
    pub(crate) fn asked_until(&self) -> Option<Timestamp> {
        self.state().asked_until
    }

    /// The CA wants to be left alone until then at least.
    pub(crate) fn asks_until(&self, until: Timestamp) {
        let mut state = self.state();
        state.asked_until = state.asked_until.max(Some(until));
    }

    /// How many more jobs may be started now, if so many of all places are free.
    pub(crate) fn places(&self, free: usize, all: usize, now: Timestamp) -> usize {
        let state = self.state();
        let paused = state.paused_until().is_some_and(|until| until > now);
        if !self.ready.load(Ordering::SeqCst) || paused {
            return 0;
        }
        let under_way = all.saturating_sub(free);
        state.at_a_time.saturating_sub(under_way).min(free)
    }

    /// Whether one probe at a time goes through, and nothing else.
    pub(crate) fn breaker_is_open(&self) -> bool {
        self.faults_in_a_row.load(Ordering::SeqCst) >= BREAKER_THRESHOLD
    }

    /// Whether the CA has failed for at least so long.
    pub(crate) fn has_failed_for(&self, span: Duration, now: Timestamp) -> bool {
        let since = self.state().failing_since;
        since.is_some_and(|since| after(since, span) <= now)
    }

    /// Whether there is an account at the CA, and nothing that speaks against it.
    pub(crate) fn is_well(&self) -> bool {
        self.ready.load(Ordering::SeqCst) && self.state().failing_since.is_none()
    }

    /// Whether the CA has worked since this was last asked.
    pub(crate) fn takes_note_of_work(&self) -> bool {
        self.has_worked.swap(false, Ordering::SeqCst)
    }

    /// The CA has answered a job as it should.
    pub(crate) fn worked(&self) {
        self.faults_in_a_row.store(0, Ordering::SeqCst);
        self.has_worked.store(true, Ordering::SeqCst);
        let mut state = self.state();
        state.at_a_time = state.at_a_time.saturating_add(1);
        state.failing_since = None;
    }

    /// The directory has been looked at. That it answers says little while jobs fail. Gives whether the CA is there, and
    /// how long it asks to be left alone.
    pub(crate) fn probed<T>(&self, answer: &Result<T, Error>, now: Timestamp) -> (bool, Duration) {
        if let Err(Error::Transient {
            retry_after,
            says: says @ (Says::SlowDown | Says::Away),
            ..
        }) = answer
        {
            self.failed(now, *retry_after, *says);
            let is_there = *says == Says::SlowDown;
            return (is_there, retry_after.unwrap_or(RATE_LIMIT_PAUSE));
        }
        let is_up = answer.is_ok();
        let mut state = self.state();
        let quiet = state.last_fault.is_none_or(|last| after(last, QUIET) <= now);
        match is_up {
            false => state.failing_since = state.failing_since.or(Some(now)),
            true if quiet && self.ready.load(Ordering::SeqCst) => state.failing_since = None,
            true => {}
        }
        if is_up && self.ready.load(Ordering::SeqCst) && state.failing_since.is_none() {
            self.has_worked.store(true, Ordering::SeqCst);
        }
        (is_up, Duration::ZERO)
    }

    /// The CA has not answered a job, or asked us to slow down: who does that is there.
    pub(crate) fn failed(&self, now: Timestamp, retry_after: Option<Duration>, says: Says) {
        let (is_to_wait, has_failed) = match says {
            Says::Nothing => return,
            Says::Failing => (false, true),
            Says::SlowDown => (true, false),
            Says::Away => (true, true),
        };
        let faults = self
            .faults_in_a_row
            .fetch_add(1, Ordering::SeqCst)
            .saturating_add(1);
        let mut state = self.state();
        if has_failed {
            state.failing_since = state.failing_since.or(Some(now));
            state.last_fault = Some(now);
        }
        if faults >= BREAKER_THRESHOLD {
            state.at_a_time = 1;
        }
        if is_to_wait {
            let asked = retry_after.unwrap_or(RATE_LIMIT_PAUSE);
            state.asked_until = state.asked_until.max(Some(after(now, asked)));
        } else if faults >= BREAKER_THRESHOLD {
            let pause = backoff(faults - BREAKER_THRESHOLD + 1, PAUSE_CEILING);
            state.broken_until = state.broken_until.max(Some(after(now, pause)));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
