//! Orders as operators see them: how far each has come, and what it waits for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::challenge::ChallengeState;
use crate::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use crate::acme::job::{Job, Work};
use crate::acme::order::history::{Step, StepKind};
use crate::acme::order::{Order, OrderStatus};
use crate::acme::problem::Problem;
use crate::acme::revocation::Revocation;
use crate::acme::upstream::UpstreamName;
use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::{Found, Part, account_named, has_name, name_to_find, parsed};
use crate::store::StoreError;

/// How many earlier orders for the same names are looked at.
const EARLIER: usize = 64;

/// Which orders are wanted: those for which all of it is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFilter {
    /// Those for this name, or for names that end so (`*.example.com`).
    #[serde(default)]
    pub name: Option<String>,
    /// Those of this account.
    #[serde(default)]
    pub account: Option<String>,
    /// Those with this status (RFC 8555 §7.1.6).
    #[serde(default)]
    pub status: Option<String>,
    /// Those that are on their way to the CA or looked for there, and those whose validation has failed and goes on.
    #[serde(default)]
    pub stuck: bool,
}

/// An order.
#[derive(Debug, Serialize)]
pub struct OrderRecord {
    /// Its id.
    pub id: OrderId,
    /// RFC 8555 §7.1.6.
    pub status: String,
    /// What the certificate is to be for.
    pub names: Vec<String>,
    /// Whose it is.
    pub account: AccountId,
    /// The account's provisioner.
    pub provisioner: String,
    /// Where it is placed.
    pub upstream: UpstreamName,
    /// When it was made.
    pub created: Timestamp,
    /// When it becomes invalid.
    pub expires: Timestamp,
    /// Why it is invalid.
    pub error: Option<Problem>,
    /// The latest thing that has happened to it.
    pub last_step: Option<Step>,
}

/// All that is known of an order.
#[derive(Debug, Serialize)]
pub struct OrderDetails {
    /// What the list shows.
    #[serde(flatten)]
    pub record: OrderRecord,
    /// The order at the CA.
    pub ca_order: Option<String>,
    /// What has to happen next; nothing if it has come to its end.
    pub waits_for: Vec<String>,
    /// What is known of its names.
    pub authorizations: Vec<AuthorizationRecord>,
    /// What has happened to it, the first thing first.
    pub steps: Vec<Step>,
    /// How many of the first steps are not kept.
    pub forgotten_steps: u32,
}

/// What is known of a name.
#[derive(Debug, Serialize)]
pub struct AuthorizationRecord {
    /// The name.
    pub name: String,
    /// RFC 8555 §7.1.6.
    pub status: String,
    /// The challenges that a client may see.
    pub challenges: Vec<ChallengeRecord>,
}

/// How far a challenge has come.
#[derive(Debug, Serialize)]
pub struct ChallengeRecord {
    /// E.g. `http-01`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// RFC 8555 §7.1.6.
    pub status: &'static str,
    /// How often it was tried in vain.
    pub failed_attempts: u32,
    /// Why the latest attempt has failed.
    pub error: Option<Problem>,
}

impl RegistrationAuthority {
    /// A part of the orders that are wanted.
    ///
    /// # Errors
    ///
    /// What is wrong with the filter; the store's.
    pub async fn order_records(
        &self,
        filter: &OrderFilter,
        part: &Part,
    ) -> Result<Found<OrderRecord>, KeyError> {
        let account = filter.account.as_deref().map(account_named).transpose()?;
        let account = account.map(|name| name.id());
        let status = filter.status.as_deref().map(status_named).transpose()?;
        let name = filter.name.as_deref().map(name_to_find).transpose()?;
        let now = self.clock.now();
        let wanted = |order: &Order| {
            name.is_none_or(|name| has_name(order.identifiers(), name))
                && status.is_none_or(|status| order.status(now) == status)
                && (!filter.stuck || is_stuck(order, now))
        };
        let found = self.look_through_orders(account, part, wanted).await?;
        Ok(Found {
            records: found.records.iter().map(|order| record_of(order, now)).collect(),
            next: found.next,
        })
    }

