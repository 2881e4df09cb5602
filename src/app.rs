//! Builds the daemon from its configuration, starts it and stops it. What can fail is done before anything is
//! served: a start either works or leaves nothing behind.

pub mod account_file;
mod audit;
pub mod backup;
mod building;
pub mod control;
pub mod deep;
pub mod import;
mod leave;
mod listen;
pub mod log;
pub mod migrate;
mod records;
mod reload;
mod resolver;
mod systemd;
mod upstreams;
mod vault;

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
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Interval;

use crate::acme::certificate::{self, Der};
use crate::acme::upstream::UpstreamName;
use crate::app::leave::Leave;
use crate::app::reload::{AccountsInForce, Files, InForce, Work};
use crate::app::vault::Vaults;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::jose::jwk::Jwk;
use crate::metrics::Metrics;
use crate::metrics::health::Health;
use crate::metrics::health::STORE;
use crate::policy::Policy;
use crate::ra::{OwnKeys, RegistrationAuthority};
use crate::server::control::ControlSocket;
use crate::server::{self, Listener, Server};
use crate::store::{Store, StoreError};
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

/// The daemon, ready to serve.
pub struct App {
    acme: Listener,
    metrics_listener: Option<Listener>,
    control: Option<ControlSocket>,
    store: Arc<dyn Store>,
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
        let metrics = Arc::new(Metrics::new()?);
        let mut page = JoinSet::new();
        let (_serving, stop) = watch::channel(false);
        // A database may have to be waited for: what is wrong with it is shown meanwhile.
        if let (Some(listener), Some(_)) = (&metrics_listener, &config.database) {
            let unknown = "the database has not been asked yet".to_owned();
            metrics.health.report(STORE, Err(unknown));
            page.spawn(server::serve_metrics(
                listener.again()?,
                Arc::clone(&metrics),
                stop,
            ));
        }
        let store = records::open_patiently(&config, &metrics).await?;
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
        log::count_dropped(&metrics.log_lines_dropped);
        let slot = Arc::new(CertificateSlot::with_stand_in()?);
        slot.serve(reload::of_files(&config.server.own_certificate)?);
        let (files, vaults) = (
            Files::read(&config.upstreams),
            Arc::new(Vaults::of(Arc::clone(&store))),
        );
        let (upstreams, accounts) = reload::upstreams(&config.upstreams, |_| None, &vaults, &metrics)?;
        let own_keys = Box::new(KeysOfDaemon {
            slot: Arc::clone(&slot),
            store: Arc::clone(&store),
        });
        let validator = Validator::new(config.validate.clone())?;
        let policy = Policy::new(config.policy.clone());
        let ra =
            RegistrationAuthority::new(Arc::clone(&store), policy, clock.clone()).with_own_keys(own_keys);
        let without_key = records::patiently(&metrics, || ra.provisioners_without_key()).await?;
        drop(page);
        for provisioner in without_key {
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
            files,
            vaults,
            metrics,
            slot,
        };
        Ok(Self {
            acme,
            metrics_listener,
            control,
            store,
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

    /// Serves until `stop` turns true, and for `shutdown_delay` more, or until the store fails; then lets what is under way
    /// end.
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
        if let Some(control) = self.control {
            let accounts = Arc::new(AccountsInForce(in_force.work.subscribe()));
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
        parts.spawn(reload::work(in_force.work.subscribe(), stopped));
        systemd::ready("serving");
        let mut heartbeat = systemd::heartbeat().map(tokio::time::interval);
        let mut reload = JoinSet::new();
        let mut leave = Leave::default();
        let failure = loop {
            tokio::select! {
                () = told_to(&mut stop), if !leave.is_taken() => leave.take(&in_force),
                () = leave.is_over() => break None,
                failure = self.store.failed() => {
                    tracing::error!(error = %failure, "the store has failed; only a restart can tell what is on the disk");
                    break Some(failure.into());
                }
                Some(ended) = parts.join_next() => {
                    let why = ended.err().map_or_else(String::new, |error| format!(": {error}"));
                    break Some(anyhow::anyhow!("a part of the daemon has ended by itself{why}"));
                }
                Some(()) = reloads.wanted.recv(), if reload.is_empty() => {
                    reload.spawn(in_force.prepare(&reloads));
                }
                Some(prepared) = reload.join_next() => {
                    in_force.take(prepared.map_err(Into::into).flatten());
                }
                () = beat(&mut heartbeat) => say_alive(&*self.store, &in_force.metrics.health).await,
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

/// Tells the watchdog that the daemon works, if it does. That the runtime does, this very call shows.
async fn say_alive(store: &dyn Store, health: &Health) {
    match what_is_stuck(store, health).await {
        None => systemd::alive(),
        Some(what) => tracing::error!("the watchdog hears nothing: {what}"),
    }
}

/// What of the store and the loops does not work any more, if anything. A database that is away comes back without a restart
/// of ours, which would help nobody.
async fn what_is_stuck(store: &dyn Store, health: &Health) -> Option<String> {
    let (_, checks) = health.alive();
    let stuck = checks
        .into_iter()
        .filter_map(|(part, state)| Some((part, state.err()?)));
    let stuck: Vec<String> = stuck.map(|(part, why)| format!("{part}: {why}")).collect();
    if !stuck.is_empty() {
        return Some(stuck.join("; "));
    }
    if store.shared().is_some() {
        return None;
    }
    match tokio::time::timeout(STORE_ANSWERS, store.load("heartbeat")).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("the store can not be read: {error}")),
        Err(_) => Some("the store does not answer".to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Settings;
    use crate::store::sled::SledStore;

    #[tokio::test]
    async fn f29_the_watchdog_is_not_fed_when_a_loop_is_stuck_or_the_store_has_failed() {
        let place = tempfile::tempdir().unwrap();
        let store = SledStore::open(Settings {
            path: place.path().join("db"),
            reserve_bytes: 0,
            cache_bytes: 4 << 20,
            gather: Duration::ZERO,
        });
        let store = store.unwrap();
        let health = Health::default();
        health.turns("upkeep");
        assert_eq!(what_is_stuck(&store, &health).await, None);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        let stuck = what_is_stuck(&store, &health).await;
        assert_eq!(stuck.as_deref(), Some("loop upkeep: has not turned for 61 s"));
        health.turns("upkeep");
        health.store_has_failed("EIO".to_owned());
        assert_eq!(
            what_is_stuck(&store, &health).await.as_deref(),
            Some("store: EIO")
        );
    }
}
