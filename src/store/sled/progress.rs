//! Whether the committer gets on. A disk may hang without an error, and then reads still work: only this tells.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::StoreError;

/// A group that is not on the disk after so long waits for a disk that hangs: it is a fraction of a second elsewhere.
const STALLED: Duration = Duration::from_secs(30);

/// Since when the committer has been writing its group; nothing if it has none.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<Instant>>);

impl Progress {
    /// A group is about to be written.
    pub(crate) fn begin(&self) {
        *self.since() = Some(Instant::now());
    }

    /// It is on the disk, or never will be.
    pub(crate) fn end(&self) {
        *self.since() = None;
    }

    /// Whether writes reach the disk.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.since().map(|since| since.elapsed()) {
            Some(taken) if taken > STALLED => Err(StoreError::Stalled {
                seconds: taken.as_secs(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
