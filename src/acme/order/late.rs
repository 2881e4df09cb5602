//! The order that has ended for its client while the CA may have its CSR (UPSTREAM rule 4, SECURITY F48): what it has
//! bought is looked for, recorded, can be revoked, and serves the next order that would buy the same. So does the
//! certificate that a client has not waited for (UPSTREAM rule 8). Nothing here leads to the signer.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::certificate::{Der, IssuedCertificate, Ordered};
use crate::acme::csr::have_one_key;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::order::{Order, Stage, ValidatedOrder, after};
use crate::acme::problem::Problem;
use crate::acme::revocation::Revocation;
use crate::acme::upstream::{UpstreamName, UpstreamOrder};

/// How long a certificate that nobody has come for serves the next order. A client that comes later means a new one.
const KEPT_FOR_NEXT: Duration = Duration::from_hours(24);

/// What is to be looked for at the CA for an order that has ended. Good for looking: the CA signs nothing for it.
#[derive(Debug, Clone)]
pub struct AwaitedOrder {
    id: OrderId,
    identifiers: Vec<Identifier>,
    csr: Der,
    upstream_name: UpstreamName,
    upstream: UpstreamOrder,
    ended: Timestamp,
    until: Timestamp,
    taken: bool,
}

impl AwaitedOrder {
    /// What a certificate from the CA is held against.
    pub fn ordered(&self) -> Ordered<'_> {
        Ordered {
            order: self.id,
            csr: &self.csr,
            identifiers: &self.identifiers,
        }
    }

    /// The names that the certificate is for.
    pub fn identifiers(&self) -> &[Identifier] {
        &self.identifiers
    }

    /// The upstream that the order was placed at.
    pub fn upstream_name(&self) -> UpstreamName {
        self.upstream_name
    }

    /// The order at the CA.
    pub fn upstream(&self) -> &UpstreamOrder {
        &self.upstream
    }

    /// When the order ended for its client.
    pub fn ended(&self) -> Timestamp {
        self.ended
    }

    /// When looking ends.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// Whether the CA is known to have the CSR.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// Whether the certificate that may come is for the key of this other order, so that it need not buy one.
    pub fn is_for_the_key_of(&self, other: &ValidatedOrder) -> bool {
        have_one_key(&self.csr, other.csr())
    }
}

impl Order {
    /// The CA has been asked for its order, and shows nothing of it.
    pub fn not_seen(self, now: Timestamp) -> Self {
        let unseen_since = Some(self.unseen_since.unwrap_or(now));
        Self { unseen_since, ..self }
    }

    /// The CA has shown its order.
    pub fn seen(self) -> Self {
        Self {
            unseen_since: None,
            ..self
        }
    }

    /// Since when the CA shows nothing of its order whenever it is asked.
    pub fn unseen_since(&self) -> Option<Timestamp> {
        self.unseen_since
    }

    /// The order at the CA, while it is not known what comes of it.
    pub fn under_way(&self) -> Option<&UpstreamOrder> {
        match &self.stage {
            Stage::Processing { upstream, .. } => upstream.as_ref(),
            Stage::Awaited { upstream, .. } => Some(upstream),
            Stage::Open | Stage::Issued { .. } | Stage::Failed { .. } | Stage::Late { .. } => None,
        }
    }

    /// Nobody has to stand in line behind this order any more: no other one is going to be opened by its account.
    pub fn leaves_line(self) -> Self {
        Self {
            left_line: true,
            ..self
        }
    }

    /// Whether it stands in no line, although nobody knows yet what comes of it.
    pub fn has_left_line(&self) -> bool {
        self.left_line
    }

