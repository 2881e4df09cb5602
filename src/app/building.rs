//! A new store: built in a directory inside its own, and then put in its place. It comes to be whole, or not at all.
//!
//! What a migration that was killed has left is known by the directory it was built in, and by the list of what was moved
//! out of it; the next one removes that and nothing else.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::app::control::{LOST_AND_FOUND, check_owner, is_missing};
use crate::store::Settings;
use crate::store::sled::SledStore;

/// The directory inside the store's own in which `acme-proxy restore` builds it.
pub(crate) const RESTORE: &str = "restore.partial";

/// The same of `acme-proxy migrate`.
const MIGRATION: &str = "migrate.partial";

/// What is about to be moved out of the directory in which the store was built, a name a line. What is in the list and not
/// there any more has been moved.
const LIST: &str = "moving";

/// Of whoever has the store open.
const LOCK: &str = "lock";

/// Whether a store can be made in this directory, where there is none.
///
/// # Errors
///
/// Why not, and what to do.
pub(crate) fn check_no_store(store: &Path) -> anyhow::Result<()> {
    let exists = |name: &str| store.join(name).symlink_metadata().is_ok();
    if exists(RESTORE) {
        bail!(
            "{} exists: another restore is under way, or one has broken off; then empty the directory {}",
            store.join(RESTORE).display(),
            store.display()
        );
    }
    if exists(MIGRATION) {
        bail!(
            "{} exists: a migration is under way, or one was cut off; then give the same acme-proxy migrate again, or \
             empty the directory {}",
            store.join(MIGRATION).display(),
            store.display()
        );
    }
    if store.is_symlink() && !store.exists() {
        bail!(
            "{} is a symbolic link that leads nowhere: make what it leads to, or remove it",
            store.display()
        );
    }
    if !is_missing(store) {
        bail!(
            "there is a store {} already, perhaps of a daemon that runs: stop it and move the directory away first; \
             where it can not be moved, as a mounted file system, move what is in it",
            store.display()
        );
    }
    check_owner(store)
}

/// Makes the store, which is built in a directory of this name first.
pub(crate) fn make_store(
    settings: &Settings,
    name: &str,
    build: impl FnOnce(&Settings) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let store = &settings.path;
    let building = store.join(name);
    let is_new = !store.exists();
    let inside = Settings {
        path: building.clone(),
        ..settings.clone()
    };
    let mut moved = Vec::new();
    let made = build(&inside).and_then(|()| take_out(&building, store, &mut moved));
    // Of what has failed nothing stays, except what was here before. sled's log goes first, as it comes last.
    if made.is_err() {
        for path in moved.iter().rev() {
            drop(remove(path));
        }
    }
    drop(remove_building(&building));
    if made.is_err() && is_new {
        drop(fs::remove_dir(store));
    }
    made?;
    sync_parent(store)
}

