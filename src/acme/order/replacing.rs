//! What the order knows of its certificate's renewal (RFC 9773), and of the certificate that it replaces itself.

use jiff::Timestamp;

use crate::acme::authorization::Authorization;
use crate::acme::order::{Order, Stage};
use crate::acme::renewal::{self, Advice, CertificateId, RenewalInfo};
use crate::acme::revocation::Revocation;

impl Order {
    /// The certificate that this order replaces, so that no other order may, unless it is known to have failed.
    pub fn holds_replaced(&self) -> Option<&CertificateId> {
        let refused = |a: &Authorization| a.problem().is_some() || a.is_deactivated();
        let failed = match &self.stage {
            Stage::Failed { .. } | Stage::Awaited { .. } | Stage::Late { .. } => true,
            Stage::Open | Stage::Processing { .. } => self.authorizations.iter().any(refused),
            Stage::Issued { .. } => false,
        };
        let replaced = self.wishes.replaces.as_ref();
        replaced.filter(|_| !failed && !self.gave_up_replacing)
    }

    /// What the CA has said about the certificate's renewal.
    pub fn advice(&self) -> Option<&Advice> {
        self.advice.as_ref()
    }

    /// When to renew the certificate (RFC 9773 §4.2), if there is one.
    pub fn renewal(&self) -> Option<RenewalInfo> {
        let certificate = self.certificate()?;
        Some(renewal::window(
            certificate,
            self.revocation(),
            self.advice.as_ref(),
        ))
    }

    /// When the CA is to be asked about the renewal of the certificate: as long as its holder may want to know.
    pub fn renewal_due(&self) -> Option<Timestamp> {
        let Stage::Issued {
            certificate,
            issued,
            revocation,
            ..
        } = &self.stage
        else {
            return None;
        };
        let due = self.advice.as_ref().map_or(*issued, |advice| advice.ask_again);
        let is_revoked = matches!(revocation, Some(Revocation::Confirmed { .. }));
        let is_of_use = !is_revoked && due < certificate.not_after();
        is_of_use.then_some(due)
    }
}
