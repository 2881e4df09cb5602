//! What the daemon has acknowledged, and whether it still stands by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use instant_acme::{Account, AccountBuilder, Key, OrderStatus};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::time::sleep;

use crate::harness::check;
use crate::harness::instant::InstantHttp;
use crate::harness::world::World;

/// Everything that was answered with 2xx, and every broken word.
#[derive(Default)]
pub(crate) struct Ledger {
    accounts: Mutex<Vec<(PrivatePkcs8KeyDer<'static>, String)>>,
    orders: Mutex<Vec<Acknowledged>>,
    lost: Mutex<Vec<String>>,
}

/// An order, and everything that the daemon has said about it.
#[derive(Clone)]
pub(crate) struct Acknowledged {
    pub(crate) names: Vec<String>,
    pub(crate) url: String,
    /// The account's URL.
    pub(crate) account: String,
    /// The key that the certificate is for, as a DER `SubjectPublicKeyInfo`.
    pub(crate) public_key: Vec<u8>,
    pub(crate) status: OrderStatus,
    /// The tokens of the challenges that the daemon has taken up.
    pub(crate) answered: BTreeSet<String>,
    pub(crate) chain: Option<String>,
}

impl Acknowledged {
    /// The daemon shows this status now.
    ///
    /// # Errors
    ///
    /// I4: it went back. Every name here can be proved, so that no order may become invalid, either.
    pub(crate) fn shows(&mut self, status: OrderStatus) -> Result<(), String> {
        let last = std::mem::replace(&mut self.status, status);
        match status == OrderStatus::Invalid || rank(status) < rank(last) {
            true => Err(format!("it was {last:?}, and is {status:?}")),
            false => Ok(()),
        }
    }

