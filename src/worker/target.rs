//! How many validations at a time go towards one name (SECURITY T1): whoever makes orders can not turn us against a
//! third host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::order::after;

/// The most validations of one name at a time.
const AT_A_TIME: usize = 8;

/// How long a validation waits at least when there are so many already.
const WAIT: Duration = Duration::from_secs(1);

/// How far apart those that wait come back, so that even a flood of them costs little.
const SPACING: Duration = Duration::from_millis(125);

/// The names that are being validated.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    names: Mutex<HashMap<String, Target>>,
}

#[derive(Debug)]
struct Target {
    running: usize,
    /// When the latest of those that wait comes back.
    booked: Timestamp,
}

/// A place at a target, until it is dropped.
#[derive(Debug)]
pub(crate) struct Visit<'a> {
    targets: &'a Targets,
    name: String,
}

impl Targets {
    /// A place at the target.
    ///
    /// # Errors
    ///
    /// How long to wait before asking again, if none is free.
    pub(crate) fn visit(&self, name: String, now: Timestamp) -> Result<Visit<'_>, Duration> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let target = names.entry(name.clone()).or_insert(Target {
            running: 0,
            booked: now,
        });
        if target.running >= AT_A_TIME {
            target.booked = after(target.booked, SPACING).max(after(now, WAIT));
            let wait = target.booked.duration_since(now);
            return Err(wait.try_into().unwrap_or(WAIT));
        }
        target.running += 1;
        Ok(Visit { targets: self, name })
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut names = self.targets.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = names.get_mut(&self.name) {
            target.running = target.running.saturating_sub(1);
            if target.running == 0 {
                names.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> String {
        "www.example.com".to_owned()
    }

    #[test]
    fn validation_fanout_cap_eight_at_a_time_go_to_one_name_and_others_are_not_held_up() {
        let targets = Targets::default();
        let now = Timestamp::UNIX_EPOCH;
        let mut visits: Vec<_> = (0..AT_A_TIME)
            .map(|_| targets.visit(name(), now).unwrap())
            .collect();
        assert_eq!(targets.visit(name(), now).unwrap_err(), WAIT);
        let other = targets.visit("mail.example.com".to_owned(), now).unwrap();
        visits.pop();
        visits.push(targets.visit(name(), now).unwrap());
        assert!(targets.visit(name(), now).is_err());
        drop((visits, other));
        assert!(
            targets.names.lock().unwrap().is_empty(),
            "nothing is kept of what is over"
        );
    }

    #[test]
    fn validation_fanout_cap_those_that_wait_come_back_one_after_the_other() {
        let targets = Targets::default();
        let now = Timestamp::UNIX_EPOCH;
        let _visits: Vec<_> = (0..AT_A_TIME)
            .map(|_| targets.visit(name(), now).unwrap())
            .collect();
        let waits = (0..1000).map(|_| targets.visit(name(), now).unwrap_err());
        let waits: Vec<Duration> = waits.collect();
        assert!(waits.is_sorted() && waits[0] == WAIT);
        assert_eq!(waits[999], WAIT + 999 * SPACING);
        let later = after(now, Duration::from_secs(3600));
        assert_eq!(targets.visit(name(), later).unwrap_err(), WAIT);
    }
}
