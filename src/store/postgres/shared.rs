//! What the replicas share beside records: keys that each derives for itself, nonces that were used, and holds.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Row;

use crate::store::StoreError;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::rows::{self, column};
use crate::store::shared::{Hold, Shared};

#[async_trait]
impl Shared for PostgresStore {
    fn key(&self, purpose: &str) -> [u8; 32] {
        self.keys.key(purpose)
    }

    /// A nonce is written when it is used, and not when it is given out. The write is as durable as any other: after a
    /// failover that had forgotten it, whoever recorded a request could have it done once more.
    async fn use_nonce(&self, nonce: &[u8], until: Timestamp) -> Result<bool, StoreError> {
        let used = self
            .rows_once(
                "INSERT INTO nonces VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
                &[&nonce, &rows::nanoseconds(until)],
            )
            .await?;
        Ok(!used.is_empty())
    }

    async fn hold(&self, what: &str, span: Duration) -> Result<Option<Hold>, StoreError> {
        let held = self
            .rows_once(
                "INSERT INTO holds VALUES ($1, hashtextextended(gen_random_uuid()::text, 0), \
                 clock_timestamp() + make_interval(secs => $2)) ON CONFLICT (what) DO UPDATE \
                 SET token = excluded.token, until = excluded.until WHERE holds.until <= clock_timestamp() \
                 RETURNING token",
                &[&what, &rows::seconds(span)],
            )
            .await?;
        Ok(held.first().map(|row| Hold {
            what: what.to_owned(),
            token: row.get::<_, i64>(0).cast_unsigned(),
        }))
    }

    /// A hold that has run out is extended as well: whoever had taken it meanwhile would have put another token in its place.
    async fn extend(&self, hold: &Hold, span: Duration) -> Result<bool, StoreError> {
        let held = self
            .rows(
                "UPDATE holds SET until = clock_timestamp() + make_interval(secs => $3) \
                 WHERE what = $1 AND token = $2 RETURNING true",
                &[&hold.what, &hold.token.cast_signed(), &rows::seconds(span)],
            )
            .await?;
        Ok(!held.is_empty())
    }

    async fn release(&self, hold: Hold) -> Result<(), StoreError> {
        self.rows(
            "DELETE FROM holds WHERE what = $1 AND token = $2",
            &[&hold.what, &hold.token.cast_signed()],
        )
        .await
        .map(drop)
    }

    async fn latest_certificates(
        &self,
        after: Option<[u8; 32]>,
        limit: usize,
    ) -> Result<Vec<([u8; 32], Timestamp)>, StoreError> {
        let after = after.as_ref().map(|names| names.as_slice()).unwrap_or_default();
        let sql = "SELECT names, max(valid_until) FROM orders WHERE valid_until IS NOT NULL AND names > $1 \
                   GROUP BY names ORDER BY names LIMIT $2";
        let found = self.rows(sql, &[&after, &rows::number(limit)]).await?;
        let latest = |row: &Row| {
            let names = rows::names(column(row, 0)?)?;
            Ok((names, rows::time(column(row, 1)?)?))
        };
        found.iter().map(latest).collect()
    }
}
