//! A new store out of a backup's entries, which are the embedded store's: all of them in one transaction, or none.
//!
//! A record may come in parts, and in any order. So the entries are put aside in a table of their own first.

use std::collections::BTreeMap;

use sled::IVec;
use tokio_postgres::{Client, Transaction};

use crate::acme::account::Account;
use crate::acme::external_account::ExternalAccountKey;
use crate::acme::order::Order;
use crate::store::postgres::connect::unavailable;
use crate::store::postgres::migrate;
use crate::store::postgres::rows::{self, number};
use crate::store::postgres::seal::Keys;
use crate::store::postgres::statement::Value;
use crate::store::sled::keys::{self, Key, Kind};
use crate::store::sled::record::{self, View};
use crate::store::{Entry, StoreError, codec};

/// How many entries or records are written at a time.
const BATCH: usize = 256;

const BEGIN: &str = "SET LOCAL statement_timeout = '10min'; SET LOCAL idle_in_transaction_session_timeout = '10min'; \
    CREATE TEMPORARY TABLE staged (key bytea PRIMARY KEY, value bytea NOT NULL) ON COMMIT DROP";

const IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM accounts) AND NOT EXISTS (SELECT FROM orders) \
                        AND NOT EXISTS (SELECT FROM sealed) AND NOT EXISTS (SELECT FROM jobs)";

/// The parts of a record: its key with a letter before it and a number of two bytes behind it.
const PARTS: &str = "SELECT part.key, part.value FROM unnest($1::bytea[]) head(key) JOIN staged part \
    ON part.key >= '\\x63' || head.key AND part.key <= '\\x63' || head.key || '\\xffff' \
    AND length(part.key) = length(head.key) + 3";

/// Some of the entries.
struct Staged(BTreeMap<Key, Vec<u8>>);

impl View for Staged {
    fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        Ok(self.0.get(key).map(|value| value.as_slice().into()))
    }
}

/// Writes the entries into the database, which must have no store, or an empty one.
pub(crate) async fn restore<E: From<StoreError>>(
    client: &mut Client,
    keys: &Keys,
    entries: impl Iterator<Item = Result<Entry, E>>,
) -> Result<(), E> {
    migrate::check_durability(client).await?;
    migrate::migrate(client, migrate::STEPS, &keys.proof()).await?;
    let transaction = begin(client).await?;
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for entry in entries {
        let Entry { key, value } = entry?;
        names.push(key);
        values.push(value);
        if names.len() >= BATCH {
            stage(&transaction, &mut names, &mut values).await?;
        }
    }
    stage(&transaction, &mut names, &mut values).await?;
    let mut last = Vec::new();
    while let Some(read) = batch(&transaction, keys, &last).await? {
        last = read;
    }
    transaction.commit().await.map_err(|e| unavailable(&e))?;
    Ok(())
}

async fn begin(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    let transaction = client.transaction().await.map_err(|e| unavailable(&e))?;
    transaction
        .batch_execute(BEGIN)
        .await
        .map_err(|e| unavailable(&e))?;
    let is_empty = transaction.query_one(IS_EMPTY, &[]).await;
    match is_empty.map_err(|e| unavailable(&e))?.get(0) {
        true => Ok(transaction),
        false => Err(StoreError::Refused(
            "the database holds a store already; give db.database another name, or drop the schema acme_proxy".to_owned(),
        )),
    }
}

async fn stage(
    transaction: &Transaction<'_>,
    names: &mut Vec<Key>,
    values: &mut Vec<Vec<u8>>,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO staged SELECT * FROM unnest($1::bytea[], $2::bytea[])";
    execute(transaction, sql, &[names, values]).await?;
    names.clear();
    values.clear();
    Ok(())
}

