//! The configuration that is in force, and another one in its place (SIGHUP): all of it or, if anything is wrong with it,
//! nothing of it. What can only be changed by a restart is named, and stays.
//!
//! Clients notice nothing: connections, nonces and what is counted of them stay. One worker ends before the next begins,
//! so that no account at a CA is ever used by two, and the next one knows what the CAs have asked of the one before.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::time::timeout;

use crate::acme::upstream::UpstreamName;
use crate::app;
use crate::app::log;
use crate::app::systemd;
use crate::app::upstreams::Accounts;
use crate::config::{self, Config, ConfigError};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::server::control::{UpstreamAccounts, UpstreamRequest};
use crate::server::{OwnCertificate, Server};
use crate::store::Store;
use crate::tls::{self, CertificateSlot};
use crate::upstream::Settings;
use crate::upstream::acme::Ca;
use crate::validate::Validator;
use crate::worker::Worker;
use crate::worker::upstream::Upstream;

/// How long the files of the configuration may take to be read. Nothing else is heard of meanwhile.
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

/// What the next worker is made of.
type Parts = (Vec<Upstream>, Validator, Arc<Accounts>);

/// What holds now.
pub(crate) struct InForce {
    pub(crate) config: Config,
    pub(crate) server: Server,
    pub(crate) work: watch::Sender<Work>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slot: Arc<CertificateSlot>,
}

impl InForce {
    /// Reads the configuration and puts it in force, or says why not.
    pub(crate) async fn reload(&mut self, reloads: &Reloads) {
        systemd::reloading();
        tracing::info!("reloading ...");
        let load = Arc::clone(&reloads.load);
        let loaded = timeout(LOAD, tokio::task::spawn_blocking(move || load())).await;
        let changed = match loaded {
            Ok(Ok(Ok(config))) => self.change(config).await,
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(anyhow!(
                "the configuration, or a file that it names, can not be read within {} s",
                LOAD.as_secs()
            )),
        };
        match changed {
            Ok(()) => {
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

    async fn change(&mut self, mut config: Config) -> anyhow::Result<()> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let until_a_restart = keep(&mut config, &self.config);
        // All that may fail comes before anything is changed; of what changes something, each is whole or not at all.
        let tls = tls::server_config(Arc::clone(&self.slot), config.server.tls)?;
        let parts = match self.works_the_same(&config) {
            true => None,
            false => Some(self.parts_of_next_work(&config)?),
        };
        if let Some(logs) = log::logs() {
            logs.audit.reopen().await?;
        }
        install_files(&self.slot, &config.server.own_certificate)?;
        log::change_format(config.logger.format);
        let policy = Policy::new(config.policy.clone());
        let settings = config.server.clone();
        self.server.change(settings, |ra| ra.under(policy), Arc::new(tls));
        if let Some((upstreams, validator, accounts)) = parts {
            let before = self.work.borrow().worker.clone();
            let worker = before.followed_by(upstreams, validator, config.worker.clone());
            self.work.send_replace(Work { worker, accounts });
        }
        self.config = config;
        for sentence in until_a_restart {
            tracing::warn!("{sentence}");
        }
        Ok(())
    }

    fn works_the_same(&self, config: &Config) -> bool {
        let before = &self.config;
        let same = |(a, b): (&config::Upstream, &config::Upstream)| {
            a.name == b.name && a.failover == b.failover && is_the_same(&a.settings, &b.settings)
        };
        config.worker == before.worker
            && config.validate == before.validate
            && config.upstreams.len() == before.upstreams.len()
            && config.upstreams.iter().zip(&before.upstreams).all(same)
    }

    fn parts_of_next_work(&self, config: &Config) -> anyhow::Result<Parts> {
        let before = self.work.borrow();
        let known = |wanted: &config::Upstream| {
            let mut settings = self.config.upstreams.iter();
            settings
                .find(|known| known.name == wanted.name && is_the_same(&known.settings, &wanted.settings))?;
            let mut accounts = before.accounts.all.iter();
            let (_, ca) = accounts.find(|(name, _)| *name == wanted.name)?;
            Some(Arc::clone(ca))
        };
        let (upstreams, accounts) = upstreams(&config.upstreams, known, &self.store, &self.metrics)?;
        let validator = Validator::new(config.validate.clone())?;
        Ok((upstreams, validator, Arc::new(accounts)))
    }
}

/// The CAs: those that are `known`, and those that are made.
pub(crate) fn upstreams(
    configured: &[config::Upstream],
    known: impl Fn(&config::Upstream) -> Option<Arc<Ca>>,
    store: &Arc<dyn Store>,
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
                let ca = app::ca(configured.clone(), app::vault(configured, store))?;
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

/// Whether the same is certainly meant. Files and programs behind the settings may have changed, so what has any is made
/// anew, which asks nothing of the CA but its directory.
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
    *section == before.section
        && *directory == before.directory
        && roots.is_none()
        && before.roots.is_none()
        && *email == before.email
        && *eab == before.eab
        && dns01.is_none()
        && before.dns01.is_none()
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

/// Serves the certificate of the files from the next handshake on, if it comes from files.
pub(crate) fn install_files(slot: &CertificateSlot, from: &OwnCertificate) -> anyhow::Result<()> {
    let OwnCertificate::Files { certificate, key } = from else {
        return Ok(());
    };
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("{} can not be read", path.display()));
    Ok(slot.install_pem(&read(certificate)?, &read(key)?)?)
}

/// Runs one worker after the other until told to stop. Each finishes its steps before the next begins, and so does the
/// operator's command that is under way: all of them have deadlines.
pub(crate) async fn work(
    mut next: watch::Receiver<Work>,
    accounts: AccountsInForce,
    mut stop: watch::Receiver<bool>,
) {
    let mut is_first = true;
    while !*stop.borrow() {
        let Work {
            worker,
            accounts: own,
        } = next.borrow_and_update().clone();
        *accounts.0.write().await = own;
        if !is_first {
            tracing::info!("the reloaded configuration holds for all work");
        }
        is_first = false;
        let (stopper, stopped) = watch::channel(false);
        let mut running = pin!(worker.run(stopped));
        tokio::select! {
            () = running.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => {}
            _ = next.changed() => {}
        }
        stopper.send_replace(true);
        running.await;
    }
}

/// The accounts of the worker that runs. Whoever does something with them holds them.
#[derive(Clone)]
pub(crate) struct AccountsInForce(pub(crate) Arc<RwLock<Arc<Accounts>>>);

#[async_trait]
impl UpstreamAccounts for AccountsInForce {
    async fn answer(&self, request: UpstreamRequest) -> Result<String, String> {
        self.0.read().await.answer(request).await
    }

    async fn health(&self, upstream: &str) -> String {
        self.0.read().await.health(upstream).await
    }
}
