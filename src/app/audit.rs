//! The audit log: one line for each change of a record, each change of an account at a CA and each reload, chained by
//! hashes (see [`chain`]). Off unless the configuration names a file.
//!
//! A line is written as soon as the change is on the disk, and synced within a second. What can not be written waits, and
//! as long as it does no account and no order is made: nothing begins that would leave no trace.

mod chain;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::sync::watch;

pub use chain::verify;

use crate::app::audit::chain::{Link, MAX_LINE};
use crate::app::log::{self, Fields};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::metrics::health::AUDIT_LOG;
use crate::store::Store;
use crate::store::audited::Audited;

/// How often the file is synced, and written to again if it could not be.
const TEND: Duration = Duration::from_secs(1);

/// How many events wait at most.
const MAX_WAITING: usize = 100_000;

/// The audit log, or none.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    latest: Link,
    /// What could not be written yet.
    waiting: VecDeque<(Timestamp, String, Fields)>,
    /// How many events found no place among them.
    lost: u64,
    is_synced: bool,
}

/// The store, with a line for each of its changes if the configuration names a file for them.
///
/// # Errors
///
/// Why the file can not be used.
pub(crate) fn audited(
    store: Arc<dyn Store>,
    file: Option<&Path>,
    clock: &Clock,
) -> anyhow::Result<Arc<dyn Store>> {
    let (Some(file), Some(logs)) = (file, log::logs()) else {
        return Ok(store);
    };
    logs.audit.open(file)?;
    let clock = clock.clone();
    Ok(Arc::new(Audited::new(store, Box::new(move || clock.now()))))
}

/// Looks after the log until told to stop, and says how it does.
pub(crate) async fn tend(metrics: Arc<Metrics>, mut stop: watch::Receiver<bool>) {
    let Some(logs) = log::logs() else {
        return std::future::pending().await;
    };
    loop {
        let ends = tokio::time::timeout(TEND, stop.wait_for(|stop| *stop))
            .await
            .is_ok();
        let tended = tokio::task::spawn_blocking(|| logs.audit.tend()).await;
        metrics
            .health
            .report(AUDIT_LOG, tended.unwrap_or_else(|error| Err(error.to_string())));
        if ends {
            return;
        }
    }
}

impl Audit {
    fn locked(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, path: &Path) -> anyhow::Result<()> {
        let (file, remains) = opened(path)?;
        let mut open = Open {
            path: path.to_owned(),
            file,
            latest: Link::none(),
            waiting: VecDeque::new(),
            lost: 0,
            is_synced: false,
        };
        let fields = match remains {
            Remains::Nothing => Fields::new(),
            Remains::Chain(latest) => {
                open.latest = latest;
                Fields::new()
            }
            Remains::Torn { latest, aside } => {
                open.latest = latest;
                Fields::from([("torn".to_owned(), aside.display().to_string().into())])
            }
        };
        open.append(Clock::system().now(), "audit log opened", &fields)
            .with_context(|| {
                format!(
                    "authority.config.audit.file: {} can not be written",
                    path.display()
                )
            })?;
        *self.locked() = Some(open);
        Ok(())
    }

    /// Goes on in another file if another one has the name now, as after a rotation.
    pub(crate) fn reopen(&self) -> anyhow::Result<()> {
        let mut guard = self.locked();
        let Some(open) = guard.as_mut() else {
            return Ok(());
        };
        let is_same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let before = open.file.metadata()?;
        if std::fs::metadata(&open.path).is_ok_and(|now| is_same(&now, &before)) {
            return Ok(());
        }
        let (file, remains) = opened(&open.path)?;
        if !matches!(remains, Remains::Nothing) {
            bail!(
                "authority.config.audit.file: {} is another log; take it away",
                open.path.display()
            );
        }
        open.file.sync_data()?;
        open.file = file;
        open.append(Clock::system().now(), "audit log opened", &Fields::new())?;
        Ok(())
    }

    /// Writes an event, now or later.
    pub(crate) fn write(&self, event: &str, fields: Fields) {
        let mut guard = self.locked();
        let Some(open) = guard.as_mut() else {
            return;
        };
        let now = Clock::system().now();
        if open.waiting.is_empty() && open.append(now, event, &fields).is_ok() {
            return;
        }
        match open.waiting.len() < MAX_WAITING {
            true => open.waiting.push_back((now, event.to_owned(), fields)),
            false => open.lost = open.lost.saturating_add(1),
        }
    }

