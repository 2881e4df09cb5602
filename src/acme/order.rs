//! The order (RFC 8555 §7.1.3) with its authorizations and challenges: one stored record.
//!
//! Status is derived from the stored facts and the time, never stored. Every change of an order is in `transition`, and
//! in `late` for one that has ended before the CA was done; what may go to the CA is in `validated`. No clock is read here, and nothing is persisted: callers do
//! that, by compare-and-swap.

mod counting;
pub mod history;
pub mod late;
mod replacing;
#[cfg(test)]
mod tests;
mod transition;
mod validated;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::certificate::{Der, IssuedCertificate};
use crate::acme::challenge::{Challenge, ChallengeState, ChallengeType};
use crate::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::Work;
use crate::acme::order::history::Step;
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::renewal::{Advice, CertificateId};
use crate::acme::revocation::Revocation;
use crate::acme::upstream::{UpstreamName, UpstreamOrder};

pub use crate::acme::order::validated::ValidatedOrder;

/// How long a swept order stays readable after it has ended without a certificate.
const KEPT_AFTER_FAILURE: Duration = Duration::from_hours(24);

/// How long an order that was opened at the CA is kept after its time, so that its certificate is looked for even if
/// nobody could do so before.
const KEPT_AT_CA: Duration = Duration::from_hours(7 * 24);

/// How long an order stays readable after its certificate has expired.
const KEPT_AFTER_CERTIFICATE: Duration = Duration::from_hours(30 * 24);

/// An order's stored facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    id: OrderId,
    account: AccountId,
    provisioner: String,
    /// Where it is placed.
    #[serde(default, skip_serializing_if = "UpstreamName::is_default")]
    upstream: UpstreamName,
    created: Timestamp,
    expires: Timestamp,
    authorizations: Vec<Authorization>,
    stage: Stage,
    /// When its CSR was handed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finalized: Option<Timestamp>,
    #[serde(default)]
    wishes: Wishes,
    /// It has failed, and whoever replaces the certificate that it was to replace need not wait for its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gave_up_replacing: bool,
    /// What the CA has said about the certificate's renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<Advice>,
    /// Since when the CA shows nothing of its order whenever it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unseen_since: Option<Timestamp>,
    /// The account that has opened its order at the CA is not the one of now, which can not come to share it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    left_line: bool,
    /// The request that has made it, as the log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// What has happened to it, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<Step>,
    /// How many things have happened to it that are not among the steps any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    forgotten_steps: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is asked for beyond the names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// The first moment of the certificate's validity (RFC 8555 §7.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The last moment of the certificate's validity (RFC 8555 §7.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The profile of the certificate (draft-ietf-acme-profiles).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The certificate that the new one replaces (RFC 9773 §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CertificateId>,
    /// How many days the certificate may be valid at most: the policy's wish, which no client has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_days: Option<u32>,
}

/// How far the order has come beyond its authorizations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Not finalized.
    Open,
    /// Finalized: the CSR is on its way to the CA.
    Processing {
        csr: Der,
        finalized: Timestamp,
        /// The order at the CA, once one has been opened there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upstream: Option<UpstreamOrder>,
    },
    /// The certificate is here.
    Issued {
        certificate: IssuedCertificate,
        issued: Timestamp,
        /// The order at the CA.
        upstream: Option<UpstreamOrder>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revocation: Option<Revocation>,
        /// Its client has come for it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fetched: bool,
    },
    /// Finalized, and ended without a certificate.
    Failed { problem: Problem, failed: Timestamp },
    /// Ended for its client, while the CA may have its CSR.
    Awaited {
        problem: Problem,
        ended: Timestamp,
        /// When nobody looks for the certificate any more.
        until: Timestamp,
        csr: Der,
        finalized: Timestamp,
        /// The order at the CA.
        upstream: UpstreamOrder,
        /// The CA is known to have the CSR.
        taken: bool,
    },
    /// Ended for its client before the certificate came.
    Late {
        problem: Problem,
        ended: Timestamp,
        certificate: IssuedCertificate,
        /// The order at the CA.
        upstream: UpstreamOrder,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revocation: Option<Revocation>,
    },
}

/// RFC 8555 §7.1.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStatus {
    /// Waits for authorizations.
    Pending,
    /// Waits for the CSR.
    Ready,
    /// The certificate is being issued.
    Processing,
    /// The certificate is here.
    Valid,
    /// Ended without a certificate.
    Invalid,
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
        })
    }
}

/// What came of a client's answer to a challenge.
#[derive(Debug)]
pub enum Accepted {
    /// Validation is to start: store the order together with the work.
    Started(Order, Work),
    /// Under way or settled already: nothing changes.
    Unchanged(Order),
}

