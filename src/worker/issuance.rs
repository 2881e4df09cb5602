//! Issuance jobs: bring one order's certificate from the CA (UPSTREAM rules 1 to 5, SECURITY 4.2).
//!
//! The CA's order is opened once, and its URL is stored before anything else is done with it. From then on every step
//! starts from what the CA says about that order, so a step that was lost in a crash is repeated without harm.
//!
//! That nothing is bought twice does not rest on the lease, which a machine that was asleep may have lost unawares: of two
//! steps on one order one stores its URL, and only a stored URL is ever sent the CSR.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::account::AccountStatus;
use crate::acme::certificate::{IssuedChain, Mismatch};
use crate::acme::id::AccountId;
use crate::acme::job::Work;
use crate::acme::order::history::StepKind;
use crate::acme::order::{Order, OrderStatus, ValidatedOrder, after};
use crate::acme::problem::{Problem, ProblemType, cleaned};
use crate::store::{Lease, Next, Settlement, StoreError, Versioned};
use crate::upstream::{Chains, Error, Progress};
use crate::worker::collection::{names, sharer, verified, withheld};
use crate::worker::database::checkpoint;
use crate::worker::late::{self, Earlier};
use crate::worker::upstream::{Operation, Watched};
use crate::worker::{
    BACKOFF_CEILING, Context, again, again_after_fault, again_at_ca, age, ca_fault, done, elsewhere,
    failover, works_on,
};

/// How long an order waits before it looks again whether it is first in line for its names.
const IN_LINE: Duration = Duration::from_secs(1);

/// An order that the CA has shown nothing of for so long is believed not to be there: one of its replicas may lag behind.
pub(crate) const UNSEEN: Duration = Duration::from_secs(90);

pub(crate) async fn step(context: &Context, lease: &Lease) -> Result<Settlement, StoreError> {
    let Work::Issue(id) = lease.job.work else {
        return Ok(done());
    };
    let Some(order) = context.store.order(id).await? else {
        return Ok(done());
    };
    works_on(&order.value);
    if let Some(settlement) = elsewhere(context, lease, &order.value) {
        return Ok(settlement);
    }
    let now = context.clock.now();
    match order.value.status(now) {
        OrderStatus::Processing => {}
        OrderStatus::Invalid if order.value.outstanding().is_some() => {
            return Ok(late::look(context, lease, order).await);
        }
        // It has ended in the meantime, by its time or because its owner has given up an authorization.
        OrderStatus::Invalid if order.value.in_line_since().is_some() => {
            let problem = order.value.problem(now).unwrap_or_else(Problem::internal);
            return Ok(ended(context, order, problem));
        }
        OrderStatus::Invalid => return Ok(done()),
        OrderStatus::Valid | OrderStatus::Pending | OrderStatus::Ready => return Ok(done()),
    }
    if !may_issue(context, order.value.account()).await? {
        let problem = Problem::unauthorized("the account was deactivated before the certificate was issued");
        return Ok(ended(context, order, problem));
    }
    let Some(upstream) = context.upstream(order.value.upstream_name()) else {
        // Only lanes of configured upstreams are worked on.
        return Ok(again(context, IN_LINE, lease.job.faults));
    };
    if let Some(settlement) = failover::instead(context, upstream, &order).await? {
        return Ok(settlement);
    }
    if let Some(settlement) = out_of_line(context, upstream, &order).await {
        return Ok(settlement);
    }
    // Let's Encrypt answers an identical new-order with the same pending order: two orders for the same names at a
    // time would share it, and one client would get the other's certificate (UPSTREAM rule 2).
    if !order.value.has_left_line() && context.store.first_in_line(&order.value).await? != Some(id) {
        return Ok(again(context, IN_LINE, 0));
    }
    let Some(validated) = order.value.validated(now) else {
        tracing::error!(order.id = %id, "a finalized order has a name without a valid authorization; it does not go to the CA");
        return Ok(failed(context, order, Problem::internal()));
    };
    match validated.upstream() {
        Some(_) => advance(context, upstream, lease, order, validated).await,
        None => match late::earlier(context, &order.value, &validated, now).await? {
            Earlier::Nothing => open(context, upstream, lease, order, validated).await,
            Earlier::Awaited => Ok(again(context, IN_LINE, 0)),
            Earlier::Here {
                chain,
                ca_order,
                before,
            } => {
                let Versioned { value, version } = order;
                let handed_over = value.noting(StepKind::HandedOver, &before.to_string(), now);
                let order = Versioned::with(version, handed_over.opened_upstream(ca_order));
                Ok(collected(context, order, &validated, *chain))
            }
        },
    }
}

