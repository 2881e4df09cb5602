//! The one way to the CA: an order whose names are all proved, and a CSR for exactly these names.

use jiff::Timestamp;

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::certificate::{Der, Ordered};
use crate::acme::csr::Csr;
use crate::acme::id::OrderId;
use crate::acme::identifier::Identifier;
use crate::acme::order::{Order, Stage, Wishes};
use crate::acme::upstream::UpstreamOrder;

/// Proof that every name of the order has a valid authorization of the order's account, and that a matching CSR is
/// stored. The only thing that the upstream takes; only [`Order::validated`] makes one.
///
/// ```compile_fail,E0451
/// use acme_proxy::acme::order::{Order, ValidatedOrder};
///
/// fn a_second_road(order: &Order, honest: ValidatedOrder) -> ValidatedOrder {
///     ValidatedOrder { id: order.id(), ..honest }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct ValidatedOrder {
    id: OrderId,
    identifiers: Vec<Identifier>,
    csr: Der,
    upstream: Option<UpstreamOrder>,
    expires: Timestamp,
    wishes: Wishes,
    validated: Timestamp,
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

    /// What a certificate from the CA is held against.
    pub fn ordered(&self) -> Ordered<'_> {
        Ordered {
            order: self.id,
            csr: &self.csr,
            identifiers: &self.identifiers,
        }
    }

    /// The order at the CA, if one has been opened there.
    pub fn upstream(&self) -> Option<&UpstreamOrder> {
        self.upstream.as_ref()
    }

    /// When waiting for the CA ends.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// What the client asks for beyond the names.
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// When the proof was made.
    pub fn validated(&self) -> Timestamp {
        self.validated
    }
}

impl Order {
    /// The order as proof that it may go to the CA, or `None` if it may not: not finalized, ended, or a name without a
    /// valid authorization that was made for this order. The names of the CSR are read once more, because the record may
    /// have passed through other hands since finalization (SECURITY C913).
    pub fn validated(&self, now: Timestamp) -> Option<ValidatedOrder> {
        let Stage::Processing { csr, upstream, .. } = &self.stage else {
            return None;
        };
        let valid = |a: &Authorization| {
            a.order.is_none_or(|order| order == self.id)
                && a.status(self.expires, now) == AuthorizationStatus::Valid
        };
        if self.authorizations.is_empty() || !self.authorizations.iter().all(valid) {
            return None;
        }
        let identifiers: Vec<Identifier> = self.identifiers().cloned().collect();
        if Csr::names_in(csr)? != identifiers.iter().cloned().collect() {
            return None;
        }
        Some(ValidatedOrder {
            id: self.id,
            identifiers,
            csr: csr.clone(),
            upstream: upstream.clone(),
            expires: self.expires,
            wishes: self.wishes.clone(),
            validated: now,
        })
    }
}
