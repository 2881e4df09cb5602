//! Opening the store's directory: whose it is, whether it is whole, and sled on top of it.
//!
//! Beside sled's own files there are two of ours. `lock` belongs to the process that has the store open, and names it.
//! `format` says that a store was made here, and which one: without it a store that has lost its log would look like
//! one that has never been used.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sled::Batch;
use tracing::warn;

use crate::acme::id::OrderId;
use crate::store::sled::view::{Overlay, failure};
use crate::store::sled::{completion, keys};
use crate::store::{Settings, StoreError, codec};

/// sled's log.
pub(crate) const LOG: &str = "db";
const LOCK: &str = "lock";
pub(crate) const FORMAT: &str = "format";

/// What a crash while a store is being made may leave behind, besides sled's log.
const MADE_FIRST: [&str; 5] = [LOCK, "conf", "blobs", FORMAT_DRAFT, "lost+found"];
const FORMAT_DRAFT: &str = "format.new";

/// Snapshots of sled's page table, from which a damaged one is set aside under a prefix that sled does not look at.
const SNAPSHOT: &str = "snap.";
const SET_ASIDE: &str = "damaged.";

/// How often to ask for sled's own lock: its worker threads let go of the log some time after the store was closed.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An open store.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The database.
    pub(crate) db: sled::Db,
    /// sled's log, for syncing it.
    pub(crate) log: File,
    /// Held for as long as the store is open.
    pub(crate) lock: File,
}

/// Which store this is. Stands in `format`, and as a record in the log.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    store: OrderId,
}

