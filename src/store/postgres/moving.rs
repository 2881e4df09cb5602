//! What `acme-proxy migrate` wants of a database, beyond a snapshot and a restoration.

use crate::store::StoreError;
use crate::store::moving::Tally;
use crate::store::postgres::connect::{Connections, unavailable};
use crate::store::postgres::{PostgresStore, Settings, snapshot};

const HAS_RECORDS: &str = "SELECT EXISTS (SELECT FROM accounts) OR EXISTS (SELECT FROM orders) \
                           OR EXISTS (SELECT FROM sealed) OR EXISTS (SELECT FROM jobs)";

/// The other connections of this name to the same database.
const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()";

impl PostgresStore {
    /// Whether the database has records, at a moment when no acme-proxy is connected to it.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`StoreError::Refused`] if one is connected.
    pub async fn has_records_at_rest(settings: &Settings) -> Result<bool, StoreError> {
        let (client, _task) = Connections::new(&settings.connection)?.alone(drop).await?;
        let name = &settings.connection.url.application_name;
        let others = client.query_one(OTHERS, &[name]).await;
        let others: i64 = others.map_err(|e| unavailable(&e))?.get(0);
        if others > 0 {
            return Err(StoreError::Refused(format!(
                "{others} connections of an acme-proxy to the database {} are open; stop all replicas first",
                settings.connection.place()
            )));
        }
        drop(client);
        if !Self::is_made(settings).await? {
            return Ok(false);
        }
        let (client, _task) = Connections::new(&settings.connection)?.alone(drop).await?;
        let found = client.query_one(HAS_RECORDS, &[]).await;
        Ok(found.map_err(|e| unavailable(&e))?.get(0))
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
}
