//! The order (RFC 8555 §7.1.3) with its authorizations and challenges: one stored record, and every transition of it.
//!
//! A transition consumes the order and gives the next one. Status is derived from the stored facts and the time, never
//! stored. No clock is read here, and nothing is persisted: callers do that, by compare-and-swap.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::certificate::{Der, IssuedCertificate};
use crate::acme::challenge::{Challenge, ChallengeState, ChallengeType};
use crate::acme::csr::MatchedCsr;
use crate::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::Work;
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::revocation::{Revocation, RevocationReason};

/// How long a swept order stays readable after it has ended without a certificate.
const KEPT_AFTER_FAILURE: Duration = Duration::from_hours(24);

/// How long an order stays readable after its certificate has expired.
const KEPT_AFTER_CERTIFICATE: Duration = Duration::from_hours(30 * 24);

/// An order's stored facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    id: OrderId,
    account: AccountId,
    provisioner: String,
    created: Timestamp,
    expires: Timestamp,
    authorizations: Vec<Authorization>,
    stage: Stage,
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
        /// The order's URL at the CA, once one has been opened there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upstream: Option<String>,
    },
    /// The certificate is here.
    Issued {
        certificate: IssuedCertificate,
        issued: Timestamp,
        /// The order's URL at the CA.
        upstream: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revocation: Option<Revocation>,
    },
    /// Finalized, and ended without a certificate.
    Failed { problem: Problem, failed: Timestamp },
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

/// Proof that every name of the order has a valid authorization of the order's account, and that a matching CSR is
/// stored. The only thing that the upstream takes; only [`Order::validated`] makes one.
#[derive(Debug, Clone)]
pub struct ValidatedOrder {
    id: OrderId,
    identifiers: Vec<Identifier>,
    csr: Der,
    upstream: Option<String>,
    expires: Timestamp,
}

impl ValidatedOrder {
    /// The order's id.
    pub fn id(&self) -> OrderId {
        self.id
    }

    /// The names that the certificate is for.
    pub fn identifiers(&self) -> &[Identifier] {
        &self.identifiers
    }

    /// The client's own CSR, DER.
    pub fn csr(&self) -> &Der {
        &self.csr
    }

    /// The order's URL at the CA, if one has been opened there.
    pub fn upstream(&self) -> Option<&str> {
        self.upstream.as_deref()
    }

