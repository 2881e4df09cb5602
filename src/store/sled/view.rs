//! What readers see: the writes that are on the disk, and no others.
//!
//! sled shows a batch to readers as soon as it is applied, milliseconds before it is synced. Until then the values that
//! the batch has replaced are kept in [`Undo`], and readers prefer them. A reader holds the lock for as long as it reads
//! one record, so it never sees half of a batch either.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};

use sled::{IVec, Tree};

use crate::store::StoreError;
use crate::store::sled::frozen::{Frozen, Kept};
use crate::store::sled::keys::Key;
use crate::store::sled::record::{View, Writes};

/// From one key to another.
pub(crate) type Range = (Bound<Key>, Bound<Key>);

/// The values that the batch under way replaces; `None` for keys that did not exist.
pub(crate) type Undo = BTreeMap<Key, Option<IVec>>;

/// The tree as readers see it.
#[derive(Debug)]
pub(crate) struct Durable {
    tree: Tree,
    undo: RwLock<Undo>,
    frozen: Mutex<Vec<Weak<Mutex<Kept>>>>,
}

impl Durable {
    /// Everything in the tree is on the disk.
    pub(crate) fn new(tree: Tree) -> Self {
        Self {
            tree,
            undo: RwLock::default(),
            frozen: Mutex::default(),
        }
    }

    /// The durable state of this moment, whatever is written from now on.
    pub(crate) fn freeze(&self) -> Frozen {
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        // What is hidden is not on the disk yet, and the committer hides nothing more while this lock is held.
        let undo = self.undo.read().unwrap_or_else(PoisonError::into_inner);
        let kept = Arc::new(Mutex::new(Kept::of(undo.clone())));
        frozen.push(Arc::downgrade(&kept));
        Frozen::new(self.tree.clone(), kept)
    }

    /// A view that does not change while it is held, which must not be for long: the committer waits for it.
    pub(crate) fn now(&self) -> Reader<'_> {
        Reader {
            tree: &self.tree,
            undo: self.undo.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Hides the writes that are about to be applied.
    pub(crate) fn hide(&self, writes: &Writes) -> Result<(), StoreError> {
        let old = |key: &Key| Ok((key.clone(), self.tree.get(key).map_err(|e| failure(&e))?));
        let undo = writes.keys().map(old).collect::<Result<Undo, StoreError>>()?;
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        frozen.retain(|kept| match kept.upgrade() {
            Some(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.keep(&undo);
                true
            }
            None => false,
        });
        *self.undo.write().unwrap_or_else(PoisonError::into_inner) = undo;
        Ok(())
    }

    /// The writes that were hidden are on the disk.
    pub(crate) fn show(&self) {
        self.undo.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A view of the durable state at one moment.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    tree: &'a Tree,
    undo: RwLockReadGuard<'a, Undo>,
}

impl View for Reader<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.undo.get(key) {
            Some(old) => Ok(old.clone()),
            None => self.tree.get(key).map_err(|e| failure(&e)),
        }
    }
}

impl Reader<'_> {
    /// The first keys in a range, at most `limit`.
    pub(crate) fn keys(
        &self,
        range: Range,
        limit: usize,
    ) -> Result<impl Iterator<Item = Key> + use<>, StoreError> {
        let hidden = self.undo.range(range.clone()).filter(|(_, old)| old.is_some());
        let mut keys: BTreeSet<Key> = hidden.map(|(key, _)| key.clone()).collect();
        let mut found = 0;
        let mut stored = self.tree.range(range).keys();
        while found < limit {
            let Some(key) = stored.next() else { break };
            let key = key.map_err(|e| failure(&e))?;
            if !self.undo.contains_key(key.as_ref()) {
                keys.insert(key.to_vec());
                found += 1;
            }
        }
        Ok(keys.into_iter().take(limit))
    }
}

/// The range of the keys that begin with this.
pub(crate) fn beginning_with(prefix: &Key) -> Range {
    (Bound::Included(prefix.clone()), end_of(prefix))
}

/// Where the range of the keys that begin with this ends.
pub(crate) fn end_of(prefix: &Key) -> Bound<Key> {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// The tree as the next change of a group sees it: with the changes before it.
#[derive(Debug)]
pub(crate) struct Overlay<'a> {
    tree: &'a Tree,
    writes: Writes,
}

impl<'a> Overlay<'a> {
    /// The tree as it is.
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            writes: Writes::new(),
        }
    }

    /// Takes in the writes of one change.
    pub(crate) fn extend(&mut self, writes: Writes) {
        self.writes.extend(writes);
    }

    /// All writes so far.
    pub(crate) fn into_writes(self) -> Writes {
        self.writes
    }

    /// How many keys there are in the range. One more than `most` stands for all that are more.
    pub(crate) fn count(&self, range: Range, most: usize) -> Result<usize, StoreError> {
        let written = self.writes.range(range.clone());
        let mut count = written.filter(|(_, value)| value.is_some()).count();
        for key in self.tree.range(range).keys() {
            if count > most {
                break;
            }
            let key = key.map_err(|e| failure(&e))?;
            count += usize::from(!self.writes.contains_key(key.as_ref()));
        }
        Ok(count)
    }

    /// The keys that begin with this, without those of earlier changes in the group.
    pub(crate) fn stored_keys(&self, prefix: &Key) -> Result<Vec<Key>, StoreError> {
        let keys = self.tree.scan_prefix(prefix).keys();
        keys.map(|key| key.map(|key| key.to_vec()).map_err(|e| failure(&e)))
            .collect()
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.tree.get(key).map_err(|e| failure(&e)),
        }
    }
}

/// sled's error as ours.
pub(crate) fn failure(error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { .. } => StoreError::Corrupt(error.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}
