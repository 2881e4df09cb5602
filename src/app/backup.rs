//! `acme-proxy backup` and `acme-proxy restore`: all that the store holds, as a file and back.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::io::AsyncWriteExt as _;

use crate::app::audit;
use crate::app::control::{Answer, Operator, check_owner, is_missing};
use crate::config::Config;
use crate::ra::backup::{BadBackup, Header, Reading};
use crate::store::sled::SledStore;
use crate::store::{Entry, Settings};

/// What is added to the name of a file that is not whole yet.
const PARTIAL: &str = ".partial";

/// The directory inside the store's own in which it is built.
const BUILDING: &str = "restore.partial";

/// Writes a backup of the store to a file, which must not exist, and gives what is to be said about it.
///
/// # Errors
///
/// What is wrong with the file or the store. Then the file does not exist.
pub async fn backup(config: Config, file: PathBuf) -> anyhow::Result<String> {
    if file.symlink_metadata().is_ok() {
        bail!("{} exists already; nothing is overwritten", file.display());
    }
    let partial = with_suffix(&file);
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&partial);
    let made = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!(
            "{} exists: another backup is under way, or one has broken off; then remove it",
            partial.display()
        ),
        _ => anyhow!("{} can not be made: {error}", partial.display()),
    })?;
    let written = write(config, made, &partial, &file).await;
    if written.is_err() {
        // It may not be there any more.
        drop(fs::remove_file(&partial));
    }
    written
}

async fn write(config: Config, made: File, partial: &Path, file: &Path) -> anyhow::Result<String> {
    let failed = || format!("{} can not be written", partial.display());
    let mut out = tokio::io::BufWriter::new(tokio::fs::File::from_std(made));
    Operator::new(config).backup_into(&mut out).await?;
    out.flush().await.with_context(failed)?;
    out.into_inner().sync_all().await.with_context(failed)?;
    // What counts is what can be read back.
    let (header, entries) = read(partial)?;
    renameat_with(CWD, partial, CWD, file, RenameFlags::NOREPLACE).with_context(|| {
        format!(
            "{} can not be given its name {}",
            partial.display(),
            file.display()
        )
    })?;
    sync_parent(file)?;
    Ok(format!(
        "{}: {entries} entries, as of {:.0}. It holds secret keys: keep it as the store.\n",
        file.display(),
        header.made
    ))
}

/// Makes the store out of a backup; there must be none yet. Gives what is to be said about it.
///
/// # Errors
///
/// What is wrong with the file or the store. Then there is no store, as before.
pub async fn restore(config: Config, file: PathBuf) -> anyhow::Result<String> {
    if let Some(database) = &config.database {
        bail!(
            "the records are in the PostgreSQL database {}, which is restored by its own tools; a backup of acme-proxy \
             becomes a store of db.type sled only",
            database.connection.place()
        );
    }
    tokio::task::spawn_blocking(move || restore_from(&config, &file)).await?
}

fn restore_from(config: &Config, file: &Path) -> anyhow::Result<String> {
    let store = &config.store.path;
    check_no_store(store)?;
    let (header, entries) = read(file)?;
    audit::begin(config.audit.as_deref())?;
    make_store(&config.store, |inside| build(inside, file))?;
    tracing::info!(
        target: "acme_proxy::operator", audit = true, store.path = %store.display(), store.entries = entries,
        backup.made = %header.made, "store restored from a backup"
    );
    Ok(format!(
        "{}: {entries} entries, as of {:.0}. What came after is lost: docs/OPERATIONS.md says what that means.\n",
        store.display(),
        header.made
    ))
}

