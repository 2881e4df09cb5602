//! The state of health: which parts of the daemon work, whether it can serve, and whether it moves at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What the parts are called that stand for our accounts at the CAs, at the beginning.
pub const ACCOUNT: &str = "upstream account";

/// What the DNS servers for challenge look-ups are called.
pub const RESOLVER: &str = "resolver";

/// What the audit log is called.
pub const AUDIT_LOG: &str = "audit log";

/// What stands for the end of the daemon, of which it has been told.
const SHUTDOWN: &str = "shutdown";

/// What the store is called.
pub const STORE: &str = "store";

/// A loop that has not turned for so long is stuck: the slowest one turns every second.
const STUCK: Duration = Duration::from_secs(60);

/// What works, and what is wrong with what does not, in words for the operator.
pub type Checks = BTreeMap<String, Result<(), String>>;

/// The parts of the daemon that must work for it to be healthy, and what is wrong with those that do not.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<Checks>,
    /// When each loop last turned.
    turns: Mutex<BTreeMap<String, Instant>>,
    store_failure: OnceLock<String>,
    is_leaving: AtomicBool,
}

impl Health {
    fn parts(&self) -> MutexGuard<'_, Checks> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a part: `Ok` if it works, otherwise what is missing, in words for the operator.
    pub fn report(&self, part: &str, state: Result<(), String>) {
        self.parts().insert(part.to_owned(), state);
    }

    /// Whether the part is missing.
    pub fn lacks(&self, part: &str) -> bool {
        self.parts().get(part).is_some_and(Result::is_err)
    }

    /// Nobody asks for a part any more.
    pub fn forget(&self, part: &str) {
        self.parts().remove(part);
    }

    /// What is missing, by part. Empty if all is well. The DNS servers are left out, for without them certificates are
    /// still handed out and revoked.
    pub fn missing(&self) -> BTreeMap<String, String> {
        let parts = self.parts();
        let of_health = parts.iter().filter(|(part, _)| *part != RESOLVER);
        let missing = of_health.filter_map(|(part, state)| Some((part.clone(), state.clone().err()?)));
        missing.collect()
    }

    /// A loop of the daemon's goes round.
    pub fn turns(&self, name: &str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.insert(name.to_owned(), Instant::now());
    }

    /// A loop of the daemon's ends as it should.
    pub fn ends(&self, name: &str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.remove(name);
    }

    /// The store takes no more writes: only a restart can tell what is on the disk.
    pub fn store_has_failed(&self, why: String) {
        self.store_failure.get_or_init(|| why);
    }

    /// The daemon has been told to stop, and serves on until the load balancers have noticed.
    pub fn leaves(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether clients had better be served by another replica from now on.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether the process is of any use: its store has not failed, and its loops turn. A restart helps if not.
    pub fn alive(&self) -> (bool, Checks) {
        let store = match self.store_failure.get() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        };
        let mut checks = Checks::from([(STORE.to_owned(), store)]);
        for (name, turned) in self.turns.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let state = match turned.elapsed() {
                since if since > STUCK => Err(format!("has not turned for {} s", since.as_secs())),
                _ => Ok(()),
            };
            checks.insert(format!("loop {name}"), state);
        }
        (checks.values().all(Result::is_ok), checks)
    }

    /// Whether clients can be served: the daemon is not about to stop, and every part works, but of the accounts one is enough, for the other CAs hold up none
    /// but their own orders.
    pub fn ready(&self) -> (bool, Checks) {
        let mut checks = self.parts().clone();
        if let Some(why) = self.store_failure.get() {
            checks.insert(STORE.to_owned(), Err(why.clone()));
        }
        if self.is_leaving() {
            checks.insert(
                SHUTDOWN.to_owned(),
                Err("the daemon has been told to stop".to_owned()),
            );
        }
        let is_account = |(part, _): &(&String, &Result<(), String>)| part.starts_with(ACCOUNT);
        let mut accounts = checks.iter().filter(is_account);
        let has_account = accounts.any(|(_, state)| state.is_ok());
        let mut others = checks.iter().filter(|part| !is_account(part));
        (has_account && others.all(|(_, state)| state.is_ok()), checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Result<(), String> {
        Err("it is away".to_owned())
    }

    #[test]
    fn a_part_is_missing_until_it_is_reported_to_work() {
        let health = Health::default();
        health.report(STORE, Err("the disk is full".to_owned()));
        assert_eq!(
            health.missing().get(STORE).map(String::as_str),
            Some("the disk is full")
        );
        health.report(STORE, Ok(()));
        assert!(health.missing().is_empty());
    }

    #[test]
    fn one_account_is_enough_to_be_ready_and_every_other_part_is_needed() {
        let health = Health::default();
        assert!(!health.ready().0, "nothing is known yet");
        health.report(ACCOUNT, missing());
        health.report("upstream account other", Ok(()));
        for part in [STORE, RESOLVER, "own certificate"] {
            health.report(part, Ok(()));
        }
        assert!(health.ready().0);
        for part in [STORE, RESOLVER, "own certificate", "upstream account other"] {
            health.report(part, missing());
            let (ready, checks) = health.ready();
            assert!(!ready && checks[part] == missing(), "{part}");
            assert_eq!(health.missing().contains_key(part), part != RESOLVER);
            health.report(part, Ok(()));
        }
        health.forget("upstream account other");
        assert!(!health.ready().0, "the account that is left is missing");
    }

    #[tokio::test(start_paused = true)]
    async fn f29_a_loop_that_does_not_turn_any_more_and_a_store_that_has_failed_end_the_life() {
        let health = Health::default();
        health.turns("validate");
        health.turns("issue");
        tokio::time::advance(STUCK).await;
        assert!(health.alive().0);
        health.turns("issue");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (alive, checks) = health.alive();
        assert!(!alive && checks["loop issue"].is_ok());
        assert!(
            checks["loop validate"]
                .as_ref()
                .is_err_and(|why| why.contains("61 s"))
        );
        health.ends("validate");
        assert!(health.alive().0);
        health.store_has_failed("EIO".to_owned());
        assert!(!health.alive().0 && !health.ready().0);
        health.report(STORE, Ok(()));
        assert_eq!(health.ready().1[STORE], Err("EIO".to_owned()), "for good");
    }
}
