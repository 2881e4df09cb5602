//! The jobs that are waiting, and who holds a lease on which.
//!
//! Jobs are stored; this index of them is rebuilt when the store is opened. Leases are in memory only: one process owns
//! the embedded store, so when it dies every holder dies with it, and every lease is rightly void. Leasing thus costs no
//! sync. A lease runs out when somebody asks for work after its deadline; until then its holder may still settle.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::acme::job::{Job, Work, WorkKind};
use crate::acme::random::random_bytes;
use crate::store::{Lease, StoreError};

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<Work, Entry>,
    /// By kind: when each is due.
    waiting: BTreeMap<WorkKind, BTreeSet<(Timestamp, Work)>>,
    /// By kind: when each lease runs out.
    leased: BTreeMap<WorkKind, BTreeSet<(Timestamp, Work)>>,
}

#[derive(Debug)]
struct Entry {
    job: Job,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    token: u64,
    until: Timestamp,
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

    /// Removes a job, whoever holds it.
    pub(crate) fn remove(&mut self, work: &Work) {
        if let Some(entry) = self.entries.remove(work) {
            self.waiting
                .entry(work.kind())
                .or_default()
                .remove(&(entry.job.due, *work));
            if let Some(holder) = entry.holder {
                self.leased
                    .entry(work.kind())
                    .or_default()
                    .remove(&(holder.until, *work));
            }
        }
    }

    /// The job waits, and nobody holds it.
    pub(crate) fn wait(&mut self, job: Job) {
        self.remove(&job.work);
        self.waiting
            .entry(job.work.kind())
            .or_default()
            .insert((job.due, job.work));
        self.entries.insert(job.work, Entry { job, holder: None });
    }

    /// Takes due jobs, after those whose leases have run out have gone back into the queue.
    pub(crate) fn lease(
        &mut self,
        kind: WorkKind,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Vec<Lease> {
        self.expire(kind, now);
        let waiting = self.waiting.entry(kind).or_default();
        let due = waiting.iter().take_while(|(due, _)| *due <= now);
        let taken: Vec<_> = due.take(limit).copied().collect();
        let mut leases = Vec::with_capacity(taken.len());
        for place in taken {
            waiting.remove(&place);
            let (_, work) = place;
            if let Some(entry) = self.entries.get_mut(&work) {
                let token = u64::from_ne_bytes(random_bytes());
                entry.holder = Some(Holder {
                    token,
                    until,
                    settling: false,
                    again: None,
                });
                self.leased.entry(kind).or_default().insert((until, work));
                leases.push(Lease {
                    job: entry.job,
                    token,
                    until,
                });
            }
        }
        leases
    }

    fn expire(&mut self, kind: WorkKind, now: Timestamp) {
        let over = self.leased.entry(kind).or_default().iter();
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

    /// The job as it was leased, if the lease is held. Its deadline moves to the lease's, if that is later.
    pub(crate) fn hold(&mut self, lease: &Lease) -> Result<Job, StoreError> {
        let work = lease.job.work;
        let entry = self.entries.get_mut(&work).ok_or(StoreError::LeaseLost)?;
        let holder = entry.holder.as_mut();
        let holder = holder.filter(|holder| holder.token == lease.token && !holder.settling);
        let holder = holder.ok_or(StoreError::LeaseLost)?;
        if lease.until > holder.until {
            let leased = self.leased.entry(work.kind()).or_default();
            leased.remove(&(holder.until, work));
            leased.insert((lease.until, work));
            holder.until = lease.until;
        }
        Ok(entry.job)
    }

    /// Begins the settlement of a lease that is held. Gives the work of the same name that was enqueued meanwhile.
    pub(crate) fn begin_settling(&mut self, lease: &Lease) -> Result<Option<Job>, StoreError> {
        self.hold(lease)?;
        let entry = self.entries.get_mut(&lease.job.work);
        let holder = entry.and_then(|entry| entry.holder.as_mut());
        let holder = holder.ok_or(StoreError::LeaseLost)?;
        holder.settling = true;
        Ok(holder.again)
    }

    /// Gives a leased job back without writing anything: it waits until `due`, or until the work of the same name that
    /// was enqueued meanwhile is due.
    pub(crate) fn put_off(&mut self, lease: &Lease, due: Timestamp) -> Result<(), StoreError> {
        let job = self.hold(lease)?;
        let again = self.begin_settling(lease)?;
        self.wait(again.unwrap_or(Job { due, ..job }));
        Ok(())
    }

    /// How many jobs there are of a kind.
    pub(crate) fn count(&self, kind: WorkKind) -> u64 {
        let of_kind = self.entries.keys().filter(|work| work.kind() == kind);
        of_kind.count().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::id::OrderId;
    use std::time::Duration;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_settlement_under_way_keeps_the_lease_from_running_out() {
        let mut queue = Queue::default();
        let job = Job::now(Work::Issue(OrderId::random()), at(0));
        queue.add(job);
        let lease = queue.lease(WorkKind::Issue, at(1), at(2), 9).remove(0);
        assert_eq!(queue.begin_settling(&lease), Ok(None));
        assert!(queue.lease(WorkKind::Issue, at(3), at(4), 9).is_empty());
        assert_eq!(queue.begin_settling(&lease), Err(StoreError::LeaseLost));
        queue.remove(&job.work);
        assert_eq!(queue.count(WorkKind::Issue), 0);
        assert!(
            queue
                .waiting
                .values()
                .chain(queue.leased.values())
                .all(BTreeSet::is_empty)
        );
    }

    #[test]
    fn work_enqueued_while_it_is_done_is_done_once_more() {
        let mut queue = Queue::default();
        let job = Job::now(Work::Revoke(OrderId::random()), at(0));
        queue.add(job);
        let lease = queue.lease(WorkKind::Revoke, at(1), at(2), 9).remove(0);
        let later = Job { due: at(5), ..job };
        assert!(queue.follow(later));
        assert!(queue.lease(WorkKind::Revoke, at(1), at(2), 9).is_empty());
        assert_eq!(queue.begin_settling(&lease), Ok(Some(later)));
        assert!(!queue.follow(later));
        queue.wait(later);
        assert_eq!(queue.lease(WorkKind::Revoke, at(5), at(9), 9).len(), 1);
    }
}