    /// The order ends for its client, by its time or by its owner's will. If an order has been opened for it at the CA,
    /// what that one issues is waited for as long as `patience`. One that has ended already stays as it is.
    pub fn ended(mut self, problem: Problem, now: Timestamp, patience: Duration) -> Self {
        self.note_failure(&problem, now);
        let stage = match self.stage {
            Stage::Processing {
                csr,
                finalized,
                upstream: Some(upstream),
            } => Stage::Awaited {
                problem,
                ended: now,
                until: after(now, patience),
                csr,
                finalized,
                upstream,
                taken: false,
            },
            Stage::Processing { upstream: None, .. } => Stage::Failed { problem, failed: now },
            stage @ (Stage::Open
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. }
            | Stage::Late { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// What is to be looked for at the CA, if the order has ended and something may still come.
    pub fn outstanding(&self) -> Option<AwaitedOrder> {
        let Stage::Awaited {
            ended,
            until,
            csr,
            upstream,
            taken,
            ..
        } = &self.stage
        else {
            return None;
        };
        Some(AwaitedOrder {
            id: self.id,
            identifiers: self.identifiers().cloned().collect(),
            csr: csr.clone(),
            upstream_name: self.upstream,
            upstream: upstream.clone(),
            ended: *ended,
            until: *until,
            taken: *taken,
        })
    }

    /// The CA has the CSR of an order that is waited for: it hands its order to nobody else any more, and nobody has to
    /// stand in line behind it.
    pub fn taken_by_ca(mut self) -> Self {
        if let Stage::Awaited { taken, .. } = &mut self.stage {
            *taken = true;
        }
        self
    }

    /// Nothing comes any more for an order that was waited for.
    pub fn abandoned(self) -> Self {
        let stage = match self.stage {
            Stage::Awaited { problem, ended, .. } => Stage::Failed {
                problem,
                failed: ended,
            },
            stage @ (Stage::Open
            | Stage::Processing { .. }
            | Stage::Issued { .. }
            | Stage::Failed { .. }
            | Stage::Late { .. }) => stage,
        };
        Self { stage, ..self }
    }

    /// The certificate has come after the order's end, and has been checked against its CSR and names. The order stays
    /// invalid, for its client may have read that it is.
    pub fn came_late(self, certificate: IssuedCertificate) -> Self {
        let own = certificate.order() == self.id;
        let stage = match self.stage {
            Stage::Awaited {
                problem,
                ended,
                upstream,
                ..
            } if own => Stage::Late {
                problem,
                ended,
                certificate,
                upstream,
                revocation: None,
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

    /// The certificate that was bought for this order, also one that its client does not get because it came too late.
    pub fn bought(&self) -> Option<&IssuedCertificate> {
        match &self.stage {
            Stage::Issued { certificate, .. } | Stage::Late { certificate, .. } => Some(certificate),
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } | Stage::Awaited { .. } => None,
        }
    }

    /// The certificate that came too late, or that no client has come for, as long as another order may get it: nobody
    /// has asked for its revocation, and a third of its life is left. A client would soon renew a shorter one. One that came
    /// in time is old after a day.
    pub fn to_hand_over(&self, now: Timestamp) -> Option<(&IssuedCertificate, &UpstreamOrder)> {
        let (certificate, upstream) = match &self.stage {
            Stage::Late {
                certificate,
                upstream,
                revocation: None,
                ..
            } => (certificate, upstream),
            Stage::Issued {
                certificate,
                issued,
                upstream: Some(upstream),
                revocation: None,
                fetched: false,
            } if now <= after(*issued, KEPT_FOR_NEXT) => (certificate, upstream),
            Stage::Issued { .. }
            | Stage::Late { .. }
            | Stage::Open
            | Stage::Processing { .. }
            | Stage::Failed { .. }
            | Stage::Awaited { .. } => return None,
        };
        let (start, end) = (
            certificate.not_before().as_second(),
            certificate.not_after().as_second(),
        );
        let left = end - now.as_second();
        (left >= (end - start) / 3).then_some((certificate, upstream))
    }

    /// Whether the certificate that this order has asked for would do for the other one, but for names and key.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let asked = |order: &Self| {
            let wishes = order.wishes();
            (
                wishes.not_before,
                wishes.not_after,
                wishes.at_most_days,
                wishes.profile.clone(),
            )
        };
        asked(self) == asked(other)
    }

    /// Whether another order for the same names may come to its certificate by this one, at once or later.
    pub fn may_hand_over(&self) -> bool {
        match &self.stage {
            Stage::Awaited { .. } | Stage::Late { revocation: None, .. } => true,
            Stage::Issued {
                revocation, fetched, ..
            } => revocation.is_none() && !fetched && self.account != AccountId::DAEMON,
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } | Stage::Late { .. } => false,
        }
    }

    /// The account at the CA that has bought the certificate, as its URL.
    pub fn bought_by(&self) -> Option<&str> {
        let account = self.bought().and(self.order_at_ca())?.account.as_str();
        (!account.is_empty()).then_some(account)
    }

    /// The revocation of the certificate that was bought, to be changed.
    pub(crate) fn revocation_mut(&mut self) -> Option<&mut Option<Revocation>> {
        match &mut self.stage {
            Stage::Issued { revocation, .. } | Stage::Late { revocation, .. } => Some(revocation),
            Stage::Open | Stage::Processing { .. } | Stage::Failed { .. } | Stage::Awaited { .. } => None,
        }
    }
}
