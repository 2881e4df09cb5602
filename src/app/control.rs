//! Carries out the operator's commands: through the daemon that runs, or, if none does, on the store itself.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::app::audit;
use crate::app::records;
use crate::app::upstreams::WithoutDaemon;
use crate::clock::Clock;
use crate::config::Config;
use crate::policy::Policy;
use crate::ra::RegistrationAuthority;
use crate::server::control;
use crate::store::StoreError;
use crate::store::postgres::PostgresStore;

pub use crate::ra::external_account::NewKey;
pub use crate::ra::inventory::Part;
pub use crate::ra::inventory::accounts::AccountFilter;
pub use crate::ra::inventory::certificates::CertificateFilter;
pub use crate::ra::inventory::orders::OrderFilter;
pub use crate::ra::policy::Question;
pub use crate::server::control::accounts::AccountsRequest;
pub use crate::server::control::certs::CertsRequest;
pub use crate::server::control::listing::{Page, Row};
pub use crate::server::control::orders::OrdersRequest;
pub use crate::server::control::{Answer, Request, UpstreamCommand, UpstreamRequest};

/// How often to look for the socket of a daemon that has the store open: it may be about to make it.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// What a file system of its own has, though it is empty.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// The answer to a question is no: the text to print.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct No(pub String);

/// Carries out a command, and gives the text to print.
///
/// # Errors
///
/// Why not, in one sentence; or [`No`].
pub async fn carry_out(config: Config, request: Request) -> anyhow::Result<String> {
    Operator::new(config).carry_out(request).await
}

/// Carries out any number of commands.
pub(crate) struct Operator {
    config: Config,
    /// Without a daemon: the store, once it was opened.
    here: Option<(RegistrationAuthority, WithoutDaemon)>,
}

impl Operator {
    /// On the store of this configuration.
    pub(crate) fn new(config: Config) -> Self {
        Self { config, here: None }
    }

    /// Carries out a command, and gives the text to print.
    ///
    /// # Errors
    ///
    /// Why not, in one sentence.
    pub(crate) async fn carry_out(&mut self, request: Request) -> anyhow::Result<String> {
        match self.ask(request).await? {
            Answer::Done(text) => Ok(text),
            Answer::No(text) => Err(No(text).into()),
            Answer::Page(page) => Ok(page.rows.into_iter().map(|row| row.line + "\n").collect()),
            Answer::Refused(why) => Err(anyhow!(why)),
        }
    }

    /// Carries out a command, and gives the answer as it is.
    ///
    /// # Errors
    ///
    /// Why there is none, in one sentence.
    pub(crate) async fn ask(&mut self, request: Request) -> anyhow::Result<Answer> {
        let path = self.config.store.path.clone();
        let mut attempt = 0;
        loop {
            if let Some((ra, accounts)) = &self.here {
                if let Some(why) = request.needs_daemon() {
                    bail!("{why}");
                }
                return Ok(control::answer(ra, accounts, request).await);
            }
            let asked = control::ask(&path, &request).await;
            let asked = asked
                .with_context(|| format!("the daemon with the store {} can not be asked", path.display()));
            if let Some(answer) = asked? {
                return Ok(answer);
            }
            if let Some(why) = request.needs_daemon() {
                bail!("{why}");
            }
            self.open(request.may_make_store(), &mut attempt).await?;
        }
    }

    /// Writes a backup of the store.
    ///
    /// # Errors
    ///
    /// Why not, in one sentence.
    pub(crate) async fn backup_into(&mut self, out: &mut (impl AsyncWrite + Unpin)) -> anyhow::Result<()> {
        let path = self.config.store.path.clone();
        let mut attempt = 0;
        loop {
            if let Some((ra, _)) = &self.here {
                let mut backup = ra.backup().await?;
                while let Some(lines) = backup.next().await? {
                    out.write_all(&lines).await?;
                }
                return Ok(());
            }
            let by_daemon = control::backup_into(&path, out).await;
            if by_daemon.with_context(|| format!("the backup of the store {} broke off", path.display()))? {
                return Ok(());
            }
            self.open(false, &mut attempt).await?;
        }
    }

    /// Opens the store, or waits a moment for the daemon that has it.
    async fn open(&mut self, may_make_it: bool, attempt: &mut u32) -> anyhow::Result<()> {
        let path = &self.config.store.path;
        if let Some(database) = &self.config.database {
            // Whoever only asks makes no tables, and changes none under the replicas that run.
            if !may_make_it && !PostgresStore::is_made(database).await? {
                bail!(
                    "the database {} has no tables of acme-proxy; start the daemon, which makes them, or correct \
                     db.dataSource",
                    database.connection.place()
                );
            }
        } else {
            if !may_make_it && is_missing(path) {
                bail!(
                    "there is no store {}; db.dataSource in the configuration says where it is",
                    path.display()
                );
            }
            check_owner(path)?;
        }
        match records::open(&self.config).await {
            Ok(store) => {
                let file = self.config.audit.as_deref();
                let store = audit::audited(store, file, &Clock::system())?;
                let policy = Policy::new(self.config.policy.clone());
                let ra = RegistrationAuthority::new(Arc::clone(&store), policy, Clock::system());
                let accounts = WithoutDaemon {
                    configured: self.config.upstreams.clone(),
                    store,
                };
                self.here = Some((ra, accounts));
            }
            Err(StoreError::InUse { .. }) if *attempt < ATTEMPTS => {
                *attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Whether there is no store, or a directory for one in which nothing is yet.
pub(crate) fn is_missing(store: &Path) -> bool {
    match std::fs::read_dir(store) {
        Ok(mut entries) => entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND)),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Files that another user makes in the store could not be read by the daemon.
pub(crate) fn check_owner(store: &Path) -> anyhow::Result<()> {
    let existing = store.ancestors().find_map(|path| std::fs::metadata(path).ok());
    let user = rustix::process::geteuid().as_raw();
    match existing.map(|metadata| metadata.uid()) {
        Some(owner) if owner != user => bail!(
            "the store {} belongs to the user with the id {owner}; run this as that user, e.g. with sudo -u",
            store.display()
        ),
        Some(_) | None => Ok(()),
    }
}
