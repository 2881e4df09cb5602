//! Renewal information (RFC 9773): the CA is asked about one certificate at a time, in turn, and what it says is stored
//! with the order. So however many clients ask us however often, the CA hears nothing of it.

use std::time::Duration;

use crate::acme::renewal::{Advice, CertificateId};
use crate::store::shared::Hold;
use crate::store::{StoreError, Versioned, offers};
use crate::upstream::{Error, Says, Suggestion};
use crate::worker::upstream::{Operation, Watched};
use crate::worker::{Context, backoff};

/// The CA's load balancers take one such request a second.
const ONE_EVERY: Duration = Duration::from_secs(1);

/// How long a certificate waits about which the CA has said nothing.
const UNANSWERED: Duration = Duration::from_secs(3600);

/// The longest wait for a CA that does not answer such requests.
const FAULT_CEILING: Duration = Duration::from_secs(300);

/// How long a replica has its turn at most: longer than a request may take.
const TURN: Duration = Duration::from_secs(60);

/// Asks as long as the daemon runs.
pub(crate) async fn run(context: &Context, upstream: &Watched) {
    let mut faults = 0_u32;
    loop {
        if let Err(error) = ask_in_turn(context, upstream, &mut faults).await {
            tracing::error!(upstream = %upstream.name(), %error, "renewal information can not be kept");
        }
        if faults > 0 {
            tokio::time::sleep(backoff(faults, FAULT_CEILING)).await;
        }
    }
}

/// Asks about the certificate that is due, and lets a second pass. Of several replicas one does so at a time: together they
/// are one client of the CA.
async fn ask_in_turn(context: &Context, upstream: &Watched, faults: &mut u32) -> Result<(), StoreError> {
    let turn = turn(context, upstream).await;
    let asked = match &turn {
        Ok(Turn::Ours(_)) => ask_next(context, upstream, faults).await,
        Ok(Turn::NotOurs) => Ok(()),
        Err(error) => Err(error.clone()),
    };
    tokio::time::sleep(ONE_EVERY).await;
    if let (Ok(Turn::Ours(Some(hold))), Some(shared)) = (turn, context.store.shared()) {
        shared.release(hold).await?;
    }
    asked
}

enum Turn {
    /// Until this is given back, if there are others.
    Ours(Option<Hold>),
    /// There is nothing to ask, or another replica does so.
    NotOurs,
}

async fn turn(context: &Context, upstream: &Watched) -> Result<Turn, StoreError> {
    let now = context.clock.now();
    // Orders come first: this can wait until nothing speaks against the CA.
    let is_well = upstream.health.places(2, 2, now) == 2;
    if !is_well || !offers::load(&*context.store, upstream.name()).await?.renewal_info {
        return Ok(Turn::NotOurs);
    }
    let Some(shared) = context.store.shared() else {
        return Ok(Turn::Ours(None));
    };
    if context
        .store
        .renewals_due(upstream.name(), now, 1)
        .await?
        .is_empty()
    {
        return Ok(Turn::NotOurs);
    }
    let hold = shared.hold(&format!("renewal/{}", upstream.name()), TURN).await?;
    Ok(hold.map_or(Turn::NotOurs, |hold| Turn::Ours(Some(hold))))
}

/// `faults` counts how often in a row the CA has failed.
async fn ask_next(context: &Context, upstream: &Watched, faults: &mut u32) -> Result<(), StoreError> {
    let now = context.clock.now();
    let due = context.store.renewals_due(upstream.name(), now, 1).await?;
    let Some(id) = due.first() else {
        return Ok(());
    };
    let Some(Versioned {
        value: order,
        version,
    }) = context.store.order(*id).await?
    else {
        return Ok(());
    };
    let certificate = order
        .certificate()
        .and_then(|issued| CertificateId::of(issued.leaf()));
    let answer = match &certificate {
        Some(certificate) => {
            let request = upstream.issuer().renewal(certificate);
            Some(upstream.asked(context, Operation::RenewalInfo, request).await)
        }
        None => None,
    };
    *faults = match &answer {
        Some(Err(Error::Transient {
            says: Says::Failing | Says::Away,
            ..
        })) => faults.saturating_add(1),
        _ => 0,
    };
    let (info, wait) = match answer {
        Some(Ok(Suggestion { info, good_for })) => (Some(info), good_for),
        Some(Err(error)) => (None, after_fault(context, upstream, &error)),
        None => (None, UNANSWERED),
    };
    let advice = Advice::heard(info, order.advice(), now, wait);
    let advised = Versioned::with(version, order.advised(advice));
    match context.store.commit(advised, None).await {
        // Somebody else has changed the order meanwhile: it is asked about again.
        Err(StoreError::Conflict) => Ok(()),
        written => written,
    }
}

/// Logs what the CA has answered, and tells how long to leave the certificate alone.
fn after_fault(context: &Context, upstream: &Watched, error: &Error) -> Duration {
    tracing::warn!(upstream = %upstream.name(), %error, "the CA does not say when to renew a certificate; the window is the last known, or our own");
    if let Error::Transient {
        retry_after,
        says: says @ (Says::SlowDown | Says::Away),
        ..
    } = error
    {
        upstream.health.failed(context.clock.now(), *retry_after, *says);
    }
    UNANSWERED
}
