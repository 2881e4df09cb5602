//! The embedded backend: sled 0.34, made durable by a committer of our own.
//!
//! Every write goes through one thread, `committer`, which answers only after an fsync; reads run on the caller's thread
//! and see exactly what is on the disk (`view`). Jobs are indexed and leased in memory (`queue`). What the contract asks
//! for is in `operations`.

mod committer;
mod completion;
mod frozen;
pub(crate) mod keys;
mod moving;
mod open;
mod operations;
mod progress;
pub(crate) mod put;
mod queue;
pub(crate) mod record;
mod restore;
mod room;
#[cfg(test)]
mod tests;
mod view;

use std::fs::File;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot, watch};
use tracing::warn;

use crate::acme::account::Account;
use crate::acme::id::{AccountId, OrderId};
use crate::store::sled::committer::{Change, Committer, Jobs, Outcome, Put, Request, Sync};
use crate::store::sled::keys::Key;
use crate::store::sled::open::Opened;
use crate::store::sled::progress::Progress;
use crate::store::sled::queue::Queue;
use crate::store::sled::record::View as _;
use crate::store::sled::room::Room;
use crate::store::sled::view::{Durable, end_of, failure};
use crate::store::{Entry, Settings, StoreError, Versioned, codec};

/// The embedded store.
#[derive(Debug)]
pub struct SledStore {
    shared: Arc<Shared>,
    requests: Option<Sender<Request>>,
    committer: Option<JoinHandle<()>>,
    path: PathBuf,
    /// Given up last, so that nobody else opens what is not yet closed.
    _lock: File,
}

/// What the callers and the committer share.
#[derive(Debug)]
struct Shared {
    tree: sled::Tree,
    durable: Durable,
    queue: Mutex<Queue>,
    wake: Notify,
    failure: watch::Sender<Option<StoreError>>,
    room: Room,
    progress: Progress,
    syncs: AtomicU64,
    commits: AtomicU64,
}

impl Shared {
    fn wake(&self) {
        self.wake.notify_waiters();
        // One more, for a worker that is just about to wait.
        self.wake.notify_one();
    }
}

impl SledStore {
    /// The file without which a store's directory is none.
    pub const LOG: &str = open::LOG;

    /// The file that says that a store was made in its directory.
    pub const FORMAT: &str = open::FORMAT;

