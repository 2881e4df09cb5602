//! A store that says of each change what has become of the record: one audit event for each change that is on the disk,
//! none for one that is not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

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

/// A store with audit events.
pub struct Audited {
    inner: Arc<dyn Store>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Audited {
    /// The events of this store's changes; `now` is the clock by which orders expire.
    pub fn new(inner: Arc<dyn Store>, now: Box<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self { inner, now }
    }

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
    let not_after = certificate.map(|issued| issued.not_after().to_string());
    event!(
        order.id = %order.id(), account.id = %order.account(), order.request.id = order.request_id(),
        upstream = %order.upstream_name(), identifiers = names(order), about,
        certificate.sha256 = fingerprint, certificate.not_after = not_after, "{event}"
    );
}

fn names(order: &Order) -> String {
    let names: Vec<String> = order.identifiers().map(ToString::to_string).collect();
    names.join(" ")
}

#[async_trait]
impl Store for Audited {
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

    async fn account(&self, id: AccountId) -> Result<Option<Versioned<Account>>, StoreError> {
        self.inner.account(id).await
    }

    async fn all_accounts(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountId>, StoreError> {
        self.inner.all_accounts(after, limit).await
    }

    async fn account_by_key(
        &self,
        provisioner: &str,
        thumbprint: &str,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.inner.account_by_key(provisioner, thumbprint).await
    }

    async fn external_account_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<ExternalAccountKey>>, StoreError> {
        self.inner.external_account_key(provisioner, kid).await
    }

    async fn external_account_keys(&self) -> Result<Vec<ExternalAccountKey>, StoreError> {
        self.inner.external_account_keys().await
    }

    async fn account_by_one_time_key(
        &self,
        provisioner: &str,
        kid: &KeyId,
    ) -> Result<Option<Versioned<Account>>, StoreError> {
        self.inner.account_by_one_time_key(provisioner, kid).await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Versioned<Order>>, StoreError> {
        self.inner.order(id).await
    }

    async fn own_order(
        &self,
        account: AccountId,
        id: OrderId,
    ) -> Result<Option<Versioned<Order>>, StoreError> {
        self.inner.own_order(account, id).await
    }

    async fn all_orders(&self, after: Option<OrderId>, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        self.inner.all_orders(after, limit).await
    }

    async fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.orders_of(account, after, limit).await
    }

    async fn orders_for(&self, name: &Identifier, since: Timestamp) -> Result<Vec<Timestamp>, StoreError> {
        self.inner.orders_for(name, since).await
    }

    async fn order_of_certificate(&self, leaf: Fingerprint) -> Result<Option<OrderId>, StoreError> {
        self.inner.order_of_certificate(leaf).await
    }

    async fn order_of_certificate_id(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.inner.order_of_certificate_id(id).await
    }

    async fn replacement_of(&self, id: &CertificateId) -> Result<Option<OrderId>, StoreError> {
        self.inner.replacement_of(id).await
    }

    async fn renewals_due(
        &self,
        upstream: UpstreamName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        self.inner.renewals_due(upstream, now, limit).await
    }

    async fn issuers(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Der>, StoreError> {
        self.inner.issuers(fingerprints).await
    }

    async fn job(&self, work: &Work) -> Result<Option<Job>, StoreError> {
        self.inner.job(work).await
    }

    async fn lease(
        &self,
        lane: Lane,
        now: Timestamp,
        span: Duration,
        limit: usize,
        share: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        self.inner.lease(lane, now, span, limit, share).await
    }

    async fn first_in_line(&self, order: &Order) -> Result<Option<OrderId>, StoreError> {
        self.inner.first_in_line(order).await
    }

    async fn has_issued(&self, order: &Order) -> Result<bool, StoreError> {
        self.inner.has_issued(order).await
    }

    async fn late_orders(&self, order: &Order, limit: usize) -> Result<Vec<OrderId>, StoreError> {
        self.inner.late_orders(order, limit).await
    }

    async fn job_added(&self) {
        self.inner.job_added().await
    }

    async fn load(&self, name: &str) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
        self.inner.load(name).await
    }

    async fn save(&self, name: &str, value: Versioned<Vec<u8>>) -> Result<u64, StoreError> {
        self.inner.save(name, value).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.names(prefix).await
    }

    async fn census(&self) -> Result<Census, StoreError> {
        self.inner.census().await
    }

    async fn check_room(&self) -> Result<(), StoreError> {
        self.inner.check_room().await
    }

    fn shared(&self) -> Option<&dyn Shared> {
        self.inner.shared()
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.inner.snapshot()
    }

    async fn failed(&self) -> StoreError {
        self.inner.failed().await
    }
}
