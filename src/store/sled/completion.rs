//! Index entries that an earlier version did not write: made once, when the store is opened. A mark in the store tells up
//! to which generation of entries it is complete.
//!
//! All is written by the committer, in groups of its size, and the mark comes last: whoever is killed on the way begins
//! anew, and finds what was done before.

use std::ops::Bound;

use tracing::{info, warn};

use crate::acme::order::Order;
use crate::store::sled::committer::{Change, Committer, GROUP_BYTES, Jobs, Outcome, Put};
use crate::store::sled::keys::{self, Key};
use crate::store::sled::put::order_put;
use crate::store::sled::record::{self, Head, View, Writes};
use crate::store::sled::view::end_of;
use crate::store::sled::{Shared, decoded};
use crate::store::{StoreError, codec};

/// To be raised when [`order_put`] gives entries that it did not give before. 1: orders by the names that they count for.
const GENERATION: u32 = 1;

/// How many orders are looked for at a time.
const PAGE: usize = 100;

/// The mark of a store that has nothing in it yet.
pub(crate) fn mark(view: &impl View) -> Result<Writes, StoreError> {
    let mut writes = Writes::new();
    let body = codec::encode(&GENERATION)?;
    record::replace(view, &keys::complete(), None, &body, &[], &mut writes)?;
    Ok(writes)
}

/// Makes the index entries that are missing, unless the mark says that none are.
///
/// # Errors
///
/// The store's. A full disk is none: it is done the next time.
pub(crate) fn complete(shared: &Shared, committer: &mut Committer) -> Result<(), StoreError> {
    let key = keys::complete();
    let mark = record::read(&shared.durable.now(), &key)?;
    let version = mark.as_ref().map_or(0, |mark| mark.version);
    let mark = mark.map(|mark| decoded::<u32>(&key, &mark)).transpose()?;
    if mark.is_some_and(|mark| mark.value >= GENERATION) {
        return Ok(());
    }
    let mut group = Group::default();
    let mut from = Bound::Included(keys::orders());
    loop {
        let range = (from, end_of(&keys::orders()));
        let page: Vec<Key> = shared.durable.now().keys(range, PAGE)?.collect();
        let Some(last) = page.last() else { break };
        from = Bound::Excluded(last.clone());
        for order in &page {
            match incomplete(shared, order) {
                Ok(Some(put)) => group.add(put, committer)?,
                Ok(None) => {}
                // It is met, and said, whenever the order is asked for; all others are not to wait for it.
                Err(StoreError::Corrupt(_)) => group.left_alone += 1,
                Err(error) => return Err(error),
            }
        }
    }
    group.write(committer)?;
    let Group {
        completed,
        left_alone,
        is_full,
        ..
    } = group;
    if is_full {
        warn!("the store's file system is full: orders of an earlier version do not all count for per_name");
        return Ok(());
    }
    let mut mark = Group::default();
    let put = Put {
        key,
        version,
        body: codec::encode(&GENERATION)?,
        indexes: Vec::new(),
        unique: Vec::new(),
    };
    mark.add(put, committer)?;
    mark.write(committer)?;
    if completed + left_alone > 0 {
        info!(
            store.completed = completed,
            store.left_alone = left_alone,
            "the orders of an earlier version are indexed as those of this one"
        );
    }
    Ok(())
}

/// The order as it is, with all its index entries, if it lacks one.
fn incomplete(shared: &Shared, key: &Key) -> Result<Option<Put>, StoreError> {
    let view = shared.durable.now();
    let (Some(head), Some(stored)) = (Head::read(&view, key)?, record::read(&view, key)?) else {
        return Ok(None);
    };
    let order = decoded::<Order>(key, &stored)?;
    let put = order_put(&order.value, order.version)?;
    let is_whole = put.indexes.iter().all(|index| head.indexes.contains(&index.key));
    Ok((!is_whole).then_some(put))
}

/// What is written together.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    bytes: usize,
    completed: u64,
    left_alone: u64,
    is_full: bool,
}

impl Group {
    fn add(&mut self, put: Put, committer: &mut Committer) -> Result<(), StoreError> {
        let change = Change::Write {
            put: Some(Box::new(put)),
            constants: Vec::new(),
            jobs: Jobs::Untouched,
            bounds: Vec::new(),
        };
        let weight = committer.weight(&change);
        if self.bytes + weight > GROUP_BYTES {
            self.write(committer)?;
        }
        self.bytes += weight;
        self.changes.push(change);
        Ok(())
    }

    fn write(&mut self, committer: &mut Committer) -> Result<(), StoreError> {
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return Ok(());
        }
        for outcome in committer.guarded(changes)? {
            match outcome {
                Ok(Outcome::Written) => self.completed += 1,
                Ok(Outcome::Taken) => self.left_alone += 1,
                Err(StoreError::Full { .. }) => self.is_full = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