/// Whether a store can be made in this directory, where there is none.
///
/// # Errors
///
/// Why not, and what to do.
pub(crate) fn check_no_store(store: &Path) -> anyhow::Result<()> {
    let building = store.join(BUILDING);
    if building.symlink_metadata().is_ok() {
        bail!(
            "{} exists: another restore is under way, or one has broken off; then empty the directory {}",
            building.display(),
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

/// Makes the store, which is built in a directory of its own first: it comes to be whole, or not at all.
pub(crate) fn make_store(
    settings: &Settings,
    build: impl FnOnce(&Settings) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let store = &settings.path;
    let building = store.join(BUILDING);
    let is_new = !store.exists();
    let inside = Settings {
        path: building.clone(),
        ..settings.clone()
    };
    let mut moved = Vec::new();
    let made = build(&inside).and_then(|()| take_out(store, &mut moved));
    // Of what has failed nothing stays, except what was here before.
    if made.is_err() {
        for path in &moved {
            drop(remove(path));
        }
    }
    drop(remove(&building));
    if made.is_err() && is_new {
        drop(fs::remove_dir(store));
    }
    made?;
    sync_parent(store)
}

/// Moves the store that was built inside its directory to its place. The directory itself may not be replaced: it may be
/// a mount point. sled's log comes last: without it nobody takes what is there for a store, nor makes a new one in it.
fn take_out(store: &Path, moved: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let building = store.join(BUILDING);
    let failed = || format!("the store can not be moved from {}", building.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&building).with_context(failed)? {
        names.push(entry.with_context(failed)?.file_name());
    }
    // Whoever has opened it has its own.
    names.retain(|name| name != "lock");
    names.sort_by_key(|name| name == SledStore::LOG);
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

fn remove(path: &Path) -> std::io::Result<()> {
    match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Builds a store, and looks whether it can be opened.
fn build(settings: &Settings, file: &Path) -> anyhow::Result<()> {
    let mut lines = Lines::open(file)?;
    let mut reading = Reading::default();
    let entries = std::iter::from_fn(|| lines.next_entry(&mut reading).transpose());
    SledStore::restore(settings, entries)?;
    // The file may have changed since it was looked at.
    reading.end().map_err(|error| about(file, &error))?;
    drop(SledStore::open(settings.clone())?);
    Ok(())
}

/// Reads a whole backup.
fn read(file: &Path) -> anyhow::Result<(Header, u64)> {
    let mut lines = Lines::open(file)?;
    let mut reading = Reading::default();
    while lines.next_entry(&mut reading)?.is_some() {}
    reading.end().map_err(|error| about(file, &error))
}

fn about(file: &Path, error: &BadBackup) -> anyhow::Error {
    anyhow!("{} {error}", file.display())
}

/// The lines of a backup.
struct Lines {
    path: PathBuf,
    file: BufReader<File>,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = fs::metadata(path).and_then(|metadata| match metadata.is_file() {
            true => File::open(path),
            false => Err(std::io::Error::other("it is no file")),
        });
        let file = opened.with_context(|| format!("{} can not be read", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
        })
    }

    /// The next entry; `None` at the end.
    fn next_entry(&mut self, reading: &mut Reading) -> anyhow::Result<Option<Entry>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut capped = (&mut self.file).take(Reading::LONGEST_LINE as u64);
            let count = capped.read_until(b'\n', &mut line);
            if count.with_context(|| format!("{} can not be read", self.path.display()))? == 0 {
                return Ok(None);
            }
            match reading.line(&line) {
                Ok(None) => {}
                Ok(entry) => return Ok(entry),
                Err(error) => match serde_json::from_slice(&line) {
                    // The daemon had to give up.
                    Ok(Answer::Refused(why)) => bail!(why),
                    Ok(_) | Err(_) => return Err(about(&self.path, &error)),
                },
            }
        }
    }
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

fn sync_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    File::open(directory)
        .and_then(|open| open.sync_all())
        .with_context(|| format!("{} can not be synced", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is killed between two moves leaves no log without all that belongs to it.
    #[test]
    fn the_log_of_a_restored_store_comes_to_its_place_after_all_else() {
        let place = tempfile::tempdir().unwrap();
        let building = place.path().join(BUILDING);
        fs::create_dir_all(building.join("blobs")).unwrap();
        let names = ["conf", "db", "format", "lock", "snap.1", "snap.2", "snap.3", "x"];
        for name in names {
            fs::write(building.join(name), name).unwrap();
        }
        fs::write(place.path().join("db"), "somebody's").unwrap();
        let mut moved = Vec::new();
        let error = take_out(place.path(), &mut moved).unwrap_err();
        assert!(error.to_string().contains("db can not be made"), "{error:#}");
        moved.sort();
        let expected = ["blobs", "conf", "format", "snap.1", "snap.2", "snap.3", "x"];
        assert_eq!(moved, expected.map(|name| place.path().join(name)));
        assert_eq!(fs::read_to_string(place.path().join("db")).unwrap(), "somebody's");
    }
}