    /// All that is known of the order with this id.
    ///
    /// # Errors
    ///
    /// There is none; the store's.
    pub async fn order_details(&self, id: &str) -> Result<OrderDetails, KeyError> {
        let none = || KeyError::Refused(format!("there is no order with the id {id}"));
        let order = self.store.order(parsed(id)?).await?.ok_or_else(none)?.value;
        let now = self.clock.now();
        let authorizations = order.authorizations().iter();
        Ok(OrderDetails {
            waits_for: self.waits_for(&order, now).await?,
            authorizations: authorizations.map(|a| authorization_of(&order, a, now)).collect(),
            ca_order: order.url_at_ca().map(str::to_owned),
            steps: order.steps().to_vec(),
            forgotten_steps: order.forgotten_steps(),
            record: record_of(&order, now),
        })
    }

    /// What has to happen for the order to come to its end.
    async fn waits_for(&self, order: &Order, now: Timestamp) -> Result<Vec<String>, StoreError> {
        if let Some(Revocation::Requested { .. }) = order.revocation() {
            let job = self.store.job(&Work::Revoke(order.id())).await?;
            return Ok(vec![format!(
                "the CA to revoke the certificate: {}",
                next_look(job, order, now)
            )]);
        }
        match order.status(now) {
            OrderStatus::Pending => self.waits_for_proofs(order, now).await,
            OrderStatus::Ready => Ok(vec!["the client to finalize, with its CSR".to_owned()]),
            OrderStatus::Processing => Ok(vec![self.waits_at_ca(order, now).await?]),
            OrderStatus::Invalid if order.outstanding().is_some() => {
                let job = self.store.job(&Work::Issue(order.id())).await?;
                Ok(vec![format!(
                    "the CA, which may yet issue what was ordered, although the order has ended for its client: {}",
                    next_look(job, order, now)
                )])
            }
            OrderStatus::Invalid => Ok(Vec::new()),
            OrderStatus::Valid if order.is_fetched() || order.account() == AccountId::DAEMON => {
                Ok(Vec::new())
            }
            OrderStatus::Valid => Ok(vec!["the client to fetch the certificate".to_owned()]),
        }
    }

    async fn waits_for_proofs(&self, order: &Order, now: Timestamp) -> Result<Vec<String>, StoreError> {
        let mut waits = Vec::new();
        for (index, authorization) in (0..).zip(order.authorizations()) {
            if authorization.status(order.expires(), now) != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier();
            let mut offered = Vec::new();
            let mut answered = false;
            for challenge in authorization.challenges() {
                let kind = challenge.kind();
                match challenge.state() {
                    ChallengeState::Pending => offered.push(kind.name()),
                    ChallengeState::Processing {
                        failed_attempts,
                        problem,
                    } => {
                        answered = true;
                        let authorization = AuthorizationId {
                            order: order.id(),
                            index,
                        };
                        let work = Work::Validate(ChallengeId { authorization, kind });
                        let due = due(self.store.job(&work).await?, now);
                        let failed = problem.as_ref().map_or_else(String::new, |problem| {
                            format!("; {failed_attempts} so far, the latest: {problem}")
                        });
                        waits.push(format!(
                            "the validation of {name} by {kind}: next attempt {due}{failed}"
                        ));
                    }
                    ChallengeState::Valid(_) | ChallengeState::Invalid(_) => {}
                }
            }
            if !answered {
                waits.push(format!(
                    "the client to answer the {} challenge of {name}",
                    offered.join(" or ")
                ));
            }
        }
        Ok(waits)
    }

    async fn waits_at_ca(&self, order: &Order, now: Timestamp) -> Result<String, StoreError> {
        let id = order.id();
        if !order.has_left_line()
            && let Some(first) = self.store.first_in_line(order).await?
            && first != id
        {
            return Ok(format!(
                "its turn: it stands in line behind order {first}, which is for the same names"
            ));
        }
        let upstream = order.upstream_name();
        if !order.is_opened_upstream()
            && let Some(earlier) = self.earlier_that_may_serve(order, now).await?
        {
            return Ok(format!(
                "what the CA makes of the earlier order {earlier}, whose certificate would serve this one, too"
            ));
        }
        let next = next_look(self.store.job(&Work::Issue(id)).await?, order, now);
        Ok(match order.is_opened_upstream() {
            true => format!("the CA (upstream {upstream}) to issue: {next}"),
            false => format!("an order to be opened at the CA (upstream {upstream}): {next}"),
        })
    }

