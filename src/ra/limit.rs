//! Rate limits (RFC 8555 §6.6, SECURITY C417): what one account or address may ask for, so that none of them fills the
//! store, or uses up the CA's patience, for all.
//!
//! They are counted in memory, so that counting costs no write: after a restart, and on each replica, everybody starts
//! anew. What is remembered is bounded, see [`MAX_KEYS`].

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::account::Account;
use crate::acme::challenge::ChallengeState;
use crate::acme::id::{AccountId, ChallengeId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::order::{Order, OrderStatus, after};
use crate::acme::problem::{Problem, ProblemType, cleaned};
use crate::policy::limits::Limits;
use crate::ra::Refusal;
use crate::store::{Store, StoreError, line_of};

const HOUR: Duration = Duration::from_secs(3600);

/// How many accounts, addresses or names each limit keeps apart. Beyond that the half that has been quiet longest
/// starts anew: a flood of addresses can make us forgetful, but not fill the memory.
const MAX_KEYS: usize = 100_000;

/// How many orders within an hour for the names of a certificate that is there are its renewals: enough for each host
/// that shares the names, and for each kind of key. More are a client that renews in a loop, and count like any other.
const RENEWALS_PER_HOUR: u32 = 10;

/// How many times the allowed failures may be under way at once: nobody knows yet how they end.
const UNDER_WAY: usize = 4;

/// How long the orders of an account that is at its limit are believed to be as they were found.
const RECHECK: Duration = Duration::from_secs(10);

/// A bucket for each key that holds `capacity` and refills within `period`: the generic cell rate algorithm.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    capacity: u32,
    period: Duration,
    /// When each bucket that is not full will be.
    full_at: Mutex<HashMap<K, Timestamp>>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Full buckets. Those of capacity 0 never run out.
    pub(crate) fn new(capacity: u32, period: Duration) -> Self {
        Self {
            capacity,
            period,
            full_at: Mutex::default(),
        }
    }

    /// Takes one out of the key's bucket.
    ///
    /// # Errors
    ///
    /// How long to wait, if the bucket is empty. Nothing is taken then.
    pub(crate) fn take(&self, key: &K, now: Timestamp) -> Result<(), Duration> {
        if self.capacity == 0 {
            return Ok(());
        }
        let mut full_at = locked(&self.full_at);
        let before = full_at.get(key).map_or(now, |time| (*time).max(now));
        let full = after(before, self.period / self.capacity);
        if let Some(wait) = between(after(now, self.period), full) {
            return Err(wait);
        }
        make_room(&mut full_at, key, |time| *time);
        full_at.insert(key.clone(), full);
        Ok(())
    }

    /// Refills the key's bucket so much later.
    pub(crate) fn delay(&self, key: &K, span: Duration) {
        if let Some(full_at) = locked(&self.full_at).get_mut(key) {
            *full_at = after(*full_at, span);
        }
    }

    /// How long to wait until there is something in the key's bucket, if it is empty.
    pub(crate) fn wait(&self, key: &K, now: Timestamp) -> Option<Duration> {
        if self.capacity == 0 {
            return None;
        }
        let full = *locked(&self.full_at).get(key)?;
        between(after(now, self.period), after(full, self.period / self.capacity))
    }
}

/// The time from one moment to a later one.
fn between(from: Timestamp, to: Timestamp) -> Option<Duration> {
    let time = Duration::try_from(to.duration_since(from)).ok()?;
    (!time.is_zero()).then_some(time)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the half of the keys that has been quiet longest, if there is no room for a new one.
fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: &K, latest: impl Fn(&V) -> Timestamp) {
    if map.len() < MAX_KEYS || map.contains_key(key) {
        return;
    }
    let mut times: Vec<Timestamp> = map.values().map(&latest).collect();
    let (_, median, _) = times.select_nth_unstable(MAX_KEYS / 2);
    let median = *median;
    map.retain(|_, value| latest(value) > median);
}

