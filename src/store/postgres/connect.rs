//! The way to the database: one host after the other until one lets us in and takes writes, a pool of connections, and
//! the settings of each, so that a database that hangs or has vanished is noticed within seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::ClientWrapper;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::acme::secret::Secret;
use crate::store::StoreError;
use crate::store::postgres::fault::{Fault, Faults, Told};
use crate::store::postgres::tls;
use crate::store::postgres::url::{ConnectionUrl, Host, HostPlace, Protection};

/// How long to wait for one of the pool's connections to become free.
const WAIT: Duration = Duration::from_secs(5);

/// How long a connection that was idle may take to show that it works.
const RECYCLE: Duration = Duration::from_secs(5);

/// How long a host name may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(5);

/// What was sent and is not acknowledged for so long is lost: the host has vanished.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// A connection on which nothing happens is asked for a sign of life after so long, so often, so many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// What holds in each session, whatever the database's own defaults are. A statement takes milliseconds: one that takes
/// seconds is of no use to anybody any more, and one that waits for a lock holds up others.
const SESSION: &str = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s \
                       -c default_transaction_isolation=read\\ committed -c TimeZone=UTC";

/// How the database is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it is, and as whom.
    pub url: ConnectionUrl,
    /// The name of the database.
    pub database: String,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// What all replicas have in common, and nobody else knows: the keys of nonces and of stored secrets come from it.
    pub secret: Secret,
    /// How many connections there may be.
    pub pool: usize,
}

impl Settings {
    /// The hosts and the name of the database, for people.
    pub fn place(&self) -> String {
        let hosts: Vec<String> = self.url.hosts.iter().map(ToString::to_string).collect();
        format!("{} at {}", self.database, hosts.join(","))
    }
}

/// Where the bytes of a connection go through.
type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The way to the database.
pub(crate) struct Connector {
    hosts: Vec<Host>,
    /// Everything but the host.
    config: Config,
    has_tls: bool,
    tls: MakeRustlsConnect,
    connect_timeout: Duration,
    /// The place of the host that has let us in last: it is tried first.
    latest: AtomicUsize,
    pub(crate) faults: Arc<Faults>,
}

impl Connector {
    /// The way to a database; nobody is asked yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the roots to trust.
    pub(crate) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let url = &settings.url;
        let faults = Arc::new(Faults::default());
        let tls = tls::connector(&url.protection).map_err(|why| {
            faults.note(Fault::Tls);
            StoreError::Unavailable(why)
        })?;
        let mut config = Config::new();
        config
            .user(&url.user)
            .dbname(&settings.database)
            .application_name(&url.application_name)
            .options(SESSION)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .channel_binding(ChannelBinding::Prefer)
            .connect_timeout(url.connect_timeout)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        if let Some(password) = &settings.password {
            config.password(password.reveal());
        }
        Ok(Self {
            hosts: url.hosts.clone(),
            config,
            has_tls: url.protection != Protection::None,
            tls,
            connect_timeout: url.connect_timeout,
            latest: AtomicUsize::new(0),
            faults,
        })
    }

    /// A connection to the first host that lets us in and takes writes. Whoever gets it polls its second half.
    ///
    /// # Errors
    ///
    /// What is wrong with each host.
    pub(crate) async fn connect(&self) -> Result<(Client, Connection<Socket, Stream>), Told> {
        let first = self.latest.load(Ordering::Relaxed);
        let places = (first..self.hosts.len()).chain(0..first);
        let mut told = Vec::new();
        for place in places {
            let Some(host) = self.hosts.get(place) else {
                continue;
            };
            match self.connect_to(host).await {
                Ok(connection) => {
                    self.latest.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(why) => told.push(why),
            }
        }
        for told in &told {
            self.faults.note(told.fault);
        }
        let nowhere = Told::new("db.dataSource", Fault::Other, "it names no host");
        Err(Told::all(told).unwrap_or(nowhere))
    }

    async fn connect_to(&self, host: &Host) -> Result<(Client, Connection<Socket, Stream>), Told> {
        let mut config = self.config.clone();
        config.port(host.port);
        let name = match &host.place {
            HostPlace::Directory(path) => {
                config.host_path(path).ssl_mode(SslMode::Disable);
                return self.attempt(host, &config).await;
            }
            HostPlace::Network(name) => name,
        };
        config.host(name).ssl_mode(match self.has_tls {
            true => SslMode::Require,
            false => SslMode::Disable,
        });
        let addresses = match timeout(LOOKUP, lookup_host((name.as_str(), host.port))).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(Told::new(host, Fault::Unresolved, &error.to_string())),
            Err(_) => return Err(Told::new(host, Fault::Unresolved, "no DNS server answers")),
        };
        let mut latest = Told::new(host, Fault::Unresolved, "");
        for address in addresses {
            let mut config = config.clone();
            config.hostaddr(address.ip());
            match self.attempt(host, &config).await {
                Ok(connection) => return Ok(connection),
                Err(told) => latest = told,
            }
        }
        Err(latest)
    }

    /// The library's own deadline ends with the TCP handshake; a server that hangs behind it must not hold us up either.
    async fn attempt(
        &self,
        host: &Host,
        config: &Config,
    ) -> Result<(Client, Connection<Socket, Stream>), Told> {
        match timeout(self.connect_timeout, config.connect(self.tls.clone())).await {
            Ok(connected) => connected.map_err(|error| Told::of(host, &error)),
            Err(_) => {
                let detail = format!("not within {} s", self.connect_timeout.as_secs());
                Err(Told::new(host, Fault::Unreachable, &detail))
            }
        }
    }
}

