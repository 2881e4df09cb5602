//! What comes of an order at the CA after ours has ended (UPSTREAM rule 4, SECURITY F48).
//!
//! It may be paid for, so it is looked for on: what it issues is recorded, so that it can be revoked, and the account's
//! next order for the same names and the same key gets it and buys nothing.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::certificate::{IssuedCertificate, IssuedChain, to_pem};
use crate::acme::id::OrderId;
use crate::acme::order::history::StepKind;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::order::{Order, ValidatedOrder};
use crate::acme::upstream::UpstreamOrder;
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::upstream::{Chains, Error, Progress};
use crate::worker::collection::{names, verified, withheld};
use crate::worker::issuance::{fault_noted, is_unseen_for, not_seen, out_of_line};
use crate::worker::upstream::Operation;
use crate::worker::{Context, again, again_at_ca, ca_fault};

/// How long after our order's end the CA's is not believed to be dead. A request whose answer was lost may still be on
/// its way.
const UNSETTLED: Duration = Duration::from_secs(60);

/// How often the CA is asked in that time.
const UNSETTLED_POLL: Duration = Duration::from_secs(5);

/// How many late orders of an account for the same names are considered.
const MAX_LATE: usize = 64;

/// Looks for the certificate of an order that has ended.
pub(crate) async fn look(context: &Context, lease: &Lease, order: Versioned<Order>) -> Settlement {
    let found = order.value.outstanding();
    let found = found.and_then(|awaited| Some((context.upstream(awaited.upstream_name())?, awaited)));
    let Some((upstream, awaited)) = found else {
        // Only lanes of configured upstreams are worked on.
        return again(context, UNSETTLED, lease.job.faults);
    };
    if let Some(settlement) = out_of_line(context, upstream, &order).await {
        return settlement;
    }
    let request = upstream.issuer().look(&awaited);
    let answer = upstream.asked(context, Operation::Advance, request).await;
    let now = context.clock.now();
    let is_over = awaited.until() <= now;
    match answer {
        Ok(Progress::Issued(chains)) => {
            upstream.worked_for(Some(&awaited.upstream().account));
            match verified(awaited.ordered(), &chains, now) {
                Ok(chain) => came(order, chain, now),
                Err(mismatch) => {
                    withheld(context, &order.value, &mismatch, &chains);
                    abandoned(order, now, "it is not the one that was ordered")
                }
            }
        }
        Ok(Progress::Waiting { retry_after }) => {
            upstream.worked_for(Some(&awaited.upstream().account));
            match is_over {
                true => abandoned(order, now, "the CA has not issued it in time"),
                false => waiting(context, lease, order, &awaited, retry_after),
            }
        }
        Err(Error::OrderGone(detail)) => {
            upstream.worked_for(Some(&awaited.upstream().account));
            abandoned(order, now, &detail)
        }
        Err(Error::OrderUnseen(detail)) => {
            upstream.worked_for(Some(&awaited.upstream().account));
            match is_over || is_unseen_for(&order.value, UNSETTLED, now) {
                true => abandoned(order, now, &detail),
                false => Settlement {
                    order: not_seen(order, now),
                    ..again(context, UNSETTLED_POLL, 0)
                },
            }
        }
        Err(error @ (Error::Transient { .. } | Error::Permanent(_))) => {
            let settlement = ca_fault(context, upstream, lease, &error);
            match is_over {
                true => abandoned(order, now, "the CA has not answered in time"),
                false => Settlement {
                    order: Some(fault_noted(order, &error, now)),
                    ..settlement
                },
            }
        }
    }
}

fn waiting(
    context: &Context,
    lease: &Lease,
    order: Versioned<Order>,
    awaited: &AwaitedOrder,
    retry_after: Duration,
) -> Settlement {
    let is_news = !awaited.is_taken() || order.value.unseen_since().is_some();
    let Versioned { value, version } = order;
    let taken = is_news.then(|| Versioned::with(version, value.taken_by_ca().seen()));
    Settlement {
        order: taken,
        ..again_at_ca(context, lease, awaited.upstream().since, retry_after)
    }
}