/// The account still stands; the daemon's own orders have none.
async fn may_issue(context: &Context, account: AccountId) -> Result<bool, StoreError> {
    if account == AccountId::DAEMON {
        return Ok(true);
    }
    let account = context.store.account(account).await?;
    Ok(account.is_some_and(|account| account.value.status() == AccountStatus::Valid))
}

/// Opens an order at the CA and stores its URL before anything else.
async fn open(
    context: &Context,
    upstream: &Watched,
    lease: &Lease,
    order: Versioned<Order>,
    validated: ValidatedOrder,
) -> Result<Settlement, StoreError> {
    let request = upstream.issuer().open(&validated);
    let opened = match upstream.asked(context, Operation::Open, request).await {
        Ok(opened) => opened,
        Err(error) => return Ok(refused(context, upstream, lease, order, &error)),
    };
    upstream.health.worked();
    let (ca_order, ca_account) = (cleaned(&opened.url, 200), cleaned(&opened.account, 200));
    let Versioned { value, version } = order;
    let at = context.clock.now();
    let opened = value
        .opened_upstream(opened.opened(at))
        .noting(StepKind::Opened, &ca_order, at);
    let opened = Versioned::with(version, opened);
    let order = checkpoint(context, lease, opened).await?;
    tracing::info!(
        audit = true, account.id = %order.value.account(), order.id = %order.value.id(), upstream = %upstream.name(),
        ca.order = ca_order, ca.account = ca_account, identifiers = names(&order.value), "order opened at the CA"
    );
    // The CSR leaves next, so whatever has ended while the CA was asked is looked at again.
    match order.value.validated(context.clock.now()) {
        Some(validated) if may_issue(context, order.value.account()).await? => {
            advance(context, upstream, lease, order, validated).await
        }
        Some(_) | None => Ok(again(context, Duration::ZERO, 0)),
    }
}

async fn advance(
    context: &Context,
    upstream: &Watched,
    lease: &Lease,
    order: Versioned<Order>,
    validated: ValidatedOrder,
) -> Result<Settlement, StoreError> {
    let request = upstream.issuer().advance(&validated);
    match upstream.asked(context, Operation::Advance, request).await {
        Ok(Progress::Waiting { retry_after }) => {
            let since = validated.upstream().and_then(|opened| opened.since);
            upstream.worked_for(validated.upstream().map(|opened| opened.account.as_str()));
            Ok(Settlement {
                order: seen(order),
                ..again_at_ca(context, lease, since, retry_after)
            })
        }
        Ok(Progress::Issued(chains)) => {
            upstream.worked_for(validated.upstream().map(|opened| opened.account.as_str()));
            match verified(validated.ordered(), &chains, context.clock.now()) {
                Ok(chain) => Ok(collected(context, order, &validated, chain)),
                Err(mismatch) => unfit(context, upstream, lease, order, &validated, &chains, &mismatch).await,
            }
        }
        Err(error) => Ok(refused(context, upstream, lease, order, &error)),
    }
}

/// The CA has sent a chain that was not ordered (CONFORMANCE K13). If it is another order's, which the CA has taken for this
/// one, nothing was ordered yet, and nothing is wrong.
async fn unfit(
    context: &Context,
    upstream: &Watched,
    lease: &Lease,
    order: Versioned<Order>,
    validated: &ValidatedOrder,
    chains: &Chains,
    mismatch: &Mismatch,
) -> Result<Settlement, StoreError> {
    if let Some(other) = sharer(context, validated, chains).await? {
        let gone = Error::OrderGone(format!(
            "it was the order {other}'s as well, and has served that one"
        ));
        return Ok(refused(context, upstream, lease, order, &gone));
    }
    withheld(context, &order.value, mismatch, chains);
    let problem = Problem::new(
        ProblemType::ServerInternal,
        "the CA sent a certificate that does not match the order; it is withheld",
    );
    Ok(failed(context, order, problem))
}

