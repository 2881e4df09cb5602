//! What the throwaway CA remembers: accounts, orders, nonces; and the figures that tests ask for.
//!
//! Everything is in memory. Locks are held for look-ups only, never across a signature.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::jws::{self, Jwk};
use super::problem::Problem;
use super::script::Step;

/// Locks; a thread that panicked while it held the lock has failed the test anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 8555 §7.1.2.
pub(crate) struct Account {
    pub(crate) id: usize,
    pub(crate) key: Jwk,
}

/// How the CA takes an account.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountStatus {
    Valid,
    Deactivated,
}

/// RFC 8555 §9.7.7 and RFC 8738.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identifier {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) value: String,
}

/// One name of an order, and whether its control is proved.
pub(crate) struct Authorization {
    pub(crate) identifier: Identifier,
    pub(crate) token: String,
    pub(crate) status: AuthorizationStatus,
}

/// RFC 8555 §7.1.6, as far as it goes here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthorizationStatus {
    Pending,
    Valid,
    Invalid,
}

impl AuthorizationStatus {
    /// As the wire spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
        }
    }
}

/// How far an order is beyond its authorizations.
pub(crate) enum Phase {
    /// Not finalized yet.
    Open,
    /// A finalize request is being worked on: a second one must not issue as well.
    Issuing,
    /// Signed; shown as `processing` until the time.
    Issued { visible: Instant, serial: String },
}

/// What an order asks for beside names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Terms {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_after: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// RFC 9773 §5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<String>,
}

/// RFC 8555 §7.1.3.
pub(crate) struct Order {
    pub(crate) id: usize,
    pub(crate) account: usize,
    pub(crate) authorizations: Vec<Authorization>,
    pub(crate) terms: Terms,
    pub(crate) phase: Phase,
    /// Every CSR that was sent, base64url.
    pub(crate) csrs: Vec<String>,
    /// Finalize requests that were accepted.
    pub(crate) finalizes: u64,
    /// Finalize requests that were refused.
    pub(crate) refused: u64,
}

impl Order {
    /// The status, derived from the facts (RFC 8555 §7.1.6).
    pub(crate) fn status(&self) -> &'static str {
        let any = |status| self.authorizations.iter().any(|authz| authz.status == status);
        match &self.phase {
            Phase::Issued { visible, .. } if *visible <= Instant::now() => "valid",
            Phase::Issued { .. } | Phase::Issuing => "processing",
            Phase::Open if any(AuthorizationStatus::Invalid) => "invalid",
            Phase::Open if any(AuthorizationStatus::Pending) => "pending",
            Phase::Open => "ready",
        }
    }

    /// The names in order, joined by commas.
    fn name_set(&self) -> String {
        sorted(self.names())
    }

    /// The names, as they go into a certificate.
    pub(crate) fn names(&self) -> Vec<String> {
        let value = |authz: &Authorization| authz.identifier.value.clone();
        self.authorizations.iter().map(value).collect()
    }
}

/// A certificate that was issued.
pub(crate) struct Certificate {
    pub(crate) account: usize,
    /// PEM.
    pub(crate) chain: String,
    /// Chains of the same leaf to other roots.
    pub(crate) alternates: Vec<String>,
    /// RFC 9773 §4.1.
    pub(crate) id: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) revoked: bool,
    /// Whether an order that replaces it has been finalized.
    pub(crate) replaced: bool,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Memory {
    nonces: Mutex<HashSet<String>>,
    accounts: Mutex<Accounts>,
    orders: Mutex<Vec<Arc<Mutex<Order>>>>,
    pub(crate) certificates: Mutex<HashMap<String, Certificate>>,
    pub(crate) revocations: Mutex<Vec<Revocation>>,
}

#[derive(Default)]
struct Accounts {
    list: Vec<Arc<Account>>,
    status: Vec<AccountStatus>,
    by_thumbprint: HashMap<String, usize>,
    eab_uses: usize,
}

impl Memory {
    /// A fresh nonce.
    pub(crate) fn mint_nonce(&self) -> String {
        let nonce = random_text();
        lock(&self.nonces).insert(nonce.clone());
        nonce
    }

