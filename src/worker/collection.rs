//! What the CA has sent for an order: taken only if it is what was ordered (CONFORMANCE K13).

use jiff::Timestamp;

use crate::acme::certificate::{IssuedChain, Mismatch, Ordered, leaf_of_pem};
use crate::acme::id::OrderId;
use crate::acme::order::{Order, ValidatedOrder};
use crate::acme::problem::cleaned;
use crate::store::StoreError;
use crate::upstream::Chains;
use crate::worker::Context;

/// What the CA has sent, if it is what was ordered.
pub(crate) fn verified(
    ordered: Ordered<'_>,
    chains: &Chains,
    now: Timestamp,
) -> Result<IssuedChain, Mismatch> {
    let mut chain = IssuedChain::verify(&chains.first, ordered, now)?;
    for other in &chains.others {
        if let Err(mismatch) = chain.add_alternate(other, ordered, now) {
            tracing::warn!(order.id = %ordered.order, %mismatch, "another chain of the CA's is done without");
        }
    }
    Ok(chain)
}

/// What the CA has sent is not what was ordered: the evidence is kept, and somebody is to look at it.
pub(crate) fn withheld(context: &Context, order: &Order, mismatch: &Mismatch, chains: &Chains) {
    let upstream = order.upstream_name();
    let metrics = &context.metrics;
    metrics.certificate_mismatch.inc();
    let of_upstream = &metrics.upstream.certificate_mismatch;
    of_upstream.with_label_values(&[upstream.as_str()]).inc();
    let evidence = cleaned(&chains.first.replace('\n', " "), 16_384);
    tracing::error!(audit = true, order.id = %order.id(), %upstream, %mismatch, evidence, "the CA sent a certificate that was not ordered; it is withheld");
}

/// The order of ours that this certificate was issued for, if the CA has given both one order (UPSTREAM rule 2). Of two
/// that were being opened at a time, one may hear of that when the other is done with it.
pub(crate) async fn sharer(
    context: &Context,
    validated: &ValidatedOrder,
    chains: &Chains,
) -> Result<Option<OrderId>, StoreError> {
    let (Some(opened), Some(leaf)) = (validated.upstream(), leaf_of_pem(&chains.first)) else {
        return Ok(None);
    };
    let Some(id) = context.store.order_of_certificate(leaf.fingerprint()).await? else {
        return Ok(None);
    };
    let other = context.store.order(id).await?;
    let is_shared = other.is_some_and(|other| {
        let its = other.value.order_at_ca();
        its.is_some_and(|its| its.url == opened.url)
    });
    Ok(is_shared.then_some(id))
}

/// The order's names, for the log.
pub(crate) fn names(order: &Order) -> String {
    let names: Vec<String> = order.identifiers().map(ToString::to_string).collect();
    names.join(" ")
}
