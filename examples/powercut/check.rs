//! The checker: every acknowledged write is there, whole, and everything that belongs together agrees.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use acme_proxy::acme::challenge::ChallengeState;
use acme_proxy::acme::id::{AccountId, AuthorizationId, ChallengeId, OrderId};
use acme_proxy::acme::job::{Job, Lane, Work, WorkKind};
use acme_proxy::acme::order::Order;
use acme_proxy::acme::revocation::Revocation;
use acme_proxy::acme::upstream::UpstreamName;
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{Settings, Store, Versioned};
use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde::Serialize;

use crate::journal::{self, Expected};

const HOUR: Duration = Duration::from_secs(3600);

/// Something that was acknowledged is not there.
pub(crate) const LOST: u8 = 1;
/// The store can not be opened or read.
pub(crate) const UNOPENABLE: u8 = 2;

type Lost = Vec<String>;

/// Compares a store with a journal.
pub(crate) fn check(settings: Settings, journal: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(journal).context("reading the journal")?;
    let told = journal::read(&text);
    let store = SledStore::open(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lost = runtime.block_on(compare(&store, &told.records))?;
    for what in &lost {
        eprintln!("lost: {what}");
    }
    runtime.block_on(still_works(&store))?;
    Ok(match lost.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(LOST),
    })
}

async fn compare(store: &SledStore, records: &HashMap<String, Expected>) -> Result<Lost> {
    let mut lost = Lost::new();
    let mut jobs = BTreeMap::new();
    for kind in WorkKind::ALL {
        let leases = store.lease(
            Lane::of(kind, UpstreamName::DEFAULT),
            Timestamp::MAX,
            HOUR,
            usize::MAX,
            usize::MAX,
            usize::MAX,
        );
        for lease in leases.await? {
            jobs.insert(lease.job.work, lease.job);
        }
    }
    for (record, expected) in records {
        let (kind, name) = record.split_once('/').context("a record has a kind")?;
        match kind {
            "account" => {
                let stored = store.account(name.parse::<AccountId>()?).await?;
                compare_one(record, expected, stored.as_ref(), &mut lost)?;
                if let Some(Versioned { value: account, .. }) = &stored {
                    let found = store
                        .account_by_key(account.provisioner(), &account.key().thumbprint())
                        .await?;
                    if found != stored {
                        lost.push(format!("{record}: not found by its key"));
                    }
                }
            }
            "order" => {
                let id = name.parse::<OrderId>()?;
                let stored = store.order(id).await?;
                compare_one(record, expected, stored.as_ref(), &mut lost)?;
                match stored {
                    Some(stored) => compare_belongings(store, &stored.value, &jobs, &mut lost).await?,
                    None if jobs.keys().any(|work| work.order() == id) => {
                        lost.push(format!("{record}: gone, but its job is there"));
                    }
                    None => {}
                }
            }
            "value" => {
                let stored = store.load(name).await?;
                compare_one(record, expected, stored.as_ref(), &mut lost)?;
            }
            "faults" => {
                let id = name.parse::<OrderId>()?;
                let faults = jobs.get(&Work::Issue(id)).map(|job| u64::from(job.faults));
                if faults.is_some_and(|faults| faults < expected.acknowledged) {
                    lost.push(format!("{record}: {faults:?} of {}", expected.acknowledged));
                }
            }
            _ => lost.push(format!("{record}: of no known kind")),
        }
    }
    Ok(lost)
}

fn compare_one<T: Serialize>(
    record: &str,
    expected: &Expected,
    stored: Option<&Versioned<T>>,
    lost: &mut Lost,
) -> Result<()> {
    let Some(stored) = stored else {
        if expected.acknowledged > 0 && !expected.may_be_gone {
            lost.push(format!(
                "{record}: missing, acknowledged version {}",
                expected.acknowledged
            ));
        }
        return Ok(());
    };
    let digest = journal::digest(&stored.value)?;
    let version = stored.version;
    if expected.gone {
        lost.push(format!("{record}: deleted, and back in version {version}"));
    } else if version < expected.acknowledged {
        lost.push(format!(
            "{record}: version {version}, acknowledged {}",
            expected.acknowledged
        ));
    } else if !expected
        .versions
        .get(&version)
        .is_some_and(|written| written.contains(&digest))
    {
        lost.push(format!("{record}: version {version} was never written like this"));
    }
    Ok(())
}

/// An order's jobs are those that its state calls for, and it is in every index.
async fn compare_belongings(
    store: &SledStore,
    order: &Order,
    jobs: &BTreeMap<Work, Job>,
    lost: &mut Lost,
) -> Result<()> {
    let id = order.id();
    let mut wanted = Vec::new();
    for (index, authorization) in (0..).zip(order.authorizations()) {
        for challenge in authorization.challenges() {
            if matches!(challenge.state(), ChallengeState::Processing { .. }) {
                wanted.push(Work::Validate(ChallengeId {
                    authorization: AuthorizationId { order: id, index },
                    kind: challenge.kind(),
                }));
            }
        }
    }
    if order.in_line_since().is_some() {
        wanted.push(Work::Issue(id));
        if store.first_in_line(order).await? != Some(id) {
            lost.push(format!("order/{id}: not first in its line"));
        }
    }
    if let Some(Revocation::Requested { .. }) = order.revocation() {
        wanted.push(Work::Revoke(id));
    }
    wanted.sort();
    let found: Vec<Work> = jobs.keys().filter(|work| work.order() == id).copied().collect();
    if found.iter().collect::<std::collections::BTreeSet<_>>() != wanted.iter().collect() {
        lost.push(format!("order/{id}: jobs {found:?}, wanted {wanted:?}"));
    }
    if !store
        .orders_of(order.account(), None, usize::MAX)
        .await?
        .contains(&id)
    {
        lost.push(format!("order/{id}: not among its account's orders"));
    }
    if let Some(certificate) = order.certificate() {
        let leaf = certificate.leaf().fingerprint();
        if store.order_of_certificate(leaf).await? != Some(id) {
            lost.push(format!("order/{id}: not found by its certificate"));
        }
        store.issuers(certificate.issuers()).await?;
    }
    Ok(())
}

/// The store takes writes, and can delete everything that it holds.
async fn still_works(store: &SledStore) -> Result<()> {
    let order = Order::new(
        AccountId::random(),
        String::new(),
        Vec::new(),
        Timestamp::UNIX_EPOCH,
        Duration::ZERO,
    );
    store.create_order(&order, None).await?;
    let end_of_time = Timestamp::MAX;
    while store.sweep(end_of_time, 100).await? > 0 {}
    ensure!(
        store.order(order.id()).await?.is_none(),
        "the sweep leaves orders behind"
    );
    Ok(())
}
