//! Revocation jobs (RFC 8555 §7.6): have the CA revoke a certificate. Only its confirmation makes it revoked.

use crate::acme::job::Work;
use crate::acme::problem::Problem;
use crate::acme::revocation::Revocation;
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::upstream;
use crate::worker::issuance::timed;
use crate::worker::{Context, ca_fault, done};

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
    let (Some(Revocation::Requested { reason, at }), Some(certificate)) =
        (order.revocation(), order.certificate())
    else {
        return Ok(done());
    };
    let requested = *at;
    let answer = timed(
        context,
        "revoke",
        context.issuer.revoke(certificate.leaf(), *reason),
    )
    .await;
    let answer: Result<(), Problem> = match answer {
        Ok(()) => Ok(()),
        Err(upstream::Error::Permanent(problem)) => Err(problem),
        Err(error @ (upstream::Error::Transient { .. } | upstream::Error::OrderGone(_))) => {
            return Ok(ca_fault(context, lease, &error));
        }
    };
    context.ca.worked();
    let now = context.clock.now();
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
        audit = true, account.id = %order.account(), order.id = %id, reason = ?reason,
        certificate.sha256 = %certificate.leaf().fingerprint(), status, "certificate revocation"
    );
    Ok(Settlement {
        next: Next::Done,
        order: Some(Versioned::with(version, order.settle_revocation(answer, now))),
        issuers: Vec::new(),
    })
}