/// What counts as one address: an IPv6 host can take any address of its network's /64.
pub(crate) fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// 429 with a `Retry-After` (RFC 8555 §6.6), rounded up to whole seconds.
pub(crate) fn too_many(what: &str, key: &str, wait: Duration) -> Refusal {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let detail =
        format!("{what}; try again in {seconds} seconds (the server's limit is limits.{key} in ca.json)");
    Refusal::Later {
        problem: Problem::new(ProblemType::RateLimited, detail),
        retry_after: Duration::from_secs(seconds),
        cause: format!("limits.{key}"),
    }
}

/// All limits of the registration authority.
#[derive(Debug)]
pub(crate) struct RateLimits {
    limits: Limits,
    accounts: Buckets<IpAddr>,
    orders: Buckets<AccountId>,
    renewals: Buckets<(AccountId, [u8; 32])>,
    pending: Mutex<HashMap<AccountId, Pending>>,
    attempts: Mutex<HashMap<(AccountId, Identifier), VecDeque<Attempt>>>,
}

/// The orders that an account has opened and not finalized.
#[derive(Debug, Default)]
struct Pending {
    /// With the times when they expire.
    orders: VecDeque<(OrderId, Timestamp)>,
    checked: Option<Timestamp>,
}

/// A challenge of a name that was accepted.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    challenge: ChallengeId,
    at: Timestamp,
    /// It is known to have failed.
    failed: bool,
}

impl RateLimits {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            accounts: Buckets::new(limits.accounts_per_address_per_hour, HOUR),
            orders: Buckets::new(limits.orders_per_account_per_hour, HOUR),
            renewals: Buckets::new(RENEWALS_PER_HOUR, HOUR),
            pending: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    /// Counts an account that is about to be made from this address.
    pub(crate) fn new_account(&self, address: IpAddr, now: Timestamp) -> Result<(), Refusal> {
        let block = block_of(address);
        self.accounts.take(&block, now).map_err(|wait| {
            let limit = self.limits.accounts_per_address_per_hour;
            let what = format!("{limit} accounts were made from {block} within an hour");
            too_many(&what, "accounts_per_address_per_hour", wait)
        })
    }

    /// Decides on an order that is about to be stored, and counts it unless it renews or replaces a certificate.
    pub(crate) async fn new_order(
        &self,
        store: &dyn Store,
        order: &Order,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        for name in order.identifiers() {
            self.check_failures(store, order.account(), name, now).await?;
        }
        self.check_pending(store, order.account(), now).await?;
        let names = (order.account(), line_of(order));
        let replaces = order.wishes().replaces.is_some() || store.has_issued(order).await?;
        let is_renewal = replaces && self.renewals.take(&names, now).is_ok();
        if !is_renewal {
            self.orders.take(&order.account(), now).map_err(|wait| {
                let limit = self.limits.orders_per_account_per_hour;
                let what =
                    format!("the account has opened {limit} orders that are no renewals within an hour");
                too_many(&what, "orders_per_account_per_hour", wait)
            })?;
        }
        Ok(())
    }

    /// The order is stored.
    pub(crate) fn opened(&self, order: &Order) {
        if self.limits.pending_orders_per_account == 0 {
            return;
        }
        let mut pending = locked(&self.pending);
        let latest = |pending: &Pending| {
            pending
                .orders
                .back()
                .map_or(Timestamp::MIN, |(_, expires)| *expires)
        };
        make_room(&mut pending, &order.account(), latest);
        let orders = &mut pending.entry(order.account()).or_default().orders;
        orders.push_back((order.id(), order.expires()));
    }

    /// The order is finalized or has ended.
    pub(crate) fn closed(&self, account: AccountId, order: OrderId) {
        let mut pending = locked(&self.pending);
        if let Some(of_account) = pending.get_mut(&account) {
            of_account.orders.retain(|(id, _)| *id != order);
            if of_account.orders.is_empty() {
                pending.remove(&account);
            }
        }
    }

