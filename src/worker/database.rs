//! What only a database that replicas share has: a clock of its own, faults, and times in which it is away.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use crate::acme::order::Order;
use crate::metrics::raise_to;
use crate::store::postgres::fault::{self, Fault};
use crate::store::{Lease, Settlement, StoreError, Versioned};
use crate::worker::Context;

/// How often the clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// An answer that takes longer says nothing about the time.
const ANSWER: Duration = Duration::from_secs(1);

/// Clocks that follow time servers differ by milliseconds. Leases and nonces do not mind, for they go by the database's
/// clock; the ends of orders and certificates, which go by ours, become visible at other times on each replica.
const TOLERATED: SignedDuration = SignedDuration::from_secs(5);

/// How long what was found out waits for the database: longer than a failover takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// How long to wait before the database is asked again.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Gives a job back, however long the database is away.
pub(crate) async fn give_back(
    context: &Context,
    lease: &Lease,
    settlement: Settlement,
) -> Result<(), StoreError> {
    kept(|| context.store.settle(lease.clone(), settlement.clone())).await
}

/// Stores an order in the midst of a job, however long the database is away: what the CA was asked for is not to be asked
/// for once more.
pub(crate) async fn checkpoint(
    context: &Context,
    lease: &Lease,
    order: Versioned<Order>,
) -> Result<Versioned<Order>, StoreError> {
    kept(|| context.store.checkpoint(lease, order.clone())).await
}

/// Makes a change as soon as the database is there. If another process has taken the job over by then, it fails.
async fn kept<T, F>(change: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    loop {
        match change().await {
            Err(StoreError::Unavailable(_)) if begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            changed => return changed,
        }
    }
}

/// What was seen last.
#[derive(Default)]
pub(crate) struct DatabaseWatch {
    compared: Option<Instant>,
    differs: bool,
}

impl DatabaseWatch {
    /// Brings the figures up to date.
    pub(crate) async fn look(&mut self, context: &Context) {
        let faults = &context.metrics.store_faults;
        for (label, count) in fault::counts() {
            raise_to(&faults.with_label_values(&[label]), count);
        }
        if context.store.shared().is_none() {
            return;
        }
        if self
            .compared
            .is_none_or(|compared| compared.elapsed() >= COMPARE_EVERY)
        {
            self.compare(context).await;
        }
    }

    async fn compare(&mut self, context: &Context) {
        let before = context.clock.now();
        let Ok(Ok(Some(theirs))) = timeout(ANSWER, context.store.time()).await else {
            return;
        };
        let took = context.clock.now().duration_since(before);
        let ahead = theirs.duration_since(before) - took / 2;
        self.compared = Some(Instant::now());
        let metrics = &context.metrics;
        metrics.store_clock_offset.set(ahead.as_secs_f64());
        let differs = ahead.abs() > TOLERATED;
        if differs {
            fault::note(Fault::ClockSkew);
        }
        if differs && !self.differs {
            tracing::warn!(
                seconds = ahead.as_secs_f64(),
                "the database's clock is ahead of this host's by so much: {}",
                Fault::ClockSkew.sentence()
            );
        }
        self.differs = differs;
    }
}
