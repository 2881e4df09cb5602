//! Persistence: the facts that both entrances, the ACME server and the worker, share.
//!
//! [`Store`] is the contract; `contract` is one suite of tests that every backend passes; [`sled`] is the embedded
//! backend. Records are parsed in `codec`, nowhere else.

pub mod audited;
mod codec;
#[cfg(test)]
mod contract;
pub mod moving;
pub mod offers;
pub mod postgres;
pub mod shared;
pub mod sled;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::acme::account::Account;
use crate::acme::certificate::{Der, Fingerprint};
use crate::acme::external_account::{ExternalAccountKey, KeyId};
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, Work};
use crate::acme::order::Order;
use crate::acme::renewal::CertificateId;
use crate::acme::upstream::UpstreamName;
use crate::store::shared::Shared;

/// How the store is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the embedded store.
    pub path: PathBuf,
    /// New accounts and orders are refused while the file system has fewer free bytes than this, so that what is under
    /// way can be finished.
    pub reserve_bytes: u64,
    /// How much memory the backend may use to cache records, in bytes.
    pub cache_bytes: u64,
    /// How long the committer may wait for more writes to share one sync, when there are any to be expected.
    pub gather: Duration,
}

/// A record and the version that was read. Writing gives the version back: the write succeeds only if the stored
/// version is still that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// The version that was read.
    pub version: u64,
}

impl<T> Versioned<T> {
    /// The record after a transition, still under the version that was read.
    pub fn with(version: u64, value: T) -> Self {
        Self { value, version }
    }
}

/// What came of an attempt to register an account.
#[derive(Debug)]
pub enum Registration {
    /// The account is stored.
    Created,
    /// The key has this account already (RFC 8555 §7.3.1); nothing was written.
    Exists(Versioned<Account>),
    /// The account is bound to a one-time external account key that has an account already; nothing was written.
    KeyUsed,
}

/// A job that the holder alone may work on until the lease runs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: Job,
    /// Who holds it: unique to one lease.
    pub token: u64,
}

/// What becomes of a leased job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is done, and deleted.
    Done,
    /// It goes back into the queue, due at that time, with that number of faults in a row.
    Again {
        /// When it is due.
        due: Timestamp,
        /// How often in a row it has been put off because of a fault.
        faults: u32,
    },
    /// It goes into the lane of another upstream, due at that time, as if it had not been tried.
    Moved {
        /// The other upstream: the one of the order that is written with it.
        upstream: UpstreamName,
        /// When it is due.
        due: Timestamp,
    },
}

/// What a worker writes when it gives a job back, all of it or nothing.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// What becomes of the job.
    pub next: Next,
    /// The order after the work, if it changed.
    pub order: Option<Versioned<Order>>,
    /// Issuers' certificates that the order's certificate refers to.
    pub issuers: Vec<Der>,
}

/// How many orders a name may have (`policy.per_name`), as the store is to see to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameQuota {
    /// The name.
    pub name: Identifier,
    /// From when on they count ([`Store::orders_for`]).
    pub since: Timestamp,
    /// The most that there may be, the one that is written among them.
    pub orders: usize,
}

/// What the store says about itself.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// The lanes that have jobs.
    pub lanes: BTreeMap<Lane, Waiting>,
    /// Bytes on disk.
    pub bytes_on_disk: u64,
    /// Free bytes of its file system, if it is one of this machine's.
    pub bytes_free: Option<u64>,
    /// Syncs since the start.
    pub syncs: u64,
    /// Commits since the start.
    pub commits: u64,
}

/// The jobs of one lane, leased ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many there are.
    pub jobs: u64,
    /// Since when the first of them waits to be done.
    pub since: Timestamp,
}

/// What went wrong with the store. Never the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The record has changed since it was read: read again and decide again.
    #[error("the record has changed in the meantime")]
    Conflict,
    /// The lease has run out, or the job is somebody else's.
    #[error("the lease is not held any more")]
    LeaseLost,
    /// The disk is nearly full: nothing new is taken on.
    #[error("the file system of the store has only {free} bytes left, fewer than the reserve of {reserve}")]
    Full {
        /// Free bytes.
        free: u64,
        /// The reserve.
        reserve: u64,
    },
    /// Another process has the store open.
    #[error(
        "the store {path} is in use by process {pid}; stop it first, or give this one another db.dataSource"
    )]
    InUse {
        /// The store's directory.
        path: String,
        /// The other process, or `unknown`.
        pid: String,
    },
    /// A write has been under way for so long that the disk must hang. It may still end.
    #[error("the store has been writing the same thing for {seconds} s: its disk hangs")]
    Stalled {
        /// For how many seconds.
        seconds: u64,
    },
    /// A record can not be read.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Too many writes have gone by a snapshot that is being read.
    #[error(
        "more has changed in the meantime than the store can remember; make the backup when less is going on"
    )]
    Overtaken,
    /// The database can not be reached, or does not answer. It may come back.
    #[error("{0}")]
    Unavailable(String),
    /// The database does not let us in, or is not ours: somebody has to do something.
    #[error("{0}")]
    Refused(String),
    /// The disk failed. The store takes no more writes; only a restart, which reads the disk again, can tell what is
    /// on it.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Where accounts, orders and jobs are kept.
