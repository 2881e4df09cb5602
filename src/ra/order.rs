//! What can be done with orders (RFC 8555 §7.4).

use std::net::IpAddr;

use crate::acme::account::Account;
use crate::acme::csr::Csr;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::job::Job;
use crate::acme::order::{Order, OrderStatus, Wishes};
use crate::acme::problem::{NamedIdentifier, Problem, ProblemType};
use crate::jose::jwk::Jwk;
use crate::policy::routes::not_configured;
use crate::ra::policy::{Admitted, quotas_of};
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned};

/// How many orders one page of an account's list has (RFC 8555 §7.1.2.1).
const PAGE: usize = 100;

/// A request for an order (RFC 8555 §7.4).
#[derive(Debug, Default)]
pub struct NewOrder {
    /// What the certificate is to be for.
    pub identifiers: Vec<NamedIdentifier>,
    /// What the client asks for beyond that.
    pub wishes: Wishes,
    /// The request, as the log names it.
    pub request_id: Option<String>,
    /// The address that the request came from, if it is known.
    pub address: Option<IpAddr>,
}

/// A page of an account's orders.
#[derive(Debug)]
pub struct OrderPage {
    /// The orders.
    pub orders: Vec<OrderId>,
    /// Where the next page starts, if there is one.
    pub next: Option<OrderId>,
}

impl RegistrationAuthority {
    /// Opens an order.
    ///
    /// # Errors
    ///
    /// Why the policy does not admit an identifier; `unauthorized` if it does not admit the client's address, or the
    /// account's external account key has been revoked; `malformed` for a validity that can not be had, `invalidProfile` for a profile; `alreadyReplaced`,
    /// `unauthorized` or `malformed` for a certificate that it can not replace; `rateLimited` if the account has opened
    /// too many orders, its validations of a name keep failing, or a name has had all orders that it may have.
    pub async fn new_order(&self, account: &Account, request: NewOrder) -> Result<Order, Refusal> {
        let NewOrder {
            identifiers,
            wishes,
            request_id,
            address,
        } = request;
        let applicant = self.applicant(account).await?;
        let levels = self.levels_of(&applicant);
        levels.client(address)?;
        let Admitted {
            identifiers: admitted,
            upstream,
        } = self.admitted(&applicant, &identifiers)?;
        let now = self.clock.now();
        let rules = self.policy.wishes(upstream);
        rules.validity(wishes.not_before, wishes.not_after, now)?;
        let names = || admitted.iter().map(|(identifier, _)| identifier);
        levels.validity(names(), wishes.not_before, wishes.not_after, now)?;
        rules.profile(wishes.profile.as_deref(), self.offers(upstream).await?)?;
        self.check_quotas(&levels, names()).await?;
        let order = Order::new(
            account.id(),
            account.provisioner().to_owned(),
            admitted,
            now,
            self.policy.order_lifetime(),
        )
        .placed_at(upstream, now)
        .requested_by(request_id)
        .wishing(wishes);
        if let Some(replaced) = &order.wishes().replaces {
            self.check_replaces(account, &order, replaced).await?;
        }
        self.limits.new_order(&*self.store, &order, now).await?;
        self.create(&order).await?;
        self.limits.opened(&order);
        Ok(order)
    }

    /// The account's order with this id.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn order(&self, account: &Account, id: OrderId) -> Result<Order, Refusal> {
        Ok(self.own_order(account, id).await?.value)
    }

    /// A page of the account's orders that are not invalid (RFC 8555 §7.1.2.1).
    ///
    /// # Errors
    ///
    /// Only the store's.
    pub async fn orders(&self, account: &Account, after: Option<OrderId>) -> Result<OrderPage, Refusal> {
        let ids = self.store.orders_of(account.id(), after, PAGE).await?;
        let next = (ids.len() == PAGE).then(|| ids.last().copied()).flatten();
        let now = self.clock.now();
        let mut orders = Vec::new();
        for id in ids {
            if let Some(order) = self.store.order(id).await?
                && order.value.status(now) != OrderStatus::Invalid
            {
                orders.push(id);
            }
        }
        Ok(OrderPage { orders, next })
    }

    /// Takes the CSR of a ready order, and leaves the rest to the worker. A refused CSR changes nothing.
    ///
    /// # Errors
    ///
    /// `orderNotReady`, `badCSR`, and what the policy says against the order by now, as for [`Self::new_order`]. For
    /// who is finalized nothing is asked again: the order is the worker's from then on.
    pub async fn finalize(
        &self,
        account: &Account,
        id: OrderId,
        csr: Vec<u8>,
        address: Option<IpAddr>,
    ) -> Result<Order, Refusal> {
        // An order that is not ready says so before the CSR is looked at.
        self.own_order(account, id)
            .await?
            .value
            .require_ready(self.clock.now())?;
        let csr = Csr::parse(csr)?;
        if let Some(shared) = self.shared_with_others(csr.key()).await? {
            return Err(Problem::new(ProblemType::BadCsr, format!("the csr's key {shared}")).into());
        }
        let holder = self.account_with(csr.key()).await?;
        for _ in 0..MAX_CONFLICTS {
            let Versioned {
                value: order,
                version,
            } = self.own_order(account, id).await?;
            order.require_ready(self.clock.now())?;
            let matched = csr.matching(&order, holder)?;
            let applicant = self.applicant(account).await?;
            let levels = self.levels_of(&applicant);
            levels.client(address)?;
            self.still_admits(&applicant, &order)?;
            let now = self.clock.now();
            let (from, to) = (order.wishes().not_before, order.wishes().not_after);
            let days = levels.validity(order.identifiers(), from, to, now)?;
            self.check_quotas(&levels, order.identifiers()).await?;
            // Of others that are finalized at the same time, too, the store lets no more pass.
            let quotas = quotas_of(&levels, &order, now);
            let upstream = order.upstream_name();
            if !self.policy.routes().has(upstream) {
                return Err(not_configured(upstream).into());
            }
            let order = order.lasting_at_most(days);
            let (order, work) = order.finalize(matched, now, self.policy.issuance_deadline())?;
            let written = Versioned::with(version, order.clone());
            let job = Some(Job::now(work, account.id(), upstream, now));
            match self.store.commit_within(written, job, &quotas).await {
                Ok(()) => {
                    self.limits.closed(account.id(), id);
                    return Ok(order);
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// The account that signs with this key, under whichever provisioner.
    async fn account_with(&self, key: &Jwk) -> Result<Option<AccountId>, Refusal> {
        let thumbprint = key.thumbprint();
        for provisioner in self.policy.provisioners() {
            let holder = self.store.account_by_key(&provisioner.name, &thumbprint).await?;
            if let Some(holder) = holder {
                return Ok(Some(holder.value.id()));
            }
        }
        Ok(None)
    }
}
