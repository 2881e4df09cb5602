//! How many certificates are about to expire without another one for the same names: counted over all of the store from
//! time to time, so that operators see them without a series for each certificate.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::id::AccountId;
use crate::clock::Clock;
use crate::store::shared::Shared;
use crate::store::{Store, StoreError, names_of};
use crate::worker::Context;

/// How often it is counted.
const EVERY: Duration = Duration::from_secs(15 * 60);

/// Orders that are read in one go; then others have their turn.
const PAGE: usize = 32;

/// The same of a database, which reads no orders for it.
const SHARED_PAGE: usize = 500;

/// How many times as long others have their turn there.
const SHARED_PAUSE: u32 = 4;

/// The days that are told apart: within so many, a certificate expires.
pub(crate) const DAYS: [u16; 4] = [1, 7, 14, 30];

/// Names, each set of them with its latest certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Those whose certificate has not expired.
    pub(crate) valid: u64,
    /// Of those, how many expire within [`DAYS`].
    pub(crate) expiring: [u64; 4],
    /// Those whose certificate has expired, as long as its order is kept: 30 days.
    pub(crate) expired: u64,
}

impl Inventory {
    /// A certificate is renewed once there is a later one for exactly the same names, whoever ordered it. The daemon's own
    /// and those that are revoked do not count.
    pub(crate) async fn of(store: &dyn Store, clock: &Clock) -> Result<Self, StoreError> {
        match store.shared() {
            Some(shared) => Self::of_shared(shared, clock).await,
            None => Self::of_own(store, clock).await,
        }
    }

    /// Nothing is kept in memory.
    async fn of_shared(shared: &dyn Shared, clock: &Clock) -> Result<Self, StoreError> {
        let mut inventory = Self::default();
        let mut after = None;
        loop {
            let begun = clock.instant();
            let page = shared.latest_certificates(after, SHARED_PAGE).await?;
            let now = clock.now();
            for (_, end) in &page {
                inventory.add(*end, now);
            }
            after = page.last().map(|(names, _)| *names);
            if after.is_none() {
                return Ok(inventory);
            }
            let took = clock.instant().saturating_duration_since(begun);
            tokio::time::sleep(took * SHARED_PAUSE).await;
        }
    }

    async fn of_own(store: &dyn Store, clock: &Clock) -> Result<Self, StoreError> {
        // By names, shortened: a million sets of names take about 50 MB while they are counted.
        let mut latest: HashMap<u128, Timestamp> = HashMap::new();
        let mut after = None;
        loop {
            let begun = clock.instant();
            let page = store.all_orders(after, PAGE).await?;
            for id in &page {
                let Some(order) = store.order(*id).await? else {
                    continue;
                };
                let order = order.value;
                let counts = order.account() != AccountId::DAEMON && order.revocation().is_none();
                let Some(certificate) = order.certificate().filter(|_| counts) else {
                    continue;
                };
                let end = latest
                    .entry(short(names_of(&order)))
                    .or_insert(certificate.not_after());
                *end = certificate.not_after().max(*end);
            }
            after = page.last().copied();
            if after.is_none() {
                break;
            }
            // At most half of one processor.
            tokio::time::sleep(clock.instant().saturating_duration_since(begun)).await;
        }
        let mut inventory = Self::default();
        let now = clock.now();
        for end in latest.into_values() {
            inventory.add(end, now);
        }
        Ok(inventory)
    }

    fn add(&mut self, end: Timestamp, now: Timestamp) {
        if end <= now {
            self.expired += 1;
            return;
        }
        self.valid += 1;
        for (days, expiring) in DAYS.iter().zip(&mut self.expiring) {
            let soon = end.duration_since(now).as_secs() < i64::from(*days) * 86_400;
            *expiring += u64::from(soon);
        }
    }
}

/// The names of an order, shortened.
fn short(names: [u8; 32]) -> u128 {
    let (first, _) = names.split_at(16);
    first.iter().fold(0, |short, byte| short << 8 | u128::from(*byte))
}

/// Counts until it is dropped.
pub(crate) async fn run(context: &Context) {
    let metrics = &context.metrics;
    loop {
        match Inventory::of(context.store.as_ref(), &context.clock).await {
            Ok(inventory) => {
                let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
                metrics.certificates_valid.set(whole(inventory.valid));
                metrics.certificates_expired.set(whole(inventory.expired));
                for (days, expiring) in DAYS.iter().zip(inventory.expiring) {
                    let gauge = &metrics.certificates_expiring;
                    gauge.with_label_values(&[&days.to_string()]).set(whole(expiring));
                }
            }
            Err(error) => tracing::error!(%error, "the certificates can not be counted"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_counts_for_every_span_that_it_ends_in() {
        let now: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        let mut inventory = Inventory::default();
        for hours in [-1, 0, 1, 24, 24 * 6, 24 * 8, 24 * 20, 24 * 40] {
            inventory.add(now + jiff::SignedDuration::from_hours(hours), now);
        }
        assert_eq!(
            inventory,
            Inventory {
                valid: 6,
                expiring: [1, 3, 4, 5],
                expired: 2,
            }
        );
    }
}