    /// Writes what waits, and syncs.
    fn tend(&self) -> Result<(), String> {
        let mut guard = self.locked();
        let Some(open) = guard.as_mut() else {
            return Ok(());
        };
        let unwritten = |open: &Open, error: io::Error| {
            format!(
                "{} can not be written ({} events wait): {error}; nothing new is taken on until it can",
                open.path.display(),
                open.waiting.len()
            )
        };
        while let Some((time, event, fields)) = open.waiting.pop_front() {
            if let Err(error) = open.append(time, &event, &fields) {
                open.waiting.push_front((time, event, fields));
                return Err(unwritten(open, error));
            }
        }
        if open.lost > 0 {
            let fields = Fields::from([("events".to_owned(), open.lost.into())]);
            open.append(Clock::system().now(), "events lost", &fields)
                .map_err(|error| unwritten(open, error))?;
            open.lost = 0;
        }
        if open.is_synced {
            return Ok(());
        }
        // Not under the lock: a disk may take its time.
        let file = open.file.try_clone().map_err(|error| unwritten(open, error))?;
        open.is_synced = true;
        drop(guard);
        file.sync_data().map_err(|error| {
            if let Some(open) = self.locked().as_mut() {
                open.is_synced = false;
            }
            format!("the audit log can not be synced: {error}")
        })
    }
}

impl Open {
    fn append(&mut self, time: Timestamp, event: &str, fields: &Fields) -> io::Result<()> {
        let (line, latest) = self.latest.next(time, event, fields);
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(format!("{line}\n").as_bytes()) {
            // Half a line would end the chain. If even that fails, the next start puts it aside.
            drop(self.file.set_len(before));
            return Err(error);
        }
        self.latest = latest;
        self.is_synced = false;
        Ok(())
    }
}

/// What was in a file when it was opened.
enum Remains {
    Nothing,
    Chain(Link),
    /// The last line was cut off, and was put aside; or, if the file ended with a line that is not as it was written, all
    /// of it.
    Torn {
        latest: Link,
        aside: PathBuf,
    },
}

fn opened(path: &Path) -> anyhow::Result<(File, Remains)> {
    let unusable = |what: &str| format!("authority.config.audit.file: {} {what}", path.display());
    let open = || {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
    };
    let mut file =
        open().with_context(|| unusable("can not be opened; give the service's user access to it"))?;
    if file.try_lock().is_err() {
        bail!(unusable("is written by another process"));
    }
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        bail!(unusable("is no regular file"));
    }
    let (whole, rest) = tail(&mut file).with_context(|| unusable("can not be read"))?;
    let latest = match whole.as_deref().map(Link::read) {
        None => Some(Link::none()),
        Some(Ok((_, latest))) => Some(latest),
        Some(Err(_)) => None,
    };
    let aside = || {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".torn-{}", Clock::system().now().as_second()));
        PathBuf::from(name)
    };
    match latest {
        Some(latest) if rest.is_empty() => Ok(match latest.seq {
            0 => (file, Remains::Nothing),
            _ => (file, Remains::Chain(latest)),
        }),
        Some(latest) => {
            let aside = aside();
            std::fs::write(&aside, &rest)
                .with_context(|| unusable("ends in a torn line that can not be put aside"))?;
            let length = file.metadata()?.len().saturating_sub(u64::try_from(rest.len())?);
            file.set_len(length)?;
            Ok((file, Remains::Torn { latest, aside }))
        }
        None => {
            let aside = aside();
            std::fs::rename(path, &aside).with_context(|| unusable("is damaged and can not be put aside"))?;
            let file = open().with_context(|| unusable("can not be made"))?;
            if file.try_lock().is_err() {
                bail!(unusable("is written by another process"));
            }
            tracing::error!(
                file = %path.display(), aside = %aside.display(),
                "the audit log ends with a line that is not as it was written; a new one begins, and this one is put aside"
            );
            let latest = Link::none();
            Ok((file, Remains::Torn { latest, aside }))
        }
    }
}

/// The last whole line of a file, without its end, and what comes after it.
fn tail(file: &mut File) -> io::Result<(Option<String>, Vec<u8>)> {
    let length = file.metadata()?.len();
    // The torn line and the one before it.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LINE)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return Ok((None, bytes));
    };
    let rest = bytes.split_off(end.saturating_add(1));
    bytes.pop();
    let line = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((Some(String::from_utf8_lossy(line).into_owned()), rest))
}

#[cfg(test)]
mod tests;
