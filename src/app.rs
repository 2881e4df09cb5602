//! Builds the daemon from its configuration, starts it and stops it. What can fail is done before anything is
//! served: a start either works or leaves nothing behind.

pub mod account_file;
mod audit;
pub mod backup;
pub mod control;
pub mod deep;
pub mod import;
mod listen;
pub mod log;
pub mod migrate;
mod records;
mod reload;
mod resolver;
mod systemd;
mod upstreams;

pub use audit::export_for_transparency;
pub use audit::verify as verify_audit_log;
pub use listen::Sockets;
pub use reload::Reloads;
pub(crate) use resolver::dns_server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::{Mutex, RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Interval;

use crate::acme::certificate::{self, Der};
use crate::acme::upstream::UpstreamName;
use crate::app::reload::{AccountsInForce, InForce, Work};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::jose::jwk::Jwk;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::ra::{OwnKeys, RegistrationAuthority};
use crate::server::control::ControlSocket;
use crate::server::{self, Listener, Server};
use crate::store::shared::Hold;
use crate::store::{Store, StoreError, Versioned};
use crate::tls::{self, CertificateSlot};
use crate::upstream::account::{self, VAULT, Vault};
use crate::upstream::acme::Ca;
use crate::upstream::http::outcome::Outcome;
use crate::validate::Validator;
use crate::worker::Worker;

/// How long requests and jobs that are under way may take to end after the signal to stop.
const SHUTDOWN: Duration = Duration::from_secs(35);

/// How long the store may take to answer before the daemon counts as stuck.
const STORE_ANSWERS: Duration = Duration::from_secs(10);

/// How long a change of the account at a CA may take: some requests, each of which may take half a minute.
const CHANGE: Duration = Duration::from_secs(300);

/// The daemon, ready to serve.
pub struct App {
    acme: Listener,
    metrics_listener: Option<Listener>,
    control: Option<ControlSocket>,
    in_force: InForce,
}

impl App {
    /// Binds the ports, opens the store and puts the parts together. Asks nothing of the network yet.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what to do.
    pub async fn build(config: Config, sockets: Sockets) -> anyhow::Result<Self> {
        Self::build_on(config, sockets, Clock::system()).await
    }

    /// The same, by another clock than the system's, on sockets of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::build`].
    pub async fn build_at(config: Config, clock: Clock) -> anyhow::Result<Self> {
        Self::build_on(config, Sockets::default(), clock).await
    }

    async fn build_on(mut config: Config, mut sockets: Sockets, clock: Clock) -> anyhow::Result<Self> {
        let acme = sockets.acme(config.server.address).await?;
        let metrics_listener = sockets.metrics(config.metrics).await?;
        // Those that systemd passes may be others than the configured ones.
        let bound = [Some(&acme), metrics_listener.as_ref()].into_iter().flatten();
        for address in bound.filter_map(|listener| listener.local_addr().ok()) {
            if !config.validate.own_listeners.contains(&address) {
                config.validate.own_listeners.push(address);
            }
        }
        let store = records::open_patiently(&config).await?;
        let store = audit::audited(store, config.audit.as_deref(), &clock)?;
        let control = match records::control_socket(&config) {
            Ok(socket) => Some(socket),
            Err(error) if config.database.is_some() => {
                tracing::warn!(path = %config.store.path.display(), %error, "there is no control socket: the operator's commands ask the database themselves, and acme-proxy certs revoke does not work here");
                None
            }
            Err(error) => {
                tracing::warn!(store.path = %config.store.path.display(), %error, "there is no control socket: acme-proxy eab, upstream, certs, orders, accounts, policy, backup and import work only while the daemon is stopped, and acme-proxy certs revoke not at all");
                None
            }
        };
        let metrics = Arc::new(Metrics::new()?);
        log::count_dropped(&metrics.log_lines_dropped);
        let slot = Arc::new(CertificateSlot::with_stand_in()?);
        reload::install_files(&slot, &config.server.own_certificate)?;
        let (upstreams, accounts) = reload::upstreams(&config.upstreams, |_| None, &store, &metrics)?;
        let own_keys = Box::new(KeysOfDaemon {
            slot: Arc::clone(&slot),
            store: Arc::clone(&store),
        });
        let validator = Validator::new(config.validate.clone())?;
        let policy = Policy::new(config.policy.clone());
        let ra =
            RegistrationAuthority::new(Arc::clone(&store), policy, clock.clone()).with_own_keys(own_keys);
        for provisioner in ra.provisioners_without_key().await? {
            tracing::warn!(
                provisioner,
                "requireEAB is true, and there is no key yet, so nobody can register; make one with: acme-proxy eab add"
            );
        }
        let tls = Arc::new(tls::server_config(Arc::clone(&slot), config.server.tls)?);
        let server = Server::new(config.server.clone(), ra, Arc::clone(&metrics), tls);
        let worker = Worker::new(
            Arc::clone(&store),
            upstreams,
            validator,
            clock,
            Arc::clone(&metrics),
            Arc::clone(&slot),
            config.worker.clone(),
        );
        worker.show_own_certificate().await;
        let accounts = Arc::new(accounts);
        let in_force = InForce {
            config,
            server,
            work: watch::Sender::new(Work { worker, accounts }),
            store,
            metrics,
            slot,
        };
        Ok(Self {
            acme,
            metrics_listener,
            control,
            in_force,
        })
    }

    /// Where the ACME listener is bound.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn acme_address(&self) -> io::Result<SocketAddr> {
        self.acme.local_addr()
    }

    /// Where the metrics listener is bound, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref()?.local_addr().ok()
    }

    /// Serves until `stop` turns true or the store fails, then lets what is under way end.
    ///
    /// # Errors
    ///
    /// That the store has failed.
    pub async fn run(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let (_, wanted) = mpsc::channel(1);
        let config = self.in_force.config.clone();
        let load = Arc::new(move || Ok(config.clone()));
        self.run_with(stop, Reloads { wanted, load }).await
    }

    /// The same, and reads the configuration anew whenever that is asked for.
    ///
    /// # Errors
    ///
    /// As [`Self::run`], and that a part of the daemon has ended, which no part ever should.
    pub async fn run_with(self, mut stop: watch::Receiver<bool>, mut reloads: Reloads) -> anyhow::Result<()> {
        let mut in_force = self.in_force;
        let (stopper, stopped) = watch::channel(false);
        let mut parts = JoinSet::new();
        let accounts = Arc::clone(&in_force.work.borrow().accounts);
        let accounts = AccountsInForce(Arc::new(RwLock::new(accounts)));
        if let Some(control) = self.control {
            let accounts = Arc::new(accounts.clone());
            parts.spawn(control.serve(in_force.server.clone(), accounts, stopped.clone()));
        }
        parts.spawn(self.acme.serve_acme(in_force.server.clone(), stopped.clone()));
        if let Some(listener) = self.metrics_listener {
            let metrics = Arc::clone(&in_force.metrics);
            parts.spawn(server::serve_metrics(listener, metrics, stopped.clone()));
        }
        if in_force.config.audit.is_some() {
            parts.spawn(audit::watch(Arc::clone(&in_force.metrics), stopped.clone()));
        }
        parts.spawn(reload::work(in_force.work.subscribe(), accounts, stopped));
        systemd::ready("serving");
        let mut heartbeat = systemd::heartbeat().map(tokio::time::interval);
        let failure = loop {
            tokio::select! {
                () = told_to(&mut stop) => break None,
                failure = in_force.store.failed() => {
                    tracing::error!(error = %failure, "the store has failed; only a restart can tell what is on the disk");
                    break Some(failure.into());
                }
                Some(ended) = parts.join_next() => {
                    let why = ended.err().map_or_else(String::new, |error| format!(": {error}"));
                    break Some(anyhow::anyhow!("a part of the daemon has ended by itself{why}"));
                }
                Some(()) = reloads.wanted.recv() => in_force.reload(&reloads).await,
                () = beat(&mut heartbeat) => say_alive(&*in_force.store).await,
            }
        };
        tracing::info!("shutting down ...");
        systemd::stopping();
        stopper.send_replace(true);
        let drained = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, drained).await.is_err() {
            tracing::warn!(
                "work was still under way at the end of the shutdown's time; it goes on after the next start"
            );
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Returns once the daemon is told to stop, or nobody is left who could tell it.
async fn told_to(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// The next beat; never, if nobody listens.
async fn beat(heartbeat: &mut Option<Interval>) {
    match heartbeat {
        Some(heartbeat) => {
            heartbeat.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Tells the watchdog that the daemon works, if its store does. That the runtime does, this very call shows. A database
/// that is away comes back without a restart of ours, which would help nobody.
async fn say_alive(store: &dyn Store) {
    if store.shared().is_some() {
        return systemd::alive();
    }
    match tokio::time::timeout(STORE_ANSWERS, store.load("heartbeat")).await {
        Ok(Ok(_)) => systemd::alive(),
        Ok(Err(error)) => tracing::error!(%error, "the store can not be read, so the watchdog hears nothing"),
        Err(_) => tracing::error!("the store does not answer, so the watchdog hears nothing"),
    }
}

/// Where the account at a CA is kept.
fn vault(configured: &config::Upstream, store: &Arc<dyn Store>) -> Arc<dyn Vault> {
    Arc::new(StoredAccount {
        name: account::vault_name(configured.name, &configured.settings),
        store: Arc::clone(store),
        held: Mutex::default(),
    })
}

/// A CA, with our account there.
fn ca(configured: config::Upstream, vault: Arc<dyn Vault>) -> anyhow::Result<Arc<Ca>> {
    let ca =
        Ca::new(configured.settings, vault).with_context(|| format!("the upstream {}", configured.name))?;
    Ok(Arc::new(ca))
}

/// Counts the HTTP requests to a CA by their outcomes, each of which is shown from the start.
fn count_requests(ca: &Ca, name: UpstreamName, metrics: &Metrics) {
    let counter = metrics.upstream.http_requests.clone();
    let of = move |outcome: Outcome| counter.with_label_values(&[name.as_str(), outcome.name()]);
    for outcome in Outcome::ALL {
        of(outcome);
    }
    ca.client.count_by(Box::new(move |outcome| of(outcome).inc()));
}

/// The key of the certificate that is served at the moment, and the keys of our accounts at the CAs: those in use, those
/// of earlier accounts, which can still revoke, and those that are to follow.
struct KeysOfDaemon {
    slot: Arc<CertificateSlot>,
    store: Arc<dyn Store>,
}

#[async_trait]
impl OwnKeys for KeysOfDaemon {
    async fn contain(&self, key: &Jwk) -> Result<bool, StoreError> {
        let served = self.slot.leaf().map(Der::new);
        if served.and_then(|leaf| certificate::key_of(&leaf)).as_ref() == Some(key) {
            return Ok(true);
        }
        for name in self.store.names(VAULT).await? {
            let record = self.store.load(&name).await?;
            let keys = record.map(|record| account::public_keys(&record.value));
            let mut keys = keys.into_iter().flatten();
            if keys.any(|jwk| serde_json::from_value(jwk).ok().as_ref() == Some(key)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The CA's account, kept in the store.
struct StoredAccount {
    name: String,
    store: Arc<dyn Store>,
    /// While it is being changed, if other processes have the store open, too.
    held: Mutex<Option<Hold>>,
}

impl StoredAccount {
    async fn read(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, String> {
        self.store.load(name).await.map_err(|error| error.to_string())
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), String> {
        let version = self.read(name).await?.map_or(0, |stored| stored.version);
        let saved = self.store.save(name, Versioned::with(version, bytes)).await;
        saved.map(drop).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Vault for StoredAccount {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.read(&self.name).await?.map(|stored| stored.value))
    }

    async fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        self.write(&self.name, bytes).await
    }

    async fn keep(&self, id: &str, bytes: Vec<u8>) -> Result<(), String> {
        self.write(&format!("{}/{id}", self.name), bytes).await
    }

    async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
        let names = self.store.names(VAULT).await.map_err(|error| error.to_string())?;
        let mut others = Vec::new();
        for name in names.iter().filter(|name| **name != self.name) {
            others.extend(self.read(name).await?.map(|stored| stored.value));
        }
        Ok(others)
    }

    async fn begin(&self) -> Result<(), String> {
        let Some(shared) = self.store.shared() else {
            return Ok(());
        };
        let held = shared
            .hold(&self.name, CHANGE)
            .await
            .map_err(|error| error.to_string())?;
        let held = held.ok_or("another acme-proxy is changing it at the moment; try again in a minute")?;
        *self.held.lock().await = Some(held);
        Ok(())
    }

    async fn end(&self) {
        if let (Some(shared), Some(held)) = (self.store.shared(), self.held.lock().await.take())
            && let Err(error) = shared.release(held).await
        {
            tracing::warn!(%error, "the account at the CA can not be changed by another process for a while");
        }
    }
}
