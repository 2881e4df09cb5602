//! The store's contract over sled: what each operation reads, and what it hands to the committer.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

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
use crate::store::sled::committer::{Change, Jobs, Outcome, Put};
use crate::store::sled::put::{account_put, external_key_put, order_put};
use crate::store::sled::record::{Head, View as _};
use crate::store::sled::view::{Range, beginning_with, end_of};
use crate::store::sled::{SledStore, keys, named, named_by, record};
use crate::store::{
    Census, Lease, NameQuota, Next, Registration, Settlement, Snapshot, Store, StoreError, Versioned, codec,
    line_of, names_of,
};

/// Where the orders are indexed that count for the name from then on.
fn counted_range(name: &Identifier, since: Timestamp) -> Range {
    let (from, prefix) = keys::counted_since(name, since);
    (Bound::Included(from), end_of(&prefix))
}

/// How long [`Store::job_added`] waits at most.
const TICK: Duration = Duration::from_secs(1);

#[async_trait]
impl Store for SledStore {
    async fn create_account(&self, account: &Account) -> Result<Registration, StoreError> {
        let existing = async || {
            let thumbprint = account.key().thumbprint();
            self.account_by_key(account.provisioner(), &thumbprint).await
        };
        if let Err(full) = self.shared.room.check() {
            return existing().await?.map(Registration::Exists).ok_or(full);
        }
        let change = Change::Write {
            put: Some(Box::new(account_put(account, 0)?)),
            constants: Vec::new(),
            jobs: Jobs::Untouched,
            bounds: Vec::new(),
        };
        match self.submit(change).await? {
            Outcome::Written => Ok(Registration::Created),
            Outcome::Taken => Ok(existing()
                .await?
                .map_or(Registration::KeyUsed, Registration::Exists)),
        }
    }

    async fn account(&self, id: AccountId) -> Result<Option<Versioned<Account>>, StoreError> {
        self.read(&keys::account(id))
    }