/// The certificate that was ordered is here.
fn collected(
    context: &Context,
    order: Versioned<Order>,
    validated: &ValidatedOrder,
    chain: IssuedChain,
) -> Settlement {
    let now = context.clock.now();
    if order.value.status(now) != OrderStatus::Processing {
        let problem = order.value.problem(now).unwrap_or_else(Problem::internal);
        return late::came(end(context, order, problem), chain, now);
    }
    let certificate = &chain.certificate;
    let asked = validated.wishes();
    let differs = |asked: Option<Timestamp>, got: Timestamp| {
        asked.is_some_and(|asked| asked.as_second() != got.as_second())
    };
    if differs(asked.not_before, certificate.not_before())
        || differs(asked.not_after, certificate.not_after())
    {
        tracing::warn!(
            order.id = %order.value.id(), certificate.not_before = %certificate.not_before(),
            certificate.not_after = %certificate.not_after(),
            "the CA has not taken the validity that the client asked for; the order says what it is"
        );
    }
    let lifetime = certificate.not_after().as_second() - certificate.not_before().as_second();
    // A day more than asked for is what CAs add so that a certificate is valid where clocks are slow.
    if asked
        .at_most_days
        .is_some_and(|days| lifetime > (i64::from(days) + 1) * 86_400)
    {
        tracing::warn!(
            order.id = %order.value.id(), certificate.not_after = %certificate.not_after(),
            "the CA has issued for longer than the policy's days"
        );
    }
    let waited = order
        .value
        .in_line_since()
        .map_or(0.0, |since| now.duration_since(since).as_secs_f64());
    let metrics = &context.metrics;
    metrics.certificates_issued.with_label_values(&["success"]).inc();
    metrics
        .certificate_request_duration
        .with_label_values(&["issue"])
        .observe(waited);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a lifetime in seconds is far below 2^52"
    )]
    metrics
        .certificate_expiration
        .with_label_values(&["issued"])
        .observe(lifetime as f64);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a Unix time in seconds is far below 2^52"
    )]
    metrics.last_successful_certificate.set(now.as_second() as f64);
    tracing::info!(
        audit = true, account.id = %order.value.account(), order.id = %order.value.id(),
        upstream = %order.value.upstream_name(),
        certificate.sha256 = %certificate.leaf().fingerprint(), certificate.not_after = %certificate.not_after(),
        identifiers = names(&order.value), "certificate issued"
    );
    let Versioned { value, version } = order;
    Settlement {
        next: Next::Done,
        order: Some(Versioned::with(version, value.issued(chain.certificate, now))),
        issuers: chain.issuers,
    }
}

/// The CA did not do what was asked: wait, give up, or start over.
fn refused(
    context: &Context,
    upstream: &Watched,
    lease: &Lease,
    order: Versioned<Order>,
    error: &Error,
) -> Settlement {
    match error {
        Error::Transient { .. } => Settlement {
            order: Some(fault_noted(order, error, context.clock.now())),
            ..ca_fault(context, upstream, lease, error)
        },
        Error::Permanent(problem) => {
            upstream.worked_for(order.value.under_way().map(|opened| opened.account.as_str()));
            // The CA may be at the CSR all the same, if the answer to an earlier request was lost.
            ended(context, order, problem.clone())
        }
        Error::OrderUnseen(_) if !is_unseen_for(&order.value, UNSEEN, context.clock.now()) => Settlement {
            order: not_seen(order, context.clock.now()),
            ..ca_fault(context, upstream, lease, error)
        },
        Error::OrderGone(detail) | Error::OrderUnseen(detail) => {
            upstream.will_retry(context);
            tracing::warn!(order.id = %order.value.id(), upstream = %upstream.name(), detail, "the CA's order is gone; another one will be opened");
            let Versioned { value, version } = order;
            let url = value
                .validated(context.clock.now())
                .and_then(|v| Some(v.upstream()?.url.clone()));
            let reopened = value.upstream_is_gone(&url.unwrap_or_default()).noting(
                StepKind::Gone,
                detail,
                context.clock.now(),
            );
            // A CA that lets every order die gets the next one later and later.
            let wait = age(context, lease).min(BACKOFF_CEILING);
            Settlement {
                order: Some(Versioned::with(version, reopened)),
                ..again_after_fault(context, lease, Some(wait))
            }
        }
    }
}

