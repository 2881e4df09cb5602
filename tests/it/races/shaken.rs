//! The real store behind a busy machine: before and after each call others may get their turn. What was written is
//! entered in the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use acme_proxy::acme::account::Account;
use acme_proxy::acme::certificate::{Der, Fingerprint};
use acme_proxy::acme::external_account::{ExternalAccountKey, KeyId};
use acme_proxy::acme::id::{AccountId, OrderId};
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::job::{Job, Lane, Work};
use acme_proxy::acme::order::Order;
use acme_proxy::acme::renewal::CertificateId;
use acme_proxy::acme::upstream::UpstreamName;
use acme_proxy::clock::Clock;
use acme_proxy::store::shared::Shared;
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{
    Census, Lease, NameQuota, Registration, Settlement, Snapshot, Store, StoreError, Versioned,
};
use async_trait::async_trait;
use jiff::Timestamp;

use crate::races::dice::Dice;
use crate::races::journal::{Entry, Journal};

/// Who uses the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The registration authority.
    Front,
    /// A worker.
    Back,
}

/// The store as one of them meets it.
pub(crate) struct Shaken {
    pub(crate) side: Side,
    pub(crate) store: Arc<SledStore>,
    pub(crate) dice: Arc<Dice>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Clock,
    /// Whether leases for issuance may run out at once.
    pub(crate) lossy: Arc<AtomicBool>,
}

impl Shaken {
    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.dice.pause().await;
        self.journal.step();
        let result = call.await;
        self.journal.step();
        if matches!(result, Err(StoreError::Conflict)) {
            self.journal.add(Entry::Conflict);
        }
        self.dice.pause().await;
        result
    }

    /// A call that writes this version of an order. It goes on if nobody waits for its answer any more.
    async fn write<T, F>(
        &self,
        order: Option<Versioned<Order>>,
        call: impl FnOnce(Arc<SledStore>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let call = call(self.store.clone());
        self.call(async {
            let (at, after) = (self.clock.now(), self.journal.begin());
            let journal = self.journal.clone();
            let written = tokio::spawn(async move {
                let result = call.await;
                if let (Ok(_), Some(Versioned { value, version })) = (&result, order) {
                    journal.add(Entry::Wrote {
                        order: Box::new(value),
                        version: version + 1,
                        at,
                        after,
                    });
                }
                journal.end();
                result
            });
            written.await.unwrap()
        })
        .await
    }
}

#[async_trait]
impl Store for Shaken {
    async fn create_account(&self, account: &Account) -> Result<Registration, StoreError> {
        self.call(self.store.create_account(account)).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Versioned<Account>>, StoreError> {
        let looking = async {
            if self.side == Side::Back {
                self.journal.add(Entry::Looked(id));
            }
            self.store.account(id).await
        };
        self.call(looking).await
    }

    async fn job(&self, work: &Work) -> Result<Option<Job>, StoreError> {
        self.call(self.store.job(work)).await
    }

    async fn all_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        self.call(self.store.all_accounts(after, limit)).await
    }

    async fn account_by_key(
        &self,
        provisioner: &str,
        thumbprint: &str,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.call(self.store.account_by_key(provisioner, thumbprint))
            .await
    }

    async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError> {
        self.call(self.store.update_account(account)).await
    }

    async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError> {
        self.call(self.store.create_external_account_key(key)).await
    }

    async fn external_account_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError> {
        self.call(self.store.external_account_key(provisioner, kid)).await
    }

    async fn external_account_keys(&self) -> Result<Vec<ExternalAccountKey>, StoreError> {
        self.call(self.store.external_account_keys()).await
    }

    async fn update_external_account_key(
        &self,
        key: Versioned<ExternalAccountKey>,
    ) -> Result<(), StoreError> {
        self.call(self.store.update_external_account_key(key)).await
    }

    async fn account_by_one_time_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.call(self.store.account_by_one_time_key(provisioner, kid))
            .await
    }

    async fn order_of_certificate_id(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.call(self.store.order_of_certificate_id(id)).await
    }

    async fn replacement_of(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.call(self.store.replacement_of(id)).await
    }

    async fn renewals_due(
        &self,
        upstream: UpstreamName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.call(self.store.renewals_due(upstream, now, limit)).await
    }

    async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError> {
        let first = Versioned::with(0, order.clone());
        let order = order.clone();
        self.write(Some(first), async move |store| {
            store.create_order(&order, work).await
        })
        .await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError> {
        self.call(self.store.order(id)).await
    }

    async fn own_order(
        &self,
        account: AccountId,
        id: OrderId,
    ) -> Result<Option<Versioned<Order>>, StoreError> {
        self.call(self.store.own_order(account, id)).await
    }

    async fn all_orders(&self, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        self.call(self.store.all_orders(after, limit)).await
    }

    async fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.call(self.store.orders_of(account, after, limit)).await
    }

    async fn order_of_certificate(&self, leaf: Fingerprint) -> Result<Option<OrderId>, StoreError> {
        self.call(self.store.order_of_certificate(leaf)).await
    }

    async fn has_issued(&self, order: &Order) -> Result<bool, StoreError> {
        self.call(self.store.has_issued(order)).await
    }

    async fn issuers(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError> {
        self.call(self.store.issuers(fingerprints)).await
    }

    async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError> {
        self.write(Some(order.clone()), async move |store| {
            store.commit(order, work).await
        })
        .await
    }

    async fn commit_within(
        &self,
        order: Versioned<Order>,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError> {
        let quotas = quotas.to_vec();
        self.write(Some(order.clone()), async move |store| {
            store.commit_within(order, work, &quotas).await
        })
        .await
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
        let lost = matches!(lane, Lane::Issue(_)) && self.lossy.load(Ordering::SeqCst) && self.dice.one_in(2);
        let span = if lost { Duration::ZERO } else { span };
        if lost {
            self.journal.add(Entry::LeaseLost);
        }
        self.call(self.store.lease(lane, now, span, limit, share, most))
            .await
    }

    async fn renew(&self, lease: &Lease, span: Duration) -> Result<(), StoreError> {
        self.call(self.store.renew(lease, span)).await
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError> {
        let lease = lease.clone();
        self.write(Some(order.clone()), async move |store| {
            store.checkpoint(&lease, order).await
        })
        .await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
        let order = settlement.order.clone();
        self.write(order, async move |store| store.settle(lease, settlement).await)
            .await
    }

    async fn first_in_line(&self, order: &Order) -> Result<Option<OrderId>, StoreError> {
        self.call(self.store.first_in_line(order)).await
    }

    async fn late_orders(&self, order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        self.call(self.store.late_orders(order, limit)).await
    }

    async fn orders_for(&self, name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        self.call(self.store.orders_for(name, since)).await
    }

    async fn job_added(&self) {
        self.store.job_added().await;
    }

    async fn load(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
        self.call(self.store.load(name)).await
    }

    async fn save(&self, name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError> {
        self.call(self.store.save(name, value)).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.call(self.store.names(prefix)).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.store.sweep(now, limit).await
    }

    async fn census(&self) -> Result<Census, StoreError> {
        self.store.census().await
    }

    async fn check_room(&self) -> Result<(), StoreError> {
        self.store.check_room().await
    }

    fn shared(&self) -> Option<&dyn Shared> {
        self.store.shared()
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.store.snapshot().await
    }

    async fn failed(&self) -> StoreError {
        self.store.failed().await
    }
}
