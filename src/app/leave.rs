//! Between the signal to stop and the stop: `/readyz` says no, and all else goes on until the load balancers have noticed.

use std::pin::Pin;

use tokio::time::{Sleep, sleep};

use crate::app::reload::InForce;

/// Whether the daemon has been told to stop, and for how long it still serves.
#[derive(Default)]
pub(crate) struct Leave(Option<Pin<Box<Sleep>>>);

impl Leave {
    /// Whether it has been told already.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_some()
    }

    /// It has been told to stop.
    pub(crate) fn take(&mut self, in_force: &InForce) {
        let delay = in_force.config.shutdown_delay;
        in_force.metrics.health.leaves();
        if !delay.is_zero() {
            tracing::info!("told to stop: /readyz says so, and clients are served for {delay:?} more");
        }
        self.0 = Some(Box::pin(sleep(delay)));
    }

    /// Returns when nobody is served any more; never, unless it has been told to stop.
    pub(crate) async fn is_over(&mut self) {
        match &mut self.0 {
            Some(rest) => rest.await,
            None => std::future::pending().await,
        }
    }
}
