//! Builds the daemon from its configuration, starts it and stops it. What can fail is done before anything is
//! served: a start either works or leaves nothing behind.

pub mod account_file;
pub mod control;
mod upstreams;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::acme::certificate::{self, Der};
use crate::acme::upstream::UpstreamName;
use crate::app::upstreams::Accounts;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::jose::jwk::Jwk;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::ra::{OwnKeys, RegistrationAuthority};
use crate::server::control::ControlSocket;
use crate::server::{self, Listener, OwnCertificate, Server};
use crate::store::sled::SledStore;
use crate::store::{Store, StoreError, Versioned};
use crate::tls::{self, CertificateSlot};
use crate::upstream::account::{self, VAULT, Vault};
use crate::upstream::acme::Ca;
use crate::upstream::http::outcome::Outcome;
use crate::validate::Validator;
use crate::worker::Worker;
use crate::worker::upstream::Upstream;

/// How long requests and jobs that are under way may take to end after the signal to stop.
const SHUTDOWN: Duration = Duration::from_secs(35);

/// `EAFNOSUPPORT`: the host has no IPv6.
const NO_IPV6: i32 = 97;

/// The daemon, ready to serve.
pub struct App {
    acme: Listener,
    metrics_listener: Option<Listener>,
    control: Option<ControlSocket>,
    accounts: Accounts,
    server: Server,
    tls: Arc<rustls::ServerConfig>,
    worker: Worker,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl App {
    /// Binds the ports, opens the store and puts the parts together. Asks nothing of the network yet.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what to do.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        Self::build_at(config, Clock::system()).await
    }

    /// The same, by another clock than the system's.
    ///
    /// # Errors
    ///
    /// As [`Self::build`].
    pub async fn build_at(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let acme = bind("address", config.server.address).await?;
        let metrics_listener = match config.metrics {
            Some(address) => Some(bind("metricsAddress or authority.config.metrics.port", address).await?),
            None => None,
        };
        let settings = config.store;
        let directory = settings.path.clone();
        let store = tokio::task::spawn_blocking(move || SledStore::open(settings)).await??;
        let store: Arc<dyn Store> = Arc::new(store);
        let control = match ControlSocket::bind(&directory) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(store.path = %directory.display(), %error, "there is no control socket: acme-proxy eab, upstream, certs, orders and accounts work only while the daemon is stopped");
                None
            }
        };
        let metrics = Arc::new(Metrics::new()?);
        let slot = Arc::new(CertificateSlot::with_stand_in()?);
        if let OwnCertificate::Files { certificate, key } = &config.server.own_certificate {
            let read = |path: &std::path::Path| {
                std::fs::read(path).with_context(|| format!("{} can not be read", path.display()))
            };
            slot.install_pem(&read(certificate)?, &read(key)?)?;
        }
        let mut upstreams = Vec::new();
        let mut accounts = Vec::new();
        for configured in config.upstreams {
            let vault = vault(&configured, &store);
            let (name, failover) = (configured.name, configured.failover);
            let ca_url = configured.settings.directory.clone();
            let ca = ca(configured, vault)?;
            count_requests(&ca, name, &metrics);
            accounts.push((name, Arc::clone(&ca)));
            upstreams.push(Upstream {
                name,
                ca_url,
                issuer: ca,
                failover,
            });
        }
        let accounts = Accounts {
            all: accounts,
            metrics: Some(Arc::clone(&metrics)),
        };
        let own_keys = Box::new(KeysOfDaemon {
            slot: Arc::clone(&slot),
            store: Arc::clone(&store),
        });
        let validator = Validator::new(config.validate)?;
        let ra = RegistrationAuthority::new(Arc::clone(&store), Policy::new(config.policy), clock.clone())
            .with_own_keys(own_keys);
        for provisioner in ra.provisioners_without_key().await? {
            tracing::warn!(
                provisioner,
                "requireEAB is true, and there is no key yet, so nobody can register; make one with: acme-proxy eab add"
            );
        }
        let tls = Arc::new(tls::server_config(Arc::clone(&slot), config.server.tls)?);
        let server = Server::new(config.server, ra, Arc::clone(&metrics));
        let worker = Worker::new(
            Arc::clone(&store),
            upstreams,
            validator,
            clock,
            Arc::clone(&metrics),
            slot,
            config.worker,
        );
        Ok(Self {
            acme,
            metrics_listener,
            control,
            accounts,
            server,
            tls,
            worker,
            store,
            metrics,
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
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let (stopper, stopped) = watch::channel(false);
        let mut parts = JoinSet::new();
        if let Some(control) = self.control {
            let accounts = Arc::new(self.accounts);
            parts.spawn(control.serve(self.server.clone(), accounts, stopped.clone()));
        }
        parts.spawn(self.acme.serve_acme(self.server, self.tls, stopped.clone()));
        if let Some(listener) = self.metrics_listener {
            parts.spawn(server::serve_metrics(listener, self.metrics, stopped.clone()));
        }
        parts.spawn(self.worker.run(stopped));
        let failure = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => None,
            failure = self.store.failed() => Some(failure),
        };
        match &failure {
            None => tracing::info!("shutting down"),
            Some(error) => {
                tracing::error!(%error, "the store has failed; only a restart can tell what is on the disk")
            }
        }
        stopper.send_replace(true);
        let drained = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, drained).await.is_err() {
            tracing::warn!(
                "work was still under way at the end of the shutdown's time; it goes on after the next start"
            );
        }
        match failure {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }
}

/// Where the account at a CA is kept.
fn vault(configured: &config::Upstream, store: &Arc<dyn Store>) -> Arc<dyn Vault> {
    Arc::new(StoredAccount {
        name: account::vault_name(configured.name, &configured.settings),
        store: Arc::clone(store),
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

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<Listener> {
    let bound = match Listener::bind(address).await {
        // ":443" means every address; on a host without IPv6 these are the IPv4 ones.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_IPV6) => {
            Listener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))).await
        }
        bound => bound,
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{key}: {address} is in use by another process; stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "{key}: {address} may not be bound by this user; give the service CAP_NET_BIND_SERVICE, or choose a port above 1023"
        ),
        _ => anyhow::anyhow!("{key}: {address} can not be bound: {error}"),
    })
}

/// The CA's account, kept in the store.
struct StoredAccount {
    name: String,
    store: Arc<dyn Store>,
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
}
