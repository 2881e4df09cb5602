//! A PostgreSQL primary and its synchronous standby. What is committed is on both; when the primary is gone, the standby
//! takes its place, and a new standby is made. Until that is there nothing is committed.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::link::Seat;
use crate::postgres::{Postgres, client};

/// What the standby calls itself.
const STANDBY: &str = "standby";

/// The database that the replicas share.
pub(crate) const DATABASE: &str = "acmeproxy";

const SETTINGS: [&str; 3] = [
    "synchronous_standby_names=standby",
    "wal_keep_size=256MB",
    "max_wal_size=256MB",
];

/// Two servers, each on a seat of its own.
pub(crate) struct Cluster {
    servers: [Option<Postgres>; 2],
    seats: [Seat; 2],
    /// Which of them is the primary.
    primary: usize,
}

impl Cluster {
    /// Starts both, with an empty database.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let primary = block_in_place(|| Postgres::start(&SETTINGS))?;
        let mut cluster = Self {
            servers: [None, None],
            seats: [Seat::default(), Seat::default()],
            primary: 0,
        };
        cluster.sits(0, primary);
        cluster.add_standby().await?;
        cluster.sql(&format!("CREATE DATABASE {DATABASE}")).await?;
        Ok(cluster)
    }

    /// Where the servers are.
    pub(crate) fn seats(&self) -> [Seat; 2] {
        self.seats.clone()
    }

    /// The primary ends as in a crash and never comes back; the standby is promoted, and gets a standby of its own.
    pub(crate) async fn fail_over(&mut self) -> anyhow::Result<()> {
        let gone = self.servers.get_mut(self.primary).and_then(Option::take);
        block_in_place(|| drop(gone));
        self.primary = 1 - self.primary;
        let promoted = client(&self.primary()?.config("postgres")).await?;
        let row = promoted.query_one("SELECT pg_promote(true, 60)", &[]).await?;
        anyhow::ensure!(row.try_get::<_, bool>(0)?, "the standby is not promoted");
        self.add_standby().await
    }

    /// Both end as in a crash, and come back.
    pub(crate) async fn crash(&mut self) -> anyhow::Result<()> {
        for index in [1 - self.primary, self.primary] {
            let server = self.servers.get_mut(index).and_then(Option::as_mut);
            block_in_place(|| server.context("a server is missing")?.crash())?;
        }
        for index in [self.primary, 1 - self.primary] {
            let server = self.servers.get_mut(index).and_then(Option::as_mut);
            block_in_place(|| server.context("a server is missing")?.resume())?;
        }
        self.is_synchronous().await
    }

    /// What the servers have logged last.
    pub(crate) fn log_tail(&self) -> String {
        let logs = self.servers.iter().flatten().map(Postgres::log);
        let tails = logs.map(|log| {
            let lines: Vec<&str> = log.lines().collect();
            lines
                .get(lines.len().saturating_sub(20)..)
                .unwrap_or_default()
                .join("\n")
        });
        tails.collect::<Vec<_>>().join("\n--\n")
    }

    fn primary(&self) -> anyhow::Result<&Postgres> {
        let server = self.servers.get(self.primary).and_then(Option::as_ref);
        server.context("there is no primary")
    }

    fn sits(&mut self, index: usize, server: Postgres) {
        if let (Some(place), Some(seat)) = (self.servers.get_mut(index), self.seats.get(index)) {
            seat.is_at(server.directory().join(".s.PGSQL.5432"));
            *place = Some(server);
        }
    }

    async fn add_standby(&mut self) -> anyhow::Result<()> {
        let primary = self.primary()?;
        let host = primary.directory().display();
        let follows = format!("primary_conninfo=host={host} user=postgres application_name={STANDBY}");
        let settings: Vec<&str> = SETTINGS.into_iter().chain([follows.as_str()]).collect();
        let standby = block_in_place(|| primary.standby(&settings))?;
        self.sits(1 - self.primary, standby);
        self.is_synchronous().await
    }

    /// Waits until what is committed is on both.
    async fn is_synchronous(&self) -> anyhow::Result<()> {
        const QUESTION: &str = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let asked = client(&self.primary()?.config("postgres")).await?;
        for _ in 0..600 {
            if asked.query_one(QUESTION, &[]).await?.try_get::<_, i64>(0)? > 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the standby does not follow:\n{}", self.log_tail())
    }

    async fn sql(&self, statement: &str) -> anyhow::Result<()> {
        let client = client(&self.primary()?.config("postgres")).await?;
        Ok(client.batch_execute(statement).await?)
    }
}
