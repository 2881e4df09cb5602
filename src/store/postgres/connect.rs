//! The way to the database: a pool of connections, and single ones outside of it.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::store::StoreError;

/// Where everything of ours is in the database.
pub(crate) const SCHEMA: &str = "acme_proxy";

/// What each connection is told first. A statement of ours takes milliseconds; one that takes so much longer hangs.
const SESSION: &str = "SET search_path = acme_proxy; SET statement_timeout = '10s'; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '10s'; SET jit = off";

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, the database, the user.
    pub config: Config,
    /// How many connections there may be, one for wake-ups not counted.
    pub connections: usize,
    /// How long a request waits for a connection.
    pub wait: Duration,
}

/// The connections of one process.
#[derive(Debug)]
pub(crate) struct Connections {
    config: Config,
    pool: Pool,
}

impl Connections {
    /// Connects to nothing yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let how = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(settings.config.clone(), NoTls, how);
        let prepare = Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SESSION).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .max_size(settings.connections)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(settings.wait),
                create: Some(settings.wait),
                recycle: Some(settings.wait),
            })
            .post_create(prepare)
            .build()
            .map_err(|error| StoreError::Failed(format!("the pool can not be made: {error}")))?;
        Ok(Self {
            config: settings.config.clone(),
            pool,
        })
    }

    /// A connection, for as long as it is held.
    pub(crate) async fn get(&self) -> Result<Object, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => unavailable(&error),
            other => StoreError::Unavailable(format!("no connection to PostgreSQL: {other}")),
        })
    }

    /// A connection that is not of the pool; `heard` gets what the server says of itself. The task ends with it.
    pub(crate) async fn alone(
        &self,
        mut heard: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), StoreError> {
        let (client, mut connection) = self.config.connect(NoTls).await.map_err(|e| unavailable(&e))?;
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                heard(message);
            }
        });
        client.batch_execute(SESSION).await.map_err(|e| unavailable(&e))?;
        Ok((client, task))
    }
}

/// The server's or the driver's error as ours.
pub(crate) fn unavailable(error: &tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        Some(said) => {
            StoreError::Unavailable(format!("PostgreSQL: {} ({})", said.message(), said.code().code()))
        }
        None => StoreError::Unavailable(format!("PostgreSQL: {error}")),
    }
}