///
/// The contract, which one suite tests on every backend:
///
/// - A write that returned `Ok` survives a crash and a power cut, whole. A write that did not return `Ok` may have
///   happened whole, or not at all.
/// - Every write of an existing record is a compare-and-swap on the version that was read; a loser gets
///   [`StoreError::Conflict`] and nothing is written.
/// - An order and the job that its change causes are one write. An order never loses its job to a crash.
/// - A one-time external account key gets at most one account, however many ask at once.
/// - A certificate is replaced by at most one order that may still do so ([`Order::holds_replaced`]), however many are
///   made at once.
/// - A job is leased by at most one holder at a time. A lease that is not settled in its time runs out, and the job is
///   leased again. The store measures that time by a clock of its own that nobody sets: a step of the system's clock
///   ends no lease. Jobs of a kind that this version does not know are left alone.
/// - Jobs are leased by the lane. However many jobs wait in one lane, and for however long, leasing from another one is
///   neither slower nor later for it.
/// - Leases of a lane are shared out fairly between the owners of jobs, so that no number of jobs of one owner keeps
///   another one's waiting.
/// - A reader sees every write that returned `Ok` before the read began.
/// - Nothing here assumes that there is only one process.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a new account, unless its key has one already under the same provisioner, or the one-time external
    /// account key that it is bound to has.
    async fn create_account(&self, account: &Account) -> Result<Registration, StoreError>;

    /// The account with this id.
    async fn account(&self, id: AccountId) -> Result<Option<Versioned<Account>>, StoreError>;

    /// The ids of all accounts greater than `after`, ascending, at most `limit`.
    async fn all_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError>;

    /// The provisioner's account with the key of this RFC 7638 thumbprint.
    async fn account_by_key(
        &self,
        provisioner: &str,
        thumbprint: &str,
    ) -> Result<Option<Versioned<Account>>, StoreError>;

    /// Replaces an account.
    async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError>;

    /// Stores a new external account key. `Conflict` if its provisioner has one of that id.
    async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError>;

    /// The provisioner's external account key of this id.
    async fn external_account_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError>;

    /// All external account keys, the oldest first.
    async fn external_account_keys(&self) -> Result<Vec<ExternalAccountKey>, StoreError>;

    /// Replaces an external account key.
    async fn update_external_account_key(&self, key: Versioned<ExternalAccountKey>)
    -> Result<(), StoreError>;

    /// The account that the provisioner's one-time external account key of this id was used for.
    async fn account_by_one_time_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<Account>>, StoreError>;

    /// Stores a new order, with the work that it causes. `Conflict` if the id is taken, or the certificate that it replaces
    /// has a replacement.
    async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError>;

    /// The order with this id.
    async fn order(&self, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError>;

    /// The same if it is the account's. What belongs to another account is looked for exactly like what does not exist:
    /// no record is read that would take its time (SECURITY C501).
    async fn own_order(
        &self,
        account: AccountId,
        id: OrderId,
    ) -> Result<Option<Versioned<Order>>, StoreError>;

    /// The ids of all orders greater than `after`, ascending, at most `limit`.
    async fn all_orders(&self, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError>;

    /// The account's orders with ids greater than `after`, ascending, at most `limit`.
    async fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError>;

    /// The order whose certificate's leaf has this fingerprint. If it came too late for one order and was handed over
    /// to another, that is the other one.
    async fn order_of_certificate(&self, leaf: Fingerprint) -> Result<Option<OrderId>, StoreError>;

    /// The order whose certificate RFC 9773 §4.1 names so.
    async fn order_of_certificate_id(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError>;

    /// The order that replaces the certificate, and is not known to have failed.
    async fn replacement_of(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError>;

    /// Up to `limit` orders about whose renewal the upstream is to be asked by now ([`Order::renewal_due`]), those first
    /// that have been due longest.
    async fn renewals_due(
        &self,
        upstream: UpstreamName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError>;

    /// The issuers' certificates with these fingerprints, in this order. A missing one is [`StoreError::Corrupt`].
    async fn issuers(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError>;

    /// Replaces an order and enqueues the work that the change causes.
    async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError>;

    /// The same of an order that begins to count for its names: `Conflict`, and nothing is written, if that is more than
    /// one of them may have. However many are written at once, and by whomever, together they are not more either.
    async fn commit_within(
        &self,
        order: Versioned<Order>,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError>;

    /// The job of this work, as it waits or was leased, if there is one. For people: it may be another one at once.
    async fn job(&self, work: &Work) -> Result<Option<Job>, StoreError>;

    /// Takes up to `limit` due jobs of a lane, for as long as `span`: each time of the owner who holds the fewest leases
    /// of the lane, and of those the job that has been due longest. An owner who holds `share` leases or more gets
    /// none. Afterwards there are at most `most` leases of the lane, whoever holds them in whatever process. However many
    /// jobs wait, this stays cheap.
    async fn lease(
        &self,
        lane: Lane,
        now: Timestamp,
        span: Duration,
        limit: usize,
        share: usize,
        most: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// The lease holds for `span` from now on. [`StoreError::LeaseLost`] if it is not held any more.
    async fn renew(&self, lease: &Lease, span: Duration) -> Result<(), StoreError>;

    /// Replaces the leased job's order in the middle of the work, and keeps the lease. Gives the order's new version.
    async fn checkpoint(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError>;

    /// Gives a leased job back, together with what the work has changed.
    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError>;

    /// The order that is first in line among the finalized, unfinished orders for exactly the same names as this one
    /// at the same upstream: one that is open there, then by the time of finalization, then by id. `None` if none is in line.
    async fn first_in_line(&self, order: &Order) -> Result<Option<OrderId>, StoreError>;

    /// Whether a certificate was issued for an order of the same account for exactly the same names, and is stored.
    async fn has_issued(&self, order: &Order) -> Result<bool, StoreError>;

    /// Up to `limit` orders of the same account for exactly the same names at the same upstream that this
    /// order could get a certificate from, at once or later: they have ended too early, or nobody has come for theirs
    /// ([`Order::may_hand_over`]).
    async fn late_orders(&self, order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError>;

    /// When the orders for this name that count since then or later began to ([`Order::counts_since`]), ascending,
    /// whoever has made them.
    async fn orders_for(&self, name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError>;

    /// Returns when a job may have become available, or after a while in any case: a wake-up may be missed, so callers
    /// also look on a timer.
    async fn job_added(&self);

    /// A small named value of the daemon's own (keys, the upstream account), if there is one.
    async fn load(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError>;

    /// Writes a small named value; `version` is 0 for one that does not exist yet. Gives the new version.
    async fn save(&self, name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError>;

    /// The names of the small named values that begin with this, in order.
    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Deletes up to `limit` orders whose time is over ([`Order::delete_after`]), with their jobs and indexes. Gives
    /// how many.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Counts, for metrics.
    async fn census(&self) -> Result<Census, StoreError>;

    /// Whether there is room for new accounts and orders, and writes reach the disk ([`StoreError::Stalled`] if not).
    async fn check_room(&self) -> Result<(), StoreError>;

    /// Everything that is stored as of now, to be read while writes go on: each write is in it whole, or not at all.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// The time by the store's own clock, if it has one.
    async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    /// What other processes with the same store share; `None` if only one can have it open.
    fn shared(&self) -> Option<&dyn Shared>;

    /// Returns once the store has failed and the process must end.
    async fn failed(&self) -> StoreError;
}

/// Everything that was stored at one moment, for a backup. To hold it costs memory for what is overwritten meanwhile.
#[async_trait]
pub trait Snapshot: Send {
    /// The next entries; none at the end.
    async fn next(&mut self) -> Result<Vec<Entry>, StoreError>;
}

/// A stored entry, as the embedded backend keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// What stands under it.
    pub value: Vec<u8>,
}

/// Stands for the order's names: the same for the same set of names.
pub(crate) fn names_of(order: &Order) -> [u8; 32] {
    *Fingerprint::of(names_as_text(order).as_bytes()).as_bytes()
}

/// Stands for the order's names at its upstream. At the default one it is the same as [`names_of`], as it was before
/// there were others.
pub(crate) fn line_of(order: &Order) -> [u8; 32] {
    let upstream = order.upstream_name();
    match upstream.is_default() {
        true => names_of(order),
        false => *Fingerprint::of(format!("{upstream}\0{}", names_as_text(order)).as_bytes()).as_bytes(),
    }
}

fn names_as_text(order: &Order) -> String {
    let mut names: Vec<String> = order.identifiers().map(ToString::to_string).collect();
    names.sort_unstable();
    names.join(" ")
}

/// The work's key in the queue.
pub(crate) fn key_of(work: &Work) -> String {
    work.to_string()
}
