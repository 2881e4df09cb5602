//! The way to the database: one host after the other until one lets us in and takes writes, a pool of connections, and
//! the settings of each, so that a database that hangs or has vanished is noticed within seconds.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{
    Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts,
};
use deadpool_postgres::ClientWrapper;
use tokio::net::lookup_host;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::acme::secret::Secret;
use crate::store::StoreError;
use crate::store::postgres::fault::{self, Fault, Told};
use crate::store::postgres::tls;
use crate::store::postgres::url::{ConnectionUrl, Host, HostPlace, Protection};

/// How long to wait for one of the pool's connections to become free.
const WAIT: Duration = Duration::from_secs(5);

/// How long it may take to make one, whatever the number of hosts and their addresses.
const CREATE: Duration = Duration::from_secs(20);

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

/// Where everything of ours is in the database.
pub(crate) const SCHEMA: &str = "acme_proxy";

/// What each session is told first, whatever the database's own defaults are; not at its start, because proxies such as
/// that of RDS refuse options there. A statement takes milliseconds: one that takes seconds is of no use to anybody any
/// more, and one that waits for a lock holds up others.
const SESSION: &str = "SET search_path = acme_proxy; SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
                       SET idle_in_transaction_session_timeout = '10s'; \
                       SET default_transaction_isolation = 'read committed'; SET jit = off";

/// How the database is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it is, and as whom.
    pub url: ConnectionUrl,
    /// The name of the database.
    pub database: String,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// How many connections there may be, the one for wake-ups not counted.
    pub pool: usize,
}

impl Settings {
    /// The hosts and the name of the database, for people.
    pub fn place(&self) -> String {
        let hosts: Vec<String> = self.url.hosts.iter().map(ToString::to_string).collect();
        format!("{} at {}", self.database, hosts.join(","))
    }
}

/// A connection, and its second half, which somebody has to poll.
type Connected = (
    Client,
    Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>,
);

/// The way to the database.
struct Connector {
    hosts: Vec<Host>,
    /// Everything but the host.
    config: Config,
    has_tls: bool,
    tls: MakeRustlsConnect,
    connect_timeout: Duration,
    /// The place of the host that has let us in last: it is tried first.
    latest: AtomicUsize,
}

impl Connector {
    fn new(settings: &Settings) -> Result<Self, StoreError> {
        let url = &settings.url;
        let tls = tls::connector(&url.protection);
        let tls = tls.map_err(|why| noted(Told::of_settings(Fault::Tls, why)))?;
        // A host that is silent leaves time for the others.
        let hosts = u32::try_from(url.hosts.len()).unwrap_or(u32::MAX);
        let connect_timeout = url.connect_timeout.min(CREATE / hosts.max(1));
        let mut config = Config::new();
        config
            .user(&url.user)
            .dbname(&settings.database)
            .application_name(&url.application_name)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .channel_binding(match url.needs_channel_binding {
                true => ChannelBinding::Require,
                false => ChannelBinding::Prefer,
            })
            .connect_timeout(connect_timeout)
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
            connect_timeout,
            latest: AtomicUsize::new(0),
        })
    }

    /// A connection to the first host that lets us in and takes writes. Whoever gets it polls its second half.
    ///
    /// # Errors
    ///
    /// What is wrong with each host.
    async fn connect(&self) -> Result<Connected, Told> {
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
            fault::note(told.fault);
        }
        let nowhere = Told::new("db.dataSource", Fault::Other, "it names no host");
        Err(Told::all(told).unwrap_or(nowhere))
    }

    async fn connect_to(&self, host: &Host) -> Result<Connected, Told> {
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
    async fn attempt(&self, host: &Host, config: &Config) -> Result<Connected, Told> {
        // Its type is so deep that the compiler gives up on those that hold it.
        let connecting: Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send + '_>> =
            Box::pin(config.connect(self.tls.clone()));
        match timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| Told::of(host, &error)),
            Err(_) => {
                let detail = format!("not within {} s", self.connect_timeout.as_secs());
                Err(Told::new(host, Fault::Unreachable, &detail))
            }
        }
    }
}

