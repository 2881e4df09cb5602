//! A store that says of each change what has become of the record: one audit event for each change that is on the disk,
//! none for one that is not. A change is a task of its own, so that it is reported also if its caller does not wait for
//! it; and it is over when its event is kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tracing::Instrument as _;

use crate::acme::account::{Account, AccountStatus};
use crate::acme::certificate::{Der, Fingerprint};
use crate::acme::external_account::{ExternalAccountKey, KeyId};
use crate::acme::id::{AccountId, AccountName, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, Work};
use crate::acme::order::history::{Step, StepKind};
use crate::acme::order::{Order, OrderStatus};
use crate::acme::renewal::CertificateId;
use crate::acme::upstream::UpstreamName;
use crate::store::shared::Shared;
use crate::store::{
    Census, Lease, NameQuota, Registration, Settlement, Snapshot, Store, StoreError, Versioned,
};

/// Where the events are found that are for the audit log alone.
pub const TARGET: &str = "acme_proxy::audit";

/// An audit event.
macro_rules! event {
    ($($said:tt)*) => {
        tracing::info!(target: "acme_proxy::audit", audit = true, $($said)*)
    };
}

/// Where the events are kept.
#[async_trait]
pub trait Trail: Send + Sync + 'static {
    /// Returns once all events so far are kept, or none can be at the moment.
    async fn kept(&self);
}

/// A store with audit events.
pub struct Audited(Arc<Reported>);

/// What changes the store.
struct Reported {
    inner: Arc<dyn Store>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    trail: Arc<dyn Trail>,
}

impl Audited {
    /// The events of this store's changes, which this trail keeps; `now` is the clock by which orders expire.
    pub fn new(
        inner: Arc<dyn Store>,
        now: Box<dyn Fn() -> Timestamp + Send + Sync>,
        trail: Arc<dyn Trail>,
    ) -> Self {
        Self(Arc::new(Reported { inner, now, trail }))
    }

    /// Makes a change to its end.
    async fn whole<T, F>(&self, change: impl FnOnce(Arc<Reported>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let trail = Arc::clone(&self.0.trail);
        let change = change(Arc::clone(&self.0));
        let change = async move {
            let changed = change.await?;
            trail.kept().await;
            Ok(changed)
        };
        let ended = tokio::spawn(change.in_current_span()).await;
        ended.unwrap_or_else(|error| Err(StoreError::Failed(format!("a change did not end: {error}"))))
    }
}

impl Reported {
    /// What was there before a change. If it is not of this version, there will be no change.
    async fn before(&self, order: &Versioned<Order>) -> Result<Option<Order>, StoreError> {
        let stored = self.inner.order(order.value.id()).await?;
        Ok(stored.map(|stored| stored.value))
    }

    fn changed(&self, before: Option<&Order>, order: &Order) {
        let Some(before) = before else {
            return;
        };
        let mut has_failed = false;
        for step in order.steps().iter().filter(|step| !before.steps().contains(step)) {
            report(order, step);
            has_failed |= step.kind == StepKind::Failed;
        }
        let now = (self.now)();
        let status = order.status(now);
        // By what became of its authorizations.
        if status == OrderStatus::Invalid && before.status(now) != status && !has_failed {
            let problem = order.problem(now);
            let why = problem.as_ref().map(|problem| problem.detail.as_str());
            event!(order.id = %order.id(), account.id = %order.account(), order.request.id = order.request_id(), identifiers = names(order), why, "order failed");
        }
    }

    async fn create_account(&self, account: &Account) -> Result<Registration, StoreError> {
        let registration = self.inner.create_account(account).await?;
        if let Registration::Created = registration {
            let (id, provisioner, key) = (account.id(), account.provisioner(), account.key().thumbprint());
            let kid = account.binding().map(|binding| binding.kid().as_str());
            match account.name() {
                AccountName::Ours(_) => {
                    event!(account.id = %id, provisioner, account.key = key, eab.kid = kid, "account created");
                }
                AccountName::Foreign(name) => event!(
                    account.id = %id, account.name = %name, account.status = %account.status(), provisioner,
                    account.key = key, "account imported from step-ca"
                ),
            }
        }
        Ok(registration)
    }

    async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError> {
        let before = self.inner.account(account.value.id()).await?;
        let now = account.value.clone();
        self.inner.update_account(account).await?;
        let Some(before) = before.map(|before| before.value) else {
            return Ok(());
        };
        if before.key() != now.key() {
            event!(
                account.id = %now.id(), account.key = now.key().thumbprint(), account.old_key = before.key().thumbprint(),
                "account key changed"
            );
        }
        if before.contact() != now.contact() {
            event!(account.id = %now.id(), "account contact changed");
        }
        if before.status() != now.status() && now.status() == AccountStatus::Deactivated {
            event!(account.id = %now.id(), "account deactivated");
        }
        Ok(())
    }

