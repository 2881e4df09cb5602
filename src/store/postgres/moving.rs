//! Records from another backend into an empty database, in one transaction: all of them, or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use crate::acme::account::Account;
use crate::acme::order::Order;
use crate::store::moving::{Giver, Record, Records, Tally};
use crate::store::postgres::connect::{Connections, unavailable};
use crate::store::postgres::rows::{self, Bytes};
use crate::store::postgres::seal::Keys;
use crate::store::postgres::snapshot;
use crate::store::postgres::{PostgresStore, Settings};
use crate::store::sled::keys::{self, Kind};
use crate::store::{StoreError, codec};

/// How many bytes of rows are sent at a time.
const BATCH: usize = 1 << 20;

/// A batch takes seconds, and whoever has the records may need some time for the next ones.
const PATIENCE: &str = "SET statement_timeout = '10min'; SET idle_in_transaction_session_timeout = '10min'";

/// Nobody writes meanwhile.
const BEGIN: &str = "BEGIN; LOCK TABLE accounts, orders, jobs, issuers, sealed IN EXCLUSIVE MODE";

const IS_EMPTY: &str = "SELECT NOT (EXISTS (SELECT FROM accounts) OR EXISTS (SELECT FROM orders) \
                        OR EXISTS (SELECT FROM issuers) OR EXISTS (SELECT FROM sealed))";

impl PostgresStore {
    /// Whether the database is free to be moved from or to: no acme-proxy is connected to it. Gives whether it has records.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; [`StoreError::Refused`] if one is connected.
    pub(crate) async fn look(settings: &Settings) -> Result<bool, StoreError> {
        let is_current = Self::is_current(settings).await?;
        let (client, _task) = Connections::new(&settings.connection)?.alone(drop).await?;
        let name = &settings.connection.url.application_name;
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()";
        let others = client
            .query_one(others, &[name])
            .await
            .map_err(|e| unavailable(&e))?;
        let others: i64 = others.get(0);
        if others > 0 {
            return Err(StoreError::Refused(format!(
                "{others} connections of an acme-proxy to the database {} are open; stop all replicas first",
                settings.connection.place()
            )));
        }
        match is_current {
            true => is_empty(&client).await.map(|is_empty| !is_empty),
            false => Ok(false),
        }
    }

    /// Gives all records of the database, as of now.
    pub(crate) async fn give_all(settings: Settings, giver: Giver) {
        let given = async {
            let Self {
                connections, keys, ..
            } = Self::open(settings).await?;
            let mut reading = snapshot::begin(&connections, keys).await?;
            loop {
                let records = reading.records().await?;
                if records.is_empty() {
                    return Ok(());
                }
                for record in records {
                    if !giver.give(Ok(Some(record))).await {
                        return Ok(());
                    }
                }
            }
        };
        let end = given.await.map(|()| None);
        giver.give(end).await;
    }

    /// Writes the records into the database, which has none, and reads them back before they count.
    ///
    /// # Errors
    ///
    /// The records', or as [`Self::open`]. Then there are none in the database, as before.
    pub(crate) async fn fill(settings: Settings, mut records: Records) -> Result<Tally, StoreError> {
        let Self {
            connections, keys, ..
        } = Self::open(settings).await?;
        let (client, _task) = connections.alone(drop).await?;
        run(&client, PATIENCE).await?;
        run(&client, BEGIN).await?;
        if !is_empty(&client).await? {
            let text = "the database has records already; give an empty one";
            return Err(StoreError::Refused(text.to_owned()));
        }
        let mut tally = Tally::default();
        let mut batch = Batch::new(Arc::clone(&keys));
        while let Some(record) = records.next().await? {
            tally.add(&record);
            batch.add(&record)?;
            if batch.bytes > BATCH {
                batch.send(&client).await?;
            }
        }
        batch.send(&client).await?;
        let mut written = Tally::default();
        let mut reading = snapshot::begin_within(client, keys).await?;
        loop {
            let records = reading.records().await?;
            if records.is_empty() {
                break;
            }
            records.iter().for_each(|record| written.add(record));
        }
        written.is_all_of(&tally)?;
        run(&reading.client, "COMMIT").await?;
        Ok(tally)
    }
}

