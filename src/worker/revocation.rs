//! Revocation jobs (RFC 8555 §7.6): have the CA revoke a certificate. Only its confirmation makes it revoked.

use std::time::Duration;

use crate::acme::job::Work;
use crate::acme::problem::Problem;
use crate::acme::revocation::Revocation;
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::upstream::Error;
use crate::worker::issuance::fault_noted;
use crate::worker::upstream::Operation;
use crate::worker::{Context, again, ca_fault, done, elsewhere, works_on};

/// How long the job of an upstream that is not configured waits. Only lanes of configured ones are worked on.
const UNCONFIGURED: Duration = Duration::from_secs(60);

pub(crate) async fn step(context: &Context, lease: &Lease) -> Result<Settlement, StoreError> {
    let Work::Revoke(id) = lease.job.work else {
        return Ok(done());
    };
    let Some(Versioned {
        value: order,
        version,
    }) = context.store.order(id).await?
    else {
        return Ok(done());
    };
    works_on(&order);
    if let Some(settlement) = elsewhere(context, lease, &order) {
        return Ok(settlement);
    }
    // By the account that has bought the certificate.
    let Some(upstream) = context.upstream(order.upstream_name()) else {
        return Ok(again(context, UNCONFIGURED, lease.job.faults));
    };
    let (Some(Revocation::Requested { reason, at }), Some(certificate)) =
        (order.revocation(), order.bought())
    else {
        return Ok(done());
    };
    let requested = *at;
    let request = upstream
        .issuer()
        .revoke(certificate.leaf(), order.bought_by(), *reason);
    let answer = upstream.asked(context, Operation::Revoke, request).await;
    let now = context.clock.now();
    let answer: Result<(), Problem> = match answer {
        Ok(()) => {
            upstream.worked_for(order.bought_by());
            Ok(())
        }
        Err(Error::Permanent(problem)) => {
            upstream.worked_for(order.bought_by());
            Err(problem)
        }
        Err(error @ (Error::Transient { .. } | Error::OrderGone(_) | Error::OrderUnseen(_))) => {
            let settlement = ca_fault(context, upstream, lease, &error);
            // The CA that has issued it may be gone for good.
            if now <= certificate.not_after() {
                let order = fault_noted(Versioned::with(version, order), &error, now);
                return Ok(Settlement {
                    order: Some(order),
                    ..settlement
                });
            }
            Err(Problem::malformed(
                "the certificate has expired before the CA has confirmed its revocation",
            ))
        }
    };
    let status = if answer.is_ok() { "success" } else { "failure" };
    context
        .metrics
        .certificates_revoked
        .with_label_values(&[status])
        .inc();
    let waited = now.duration_since(requested).as_secs_f64();
    context
        .metrics
        .certificate_request_duration
        .with_label_values(&["revoke"])
        .observe(waited);
    tracing::info!(
        audit = true, account.id = %order.account(), order.id = %id, upstream = %order.upstream_name(), reason = ?reason,
        certificate.sha256 = %certificate.leaf().fingerprint(), status, "certificate revocation"
    );
    Ok(Settlement {
        next: Next::Done,
        order: Some(Versioned::with(version, order.settle_revocation(answer, now))),
        issuers: Vec::new(),
    })
}
