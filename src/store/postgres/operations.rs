//! The store's contract over PostgreSQL: one statement for each operation.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::acme::account::Account;
use crate::acme::certificate::{Der, Fingerprint};
use crate::acme::external_account::{ExternalAccountKey, KeyId};
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, Work};
use crate::acme::order::Order;
use crate::acme::renewal::CertificateId;
use crate::acme::upstream::UpstreamName;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::connect::noted;
use crate::store::postgres::fault::{Fault, Told};
use crate::store::postgres::records::done_or_conflict;
use crate::store::postgres::rows::{self, column, nanoseconds, number};
use crate::store::postgres::snapshot;
use crate::store::postgres::statement::{Outcome, Value};
use crate::store::shared::Shared;
use crate::store::sled::keys;
use crate::store::{
    Census, Lease, NameQuota, Registration, Settlement, Snapshot, Store, StoreError, Versioned, Waiting,
    codec, key_of, line_of, names_of,
};

/// How long [`Store::job_added`] waits at most.
const TICK: Duration = Duration::from_secs(1);

/// How many marks are deleted in one transaction.
const MARKS: i64 = 1000;

#[async_trait]
impl Store for PostgresStore {
    async fn create_account(&self, account: &Account) -> Result<Registration, StoreError> {
        match self.put_account(account, 0).await? {
            Outcome::Written => Ok(Registration::Created),
            Outcome::Taken => {
                let thumbprint = account.key().thumbprint();
                let existing = self.account_by_key(account.provisioner(), &thumbprint).await?;
                Ok(existing.map_or(Registration::KeyUsed, Registration::Exists))
            }
            Outcome::Conflict | Outcome::Lost => Err(StoreError::Conflict),
        }
    }

    async fn account(&self, id: AccountId) -> Result<Option<Versioned<Account>>, StoreError> {
        let sql = "SELECT body, version, id FROM accounts WHERE id = $1";
        self.account_where(sql, id.as_bytes()).await
    }

