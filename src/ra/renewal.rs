//! When to renew, and what replaces what (RFC 9773).

use std::collections::BTreeMap;

use crate::acme::account::Account;
use crate::acme::offers::Offers;
use crate::acme::order::{Order, OrderStatus};
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::renewal::{CertificateId, RenewalInfo};
use crate::acme::upstream::UpstreamName;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned, offers};

impl RegistrationAuthority {
    /// What the CA offers.
    pub(crate) async fn offers(&self, upstream: UpstreamName) -> Result<Offers, Refusal> {
        Ok(offers::load(&*self.store, upstream).await?)
    }

    /// The profiles that clients of the provisioner may ask for, with their descriptions: of its own upstream, or of all,
    /// among which the names of the order choose.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn profiles(&self, provisioner: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let provisioner = self.policy.provisioner(provisioner);
        let upstreams = match provisioner.and_then(|provisioner| provisioner.upstream) {
            Some(upstream) => vec![upstream],
            None => {
                let others = self.policy.routes().upstreams.iter().map(|(name, _)| *name);
                std::iter::once(UpstreamName::DEFAULT).chain(others).collect()
            }
        };
        let mut profiles = BTreeMap::new();
        for upstream in upstreams.into_iter().rev() {
            let rules = self.policy.wishes(upstream);
            profiles.extend(rules.profiles(self.offers(upstream).await?));
        }
        Ok(profiles)
    }

    /// When to renew a certificate that was issued under the provisioner. Whoever can name it may know.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn renewal(&self, provisioner: &str, id: &CertificateId) -> Result<RenewalInfo, Refusal> {
        let unknown = || Problem::malformed("no such certificate was issued here").with_status(404);
        let order = match self.store.order_of_certificate_id(id).await? {
            Some(order) => self.store.order(order).await?,
            None => None,
        };
        let order = order.filter(|order| order.value.provisioner() == provisioner);
        let renewal = order.and_then(|order| order.value.renewal());
        Ok(renewal.ok_or_else(unknown)?)
    }

    /// RFC 9773 §5: "Servers SHOULD check that the identified certificate and the newOrder request correspond to the same
    /// ACME Account, that they share at least one identifier".
    pub(crate) async fn check_replaces(
        &self,
        account: &Account,
        order: &Order,
        replaced: &CertificateId,
    ) -> Result<(), Refusal> {
        let unknown = || Problem::malformed("the certificate in replaces was not issued here");
        let id = self.store.order_of_certificate_id(replaced).await?;
        let id = id.ok_or_else(unknown)?;
        let predecessor = self.store.order(id).await?.ok_or_else(unknown)?.value;
        if predecessor.account() != account.id() {
            let detail = "the certificate in replaces is another account's";
            return Err(Problem::unauthorized(detail).into());
        }
        let is_shared = |name| predecessor.identifiers().any(|known| known == name);
        if !order.identifiers().any(is_shared) {
            let detail = "the order has no identifier of the certificate in replaces";
            return Err(Problem::malformed(detail).into());
        }
        Ok(())
    }

    /// Stores a new order. Of two that replace the same certificate at once the store takes one.
    ///
    /// # Errors
    ///
    /// `alreadyReplaced` if the certificate that it replaces has a replacement that is not invalid.
    pub(crate) async fn create(&self, order: &Order) -> Result<(), Refusal> {
        for _ in 0..MAX_CONFLICTS {
            match (
                self.store.create_order(order, None).await,
                &order.wishes().replaces,
            ) {
                (Err(StoreError::Conflict), Some(replaced)) => self.free(replaced).await?,
                (created, _) => return Ok(created?),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Makes way for another replacement of the certificate, if the one that is there has failed.
    async fn free(&self, replaced: &CertificateId) -> Result<(), Refusal> {
        let Some(id) = self.store.replacement_of(replaced).await? else {
            return Ok(());
        };
        let Some(Versioned { value, version }) = self.store.order(id).await? else {
            return Ok(());
        };
        let now = self.clock.now();
        if value.status(now) != OrderStatus::Invalid {
            // RFC 9773 §5: "it MUST return an HTTP 409 (Conflict) with a problem document of type "alreadyReplaced"".
            let detail = "another order replaces this certificate already";
            return Err(Problem::new(ProblemType::AlreadyReplaced, detail).into());
        }
        let freed = Versioned::with(version, value.gives_up_replacing(now));
        match self.store.commit(freed, None).await {
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
