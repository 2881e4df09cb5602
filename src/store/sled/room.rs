//! Room on the file system. New accounts and orders stop at the reserve, so that what is under way can be finished; all
//! writes stop at an eighth of it, because sled does not survive a write that fails for want of space.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::statvfs;
use tokio::time::Instant;

use crate::store::StoreError;

/// How long a look at the file system counts for callers, of whom there are many.
const FRESH: Duration = Duration::from_secs(1);

/// The part of the reserve that not even work under way may touch.
const FLOOR: u64 = 8;

/// Watches the file system of a directory.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    reserve: u64,
    seen: Mutex<Option<(Instant, u64)>>,
}

impl Room {
    /// Watches the file system of this directory.
    pub(crate) fn new(path: PathBuf, reserve: u64) -> Self {
        Self {
            path,
            reserve,
            seen: Mutex::default(),
        }
    }

    /// Whether there is room for new accounts and orders.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let seen = *self.seen();
        match seen {
            Some((at, free)) if at.elapsed() < FRESH => self.require(free, self.reserve),
            Some(_) | None => self.require(self.look()?, self.reserve),
        }
    }

    /// Whether there is room for anything at all, as of now.
    pub(crate) fn check_for_any_write(&self) -> Result<(), StoreError> {
        self.require(self.look()?, self.reserve / FLOOR)
    }

    /// Free bytes; 0 if the file system does not tell.
    pub(crate) fn free(&self) -> u64 {
        self.look().unwrap_or_default()
    }

    fn require(&self, free: u64, needed: u64) -> Result<(), StoreError> {
        match free < needed {
            true => Err(StoreError::Full {
                free,
                reserve: self.reserve,
            }),
            false => Ok(()),
        }
    }

    fn look(&self) -> Result<u64, StoreError> {
        let answer = statvfs(&self.path).map_err(|e| {
            StoreError::Failed(format!("asking for free space of {}: {e}", self.path.display()))
        })?;
        let free = answer.f_bavail.saturating_mul(answer.f_frsize);
        *self.seen() = Some((Instant::now(), free));
        Ok(free)
    }

    fn seen(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