/// What a validation attempt found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Control of the name is proved.
    Proved,
    /// Not proved, for a reason that may pass: the attempt may be repeated.
    TryAgain(Problem),
    /// Not proved, for good.
    Refused(Problem),
}

/// What a settled verdict asks for.
#[derive(Debug)]
pub enum Settled {
    /// Store the order; the work is done.
    Finished(Order),
    /// Store the order; repeat the work.
    Repeat(Order),
    /// The challenge is not the one any more that the attempt was made for: drop the verdict.
    Stale,
}

impl Order {
    /// A new order, at the default upstream. Each identifier gets an authorization that offers the given challenges.
    pub fn new(
        account: AccountId,
        provisioner: String,
        identifiers: Vec<(Identifier, Vec<ChallengeType>)>,
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        let id = OrderId::random();
        let offering = |(identifier, kinds): (Identifier, Vec<ChallengeType>)| {
            Authorization::offering(id, identifier, &kinds)
        };
        Self {
            id,
            account,
            provisioner,
            upstream: UpstreamName::DEFAULT,
            created: now,
            expires: after(now, lifetime),
            authorizations: identifiers.into_iter().map(offering).collect(),
            stage: Stage::Open,
            finalized: None,
            wishes: Wishes::default(),
            gave_up_replacing: false,
            advice: None,
            unseen_since: None,
            left_line: false,
            request_id: None,
            steps: Vec::new(),
            forgotten_steps: 0,
        }
    }

    /// The same order, made by this request.
    pub fn requested_by(self, request_id: Option<String>) -> Self {
        Self { request_id, ..self }
    }

    /// The request that has made it, as the log names it. The daemon's own orders have none.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The same order, asking for more than names.
    pub fn wishing(self, wishes: Wishes) -> Self {
        Self { wishes, ..self }
    }

    /// The daemon's own order, for the names in its configuration: whoever writes the configuration controls the
    /// daemon, so its names need no proof. It belongs to [`AccountId::DAEMON`], which no client can be.
    pub fn for_daemon(
        id: OrderId,
        identifiers: Vec<Identifier>,
        csr: Der,
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        let proved = |identifier| {
            let mut authorization = Authorization::offering(id, identifier, &[ChallengeType::Http01]);
            for challenge in &mut authorization.challenges {
                challenge.state = ChallengeState::Valid(now);
            }
            authorization
        };
        Self {
            id,
            account: AccountId::DAEMON,
            provisioner: String::new(),
            upstream: UpstreamName::DEFAULT,
            created: now,
            expires: after(now, lifetime),
            authorizations: identifiers.into_iter().map(proved).collect(),
            stage: Stage::Processing {
                csr,
                finalized: now,
                upstream: None,
            },
            finalized: Some(now),
            wishes: Wishes::default(),
            gave_up_replacing: false,
            advice: None,
            unseen_since: None,
            left_line: false,
            request_id: None,
            steps: Vec::new(),
            forgotten_steps: 0,
        }
    }

    /// The order's id.
    pub fn id(&self) -> OrderId {
        self.id
    }

    /// The account that owns it.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The provisioner that it was made under.
    pub fn provisioner(&self) -> &str {
        &self.provisioner
    }

    /// The upstream that it is placed at.
    pub fn upstream_name(&self) -> UpstreamName {
        self.upstream
    }

    /// The order at the upstream, once one has been opened there, until nothing comes of it any more.
    pub fn order_at_ca(&self) -> Option<&UpstreamOrder> {
        match &self.stage {
            Stage::Processing { upstream, .. } | Stage::Issued { upstream, .. } => upstream.as_ref(),
            Stage::Awaited { upstream, .. } | Stage::Late { upstream, .. } => Some(upstream),
            Stage::Open | Stage::Failed { .. } => None,
        }
    }

    /// Whether an order has been opened for it at the upstream.
    pub fn is_opened_upstream(&self) -> bool {
        self.order_at_ca().is_some()
    }

    /// When it was made.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// When it becomes invalid unless its certificate is issued before.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Its authorizations, one for each identifier.
    pub fn authorizations(&self) -> &[Authorization] {
        &self.authorizations
    }

    /// Its identifiers, in the order of the authorizations.
    pub fn identifiers(&self) -> impl Iterator<Item = &Identifier> {
        self.authorizations.iter().map(Authorization::identifier)
    }

    /// The authorization with this id, if it is one of this order's.
    pub fn authorization(&self, id: AuthorizationId) -> Option<&Authorization> {
        if id.order != self.id {
            return None;
        }
        self.authorizations.get(usize::from(id.index))
    }

    /// The challenge with this id, if it is one of this order's.
    pub fn challenge(&self, id: ChallengeId) -> Option<&Challenge> {
        self.authorization(id.authorization)?.challenge(id.kind)
    }