    /// When waiting for the CA ends.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl Order {
    /// A new order. Each identifier gets an authorization that offers the given challenges.
    pub fn new(
        account: AccountId,
        provisioner: String,
        identifiers: Vec<(Identifier, Vec<ChallengeType>)>,
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        let offering = |(identifier, kinds): (Identifier, Vec<ChallengeType>)| {
            Authorization::offering(identifier, &kinds)
        };
        Self {
            id: OrderId::random(),
            account,
            provisioner,
            created: now,
            expires: after(now, lifetime),
            authorizations: identifiers.into_iter().map(offering).collect(),
            stage: Stage::Open,
        }
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
            let mut authorization = Authorization::offering(identifier, &[ChallengeType::Http01]);
            for challenge in &mut authorization.challenges {
                challenge.state = ChallengeState::Valid(now);
            }
            authorization
        };
        Self {
            id,
            account: AccountId::DAEMON,
            provisioner: String::new(),
            created: now,
            expires: after(now, lifetime),
            authorizations: identifiers.into_iter().map(proved).collect(),
            stage: Stage::Processing {
                csr,
                finalized: now,
                upstream: None,
            },
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
    /// 2. failed after finalization: invalid;
    /// 3. finalized, not expired: processing; expired: invalid;
    /// 4. an authorization is invalid or expired: invalid;
    /// 5. every authorization is valid: ready;
    /// 6. otherwise pending.
    pub fn status(&self, now: Timestamp) -> OrderStatus {
        match &self.stage {
            Stage::Issued { .. } => OrderStatus::Valid,
            Stage::Failed { .. } => OrderStatus::Invalid,
            Stage::Processing { .. } if self.expires <= now => OrderStatus::Invalid,
            Stage::Processing { .. } => OrderStatus::Processing,
            Stage::Open => self.open_status(now),
        }
    }

    fn open_status(&self, now: Timestamp) -> OrderStatus {
        let mut all_valid = true;
        for authorization in &self.authorizations {
            match authorization.status(self.expires, now) {
                AuthorizationStatus::Invalid | AuthorizationStatus::Expired => return OrderStatus::Invalid,
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
        if let Stage::Failed { problem, .. } = &self.stage {
            return Some(problem.clone());
        }
        let refused = self.authorizations.iter().find_map(|authorization| {
            let problem = authorization.problem()?;
            let detail = format!("{}: {}", authorization.identifier(), problem.detail);
            Some(Problem {
                detail,
                ..problem.clone()
            })
        });
        Some(refused.unwrap_or_else(|| match self.stage {
            Stage::Processing { .. } => Problem::new(
                ProblemType::ServerInternal,
                "the CA did not issue the certificate before the order expired",
            ),
            Stage::Open | Stage::Issued { .. } | Stage::Failed { .. } => {
                Problem::malformed("the order expired before it was finalized")
            }
        }))
    }

    /// The certificate, once it is issued.
    pub fn certificate(&self) -> Option<&IssuedCertificate> {
        match &self.stage {
            Stage::Issued { certificate, .. } => Some(certificate),
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } => None,
        }
    }

    /// What has become of the certificate's revocation, if one was asked for.
    pub fn revocation(&self) -> Option<&Revocation> {
        match &self.stage {
            Stage::Issued { revocation, .. } => revocation.as_ref(),
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } => None,
        }
    }

    /// Where the order stands in the line of the orders for the same names at the CA: by when it was finalized. An
    /// order is in line from finalization until it ends.
    pub fn in_line_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Processing { finalized, .. } => Some(finalized),
            Stage::Open | Stage::Issued { .. } | Stage::Failed { .. } => None,
        }
    }

    /// When the record is of no use to anybody any more, and may be deleted.
    pub fn delete_after(&self) -> Timestamp {
        match &self.stage {
            Stage::Open | Stage::Processing { .. } => after(self.expires, KEPT_AFTER_FAILURE),
            Stage::Failed { failed, .. } => after(*failed, KEPT_AFTER_FAILURE),
            Stage::Issued { certificate, .. } => after(certificate.not_after(), KEPT_AFTER_CERTIFICATE),
        }
    }

    /// The client says that a challenge is met (RFC 8555 §7.5.1).
    ///
    /// # Errors
    ///
    /// `malformed` if there is no such challenge, or it can not lead anywhere any more.
    pub fn accept_challenge(mut self, id: ChallengeId, now: Timestamp) -> Result<Accepted, Problem> {
        let expires = self.expires;
        let authorization = self
            .authorization_mut(id.authorization)
            .ok_or_else(Problem::not_found)?;
        let status = authorization.status(expires, now);
        let challenge = find_mut(authorization, id.kind).ok_or_else(Problem::not_found)?;
        match (&challenge.state, status) {
            (
                ChallengeState::Valid(_) | ChallengeState::Processing { .. },
                AuthorizationStatus::Valid | AuthorizationStatus::Pending,
            ) => Ok(Accepted::Unchanged(self)),
            (ChallengeState::Pending, AuthorizationStatus::Pending) => {
                challenge.state = ChallengeState::Processing {
                    failed_attempts: 0,
                    problem: None,
                };
                Ok(Accepted::Started(self, Work::Validate(id)))
            }
            (_, status) => Err(Problem::malformed(format!(
                "the authorization is {status}; make a new order"
            ))),
        }
    }

    /// How many attempts at the challenge have failed, if it is being validated: what [`Self::settle_validation`]
    /// wants to hear again.
    pub fn attempt(&self, id: ChallengeId, now: Timestamp) -> Option<u32> {
        if self.expires <= now || !matches!(self.stage, Stage::Open) {
            return None;
        }
        match self.challenge(id)?.state {
            ChallengeState::Processing { failed_attempts, .. } => Some(failed_attempts),
            ChallengeState::Pending | ChallengeState::Valid(_) | ChallengeState::Invalid(_) => None,
        }
    }

    /// Records what an attempt at a challenge found out, if the challenge is still the one that the attempt left
    /// behind. After `max_attempts` a passing reason counts as final.
    pub fn settle_validation(
        mut self,
        id: ChallengeId,
        attempt: u32,
        verdict: Verdict,
        max_attempts: u32,
        now: Timestamp,
    ) -> Settled {
        if self.attempt(id, now) != Some(attempt) {
            return Settled::Stale;
        }
        let authorization = self.authorization_mut(id.authorization);
        let Some(challenge) = authorization.and_then(|a| find_mut(a, id.kind)) else {
            return Settled::Stale;
        };
        let failed_attempts = attempt.saturating_add(1);
        match verdict {
            Verdict::Proved => challenge.state = ChallengeState::Valid(now),
            Verdict::TryAgain(problem) if failed_attempts < max_attempts => {
                challenge.state = ChallengeState::Processing {
                    failed_attempts,
                    problem: Some(problem),
                };
                return Settled::Repeat(self);
            }
            Verdict::TryAgain(problem) | Verdict::Refused(problem) => {
                challenge.state = ChallengeState::Invalid(problem);
            }
        }
        Settled::Finished(self)
    }

    /// The client hands in its CSR (RFC 8555 §7.4). The order stays alive for `deadline` from now on, so that the CA
    /// has that long to issue.
    ///
    /// # Errors
    ///
    /// `orderNotReady` unless the order is ready.
    pub fn finalize(
        self,
        csr: MatchedCsr,
        now: Timestamp,
        deadline: Duration,
    ) -> Result<(Self, Work), Problem> {
        self.require_ready(now)?;
        if csr.order() != self.id {
            return Err(Problem::internal());
        }
        let work = Work::Issue(self.id);
        let next = Self {
            expires: after(now, deadline).max(self.expires),
            stage: Stage::Processing {
                csr: csr.into_der(),
                finalized: now,
                upstream: None,
            },
            ..self
        };
        Ok((next, work))
    }

    /// # Errors
    ///
    /// RFC 8555 §7.4: "A request to finalize an order will result in error if the order is not in the "ready" state.
    /// In such cases, the server MUST return a 403 (Forbidden) error with a problem document of type "orderNotReady"."
    pub fn require_ready(&self, now: Timestamp) -> Result<(), Problem> {
        match self.status(now) {
            OrderStatus::Ready => Ok(()),
            status @ (OrderStatus::Pending
            | OrderStatus::Processing
            | OrderStatus::Valid
            | OrderStatus::Invalid) => Err(Problem::new(
                ProblemType::OrderNotReady,
                format!("the order is {status}, not ready"),
            )),
        }
    }

    /// The order as proof that it may go to the CA, or `None` if it may not: not finalized, ended, or a name without a
    /// valid authorization.
    pub fn validated(&self, now: Timestamp) -> Option<ValidatedOrder> {
        let Stage::Processing { csr, upstream, .. } = &self.stage else {
            return None;
        };
        let valid = |a: &Authorization| a.status(self.expires, now) == AuthorizationStatus::Valid;
        if self.authorizations.is_empty() || !self.authorizations.iter().all(valid) {
            return None;
        }
        Some(ValidatedOrder {
            id: self.id,
            identifiers: self.identifiers().cloned().collect(),
            csr: csr.clone(),
            upstream: upstream.clone(),
            expires: self.expires,
        })
    }

    /// An order was opened at the CA under this URL. Only the first URL counts.
    pub fn opened_upstream(self, url: String) -> Self {
        let stage = match self.stage {
            Stage::Processing {
                csr,
                finalized,
                upstream: None,
            } => Stage::Processing {
                csr,
                finalized,
                upstream: Some(url),
            },
            stage
            @ (Stage::Open | Stage::Processing { .. } | Stage::Issued { .. } | Stage::Failed { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// The CA has confirmed that its order under this URL is dead and has issued nothing: another one may be opened.
    pub fn upstream_is_gone(self, url: &str) -> Self {
        let stage = match self.stage {
            Stage::Processing {
                csr,
                finalized,
                upstream: Some(known),
            } if known == url => Stage::Processing {
                csr,
                finalized,
                upstream: None,
            },
            stage
            @ (Stage::Open | Stage::Processing { .. } | Stage::Issued { .. } | Stage::Failed { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// The certificate has come, and has been checked against this order's CSR and names.
    pub fn issued(self, certificate: IssuedCertificate, now: Timestamp) -> Self {
        let stage = match self.stage {
            Stage::Processing { upstream, .. } if certificate.order() == self.id => Stage::Issued {
                certificate,
                issued: now,
                upstream,
                revocation: None,
            },
            stage
            @ (Stage::Open | Stage::Processing { .. } | Stage::Issued { .. } | Stage::Failed { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// Issuance has failed for good. An order that has ended already stays as it is.
    pub fn failed(self, problem: Problem, now: Timestamp) -> Self {
        let stage = match self.stage {
            Stage::Processing { .. } => Stage::Failed { problem, failed: now },
            stage @ (Stage::Open | Stage::Issued { .. } | Stage::Failed { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// Somebody who may do so asks for the certificate's revocation (RFC 8555 §7.6). A refusal by the CA does not
    /// stand in the way of another try.
    ///
    /// # Errors
    ///
    /// `alreadyRevoked` if the CA has confirmed a revocation; `malformed` if there is no certificate.
    pub fn request_revocation(
        self,
        reason: Option<RevocationReason>,
        now: Timestamp,
    ) -> Result<(Self, Work), Problem> {
        let Stage::Issued {
            certificate,
            issued,
            upstream,
            revocation,
        } = self.stage
        else {
            return Err(Problem::not_found());
        };
        if let Some(Revocation::Confirmed { .. }) = revocation {
            return Err(Problem::new(
                ProblemType::AlreadyRevoked,
                "the certificate is revoked already",
            ));
        }
        let work = Work::Revoke(self.id);
        let requested = match revocation {
            Some(requested @ Revocation::Requested { .. }) => requested,
            Some(Revocation::Confirmed { .. } | Revocation::Refused { .. }) | None => {
                Revocation::Requested { reason, at: now }
            }
        };
        let stage = Stage::Issued {
            certificate,
            issued,
            upstream,
            revocation: Some(requested),
        };
        Ok((Self { stage, ..self }, work))
    }

    /// The CA has answered a requested revocation.
    pub fn settle_revocation(self, answer: Result<(), Problem>, now: Timestamp) -> Self {
        let stage = match self.stage {
            Stage::Issued {
                certificate,
                issued,
                upstream,
                revocation: Some(Revocation::Requested { reason, .. }),
            } => Stage::Issued {
                certificate,
                issued,
                upstream,
                revocation: Some(match answer {
                    Ok(()) => Revocation::Confirmed { reason, at: now },
                    Err(problem) => Revocation::Refused { problem, at: now },
                }),
            },
            stage
            @ (Stage::Open | Stage::Processing { .. } | Stage::Issued { .. } | Stage::Failed { .. }) => stage,
        };
        Self { stage, ..self }
    }

    fn authorization_mut(&mut self, id: AuthorizationId) -> Option<&mut Authorization> {
        if id.order != self.id {
            return None;
        }
        self.authorizations.get_mut(usize::from(id.index))
    }
}

fn find_mut(authorization: &mut Authorization, kind: ChallengeType) -> Option<&mut Challenge> {
    authorization.challenges.iter_mut().find(|c| c.kind == kind)
}

/// `time + span`, or the end of time.
pub(crate) fn after(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}
