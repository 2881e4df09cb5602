//! Failover: when a CA has failed for long, the orders that have not been opened there go to another CA, if the
//! configuration says so.
//!
//! An order that has been opened stays, for it may be paid for. A request for an order whose answer was lost opened at
//! most one that issues nothing and expires.

use std::time::Duration;

use crate::acme::job::Lane;
use crate::acme::order::OrderStatus;
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::worker::upstream::{Failover, Watched};
use crate::worker::{Context, LEASE, again};

/// How often a CA is looked at that has a failover.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many orders are moved at a time.
const BATCH: usize = 64;

/// How long a job that stays is left alone.
const STAYS: Duration = Duration::from_secs(10);

/// Moves the CA's orders whenever that is due. Jobs that the CA's own queue has leased are left to it.
pub(crate) async fn watch(context: &Context, first: &Watched) {
    let Some(failover) = first.upstream.failover else {
        return;
    };
    let Some(second) = context.upstream(failover.to) else {
        return;
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if is_due(context, first, second, failover) {
            divert(context, first, second).await;
        }
    }
}

/// The second must be well: of two CAs that fail, none is better than the other.
fn is_due(context: &Context, first: &Watched, second: &Watched, failover: Failover) -> bool {
    let failed = first.health.has_failed_for(failover.after, context.clock.now());
    failed && second.health.is_well()
}

async fn divert(context: &Context, first: &Watched, second: &Watched) {
    let now = context.clock.now();
    let until = crate::acme::order::after(now, LEASE);
    let lane = Lane::Issue(first.name());
    let leased = context.store.lease(lane, now, until, BATCH, usize::MAX).await;
    let leases = leased.unwrap_or_else(|error| {
        tracing::error!(upstream = %first.name(), %error, "no job can be leased");
        Vec::new()
    });
    for lease in leases {
        let moved = match settlement(context, &lease, second).await {
            Ok(settlement) => context.store.settle(lease.clone(), settlement).await,
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            tracing::debug!(job.work = %lease.job.work, %error, "an order was not moved");
            // Somebody else has changed the order. If the lease is lost, it is theirs.
            drop(
                context
                    .store
                    .settle(lease.clone(), again(context, STAYS, lease.job.faults))
                    .await,
            );
        }
    }
}

async fn settlement(context: &Context, lease: &Lease, second: &Watched) -> Result<Settlement, StoreError> {
    let now = context.clock.now();
    let order = context.store.order(lease.job.work.order()).await?;
    let movable = order.filter(|order| {
        order.value.status(now) == OrderStatus::Processing && !order.value.is_opened_upstream()
    });
    let Some(Versioned {
        value: order,
        version,
    }) = movable
    else {
        return Ok(again(context, STAYS, lease.job.faults));
    };
    let (from, to) = (order.upstream_name(), second.name());
    let failovers = &context.metrics.upstream.failovers;
    failovers.with_label_values(&[from.as_str()]).inc();
    tracing::warn!(
        audit = true, account.id = %order.account(), order.id = %order.id(), upstream = %to, upstream.before = %from,
        "the order goes to another CA, for this one has failed for too long"
    );
    Ok(Settlement {
        next: Next::Moved {
            upstream: to,
            due: now,
        },
        order: Some(Versioned::with(version, order.placed_at(to))),
        issuers: Vec::new(),
    })
}
