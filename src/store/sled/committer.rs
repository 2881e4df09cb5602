//! The one writer: groups the changes that are waiting, and answers for none of them before it is on the disk.
//!
//! sled's own `flush` is not durable on Linux: it ends in `sync_file_range`, which writes neither file sizes nor extents
//! (spacejam/sled#1452). Hence each group is one batch, a `flush`, and then a sync of sled's log through our own handle.
//! A group is at most 64 kB: syncing only every 276 kB and more left some stores unopenable after simulated power cuts
//! (SECURITY 4.1). The cause is probably that sled overwrites a segment of its log before what replaces it is synced.
//!
//! A failed write or sync is final. The kernel may have dropped the pages that it could not write, so that a second
//! sync would lie; only a restart, which reads the disk again, can tell what is on it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::error;

use crate::acme::job::{Job, Work};
use crate::store::sled::Shared;
use crate::store::sled::keys::{self, Key};
use crate::store::sled::record::{self, Head, Index, View, Writes};
use crate::store::sled::view::{Overlay, Range, failure};
use crate::store::{Lease, Next, StoreError, codec};

/// The most that one group writes, unless a single change is larger.
pub(crate) const GROUP_BYTES: usize = 64 * 1024;

/// What a change costs beyond its bodies and index entries: keys and heads.
const OVERHEAD_BYTES: usize = 512;

/// What an index entry costs that comes or goes. Those of an order's names are hashed, so that each lies in a node of its
/// own: 100 of them take about as much of sled's log as a body of 40 kB.
const ENTRY_BYTES: usize = 384;

/// What a deletion costs: it writes little, but makes sled merge nodes, which it then writes anew.
const DELETION_BYTES: usize = 4096;

/// From so many changes in a group on, there is load.
const LOAD: usize = 3;

/// Makes what was written to sled's log durable.
pub(crate) type Sync = Box<dyn FnMut() -> std::io::Result<()> + Send>;

/// A record to be written.
#[derive(Debug)]
pub(crate) struct Put {
    /// Where.
    pub(crate) key: Key,
    /// The version that is replaced; 0 if there must be none.
    pub(crate) version: u64,
    /// The record.
    pub(crate) body: Vec<u8>,
    /// Its index entries.
    pub(crate) indexes: Vec<Index>,
    /// Index entries, too, but such as no other record may have.
    pub(crate) unique: Vec<Index>,
}

impl Put {
    /// How many index entries come or go if it replaces what there is now.
    fn changed_entries(&self, view: &impl View) -> usize {
        let new = self.indexes.iter().chain(&self.unique);
        let new = new.map(|index| index.key.clone()).collect();
        entries_of(view, &self.key).symmetric_difference(&new).count()
    }
}

/// What a change does to the queue.
#[derive(Debug)]
pub(crate) enum Jobs {
    /// Nothing.
    Untouched,
    /// Adds a job.
    Add(Job),
    /// Nothing, but the lease must be held.
    Held(Lease),
    /// Gives a leased job back.
    Settle(Lease, Next),
}

/// Something that happens whole or not at all.
#[derive(Debug)]
pub(crate) enum Change {
    /// Writes.
    Write {
        /// The record that changes.
        put: Option<Box<Put>>,
        /// Records that never change: written unless they are there.
        constants: Vec<(Key, Vec<u8>)>,
        /// The queue.
        jobs: Jobs,
        /// How many keys there may be at most, before this change, in some ranges.
        bounds: Vec<(Range, usize)>,
    },
    /// Deletes an order of that version, with all that belongs to it.
    Delete {
        /// The order's key.
        key: Key,
        /// Its version.
        version: u64,
    },
}

impl Change {
    /// What it costs in a group, if it replaces or deletes what there is now.
    pub(crate) fn weight(&self, view: &impl View) -> usize {
        let (fixed, bodies, entries) = match self {
            Self::Write { put, constants, .. } => {
                let bodies = put.iter().map(|put| put.body.len());
                let bodies = bodies.chain(constants.iter().map(|(_, body)| body.len()));
                let entries = put.as_ref().map_or(0, |put| put.changed_entries(view));
                (OVERHEAD_BYTES, bodies.sum(), entries)
            }
            Self::Delete { key, .. } => (DELETION_BYTES, 0, entries_of(view, key).len()),
        };
        entries
            .saturating_mul(ENTRY_BYTES)
            .saturating_add(fixed)
            .saturating_add(bodies)
    }
}

/// The record's index entries. None if it can not be read, for which the change will be refused.
fn entries_of(view: &impl View, key: &Key) -> BTreeSet<Key> {
    let head = Head::read(view, key).ok().flatten();
    head.map_or_else(BTreeSet::new, |head| head.indexes.into_iter().collect())
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is on the disk.
    Written,
    /// Another record has one of the unique index entries; nothing was written.
    Taken,
}

