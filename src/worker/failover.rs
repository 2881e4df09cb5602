//! Failover: when a CA has failed for long, the orders that have not been opened there go to another CA, if the
//! configuration says so. As long as it works for one of several processes with one store, it has not: that one does what
//! there is to do there.
//!
//! An order that has been opened stays, for it may be paid for. A request for an order whose answer was lost opened at
//! most one that issues nothing and expires. An order that the other CA would refuse for its wishes stays, too.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::acme::certificate::Fingerprint;
use crate::acme::job::Lane;
use crate::acme::order::history::StepKind;
use crate::acme::order::{Order, OrderStatus, after};
use crate::store::{Lease, Next, Settlement, StoreError, Versioned, offers};
use crate::worker::upstream::Watched;
use crate::worker::{Context, LEASE, again, moment};

/// How often a CA is looked at that has a failover.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is written down at most that a CA works.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// By how much the clock of whoever writes it may be ahead.
const AHEAD: Duration = Duration::from_secs(60);

/// How many orders are moved at a time.
const BATCH: usize = 64;

/// How long a job that stays is left alone.
const STAYS: Duration = Duration::from_secs(10);

/// Moves the CA's orders whenever that is due, while its own queue does not: it is paused, or there is no account. Ends
/// between two looks, so that it leaves no job leased.
pub(crate) async fn watch(context: &Context, first: &Watched, mut stop: watch::Receiver<bool>) {
    while timeout(LOOK_EVERY, stop.wait_for(|stop| *stop)).await.is_err() {
        if let Err(error) = look(context, first).await {
            tracing::warn!(upstream = %first.name(), %error, "whether the CA works for another replica can not be told");
        }
    }
}

async fn look(context: &Context, first: &Watched) -> Result<(), StoreError> {
    match tell(context, first).await {
        // Another process has just told of it.
        Ok(()) | Err(StoreError::Conflict) => {}
        Err(error) => return Err(error),
    }
    if first.health.places(1, 1, context.clock.now()) == 0
        && let Some(second) = stand_in(context, first).await?
    {
        divert(context, first, second).await;
    }
    Ok(())
}

/// Writes down for all processes that the CA has worked for this one, if it has since the last look.
async fn tell(context: &Context, first: &Watched) -> Result<(), StoreError> {
    if first.upstream.failover.is_none() || !first.health.takes_note_of_work() {
        return Ok(());
    }
    let (store, name, now) = (&*context.store, name_of(first), context.clock.now());
    let told = moment::load(store, &name, now, AHEAD).await?;
    match told.value {
        Some(last) if after(last, TELL_EVERY) > now => Ok(()),
        Some(_) | None => moment::save(store, &name, told.version, now).await,
    }
}

/// By the account at the CA: that another one works there says nothing about this one.
fn name_of(upstream: &Watched) -> String {
    let account = format!("{}\0{}", upstream.name(), upstream.upstream.ca_url);
    format!("worked/{}", Fingerprint::of(account.as_bytes()))
}

/// Who takes the CA's new orders now, if anybody is to. It must be well: of two CAs that fail, none is better than the
/// other.
async fn stand_in<'a>(context: &'a Context, first: &Watched) -> Result<Option<&'a Watched>, StoreError> {
    let now = context.clock.now();
    let Some(failover) = first.upstream.failover else {
        return Ok(None);
    };
    let failed = first.health.has_failed_for(failover.after, now);
    let second = context.upstream(failover.to).filter(|_| failed);
    let Some(second) = second.filter(|second| second.health.is_well()) else {
        return Ok(None);
    };
    let worked = moment::load(&*context.store, &name_of(first), now, AHEAD).await?;
    let lately = worked.value.is_some_and(|last| after(last, failover.after) > now);
    Ok((!lately).then_some(second))
}

/// Moves an order that has not been opened at the CA, if that is due.
pub(crate) async fn instead(
    context: &Context,
    first: &Watched,
    order: &Versioned<Order>,
) -> Result<Option<Settlement>, StoreError> {
    match stand_in(context, first).await? {
        Some(second) if may_move(context, &order.value, second).await? => {
            Ok(Some(moved(context, order.clone(), second)))
        }
        Some(_) | None => Ok(None),
    }
}

/// Whether the order has not been opened at its CA, and the other one has what it wishes for. No CA says whether it takes
/// a validity.
async fn may_move(context: &Context, order: &Order, second: &Watched) -> Result<bool, StoreError> {
    let wishes = order.wishes();
    let asks_for_validity =
        wishes.not_before.is_some() || wishes.not_after.is_some() || wishes.at_most_days.is_some();
    if order.is_opened_upstream() || asks_for_validity {
        return Ok(false);
    }
    match &wishes.profile {
        Some(profile) => {
            let offers = offers::load(&*context.store, second.name()).await?;
            Ok(offers.profiles.contains_key(profile))
        }
        None => Ok(true),
    }
}

async fn divert(context: &Context, first: &Watched, second: &Watched) {
    let now = context.clock.now();
    let lane = Lane::Issue(first.name());
    let leased = context
        .store
        .lease(lane, now, LEASE, BATCH, usize::MAX, usize::MAX)
        .await;
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
    let waiting = order.filter(|order| order.value.status(now) == OrderStatus::Processing);
    Ok(match waiting {
        Some(order) if may_move(context, &order.value, second).await? => moved(context, order, second),
        Some(_) | None => again(context, STAYS, lease.job.faults),
    })
}

fn moved(context: &Context, order: Versioned<Order>, second: &Watched) -> Settlement {
    let Versioned {
        value: order,
        version,
    } = order;
    let (from, to) = (order.upstream_name(), second.name());
    let failovers = &context.metrics.upstream.failovers;
    failovers.with_label_values(&[from.as_str()]).inc();
    tracing::warn!(
        audit = true, account.id = %order.account(), order.id = %order.id(), upstream = %to, upstream.before = %from,
        "the order goes to another CA, for this one has failed for too long"
    );
    let due = context.clock.now();
    Settlement {
        next: Next::Moved { upstream: to, due },
        order: Some(Versioned::with(
            version,
            order.placed_at(to, due).noting(
                StepKind::Moved,
                &format!("from {from} to {to}, for the former has failed for too long"),
                due,
            ),
        )),
        issuers: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
