//! How an order comes along at the CA. Every step looks at the CA's order first and can be repeated from the start,
//! because an answer may be lost at any point (SECURITY section 4.2).

use std::time::Duration;

use instant_acme::Order;
use instant_acme::OrderStatus;
use tokio::time::Instant;

use crate::acme::order::ValidatedOrder;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::problem::ProblemType;
use crate::upstream::Error;
use crate::upstream::Progress;
use crate::upstream::account::BAD_NONCE_RETRIES;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Session;
use crate::upstream::acme::challenges::load_authorizations;
use crate::upstream::fault::Fault;
use crate::upstream::fault::Refusal;
use crate::upstream::http;

/// How long to wait for a CA that does not say.
const POLL: Duration = Duration::from_secs(2);

/// An answer that is older than any request may take was waited for by a process that was suspended. Another replica may
/// have given the order up since, and nobody would learn of what the CA makes of a CSR.
const FRESH: Duration = Duration::from_secs(45);

impl Ca {
    /// Does the next things for the order that was opened under this URL.
    pub(crate) async fn step(
        &self,
        session: &Session,
        url: &str,
        validated: &ValidatedOrder,
    ) -> Result<Progress, Error> {
        let asked = Instant::now();
        let mut order = self.order_at(session, url).await?;
        if asked.elapsed() > FRESH {
            return Ok(waiting());
        }
        if order.state().status == OrderStatus::Pending {
            return self.solve(session, validated, &mut order).await;
        }
        self.forget(url).await;
        if order.state().status == OrderStatus::Ready
            && let Err(fault) = insist!(order.finalize_csr(validated.csr().as_bytes()))
        {
            let error = self.judged(session, fault).await;
            if !matches!(error, Error::Permanent(_)) {
                return Err(error);
            }
            // Perhaps the CA only refuses to be asked twice: an earlier finalize, whose answer was lost, counts.
            if let Err(fault) = insist!(async { order.refresh().await.map(|_| ()) }) {
                return Err(Error::from(fault).not_the_end());
            }
            if !matches!(order.state().status, OrderStatus::Processing | OrderStatus::Valid) {
                return Err(error);
            }
        }
        match order.state().status {
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => Ok(waiting()),
            OrderStatus::Valid => {
                let certificate = order.state().certificate.as_deref();
                self.chains_of(session, certificate).await
            }
            OrderStatus::Invalid => Err(invalid(&mut order).await),
        }
    }

    /// One look at an order that has ended for its client.
    pub(crate) async fn look_at(&self, session: &Session, awaited: &AwaitedOrder) -> Result<Progress, Error> {
        let url = &awaited.upstream().url;
        let mut order = self.order_at(session, url).await?;
        self.forget(url).await;
        match order.state().status {
            OrderStatus::Pending | OrderStatus::Ready => {
                Err(Error::OrderUnseen("it has not had the CSR".to_owned()))
            }
            OrderStatus::Processing => Ok(waiting()),
            OrderStatus::Valid => {
                let certificate = order.state().certificate.as_deref();
                self.chains_of(session, certificate).await
            }
            OrderStatus::Invalid => Err(Error::OrderGone("it is invalid".to_owned())),
        }
    }

    /// What the CA says about the order under the URL.
    async fn order_at(&self, session: &Session, url: &str) -> Result<Order, Error> {
        session.client.permitted(url)?;
        match insist!(session.account.order(url.to_owned())) {
            Ok(order) => Ok(order),
            Err(Fault::Refused(refusal)) if refusal.is_not_found() => {
                self.forget(url).await;
                Err(Error::OrderUnseen(refusal.to_string()))
            }
            Err(fault) => Err(self.judged(session, fault).await.not_the_end()),
        }
    }

    /// The chains of an order that is valid at the CA.
    async fn chains_of(&self, session: &Session, certificate: Option<&str>) -> Result<Progress, Error> {
        let Some(url) = certificate else {
            return Err(Error::transient(
                "the CA's order is valid, and has no certificate",
            ));
        };
        match session.chains(url).await {
            Ok(chains) => Ok(Progress::Issued(chains)),
            Err(fault) => Err(self.judged(session, fault).await.not_the_end()),
        }
    }

    /// The order under this URL has no use for records any more.
    async fn forget(&self, url: &str) {
        if let Some(solver) = &self.solver {
            solver.clean_up(url).await;
        }
    }
}

pub(crate) fn waiting() -> Progress {
    Progress::Waiting {
        retry_after: http::advice().unwrap_or(POLL),
    }
}

/// Why the CA's order is invalid: by its own error, or by that of a challenge. An order that has merely expired, or
/// that fell to an error of the CA's own, says nothing about the next one.
async fn invalid(order: &mut Order) -> Error {
    let mut reason = order.state().error.clone();
    if reason.is_none() {
        if let Err(fault) = load_authorizations(order).await {
            return Error::from(fault).not_the_end();
        }
        let states = order
            .state()
            .authorizations
            .iter()
            .filter_map(|a| a.state.as_ref());
        reason = states.flat_map(|s| &s.challenges).find_map(|c| c.error.clone());
    }
    let Some(refusal) = reason.map(Refusal::from) else {
        return Error::OrderGone("it is invalid without a reason".to_owned());
    };
    match refusal.kind() {
        Some(ProblemType::ServerInternal | ProblemType::RateLimited) => Error::OrderGone(refusal.to_string()),
        _ => Error::Permanent(refusal.problem()),
    }
}