/// One of the pool's connections.
pub(crate) struct Session {
    client: ClientWrapper,
    /// How many connections had fallen silent when it was made.
    silences: usize,
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

/// Makes the pool's connections, and looks at those that were idle.
pub(crate) struct Manager {
    connector: Arc<Connector>,
    /// How many connections have fallen silent.
    silences: AtomicUsize,
}

impl Manager {
    /// A connection that is set up; `heard` gets what the server says by itself. The task ends with the connection.
    async fn session(
        &self,
        mut heard: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), Told> {
        let (client, mut connection) = self.connector.connect().await?;
        let task = tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(message)) => heard(message),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a connection to the database has ended");
                        return;
                    }
                    None => return,
                }
            }
        });
        let told = match timeout(self.connector.connect_timeout, client.batch_execute(SESSION)).await {
            Ok(Ok(())) => return Ok((client, task)),
            Ok(Err(error)) => Told::of(DATABASE, &error),
            Err(_) => Told::new(DATABASE, Fault::Unreachable, ""),
        };
        task.abort();
        fault::note(told.fault);
        Err(told)
    }
}

impl deadpool::managed::Manager for Manager {
    type Type = Session;
    type Error = Told;

    async fn create(&self) -> Result<Session, Told> {
        let silences = self.silences.load(Ordering::Relaxed);
        let (client, task) = self.session(drop).await?;
        Ok(Session {
            client: ClientWrapper::new(client, task),
            silences,
        })
    }

    /// When one connection falls silent, the host has vanished, and those that were made before are not waited for as well.
    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Told> {
        if session.is_closed() || session.silences != self.silences.load(Ordering::Relaxed) {
            return Err(RecycleError::message("it is of no use"));
        }
        match timeout(RECYCLE, session.simple_query("")).await {
            Ok(works) => works
                .map(drop)
                .map_err(|error| RecycleError::Backend(Told::of(DATABASE, &error))),
            Err(_) => {
                self.silences.fetch_add(1, Ordering::Relaxed);
                Err(RecycleError::message("it is silent"))
            }
        }
    }
}

/// The connections of one process.
#[derive(Clone)]
pub(crate) struct Connections(Pool<Manager>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({:?})", self.0.status())
    }
}

impl Connections {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], with what is wrong with the settings.
    pub(crate) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let manager = Manager {
            connector: Arc::new(Connector::new(settings)?),
            silences: AtomicUsize::new(0),
        };
        let pool = Pool::builder(manager)
            .max_size(settings.pool)
            .timeouts(Timeouts {
                wait: Some(WAIT),
                create: Some(CREATE),
                // The manager sees to that.
                recycle: None,
            })
            .runtime(deadpool::Runtime::Tokio1)
            .build();
        pool.map(Self)
            .map_err(|error| StoreError::Failed(format!("the pool can not be made: {error}")))
    }

    /// A connection that works, for as long as it is held.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], with what is wrong with each host.
    pub(crate) async fn get(&self) -> Result<Object<Manager>, StoreError> {
        match self.0.get().await {
            Ok(connection) => Ok(connection),
            // It has been counted.
            Err(PoolError::Backend(told)) => Err(told.into()),
            Err(PoolError::Timeout(TimeoutType::Create)) => {
                let detail = format!("no host has let us in within {} s", CREATE.as_secs());
                Err(noted(Told::new(DATABASE, Fault::Unreachable, &detail)))
            }
            Err(PoolError::Timeout(_)) => {
                let size = self.0.status().max_size;
                let detail = format!("of {size} none became free within {} s", WAIT.as_secs());
                Err(noted(Told::new(DATABASE, Fault::PoolExhausted, &detail)))
            }
            Err(error) => Err(noted(Told::new(DATABASE, Fault::Other, &error.to_string()))),
        }
    }

    /// A connection that is not of the pool; `heard` gets what the server says by itself. The task ends with it.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn alone(
        &self,
        heard: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), StoreError> {
        Ok(self.session(heard).await?)
    }

    /// The same, with what is wrong as it was told.
    pub(crate) async fn session(
        &self,
        heard: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), Told> {
        self.0.manager().session(heard).await
    }
}

/// The server's or the library's error about a statement as ours, counted.
pub(crate) fn unavailable(error: &Error) -> StoreError {
    noted(Told::of(DATABASE, error))
}

/// A fault as an error of the store, counted.
pub(crate) fn noted(told: Told) -> StoreError {
    fault::note(told.fault);
    told.into()
}

/// The database, where nobody needs to be told which.
pub(crate) const DATABASE: &str = "the database";
