//! What several operations have in common: how records are read from rows, and how changes are handed to the functions of
//! `schema.sql`.

use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use crate::acme::account::Account;
use crate::acme::external_account::ExternalAccountKey;
use crate::acme::id::OrderId;
use crate::acme::job::Job;
use crate::acme::order::Order;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::rows::{self, column, nanoseconds, number};
use crate::store::postgres::statement::{Outcome, Value};
use crate::store::sled::keys;
use crate::store::{NameQuota, StoreError, Versioned, codec};

/// An order as its functions take it.
pub(crate) struct Written {
    /// The version that it replaces; 0 for none.
    pub(crate) expected: i64,
    /// Its columns.
    pub(crate) row: String,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// The names that it counts for.
    pub(crate) counted: Vec<Vec<u8>>,
}

impl Written {
    /// The order, in place of this version.
    pub(crate) fn of(order: &Order, version: u64) -> Result<Self, StoreError> {
        Ok(Self {
            expected: number(version),
            row: rows::order(order)?,
            body: codec::encode(order)?,
            counted: rows::counted(order),
        })
    }
}

/// A job as its functions take it; nothing for none.
pub(crate) fn written_job(job: Option<&Job>) -> Result<(Option<String>, Option<Vec<u8>>), StoreError> {
    let row = job.map(rows::job).transpose()?;
    let body = job.map(codec::encode_job).transpose()?;
    Ok((row, body))
}

/// A change's outcome, where another record that is in the way is a conflict.
pub(crate) fn done_or_conflict(outcome: Outcome) -> Result<(), StoreError> {
    match outcome {
        Outcome::Written => Ok(()),
        Outcome::Conflict | Outcome::Taken => Err(StoreError::Conflict),
        Outcome::Lost => Err(StoreError::LeaseLost),
    }
}

/// The record of that name in a row of body and version.
pub(crate) fn record<T: DeserializeOwned>(name: &[u8], row: &Row) -> Result<Versioned<T>, StoreError> {
    Ok(Versioned {
        value: codec::decode(keys::describe(name), column(row, 0)?)?,
        version: version(row)?,
    })
}

/// The version in such a row.
pub(crate) fn version(row: &Row) -> Result<u64, StoreError> {
    Ok(column::<i64>(row, 1)?.cast_unsigned())
}

impl PostgresStore {
    /// The account in the row that a query of body, version and id gives.
    pub(crate) async fn account_where(
        &self,
        sql: &str,
        value: &[u8],
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        let row = self.row(sql, &[&value]).await?;
        let account = |row: &Row| {
            let id = rows::account_id(column(row, 2)?)?;
            record(&keys::account(id), row)
        };
        row.as_ref().map(account).transpose()
    }

    /// The order of this id in the row that a query of body and version gives.
    pub(crate) async fn order_where(
        &self,
        sql: &str,
        id: OrderId,
        values: &[Value<'_>],
    ) -> Result<Option<Versioned<Order>>, StoreError> {
        let row = self.row(sql, values).await?;
        row.map(|row| record(&keys::order(id), &row)).transpose()
    }

    /// The ids in the rows of a query.
    pub(crate) async fn order_ids(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<OrderId>, StoreError> {
        let found = self.rows(sql, values).await?;
        found.iter().map(|row| rows::order_id(column(row, 0)?)).collect()
    }

    /// The first id in the rows of a query.
    pub(crate) async fn order_id(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<OrderId>, StoreError> {
        Ok(self.order_ids(sql, values).await?.into_iter().next())
    }

    /// Makes or replaces an account.
    pub(crate) async fn put_account(&self, account: &Account, version: u64) -> Result<Outcome, StoreError> {
        let (key, one_time_key) = rows::keys_of(account);
        self.change(
            "SELECT put_account($1, $2, $3, $4, $5, $6)",
            &[
                &number(version),
                &account.id().as_bytes().as_slice(),
                &codec::encode(account)?,
                &key,
                &one_time_key,
            ],
        )
        .await
    }

    /// Makes or replaces a sealed record.
    pub(crate) async fn put_sealed(&self, name: &str, version: u64, body: &[u8]) -> Result<(), StoreError> {
        let sealed = self.keys.seal(name, body)?;
        let sql = "SELECT put_sealed($1, $2, $3, $4)";
        done_or_conflict(self.change(sql, &[&number(version), &name, &sealed]).await?)
    }

    /// Makes or replaces an external account key.
    pub(crate) async fn put_external_key(
        &self,
        key: &ExternalAccountKey,
        version: u64,
    ) -> Result<(), StoreError> {
        let name = rows::external_key(key.provisioner(), key.kid());
        self.put_sealed(&name, version, &codec::encode(key)?).await
    }

    /// The body that is sealed under a name, and its version.
    pub(crate) async fn unsealed(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
        let sql = "SELECT body, version FROM sealed WHERE name = $1";
        let row = self.row(sql, &[&name]).await?;
        let unsealed = |row: &Row| {
            Ok(Versioned {
                value: self.keys.open(name, column(row, 0)?)?,
                version: version(row)?,
            })
        };
        row.as_ref().map(unsealed).transpose()
    }

    /// Makes or replaces an order, with the work that this causes, within these bounds.
    pub(crate) async fn write_order(
        &self,
        order: &Order,
        version: u64,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError> {
        let order = Written::of(order, version)?;
        let (job, job_body) = written_job(work.as_ref())?;
        let names: Vec<Vec<u8>> = quotas.iter().map(|quota| rows::name(&quota.name)).collect();
        let since: Vec<i64> = quotas.iter().map(|quota| nanoseconds(quota.since)).collect();
        let most: Vec<i64> = quotas.iter().map(|quota| number(quota.orders)).collect();
        let outcome = self
            .change(
                "SELECT write_order($1, $2, $3::text::jsonb, $4, $5, $6::text::jsonb, $7, $8, $9, $10)",
                &[
                    &order.expected,
                    &order.row,
                    &order.body,
                    &order.counted,
                    &job,
                    &job_body,
                    &names,
                    &since,
                    &most,
                ],
            )
            .await?;
        if work.is_some() {
            self.wake.everywhere();
        }
        done_or_conflict(outcome)
    }
}
