//! What this process knows of the records of the CA's orders: where they were put, and how far they have come. After a
//! restart, or another process's term, nothing is known, and orders that are still pending are published again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::time::Instant;

use crate::upstream::dns::Record;

/// The records by the URL of the order that they are for.
#[derive(Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// In which this was found out.
    term: u64,
    orders: HashMap<String, Vec<Entry>>,
}

/// One record of an order.
#[derive(Clone)]
pub(crate) struct Entry {
    wanted: Record,
    /// Where the record was put: aliases have been followed.
    pub(crate) at: Record,
    /// The zone's servers, as far as they have been found.
    pub(crate) authorities: Vec<SocketAddr>,
    /// When the provider has said that it is there. Without that it may be there all the same.
    confirmed: Option<Instant>,
    seen: bool,
    /// When the CA was told to look.
    answered: Option<Instant>,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of another term is forgotten: meanwhile another process may have done anything.
    pub(crate) fn begin(&self, term: u64) {
        let mut pages = self.pages();
        if pages.term != term {
            pages.term = term;
            pages.orders.clear();
        }
    }

    /// Writes a record down. The provider is going to be called.
    pub(crate) fn note(&self, order: &str, wanted: &Record, at: &Record) {
        let mut pages = self.pages();
        let records = pages.orders.entry(order.to_owned()).or_default();
        records.retain(|known| known.wanted != *wanted || known.at != *at);
        records.push(Entry {
            wanted: wanted.clone(),
            at: at.clone(),
            authorities: Vec::new(),
            confirmed: None,
            seen: false,
            answered: None,
        });
    }

    /// Whether the record is written down.
    pub(crate) fn knows(&self, order: &str, wanted: &Record) -> bool {
        self.with(order, |records| {
            records.iter().any(|known| known.wanted == *wanted)
        })
    }

    /// Changes what is known of a record.
    fn change(&self, order: &str, wanted: &Record, change: impl Fn(&mut Entry)) {
        if let Some(records) = self.pages().orders.get_mut(order) {
            let those = records.iter_mut().filter(|known| known.wanted == *wanted);
            those.for_each(change);
        }
    }

    /// The provider has said that the record is there.
    pub(crate) fn confirm(&self, order: &str, wanted: &Record) {
        self.change(order, wanted, |known| known.confirmed = Some(Instant::now()));
    }

    /// The CA has been told to look for the record.
    pub(crate) fn answer(&self, order: &str, wanted: &Record) {
        self.change(order, wanted, |known| known.answered = Some(Instant::now()));
    }

    /// What a look for the record has found.
    pub(crate) fn looked(&self, order: &str, entry: &Entry, authorities: &[SocketAddr], seen: bool) {
        self.change(order, &entry.wanted, |known| {
            if known.at == entry.at {
                authorities.clone_into(&mut known.authorities);
                known.seen = seen;
            }
        });
    }

    /// Whether the provider has said that the record is there.
    pub(crate) fn is_confirmed(&self, order: &str, wanted: &Record) -> bool {
        self.with(order, |records| {
            let mut those = records.iter().filter(|known| known.wanted == *wanted);
            those.any(|known| known.confirmed.is_some())
        })
    }

    /// When the CA was last told to look for the record.
    pub(crate) fn answered(&self, order: &str, wanted: &Record) -> Option<Instant> {
        self.with(order, |records| {
            let mut those = records.iter().filter(|known| known.wanted == *wanted);
            those.find_map(|known| known.answered)
        })
    }

    /// The records that nobody has seen yet.
    pub(crate) fn unseen(&self, order: &str) -> Vec<Entry> {
        self.with(order, |records| {
            records.iter().filter(|known| !known.seen).cloned().collect()
        })
    }

    /// When the last of the order's records was published.
    pub(crate) fn complete_since(&self, order: &str) -> Option<Instant> {
        self.with(order, |records| {
            records.iter().filter_map(|known| known.confirmed).max()
        })
    }

    /// Whether an order has this value at this place. Let's Encrypt gives one authorization to two orders.
    pub(crate) fn is_wanted(&self, at: &Record) -> bool {
        let pages = self.pages();
        let mut records = pages.orders.values().flatten();
        records.any(|known| known.at.name == at.name && known.at.value == at.value)
    }

    /// The order needs its records no longer.
    pub(crate) fn take(&self, order: &str) -> Vec<Record> {
        let records = self.pages().orders.remove(order).into_iter().flatten();
        records.map(|known| known.at).collect()
    }

    fn with<T>(&self, order: &str, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(self.pages().orders.get(order).map_or(&[], Vec::as_slice))
    }
}
