//! What `acme-proxy migrate` wants of a database, beyond a snapshot and a restoration: to have it alone.
//!
//! Each replica holds a lock for as long as the connection by which it is woken lasts. A migration takes the same lock for
//! itself, and a replica that starts meanwhile is told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;

use crate::store::moving::Tally;
use crate::store::postgres::connect::{Connections, unavailable};
use crate::store::postgres::seal::Keys;
use crate::store::postgres::{Settings, migrate, restore, snapshot};
use crate::store::{Entry, Snapshot, StoreError};

const HAS_RECORDS: &str = "SELECT EXISTS (SELECT FROM accounts) OR EXISTS (SELECT FROM orders) \
                           OR EXISTS (SELECT FROM sealed) OR EXISTS (SELECT FROM jobs)";

const ENTER: &str = "SELECT pg_try_advisory_lock_shared(4, hashtext('acme_proxy'))";
const TAKE: &str = "SELECT pg_try_advisory_lock(4, hashtext('acme_proxy'))";

/// Whoever else has the lock, first, and the other connections of our name to the same database.
const OTHERS: &str = "SELECT pid, coalesce(application_name, ''), host(client_addr) FROM \
    (SELECT *, pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = 4 \
      AND objid::bigint = hashtext('acme_proxy')::bigint & 4294967295 AND objsubid = 2 \
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS holds \
     FROM pg_stat_activity) session \
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (holds OR application_name = $1) \
    ORDER BY holds DESC, pid";

/// How many of them are named.
const NAMED: usize = 6;

/// How often to look whether they end: the server notices some time after a process has ended.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Shows that a replica may use the database: no migration has it for itself. It is so for as long as the connection lasts.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if one has.
pub(crate) async fn enter(client: &Client) -> Result<(), StoreError> {
    match is_so(client, ENTER).await? {
        true => Ok(()),
        false => Err(StoreError::Unavailable(
            "the database: acme-proxy migrate has it for itself at the moment; wait for its end, and start acme-proxy only \
             where the records are then to be used"
                .to_owned(),
        )),
    }
}

/// A database that no acme-proxy uses for as long as this is held.
pub struct AtRest {
    client: Client,
    connections: Connections,
    keys: Arc<Keys>,
    place: String,
}

impl AtRest {
    /// Takes the database for itself.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if it can not be reached; [`StoreError::Refused`] if an acme-proxy is connected to it.
    pub async fn begin(settings: &Settings) -> Result<Self, StoreError> {
        let keys = Arc::new(Keys::of(&settings.secret)?);
        let connections = Connections::new(&settings.connection)?;
        let (client, _task) = connections.alone(drop).await?;
        let place = settings.connection.place();
        let name = &settings.connection.url.application_name;
        let mut attempt = 0;
        loop {
            let is_alone = is_so(&client, TAKE).await?;
            let others = others(&client, name).await?;
            if is_alone && others.is_empty() {
                return Ok(Self {
                    client,
                    connections,
                    keys,
                    place,
                });
            }
            attempt += 1;
            if attempt > ATTEMPTS {
                return Err(StoreError::Refused(format!(
                    "acme-proxy is connected to the database {place} ({}); stop all replicas first",
                    listed(&others)
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether there are records.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if they are of another version, or were made with another secret.
    pub async fn has_records(&self) -> Result<bool, StoreError> {
        let Some(version) = migrate::look(&self.client, migrate::STEPS, &self.keys.proof()).await? else {
            return Ok(false);
        };
        let has_records = is_so(&self.client, HAS_RECORDS).await?;
        if has_records && version < migrate::STEPS.len() {
            return Err(StoreError::Refused(format!(
                "the tables in the database {} are an older version's; start this acme-proxy with it once, which brings \
                 them up to date, and stop it again",
                self.place
            )));
        }
        Ok(has_records)
    }

    /// Whether [`Self::restore`] can be done, as far as that can be known without a write.
    ///
    /// # Errors
    ///
    /// What it would say.
    pub async fn check_restore(&self) -> Result<(), StoreError> {
        migrate::check_durability(&self.client).await?;
        migrate::check_rights(&self.client).await
    }

    /// Makes a store, where there must be none or an empty one, out of the entries of a backup. After an error it is as it
    /// was.
    ///
    /// # Errors
    ///
    /// The entries', or as [`super::PostgresStore::open`].
    pub async fn restore<E: From<StoreError>>(
        &mut self,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<(), E> {
        restore::restore(&mut self.client, &self.keys, entries).await
    }

    /// What stands for all records.
    ///
    /// # Errors
    ///
    /// As [`crate::store::Store::snapshot`].
    pub async fn tally(&self) -> Result<Tally, StoreError> {
        let mut reading = snapshot::begin(&self.connections, self.keys.clone()).await?;
        let mut tally = Tally::default();
        loop {
            let records = reading.records().await?;
            if records.is_empty() {
                return Ok(tally);
            }
            records.iter().for_each(|record| tally.add(record));
        }
    }

    /// All records.
    ///
    /// # Errors
    ///
    /// As [`crate::store::Store::snapshot`].
    pub async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(
            snapshot::begin(&self.connections, self.keys.clone()).await?,
        ))
    }

    /// Whether the database was ours all the time: the lock ends with the connection.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if not.
    pub async fn check_held(&self) -> Result<(), StoreError> {
        self.client.batch_execute("").await.map_err(|e| unavailable(&e))
    }
}

async fn is_so(client: &Client, sql: &str) -> Result<bool, StoreError> {
    let row = client.query_one(sql, &[]).await.map_err(|e| unavailable(&e))?;
    Ok(row.get(0))
}

/// Each with what it can be found by.
async fn others(client: &Client, name: &str) -> Result<Vec<String>, StoreError> {
    let rows = client
        .query(OTHERS, &[&name])
        .await
        .map_err(|e| unavailable(&e))?;
    let described = rows.iter().map(|row| {
        let (pid, name): (i32, &str) = (row.get(0), row.get(1));
        // Over a Unix socket, and of other users' connections, there is none.
        let address: Option<&str> = row.get(2);
        let from = address.map_or_else(String::new, |address| format!(" from {address}"));
        format!("pid {pid}, application_name {name}{from}")
    });
    Ok(described.collect())
}

fn listed(others: &[String]) -> String {
    let named: Vec<&str> = others.iter().take(NAMED).map(String::as_str).collect();
    match others.len().saturating_sub(NAMED) {
        _ if named.is_empty() => "its connection has just ended".to_owned(),
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    }
}
