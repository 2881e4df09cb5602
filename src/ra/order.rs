//! What can be done with orders (RFC 8555 §7.4).

use crate::acme::account::Account;
use crate::acme::csr::Csr;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::job::Job;
use crate::acme::order::{Order, OrderStatus, Wishes};
use crate::acme::problem::{NamedIdentifier, Problem, ProblemType};
use crate::jose::jwk::Jwk;
use crate::policy::routes::not_configured;
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
    /// Why the policy does not admit an identifier; `unauthorized` if the account's external account key has been
    /// revoked; `malformed` for a validity that can not be had, `invalidProfile` for a profile; `alreadyReplaced`,
    /// `unauthorized` or `malformed` for a certificate that it can not replace; `rateLimited` if the account has opened
    /// too many orders, or its validations of a name keep failing.
    pub async fn new_order(&self, account: &Account, request: NewOrder) -> Result<Order, Refusal> {
        let NewOrder {
            identifiers,
            wishes,
            request_id,
        } = request;
        let provisioner = self.provisioner_of(account)?;
        let own = self.rules_of_key(account).await?;
        let names = own.as_ref().map(|own| &own.names);
        let admitted = self.policy.admit(provisioner, names, &identifiers)?;
        let chosen = own.as_ref().and_then(|own| own.upstream).or(provisioner.upstream);
        let admitted_names = admitted.iter().map(|(identifier, _)| identifier);
        let upstream = self.policy.routes().for_order(chosen, admitted_names)?;
        let now = self.clock.now();
        let rules = self.policy.wishes(upstream);
        rules.validity(wishes.not_before, wishes.not_after, now)?;
        rules.profile(wishes.profile.as_deref(), self.offers(upstream).await?)?;
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
    /// `orderNotReady`, `badCSR`, `rejectedIdentifier` if the policy does not admit a name any more, and `unauthorized`
    /// if the account's external account key has been revoked.
    pub async fn finalize(&self, account: &Account, id: OrderId, csr: Vec<u8>) -> Result<Order, Refusal> {
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
            let own = self.rules_of_key(account).await?;
            let provisioner = self.provisioner_of(account)?;
            let names = own.as_ref().map(|own| &own.names);
            self.policy
                .still_admits(provisioner, names, order.identifiers())?;
            let upstream = order.upstream_name();
            if !self.policy.routes().has(upstream) {
                return Err(not_configured(upstream).into());
            }
            let now = self.clock.now();
            let (order, work) = order.finalize(matched, now, self.policy.issuance_deadline())?;
            let written = Versioned::with(version, order.clone());
            match self
                .store
                .commit(written, Some(Job::now(work, account.id(), upstream, now)))
                .await
            {
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