    /// Whether the nonce is ours and has not been used; it has been after this.
    pub(crate) fn redeem_nonce(&self, nonce: &str) -> bool {
        lock(&self.nonces).remove(nonce)
    }

    /// The account with the number.
    pub(crate) fn account(&self, id: usize) -> Option<Arc<Account>> {
        lock(&self.accounts).list.get(id).cloned()
    }

    /// The account that the key already has.
    pub(crate) fn account_of(&self, key: &Jwk) -> Option<usize> {
        lock(&self.accounts).by_thumbprint.get(key.thumbprint()).copied()
    }

    /// How the account is taken.
    pub(crate) fn status(&self, id: usize) -> AccountStatus {
        let accounts = lock(&self.accounts);
        accounts.status.get(id).copied().unwrap_or(AccountStatus::Valid)
    }

    /// Changes how all accounts are taken that there are.
    pub(crate) fn take_accounts_as(&self, status: AccountStatus) {
        lock(&self.accounts).status.fill(status);
    }

    /// Registers the key. A binding that works only once is refused if it has been used.
    pub(crate) fn register(&self, key: Jwk, eab_once: bool) -> Result<usize, Problem> {
        let mut accounts = lock(&self.accounts);
        if eab_once && accounts.eab_uses > 0 {
            let why = "the account is not awaiting external account binding";
            return Err(Problem::new(403, "unauthorized", why));
        }
        accounts.eab_uses += 1;
        let id = accounts.list.len();
        accounts.by_thumbprint.insert(key.thumbprint().to_owned(), id);
        accounts.list.push(Arc::new(Account { id, key }));
        accounts.status.push(AccountStatus::Valid);
        Ok(id)
    }

    /// Gives the account another key, if the old one is as said, and nobody has the new one.
    pub(crate) fn change_key(&self, account: usize, old: &Jwk, new: Jwk) -> Result<(), Problem> {
        let mut accounts = lock(&self.accounts);
        if accounts.by_thumbprint.contains_key(new.thumbprint()) {
            return Err(Problem::new(409, "malformed", "an account has this key already"));
        }
        if accounts.by_thumbprint.remove(old.thumbprint()) != Some(account) {
            return Err(Problem::malformed("the old key is not the account's"));
        }
        accounts
            .by_thumbprint
            .insert(new.thumbprint().to_owned(), account);
        if let Some(place) = accounts.list.get_mut(account) {
            *place = Arc::new(Account {
                id: account,
                key: new,
            });
        }
        Ok(())
    }

    /// Opens an order.
    pub(crate) fn open(
        &self,
        account: usize,
        authorizations: Vec<Authorization>,
        terms: Terms,
    ) -> Arc<Mutex<Order>> {
        let mut orders = lock(&self.orders);
        let order = Arc::new(Mutex::new(Order {
            id: orders.len(),
            account,
            authorizations,
            terms,
            phase: Phase::Open,
            csrs: Vec::new(),
            finalizes: 0,
            refused: 0,
        }));
        orders.push(order.clone());
        order
    }

    /// The account's order for the same names and profile that is not finalized yet.
    pub(crate) fn open_order(
        &self,
        account: usize,
        wanted: &[Authorization],
        profile: &Option<String>,
    ) -> Option<Arc<Mutex<Order>>> {
        let wanted = sorted(
            wanted
                .iter()
                .map(|authz| authz.identifier.value.clone())
                .collect(),
        );
        let orders = lock(&self.orders);
        let same = |order: &&Arc<Mutex<Order>>| {
            let order = lock(order);
            order.account == account
                && matches!(order.status(), "pending" | "ready")
                && order.terms.profile == *profile
                && order.name_set() == wanted
        };
        orders.iter().find(same).cloned()
    }

    /// RFC 9773 §5: whether an order of the account may name this certificate as the one that it replaces.
    pub(crate) fn may_replace(&self, account: usize, id: &str) -> Result<(), Problem> {
        let certificates = lock(&self.certificates);
        match certificates.values().find(|certificate| certificate.id == id) {
            Some(certificate) if certificate.account != account => Err(Problem::new(
                403,
                "unauthorized",
                "the replaced certificate is another account's",
            )),
            Some(certificate) if certificate.replaced => Err(Problem::new(
                409,
                "alreadyReplaced",
                "the certificate has been replaced already",
            )),
            Some(_) => Ok(()),
            None => Err(Problem::malformed("no such certificate to replace")),
        }
    }

