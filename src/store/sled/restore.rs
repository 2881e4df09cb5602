//! A new store out of a backup's entries.

use crate::store::sled::keys;
use crate::store::sled::open::{self, Opened};
use crate::store::sled::view::failure;
use crate::store::{Entry, Settings, StoreError};

/// How many bytes are written at a time. Nothing has to survive a crash on the way: it is begun anew.
const BATCH: usize = 1 << 20;

/// How many entries a new store has: its identity, and the mark of its indexes.
const IN_A_NEW_ONE: usize = 2;

/// Makes a store in the settings' directory, which must be empty or not exist, with these entries.
pub(crate) fn restore<E: From<StoreError>>(
    settings: &Settings,
    entries: impl Iterator<Item = Result<Entry, E>>,
) -> Result<(), E> {
    let Opened { db, log, lock } = open::open(settings)?;
    if db.len() != IN_A_NEW_ONE {
        let path = settings.path.display();
        return Err(StoreError::Failed(format!("{path} is not empty")).into());
    }
    // What comes in may be an earlier version's.
    db.remove(keys::complete()).map_err(|e| failure(&e))?;
    let mut batch = sled::Batch::default();
    let mut bytes = 0;
    for entry in entries {
        let Entry { key, value } = entry?;
        // Each store has an identity of its own.
        if key == keys::identity() {
            continue;
        }
        bytes += key.len() + value.len();
        batch.insert(key, value);
        if bytes > BATCH {
            db.apply_batch(std::mem::take(&mut batch))
                .map_err(|e| failure(&e))?;
            bytes = 0;
        }
    }
    db.apply_batch(batch).map_err(|e| failure(&e))?;
    db.flush().map_err(|e| failure(&e))?;
    log.sync_all()
        .map_err(|e| StoreError::Failed(format!("syncing sled's log: {e}")))?;
    drop(db);
    drop(lock);
    Ok(())
}
