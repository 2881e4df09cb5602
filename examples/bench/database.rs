//! PostgreSQL for the benchmark, as Debian's package sets it up, and what it has used: by its own count
//! (`pg_stat_statements`, `pg_stat_wal`), and by `/proc`.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context as _;
use serde_json::json;
use tokio::task::block_in_place;
use tokio_postgres::{Client, Config};

use crate::ca::ThrowawayCa;
use crate::postgres::{Postgres, client, url_of};
use crate::proxy::{AcmeProxy, Database};
use crate::{Ports, measure, started};

const SETTINGS: [&str; 2] = [
    "shared_preload_libraries=pg_stat_statements,auto_explain",
    // The package's own.
    "shared_buffers=128MB",
];

/// What it counts, of one database or of all.
const COUNTS: &str = "SELECT
  (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1)),
  (SELECT (to_jsonb(wal) ->> 'wal_sync')::float8 FROM pg_stat_wal wal)";

/// A server of its own.
pub(crate) struct Server {
    postgres: Postgres,
    watch: Client,
}

/// What the database has used so far.
pub(crate) struct Counts {
    /// Statements that clients have sent.
    pub(crate) statements: f64,
    /// Syncs of its log, if this version says so there.
    pub(crate) syncs: Option<f64>,
    /// User and system time of all its processes.
    pub(crate) cpu_ms: f64,
}

impl Server {
    /// Starts it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let postgres = block_in_place(|| Postgres::start(&SETTINGS))?;
        let watch = client(&postgres.config("postgres")).await?;
        watch.batch_execute("CREATE EXTENSION pg_stat_statements").await?;
        Ok(Self { postgres, watch })
    }

    /// A new, empty database.
    pub(crate) async fn database(&self) -> anyhow::Result<Config> {
        self.postgres.database().await
    }

    /// What it has used for this database.
    pub(crate) async fn counts(&self, database: &Config) -> anyhow::Result<Counts> {
        let name = database.get_dbname().context("a database without a name")?;
        let row = self.watch.query_one(COUNTS, &[&name]).await?;
        let pid = std::fs::read_to_string(self.postgres.directory().join("data/postmaster.pid"))?;
        Ok(Counts {
            statements: row.try_get(0)?,
            syncs: row.try_get(1)?,
            cpu_ms: measure::family_cpu_ms(pid.lines().next().context("no process id")?)?,
        })
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.postgres.log()
    }
}

impl Counts {
    /// What has been used since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            syncs: self.syncs.zip(before.syncs).map(|(after, before)| after - before),
            cpu_ms: self.cpu_ms - before.cpu_ms,
        }
    }
}

/// So many fresh acme-proxy on this database, each on an address of its own, all on one port.
pub(crate) async fn replicas(
    count: u8,
    database: &Config,
    directory: &std::path::Path,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<Vec<AcmeProxy>> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let url = url_of(database);
    let mut replicas = Vec::new();
    for number in 1..=count {
        let own = tempfile::Builder::new()
            .prefix("replica-")
            .tempdir_in(directory)?;
        let database = Database {
            url: &url,
            address: (Ipv4Addr::new(127, 0, 0, number), port).into(),
        };
        // The directory goes with the one that it is in.
        replicas.push(started(&own.keep(), json!({}), Some(database), ports, ca).await?);
    }
    Ok(replicas)
}