    /// The certificate has been replaced.
    pub(crate) fn replace(&self, id: &str) {
        let mut certificates = lock(&self.certificates);
        if let Some(certificate) = certificates.values_mut().find(|certificate| certificate.id == id) {
            certificate.replaced = true;
        }
    }

    /// The account's order with the number.
    pub(crate) fn order(&self, account: usize, id: &str) -> Result<Arc<Mutex<Order>>, Problem> {
        let id: usize = id.parse().map_err(|_| Problem::not_found())?;
        let order = lock(&self.orders)
            .get(id)
            .cloned()
            .ok_or_else(Problem::not_found)?;
        let owner = lock(&order).account;
        (owner == account).then_some(order).ok_or_else(Problem::not_found)
    }

    /// The figures, without those of the script.
    pub(crate) fn stats(&self) -> Stats {
        let (accounts, eab_uses) = {
            let accounts = lock(&self.accounts);
            (accounts.list.len(), accounts.eab_uses)
        };
        let orders = lock(&self.orders).clone();
        let orders: Vec<OrderStats> = orders.iter().map(|order| OrderStats::of(&lock(order))).collect();
        let mut issued = BTreeMap::new();
        for order in orders.iter().filter(|order| order.issued > 0) {
            *issued.entry(sorted(order.identifiers.clone())).or_default() += order.issued;
        }
        Stats {
            asked: BTreeMap::new(),
            accounts,
            eab_uses,
            orders_opened: orders.len(),
            orders,
            issued,
            certificates: lock(&self.certificates).keys().cloned().collect(),
            revocations: lock(&self.revocations).clone(),
        }
    }
}

fn sorted(mut names: Vec<String>) -> String {
    names.sort();
    names.join(",")
}

/// 128 random bits, as text.
pub(crate) fn random_text() -> String {
    let mut bytes = [0; 16];
    // Fails only if the operating system has no randomness; the nonce is then refused, which is loud enough.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    jws::encode(bytes)
}

/// What the CA has been asked, and what it has done: served at `/stats`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// How often each step was asked for, whatever the answer.
    pub(crate) asked: BTreeMap<Step, usize>,
    pub(crate) accounts: usize,
    pub(crate) eab_uses: usize,
    pub(crate) orders_opened: usize,
    /// Every order ever opened.
    pub(crate) orders: Vec<OrderStats>,
    /// How many certificates each set of names got; the names sorted and joined by commas.
    pub(crate) issued: BTreeMap<String, u64>,
    /// Serial numbers, lower-case hexadecimal.
    pub(crate) certificates: Vec<String>,
    pub(crate) revocations: Vec<Revocation>,
}

/// One order's line in [`Stats`].
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OrderStats {
    pub(crate) id: usize,
    pub(crate) account: usize,
    pub(crate) identifiers: Vec<String>,
    pub(crate) status: String,
    pub(crate) terms: Terms,
    /// Every CSR that was sent, base64url, whatever came of it.
    pub(crate) csrs: Vec<String>,
    /// Finalize requests that were accepted.
    pub(crate) finalizes: u64,
    /// Finalize requests that were refused.
    pub(crate) refused: u64,
    /// Certificates issued.
    pub(crate) issued: u64,
}

impl OrderStats {
    fn of(order: &Order) -> Self {
        Self {
            id: order.id,
            account: order.account,
            identifiers: order.names(),
            status: order.status().to_owned(),
            terms: order.terms.clone(),
            csrs: order.csrs.clone(),
            finalizes: order.finalizes,
            refused: order.refused,
            issued: matches!(order.phase, Phase::Issued { .. }).into(),
        }
    }
}

/// A certificate that was revoked, and why (RFC 5280 §5.3.1).
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Revocation {
    pub(crate) serial: String,
    pub(crate) reason: Option<u64>,
}
