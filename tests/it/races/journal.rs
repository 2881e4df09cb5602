//! What has happened in a schedule, in order, and what must be true of it whatever the race was (SECURITY section 2).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use acme_proxy::acme::certificate::{Der, key_of};
use acme_proxy::acme::challenge::ChallengeState;
use acme_proxy::acme::csr::Csr;
use acme_proxy::acme::id::{AccountId, OrderId};
use acme_proxy::acme::order::{Order, OrderStatus};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::rfc8555::s7_1_6_lives::model::{AUTHORIZATION, CHALLENGE, ORDER};

/// Without a step for so long, nobody is going anywhere.
const REST: Duration = Duration::from_millis(20);

/// Something that has happened.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// A version of an order is stored.
    Wrote {
        order: Box<Order>,
        version: u64,
        /// When the writing began.
        at: Timestamp,
        /// How many entries there were then.
        after: usize,
    },
    /// A write was refused because the record had changed.
    Conflict,
    /// A lease for issuance was made so short that it runs out at once.
    LeaseLost,
    /// An order was finalized that comes in line before one that is being opened: what one of the two opens is of no use.
    Overtaken,
    /// A worker begins to read the account.
    Looked(AccountId),
    /// The account's deactivation is answered.
    Deactivated(AccountId),
    /// An order was opened at the CA, under this URL.
    Opened { order: OrderId, url: String },
    /// A CSR has left for the CA, for the order under this URL there.
    Sent { order: OrderId, csr: Der, url: String },
    /// A revocation has left for the CA.
    Revoked,
}

/// The entries of the schedule that is running.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Mutex<Vec<Entry>>,
    writing: AtomicUsize,
    steps: AtomicUsize,
    stepped: Notify,
}

impl Journal {
    pub(crate) fn add(&self, entry: Entry) {
        self.entries.lock().unwrap().push(entry);
    }

    /// A call of the store begins or ends.
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.stepped.notify_waiters();
    }

    /// Waits until the others have come so many steps further, or have come to rest.
    pub(crate) async fn steps(&self, steps: usize) {
        let target = self.steps.load(Ordering::SeqCst) + steps;
        while self.steps.load(Ordering::SeqCst) < target {
            if timeout(REST, self.stepped.notified()).await.is_err() {
                return;
            }
        }
    }

    /// A write begins. Gives how many entries there are.
    pub(crate) fn begin(&self) -> usize {
        self.writing.fetch_add(1, Ordering::SeqCst);
        self.entries.lock().unwrap().len()
    }

    /// The write is over, and entered if there was one.
    pub(crate) fn end(&self) {
        self.writing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether no write is under way.
    pub(crate) fn is_complete(&self) -> bool {
        self.writing.load(Ordering::SeqCst) == 0
    }

    /// All entries; the journal is empty afterwards.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.entries.lock().unwrap())
    }

    pub(crate) fn count(&self, of: impl Fn(&Entry) -> bool) -> usize {
        self.entries
            .lock()
            .unwrap()
            .iter()
            .filter(|entry| of(entry))
            .count()
    }
}

/// The versions of an order: the order, when its writing began, and after how many entries.
type Life<'a> = BTreeMap<u64, (&'a Order, Timestamp, usize)>;

/// The invariants that every schedule has to keep: I1, I2, I4, I5, E12, H13, J8, and that no write was lost.
pub(crate) fn check(entries: &[Entry]) {
    let mut lives: BTreeMap<OrderId, Life<'_>> = BTreeMap::new();
    let mut sent: BTreeMap<OrderId, (usize, &Der, &String)> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Wrote {
                order,
                version,
                at,
                after,
            } => {
                let life = lives.entry(order.id()).or_default();
                let twice = life.insert(*version, (order, *at, *after));
                assert!(twice.is_none(), "version {version} was written twice");
            }
            Entry::Sent { order, csr, url } => {
                let twice = sent.insert(*order, (index, csr, url));
                assert!(twice.is_none(), "I2: a second CSR for {order}");
            }
            Entry::Conflict
            | Entry::LeaseLost
            | Entry::Overtaken
            | Entry::Looked(_)
            | Entry::Deactivated(_)
            | Entry::Opened { .. }
            | Entry::Revoked => {}
        }
    }
    for (id, life) in &lives {
        let sent = sent.get(id).copied();
        check_life(entries, life, sent.is_some());
        let opened = |entry: &&Entry| matches!(entry, Entry::Opened { order, .. } if order == id);
        let lost = entries
            .iter()
            .any(|entry| matches!(entry, Entry::LeaseLost | Entry::Overtaken));
        let most = if lost { usize::MAX } else { 1 };
        assert!(
            entries.iter().filter(opened).count() <= most,
            "UPSTREAM rule 4: two orders were opened at the CA"
        );
        if let (Some((index, csr, url)), Some((order, ..))) = (sent, life.values().next_back()) {
            check_sent(&entries[..index], life, order.account(), url);
            check_certificate(order, csr);
        }
    }
}

