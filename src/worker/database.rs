//! What only a database that replicas share has: a clock of its own, faults, and times in which it is away.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use crate::acme::order::Order;
use crate::metrics::{Metrics, raise_to};
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

/// Makes a change as soon as the database is there and lets us in: its password may be changed at the moment. If another
/// process has taken the job over by then, it fails.
async fn kept<T, F>(change: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    loop {
        match change().await {
            Err(StoreError::Unavailable(_) | StoreError::Refused(_)) if begun.elapsed() < PATIENCE => {
                sleep(PAUSE).await;
            }
            changed => return changed,
        }
    }
}

/// Shows how often each fault was met.
pub(crate) fn show_faults(metrics: &Metrics) {
    for (label, count) in fault::counts() {
        raise_to(&metrics.store_faults.with_label_values(&[label]), count);
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
        show_faults(&context.metrics);
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
        self.found(ahead, &context.metrics);
    }

    /// Shows how far the database's clock is ahead. Each difference is counted, and the first of a row is said.
    fn found(&mut self, ahead: SignedDuration, metrics: &Metrics) {
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::sync::{Arc, Mutex};

    /// What is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn f45_clocks_that_differ_are_said_once_and_counted_each_time() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let _here = tracing::subscriber::set_default(subscriber);
        let said = || {
            let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            log.matches(Fault::ClockSkew.sentence()).count()
        };
        let counted = || {
            let counts = fault::counts();
            let mut of_clocks = counts.iter().filter(|(label, _)| *label == "clock_skew");
            of_clocks.next().unwrap().1
        };
        let metrics = Metrics::new().unwrap();
        let mut watch = DatabaseWatch::default();
        let begin = counted();
        for (seconds, times, count) in [(5, 0, 0), (-6, 1, 1), (7, 1, 2), (-5, 1, 2), (6, 2, 3)] {
            watch.found(SignedDuration::from_secs(seconds), &metrics);
            assert_eq!((said(), counted() - begin), (times, count), "{seconds} s");
            assert_eq!(metrics.store_clock_offset.get().to_string(), seconds.to_string());
        }
    }
}