    async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError> {
        self.inner.create_external_account_key(key).await?;
        event!(
            eab.kid = %key.kid(), provisioner = key.provisioner(), eab.one_time = key.terms().one_time,
            "external account key added"
        );
        Ok(())
    }

    async fn update_external_account_key(
        &self,
        key: Versioned<ExternalAccountKey>,
    ) -> Result<(), StoreError> {
        let now = key.value.clone();
        self.inner.update_external_account_key(key).await?;
        if now.revoked().is_some() {
            event!(eab.kid = %now.kid(), provisioner = now.provisioner(), "external account key revoked");
        }
        Ok(())
    }

    async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError> {
        self.inner.create_order(order, work).await?;
        event!(
            order.id = %order.id(), account.id = %order.account(), order.request.id = order.request_id(),
            provisioner = order.provisioner(), upstream = %order.upstream_name(), identifiers = names(order), "order created"
        );
        Ok(())
    }

    async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError> {
        let (before, now) = (self.before(&order).await?, order.value.clone());
        self.inner.commit(order, work).await?;
        self.changed(before.as_ref(), &now);
        Ok(())
    }

    async fn commit_within(
        &self,
        order: Versioned<Order>,
        work: Option<Job>,
        quotas: &[NameQuota],
    ) -> Result<(), StoreError> {
        let (before, now) = (self.before(&order).await?, order.value.clone());
        self.inner.commit_within(order, work, quotas).await?;
        self.changed(before.as_ref(), &now);
        Ok(())
    }

    async fn checkpoint(
        &self,
        lease: &Lease,
        order: Versioned<Order>,
    ) -> Result<Versioned<Order>, StoreError> {
        let before = self.before(&order).await?;
        let written = self.inner.checkpoint(lease, order).await?;
        self.changed(before.as_ref(), &written.value);
        Ok(written)
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
        let Some(order) = &settlement.order else {
            return self.inner.settle(lease, settlement).await;
        };
        let (before, now) = (self.before(order).await?, order.value.clone());
        self.inner.settle(lease, settlement).await?;
        self.changed(before.as_ref(), &now);
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let swept = self.inner.sweep(now, limit).await?;
        if swept > 0 {
            event!(orders = swept, "orders deleted whose time is over");
        }
        Ok(swept)
    }
}

/// What has happened to an order. That a CA has failed changes nothing.
fn report(order: &Order, step: &Step) {
    let event = match step.kind {
        StepKind::CaFailed => return,
        StepKind::Answered => "challenge answered",
        StepKind::AttemptFailed => "validation attempt failed",
        StepKind::Validated => "authorization validated",
        StepKind::Deactivated => "authorization deactivated",
        StepKind::Finalized => "order finalized",
        StepKind::Moved => "order moved to another upstream",
        StepKind::Opened => "order opened at the CA",
        StepKind::Gone => "order gone at the CA",
        StepKind::HandedOver => "certificate of an earlier order taken",
        StepKind::Issued => "certificate issued",
        StepKind::Fetched => "certificate fetched",
        StepKind::Failed => "order failed",
        StepKind::CameLate => "late certificate",
        StepKind::Abandoned => "late certificate given up",
        StepKind::RevocationRequested => "revocation requested",
        StepKind::Revoked => "certificate revoked",
        StepKind::RevocationRefused => "revocation refused",
    };
    let about = (!step.about.is_empty()).then_some(step.about.as_str());
    let certificate = order.bought();
    let fingerprint = certificate.map(|issued| issued.leaf().fingerprint().to_string());
    let serial = certificate.and_then(|issued| Some(issued.shown()?.serial_hex));
    let not_after = certificate.map(|issued| issued.not_after().to_string());
    event!(
        order.id = %order.id(), account.id = %order.account(), order.request.id = order.request_id(),
        upstream = %order.upstream_name(), identifiers = names(order), about,
        certificate.serial = serial, certificate.sha256 = fingerprint, certificate.not_after = not_after, "{event}"
    );
}

fn names(order: &Order) -> String {
    let names: Vec<String> = order.identifiers().map(ToString::to_string).collect();
    names.join(" ")
}

/// The store's methods: those that change it, as they are written, and those that are passed on as they are.
macro_rules! store {
    ({ $($changing:tt)* } { $(fn $name:ident($($given:ident: $kind:ty),*) $(-> $got:ty)?;)* }) => {
        #[async_trait]
        impl Store for Audited {
            $($changing)*

            $(async fn $name(&self, $($given: $kind),*) $(-> $got)? {
                self.0.inner.$name($($given),*).await
            })*
        }
    };
}

store! {
    {
        async fn create_account(&self, account: &Account) -> Result<Registration, StoreError> {
            let account = account.clone();
            self.whole(|store| async move { store.create_account(&account).await }).await
        }

        async fn update_account(&self, account: Versioned<Account>) -> Result<(), StoreError> {
            self.whole(|store| async move { store.update_account(account).await }).await
        }

        async fn create_external_account_key(&self, key: &ExternalAccountKey) -> Result<(), StoreError> {
            let key = key.clone();
            self.whole(|store| async move { store.create_external_account_key(&key).await }).await
        }

        async fn update_external_account_key(
            &self,
            key: Versioned<ExternalAccountKey>,
        ) -> Result<(), StoreError> {
            self.whole(|store| async move { store.update_external_account_key(key).await }).await
        }

        async fn create_order(&self, order: &Order, work: Option<Job>) -> Result<(), StoreError> {
            let order = order.clone();
            self.whole(|store| async move { store.create_order(&order, work).await }).await
        }

        async fn commit(&self, order: Versioned<Order>, work: Option<Job>) -> Result<(), StoreError> {
            self.whole(|store| async move { store.commit(order, work).await }).await
        }

        async fn commit_within(
            &self,
            order: Versioned<Order>,
            work: Option<Job>,
            quotas: &[NameQuota],
        ) -> Result<(), StoreError> {
            let quotas = quotas.to_vec();
            self.whole(|store| async move { store.commit_within(order, work, &quotas).await }).await
        }

        async fn checkpoint(
            &self,
            lease: &Lease,
            order: Versioned<Order>,
        ) -> Result<Versioned<Order>, StoreError> {
            let lease = lease.clone();
            self.whole(|store| async move { store.checkpoint(&lease, order).await }).await
        }

        async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<(), StoreError> {
            self.whole(|store| async move { store.settle(lease, settlement).await }).await
        }

        async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
            self.whole(|store| async move { store.sweep(now, limit).await }).await
        }

        async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        self.0.inner.time().await
    }

