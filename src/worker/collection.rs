//! What the CA has sent for an order: taken only if it is what was ordered (CONFORMANCE K13).

use jiff::Timestamp;

use crate::acme::certificate::{IssuedChain, Ordered};
use crate::acme::order::Order;
use crate::acme::problem::cleaned;
use crate::upstream::Chains;
use crate::worker::Context;

/// What the CA has sent, if it is what was ordered. If not, the evidence is kept, and somebody is to look at it.
pub(crate) fn verified(
    context: &Context,
    order: &Order,
    ordered: Ordered<'_>,
    chains: &Chains,
    now: Timestamp,
) -> Option<IssuedChain> {
    let mut chain = match IssuedChain::verify(&chains.first, ordered, now) {
        Ok(chain) => chain,
        Err(mismatch) => {
            let upstream = order.upstream_name();
            let metrics = &context.metrics;
            metrics.certificate_mismatch.inc();
            let of_upstream = &metrics.upstream.certificate_mismatch;
            of_upstream.with_label_values(&[upstream.as_str()]).inc();
            let evidence = cleaned(&chains.first.replace('\n', " "), 16_384);
            tracing::error!(audit = true, order.id = %order.id(), %upstream, %mismatch, evidence, "the CA sent a certificate that was not ordered; it is withheld");
            return None;
        }
    };
    for other in &chains.others {
        if let Err(mismatch) = chain.add_alternate(other, ordered, now) {
            tracing::warn!(order.id = %order.id(), %mismatch, "another chain of the CA's is done without");
        }
    }
    Some(chain)
}

/// The order's names, for the log.
pub(crate) fn names(order: &Order) -> String {
    let names: Vec<String> = order.identifiers().map(ToString::to_string).collect();
    names.join(" ")
}
