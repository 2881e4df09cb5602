//! The jobs that are waiting, and who holds a lease on which.
//!
//! Jobs are stored; this index of them is rebuilt when the store is opened. Leases are in memory only: one process owns
//! the embedded store, so when it dies every holder dies with it, and every lease is rightly void. Leasing thus costs no
//! sync. A lease runs out when somebody asks for work after its deadline; until then its holder may still settle.
//! Deadlines are points on the monotonic clock, for a lease must outlast its holder's step whatever happens to the
//! system's clock (SECURITY F30).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::acme::id::AccountId;
use crate::acme::job::{Job, Lane, Work};
use crate::acme::random::random_bytes;
use crate::store::{Lease, StoreError, Waiting};

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<Work, Entry>,
    lanes: BTreeMap<Lane, Line>,
}

/// The jobs of one lane, in such an order that each lease is found in logarithmic time.
#[derive(Debug, Default)]
struct Line {
    owners: HashMap<AccountId, Owner>,
    /// The owners of waiting jobs: how many leases each holds, and when the first of its jobs is due.
    next: BTreeSet<(usize, Timestamp, AccountId)>,
    /// Since when each job waits to be done, leased or not.
    all: BTreeSet<(Timestamp, Work)>,
    /// When each lease runs out.
    leased: BTreeSet<(Instant, Work)>,
}

#[derive(Debug, Default)]
struct Owner {
    held: usize,
    /// When each job is due.
    waiting: BTreeSet<(Timestamp, Work)>,
}

impl Line {
    /// Changes what is known of an owner, and with it the owner's place in the line.
    fn change(&mut self, id: AccountId, change: impl FnOnce(&mut Owner)) {
        let owner = self.owners.entry(id).or_default();
        if let Some((due, _)) = owner.waiting.first() {
            self.next.remove(&(owner.held, *due, id));
        }
        change(owner);
        match owner.waiting.first() {
            Some((due, _)) => {
                self.next.insert((owner.held, *due, id));
            }
            None if owner.held == 0 => {
                self.owners.remove(&id);
            }
            None => {}
        }
    }

    /// Takes the next due job of the owner who holds the fewest leases, but not `share` or more. `held` is the fewest
    /// to look for, and moves on as nobody with so few is found.
    fn take(&mut self, now: Timestamp, share: usize, held: &mut usize) -> Option<Work> {
        while *held < share {
            let from = (*held, Timestamp::MIN, AccountId::from_bytes([0; 16]));
            let (found, due, owner) = *self.next.range(from..).next()?;
            if found == *held && due <= now {
                let mut taken = None;
                self.change(owner, |owner| {
                    taken = owner.waiting.pop_first();
                    owner.held = owner.held.saturating_add(1);
                });
                return taken.map(|(_, work)| work);
            }
            *held = found.max(held.saturating_add(1));
        }
        None
    }
}

#[derive(Debug)]
struct Entry {
    job: Job,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    token: u64,
    until: Instant,
    /// The settlement is on its way to the disk: the lease can not run out any more.
    settling: bool,
    /// Work of the same name that was enqueued in the meantime: it is done after this.
    again: Option<Job>,
}

impl Queue {
    /// Adds a job, or replaces the one of the same name that waits. One that is being worked on is done once more.
    pub(crate) fn add(&mut self, job: Job) {
        match self.entries.get_mut(&job.work).map(|entry| &mut entry.holder) {
            Some(Some(holder)) => holder.again = Some(job),
            Some(None) | None => self.wait(job),
        }
    }