    /// The earlier order, which has ended, whose certificate this one waits for.
    async fn earlier_that_may_serve(
        &self,
        order: &Order,
        now: Timestamp,
    ) -> Result<Option<OrderId>, StoreError> {
        let Some(validated) = order.validated(now) else {
            return Ok(None);
        };
        for id in self.store.late_orders(order, EARLIER).await? {
            if let Some(late) = self.store.order(id).await?
                && late.value.asks_for_the_same(order)
                && let Some(awaited) = late.value.outstanding()
                && awaited.is_for_the_key_of(&validated)
                && now < awaited.until()
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// When the CA is asked next, and what it has said last if that was no good.
fn next_look(job: Option<Job>, order: &Order, now: Timestamp) -> String {
    let next = format!("it is asked next {}", due(job, now));
    let mut latest_first = order.steps().iter().rev();
    let fault = latest_first.find(|step| step.kind == StepKind::CaFailed);
    match (job, fault) {
        (Some(job), Some(fault)) if job.faults > 1 => {
            format!(
                "{next}; it has failed {} times in a row, the latest: {}",
                job.faults, fault.about
            )
        }
        (Some(job), Some(fault)) if job.faults == 1 => format!("{next}; it has failed: {}", fault.about),
        (Some(_) | None, Some(_) | None) => next,
    }
}

fn due(job: Option<Job>, now: Timestamp) -> String {
    match job {
        Some(job) if job.due > now => format!("at {:.0}", job.due),
        Some(_) => "now".to_owned(),
        None => "at no time: there is no job for it".to_owned(),
    }
}

fn status_named(text: &str) -> Result<OrderStatus, KeyError> {
    let all = [
        OrderStatus::Pending,
        OrderStatus::Ready,
        OrderStatus::Processing,
        OrderStatus::Valid,
        OrderStatus::Invalid,
    ];
    let found = all.into_iter().find(|status| status.to_string() == text);
    found.ok_or_else(|| {
        KeyError::Refused(format!(
            "{text:?} is no status of an order; there are pending, ready, processing, valid and invalid"
        ))
    })
}

fn is_stuck(order: &Order, now: Timestamp) -> bool {
    let has_failed = |authorization: &Authorization| {
        authorization.challenges().any(|challenge| {
            let ChallengeState::Processing { failed_attempts, .. } = challenge.state() else {
                return false;
            };
            *failed_attempts > 0
        })
    };
    match order.status(now) {
        OrderStatus::Pending => order.authorizations().iter().any(has_failed),
        OrderStatus::Processing => true,
        OrderStatus::Invalid => order.outstanding().is_some(),
        OrderStatus::Ready | OrderStatus::Valid => false,
    }
}

fn record_of(order: &Order, now: Timestamp) -> OrderRecord {
    OrderRecord {
        id: order.id(),
        status: order.status(now).to_string(),
        names: order.identifiers().map(ToString::to_string).collect(),
        account: order.account(),
        provisioner: order.provisioner().to_owned(),
        upstream: order.upstream_name(),
        created: order.created(),
        expires: order.expires(),
        error: order.problem(now),
        last_step: order.steps().last().cloned(),
    }
}

fn authorization_of(order: &Order, authorization: &Authorization, now: Timestamp) -> AuthorizationRecord {
    let challenges = authorization.challenges().map(|challenge| {
        let (failed_attempts, error) = match challenge.state() {
            ChallengeState::Processing {
                failed_attempts,
                problem,
            } => (*failed_attempts, problem.clone()),
            ChallengeState::Invalid(problem) => (0, Some(problem.clone())),
            ChallengeState::Pending | ChallengeState::Valid(_) => (0, None),
        };
        ChallengeRecord {
            kind: challenge.kind().name(),
            status: challenge.status(),
            failed_attempts,
            error,
        }
    });
    AuthorizationRecord {
        name: authorization.identifier().to_string(),
        status: authorization.status(order.expires(), now).to_string(),
        challenges: challenges.collect(),
    }
}
