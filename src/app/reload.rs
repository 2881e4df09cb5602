//! The configuration that is in force, and another one in its place (SIGHUP): all of it or, if anything is wrong with it,
//! nothing of it. What can only be changed by a restart is named, and stays.
//!
//! Clients notice nothing: connections, nonces and what is counted of them stay. The next worker begins at once, and the
//! one before finishes the steps that it is at. Both take places of the same number, no job and no account is ever changed
//! by two at a time, and what a CA has asked of one holds for the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::acme::upstream::UpstreamName;
use crate::app;
use crate::app::log;
use crate::app::systemd;
use crate::app::upstreams::Accounts;
use crate::app::vault::Vaults;
use crate::config::{self, Config, ConfigError};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::server::control::{UpstreamAccounts, UpstreamRequest};
use crate::server::{OwnCertificate, Server};
use crate::tls::{self, CertificateSlot, OfFiles};
use crate::upstream::Settings;
use crate::upstream::acme::Ca;
use crate::validate::Validator;
use crate::worker::Worker;
use crate::worker::upstream::Upstream;

/// How long the configuration and its files may take to be read.
const LOAD: Duration = Duration::from_secs(20);

/// How the configuration is read anew, and when.
pub struct Reloads {
    /// Asks for it. What is asked while one is under way is asked once.
    pub wanted: mpsc::Receiver<()>,
    /// Reads it.
    pub load: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

/// The worker, and the accounts at the CAs that it works with.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) worker: Worker,
    pub(crate) accounts: Arc<Accounts>,
}

/// What holds now.
pub(crate) struct InForce {
    pub(crate) config: Config,
    pub(crate) server: Server,
    pub(crate) work: watch::Sender<Work>,
    pub(crate) files: Files,
    pub(crate) vaults: Arc<Vaults>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slot: Arc<CertificateSlot>,
}

/// What is to hold next, whole and without faults. Nothing of it holds yet.
pub(crate) struct Prepared {
    config: Config,
    until_a_restart: Vec<String>,
    tls: ServerConfig,
    own: Option<OfFiles>,
    files: Files,
    upstreams: Vec<Upstream>,
    accounts: Accounts,
    validator: Validator,
}

impl InForce {
    /// Begins to read the configuration. What hangs there holds up nothing else.
    pub(crate) fn prepare(
        &self,
        reloads: &Reloads,
    ) -> impl Future<Output = anyhow::Result<Prepared>> + use<> {
        systemd::reloading();
        tracing::info!("reloading ...");
        let (load, before) = (Arc::clone(&reloads.load), self.config.clone());
        let (slot, vaults, metrics) = (
            Arc::clone(&self.slot),
            Arc::clone(&self.vaults),
            Arc::clone(&self.metrics),
        );
        let (files, accounts) = (self.files.clone(), Arc::clone(&self.work.borrow().accounts));
        let prepare = move || {
            let mut config = load()?;
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
            let until_a_restart = keep(&mut config, &before);
            let files_before = files;
            let files = Files::read(&config.upstreams);
            let known = |wanted: &config::Upstream| {
                let mut settings = before.upstreams.iter();
                settings.find(|known| {
                    known.name == wanted.name
                        && is_the_same(&known.settings, &wanted.settings)
                        && files_before.are_the_same_for(&wanted.settings, &files)
                })?;
                let (_, ca) = accounts.all.iter().find(|(name, _)| *name == wanted.name)?;
                Some(Arc::clone(ca))
            };
            let (upstreams, accounts) = upstreams(&config.upstreams, known, &vaults, &metrics)?;
            Ok(Prepared {
                tls: tls::server_config(slot, config.server.tls)?,
                own: of_files(&config.server.own_certificate)?,
                validator: Validator::new(config.validate.clone())?,
                config,
                until_a_restart,
                files,
                upstreams,
                accounts,
            })
        };
        async move {
            let prepared = timeout(LOAD, tokio::task::spawn_blocking(prepare)).await;
            let prepared: anyhow::Result<Prepared> = prepared.map_err(|_| {
                anyhow!(
                    "the configuration, or a file that it names, can not be read within {} s",
                    LOAD.as_secs()
                )
            })??;
            let prepared = prepared?;
            if let Some(logs) = log::logs() {
                logs.audit.reopen().await?;
            }
            Ok(prepared)
        }
    }

    /// Puts what was prepared in force, or says why nothing was.
    pub(crate) fn take(&mut self, prepared: anyhow::Result<Prepared>) {
        match prepared {
            Ok(prepared) => {
                self.change(prepared);
                tracing::info!(audit = true, "configuration reloaded");
                systemd::ready("the configuration was reloaded");
            }
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("the configuration was not reloaded: the one before stays in force");
                systemd::ready(
                    "the configuration was not reloaded, see the log: the one before stays in force",
                );
            }
        }
    }

    fn change(&mut self, prepared: Prepared) {
        let Prepared {
            config,
            until_a_restart,
            tls,
            own,
            files,
            upstreams,
            accounts,
            validator,
        } = prepared;
        self.slot.serve(own);
        log::change_format(config.logger.format);
        let policy = Policy::new(config.policy.clone());
        let settings = config.server.clone();
        self.server.change(settings, |ra| ra.under(policy), Arc::new(tls));
        let before = self.work.borrow().worker.clone();
        let worker = before.followed_by(upstreams, validator, config.worker.clone());
        let accounts = Arc::new(accounts);
        self.work.send_replace(Work { worker, accounts });
        self.config = config;
        self.files = files;
        for sentence in until_a_restart {
            tracing::warn!("{sentence}");
        }
    }
}