    async fn all_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        let after = after
            .as_ref()
            .map(|id| id.as_bytes().as_slice())
            .unwrap_or_default();
        let sql = "SELECT id FROM accounts WHERE id > $1 ORDER BY id LIMIT $2";
        let found = self.rows(sql, &[&after, &number(limit)]).await?;
        found
            .iter()
            .map(|row| rows::account_id(column(row, 0)?))
            .collect()
    }

    async fn account_by_key(
        &self,
        provisioner: &str,
        thumbprint: &str,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        let sql = "SELECT body, version, id FROM accounts WHERE key = $1";
        self.account_where(sql, &keys::account_by_key(provisioner, thumbprint))
            .await
    }

    async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError> {
        done_or_conflict(self.put_account(&account.value, account.version).await?)
    }

    async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError> {
        self.put_external_key(key, 0).await
    }

    async fn external_account_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError> {
        let name = rows::external_key(provisioner, kid);
        let Some(stored) = self.unsealed(&name).await? else {
            return Ok(None);
        };
        Ok(Some(Versioned {
            value: codec::decode(name.as_str(), &stored.value)?,
            version: stored.version,
        }))
    }

    async fn external_account_keys(&self) -> Result<Vec<ExternalAccountKey>, StoreError> {
        let sql = "SELECT name, body FROM sealed WHERE name >= $1 AND name < $2";
        let (from, to) = rows::beginning_with(rows::EXTERNAL_KEYS);
        let rows = self.rows(sql, &[&from, &to]).await?;
        let key = |row: &Row| -> Result<ExternalAccountKey, StoreError> {
            let name: &str = column(row, 0)?;
            codec::decode(name, &self.keys.open(name, column(row, 1)?)?)
        };
        let mut found = rows.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        found.sort_by(|a, b| (a.created(), a.kid()).cmp(&(b.created(), b.kid())));
        Ok(found)
    }

    async fn update_external_account_key(
        &self,
        key: Versioned<ExternalAccountKey>,
    ) -> Result<(), StoreError> {
        self.put_external_key(&key.value, key.version).await
    }

    async fn account_by_one_time_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        let sql = "SELECT body, version, id FROM accounts WHERE one_time_key = $1";
        self.account_where(sql, &keys::one_time_key(provisioner, kid))
            .await
    }

    async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError> {
        self.write_order(order, 0, work, &[]).await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError> {
        let sql = "SELECT body, version FROM orders WHERE id = $1";
        self.order_where(sql, id, &[&id.as_bytes().as_slice()]).await
    }

    async fn own_order(
        &self,
        account: AccountId,
        id: OrderId,
    ) -> Result<Option<Versioned<Order>>, StoreError> {
        // An index has both, so the row of another account's order is not fetched.
        let sql = "SELECT body, version FROM orders WHERE account = $1 AND id = $2";
        let values: [Value<'_>; 2] = [&account.as_bytes().as_slice(), &id.as_bytes().as_slice()];
        self.order_where(sql, id, &values).await
    }

    async fn all_orders(&self, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        let after = after
            .as_ref()
            .map(|id| id.as_bytes().as_slice())
            .unwrap_or_default();
        let sql = "SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT $2";
        self.order_ids(sql, &[&after, &number(limit)]).await
    }

    async fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let after = after
            .as_ref()
            .map(|id| id.as_bytes().as_slice())
            .unwrap_or_default();
        let sql = "SELECT id FROM orders WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3";
        let account = account.as_bytes().as_slice();
        self.order_ids(sql, &[&account, &after, &number(limit)]).await
    }

    async fn order_of_certificate(&self, leaf: Fingerprint) -> Result<Option<OrderId>, StoreError> {
        let sql = "SELECT * FROM (SELECT id FROM orders WHERE certificate = $1 LIMIT 1) issued \
                   UNION ALL SELECT * FROM (SELECT id FROM orders WHERE late_certificate = $1 LIMIT 1) late";
        self.order_id(sql, &[&leaf.as_bytes().as_slice()]).await
    }

    async fn order_of_certificate_id(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        let sql = "SELECT id FROM orders WHERE certificate_id = $1 LIMIT 1";
        self.order_id(sql, &[&keys::certificate_id(id)]).await
    }

    async fn replacement_of(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        let sql = "SELECT id FROM orders WHERE replaces = $1";
        self.order_id(sql, &[&keys::certificate_id(id)]).await
    }

    async fn renewals_due(
        &self,
        upstream: UpstreamName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let sql = "SELECT id FROM orders WHERE upstream = $1 AND renewal_due <= $2 \
                   ORDER BY renewal_due, id LIMIT $3";
        let values: [Value<'_>; 3] = [&upstream.as_str(), &nanoseconds(now), &number(limit)];
        self.order_ids(sql, &values).await
    }

    async fn issuers(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError> {
        let wanted: Vec<&[u8]> = fingerprints.iter().map(|it| it.as_bytes().as_slice()).collect();
        let sql = "SELECT fingerprint, body FROM issuers WHERE fingerprint = ANY ($1)";
        let found = self.rows(sql, &[&wanted]).await?;
        let mut bodies = BTreeMap::new();
        for row in &found {
            bodies.insert(column::<&[u8]>(row, 0)?, column::<&[u8]>(row, 1)?);
        }
        let issuer = |fingerprint: &Fingerprint| match bodies.get(fingerprint.as_bytes().as_slice()) {
            Some(body) => codec::decode(keys::describe(&keys::issuer(*fingerprint)), body),
            None => Err(StoreError::Corrupt(format!(
                "the issuer's certificate {fingerprint} is missing"
            ))),
        };
        fingerprints.iter().map(issuer).collect()
    }

    async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError> {
        self.commit_within(order, work, &[]).await
    }

    async fn commit_within(
        &self,
        order: Versioned<Order>,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError> {
        // Version 0 would make an order.
        match order.version {
            0 => Err(StoreError::Conflict),
            version => self.write_order(&order.value, version, work, quotas).await,
        }
    }

    async fn job(&self, work: &Work) -> Result<Option<Job>, StoreError> {
        let name = key_of(work);
        let row = self
            .row("SELECT body FROM jobs WHERE work = $1", &[&name])
            .await?;
        match row {
            Some(row) => codec::decode_job(name.as_str(), column(&row, 0)?),
            None => Ok(None),
        }
    }

    async fn lease(
        &self,
        lane: Lane,
        now: Timestamp,
        span: Duration,
        limit: usize,
        share: usize,
        most: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        self.lease_jobs(lane, now, span, [limit, share, most]).await
    }

    async fn renew(&self, lease: &Lease, span: Duration) -> Result<(), StoreError> {
        self.renew_lease(lease, span).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError> {
        self.checkpoint_order(lease, order).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
        self.settle_job(lease, settlement).await
    }

    async fn first_in_line(&self, order: &Order) -> Result<Option<OrderId>, StoreError> {
        let sql = "SELECT id FROM orders WHERE line = $1 AND line_rank IS NOT NULL \
                   ORDER BY line_rank, line_since, id LIMIT 1";
        self.order_id(sql, &[&line_of(order).as_slice()]).await
    }

    async fn has_issued(&self, order: &Order) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM orders \
                   WHERE account = $1 AND names = $2 AND certificate IS NOT NULL LIMIT 1";
        let (account, names) = (order.account(), names_of(order));
        let values: [Value<'_>; 2] = [&account.as_bytes().as_slice(), &names.as_slice()];
        Ok(self.order_id(sql, &values).await?.is_some())
    }

    async fn late_orders(&self, order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        let sql =
            "SELECT id FROM orders WHERE account = $1 AND line = $2 AND hands_over ORDER BY id LIMIT $3";
        let (account, line) = (order.account(), line_of(order));
        let values: [Value<'_>; 3] = [&account.as_bytes().as_slice(), &line.as_slice(), &number(limit)];
        self.order_ids(sql, &values).await
    }

    async fn orders_for(&self, name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        let sql = "SELECT since FROM counted_names WHERE name = $1 AND since >= $2 ORDER BY since";
        let found = self.rows(sql, &[&rows::name(name), &nanoseconds(since)]).await?;
        found.iter().map(|row| rows::time(column(row, 0)?)).collect()
    }

    async fn job_added(&self) {
        // Running out is as good as being woken.
        drop(timeout(TICK, self.wake.woken()).await);
    }

    async fn load(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
        let name = rows::value(name);
        let Some(stored) = self.unsealed(&name).await? else {
            return Ok(None);
        };
        Ok(Some(Versioned {
            value: codec::decode_bytes(name.as_str(), &stored.value)?,
            version: stored.version,
        }))
    }

    async fn save(&self, name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError> {
        let body = codec::encode_bytes(&value.value)?;
        self.put_sealed(&rows::value(name), value.version, &body).await?;
        Ok(value.version.saturating_add(1))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT name FROM sealed WHERE name >= $1 AND name < $2 ORDER BY name";
        let (from, to) = rows::beginning_with(&rows::value(prefix));
        let found = self.rows(sql, &[&from, &to]).await?;
        let name = |row: &Row| {
            let name: &str = column(row, 0)?;
            Ok(name.strip_prefix(rows::VALUES).unwrap_or(name).to_owned())
        };
        found.iter().map(name).collect()
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let sql = "SELECT sweep_orders($1, $2, $3)";
        let values: [Value<'_>; 3] = [&nanoseconds(now), &number(limit), &rows::kinds()];
        let swept = self.row(sql, &values).await?;
        let swept: i64 = swept.map_or(Ok(0), |row| column(&row, 0))?;
        let mut marks = MARKS;
        while marks >= MARKS {
            let sql = "SELECT sweep_marks($1, $2)";
            let more = self.row(sql, &[&nanoseconds(now), &MARKS]).await?;
            marks = more.map_or(Ok(0), |row| column(&row, 0))?;
        }
        Ok(swept.try_into().unwrap_or_default())
    }

    async fn census(&self) -> Result<Census, StoreError> {
        let sql = "SELECT lane, count(*), min(since), pg_database_size(current_database()) \
                   FROM (SELECT lane, since FROM jobs UNION ALL SELECT NULL, NULL) jobs GROUP BY lane";
        let mut census = Census {
            commits: self.commits.load(Ordering::Relaxed),
            ..Census::default()
        };
        // Each commit waits for the database's disk; how many share a sync is its own affair.
        census.syncs = census.commits;
        for row in &self.rows(sql, &[]).await? {
            census.bytes_on_disk = column::<i64>(row, 3)?.cast_unsigned();
            let Some(lane) = column::<Option<&str>>(row, 0)?.and_then(rows::lane_named) else {
                continue;
            };
            census.lanes.insert(
                lane,
                Waiting {
                    jobs: column::<i64>(row, 1)?.cast_unsigned(),
                    since: rows::time(column(row, 2)?)?,
                },
            );
        }
        Ok(census)
    }

    async fn check_room(&self) -> Result<(), StoreError> {
        let sql = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
        let row = self.row(sql, &[]).await?;
        match row.map_or(Ok(true), |row| column(&row, 0))? {
            false => Ok(()),
            true => Err(noted(Told::new("the database", Fault::ReadOnly, ""))),
        }
    }

    async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.row(sql, &[]).await?;
        let time = row.map(|row| column::<i64>(&row, 0)).transpose()?;
        Ok(time.and_then(|time| Timestamp::from_microsecond(time).ok()))
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let reading = snapshot::begin(&self.connections, Arc::clone(&self.keys)).await?;
        Ok(Box::new(reading))
    }

    async fn failed(&self) -> StoreError {
        // Whatever has become of the database, it may come back.
        pending().await
    }
}