/// A change, and who waits for it.
#[derive(Debug)]
pub(crate) struct Request {
    /// The change.
    pub(crate) change: Change,
    /// What it costs in a group.
    pub(crate) weight: usize,
    /// Answered once the change is on the disk, or refused.
    pub(crate) reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// What happens to the queue once a group is on the disk.
enum Effect {
    Add(Job),
    Wait(Job),
    Remove(Work),
}

/// The writer's own state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    sync: Sync,
    requests: Receiver<Request>,
    gather: Duration,
    /// The change that did not fit into the latest group.
    held: Option<Request>,
    /// How many changes the latest group had: so many callers may soon come back.
    crowd: usize,
}

impl Committer {
    /// A writer for these requests.
    pub(crate) fn new(
        shared: Arc<Shared>,
        sync: Sync,
        requests: Receiver<Request>,
        gather: Duration,
    ) -> Self {
        Self {
            shared,
            sync,
            requests,
            gather,
            held: None,
            crowd: 1,
        }
    }

    /// What the change costs in a group.
    pub(crate) fn weight(&self, change: &Change) -> usize {
        change.weight(&self.shared.durable.now())
    }

    /// Writes until nobody is left who could ask for it.
    pub(crate) fn run(mut self) {
        while let Some(group) = self.collect() {
            self.shared.progress.begin();
            let (changes, waiters): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|request| (request.change, request.reply))
                .unzip();
            let written = self.guarded(changes);
            self.shared.progress.end();
            match written {
                Ok(outcomes) => {
                    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                        // A caller that has gone away needs no answer.
                        drop(waiter.send(outcome));
                    }
                }
                Err(cause) => return self.fail(cause, waiters),
            }
        }
    }

    /// Decides each change, and writes those that are accepted. sled panics on some kinds of damage: whatever it had done
    /// by then is not known to be on the disk.
    pub(crate) fn guarded(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        let written = catch_unwind(AssertUnwindSafe(|| self.commit(changes)));
        written.unwrap_or_else(|_| Err(StoreError::Failed("sled panicked".to_owned())))
    }

    /// Takes no more writes.
    fn fail(self, cause: StoreError, waiters: Vec<oneshot::Sender<Result<Outcome, StoreError>>>) {
        error!(error = %cause, "the store takes no more writes");
        let cause = match cause {
            StoreError::Failed(_) => cause,
            other => StoreError::Failed(other.to_string()),
        };
        self.shared.failure.send_replace(Some(cause.clone()));
        let rest = self
            .held
            .into_iter()
            .chain(self.requests)
            .map(|request| request.reply);
        for waiter in waiters.into_iter().chain(rest) {
            drop(waiter.send(Err(cause.clone())));
        }
    }

    /// The next group: all that waits, and under load also what comes soon, so that one sync serves many.
    fn collect(&mut self) -> Option<Vec<Request>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.requests.recv().ok()?,
        };
        let mut bytes = first.weight;
        let mut group = vec![first];
        let deadline = Instant::now() + self.gather;
        while let Some(request) = self.next(group.len(), deadline) {
            bytes = bytes.saturating_add(request.weight);
            if bytes > GROUP_BYTES {
                self.held = Some(request);
                break;
            }
            group.push(request);
        }
        self.crowd = group.len();
        Some(group)
    }

    /// How many changes are worth waiting for: as many as came last time, and under load twice as many, so that groups
    /// grow until the wait is used up.
    fn expected(&self) -> usize {
        match self.crowd >= LOAD {
            true => self.crowd.saturating_mul(2),
            false => self.crowd,
        }
    }

    fn next(&self, gathered: usize, deadline: Instant) -> Option<Request> {
        match self.requests.try_recv() {
            Ok(request) => Some(request),
            Err(TryRecvError::Empty) if gathered < self.expected() => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.requests.recv_timeout(left).ok()
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Decides each change, and writes those that are accepted. Refusals wait for the sync as well: they may rest on
    /// a change of the same group, which nobody can read before.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<Result<Outcome, StoreError>>, StoreError> {
        if let Err(full) = self.shared.room.check_for_any_write() {
            return Ok(changes.iter().map(|_| Err(full.clone())).collect());
        }
        let mut overlay = Overlay::new(&self.shared.tree);
        let mut effects = Vec::new();
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let outcome = self.stage(change, &mut overlay, &mut effects);
            if let Err(cause @ StoreError::Failed(_)) = outcome {
                return Err(cause);
            }
            outcomes.push(outcome);
        }
        let writes = overlay.into_writes();
        if !writes.is_empty() {
            self.write(writes)?;
        }
        let written = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Outcome::Written)));
        let written = written.count().try_into().unwrap_or(u64::MAX);
        self.shared.commits.fetch_add(written, Ordering::Relaxed);
        self.shared.durable.show();
        self.take_effect(effects);
        Ok(outcomes)
    }

    fn write(&mut self, writes: Writes) -> Result<(), StoreError> {
        self.shared.durable.hide(&writes)?;
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.shared.tree.apply_batch(batch).map_err(|e| failure(&e))?;
        self.shared.tree.flush().map_err(|e| failure(&e))?;
        (self.sync)().map_err(|e| StoreError::Failed(format!("syncing sled's log: {e}")))?;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_effect(&self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for effect in effects {
            match effect {
                Effect::Add(job) => queue.add(job),
                Effect::Wait(job) => queue.wait(job),
                Effect::Remove(work) => queue.remove(&work),
            }
        }
        drop(queue);
        self.shared.wake();
    }

    /// Decides one change, on top of those before it. A refused change leaves no trace.
    fn stage(
        &self,
        change: Change,
        overlay: &mut Overlay<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, StoreError> {
        let mut writes = Writes::new();
        match change {
            Change::Write {
                put,
                constants,
                jobs,
                bounds,
            } => {
                for (range, most) in bounds {
                    if overlay.count(range, most)? > most {
                        return Err(StoreError::Conflict);
                    }
                }
                if let Some(put) = put
                    && stage_put(*put, overlay, &mut writes)? == Outcome::Taken
                {
                    return Ok(Outcome::Taken);
                }
                for (key, body) in constants {
                    if overlay.get(&key)?.is_none() {
                        record::replace(overlay, &key, None, &body, &[], &mut writes)?;
                    }
                }
                // Last, because it marks the lease: nothing may refuse the change any more.
                self.stage_jobs(jobs, &mut writes, effects)?;
            }
            Change::Delete { key, version } => self.stage_deletion(&key, version, overlay, &mut writes)?,
        }
        overlay.extend(writes);
        Ok(Outcome::Written)
    }

    fn stage_jobs(
        &self,
        jobs: Jobs,
        writes: &mut Writes,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs {
            Jobs::Untouched => {}
            Jobs::Held(lease) => {
                queue.held(&lease)?;
            }
            Jobs::Add(job) => {
                writes.insert(keys::job(&job.work), Some(codec::encode_job(&job)?.into()));
                if !queue.follow(job) {
                    effects.push(Effect::Add(job));
                }
            }
            Jobs::Settle(lease, next) => {
                let work = lease.job.work;
                let follows = queue.begin_settling(&lease)?;
                let next = match next {
                    Next::Done => None,
                    Next::Again { due, faults } => Some(Job {
                        due,
                        faults,
                        ..lease.job
                    }),
                    Next::Moved { upstream, due } => Some(Job {
                        upstream,
                        due,
                        faults: 0,
                        ..lease.job
                    }),
                };
                let Some(job) = follows.or(next) else {
                    writes.insert(keys::job(&work), None);
                    effects.push(Effect::Remove(work));
                    return Ok(());
                };
                writes.insert(keys::job(&work), Some(codec::encode_job(&job)?.into()));
                effects.push(Effect::Wait(job));
            }
        }
        Ok(())
    }

    fn stage_deletion(
        &self,
        key: &Key,
        version: u64,
        overlay: &Overlay<'_>,
        writes: &mut Writes,
    ) -> Result<(), StoreError> {
        let head = Head::read(overlay, key)?.filter(|head| head.version == version);
        let head = head.ok_or(StoreError::Conflict)?;
        record::delete(key, &head, writes);
        let Some(order) = keys::order_at_end(key) else {
            return Ok(());
        };
        // Jobs that this group has added are not among these, but they would have changed the order's version.
        for job in overlay.stored_keys(&keys::jobs_of(order))? {
            let Some(value) = overlay.get(&job)? else {
                continue;
            };
            if let Some(known) = codec::decode_job(keys::describe(&job), &value)? {
                // At once, so that a settlement in the same group finds its lease lost.
                self.shared
                    .queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&known.work);
                writes.insert(job, None);
            }
        }
        Ok(())
    }
}

fn stage_put(put: Put, overlay: &Overlay<'_>, writes: &mut Writes) -> Result<Outcome, StoreError> {
    let head = Head::read(overlay, &put.key)?;
    if head.as_ref().map_or(0, |head| head.version) != put.version {
        return Err(StoreError::Conflict);
    }
    let mut indexes = put.indexes;
    for unique in put.unique {
        let owner = overlay.get(&unique.key)?;
        if owner.is_some_and(|owner| *owner != *unique.value) {
            return Ok(Outcome::Taken);
        }
        indexes.push(unique);
    }
    record::replace(overlay, &put.key, head.as_ref(), &put.body, &indexes, writes)?;
    Ok(Outcome::Written)
}
