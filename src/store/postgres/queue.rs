//! Jobs: leased, and given back with what the work has changed. Whose turn it is, `lease_jobs` in `schema.sql` decides.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::job::{Job, Lane};
use crate::acme::order::Order;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::records::{Written, done_or_conflict, written_job};
use crate::store::postgres::rows::{self, column, nanoseconds, number};
use crate::store::postgres::statement::Value;
use crate::store::{Lease, Next, Settlement, StoreError, Versioned, codec, key_of};

impl PostgresStore {
    /// [`Store::lease`](crate::store::Store::lease), with its bounds: of this call, of an owner, of the lane.
    pub(crate) async fn lease_jobs(
        &self,
        lane: Lane,
        now: Timestamp,
        span: Duration,
        [limit, share, most]: [usize; 3],
    ) -> Result<Vec<Lease>, StoreError> {
        let sql = "SELECT * FROM lease_jobs($1, $2, make_interval(secs => $3), $4, $5, $6)";
        let leased = self
            .rows_once(
                sql,
                &[
                    &rows::lane(lane),
                    &nanoseconds(now),
                    &rows::seconds(span),
                    &number(limit),
                    &number(share),
                    &number(most),
                ],
            )
            .await?;
        let mut leases = Vec::new();
        for row in &leased {
            let name: &str = column(row, 0)?;
            match codec::decode_job(name, column(row, 1)?) {
                Ok(Some(job)) => leases.push(Lease {
                    job,
                    token: column::<i64>(row, 2)?.cast_unsigned(),
                }),
                // It must not keep the others from being done.
                Ok(None) => tracing::error!(job.work = name, "a job is not of the kind of its lane"),
                Err(error) => tracing::error!(job.work = name, %error, "a job can not be read"),
            }
        }
        Ok(leases)
    }

    /// [`Store::renew`](crate::store::Store::renew).
    pub(crate) async fn renew_lease(&self, lease: &Lease, span: Duration) -> Result<(), StoreError> {
        let sql = "SELECT renew_lease($1, $2, make_interval(secs => $3))";
        let work = key_of(&lease.job.work);
        let values: [Value<'_>; 3] = [&work, &lease.token.cast_signed(), &rows::seconds(span)];
        done_or_conflict(self.light_change(sql, &values).await?)
    }

    /// [`Store::checkpoint`](crate::store::Store::checkpoint).
    pub(crate) async fn checkpoint_order(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError> {
        let written = Written::of(&order.value, order.version)?;
        let outcome = self
            .change(
                "SELECT checkpoint_order($1, $2, $3, $4, $5::text::jsonb, $6, $7)",
                &[
                    &key_of(&lease.job.work),
                    &lease.token.cast_signed(),
                    &written.expected,
                    &written.row,
                    &written.body,
                    &written.counted,
                ],
            )
            .await?;
        done_or_conflict(outcome)?;
        Ok(Versioned {
            value: order.value,
            version: order.version.saturating_add(1),
        })
    }

    /// [`Store::settle`](crate::store::Store::settle).
    pub(crate) async fn settle_job(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
        let Settlement { next, order, issuers } = settlement;
        let (work, token) = (key_of(&lease.job.work), lease.token.cast_signed());
        let next_job = match next {
            Next::Done => None,
            Next::Again { due, faults } => Some(Job {
                due,
                faults,
                ..lease.job
            }),
            Next::Moved { upstream, due } => Some(Job {
                upstream,
                due,
                faults: 0,
                ..lease.job
            }),
        };
        let (job, job_body) = written_job(next_job.as_ref())?;
        // As in the embedded store: faults are remembered, so that a daemon which keeps crashing backs off.
        if let Next::Again { faults, .. } = next
            && faults == lease.job.faults
            && order.is_none()
            && issuers.is_empty()
        {
            let sql = "SELECT put_off_job($1, $2, $3::text::jsonb, $4)";
            let outcome = self.light_change(sql, &[&work, &token, &job, &job_body]).await?;
            self.wake.here();
            return done_or_conflict(outcome);
        }
        let written = order
            .map(|order| Written::of(&order.value, order.version))
            .transpose()?;
        let written = written.as_ref();
        let fingerprints: Vec<Vec<u8>> = issuers
            .iter()
            .map(|it| it.fingerprint().as_bytes().to_vec())
            .collect();
        let bodies = issuers.iter().map(codec::encode).collect::<Result<Vec<_>, _>>()?;
        let outcome = self
            .change(
                "SELECT settle_job($1, $2, $3, $4::text::jsonb, $5, $6, $7::text::jsonb, $8, $9, $10, $11)",
                &[
                    &work,
                    &token,
                    &job,
                    &job_body,
                    &written.map(|it| it.expected),
                    &written.map(|it| &it.row),
                    &written.map(|it| &it.body),
                    &written.map(|it| &it.counted),
                    &fingerprints,
                    &bodies,
                ],
            )
            .await?;
        match next {
            Next::Moved { .. } => self.wake.everywhere(),
            Next::Done | Next::Again { .. } => self.wake.here(),
        }
        done_or_conflict(outcome)
    }
}