/// The certificate has come, too late for its order.
pub(crate) fn came(order: Versioned<Order>, chain: IssuedChain, now: Timestamp) -> Settlement {
    let Versioned { value, version } = order;
    tracing::warn!(
        audit = true, account.id = %value.account(), order.id = %value.id(), upstream = %value.upstream_name(),
        certificate.sha256 = %chain.certificate.leaf().fingerprint(),
        certificate.not_after = %chain.certificate.not_after(), identifiers = names(&value), "late certificate"
    );
    Settlement {
        next: Next::Done,
        order: Some(Versioned::with(
            version,
            value
                .came_late(chain.certificate)
                .noting(StepKind::CameLate, "", now),
        )),
        issuers: chain.issuers,
    }
}

/// Nothing will come any more, as far as anybody can tell.
fn abandoned(order: Versioned<Order>, now: Timestamp, why: &str) -> Settlement {
    let Versioned { value, version } = order;
    tracing::warn!(
        audit = true, account.id = %value.account(), order.id = %value.id(), upstream = %value.upstream_name(),
        why, identifiers = names(&value), "no late certificate"
    );
    Settlement {
        next: Next::Done,
        order: Some(Versioned::with(
            version,
            value.abandoned().noting(StepKind::Abandoned, why, now),
        )),
        issuers: Vec::new(),
    }
}

/// What an earlier order, which has ended, means for one that is about to be opened at the CA.
pub(crate) enum Earlier {
    /// Nothing: the certificate has to be bought.
    Nothing,
    /// A certificate for the same key may still come.
    Awaited,
    /// The certificate is here.
    Here {
        /// It, checked as if it came from the CA.
        chain: Box<IssuedChain>,
        /// The CA's order that it came from.
        ca_order: UpstreamOrder,
        /// The earlier order.
        before: OrderId,
    },
}

/// Whether the account has, or may yet get, what this order is to buy. Each late certificate serves one order: from then
/// on the store names that one for it.
pub(crate) async fn earlier(
    context: &Context,
    order: &Order,
    validated: &ValidatedOrder,
    now: Timestamp,
) -> Result<Earlier, StoreError> {
    let mut found = Earlier::Nothing;
    for id in context.store.late_orders(order, MAX_LATE).await? {
        let Some(late) = context.store.order(id).await? else {
            continue;
        };
        if !late.value.asks_for_the_same(order) {
            continue;
        }
        if let Some(awaited) = late.value.outstanding()
            && awaited.is_for_the_key_of(validated)
            && now < awaited.until()
        {
            found = Earlier::Awaited;
        }
        let Some((certificate, ca_order)) = late.value.to_hand_over(now) else {
            continue;
        };
        let leaf = certificate.leaf().fingerprint();
        if context.store.order_of_certificate(leaf).await? != Some(id) {
            continue;
        }
        let chains = chains_of(context, certificate).await?;
        // One for another key is none for this order.
        if let Ok(chain) = verified(validated.ordered(), &chains, now) {
            tracing::info!(
                audit = true, account.id = %order.account(), order.id = %order.id(), order.before = %id,
                certificate.sha256 = %leaf, "certificate of an earlier order handed over"
            );
            let ca_order = ca_order.clone();
            return Ok(Earlier::Here {
                chain: Box::new(chain),
                ca_order,
                before: id,
            });
        }
    }
    Ok(found)
}

async fn chains_of(context: &Context, certificate: &IssuedCertificate) -> Result<Chains, StoreError> {
    let mut all = Vec::new();
    for above in certificate.alternates() {
        let issuers = context.store.issuers(above).await?;
        all.push(to_pem(std::iter::once(certificate.leaf()).chain(&issuers)));
    }
    let issuers = context.store.issuers(certificate.issuers()).await?;
    Ok(Chains {
        first: to_pem(std::iter::once(certificate.leaf()).chain(&issuers)),
        others: all,
    })
}