/// Notes what the CA, or the way to it, has done wrong.
pub(crate) fn fault_noted(order: Versioned<Order>, error: &Error, now: Timestamp) -> Versioned<Order> {
    let Versioned { value, version } = order;
    Versioned::with(version, value.noting(StepKind::CaFailed, &error.to_string(), now))
}

/// Stores that the CA shows nothing of the order, unless it is known.
pub(crate) fn not_seen(order: Versioned<Order>, now: Timestamp) -> Option<Versioned<Order>> {
    let Versioned { value, version } = order;
    let is_new = value.unseen_since().is_none();
    is_new.then(|| Versioned::with(version, value.not_seen(now)))
}

/// Stores that the CA has shown the order, if it has not done so before.
pub(crate) fn seen(order: Versioned<Order>) -> Option<Versioned<Order>> {
    let Versioned { value, version } = order;
    let is_news = value.unseen_since().is_some();
    is_news.then(|| Versioned::with(version, value.seen()))
}

/// Whether the CA has shown nothing of the order for so long.
pub(crate) fn is_unseen_for(order: &Order, span: Duration, now: Timestamp) -> bool {
    order
        .unseen_since()
        .is_some_and(|since| after(since, span) <= now)
}

/// An order that another account than the one of now has opened holds up nobody: the two accounts share no orders at the
/// CA, and its own CA may be gone for good. Another replica may have changed the account since we have looked.
pub(crate) async fn out_of_line(
    context: &Context,
    upstream: &Watched,
    order: &Versioned<Order>,
) -> Option<Settlement> {
    let opened = order.value.under_way()?;
    if order.value.has_left_line() || upstream.is_of_now(&opened.account) {
        return None;
    }
    upstream.issuer().prepare().await.ok()?;
    if upstream.is_of_now(&opened.account) {
        return None;
    }
    let left = order.value.clone().leaves_line();
    Some(Settlement {
        order: Some(Versioned::with(order.version, left)),
        ..again(context, Duration::ZERO, 0)
    })
}

/// The order has ended for its client. The job goes on if the CA may have its CSR.
fn ended(context: &Context, order: Versioned<Order>, problem: Problem) -> Settlement {
    let order = end(context, order, problem);
    let next = match order.value.outstanding() {
        Some(_) => again(context, Duration::ZERO, 0).next,
        None => Next::Done,
    };
    Settlement {
        next,
        order: Some(order),
        issuers: Vec::new(),
    }
}

fn end(context: &Context, order: Versioned<Order>, problem: Problem) -> Versioned<Order> {
    report_failure(context, &order.value, &problem);
    let Versioned { value, version } = order;
    let patience = context.settings.issuance_deadline;
    Versioned::with(version, value.ended(problem, context.clock.now(), patience))
}

fn report_failure(context: &Context, order: &Order, problem: &Problem) {
    context
        .metrics
        .certificates_issued
        .with_label_values(&["failure"])
        .inc();
    tracing::warn!(
        audit = true, account.id = %order.account(), order.id = %order.id(),
        upstream = %order.upstream_name(), problem = problem.kind.name(), detail = problem.detail, identifiers = names(order), "issuance failed"
    );
}

fn failed(context: &Context, order: Versioned<Order>, problem: Problem) -> Settlement {
    report_failure(context, &order.value, &problem);
    let Versioned { value, version } = order;
    Settlement {
        next: Next::Done,
        order: Some(Versioned::with(
            version,
            value.failed(problem, context.clock.now()),
        )),
        issuers: Vec::new(),
    }
}
