//! The audit log: one line for each change of a record, each change of an account at a CA and each reload, chained by
//! hashes (see [`chain`]). Off unless the configuration names a file.
//!
//! Whoever changes a record goes on when the line is on the disk. What can not be written waits, and as long as it does no
//! account and no order is made: nothing begins that would leave no trace.

mod certificates;
mod chain;
mod file;
mod writer;

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use anyhow::bail;
use async_trait::async_trait;
use tokio::sync::watch;

pub use certificates::export as export_for_transparency;
pub use chain::verify;

use crate::app::audit::file::LogFile;
use crate::app::audit::writer::Writer;
use crate::app::log::{self, Fields, Logs};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::metrics::health::AUDIT_LOG;
use crate::store::Store;
use crate::store::audited::{Audited, Trail};

/// The audit log, or none.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    writer: OnceLock<Writer>,
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
    let trail = Arc::clone(logs);
    Ok(Arc::new(Audited::new(
        store,
        Box::new(move || clock.now()),
        trail,
    )))
}

/// Begins the log if the configuration names a file for it: what is done from here on is in it.
///
/// # Errors
///
/// Why the file can not be used.
pub(crate) fn begin(file: Option<&Path>) -> anyhow::Result<()> {
    match (file, log::logs()) {
        (Some(file), Some(logs)) => logs.audit.open(file),
        (Some(_) | None, _) => Ok(()),
    }
}

/// Says how the log does, until told to stop.
pub(crate) async fn watch(metrics: Arc<Metrics>, mut stop: watch::Receiver<bool>) {
    let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
    let Some(writer) = log::logs().and_then(|logs| logs.audit.writer.get()) else {
        return stopped.await;
    };
    let mut progress = writer.progress();
    loop {
        let fault = progress.borrow_and_update().fault.clone();
        metrics.health.report(AUDIT_LOG, fault.map_or(Ok(()), Err));
        let is_written = tokio::select! {
            changed = progress.changed() => changed.is_ok(),
            () = &mut stopped => return,
        };
        if !is_written {
            let ended = "its thread has ended; nothing new is taken on until a restart";
            metrics.health.report(AUDIT_LOG, Err(ended.to_owned()));
            return stopped.await;
        }
    }
}

impl Audit {
    /// Begins it.
    ///
    /// # Errors
    ///
    /// Why the file can not be used.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<()> {
        let writer = Writer::start(LogFile::open(path)?)?;
        if self.writer.set(writer).is_err() {
            bail!("the audit log is open already");
        }
        Ok(())
    }

    /// Goes on in another file if another one has the name now, as after a rotation.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) async fn reopen(&self) -> anyhow::Result<()> {
        match self.writer.get() {
            Some(writer) => writer.reopen().await,
            None => Ok(()),
        }
    }

    /// Writes an event, soon.
    pub(crate) fn write(&self, event: &str, fields: Fields) {
        if let Some(writer) = self.writer.get() {
            writer.write(event, fields);
        }
    }

    /// Ends it: what waits is written, if it can be.
    pub(crate) fn finish(&self) {
        if let Some(writer) = self.writer.get() {
            writer.finish();
        }
    }
}

#[async_trait]
impl Trail for Logs {
    async fn kept(&self) {
        if let Some(writer) = self.audit.writer.get() {
            writer.kept().await;
        }
    }
}

#[cfg(test)]
mod tests;
