//! A CA that takes its time, keeps account of every CSR, and signs with the throwaway CA's keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acme_proxy::acme::certificate::Der;
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::offers::Offers;
use acme_proxy::acme::order::ValidatedOrder;
use acme_proxy::acme::order::late::AwaitedOrder;
use acme_proxy::acme::renewal::CertificateId;
use acme_proxy::acme::revocation::RevocationReason;
use acme_proxy::acme::upstream::UpstreamOrder;
use acme_proxy::upstream::{Error, Issuer, Progress, Suggestion};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::harness::ca::pki::Pki;
use crate::races::dice::Dice;
use crate::races::journal::{Entry, Journal};

/// The CA's orders, by URL: the CSR once it is there, and how often it still says that it is not done.
pub(crate) struct SlowCa {
    pki: Pki,
    orders: Mutex<HashMap<String, Option<(Der, u64)>>>,
    /// The order for these names that waits for its CSR: whoever asks for another one gets this one (UPSTREAM rule 2).
    pending: Mutex<HashMap<Vec<Identifier>, String>>,
    /// Whether the CA answers whoever opens an order.
    answering: watch::Sender<bool>,
    dice: Arc<Dice>,
    journal: Arc<Journal>,
}

impl SlowCa {
    pub(crate) fn new(dice: &Arc<Dice>, journal: &Arc<Journal>) -> Self {
        Self {
            pki: Pki::generate(None).unwrap(),
            orders: Mutex::default(),
            pending: Mutex::default(),
            answering: watch::Sender::new(true),
            dice: dice.clone(),
            journal: journal.clone(),
        }
    }

    /// From now on, nobody who opens an order gets an answer, or everybody does.
    pub(crate) fn answer(&self, answering: bool) {
        self.answering.send_replace(answering);
    }

    /// As a CA does: the first CSR counts, and whoever asks again is told how far the order has come.
    fn step(&self, order: &ValidatedOrder) -> Result<Progress, Error> {
        let url = &order
            .upstream()
            .expect("the URL is stored before anything else")
            .url;
        let mut orders = self.orders.lock().unwrap();
        let known = orders.get_mut(url).expect("the CA knows every URL");
        match known {
            None => {
                let polls = self.dice.below(3);
                *known = Some((order.csr().clone(), polls));
                self.pending.lock().unwrap().remove(order.identifiers());
                self.journal.add(Entry::Sent {
                    order: order.id(),
                    csr: order.csr().clone(),
                    url: url.to_owned(),
                });
            }
            Some((_, 0)) => {}
            Some((_, polls)) => *polls -= 1,
        }
        let names = order.identifiers();
        Ok(self.progress(known.as_ref(), names))
    }

    /// How far an order has come, for whoever only looks.
    fn seen(&self, order: &AwaitedOrder) -> Result<Progress, Error> {
        let mut orders = self.orders.lock().unwrap();
        let known = orders
            .get_mut(&order.upstream().url)
            .expect("the CA knows every URL");
        match known {
            None => return Err(Error::OrderUnseen("it has no CSR".to_owned())),
            Some((_, 0)) => {}
            Some((_, polls)) => *polls -= 1,
        }
        Ok(self.progress(known.as_ref(), order.identifiers()))
    }

    fn progress(&self, known: Option<&(Der, u64)>, names: &[Identifier]) -> Progress {
        let Some((csr, 0)) = known else {
            return Progress::Waiting {
                retry_after: Duration::ZERO,
            };
        };
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = self.pki.issue(csr.as_bytes(), &names);
        let leaf = leaf.unwrap_or_else(|_| panic!("the CSR is not the order's"));
        Progress::Issued(leaf.chain.into())
    }
}

#[async_trait]
impl Issuer for SlowCa {
    async fn prepare(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn open(&self, order: &ValidatedOrder) -> Result<UpstreamOrder, Error> {
        self.dice.pause().await;
        let new = format!("https://ca.test/order/{}", self.dice.next());
        let url = {
            let mut pending = self.pending.lock().unwrap();
            pending.entry(order.identifiers().to_vec()).or_insert(new).clone()
        };
        self.orders.lock().unwrap().entry(url.clone()).or_insert(None);
        self.journal.add(Entry::Opened {
            order: order.id(),
            url: url.clone(),
        });
        let mut answering = self.answering.subscribe();
        answering.wait_for(|answering| *answering).await.unwrap();
        self.dice.linger().await;
        Ok(UpstreamOrder::new(url, "https://ca.test/account"))
    }

    async fn advance(&self, order: &ValidatedOrder) -> Result<Progress, Error> {
        self.dice.pause().await;
        let progress = self.step(order);
        self.dice.linger().await;
        progress
    }

    async fn look(&self, order: &AwaitedOrder) -> Result<Progress, Error> {
        self.dice.pause().await;
        let progress = self.seen(order);
        self.dice.linger().await;
        progress
    }

    async fn revoke(&self, _: &Der, _: Option<&str>, _: Option<RevocationReason>) -> Result<(), Error> {
        self.dice.pause().await;
        self.journal.add(Entry::Revoked);
        self.dice.linger().await;
        Ok(())
    }

    async fn renewal(&self, _: &CertificateId) -> Result<Suggestion, Error> {
        panic!("nobody asks a CA that does not offer it")
    }

    async fn probe(&self) -> Result<Offers, Error> {
        Ok(Offers::default())
    }
}