/// Opens the store in the settings' directory, or makes one if the directory is empty or does not exist.
pub(crate) fn open(settings: &Settings) -> Result<Opened, StoreError> {
    let path = &settings.path;
    let failed =
        |what: &str, error: io::Error| StoreError::Failed(format!("{what} {}: {error}", path.display()));
    make_private(path).map_err(|e| failed("making the directory", e))?;
    let lock = take_lock(path)?;
    let expected = inspect(path)?;
    // What a killed process has written may still be in memory only. sled is about to derive a snapshot from it, and
    // the snapshot must not reach the disk before its log.
    sync_if_there(&path.join(LOG)).map_err(|e| failed("syncing the log in", e))?;
    let db = open_sled(settings)?;
    secure_files(path).map_err(|e| failed("setting file modes in", e))?;
    let log = File::open(path.join(LOG)).map_err(|e| failed("opening the log in", e))?;
    log.sync_all().map_err(|e| failed("syncing the log in", e))?;
    sync_if_there(&path.join("conf")).map_err(|e| failed("syncing conf in", e))?;
    sync_directory(path).map_err(|e| failed("syncing", e))?;
    identify(path, &db, &log, expected)?;
    Ok(Opened { db, log, lock })
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// sled makes its files with the process's umask, which may let others read them.
fn secure_files(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
        } else if kind.is_dir() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File, StoreError> {
    let failed = |e: io::Error| StoreError::Failed(format!("locking {}: {e}", path.display()));
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(path.join(LOCK)).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let pid = read.ok().and_then(|_| holder.trim().parse::<u32>().ok());
            return Err(StoreError::InUse {
                path: path.display().to_string(),
                pid: pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(file)
}

/// Looks whether the directory holds a store, nothing, or something that must not be touched. Gives the store's
/// identity, if one was made here.
fn inspect(path: &Path) -> Result<Option<Identity>, StoreError> {
    let failed = |e: io::Error| StoreError::Failed(format!("reading {}: {e}", path.display()));
    let damaged = |what: String| StoreError::Corrupt(format!("{}: {what}", path.display()));
    let identity = match fs::read(path.join(FORMAT)) {
        Ok(bytes) => Some(codec::decode::<Identity>(FORMAT, &bytes).map_err(|e| damaged(e.to_string()))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let log = match fs::metadata(path.join(LOG)) {
        Ok(metadata) => Some(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    match (&identity, log) {
        (Some(_), None) => Err(damaged(format!("its log, the file {LOG}, is missing"))),
        (Some(_), Some(0)) => Err(damaged(format!("its log, the file {LOG}, is empty"))),
        (Some(_) | None, Some(_)) => Ok(identity),
        (None, None) => {
            for entry in fs::read_dir(path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let name = name.to_string_lossy();
                if !MADE_FIRST.contains(&name.as_ref()) {
                    return Err(damaged(format!(
                        "there is {name}, but no log (the file {LOG}); a new store is only made in an empty directory"
                    )));
                }
            }
            Ok(None)
        }
    }
}

/// Opens sled. If that fails although there is a log, the fault is mostly in a snapshot: sled reads a torn or half
/// written one as corruption for good. The log holds everything, so the snapshots are set aside, and it is tried once
/// more.
fn open_sled(settings: &Settings) -> Result<sled::Db, StoreError> {
    let path = &settings.path;
    match try_sled(settings) {
        Ok(db) => Ok(db),
        Err(StoreError::Corrupt(first)) => {
            let moved = set_snapshots_aside(path).map_err(|e| {
                StoreError::Failed(format!("setting snapshots aside in {}: {e}", path.display()))
            })?;
            if moved.is_empty() {
                return Err(StoreError::Corrupt(format!("{}: {first}", path.display())));
            }
            warn!(
                store.path = %path.display(),
                store.set_aside = moved.join(" "),
                error = first,
                "sled could not be opened; its snapshots are set aside, and the whole log is read"
            );
            try_sled(settings).map_err(|second| match second {
                StoreError::Corrupt(second) => StoreError::Corrupt(format!(
                    "{}: {second}; without its snapshots ({}) as well as with them",
                    path.display(),
                    moved.join(" ")
                )),
                other => other,
            })
        }
        Err(other) => Err(other),
    }
}

fn try_sled(settings: &Settings) -> Result<sled::Db, StoreError> {
    let config = || {
        sled::Config::new()
            .path(&settings.path)
            .cache_capacity(settings.cache_bytes)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
    };
    for _ in 1..LOCK_ATTEMPTS {
        match in_a_thread(config()) {
            Err(StoreError::Failed(text)) if text.contains("could not acquire lock") => {
                thread::sleep(LOCK_PAUSE)
            }
            other => return other,
        }
    }
    in_a_thread(config())
}

/// Opens sled where it may panic, as it does on some kinds of damage.
fn in_a_thread(config: sled::Config) -> Result<sled::Db, StoreError> {
    let path = config.get_path();
    let opening = thread::Builder::new().name("sled-open".to_owned());
    let opening = opening.spawn(move || config.open());
    let opening = opening.map_err(|e| StoreError::Failed(format!("starting a thread: {e}")))?;
    match opening.join() {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) => {
            Err(StoreError::Failed(format!("opening {}: {error}", path.display())))
        }
        Ok(Err(error)) => Err(StoreError::Corrupt(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(StoreError::Corrupt(format!(
                "sled panicked: {}",
                text.unwrap_or("no message")
            )))
        }
    }
}

fn set_snapshots_aside(path: &Path) -> io::Result<Vec<String>> {
    let mut moved = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(SNAPSHOT) {
            fs::rename(path.join(&name), path.join(format!("{SET_ASIDE}{name}")))?;
            moved.push(name);
        }
    }
    sync_directory(path)?;
    Ok(moved)
}

/// Compares the log's identity with the directory's, or gives a new store its identity: in the log first, so that a
/// crash in between leaves a store that is still new.
fn identify(path: &Path, db: &sled::Db, log: &File, expected: Option<Identity>) -> Result<(), StoreError> {
    let found = db.get(keys::identity()).map_err(|e| failure(&e))?;
    let found = found
        .map(|bytes| codec::decode::<Identity>("identity", &bytes))
        .transpose()?;
    let failed = |e: io::Error| StoreError::Failed(format!("making a store in {}: {e}", path.display()));
    let identity = match (expected, found) {
        (Some(expected), Some(found)) if expected == found => return Ok(()),
        (Some(_), Some(_)) => {
            return Err(StoreError::Corrupt(format!(
                "{}: the file {FORMAT} is of another store than the log",
                path.display()
            )));
        }
        (Some(_), None) => {
            return Err(StoreError::Corrupt(format!(
                "{}: the log has lost its content, though a store was made here",
                path.display()
            )));
        }
        (None, Some(found)) => found,
        (None, None) => {
            if !db.is_empty() {
                return Err(StoreError::Corrupt(format!(
                    "{}: a sled database, but not one of acme-proxy",
                    path.display()
                )));
            }
            let identity = Identity {
                store: OrderId::random(),
            };
            let mut first = Batch::default();
            first.insert(keys::identity(), codec::encode(&identity)?);
            for (key, value) in completion::mark(&Overlay::new(db))? {
                first.insert(key, value.unwrap_or_default());
            }
            db.apply_batch(first).map_err(|e| failure(&e))?;
            db.flush().map_err(|e| failure(&e))?;
            log.sync_all().map_err(failed)?;
            identity
        }
    };
    write_format(path, &codec::encode(&identity)?).map_err(failed)
}

fn write_format(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft: PathBuf = path.join(FORMAT_DRAFT);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path.join(FORMAT))?;
    sync_directory(path)?;
    // The directory itself may be new: its entry is in the one above.
    match path.canonicalize()?.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_if_there(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
