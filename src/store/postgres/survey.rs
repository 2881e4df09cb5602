//! What a database looks like before anything is kept in it: a look at each host that changes nothing.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::{Client, Error, Row};

use crate::store::StoreError;
use crate::store::postgres::connect::{Connections, Settings, unavailable};
use crate::store::postgres::fault::{Fault, Told};
use crate::store::postgres::migrate;
use crate::store::postgres::url::Host;

/// How long the questions to one host may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// All that is asked of a host, in one statement. What the user may not see is left out.
const QUESTION: &str = "SELECT
  current_setting('server_version'),
  (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
  current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
  current_setting('synchronous_standby_names'),
  (SELECT count(*) FROM pg_stat_replication),
  has_database_privilege(current_database(), 'CREATE'),
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  current_setting('max_connections')::bigint,
  (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// A host that was looked at.
#[derive(Debug)]
pub struct Looked {
    /// Which one.
    pub host: Host,
    /// What it is, or what is wrong with it.
    pub state: Result<State, StoreError>,
}

/// What a host is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It lets us in, and takes no writes: a standby, as it should be.
    ReadOnly,
    /// It takes writes.
    Primary(Box<Primary>),
}

/// What a server that takes writes says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Primary {
    /// Its version.
    pub version: String,
    /// The version of TLS that it is spoken to by.
    pub tls: Option<String>,
    /// Its settings without which it may lose what it has acknowledged: name and value.
    pub durability: [(&'static str, String); 3],
    /// The standbys that it waits for, as it is configured.
    pub synchronous: String,
    /// How many standbys follow it at the moment.
    pub standbys: i64,
    /// Whether our tables have been made, or what is wrong with them.
    pub schema: Result<bool, StoreError>,
    /// Whether they may be.
    pub may_create: bool,
    /// How many clients are connected, and how many may be.
    pub connections: (i64, i64),
    /// Its time.
    pub time: Option<Timestamp>,
}

/// Looks at each host.
pub async fn look(settings: &Settings) -> Vec<Looked> {
    let mut looked = Vec::new();
    for host in &settings.url.hosts {
        let mut alone = settings.clone();
        alone.url.hosts = vec![host.clone()];
        looked.push(Looked {
            host: host.clone(),
            state: look_at(&alone).await,
        });
    }
    looked
}

async fn look_at(settings: &Settings) -> Result<State, StoreError> {
    let (client, task) = match Connections::new(settings)?.session(drop).await {
        Ok(session) => session,
        Err(told) if told.fault == Fault::ReadOnly => return Ok(State::ReadOnly),
        Err(told) => return Err(told.into()),
    };
    let asked = timeout(DEADLINE, ask(&client)).await;
    task.abort();
    match asked {
        Ok(Ok(primary)) => Ok(State::Primary(Box::new(primary))),
        Ok(Err(error)) => Err(unavailable(&error)),
        Err(_) => Err(Told::new(settings.place(), Fault::Unreachable, "").into()),
    }
}

async fn ask(client: &Client) -> Result<Primary, Error> {
    let mut primary = read(&client.query_one(QUESTION, &[]).await?)?;
    primary.schema = migrate::is_made(client, migrate::STEPS).await;
    Ok(primary)
}

fn read(row: &Row) -> Result<Primary, Error> {
    Ok(Primary {
        version: row.try_get(0)?,
        tls: row.try_get(1)?,
        durability: [
            ("fsync", row.try_get(2)?),
            ("full_page_writes", row.try_get(3)?),
            ("synchronous_commit", row.try_get(4)?),
        ],
        synchronous: row.try_get(5)?,
        standbys: row.try_get(6)?,
        schema: Ok(false),
        may_create: row.try_get(7)?,
        connections: (row.try_get(8)?, row.try_get(9)?),
        time: Timestamp::from_microsecond(row.try_get(10)?).ok(),
    })
}