/// Moves the store that was built inside its directory to its place. The directory itself may not be replaced: it may be
/// a mount point. sled's log comes last: without it nobody takes what is there for a store, nor makes a new one in it.
fn take_out(building: &Path, store: &Path, moved: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let failed = || format!("the store can not be moved from {}", building.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(building).with_context(failed)? {
        names.push(entry.with_context(failed)?.file_name());
    }
    // Whoever has opened it has its own.
    names.retain(|name| name != LOCK);
    names.sort_by_key(|name| name == SledStore::LOG);
    write_list(building, &names).with_context(failed)?;
    sync(building)?;
    for name in names {
        if name == SledStore::LOG {
            sync(store)?;
        }
        let place = store.join(&name);
        renameat_with(CWD, building.join(&name), CWD, &place, RenameFlags::NOREPLACE)
            .with_context(|| format!("{} can not be made", place.display()))?;
        moved.push(place);
    }
    sync(store)
}

fn write_list(building: &Path, names: &[OsString]) -> std::io::Result<()> {
    let mut list = File::create_new(building.join(LIST))?;
    for name in names {
        list.write_all(name.as_bytes())?;
        list.write_all(b"\n")?;
    }
    list.sync_all()
}

/// The list goes first: what goes after it was not moved.
fn remove_building(building: &Path) -> std::io::Result<()> {
    if remove(&building.join(LIST)).is_ok() {
        File::open(building)?.sync_all()?;
    }
    remove(building)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match path.is_dir() && !path.is_symlink() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// The directory into which a migration leads. No other migration is at work in it for as long as this is held.
pub(crate) struct Site {
    store: PathBuf,
    left: Left,
    lock: Option<File>,
}

/// What an earlier migration has left there.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// No store, but parts of one: beside the directory in which it was built, these.
    Unfinished(Vec<OsString>),
    /// A store, and the directory in which it was built.
    Finished,
}

impl Site {
    /// Looks at the directory, and changes nothing.
    ///
    /// # Errors
    ///
    /// Another migration is at work in it, or it can not be read.
    pub(crate) fn look(store: &Path) -> anyhow::Result<Self> {
        let lock = File::open(store).ok();
        if let Some(lock) = &lock {
            alone(lock, store)?;
        }
        Ok(Self {
            left: left(store).with_context(|| format!("{} can not be read", store.display()))?,
            store: store.to_owned(),
            lock,
        })
    }

    /// Whether an earlier migration has left parts of a store.
    pub(crate) fn has_parts(&self) -> bool {
        matches!(self.left, Left::Unfinished(_))
    }

    /// Whether a store can be made here, when what an earlier migration has left is removed.
    ///
    /// # Errors
    ///
    /// Why not, and what to do.
    pub(crate) fn check_free(&self) -> anyhow::Result<()> {
        let store = self.store.display();
        let parts = match &self.left {
            Left::Nothing => return check_no_store(&self.store),
            Left::Finished => bail!("there is a store {store} already, which has other records"),
            Left::Unfinished(parts) => parts,
        };
        let entries = fs::read_dir(&self.store).with_context(|| format!("{store} can not be read"))?;
        for entry in entries {
            let name = entry?.file_name();
            let is_known = [MIGRATION, LOCK, LOST_AND_FOUND]
                .iter()
                .any(|known| name == *known);
            if !is_known && !parts.contains(&name) {
                bail!(
                    "there is {} in {store}, beside what a migration that was cut off has left: move it away, or give \
                     another directory",
                    name.display()
                );
            }
        }
        check_owner(&self.store)
    }

    /// Removes what an earlier migration has left, but no store.
    ///
    /// # Errors
    ///
    /// What can not be removed.
    pub(crate) fn clear(&mut self) -> anyhow::Result<()> {
        let building = self.store.join(MIGRATION);
        let left = match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::Nothing => return Ok(()),
            Left::Finished => Vec::new(),
            Left::Unfinished(parts) => parts,
        };
        for name in left {
            let path = self.store.join(name);
            match remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{} can not be removed", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        remove_building(&building).with_context(|| format!("{} can not be removed", building.display()))
    }

    /// Makes the store, in place of what an earlier migration has left.
    ///
    /// # Errors
    ///
    /// Why not. Then there is no store.
    pub(crate) fn make_store(
        mut self,
        settings: &Settings,
        build: impl FnOnce(&Settings) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let is_new = !self.store.exists();
        if self.lock.is_none() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.store);
            let opened = made.and_then(|()| File::open(&self.store));
            let opened = opened.with_context(|| format!("{} can not be made", self.store.display()))?;
            alone(&opened, &self.store)?;
            self.lock = Some(opened);
            check_no_store(&self.store)?;
        }
        self.remove_lock()?;
        self.clear()?;
        let made = make_store(settings, MIGRATION, build);
        if made.is_err() && is_new {
            drop(fs::remove_dir(&self.store));
        }
        made
    }

    /// A daemon that was started on parts of a store has left its lock, and nothing else.
    fn remove_lock(&self) -> anyhow::Result<()> {
        let path = self.store.join(LOCK);
        if !self.has_parts() {
            return Ok(());
        }
        let Ok(lock) = File::open(&path) else {
            return Ok(());
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "the store {} is in use: stop acme-proxy first",
                self.store.display()
            );
        }
        fs::remove_file(&path).with_context(|| format!("{} can not be removed", path.display()))
    }
}

/// The lock on the directory itself is a migration's, and ends with it.
fn alone(directory: &File, store: &Path) -> anyhow::Result<()> {
    match flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another migration into {} is under way", store.display())
        }
        Err(error) => Err(error).with_context(|| format!("{} can not be locked", store.display())),
    }
}

fn left(store: &Path) -> std::io::Result<Left> {
    let building = store.join(MIGRATION);
    if !building.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return Ok(Left::Nothing);
    }
    let list = match fs::read(building.join(LIST)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let names = list.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    let names = names.filter(|name| Path::new(name).file_name() == Some(name));
    let names = names.map(OsStr::to_owned);
    let is_moved = |name: &OsString| building.join(name).symlink_metadata().is_err();
    let moved: Vec<OsString> = names.filter(is_moved).collect();
    let is_finished = moved.iter().any(|name| name == SledStore::LOG) && store.join(SledStore::LOG).exists();
    Ok(match is_finished {
        true => Left::Finished,
        false => Left::Unfinished(moved),
    })
}

pub(crate) fn sync_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    File::open(directory)
        .and_then(|open| open.sync_all())
        .with_context(|| format!("{} can not be synced", directory.display()))
}

#[cfg(test)]
mod tests;