/// Makes the pool's connections, and looks at those that were idle.
pub(crate) struct Manager(Arc<Connector>);

impl deadpool::managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = Told;

    async fn create(&self) -> Result<ClientWrapper, Told> {
        let (client, connection) = self.0.connect().await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database has ended");
            }
        });
        Ok(ClientWrapper::new(client, task))
    }

    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> RecycleResult<Told> {
        if client.is_closed() {
            return Err(RecycleError::message("it is closed"));
        }
        let works = client.simple_query("").await;
        works
            .map(drop)
            .map_err(|error| RecycleError::Backend(Told::of("the database", &error)))
    }
}

/// A database, through a pool of connections.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) connector: Arc<Connector>,
    pool: Pool<Manager>,
    place: Arc<str>,
}

impl Database {
    /// The database of these settings; nobody is asked yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], with what is wrong with the settings.
    pub(crate) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let connector = Arc::new(Connector::new(settings)?);
        let pool = Pool::builder(Manager(Arc::clone(&connector)))
            .max_size(settings.pool)
            .timeouts(Timeouts {
                wait: Some(WAIT),
                // Each attempt has a deadline of its own.
                create: None,
                recycle: Some(RECYCLE),
            })
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            connector,
            pool,
            place: settings.place().into(),
        })
    }

    /// A connection that works, for one piece of work.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], with what is wrong with each host.
    pub(crate) async fn connection(&self) -> Result<Object<Manager>, StoreError> {
        let why = match self.pool.get().await {
            Ok(connection) => return Ok(connection),
            // It has been counted.
            Err(PoolError::Backend(told)) => return Err(told.into()),
            Err(PoolError::Timeout(_)) => Told::new(&self.place, Fault::PoolExhausted, ""),
            Err(error) => Told::new(&self.place, Fault::Other, &error.to_string()),
        };
        Err(self.told(why))
    }

    /// What the library says about a statement, counted.
    pub(crate) fn failed(&self, error: &Error) -> StoreError {
        self.told(Told::of(&self.place, error))
    }

    /// A fault, counted.
    pub(crate) fn told(&self, told: Told) -> StoreError {
        self.connector.faults.note(told.fault);
        told.into()
    }

    /// How often each fault has been met.
    pub(crate) fn faults(&self) -> Vec<(&'static str, u64)> {
        self.connector.faults.counts()
    }
}
