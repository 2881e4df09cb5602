//! What can be done with authorizations and challenges (RFC 8555 §7.5).

use crate::acme::account::Account;
use crate::acme::authorization::Authorization;
use crate::acme::id::{AuthorizationId, ChallengeId};
use crate::acme::job::Job;
use crate::acme::order::{Accepted, Order};
use crate::acme::problem::Problem;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned};

impl RegistrationAuthority {
    /// The order that holds this authorization of the account's.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn authorization(&self, account: &Account, id: AuthorizationId) -> Result<Order, Refusal> {
        let order = self.own_order(account, id.order).await?.value;
        match order.authorization(id) {
            Some(_) => Ok(order),
            None => Err(Problem::not_found().into()),
        }
    }

    /// The order that holds this challenge of the account's.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn challenge(&self, account: &Account, id: ChallengeId) -> Result<Order, Refusal> {
        let order = self.own_order(account, id.authorization.order).await?.value;
        match order.challenge(id) {
            Some(_) => Ok(order),
            None => Err(Problem::not_found().into()),
        }
    }

    /// Gives up an authorization of the account's for good (RFC 8555 §7.5.2). One that has ended already stays as it is.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn deactivate_authorization(
        &self,
        account: &Account,
        id: AuthorizationId,
    ) -> Result<Order, Refusal> {
        for _ in 0..MAX_CONFLICTS {
            let Versioned {
                value: current,
                version,
            } = self.own_order(account, id.order).await?;
            let next = current.clone().deactivate_authorization(id, self.clock.now())?;
            if next == current {
                return Ok(current);
            }
            let written = Versioned::with(version, next.clone());
            match self.store.commit(written, None).await {
                Ok(()) => return Ok(next),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Starts the validation of a challenge, unless it is under way or settled (RFC 8555 §7.5.1).
    ///
    /// # Errors
    ///
    /// Not found; `malformed` if the authorization has ended, or the challenge is not offered any more; `rateLimited` if
    /// the account's validations of the name keep failing.
    pub async fn accept_challenge(&self, account: &Account, id: ChallengeId) -> Result<Order, Refusal> {
        for _ in 0..MAX_CONFLICTS {
            let Versioned {
                value: order,
                version,
            } = self.own_order(account, id.authorization.order).await?;
            let now = self.clock.now();
            let (order, work) = match order.accept_challenge(id, now)? {
                Accepted::Unchanged(order) => return Ok(order),
                Accepted::Started(order, work) => (order, work),
            };
            let name = order
                .authorization(id.authorization)
                .map(Authorization::identifier);
            let name = name.ok_or_else(Problem::not_found)?;
            // The operator may have taken the challenge out of the configuration since it was offered (CONFORMANCE I3).
            if !self
                .provisioner_of(account)?
                .challenges_for(name)
                .contains(&id.kind)
            {
                let detail = "this challenge is not offered here any more; make a new order";
                return Err(Problem::malformed(detail).into());
            }
            self.limits
                .check_failures(&*self.store, account.id(), name, now)
                .await?;
            let written = Versioned::with(version, order.clone());
            match self
                .store
                .commit(
                    written,
                    Some(Job::now(work, account.id(), order.upstream_name(), now)),
                )
                .await
            {
                Ok(()) => {
                    self.limits.attempted(account, name, id, now);
                    return Ok(order);
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}
