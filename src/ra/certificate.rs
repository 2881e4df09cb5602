//! What can be done with certificates (RFC 8555 §7.4.2, §7.6).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::acme::account::Account;
use crate::acme::authorization::AuthorizationStatus;
use crate::acme::certificate::{self, Der};
use crate::acme::id::OrderId;
use crate::acme::identifier::Identifier;
use crate::acme::job::Job;
use crate::acme::order::Order;
use crate::acme::order::history::StepKind;
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::revocation::{Revocation, RevocationReason, already_revoked};
use crate::jose::jwk::Jwk;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned};

/// How long a client waits for the CA's answer to a revocation before it is told to ask again.
const REVOCATION_WAIT: Duration = Duration::from_secs(20);

/// How often the answer is looked for.
const REVOCATION_POLL: Duration = Duration::from_millis(100);

/// How many orders of an account are searched for authorizations that permit a revocation.
const SEARCHED_ORDERS: usize = 1000;

/// Who asks for a revocation (RFC 8555 §7.6).
#[derive(Debug)]
pub enum Revoker {
    /// An account.
    Account(Account),
    /// The holder of this key.
    Key(Jwk),
    /// Whoever may use the control socket.
    Operator,
}

impl RegistrationAuthority {
    /// A certificate chain of the account's order, PEM, leaf first: number 0 is the first one, the others are alternates
    /// (RFC 8555 §7.4.2). With it, how many chains there are.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn certificate(
        &self,
        account: &Account,
        id: OrderId,
        number: usize,
    ) -> Result<(String, usize), Refusal> {
        let Versioned {
            value: order,
            version,
        } = self.own_order(account, id).await?;
        let issued = order.certificate().ok_or_else(Problem::not_found)?;
        let above = match number.checked_sub(1) {
            None => Some(issued.issuers()),
            Some(other) => issued.alternates().get(other).map(Vec::as_slice),
        };
        let issuers = self.store.issuers(above.ok_or_else(Problem::not_found)?).await?;
        let pem = certificate::to_pem(std::iter::once(issued.leaf()).chain(&issuers));
        let chains = issued.alternates().len().saturating_add(1);
        self.note_fetched(Versioned::with(version, order)).await;
        Ok((pem, chains))
    }

    /// Writes down that the certificate was fetched. That this fails keeps nobody from the certificate.
    async fn note_fetched(&self, mut order: Versioned<Order>) {
        let id = order.value.id();
        for _ in 0..MAX_CONFLICTS {
            if !order.value.may_hand_over() {
                return;
            }
            let fetched = order.value.fetched();
            let fetched = fetched.noting(StepKind::Fetched, "", self.clock.now());
            let fetched = Versioned::with(order.version, fetched);
            match self.store.commit(fetched, None).await {
                Ok(()) => return,
                Err(StoreError::Conflict) => {}
                Err(error) => {
                    tracing::warn!(order.id = %id, %error, "it is not written down that the certificate was fetched");
                    return;
                }
            }
            match self.store.order(id).await {
                Ok(Some(now)) => order = now,
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Has the CA revoke a certificate, and waits a while for its answer.
    ///
    /// # Errors
    ///
    /// `unauthorized` if the asker may not do so, `alreadyRevoked`, `badRevocationReason`, not found; `serverInternal` if
    /// the CA refuses for another reason or has not answered yet. In the last case the revocation stays queued.
    pub async fn revoke(
        &self,
        revoker: &Revoker,
        leaf: Vec<u8>,
        reason: Option<RevocationReason>,
    ) -> Result<(), Refusal> {
        let leaf = Der::new(leaf);
        let unknown = || Problem::malformed("no such certificate was issued here").with_status(404);
        let id = self
            .store
            .order_of_certificate(leaf.fingerprint())
            .await?
            .ok_or_else(unknown)?;
        let mut permitted = false;
        for _ in 0..MAX_CONFLICTS {
            let Versioned {
                value: order,
                version,
            } = self.store.order(id).await?.ok_or_else(unknown)?;
            if !permitted {
                self.check_revoker(revoker, &order, &leaf).await?;
                permitted = true;
            }
            let now = self.clock.now();
            // Somebody else asks the CA already: of several requests at once, one is the revocation. To write would make the
            // worker's answer a conflict, and the CA be asked again.
            if let Some(Revocation::Requested { .. }) = order.revocation() {
                return self.revocation_answer(id, false).await;
            }
            let (order, work) = order.request_revocation(reason, now)?;
            let job = Job::now(work, order.account(), order.upstream_name(), now);
            match self
                .store
                .commit(Versioned::with(version, order), Some(job))
                .await
            {
                Ok(()) => return self.revocation_answer(id, true).await,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn check_revoker(&self, revoker: &Revoker, order: &Order, leaf: &Der) -> Result<(), Refusal> {
        match revoker {
            Revoker::Operator => Ok(()),
            Revoker::Account(account) if account.id() == order.account() => Ok(()),
            Revoker::Account(account) => self.check_authorized_for_all(account, order).await,
            Revoker::Key(key) if certificate::key_of(leaf).is_some_and(|of_leaf| of_leaf == *key) => Ok(()),
            Revoker::Key(_) => {
                Err(Problem::unauthorized("the request is not signed with the certificate's key").into())
            }
        }
    }

    /// RFC 8555 §7.6: an account "that holds authorizations for all of the identifiers in the certificate" may revoke.
    async fn check_authorized_for_all(&self, account: &Account, order: &Order) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mut missing: BTreeSet<Identifier> = order.identifiers().cloned().collect();
        for id in self.store.orders_of(account.id(), None, SEARCHED_ORDERS).await? {
            let Some(held) = self.store.order(id).await? else {
                continue;
            };
            for authorization in held.value.authorizations() {
                if authorization.status(held.value.expires(), now) == AuthorizationStatus::Valid {
                    missing.remove(authorization.identifier());
                }
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(name) => {
                let detail = format!(
                    "the account neither ordered the certificate nor holds an authorization for {name}"
                );
                Err(Problem::unauthorized(detail).into())
            }
        }
    }

    async fn revocation_answer(&self, id: OrderId, is_first: bool) -> Result<(), Refusal> {
        let polls = REVOCATION_WAIT.as_millis() / REVOCATION_POLL.as_millis();
        for _ in 0..polls {
            let order = self.store.order(id).await?;
            match order.as_ref().and_then(|order| order.value.revocation()) {
                Some(Revocation::Confirmed { .. }) if is_first => return Ok(()),
                Some(Revocation::Confirmed { .. }) => return Err(already_revoked().into()),
                Some(Revocation::Refused { problem, .. }) => {
                    let detail = format!("the CA did not revoke the certificate: {}", problem.detail);
                    // To ask for the same again would change nothing about these.
                    if let kind @ (ProblemType::AlreadyRevoked | ProblemType::BadRevocationReason) =
                        problem.kind
                    {
                        return Err(Problem::new(kind, detail).into());
                    }
                    return Err(Refusal::Later {
                        problem: Problem::new(ProblemType::ServerInternal, detail),
                        retry_after: Duration::from_secs(300),
                        cause: "the CA refused a revocation".to_owned(),
                    });
                }
                Some(Revocation::Requested { .. }) | None => tokio::time::sleep(REVOCATION_POLL).await,
            }
        }
        Err(Refusal::Later {
            problem: Problem::new(
                ProblemType::ServerInternal,
                "the CA has not confirmed the revocation yet; it stays queued, ask again later",
            )
            .with_status(503),
            retry_after: Duration::from_secs(30),
            cause: "a revocation is still queued".to_owned(),
        })
    }
}
