//! Everything at one moment, as entries of the embedded store: a backup of one backend can be restored into the other.
//!
//! A transaction that reads one snapshot of the database, however long it takes, on a connection of its own. It holds up
//! nobody, but the database keeps what is overwritten meanwhile.

use std::sync::Arc;

use async_trait::async_trait;
use sled::IVec;
use tokio_postgres::{Client, Row};

use crate::acme::external_account::ExternalAccountKey;
use crate::store::moving::Record;
use crate::store::postgres::connect::{Connections, unavailable};
use crate::store::postgres::rows::{self, column};
use crate::store::postgres::seal::Keys;
use crate::store::sled::keys::{self, Key};
use crate::store::sled::moving::entries;
use crate::store::sled::record::Writes;
use crate::store::{Entry, Snapshot, StoreError, codec};

/// The reader may take a minute for each piece.
const BEGIN: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '5min'; \
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const CURSOR: &str = "DECLARE everything NO SCROLL CURSOR FOR \
    SELECT 'account', id, '', version, body FROM accounts \
    UNION ALL SELECT 'order', id, '', version, body FROM orders \
    UNION ALL SELECT 'job', order_id, work, 0, coalesce(jobs_after.body, jobs.body) \
      FROM jobs LEFT JOIN jobs_after USING (work) \
    UNION ALL SELECT 'issuer', fingerprint, '', 1, body FROM issuers \
    UNION ALL SELECT 'sealed', '', name, version, body FROM sealed";

/// The largest rows have some 30 kB.
const NEXT: &str = "FETCH 128 FROM everything";

/// A transaction under way.
pub(crate) struct Reading {
    pub(crate) client: Client,
    keys: Arc<Keys>,
}

/// Begins to read.
pub(crate) async fn begin(connections: &Connections, keys: Arc<Keys>) -> Result<Reading, StoreError> {
    let (client, _task) = connections.alone(drop).await?;
    client.batch_execute(BEGIN).await.map_err(|e| unavailable(&e))?;
    begin_within(client, keys).await
}

/// Begins to read in the transaction that the client is in.
pub(crate) async fn begin_within(client: Client, keys: Arc<Keys>) -> Result<Reading, StoreError> {
    client.batch_execute(CURSOR).await.map_err(|e| unavailable(&e))?;
    Ok(Reading { client, keys })
}

#[async_trait]
impl Snapshot for Reading {
    async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        let mut writes = Writes::new();
        for record in self.records().await? {
            entries(&record, &mut writes)?;
        }
        let entry = |(key, value): (Key, Option<IVec>)| {
            let value = value?.to_vec();
            Some(Entry { key, value })
        };
        Ok(writes.into_iter().filter_map(entry).collect())
    }
}

impl Reading {
    /// The next records; none at the end.
    pub(crate) async fn records(&mut self) -> Result<Vec<Record>, StoreError> {
        let rows = self.client.query(NEXT, &[]).await.map_err(|e| unavailable(&e))?;
        rows.iter().map(|row| self.record(row)).collect()
    }

    fn record(&self, row: &Row) -> Result<Record, StoreError> {
        let (kind, id, name): (&str, &[u8], &str) = (column(row, 0)?, column(row, 1)?, column(row, 2)?);
        let version = column::<i64>(row, 3)?.cast_unsigned();
        let body: Vec<u8> = column(row, 4)?;
        let (key, body) = match kind {
            "account" => (keys::account(rows::account_id(id)?), body),
            "order" => (keys::order(rows::order_id(id)?), body),
            "issuer" => (keys::issuer(rows::fingerprint(id)?), body),
            "job" => {
                let order = keys::jobs_of(rows::order_id(id)?);
                ([order.as_slice(), name.as_bytes()].concat(), body)
            }
            _ => {
                let body = self.keys.open(name, &body)?;
                let key = match name.strip_prefix(rows::VALUES) {
                    Some(named) => keys::named(named),
                    None => {
                        let key: ExternalAccountKey = codec::decode(name, &body)?;
                        keys::external_key(key.provisioner(), key.kid())
                    }
                };
                (key, body)
            }
        };
        Ok(Record { key, version, body })
    }
}