    fn shared(&self) -> Option<&dyn Shared> {
            self.0.inner.shared()
        }

        async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
            self.0.inner.snapshot().await
        }
    }
    {
        fn account(id: AccountId) -> Result<Option<Versioned<Account>>, StoreError>;
        fn all_accounts(after: Option<AccountId>, limit: usize) -> Result<Vec<AccountId>, StoreError>;
        fn account_by_key(provisioner: &str, thumbprint: &str) -> Result<Option<Versioned<Account>>, StoreError>;
        fn external_account_key(provisioner: &str, kid: &KeyId) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError>;
        fn external_account_keys() -> Result<Vec<ExternalAccountKey>, StoreError>;
        fn account_by_one_time_key(provisioner: &str, kid: &KeyId) -> Result<Option<Versioned<Account>>, StoreError>;
        fn order(id: OrderId) -> Result<Option<Versioned<Order>>, StoreError>;
        fn own_order(account: AccountId, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError>;
        fn all_orders(after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError>;
        fn orders_of(account: AccountId, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError>;
        fn orders_for(name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError>;
        fn order_of_certificate(leaf: Fingerprint) -> Result<Option<OrderId>, StoreError>;
        fn order_of_certificate_id(id: &CertificateId) -> Result<Option<OrderId>, StoreError>;
        fn replacement_of(id: &CertificateId) -> Result<Option<OrderId>, StoreError>;
        fn renewals_due(upstream: UpstreamName, now: Timestamp, limit: usize) -> Result<Vec<OrderId>, StoreError>;
        fn issuers(fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError>;
        fn job(work: &Work) -> Result<Option<Job>, StoreError>;
        fn lease(lane: Lane, now: Timestamp, span: Duration, limit: usize, share: usize, most: usize) -> Result<Vec<Lease>, StoreError>;
        fn renew(lease: &Lease, span: Duration) -> Result<(), StoreError>;
        fn first_in_line(order: &Order) -> Result<Option<OrderId>, StoreError>;
        fn has_issued(order: &Order) -> Result<bool, StoreError>;
        fn late_orders(order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError>;
        fn job_added();
        fn load(name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError>;
        fn save(name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError>;
        fn names(prefix: &str) -> Result<Vec<String>, StoreError>;
        fn census() -> Result<Census, StoreError>;
        fn check_room() -> Result<(), StoreError>;
        fn failed() -> StoreError;
    }
}

#[cfg(test)]
mod tests;