    /// Opens the store in the settings' directory, or makes one if the directory is empty or does not exist. Blocks
    /// while the log is read.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] if another process has it open; [`StoreError::Corrupt`] if it can not be read, or the
    /// directory holds something else; [`StoreError::Failed`] if the disk fails.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        Self::open_with(settings, |log| {
            // Without the file's times, but with its size and extents: all that reading it back takes.
            Box::new(move || log.sync_data())
        })
    }

    /// Makes a store in the settings' directory, which must be empty or not exist, out of the entries of a backup. Blocks
    /// until all of it is on the disk. After an error the directory is of no use.
    ///
    /// # Errors
    ///
    /// The entries', or as [`Self::open`].
    pub fn restore<E: From<StoreError>>(
        settings: &Settings,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<(), E> {
        restore::restore(settings, entries)
    }

    /// Opens the store with another way to sync the log, so that tests can let a sync fail.
    fn open_with(settings: Settings, sync: impl FnOnce(File) -> Sync) -> Result<Self, StoreError> {
        let Opened { db, log, lock } = open::open(&settings)?;
        let tree = sled::Tree::clone(&db);
        let shared = Arc::new(Shared {
            durable: Durable::new(tree.clone()),
            queue: Mutex::new(stored_jobs(&tree)?),
            tree,
            wake: Notify::new(),
            failure: watch::Sender::new(None),
            room: Room::new(settings.path.clone(), settings.reserve_bytes),
            progress: Progress::default(),
            syncs: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        });
        let (requests, received) = channel();
        let mut committer = Committer::new(Arc::clone(&shared), sync(log), received, settings.gather);
        completion::complete(&shared, &mut committer)?;
        let thread = thread::Builder::new().name("committer".to_owned());
        let thread = thread.spawn(move || committer.run());
        let thread = thread.map_err(|e| StoreError::Failed(format!("starting the committer: {e}")))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            committer: Some(thread),
            path: settings.path,
            _lock: lock,
        })
    }

    /// Hands a change to the committer, whose answer comes once the change is on the disk.
    fn send(&self, change: Change) -> oneshot::Receiver<Result<Outcome, StoreError>> {
        let weight = change.weight(&self.shared.durable.now());
        let (reply, answer) = oneshot::channel();
        if let Some(requests) = &self.requests {
            // A committer that has ended drops the request, which the receiver sees.
            drop(requests.send(Request {
                change,
                weight,
                reply,
            }));
        }
        answer
    }

    async fn submit(&self, change: Change) -> Result<Outcome, StoreError> {
        let answer = self.send(change).await;
        answer.unwrap_or_else(|_| Err(self.cause_of_failure()))
    }

    async fn write(
        &self,
        put: Option<Put>,
        constants: Vec<(Key, Vec<u8>)>,
        jobs: Jobs,
    ) -> Result<(), StoreError> {
        let put = put.map(Box::new);
        let change = Change::Write {
            put,
            constants,
            jobs,
            bounds: Vec::new(),
        };
        self.taken_is_conflict(change).await
    }

    /// Submits a change that nobody else's unique index entry may stand in the way of.
    async fn taken_is_conflict(&self, change: Change) -> Result<(), StoreError> {
        match self.submit(change).await? {
            Outcome::Written => Ok(()),
            Outcome::Taken => Err(StoreError::Conflict),
        }
    }

    fn cause_of_failure(&self) -> StoreError {
        let cause = self.shared.failure.borrow().clone();
        cause.unwrap_or_else(|| StoreError::Failed("the committer has ended".to_owned()))
    }

    fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Versioned<T>>, StoreError> {
        let stored = record::read(&self.shared.durable.now(), key)?;
        stored.map(|stored| decoded(key, &stored)).transpose()
    }

    /// The account that an index entry leads to.
    fn account_at(&self, index: &Key) -> Result<Option<Versioned<Account>>, StoreError> {
        let view = self.shared.durable.now();
        let Some(id) = view.get(index)? else {
            return Ok(None);
        };
        let id = id.first_chunk::<16>().copied();
        let id =
            id.ok_or_else(|| StoreError::Corrupt(format!("{} can not be read", keys::describe(index))))?;
        let key = keys::account(AccountId::from_bytes(id));
        let stored = record::read(&view, &key)?;
        stored.map(|stored| decoded(&key, &stored)).transpose()
    }

    /// The keys that begin with this and are greater than `after`, in order, at most `limit`.
    fn listed(&self, prefix: Key, after: Option<Key>, limit: usize) -> Result<Vec<Key>, StoreError> {
        let end = end_of(&prefix);
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        Ok(self.shared.durable.now().keys((from, end), limit)?.collect())
    }

    /// The order that an index entry leads to.
    fn order_at(&self, index: &Key) -> Result<Option<OrderId>, StoreError> {
        let found = self.shared.durable.now().get(index)?;
        found.map(|id| named_by(&id, index)).transpose()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(committer) = self.committer.take() {
            // It panics nowhere outside of its own guard; and if it did, there would be nothing left to do.
            drop(committer.join());
        }
    }
}

fn decoded<T: DeserializeOwned>(key: &Key, stored: &Versioned<Vec<u8>>) -> Result<Versioned<T>, StoreError> {
    Ok(Versioned {
        value: codec::decode(keys::describe(key), &stored.value)?,
        version: stored.version,
    })
}

fn stored_jobs(tree: &sled::Tree) -> Result<Queue, StoreError> {
    let mut queue = Queue::default();
    let mut unknown = 0_u64;
    for entry in tree.scan_prefix(keys::jobs()) {
        let (key, value) = entry.map_err(|e| failure(&e))?;
        match codec::decode_job(keys::describe(&key), &value)? {
            Some(job) => queue.wait(job),
            None => unknown = unknown.saturating_add(1),
        }
    }
    if unknown > 0 {
        warn!(
            store.jobs = unknown,
            "jobs of a kind that this version does not know are left alone"
        );
    }
    Ok(queue)
}

fn named_by(index: &[u8], key: &Key) -> Result<OrderId, StoreError> {
    named(keys::order_at_end(index), key)
}

/// What was read from the key.
fn named<T>(id: Option<T>, key: &Key) -> Result<T, StoreError> {
    id.ok_or_else(|| StoreError::Corrupt(format!("{} can not be read", keys::describe(key))))
}