    async fn check_pending(
        &self,
        store: &dyn Store,
        account: AccountId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let limit = self.limits.pending_orders_per_account;
        let limit_reached = || self.pending_at_limit(account, now);
        let Some((orders, earliest)) = limit_reached() else {
            return Ok(());
        };
        // Some may have become invalid meanwhile: they do not count.
        for id in orders {
            let order = store.order(id).await?.map(|order| order.value.status(now));
            match order {
                Some(OrderStatus::Pending | OrderStatus::Ready) => {}
                Some(OrderStatus::Processing | OrderStatus::Valid | OrderStatus::Invalid) | None => {
                    self.closed(account, id);
                }
            }
        }
        if limit_reached().is_none() {
            return Ok(());
        }
        let what =
            format!("the account has {limit} unfinished orders; finalize one of them, or let one expire");
        let wait = between(now, earliest).unwrap_or(RECHECK);
        Err(too_many(&what, "pending_orders_per_account", wait))
    }

    /// The orders of an account that has reached the limit, unless they have just been looked at, and when the first of
    /// all expires; `None` if it may open another one.
    fn pending_at_limit(&self, account: AccountId, now: Timestamp) -> Option<(Vec<OrderId>, Timestamp)> {
        let limit = usize::try_from(self.limits.pending_orders_per_account).unwrap_or(usize::MAX);
        let mut pending = locked(&self.pending);
        let of_account = pending.get_mut(&account)?;
        of_account.orders.retain(|(_, expires)| *expires > now);
        if limit == 0 || of_account.orders.len() < limit {
            return None;
        }
        let earliest = of_account.orders.iter().map(|(_, expires)| *expires).min()?;
        let is_known = of_account
            .checked
            .is_some_and(|checked| now < after(checked, RECHECK));
        if is_known {
            return Some((Vec::new(), earliest));
        }
        of_account.checked = Some(now);
        Some((of_account.orders.iter().map(|(id, _)| *id).collect(), earliest))
    }

    /// The account has started this validation of the name.
    pub(crate) fn attempted(
        &self,
        account: &Account,
        name: &Identifier,
        challenge: ChallengeId,
        now: Timestamp,
    ) {
        let limit = self.limits.failed_validations_per_name_per_hour;
        if limit == 0 {
            return;
        }
        let key = (account.id(), name.clone());
        let mut attempts = locked(&self.attempts);
        let latest = |attempts: &VecDeque<Attempt>| attempts.back().map_or(Timestamp::MIN, |last| last.at);
        make_room(&mut attempts, &key, latest);
        let of_name = attempts.entry(key).or_default();
        of_name.push_back(Attempt {
            challenge,
            at: now,
            failed: false,
        });
        // Only those that were accepted in the same moment can be more than `check_failures` lets through.
        while of_name.len()
            > usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .saturating_mul(UNDER_WAY)
        {
            of_name.pop_front();
        }
    }

    /// Whether the account's validations of this name have failed too often. Failures are the worker's to find out, so
    /// they are looked up, each once, when there are enough attempts to matter.
    pub(crate) async fn check_failures(
        &self,
        store: &dyn Store,
        account: AccountId,
        name: &Identifier,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let limit = usize::try_from(self.limits.failed_validations_per_name_per_hour).unwrap_or(usize::MAX);
        let key = (account, name.clone());
        let recent = {
            let mut attempts = locked(&self.attempts);
            let Some(of_name) = attempts.get_mut(&key) else {
                return Ok(());
            };
            of_name.retain(|attempt| after(attempt.at, HOUR) > now);
            if of_name.is_empty() {
                attempts.remove(&key);
                return Ok(());
            }
            if limit == 0 || of_name.len() < limit {
                return Ok(());
            }
            of_name.clone()
        };
        let (mut failed, mut under_way) = (Vec::new(), 0);
        for attempt in recent {
            let has_failed = match attempt.failed {
                true => Some(true),
                false => outcome(store, attempt.challenge).await?,
            };
            match has_failed {
                Some(true) => failed.push(attempt),
                Some(false) => {}
                None => under_way += 1,
            }
            if let Some(has_failed) = has_failed.filter(|_| !attempt.failed) {
                self.settled(&key, attempt.challenge, has_failed);
            }
        }
        let shown = cleaned(&name.to_string(), 260);
        let enough = failed
            .len()
            .checked_sub(limit)
            .and_then(|index| failed.get(index));
        let (what, wait) = match enough {
            Some(oldest) => (
                format!("{limit} validations of {shown} by this account have failed within an hour"),
                between(now, after(oldest.at, HOUR)).unwrap_or(RECHECK),
            ),
            None if failed.len() + under_way >= limit.saturating_mul(UNDER_WAY) => (
                format!("{under_way} validations of {shown} by this account are under way"),
                RECHECK,
            ),
            None => return Ok(()),
        };
        Err(too_many(&what, "failed_validations_per_name_per_hour", wait))
    }

