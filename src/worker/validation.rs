//! Validation jobs (RFC 8555 §8): one attempt at a challenge, and its verdict.

use std::time::Duration;

use crate::acme::account::AccountStatus;
use crate::acme::authorization::Authorization;
use crate::acme::id::{AccountId, ChallengeId};
use crate::acme::job::Work;
use crate::acme::order::{Order, Settled, Verdict};
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::worker::{Context, again, backoff, done, works_on};

/// The longest wait between two attempts. Four attempts take about half a minute of waiting.
const RETRY_CEILING: Duration = Duration::from_secs(20);

/// The first wait is two steps up the ladder of back-offs: about four seconds.
const RETRY_OFFSET: u32 = 2;

/// What an attempt has found out.
pub(crate) struct Found {
    attempt: u32,
    /// The account's key that the attempt was made with.
    thumbprint: String,
    verdict: Verdict,
}

/// What came of the wish to make an attempt.
enum Look {
    /// It was made.
    Made(Found),
    /// So many others are at the same host that it has to wait for that long.
    Crowded(Duration),
    /// There is nothing to be found out any more.
    Needless,
}

/// Looks, and settles the verdict. `found` keeps it: when the order has been changed meanwhile, by the verdict on another
/// of its names most often, the host is not asked again.
pub(crate) async fn step(
    context: &Context,
    lease: &Lease,
    found: &mut Option<Found>,
) -> Result<Settlement, StoreError> {
    let Work::Validate(id) = lease.job.work else {
        return Ok(done());
    };
    let found = match found {
        Some(found) => found,
        None => match look(context, id).await? {
            Look::Made(new) => found.insert(new),
            Look::Crowded(wait) => return Ok(again(context, wait, lease.job.faults)),
            Look::Needless => return Ok(done()),
        },
    };
    let Some(Versioned {
        value: order,
        version,
    }) = context.store.order(id.authorization.order).await?
    else {
        return Ok(done());
    };
    // The account may have got another key, or have ended, while the network was asked: then nobody wants the verdict.
    match thumbprint(context, order.account()).await? {
        None => return Ok(done()),
        Some(current) if current != found.thumbprint => return Ok(again(context, Duration::ZERO, 0)),
        Some(_) => {}
    }
    let (attempt, verdict) = (found.attempt, found.verdict.clone());
    let attempts = context.settings.validation_attempts;
    let (next, order) = match order.settle_validation(id, attempt, verdict, attempts, context.clock.now()) {
        Settled::Stale => return Ok(done()),
        Settled::Finished(order) => (Next::Done, order),
        Settled::Repeat(order) => (again(context, retry_wait(attempt), 0).next, order),
    };
    Ok(Settlement {
        next,
        order: Some(Versioned::with(version, order)),
        issuers: Vec::new(),
    })
}

/// Makes one attempt, if there is still something to be found out.
async fn look(context: &Context, id: ChallengeId) -> Result<Look, StoreError> {
    let Some(Versioned { value: order, .. }) = context.store.order(id.authorization.order).await? else {
        return Ok(Look::Needless);
    };
    works_on(&order);
    let now = context.clock.now();
    let (Some(attempt), Some(authorization)) =
        (order.attempt(id, now), order.authorization(id.authorization))
    else {
        return Ok(Look::Needless);
    };
    // RFC 8555 §8.3: the key authorization is made with the account's current key.
    let Some(thumbprint) = thumbprint(context, order.account()).await? else {
        return Ok(Look::Needless);
    };
    let visit = match context.targets.visit(authorization.identifier().to_string(), now) {
        Ok(visit) => visit,
        Err(wait) => return Ok(Look::Crowded(wait)),
    };
    let verdict = attempt_at(context, id, authorization, &thumbprint, &order).await;
    drop(visit);
    Ok(Look::Made(Found {
        attempt,
        thumbprint,
        verdict,
    }))
}

/// How long to wait after this attempt, counted from 0.
pub(crate) fn retry_wait(attempt: u32) -> Duration {
    backoff(attempt.saturating_add(1 + RETRY_OFFSET), RETRY_CEILING)
}

async fn attempt_at(
    context: &Context,
    id: ChallengeId,
    authorization: &Authorization,
    thumbprint: &str,
    order: &Order,
) -> Verdict {
    let token = authorization.token();
    let name = authorization.identifier();
    let started = context.clock.instant();
    let outcome = context
        .validator
        .validate(id.kind, name, token, &token.key_authorization(thumbprint))
        .await;
    let took = context
        .clock
        .instant()
        .saturating_duration_since(started)
        .as_secs_f64();
    let kind = id.kind.name();
    context
        .metrics
        .validation_duration
        .with_label_values(&[kind])
        .observe(took);
    let (label, verdict) = match outcome {
        Ok(()) => ("valid", Verdict::Proved),
        Err(failure) => {
            tracing::info!(
                account.id = %order.account(), order.id = %order.id(), challenge.id = %id, identifier = %name,
                problem = failure.problem.kind.name(), transient = failure.transient, detail = failure.detail,
                "validation attempt failed"
            );
            match failure.transient {
                true => ("retry", Verdict::TryAgain(failure.problem)),
                false => ("invalid", Verdict::Refused(failure.problem)),
            }
        }
    };
    if label == "valid" {
        tracing::info!(
            audit = true, account.id = %order.account(), order.id = %order.id(), challenge.id = %id, identifier = %name,
            "identifier validated"
        );
    }
    context
        .metrics
        .validations
        .with_label_values(&[kind, label])
        .inc();
    verdict
}

async fn thumbprint(context: &Context, account: AccountId) -> Result<Option<String>, StoreError> {
    let account = context.store.account(account).await?;
    let usable = account.filter(|account| account.value.status() == AccountStatus::Valid);
    Ok(usable.map(|account| account.value.key().thumbprint()))
}
