//! What only a database that replicas share has: a clock of its own, faults, and times in which it is away.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics::raise_to;
use crate::store::postgres::fault::{self, Fault};
use crate::store::{Lease, Settlement, StoreError};
use crate::worker::{Context, LEASE};

/// How often the clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// An answer that takes longer says nothing about the time.
const ANSWER: Duration = Duration::from_secs(1);

/// Clocks that follow time servers differ by milliseconds. Leases and nonces do not mind, for they go by the database's
/// clock; the ends of orders and certificates, which go by ours, become visible at other times on each replica.
const TOLERATED: SignedDuration = SignedDuration::from_secs(5);

/// How long to wait before a job is given back again.
const PAUSE: Duration = Duration::from_secs(1);

/// Gives a job back. While the database is away, what the work has found out waits for it: otherwise nobody could go on
/// with the job before its lease has run out.
pub(crate) async fn give_back(
    context: &Context,
    lease: &Lease,
    settlement: Settlement,
) -> Result<(), StoreError> {
    let begun = Instant::now();
    loop {
        match context.store.settle(lease.clone(), settlement.clone()).await {
            Err(StoreError::Unavailable(_)) if begun.elapsed() < LEASE => sleep(PAUSE).await,
            settled => return settled,
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
