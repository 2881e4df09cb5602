//! `acme-proxy backup` and `acme-proxy restore`: all that the store holds, as a file and back.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::io::AsyncWriteExt as _;

use crate::app::audit;
use crate::app::building::{RESTORE, check_no_store, make_store, sync_parent};
use crate::app::control::{Answer, Operator};
use crate::config::Config;
use crate::ra::backup::{BadBackup, Header, Reading};
use crate::store::sled::SledStore;
use crate::store::{Entry, Settings};

/// What is added to the name of a file that is not whole yet.
const PARTIAL: &str = ".partial";

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
    make_store(&config.store, RESTORE, |inside| build(inside, file))?;
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