    /// Says that work of the same name follows, if there is a holder whose settlement is not under way yet.
    pub(crate) fn follow(&mut self, job: Job) -> bool {
        match self.entries.get_mut(&job.work).map(|entry| &mut entry.holder) {
            Some(Some(holder)) if !holder.settling => {
                holder.again = Some(job);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The job of this work, whoever holds it.
    pub(crate) fn job(&self, work: &Work) -> Option<Job> {
        self.entries.get(work).map(|entry| entry.job)
    }

    /// Removes a job, whoever holds it.
    pub(crate) fn remove(&mut self, work: &Work) {
        let Some(entry) = self.entries.remove(work) else {
            return;
        };
        let line = self.lanes.entry(entry.job.lane()).or_default();
        line.all.remove(&(entry.job.since, *work));
        match entry.holder {
            Some(holder) => {
                line.leased.remove(&(holder.until, *work));
                line.change(entry.job.owner, |owner| owner.held = owner.held.saturating_sub(1));
            }
            None => line.change(entry.job.owner, |owner| {
                owner.waiting.remove(&(entry.job.due, *work));
            }),
        }
    }

    /// The job waits, and nobody holds it.
    pub(crate) fn wait(&mut self, job: Job) {
        self.remove(&job.work);
        let line = self.lanes.entry(job.lane()).or_default();
        line.all.insert((job.since, job.work));
        line.change(job.owner, |owner| {
            owner.waiting.insert((job.due, job.work));
        });
        self.entries.insert(job.work, Entry { job, holder: None });
    }

    /// Takes due jobs.
    pub(crate) fn lease(
        &mut self,
        lane: Lane,
        now: Timestamp,
        until: Instant,
        limit: usize,
        share: usize,
    ) -> Vec<Lease> {
        let line = self.lanes.entry(lane).or_default();
        let mut leases = Vec::new();
        let mut held = 0;
        while leases.len() < limit {
            let Some(work) = line.take(now, share, &mut held) else {
                break;
            };
            let Some(entry) = self.entries.get_mut(&work) else {
                continue;
            };
            let token = u64::from_ne_bytes(random_bytes());
            entry.holder = Some(Holder {
                token,
                until,
                settling: false,
                again: None,
            });
            line.leased.insert((until, work));
            leases.push(Lease {
                job: entry.job,
                token,
            });
        }
        leases
    }

    /// A lease that is held runs out at another time.
    pub(crate) fn renew(&mut self, lease: &Lease, until: Instant) -> Result<(), StoreError> {
        let job = self.held(lease)?;
        let entry = self.entries.get_mut(&lease.job.work);
        let holder = entry.and_then(|entry| entry.holder.as_mut());
        let holder = holder.ok_or(StoreError::LeaseLost)?;
        let before = std::mem::replace(&mut holder.until, until);
        let line = self.lanes.entry(job.lane()).or_default();
        line.leased.remove(&(before, job.work));
        line.leased.insert((until, job.work));
        Ok(())
    }

    /// How many jobs of the lane are leased.
    pub(crate) fn held_in(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |line| line.leased.len())
    }

    /// Jobs whose leases have run out go back into the queue.
    pub(crate) fn expire(&mut self, lane: Lane, now: Instant) {
        let over = self.lanes.entry(lane).or_default().leased.iter();
        let over = over.take_while(|(until, _)| *until <= now);
        let over: Vec<Work> = over.map(|(_, work)| *work).collect();
        for work in over {
            let Some(entry) = self.entries.get(&work) else {
                continue;
            };
            let (job, settling) = match &entry.holder {
                Some(holder) => (holder.again.unwrap_or(entry.job), holder.settling),
                None => (entry.job, false),
            };
            if !settling {
                self.wait(job);
            }
        }
    }

    /// The job as it was leased, if the lease is held.
    pub(crate) fn held(&self, lease: &Lease) -> Result<Job, StoreError> {
        let entry = self.entries.get(&lease.job.work).ok_or(StoreError::LeaseLost)?;
        let holder = entry.holder.as_ref();
        let holder = holder.filter(|holder| holder.token == lease.token && !holder.settling);
        holder.map(|_| entry.job).ok_or(StoreError::LeaseLost)
    }

    /// Begins the settlement of a lease that is held. Gives the work of the same name that was enqueued meanwhile.
    pub(crate) fn begin_settling(&mut self, lease: &Lease) -> Result<Option<Job>, StoreError> {
        self.held(lease)?;
        let entry = self.entries.get_mut(&lease.job.work);
        let holder = entry.and_then(|entry| entry.holder.as_mut());
        let holder = holder.ok_or(StoreError::LeaseLost)?;
        holder.settling = true;
        Ok(holder.again)
    }

    /// Gives a leased job back without writing anything: it waits until `due`, or until the work of the same name that
    /// was enqueued meanwhile is due.
    pub(crate) fn put_off(&mut self, lease: &Lease, due: Timestamp) -> Result<(), StoreError> {
        let job = self.held(lease)?;
        let again = self.begin_settling(lease)?;
        self.wait(again.unwrap_or(Job { due, ..job }));
        Ok(())
    }

    /// The jobs by lane.
    pub(crate) fn census(&self) -> BTreeMap<Lane, Waiting> {
        let waiting = |line: &Line| {
            line.all.first().map(|(since, _)| Waiting {
                jobs: line.all.len().try_into().unwrap_or(u64::MAX),
                since: *since,
            })
        };
        let lanes = self.lanes.iter();
        lanes
            .filter_map(|(lane, line)| Some((*lane, waiting(line)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::id::OrderId;
    use crate::acme::upstream::UpstreamName;
    use std::time::Duration;

    const HERE: UpstreamName = UpstreamName::DEFAULT;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    impl Queue {
        /// Whether nothing is left of jobs that are gone.
        fn is_clean(&self) -> bool {
            let clean = |line: &Line| {
                line.owners.is_empty()
                    && line.next.is_empty()
                    && line.all.is_empty()
                    && line.leased.is_empty()
            };
            self.entries.is_empty() && self.lanes.values().all(clean)
        }
    }

    #[test]
    fn a_settlement_under_way_keeps_the_lease_from_running_out() {
        let mut queue = Queue::default();
        let job = Job::now(Work::Issue(OrderId::random()), AccountId::DAEMON, HERE, at(0));
        queue.add(job);
        let now = Instant::now();
        let lease = queue.lease(Lane::Issue(HERE), at(1), now, 9, 9).remove(0);
        assert_eq!(queue.begin_settling(&lease), Ok(None));
        queue.expire(Lane::Issue(HERE), now);
        assert!(queue.lease(Lane::Issue(HERE), at(3), now, 9, 9).is_empty());
        assert_eq!(queue.begin_settling(&lease), Err(StoreError::LeaseLost));
        queue.remove(&job.work);
        assert!(queue.census().is_empty());
        assert!(queue.is_clean());
    }

    #[test]
    fn work_enqueued_while_it_is_done_is_done_once_more() {
        let mut queue = Queue::default();
        let job = Job::now(Work::Revoke(OrderId::random()), AccountId::DAEMON, HERE, at(0));
        queue.add(job);
        let now = Instant::now();
        let lease = queue.lease(Lane::Revoke(HERE), at(1), now, 9, 9).remove(0);
        let later = Job { due: at(5), ..job };
        assert!(queue.follow(later));
        assert!(queue.lease(Lane::Revoke(HERE), at(1), now, 9, 9).is_empty());
        assert_eq!(queue.begin_settling(&lease), Ok(Some(later)));
        assert!(!queue.follow(later));
        queue.wait(later);
        assert_eq!(queue.lease(Lane::Revoke(HERE), at(5), now, 9, 9).len(), 1);
    }

    #[test]
    fn a_lease_does_not_look_at_the_jobs_that_wait() {
        let mut queue = Queue::default();
        let (many, few) = (AccountId::random(), AccountId::random());
        for _ in 0..100_000 {
            queue.add(Job::now(Work::Revoke(OrderId::random()), many, HERE, at(0)));
        }
        let now = Instant::now();
        let held = queue.lease(Lane::Revoke(HERE), at(1), now, 99, 64);
        assert_eq!(held.len(), 64);
        // If each of these went through the waiting jobs, this test would not end.
        for _ in 0..50_000 {
            assert!(queue.lease(Lane::Revoke(HERE), at(1), now, 99, 64).is_empty());
        }
        let one = Job::now(Work::Revoke(OrderId::random()), few, HERE, at(1));
        queue.add(one);
        let lease = queue.lease(Lane::Revoke(HERE), at(1), now, 99, 64);
        assert_eq!(lease.iter().map(|lease| lease.job).collect::<Vec<_>>(), [one]);
        let works: Vec<Work> = queue.entries.keys().copied().collect();
        for work in works {
            queue.remove(&work);
        }
        assert!(queue.is_clean());
    }
}
