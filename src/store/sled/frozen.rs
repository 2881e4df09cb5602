//! The tree as it was at one moment, while the committer goes on: for backups, whose reading takes too long to hold up all
//! writes.
//!
//! Before a batch replaces values, the committer hands the old ones to every frozen view ([`Kept::keep`]), and these prefer
//! them. Both take the view's lock, so that a part of the tree is read between two batches.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sled::{IVec, Tree};

use crate::store::sled::keys::{self, Key};
use crate::store::sled::view::{Undo, failure};
use crate::store::{Entry, Snapshot, StoreError};

/// How many entries are read at a time. The committer waits for them: some milliseconds.
const AT_A_TIME: usize = 256;

/// How much may be kept of what was overwritten, in bytes.
const MAX_KEPT: usize = 256 << 20;

/// What an entry costs beyond its key and its value.
const OVERHEAD: usize = 96;

/// The tree as it was.
#[derive(Debug)]
pub(crate) struct Frozen {
    tree: Tree,
    kept: Arc<Mutex<Kept>>,
}

/// What has been overwritten since, as far as it is still to be read.
#[derive(Debug)]
pub(crate) struct Kept {
    old: Undo,
    bytes: usize,
    /// The key up to which everything has been read.
    read: Option<Key>,
    overtaken: bool,
}

impl Kept {
    /// A batch that replaces these values is under way.
    pub(crate) fn of(old: Undo) -> Self {
        Self {
            bytes: old.iter().map(weight).sum(),
            old,
            read: None,
            overtaken: false,
        }
    }

    /// Takes note of values that are about to be replaced.
    pub(crate) fn keep(&mut self, undo: &Undo) {
        if self.overtaken {
            return;
        }
        for entry in undo {
            let (key, old) = entry;
            let is_read = self.read.as_ref().is_some_and(|read| key <= read);
            if !is_read && !self.old.contains_key(key) {
                self.old.insert(key.clone(), old.clone());
                self.bytes = self.bytes.saturating_add(weight(entry));
            }
        }
        if self.bytes > MAX_KEPT {
            self.overtaken = true;
            self.old = Undo::new();
        }
    }

    /// Forgets what stands at keys up to this one.
    fn read_up_to(&mut self, last: Key) {
        let mut later = self.old.split_off(&last);
        if let Some(old) = later.remove(&last) {
            self.old.insert(last.clone(), old);
        }
        let forgotten: usize = self.old.iter().map(weight).sum();
        self.bytes = self.bytes.saturating_sub(forgotten);
        self.old = later;
        self.read = Some(last);
    }
}

fn weight((key, old): (&Key, &Option<IVec>)) -> usize {
    key.len() + old.as_ref().map_or(0, |old| old.len()) + OVERHEAD
}

impl Frozen {
    /// The tree before what is kept.
    pub(crate) fn new(tree: Tree, kept: Arc<Mutex<Kept>>) -> Self {
        Self { tree, kept }
    }

    /// The next entries; `None` at the end.
    fn read(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.overtaken {
            return Err(StoreError::Overtaken);
        }
        let from = kept.read.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: BTreeMap<Key, IVec> = BTreeMap::new();
        for entry in self.tree.range((from.clone(), Bound::Unbounded)).take(AT_A_TIME) {
            let (key, value) = entry.map_err(|e| failure(&e))?;
            found.insert(key.to_vec(), value);
        }
        // Up to its end, the tree is known. What has been deleted from it is in what was kept.
        let is_end = found.len() < AT_A_TIME;
        let last = match (found.keys().next_back(), is_end) {
            (Some(last), false) => Bound::Included(last.clone()),
            (Some(_) | None, _) => Bound::Unbounded,
        };
        for (key, old) in kept.old.range((from, last.clone())) {
            match old {
                Some(old) => found.insert(key.clone(), old.clone()),
                None => found.remove(key),
            };
        }
        let Some(reached) = (match last {
            Bound::Included(last) => Some(last),
            Bound::Excluded(_) | Bound::Unbounded => found.keys().next_back().cloned(),
        }) else {
            return Ok(None);
        };
        kept.read_up_to(reached);
        drop(kept);
        // Each store has an identity of its own.
        found.remove(&keys::identity());
        let entry = |(key, value): (Key, IVec)| Entry {
            key,
            value: value.to_vec(),
        };
        Ok(Some(found.into_iter().map(entry).collect()))
    }
}

#[async_trait]
impl Snapshot for Frozen {
    async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        while let Some(entries) = self.read()? {
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }
}
