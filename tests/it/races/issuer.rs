//! A CA that takes its time, keeps account of every CSR, and signs with the throwaway CA's keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acme_proxy::acme::certificate::Der;
use acme_proxy::acme::id::OrderId;
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

pub(crate) struct SlowCa {
    pki: Pki,
    /// The CA's orders, by URL, with what has become of each since the CSR was there.
    orders: Mutex<HashMap<String, Option<Ordered>>>,
    /// The order for these names that waits for its CSR: whoever asks for another one gets this one (UPSTREAM rule 2).
    pending: Mutex<HashMap<Vec<Identifier>, String>>,
    /// Whom the CA answers who opens an order.
    answering: watch::Sender<Answers>,
    dice: Arc<Dice>,
    journal: Arc<Journal>,
}

/// An order at the CA that has had its CSR.
struct Ordered {
    /// What comes of it.
    chain: String,
    /// How often the CA still says that it is not done.
    polls: u64,
}

/// Who gets an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    All,
    One(OrderId),
    Nobody,
}

impl SlowCa {
    pub(crate) fn new(dice: &Arc<Dice>, journal: &Arc<Journal>) -> Self {
        Self {
            pki: Pki::generate(None).unwrap(),
            orders: Mutex::default(),
            pending: Mutex::default(),
            answering: watch::Sender::new(Answers::All),
            dice: dice.clone(),
            journal: journal.clone(),
        }
    }

    /// From now on, these are answered who open an order, or have asked for one already.
    pub(crate) fn answer(&self, whom: Answers) {
        self.answering.send_replace(whom);
    }

    /// As a CA does: the first CSR counts, and whoever asks again is told how far the order has come.
    fn step(&self, order: &ValidatedOrder) -> Result<Progress, Error> {
        let url = &order
            .upstream()
            .expect("the URL is stored before anything else")
            .url;
        let mut orders = self.orders.lock().unwrap();
        let known = orders.get_mut(url).expect("the CA knows every URL");
        let names = order.identifiers();
        match known {
            None => {
                *known = Some(Ordered {
                    chain: self.chain(order.csr(), names),
                    polls: self.dice.below(3),
                });
                self.pending.lock().unwrap().remove(names);
                self.journal.add(Entry::Sent {
                    order: order.id(),
                    csr: order.csr().clone(),
                    url: url.to_owned(),
                });
            }
            Some(ordered) => ordered.polls = ordered.polls.saturating_sub(1),
        }
        Ok(known.as_ref().unwrap().progress())
    }

    /// How far an order has come, for whoever only looks.
    fn seen(&self, order: &AwaitedOrder) -> Result<Progress, Error> {
        let mut orders = self.orders.lock().unwrap();
        let known = orders
            .get_mut(&order.upstream().url)
            .expect("the CA knows every URL");
        let Some(ordered) = known else {
            return Err(Error::OrderUnseen("it has no CSR".to_owned()));
        };
        ordered.polls = ordered.polls.saturating_sub(1);
        Ok(ordered.progress())
    }

    fn chain(&self, csr: &Der, names: &[Identifier]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = self.pki.issue(csr.as_bytes(), &names);
        leaf.unwrap_or_else(|_| panic!("the CSR is not the order's"))
            .chain
    }
}

impl Ordered {
    fn progress(&self) -> Progress {
        match self.polls {
            0 => Progress::Issued(self.chain.clone().into()),
            _ => Progress::Waiting {
                retry_after: Duration::ZERO,
            },
        }
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
        let hears = |whom: &Answers| matches!(whom, Answers::All) || *whom == Answers::One(order.id());
        answering.wait_for(hears).await.unwrap();
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
