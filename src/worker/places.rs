//! How many jobs of a lane are under way. Those of a worker that a reload has retired count, too, until they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The places of a lane.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: AtomicUsize,
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// How many are free of so many.
    pub(crate) fn free(&self, all: usize) -> usize {
        all.saturating_sub(self.taken())
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn take(self: &Arc<Self>) -> Place {
        self.taken.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}
