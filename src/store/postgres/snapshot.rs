//! Everything at one moment, as entries of the embedded store: a backup of one backend can be restored into the other.
//!
//! A transaction that reads one snapshot of the database, however long it takes, on a connection of its own. It holds up
//! nobody, but the database keeps what is overwritten meanwhile.

use std::sync::Arc;

use async_trait::async_trait;
use sled::IVec;
use tokio_postgres::{Client, Row};

use crate::acme::account::Account;
use crate::acme::external_account::ExternalAccountKey;
use crate::acme::order::Order;
use crate::store::moving::Record;
use crate::store::postgres::connect::{Connections, unavailable};
use crate::store::postgres::rows::{self, column};
use crate::store::postgres::seal::Keys;
use crate::store::sled::keys::Kind;
use crate::store::sled::keys::{self, Key};
use crate::store::sled::put::{account_put, order_put};
use crate::store::sled::record::{self, Head, View, Writes};
use crate::store::{Entry, Snapshot, StoreError, codec};

/// The reader may take a minute for each piece.
const BEGIN: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '5min'; \
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    DECLARE everything NO SCROLL CURSOR FOR \
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
    client: Client,
    keys: Arc<Keys>,
}

/// Begins to read.
pub(crate) async fn begin(connections: &Connections, keys: Arc<Keys>) -> Result<Reading, StoreError> {
    let (client, _task) = connections.alone(drop).await?;
    client.batch_execute(BEGIN).await.map_err(|e| unavailable(&e))?;
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

/// What the embedded store would write for a record.
fn entries(record: &Record, writes: &mut Writes) -> Result<(), StoreError> {
    let Record { key, version, body } = record;
    let put = match keys::kind(key) {
        Kind::Account => {
            let account: Account = codec::decode(keys::describe(key), body)?;
            Some(account_put(&account, *version)?)
        }
        Kind::Order => {
            let order: Order = codec::decode(keys::describe(key), body)?;
            Some(order_put(&order, *version)?)
        }
        Kind::Job => {
            writes.insert(key.clone(), Some(body.as_slice().into()));
            return Ok(());
        }
        Kind::Issuer | Kind::ExternalKey | Kind::Named | Kind::Other => None,
    };
    let indexes = put.map_or_else(Vec::new, |put| [put.indexes, put.unique].concat());
    let before = Head::before(*version);
    record::replace(&Nothing, key, Some(&before), body, &indexes, writes)
}

/// There is nothing there before.
struct Nothing;

impl View for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<IVec>, StoreError> {
        Ok(None)
    }
}