/// The CAs: those that are `known`, and those that are made.
pub(crate) fn upstreams(
    configured: &[config::Upstream],
    known: impl Fn(&config::Upstream) -> Option<Arc<Ca>>,
    vaults: &Vaults,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Vec<Upstream>, Accounts)> {
    let mut upstreams = Vec::new();
    let mut all: Vec<(UpstreamName, Arc<Ca>)> = Vec::new();
    for configured in configured {
        let (name, failover) = (configured.name, configured.failover);
        let ca_url = configured.settings.directory.clone();
        let ca = match known(configured) {
            Some(ca) => ca,
            None => {
                let ca = app::ca(configured.clone(), vaults.of_upstream(configured))?;
                app::count_requests(&ca, name, metrics);
                ca
            }
        };
        all.push((name, Arc::clone(&ca)));
        upstreams.push(Upstream {
            name,
            ca_url,
            issuer: ca,
            failover,
        });
    }
    let metrics = Some(Arc::clone(metrics));
    Ok((upstreams, Accounts { all, metrics }))
}

/// What the files behind the settings of the CAs had in them when they were last read for good.
#[derive(Clone)]
pub(crate) struct Files(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Files {
    /// As they are now. Read before they are used: what changes in between is seen as a change the next time.
    pub(crate) fn read(upstreams: &[config::Upstream]) -> Self {
        let paths = upstreams.iter().flat_map(|upstream| behind(&upstream.settings));
        Self(
            paths
                .map(|path| (path.clone(), std::fs::read(path).ok()))
                .collect(),
        )
    }

    fn are_the_same_for(&self, settings: &Settings, now: &Self) -> bool {
        behind(settings).all(|path| self.0.get(path) == now.0.get(path))
    }
}

/// The files that are read when a CA is made of these settings.
fn behind(settings: &Settings) -> impl Iterator<Item = &PathBuf> {
    let of_provider = settings.dns01.as_ref().and_then(|dns01| dns01.roots.as_ref());
    settings.roots.iter().chain(of_provider)
}

/// Whether the same is meant.
fn is_the_same(before: &Settings, now: &Settings) -> bool {
    let Settings {
        section,
        directory,
        roots,
        email,
        eab,
        dns01,
        lifetime,
        profile,
    } = now;
    let dns01_is_the_same = match (&before.dns01, dns01) {
        (Some(before), Some(now)) => before.is_made_like(now),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    *section == before.section
        && *directory == before.directory
        && *roots == before.roots
        && *email == before.email
        && *eab == before.eab
        && dns01_is_the_same
        && *lifetime == before.lifetime
        && *profile == before.profile
}

/// Keeps what only a restart can change, and says so.
fn keep(config: &mut Config, before: &Config) -> Vec<String> {
    let mut kept = Vec::new();
    let mut note = |key: &str, changed: bool| {
        if changed {
            kept.push(format!(
                "{key} was changed, which needs a restart: the value before stays in force"
            ));
        }
    };
    note("address", config.server.address != before.server.address);
    note(
        "metricsAddress or authority.config.metrics",
        config.metrics != before.metrics,
    );
    note(
        "db",
        config.store.path != before.store.path || config.database != before.database,
    );
    note("authority.config.audit.file", config.audit != before.audit);
    let (limits, limits_before) = (&mut config.server.limits, before.server.limits);
    note(
        "authority.config.limits.connections",
        limits.connections != limits_before.connections,
    );
    limits.connections = limits_before.connections;
    config.server.address = before.server.address;
    config.server.port_in_links = before.server.port_in_links;
    config
        .validate
        .own_listeners
        .clone_from(&before.validate.own_listeners);
    config.metrics = before.metrics;
    config.store = before.store.clone();
    config.database.clone_from(&before.database);
    config.audit.clone_from(&before.audit);
    kept
}

/// The certificate of the files, if it comes from files.
pub(crate) fn of_files(from: &OwnCertificate) -> anyhow::Result<Option<OfFiles>> {
    let OwnCertificate::Files { certificate, key } = from else {
        return Ok(None);
    };
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("{} can not be read", path.display()));
    Ok(Some(OfFiles::parse(&read(certificate)?, &read(key)?)?))
}

/// Runs the worker, and the next one as soon as there is one, until told to stop. What those before are at they finish
/// meanwhile: every step has a deadline.
pub(crate) async fn work(mut next: watch::Receiver<Work>, mut stop: watch::Receiver<bool>) {
    let mut workers = JoinSet::new();
    let begin = |next: &mut watch::Receiver<Work>, workers: &mut JoinSet<()>| {
        let (stopper, stopped) = watch::channel(false);
        workers.spawn(next.borrow_and_update().worker.clone().run(stopped));
        stopper
    };
    let mut stopper = begin(&mut next, &mut workers);
    while !*stop.borrow() {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = next.changed() => {
                stopper.send_replace(true);
                stopper = begin(&mut next, &mut workers);
            }
            ended = workers.join_next() => {
                let has_failed = ended.is_none_or(|ended| ended.is_err());
                if has_failed || workers.is_empty() {
                    return;
                }
                next.borrow().worker.forget_others();
                tracing::info!("what was under way when the configuration was reloaded has ended");
            }
        }
    }
    stopper.send_replace(true);
    while workers.join_next().await.is_some() {}
    let last = next.borrow().worker.clone();
    last.leave().await;
}

/// The accounts of the latest worker.
pub(crate) struct AccountsInForce(pub(crate) watch::Receiver<Work>);

impl AccountsInForce {
    fn now(&self) -> Arc<Accounts> {
        Arc::clone(&self.0.borrow().accounts)
    }
}

#[async_trait]
impl UpstreamAccounts for AccountsInForce {
    async fn answer(&self, request: UpstreamRequest) -> Result<String, String> {
        self.now().answer(request).await
    }

    async fn health(&self, upstream: &str) -> String {
        self.now().health(upstream).await
    }
}
