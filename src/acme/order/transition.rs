//! Every transition of an order (RFC 8555 §7.1.6). Each consumes the order and gives the next one; one that does not
//! apply to the order's stage leaves it as it is, or says why it is refused.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::certificate::IssuedCertificate;
use crate::acme::challenge::{Challenge, ChallengeState, ChallengeType};
use crate::acme::csr::MatchedCsr;
use crate::acme::id::{AuthorizationId, ChallengeId};
use crate::acme::job::Work;
use crate::acme::order::history::StepKind;
use crate::acme::order::{Accepted, Order, OrderStatus, Settled, Stage, Verdict, after};
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::renewal::Advice;
use crate::acme::revocation::{Revocation, RevocationReason, already_revoked};
use crate::acme::upstream::{UpstreamName, UpstreamOrder};

impl Order {
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
                let about = self.named(id);
                self.note(StepKind::Answered, &about, now);
                Ok(Accepted::Started(self, Work::Validate(id)))
            }
            (_, status) => Err(Problem::malformed(format!(
                "the authorization is {status}; make a new order"
            ))),
        }
    }

    /// The owner gives up an authorization (RFC 8555 §7.5.2), and with it the order, unless its certificate is issued.
    /// One that is finalized ends as well: what has not been sent to the CA yet is not sent any more, and what the CA
    /// issues nevertheless is recorded, but not handed out for this order ([`Order::ended`]). An authorization that has
    /// ended already stays as it is.
    ///
    /// # Errors
    ///
    /// Not found.
    pub fn deactivate_authorization(mut self, id: AuthorizationId, now: Timestamp) -> Result<Self, Problem> {
        let expires = self.expires;
        let authorization = self.authorization_mut(id).ok_or_else(Problem::not_found)?;
        match authorization.status(expires, now) {
            AuthorizationStatus::Pending | AuthorizationStatus::Valid => {
                authorization.deactivated = Some(now);
                let about = authorization.identifier.to_string();
                self.note(StepKind::Deactivated, &about, now);
            }
            AuthorizationStatus::Invalid
            | AuthorizationStatus::Deactivated
            | AuthorizationStatus::Expired => {}
        }
        Ok(self)
    }

    /// How many attempts at the challenge have failed, if it is being validated: what [`Self::settle_validation`]
    /// wants to hear again. None once the authorization is settled, be it by another challenge: RFC 8555 §7.1.6 leads
    /// from valid neither back nor to invalid.
    pub fn attempt(&self, id: ChallengeId, now: Timestamp) -> Option<u32> {
        let authorization = self.authorization(id.authorization)?;
        let pending = authorization.status(self.expires, now) == AuthorizationStatus::Pending;
        if !pending || !matches!(self.stage, Stage::Open) {
            return None;
        }
        match authorization.challenge(id.kind)?.state {
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
        let name = self.named(id);
        match &verdict {
            Verdict::Proved => self.note(StepKind::Validated, &name, now),
            Verdict::TryAgain(problem) | Verdict::Refused(problem) => {
                // Most say so themselves, and a step has not much room.
                let about = match problem.detail.starts_with(&name) {
                    true => problem.to_string(),
                    false => format!("{name}: {problem}"),
                };
                self.note(StepKind::AttemptFailed, &about, now);
            }
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

    /// The client hands in its CSR (RFC 8555 §7.4). The order stays alive for `deadline` from now on, whatever its time
    /// was before: the CA has that long to issue.
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
            expires: after(now, deadline),
            stage: Stage::Processing {
                csr: csr.into_der(),
                finalized: now,
                upstream: None,
            },
            finalized: Some(now),
            ..self
        };
        Ok((next.noting(StepKind::Finalized, "", now), work))
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

    /// The order is placed at this upstream, at the end of the line there. One that has been opened at another stays
    /// there, for there it may be paid for; so does one that has ended.
    pub fn placed_at(self, upstream: UpstreamName, now: Timestamp) -> Self {
        match self.stage {
            Stage::Open => Self { upstream, ..self },
            Stage::Processing {
                csr, upstream: None, ..
            } => Self {
                upstream,
                stage: Stage::Processing {
                    csr,
                    finalized: now,
                    upstream: None,
                },
                ..self
            },
            Stage::Processing {
                upstream: Some(_), ..
            }
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. } => self,
        }
    }

    /// An order was opened at the CA. Only the first one counts.
    pub fn opened_upstream(self, opened: UpstreamOrder) -> Self {
        let stage = match self.stage {
            Stage::Processing {
                csr,
                finalized,
                upstream: None,
            } => Stage::Processing {
                csr,
                finalized,
                upstream: Some(opened),
            },
            stage @ (Stage::Open
            | Stage::Processing { .. }
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. }) => stage,
        };
        Self {
            stage,
            unseen_since: None,
            ..self
        }
    }

    /// The CA has confirmed that its order under this URL is dead and has issued nothing: another one may be opened.
    pub fn upstream_is_gone(self, url: &str) -> Self {
        let stage = match self.stage {
            Stage::Processing {
                csr,
                finalized,
                upstream: Some(known),
            } if known.url == url => Stage::Processing {
                csr,
                finalized,
                upstream: None,
            },
            stage @ (Stage::Open
            | Stage::Processing { .. }
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. }) => stage,
        };
        Self {
            stage,
            left_line: false,
            ..self
        }
    }

    /// The certificate has come, and has been checked against this order's CSR and names. An order that has ended
    /// meanwhile stays as it is: its client may have read that it is invalid.
    pub fn issued(mut self, certificate: IssuedCertificate, now: Timestamp) -> Self {
        let awaited = certificate.order() == self.id && self.status(now) == OrderStatus::Processing;
        if awaited {
            self.note(StepKind::Issued, "", now);
        }
        let stage = match self.stage {
            Stage::Processing { upstream, .. } if awaited => Stage::Issued {
                certificate,
                issued: now,
                upstream,
                revocation: None,
                fetched: false,
            },
            stage @ (Stage::Open
            | Stage::Processing { .. }
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// Its client has come for the certificate: it is no other order's any more.
    pub fn fetched(mut self) -> Self {
        if let Stage::Issued { fetched, .. } = &mut self.stage {
            *fetched = true;
        }
        self
    }

    /// Issuance has failed for good. An order that has ended already stays as it is.
    pub fn failed(mut self, problem: Problem, now: Timestamp) -> Self {
        self.note_failure(&problem, now);
        let stage = match self.stage {
            Stage::Processing { .. } => Stage::Failed { problem, failed: now },
            stage @ (Stage::Open
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. }) => stage,
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
        mut self,
        reason: Option<RevocationReason>,
        now: Timestamp,
    ) -> Result<(Self, Work), Problem> {
        let work = Work::Revoke(self.id);
        let revocation = self.revocation_mut().ok_or_else(Problem::not_found)?;
        match revocation {
            Some(Revocation::Confirmed { .. }) => return Err(already_revoked()),
            Some(Revocation::Requested { .. }) => {}
            Some(Revocation::Refused { .. }) | None => {
                *revocation = Some(Revocation::Requested { reason, at: now });
                self.note(StepKind::RevocationRequested, "", now);
            }
        }
        Ok((self, work))
    }

    /// The CA has answered a requested revocation.
    pub fn settle_revocation(mut self, answer: Result<(), Problem>, now: Timestamp) -> Self {
        if let Some(revocation) = self.revocation_mut()
            && let Some(Revocation::Requested { reason, .. }) = *revocation
        {
            let (kind, why) = match &answer {
                Ok(()) => (StepKind::Revoked, String::new()),
                Err(problem) => (StepKind::RevocationRefused, problem.to_string()),
            };
            *revocation = Some(match answer {
                Ok(()) => Revocation::Confirmed { reason, at: now },
                Err(problem) => Revocation::Refused { problem, at: now },
            });
            self.note(kind, &why, now);
        }
        self
    }

    /// The order is invalid, and stands in the way of another one that replaces the same certificate no more. One that
    /// is not invalid stays as it is.
    pub fn gives_up_replacing(self, now: Timestamp) -> Self {
        let gave_up_replacing = self.gave_up_replacing || self.status(now) == OrderStatus::Invalid;
        Self {
            gave_up_replacing,
            ..self
        }
    }

    /// The CA has been asked about the certificate's renewal.
    pub fn advised(self, advice: Advice) -> Self {
        Self {
            advice: Some(advice),
            ..self
        }
    }

    /// Notes the end of an order that is on its way to the CA.
    pub(crate) fn note_failure(&mut self, problem: &Problem, now: Timestamp) {
        if matches!(self.stage, Stage::Processing { .. }) {
            self.note(StepKind::Failed, &problem.to_string(), now);
        }
    }

    /// The challenge, for people.
    fn named(&self, id: ChallengeId) -> String {
        let authorization = self.authorization(id.authorization);
        let name = authorization.map_or_else(String::new, |a| a.identifier.to_string());
        format!("{} of {name}", id.kind)
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
