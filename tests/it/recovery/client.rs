//! A client that does not give up: on a lost connection it tries again, and after a lost answer it looks the object up.
//! It writes down all that the daemon acknowledges, and what the daemon says that contradicts it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, Key, NewOrder, Order,
    OrderStatus,
};
use tokio::time::sleep;

use crate::harness::storm::{Moment, Step};
use crate::harness::world::{Request, World};
use crate::recovery::ledger::{Acknowledged, Ledger, builder};

/// The client is about to hand in its CSR.
pub(crate) const FINALIZES: Step = "the client's CSR";

/// The client has seen that its order is valid, and is about to fetch the certificate.
pub(crate) const VALID: Step = "the client's certificate";

/// Between two looks at an object, and before another try.
const PAUSE: Duration = Duration::from_millis(50);

/// A client, with an account of its own once it has asked for one.
pub(crate) struct Client {
    world: Arc<World>,
    ledger: Arc<Ledger>,
    http: reqwest::Client,
    account: Option<Account>,
}

/// Why a request did not do what it should.
enum Setback {
    /// No answer, or one that says to come again.
    Passing,
    /// The daemon does not know what it has acknowledged, or refuses what it must not.
    Final(String),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        let Error::Api(problem) = &error else {
            return Self::Passing;
        };
        // A nonce of the life before is not taken any more, and instant-acme tries three times only.
        let bad_nonce = problem
            .r#type
            .as_deref()
            .is_some_and(|kind| kind.ends_with(":badNonce"));
        match bad_nonce {
            true => Self::Passing,
            false => Self::Final(error.to_string()),
        }
    }
}

impl From<String> for Setback {
    fn from(why: String) -> Self {
        Self::Final(why)
    }
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, ledger: &Arc<Ledger>) -> Self {
        Self {
            http: world.installation.client(),
            world: world.clone(),
            ledger: ledger.clone(),
            account: None,
        }
    }

    /// From now on works under another account.
    pub(crate) async fn register(&mut self) {
        let (_, key) = Key::generate_pkcs8().unwrap();
        loop {
            let pair = (
                Key::from_pkcs8_der(key.clone_key()).unwrap(),
                key.clone_key().into(),
            );
            let created = builder(&self.http).create_from_key(pair, self.world.installation.directory_url());
            match created.await.map_err(Setback::from) {
                Ok((account, _)) => {
                    self.ledger.add_account(key, account.id().to_owned());
                    self.account = Some(account);
                    return;
                }
                Err(Setback::Passing) => sleep(PAUSE).await,
                Err(Setback::Final(why)) => return self.ledger.complain(format!("no account: {why}")),
            }
        }
    }

    /// Gets a certificate, however long that takes.
    pub(crate) async fn obtain(&mut self, names: &[&str]) {
        if self.account.is_none() {
            self.register().await;
        }
        let Some(account) = self.account.clone() else {
            return;
        };
        let request = Request::for_names(names);
        let mut order = match self.new_order(&account, names, &request).await {
            Ok(order) => order,
            Err(why) => return self.ledger.complain(format!("no order for {names:?}: {why}")),
        };
        let place = self.ledger.add_order(order.clone());
        while order.chain.is_none() {
            let step = self.advance(&account, &mut order, &request).await;
            self.ledger.update(place, &order);
            match step {
                Ok(()) | Err(Setback::Passing) => sleep(PAUSE).await,
                Err(Setback::Final(why)) => {
                    return self
                        .ledger
                        .complain(format!("{} for {names:?}: {why}", order.url));
                }
            }
        }
    }

    async fn new_order(
        &self,
        account: &Account,
        names: &[&str],
        request: &Request,
    ) -> Result<Acknowledged, String> {
        let identifiers: Vec<_> = names
            .iter()
            .map(|name| Identifier::Dns((*name).to_owned()))
            .collect();
        loop {
            match account
                .new_order(&NewOrder::new(&identifiers))
                .await
                .map_err(Setback::from)
            {
                Ok(mut order) => {
                    return Ok(Acknowledged {
                        names: names.iter().map(|name| (*name).to_owned()).collect(),
                        url: order.url().to_owned(),
                        account: account.id().to_owned(),
                        public_key: request.public_key.clone(),
                        status: order.state().status,
                        answered: BTreeSet::new(),
                        chain: None,
                    });
                }
                Err(Setback::Passing) => sleep(PAUSE).await,
                Err(Setback::Final(why)) => return Err(why),
            }
        }
    }

    /// Looks at the order, and does the next thing.
    async fn advance(
        &self,
        account: &Account,
        seen: &mut Acknowledged,
        request: &Request,
    ) -> Result<(), Setback> {
        let mut order = account.order(seen.url.clone()).await?;
        seen.shows(order.state().status)?;
        match seen.status {
            OrderStatus::Pending => self.answer(seen, &mut order).await?,
            OrderStatus::Ready => {
                self.world.storm.reaches(Moment::Received, FINALIZES).await;
                order.finalize_csr(&request.csr).await?;
                seen.shows(order.state().status)?;
            }
            OrderStatus::Valid => {
                self.world.storm.reaches(Moment::Done, VALID).await;
                let chain = order
                    .certificate()
                    .await?
                    .ok_or_else(|| "it has no certificate".to_owned())?;
                seen.hands_out(chain)?;
            }
            OrderStatus::Processing | OrderStatus::Invalid => {}
        }
        Ok(())
    }

    async fn answer(&self, seen: &mut Acknowledged, order: &mut Order) -> Result<(), Setback> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let challenge = authorization.challenge(ChallengeType::Http01);
            let mut challenge = challenge.ok_or_else(|| "there is no http-01 challenge".to_owned())?;
            if challenge.status != ChallengeStatus::Pending {
                continue;
            }
            if seen.answered.contains(&challenge.token) {
                return Err(Setback::Final(
                    "the answer to a challenge is forgotten".to_owned(),
                ));
            }
            self.world
                .web
                .publish(&challenge.token, challenge.key_authorization().as_str());
            challenge.set_ready().await?;
            seen.answered.insert(challenge.token.clone());
        }
        Ok(())
    }
}