/// The CSR that left after these entries went to the order whose URL was stored (UPSTREAM rule 4), and not before
/// somebody had looked whether the account still stood (E12). The look has to be later than the order at the CA, which
/// takes its time, and earlier than the answer to a deactivation: a later one would have found it.
fn check_sent(before: &[Entry], life: &Life<'_>, account: AccountId, url: &str) {
    let stored = |(order, at, _): &(&Order, Timestamp, usize)| {
        let validated = order.validated(*at);
        validated.is_some_and(|validated| validated.upstream().is_some_and(|opened| opened.url == url))
    };
    assert!(life.values().any(stored), "UPSTREAM rule 4: {url} is not stored");
    let opened = |entry: &Entry| matches!(entry, Entry::Opened { url: opened, .. } if opened == url);
    let opened = before.iter().position(opened).expect("the CA knows the order");
    let answered = deactivated(before, account).unwrap_or(before.len());
    let looked = |entry: &Entry| matches!(entry, Entry::Looked(id) if *id == account);
    assert!(
        before[opened..answered.max(opened)].iter().any(looked),
        "E12: nobody found the account valid after the order was opened at the CA"
    );
}

/// When the account's deactivation was answered, if it was.
fn deactivated(entries: &[Entry], account: AccountId) -> Option<usize> {
    let answered = |entry: &Entry| matches!(entry, Entry::Deactivated(id) if *id == account);
    entries.iter().position(answered)
}

/// Whoever wrote the verdict after these entries had looked at the account before the network was asked and again
/// afterwards, and not after its deactivation was answered: then the look would have found it (E12, J8).
fn check_verdict(before: &[Entry], account: AccountId) {
    let looked = |(_, entry): &(usize, &Entry)| matches!(entry, Entry::Looked(id) if *id == account);
    let looks = before.iter().enumerate().filter(looked);
    let looks: Vec<usize> = looks.map(|(index, _)| index).collect();
    assert!(looks.len() >= 2, "J8: nobody looked at the account again");
    let answered = deactivated(before, account);
    assert!(
        answered.is_none_or(|answered| looks[looks.len() - 1] < answered),
        "E12: a verdict for an account that was found deactivated"
    );
}

/// I5: the leaf is for the key of the CSR that the CA got.
fn check_certificate(order: &Order, csr: &Der) {
    let Some(issued) = order.certificate() else {
        return;
    };
    let csr = Csr::parse(csr.as_bytes().to_vec()).unwrap();
    assert_eq!(key_of(issued.leaf()).as_ref(), Some(csr.key()), "I5");
}

/// Every version of an order follows from the one before it.
fn check_life(entries: &[Entry], life: &Life<'_>, sent: bool) {
    let versions: Vec<_> = life.iter().collect();
    for pair in versions.windows(2) {
        let ((first, (before, then, _)), (second, (after, now, begun))) = (pair[0], pair[1]);
        assert_eq!(first + 1, *second, "a version is missing");
        edge(ORDER, before.status(*then), after.status(*now));
        assert_eq!(before.authorizations().len(), after.authorizations().len(), "H13");
        for (old, new) in before.authorizations().iter().zip(after.authorizations()) {
            assert_eq!(
                (old.identifier(), old.token()),
                (new.identifier(), new.token()),
                "H13"
            );
            let (was, is) = (
                old.status(before.expires(), *then),
                new.status(after.expires(), *now),
            );
            edge(AUTHORIZATION, was, is);
            for challenge in old.challenges() {
                let later = new.challenge(challenge.kind()).expect("H13");
                edge(CHALLENGE, challenge.status(), later.status());
                if challenge.status() != "valid"
                    && let ChallengeState::Valid(proved) = later.state()
                {
                    assert!(*proved < before.expires(), "J8: a verdict after the order's end");
                    check_verdict(&entries[..*begun], after.account());
                }
            }
        }
        if let (None, Some(finalized)) = (before.in_line_since(), after.in_line_since()) {
            assert_eq!(before.status(finalized), OrderStatus::Ready, "I1");
        }
        assert!(
            sent || after.certificate().is_none(),
            "a certificate without a CSR"
        );
    }
}

fn edge(edges: &[(&str, &str)], from: impl ToString, to: impl ToString) {
    let (from, to) = (from.to_string(), to.to_string());
    let legal = from == to || edges.contains(&(from.as_str(), to.as_str()));
    assert!(legal, "I4: from {from} to {to}");
}