    /// The status, by the first rule that applies (RFC 8555 §7.1.6):
    ///
    /// 1. issued: valid;
    /// 2. failed or ended after finalization: invalid;
    /// 3. an authorization is invalid, deactivated or expired: invalid;
    /// 4. finalized: processing;
    /// 5. every authorization is valid: ready;
    /// 6. otherwise pending.
    pub fn status(&self, now: Timestamp) -> OrderStatus {
        match &self.stage {
            Stage::Issued { .. } => OrderStatus::Valid,
            Stage::Failed { .. } | Stage::Awaited { .. } | Stage::Late { .. } => OrderStatus::Invalid,
            Stage::Open => self.open_status(now),
            Stage::Processing { .. } if self.open_status(now) == OrderStatus::Invalid => OrderStatus::Invalid,
            Stage::Processing { .. } => OrderStatus::Processing,
        }
    }

    fn open_status(&self, now: Timestamp) -> OrderStatus {
        let mut all_valid = true;
        for authorization in &self.authorizations {
            match authorization.status(self.expires, now) {
                AuthorizationStatus::Invalid
                | AuthorizationStatus::Deactivated
                | AuthorizationStatus::Expired => return OrderStatus::Invalid,
                AuthorizationStatus::Pending => all_valid = false,
                AuthorizationStatus::Valid => {}
            }
        }
        match all_valid {
            true => OrderStatus::Ready,
            false => OrderStatus::Pending,
        }
    }

    /// Why the order is invalid, if it is (RFC 8555 §7.1.3, `error`).
    pub fn problem(&self, now: Timestamp) -> Option<Problem> {
        if self.status(now) != OrderStatus::Invalid {
            return None;
        }
        if let Stage::Failed { problem, .. } | Stage::Awaited { problem, .. } | Stage::Late { problem, .. } =
            &self.stage
        {
            return Some(problem.clone());
        }
        let refused = self.authorizations.iter().find_map(|authorization| {
            let problem = authorization.problem().cloned();
            let given_up = || Problem::unauthorized("the account has deactivated the authorization");
            let problem = problem.or_else(|| authorization.is_deactivated().then(given_up))?;
            let detail = format!("{}: {}", authorization.identifier(), problem.detail);
            Some(Problem { detail, ..problem })
        });
        Some(refused.unwrap_or_else(|| match self.stage {
            Stage::Processing { upstream: Some(_), .. } => Problem::new(
                ProblemType::ServerInternal,
                "the CA did not issue the certificate before the order expired",
            ),
            Stage::Processing { upstream: None, .. } => Problem::new(
                ProblemType::ServerInternal,
                "the CA did not answer, or was busy with other orders for the same names, until the order expired",
            ),
            Stage::Open
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => Problem::malformed("the order expired before it was finalized"),
        }))
    }

    /// The certificate, once it is issued.
    pub fn certificate(&self) -> Option<&IssuedCertificate> {
        match &self.stage {
            Stage::Issued { certificate, .. } => Some(certificate),
            Stage::Open
            | Stage::Processing { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => None,
        }
    }

    /// What has become of the certificate's revocation, if one was asked for.
    pub fn revocation(&self) -> Option<&Revocation> {
        match &self.stage {
            Stage::Issued { revocation, .. } | Stage::Late { revocation, .. } => revocation.as_ref(),
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } | Stage::Awaited { .. } => None,
        }
    }

    /// Where the order stands in the line of the orders for the same names at the CA: by when it was finalized. An
    /// order is in line from finalization until it ends. One that has ended for its client alone stays until the CA is
    /// known to have its CSR, or to issue nothing: before that, the CA might hand its order to the next.
    pub fn in_line_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Processing { finalized, .. }
            | Stage::Awaited {
                finalized,
                taken: false,
                ..
            } => Some(finalized),
            Stage::Open
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => None,
        }
    }

    /// What the client asks for beyond the names.
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// When the record is of no use to anybody any more, and may be deleted.
    pub fn delete_after(&self) -> Timestamp {
        match &self.stage {
            Stage::Processing {
                upstream: Some(_), ..
            } => after(self.expires, KEPT_AT_CA),
            Stage::Awaited { until, .. } => after(*until, KEPT_AT_CA),
            Stage::Open | Stage::Processing { .. } => after(self.expires, KEPT_AFTER_FAILURE),
            Stage::Failed { failed, .. } => after(*failed, KEPT_AFTER_FAILURE),
            Stage::Issued { certificate, .. } | Stage::Late { certificate, .. } => {
                after(certificate.not_after(), KEPT_AFTER_CERTIFICATE)
            }
        }
    }
}

/// `time + span`, or the end of time.
pub(crate) fn after(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}