    /// The daemon hands out this chain now.
    ///
    /// # Errors
    ///
    /// It handed out another one before.
    pub(crate) fn hands_out(&mut self, chain: String) -> Result<(), String> {
        match self.chain.replace(chain) {
            Some(before) if self.chain.as_ref() != Some(&before) => {
                Err("it has another certificate than before".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn rank(status: OrderStatus) -> u8 {
    match status {
        OrderStatus::Pending => 0,
        OrderStatus::Ready => 1,
        OrderStatus::Processing => 2,
        OrderStatus::Valid => 3,
        OrderStatus::Invalid => 4,
    }
}

/// What instant-acme sends requests with.
pub(crate) fn builder(http: &reqwest::Client) -> AccountBuilder {
    Account::builder_with_http(Box::new(InstantHttp(http.clone())))
}

impl Ledger {
    pub(crate) fn add_account(&self, key: PrivatePkcs8KeyDer<'static>, url: String) {
        self.accounts.lock().unwrap().push((key, url));
    }

    /// Gives the order's place.
    pub(crate) fn add_order(&self, order: Acknowledged) -> usize {
        let mut orders = self.orders.lock().unwrap();
        orders.push(order);
        orders.len() - 1
    }

    pub(crate) fn update(&self, place: usize, order: &Acknowledged) {
        self.orders.lock().unwrap()[place] = order.clone();
    }

    /// The daemon has broken its word.
    pub(crate) fn complain(&self, what: String) {
        self.lost.lock().unwrap().push(what);
    }

    /// # Panics
    ///
    /// If the daemon has broken its word.
    pub(crate) fn has_no_complaint(&self) {
        assert_eq!(*self.lost.lock().unwrap(), Vec::<String>::new());
    }

    /// Waits until there are so many orders, and all have the status.
    pub(crate) async fn has(&self, count: usize, status: OrderStatus) {
        while !self.has_now(count, status) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether there are so many orders, and all were last seen with the status.
    pub(crate) fn has_now(&self, count: usize, status: OrderStatus) -> bool {
        let orders = self.orders.lock().unwrap();
        orders.len() == count && orders.iter().all(|order| order.status == status)
    }

    /// I3, I5: every account is there, and every order; each certificate is the one that was handed out, and is for its
    /// order's key and names. I2: the CA has issued once for each order, through one account.
    pub(crate) async fn audit(&self, world: &World) -> Verdict {
        let accounts: Vec<_> = {
            let accounts = self.accounts.lock().unwrap();
            accounts
                .iter()
                .map(|(key, url)| (key.clone_key(), url.clone()))
                .collect()
        };
        let orders = self.orders.lock().unwrap().clone();
        let http = world.installation.client();
        let mut stuck = Vec::new();
        for (key, url) in accounts {
            let pair = (Key::from_pkcs8_der(key.clone_key()).unwrap(), key.into());
            let found = builder(&http)
                .from_key(pair, world.installation.directory_url())
                .await;
            let account = match found {
                Ok((account, _)) => account,
                Err(error) => {
                    self.complain(format!("{url}: {error}"));
                    continue;
                }
            };
            if account.id() != url {
                self.complain(format!("{url} has become {}", account.id()));
            }
            for order in orders.iter().filter(|order| order.account == url) {
                let mut order = order.clone();
                if let Err(why) = audit_order(&account, &mut order, &world.ca.root_pem).await {
                    self.complain(format!("{} for {:?}: {why}", order.url, order.names));
                }
                if order.status != OrderStatus::Valid {
                    stuck.push(format!(
                        "{} for {:?} is {:?}",
                        order.url, order.names, order.status
                    ));
                }
            }
        }
        Verdict {
            acknowledged: orders.len(),
            lost: self.lost.lock().unwrap().clone(),
            stuck,
            issued_twice: issued_twice(world),
        }
    }
}

async fn audit_order(account: &Account, order: &mut Acknowledged, root_pem: &str) -> Result<(), String> {
    let words = |error: instant_acme::Error| error.to_string();
    let mut found = account.order(order.url.clone()).await.map_err(words)?;
    order.shows(found.state().status)?;
    if order.status != OrderStatus::Valid {
        return Ok(());
    }
    for _ in 0..2 {
        let chain = found.certificate().await.map_err(words)?;
        order.hands_out(chain.unwrap_or_default())?;
    }
    let names: Vec<&str> = order.names.iter().map(String::as_str).collect();
    let chain = order.chain.as_deref().unwrap_or_default();
    let checked = check::check(chain, &order.public_key, &names, root_pem);
    checked.map(drop).map_err(|error| error.to_string())
}

/// The names for which the CA has taken more than one CSR. Each order has names of its own.
fn issued_twice(world: &World) -> Vec<String> {
    let stats = world.ca.stats();
    assert_eq!(
        (stats.accounts, stats.eab_uses),
        (1, 1),
        "one account at the CA, and one use of the EAB"
    );
    let mut taken = BTreeMap::<String, u64>::new();
    for order in &stats.orders {
        *taken.entry(order.identifiers.join(",")).or_default() += order.finalizes;
    }
    let twice = taken.into_iter().filter(|(_, finalizes)| *finalizes > 1);
    twice
        .map(|(names, finalizes)| format!("{names}: {finalizes} times"))
        .collect()
}

/// How it came out.
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) lost: Vec<String>,
    pub(crate) stuck: Vec<String>,
    pub(crate) issued_twice: Vec<String>,
}

impl Verdict {
    /// Both together.
    pub(crate) fn and(mut self, mut other: Self) -> Self {
        self.acknowledged += other.acknowledged;
        self.lost.append(&mut other.lost);
        self.stuck.append(&mut other.stuck);
        self.issued_twice.append(&mut other.issued_twice);
        self
    }

    /// # Panics
    ///
    /// Unless every word was kept.
    pub(crate) fn assert_clean(&self) {
        assert!(self.acknowledged > 0, "nothing was acknowledged");
        assert!(self.lost.is_empty(), "lost: {:#?}", self.lost);
        assert!(
            self.issued_twice.is_empty(),
            "issued twice: {:#?}",
            self.issued_twice
        );
        assert!(self.stuck.is_empty(), "stuck: {:#?}", self.stuck);
    }
}