/// Writes the records of some entries after this one. Gives the last entry, if there was one.
async fn batch(transaction: &Transaction<'_>, keys: &Keys, after: &[u8]) -> Result<Option<Key>, StoreError> {
    let sql = "SELECT key, value FROM staged WHERE key > $1 ORDER BY key LIMIT $2";
    let found = transaction.query(sql, &[&after, &number(BATCH)]).await;
    let found = found.map_err(|e| unavailable(&e))?;
    let mut staged = Staged(BTreeMap::new());
    let mut heads: Vec<Key> = Vec::new();
    for row in &found {
        heads.push(rows::column(row, 0)?);
        staged.0.insert(rows::column(row, 0)?, rows::column(row, 1)?);
    }
    let last = heads.last().cloned();
    heads.retain(|key| keys::kind(key) != Kind::Other);
    let parts = transaction.query(PARTS, &[&heads]).await;
    for row in &parts.map_err(|e| unavailable(&e))? {
        staged.0.insert(rows::column(row, 0)?, rows::column(row, 1)?);
    }
    for key in &heads {
        write(transaction, keys, key, &staged).await?;
    }
    Ok(last)
}

async fn write(
    transaction: &Transaction<'_>,
    keys: &Keys,
    key: &Key,
    staged: &Staged,
) -> Result<(), StoreError> {
    let name = keys::describe(key);
    let id = key.get(1..).unwrap_or_default();
    let kind = keys::kind(key);
    if kind == Kind::Job {
        let body = staged.0.get(key).cloned().unwrap_or_default();
        let job = codec::decode_job(name, &body)?;
        let job = job.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "{name} is of a kind that this version does not know; restore it with a newer one"
            ))
        })?;
        let sql = "INSERT INTO jobs (work, order_id, lane, owner, since, due, body) \
                   SELECT work, order_id, lane, owner, since, due, $2 \
                   FROM jsonb_populate_record(NULL::jobs, $1::text::jsonb)";
        return execute(transaction, sql, &[&rows::job(&job)?, &body]).await;
    }
    let record = record::read(staged, key)?;
    let record = record.ok_or_else(|| StoreError::Corrupt(format!("{name} is missing")))?;
    let (version, body) = (number(record.version), record.value);
    match kind {
        Kind::Account => {
            let account: Account = codec::decode(name, &body)?;
            let (by_key, one_time_key) = rows::keys_of(&account);
            let sql = "INSERT INTO accounts VALUES ($1, $2, $3, $4, $5)";
            execute(transaction, sql, &[&id, &version, &body, &by_key, &one_time_key]).await
        }
        Kind::Order => {
            let order: Order = codec::decode(name, &body)?;
            let sql = "INSERT INTO orders SELECT * FROM jsonb_populate_record(NULL::orders, \
                       $1::text::jsonb || jsonb_build_object('version', $2::bigint, 'body', $3::bytea))";
            execute(transaction, sql, &[&rows::order(&order)?, &version, &body]).await?;
            let Some(since) = order.counts_since().map(rows::nanoseconds) else {
                return Ok(());
            };
            let sql = "INSERT INTO counted_names SELECT $1, name, $2 FROM unnest($3::bytea[]) name";
            execute(transaction, sql, &[&id, &since, &rows::counted(&order)]).await
        }
        Kind::Issuer => {
            let sql = "INSERT INTO issuers VALUES ($1, $2)";
            execute(transaction, sql, &[&id, &body]).await
        }
        Kind::ExternalKey | Kind::Named => {
            let sealed_as = match kind {
                Kind::Named => rows::value(&keys::name_in(key)),
                _ => {
                    let stored: ExternalAccountKey = codec::decode(name, &body)?;
                    rows::external_key(stored.provisioner(), stored.kid())
                }
            };
            let sealed = keys.seal(&sealed_as, &body)?;
            let sql = "INSERT INTO sealed VALUES ($1, $2, $3)";
            execute(transaction, sql, &[&sealed_as, &version, &sealed]).await
        }
        Kind::Job | Kind::Other => Ok(()),
    }
}

async fn execute(transaction: &Transaction<'_>, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError> {
    transaction
        .execute(sql, values)
        .await
        .map(drop)
        .map_err(|e| unavailable(&e))
}