    async fn all_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        let found = self.listed(keys::accounts(), after.map(keys::account), limit)?;
        found
            .iter()
            .map(|key| named(keys::account_at_end(key), key))
            .collect()
    }

    async fn account_by_key(
        &self,
        provisioner: &str,
        thumbprint: &str,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.account_at(&keys::account_by_key(provisioner, thumbprint))
    }

    async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError> {
        let put = account_put(&account.value, account.version)?;
        self.write(Some(put), Vec::new(), Jobs::Untouched).await
    }

    async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError> {
        self.write(Some(external_key_put(key, 0)?), Vec::new(), Jobs::Untouched)
            .await
    }

    async fn external_account_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError> {
        self.read(&keys::external_key(provisioner, kid))
    }

    async fn external_account_keys(&self) -> Result<Vec<ExternalAccountKey>, StoreError> {
        let range = beginning_with(&keys::external_keys());
        let mut found = Vec::new();
        let keys = self.shared.durable.now().keys(range, usize::MAX)?;
        for key in keys {
            found.extend(
                self.read(&key)?
                    .map(|key: Versioned<ExternalAccountKey>| key.value),
            );
        }
        found.sort_by(|a, b| (a.created(), a.kid()).cmp(&(b.created(), b.kid())));
        Ok(found)
    }

    async fn update_external_account_key(
        &self,
        key: Versioned<ExternalAccountKey>,
    ) -> Result<(), StoreError> {
        let put = external_key_put(&key.value, key.version)?;
        self.write(Some(put), Vec::new(), Jobs::Untouched).await
    }

    async fn account_by_one_time_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.account_at(&keys::one_time_key(provisioner, kid))
    }

    async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError> {
        self.shared.room.check()?;
        let jobs = work.map_or(Jobs::Untouched, Jobs::Add);
        self.write(Some(order_put(order, 0)?), Vec::new(), jobs).await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError> {
        self.read(&keys::order(id))
    }

    async fn own_order(
        &self,
        account: AccountId,
        id: OrderId,
    ) -> Result<Option<Versioned<Order>>, StoreError> {
        let indexed = self
            .shared
            .durable
            .now()
            .get(&keys::order_of_account(account, id))?;
        match indexed {
            Some(_) => self.read(&keys::order(id)),
            None => Ok(None),
        }
    }

    async fn all_orders(&self, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        let found = self.listed(keys::orders(), after.map(keys::order), limit)?;
        found.iter().map(|key| named_by(key, key)).collect()
    }

    async fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let after = after.map(|after| keys::order_of_account(account, after));
        let found = self.listed(keys::orders_of_account(account), after, limit)?;
        found.iter().map(|key| named_by(key, key)).collect()
    }

    async fn order_of_certificate(&self, leaf: Fingerprint) -> Result<Option<OrderId>, StoreError> {
        let issued = self.order_at(&keys::certificate(leaf))?;
        match issued {
            Some(id) => Ok(Some(id)),
            None => self.order_at(&keys::late_certificate(leaf)),
        }
    }

    async fn order_of_certificate_id(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.order_at(&keys::certificate_id(id))
    }

    async fn replacement_of(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.order_at(&keys::replaced(id))
    }

    async fn renewals_due(
        &self,
        upstream: UpstreamName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let (from, to) = keys::renewals_until(upstream, now);
        let range = (Bound::Included(from), Bound::Excluded(to));
        let found = self.shared.durable.now().keys(range, limit)?;
        found.map(|key| named_by(&key, &key)).collect()
    }

    async fn issuers(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError> {
        let issuer = |fingerprint: &Fingerprint| {
            let found: Option<Versioned<Der>> = self.read(&keys::issuer(*fingerprint))?;
            let found = found.map(|issuer| issuer.value);
            found.ok_or_else(|| {
                StoreError::Corrupt(format!("the issuer's certificate {fingerprint} is missing"))
            })
        };
        fingerprints.iter().map(issuer).collect()
    }

    async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError> {
        let put = order_put(&order.value, order.version)?;
        let jobs = work.map_or(Jobs::Untouched, Jobs::Add);
        self.write(Some(put), Vec::new(), jobs).await
    }

    async fn commit_within(
        &self,
        order: Versioned<Order>,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError> {
        let bounds = quotas.iter().map(|quota| {
            let range = counted_range(&quota.name, quota.since);
            Some((range, quota.orders.checked_sub(1)?))
        });
        let change = Change::Write {
            put: Some(Box::new(order_put(&order.value, order.version)?)),
            constants: Vec::new(),
            jobs: work.map_or(Jobs::Untouched, Jobs::Add),
            bounds: bounds.collect::<Option<_>>().ok_or(StoreError::Conflict)?,
        };
        self.taken_is_conflict(change).await
    }

    async fn job(&self, work: &Work) -> Result<Option<Job>, StoreError> {
        Ok(self.queue().job(work))
    }

    async fn lease(
        &self,
        lane: Lane,
        now: Timestamp,
        span: Duration,
        limit: usize,
        share: usize,
        most: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        if let Some(cause) = self.shared.failure.borrow().clone() {
            return Err(cause);
        }
        let mut queue = self.queue();
        queue.expire(lane, Instant::now());
        let limit = limit.min(most.saturating_sub(queue.held_in(lane)));
        Ok(queue.lease(lane, now, Instant::now() + span, limit, share))
    }

    async fn renew(&self, lease: &Lease, span: Duration) -> Result<(), StoreError> {
        self.queue().renew(lease, Instant::now() + span)
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError> {
        let put = order_put(&order.value, order.version)?;
        self.write(Some(put), Vec::new(), Jobs::Held(lease.clone()))
            .await?;
        Ok(Versioned {
            value: order.value,
            version: order.version.saturating_add(1),
        })
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
        let Settlement { next, order, issuers } = settlement;
        // Waiting without a fault is not written: after a crash the wait ends early, which costs one look at the CA.
        // Faults are, so that a daemon which keeps crashing does not forget to back off.
        if let Next::Again { due, faults } = next
            && faults == lease.job.faults
            && order.is_none()
            && issuers.is_empty()
        {
            self.queue().put_off(&lease, due)?;
            self.shared.wake();
            return Ok(());
        }
        let put = order
            .map(|order| order_put(&order.value, order.version))
            .transpose()?;
        let constant = |issuer: &Der| Ok((keys::issuer(issuer.fingerprint()), codec::encode(issuer)?));
        let constants = issuers.iter().map(constant).collect::<Result<_, StoreError>>()?;
        self.write(put, constants, Jobs::Settle(lease, next)).await
    }

    async fn first_in_line(&self, order: &Order) -> Result<Option<OrderId>, StoreError> {
        let line = keys::line(line_of(order));
        let mut found = self.shared.durable.now().keys(beginning_with(&line), 1)?;
        found.next().map(|key| named_by(&key, &key)).transpose()
    }

    async fn has_issued(&self, order: &Order) -> Result<bool, StoreError> {
        let issued = keys::all_issued_for(order.account(), names_of(order));
        let mut found = self.shared.durable.now().keys(beginning_with(&issued), 1)?;
        Ok(found.next().is_some())
    }

    async fn late_orders(&self, order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        let late = keys::all_late(order.account(), line_of(order));
        let found = self.shared.durable.now().keys(beginning_with(&late), limit)?;
        found.map(|key| named_by(&key, &key)).collect()
    }

    async fn orders_for(&self, name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        let range = counted_range(name, since);
        let found = self.shared.durable.now().keys(range, usize::MAX)?;
        found.map(|key| named(keys::counted_at(&key), &key)).collect()
    }

    async fn job_added(&self) {
        // Running out is as good as being woken.
        drop(timeout(TICK, self.shared.wake.notified()).await);
    }

    async fn load(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
        let key = keys::named(name);
        let Some(stored) = record::read(&self.shared.durable.now(), &key)? else {
            return Ok(None);
        };
        Ok(Some(Versioned {
            value: codec::decode_bytes(keys::describe(&key), &stored.value)?,
            version: stored.version,
        }))
    }

    async fn save(&self, name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError> {
        let put = Put {
            key: keys::named(name),
            version: value.version,
            body: codec::encode_bytes(&value.value)?,
            indexes: Vec::new(),
            unique: Vec::new(),
        };
        self.write(Some(put), Vec::new(), Jobs::Untouched).await?;
        Ok(value.version.saturating_add(1))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let begin = keys::named(prefix);
        let found = self
            .shared
            .durable
            .now()
            .keys(beginning_with(&begin), usize::MAX)?;
        Ok(found.map(|key| keys::name_in(&key)).collect())
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut changes = Vec::new();
        {
            let view = self.shared.durable.now();
            let (from, to) = keys::deletions_until(now);
            for index in view.keys((Bound::Included(from), Bound::Excluded(to)), limit)? {
                let key = keys::order(named_by(&index, &index)?);
                let head = Head::read(&view, &key)?;
                let head = head.ok_or_else(|| {
                    StoreError::Corrupt(format!("{} is to be deleted, but missing", keys::describe(&key)))
                })?;
                let version = head.version;
                changes.push(Change::Delete { key, version });
            }
        }
        let mut swept = 0;
        let answers: Vec<_> = changes.into_iter().map(|change| self.send(change)).collect();
        for answer in answers {
            match answer.await.unwrap_or_else(|_| Err(self.cause_of_failure())) {
                Ok(_) => swept += 1,
                // It has changed since it was looked at: its time may not be over any more.
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    async fn census(&self) -> Result<Census, StoreError> {
        let lanes = self.queue().census();
        let bytes_on_disk = std::fs::metadata(self.path.join("db")).map_or(0, |metadata| metadata.len());
        Ok(Census {
            lanes,
            bytes_on_disk,
            bytes_free: Some(self.shared.room.free()),
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
        })
    }

    async fn check_room(&self) -> Result<(), StoreError> {
        self.shared.progress.check()?;
        self.shared.room.check()
    }

    fn shared(&self) -> Option<&dyn Shared> {
        None
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.shared.durable.freeze()))
    }

    async fn failed(&self) -> StoreError {
        let mut failure = self.shared.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_else(|| self.cause_of_failure()),
            Err(_) => self.cause_of_failure(),
        }
    }
}