    fn settled(&self, key: &(AccountId, Identifier), challenge: ChallengeId, has_failed: bool) {
        let mut attempts = locked(&self.attempts);
        if let Some(of_name) = attempts.get_mut(key) {
            match has_failed {
                true => of_name
                    .iter_mut()
                    .filter(|attempt| attempt.challenge == challenge)
                    .for_each(|attempt| attempt.failed = true),
                false => of_name.retain(|attempt| attempt.challenge != challenge),
            }
        }
    }
}

/// Whether the challenge has failed; `None` while nobody knows.
async fn outcome(store: &dyn Store, id: ChallengeId) -> Result<Option<bool>, StoreError> {
    let order = store.order(id.authorization.order).await?;
    let challenge = order.as_ref().and_then(|order| order.value.challenge(id));
    Ok(match challenge.map(|challenge| challenge.state()) {
        Some(ChallengeState::Pending | ChallengeState::Processing { .. }) => None,
        Some(ChallengeState::Invalid(_)) => Some(true),
        Some(ChallengeState::Valid(_)) | None => Some(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    #[test]
    fn a_bucket_gives_what_it_holds_at_once_and_the_rest_at_its_pace() {
        let buckets = Buckets::new(4, Duration::from_secs(60));
        for _ in 0..4 {
            assert_eq!(buckets.wait(&"a", at(0)), None);
            assert_eq!(buckets.take(&"a", at(0)), Ok(()));
        }
        let wait = Duration::from_secs(15);
        assert_eq!(buckets.take(&"a", at(0)), Err(wait));
        assert_eq!(buckets.wait(&"a", at(0)), Some(wait));
        assert_eq!(buckets.take(&"b", at(0)), Ok(()), "each key has its own");
        assert_eq!(
            buckets.take(&"a", at(14_999)),
            Err(Duration::from_millis(1)),
            "a refusal costs nothing"
        );
        assert_eq!(buckets.take(&"a", at(15_000)), Ok(()));
        assert!(buckets.take(&"a", at(15_000)).is_err());
        for _ in 0..4 {
            assert_eq!(
                buckets.take(&"a", at(600_000)),
                Ok(()),
                "full again, and not fuller"
            );
        }
        assert!(buckets.take(&"a", at(600_000)).is_err());
        let off = Buckets::new(0, HOUR);
        assert!((0..9999).all(|_| off.take(&"a", at(0)).is_ok() && off.wait(&"a", at(0)).is_none()));
    }

    #[test]
    fn t1_what_is_remembered_is_bounded_and_the_latest_is_kept() {
        let buckets = Buckets::new(1, HOUR);
        for key in 0..250_000_i64 {
            buckets.take(&key, at(key)).unwrap();
        }
        assert!(locked(&buckets.full_at).len() <= MAX_KEYS);
        assert!(buckets.take(&249_999, at(250_000)).is_err());
        assert!(buckets.take(&0, at(250_000)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_ipv4_address_is_itself() {
        let block = |text: &str| block_of(text.parse().unwrap()).to_string();
        assert_eq!(block("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(block("192.0.2.7"), "192.0.2.7");
        assert_eq!(block("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