async fn run(client: &Client, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(|e| unavailable(&e))
}

async fn is_empty(client: &Client) -> Result<bool, StoreError> {
    let row = client.query_one(IS_EMPTY, &[]).await;
    Ok(row.map_err(|e| unavailable(&e))?.get(0))
}

/// Rows that are sent together.
struct Batch {
    keys: Arc<Keys>,
    tables: BTreeMap<&'static str, Vec<Value>>,
    bytes: usize,
}

impl Batch {
    fn new(keys: Arc<Keys>) -> Self {
        Self {
            keys,
            tables: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, record: &Record) -> Result<(), StoreError> {
        let Record { key, version, body } = record;
        self.bytes += body.len();
        let name = keys::describe(key);
        let bytes = |bytes: &[u8]| Bytes(bytes.to_vec());
        match Kind::of(key) {
            Some(Kind::Account) => {
                let account: Account = codec::decode(name, body)?;
                let (by, one_time_key) = rows::keys_of(&account);
                self.put(
                    "accounts",
                    json!({
                        "id": bytes(account.id().as_bytes()), "version": version, "body": bytes(body),
                        "key": Bytes(by), "one_time_key": one_time_key.map(Bytes),
                    }),
                );
            }
            Some(Kind::Order) => {
                let order: Order = codec::decode(name, body)?;
                let row = rows::order(&order)?;
                self.put_row("orders", &row, json!({ "version": version, "body": bytes(body) }))?;
                let since = order.counts_since().map(rows::nanoseconds);
                for name in rows::counted(&order) {
                    let id = bytes(order.id().as_bytes());
                    self.put(
                        "counted_names",
                        json!({ "order_id": id, "name": Bytes(name), "since": since }),
                    );
                }
            }
            Some(Kind::Job) => {
                let job = codec::decode_job(name, body)?.ok_or_else(|| {
                    StoreError::Refused(format!(
                        "{name} is of a newer acme-proxy, and can not be moved by this one; use that one"
                    ))
                })?;
                self.put_row(
                    "jobs",
                    &rows::job(&job)?,
                    json!({ "body": bytes(body), "leads": true }),
                )?;
            }
            Some(Kind::Issuer) => {
                let fingerprint = key.get(1..).unwrap_or_default();
                self.put(
                    "issuers",
                    json!({ "fingerprint": bytes(fingerprint), "body": bytes(body) }),
                );
            }
            Some(kind @ (Kind::Value | Kind::ExternalKey)) => {
                let name = match kind {
                    Kind::Value => rows::value(&keys::name_in(key)),
                    _ => name.to_string(),
                };
                let sealed = self.keys.seal(&name, body)?;
                self.put(
                    "sealed",
                    json!({ "name": name, "version": version, "body": Bytes(sealed) }),
                );
            }
            None => return Err(StoreError::Corrupt(format!("{name} is no record"))),
        }
        Ok(())
    }

    fn put(&mut self, table: &'static str, row: Value) {
        self.tables.entry(table).or_default().push(row);
    }

    /// A row that is JSON already, with some more columns.
    fn put_row(&mut self, table: &'static str, row: &str, more: Value) -> Result<(), StoreError> {
        let failed = |error| StoreError::Failed(format!("a row can not be put together: {error}"));
        let mut row: Map<String, Value> = serde_json::from_str(row).map_err(failed)?;
        if let Value::Object(more) = more {
            row.extend(more);
        }
        self.put(table, row.into());
        Ok(())
    }

    async fn send(&mut self, client: &Client) -> Result<(), StoreError> {
        self.bytes = 0;
        for (table, rows) in std::mem::take(&mut self.tables) {
            let sql = format!(
                "INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::text::jsonb)"
            );
            let rows = Value::Array(rows).to_string();
            client
                .execute(&sql, &[&rows])
                .await
                .map_err(|e| unavailable(&e))?;
        }
        Ok(())
    }
}
