//! The operator's commands on the accounts at the CAs: in the daemon on the accounts that it works with, and without one
//! on those of the store. The answers are for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Result as Written, Write as _};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::acme::upstream::UpstreamName;
use crate::app;
use crate::app::vault::Vaults;
use crate::config;
use crate::metrics::Metrics;
use crate::server::control::{UpstreamAccounts, UpstreamCommand, UpstreamRequest};
use crate::store::Store;
use crate::upstream::account::overview::{Change, Confirmation, Overview, Progress};
use crate::upstream::account::portable::Portable;
use crate::upstream::acme::Ca;
use crate::worker::upkeep;

/// What is known of a CA without a daemon.
const NOT_RUNNING: &str = "no daemon runs, so that nothing is asked of it";

/// The accounts of a daemon, or of a store that nobody else has open.
pub(crate) struct Accounts {
    pub(crate) all: Vec<(UpstreamName, Arc<Ca>)>,
    /// The daemon's.
    pub(crate) metrics: Option<Arc<Metrics>>,
}

#[async_trait]
impl UpstreamAccounts for Accounts {
    async fn answer(&self, request: UpstreamRequest) -> Result<String, String> {
        let UpstreamRequest { upstream, command } = request;
        let named = upstream.as_deref();
        let known = || {
            let known: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
            known.join(", ")
        };
        let is_of_all = matches!(command, UpstreamCommand::Show | UpstreamCommand::Confirm);
        // Whoever means another one must not spend the default's EAB, or put its account away.
        if named.is_none() && self.all.len() > 1 && !is_of_all {
            return Err(format!(
                "there are several upstreams; say which one with --upstream: {}",
                known()
            ));
        }
        let wanted = named.unwrap_or(UpstreamName::DEFAULT.as_str());
        let found = self.all.iter().find(|(name, _)| name.as_str() == wanted);
        let Some((name, ca)) = found else {
            return Err(format!(
                "there is no upstream {wanted:?} in the configuration; there are: {}",
                known()
            ));
        };
        let told = |why: crate::upstream::account::change::Unchanged| why.to_string();
        match command {
            UpstreamCommand::Show if named.is_some() => self.shown(&[(*name, Arc::clone(ca))]).await,
            UpstreamCommand::Show => self.shown(&self.all).await,
            UpstreamCommand::Confirm => self.confirmed().await,
            UpstreamCommand::Register { again } => {
                let (url, new) = ca.register(again).await.map_err(told)?;
                Ok(match new {
                    true => format!("Upstream {name} is registered: {url}\n"),
                    false => format!(
                        "Upstream {name} is registered already: {url}\n\
                         Another account, for which the EAB is spent once more, is made with: \
                         acme-proxy upstream register --again --upstream {name}\n"
                    ),
                })
            }
            UpstreamCommand::RotateKey => {
                let rotated = ca.rotate_key().await.map_err(told)?;
                Ok(format!(
                    "The account of upstream {name} has a new key: {}\nThe key before: {}\n\
                     Exports and backups of the store that were made before are of no use any more for this account.\n",
                    rotated.to, rotated.from
                ))
            }
            UpstreamCommand::Export => Ok(ca.export().await.map_err(told)?.to_string()),
            UpstreamCommand::Import { account, replace } => {
                let account = Portable::from_ours(&account)?;
                let url = ca.import(account, replace).await.map_err(told)?;
                Ok(format!(
                    "Upstream {name} works with the account {url} from now on.\n"
                ))
            }
        }
    }

    async fn health(&self, upstream: &str) -> String {
        let found = self.all.iter().find(|(name, _)| name.as_str() == upstream);
        match (found, &self.metrics) {
            (Some((name, _)), Some(metrics)) => health_of(metrics, *name),
            (None, _) => "it is not configured any more: its orders wait until it is again".to_owned(),
            (Some(_), None) => NOT_RUNNING.to_owned(),
        }
    }
}

impl Accounts {
    /// What each CA says of its account, by the upstream's name, as JSON. No CA waits for another one.
    async fn confirmed(&self) -> Result<String, String> {
        let mut asked = JoinSet::new();
        for (name, ca) in self.all.clone() {
            asked.spawn(async move { (name.to_string(), ca.confirmed().await) });
        }
        let confirmed: BTreeMap<String, Result<Confirmation, String>> =
            asked.join_all().await.into_iter().collect();
        serde_json::to_string(&confirmed).map_err(|error| error.to_string())
    }

    async fn shown(&self, shown: &[(UpstreamName, Arc<Ca>)]) -> Result<String, String> {
        let mut text = String::new();
        for (name, ca) in shown {
            let health = self.metrics.as_ref().map(|metrics| health_of(metrics, *name));
            let overview = ca.overview().await?;
            // Writing to a string does not fail.
            let _ = write_upstream(&mut text, *name, &overview, health.as_deref());
        }
        let mut in_use = BTreeSet::new();
        let mut earlier = BTreeSet::new();
        for (_, ca) in &self.all {
            if let Progress::Registered { thumbprint, .. } | Progress::Registering { thumbprint } =
                ca.overview().await?.progress
            {
                in_use.insert(thumbprint);
            }
            earlier.extend(ca.earlier_accounts().await?);
        }
        earlier.retain(|account| !in_use.contains(&account.thumbprint));
        if !earlier.is_empty() {
            text.push_str("earlier accounts, kept to revoke what they have bought:\n");
        }
        for account in earlier {
            let _ = writeln!(
                text,
                "  {}\n    directory: {}\n    key: {}",
                account.url, account.directory, account.thumbprint
            );
        }
        Ok(text)
    }
}

fn write_upstream(
    out: &mut String,
    name: UpstreamName,
    overview: &Overview,
    health: Option<&str>,
) -> Written {
    writeln!(out, "{name}")?;
    writeln!(out, "  directory: {}", overview.directory)?;
    let eab = if overview.has_eab { "configured" } else { "none" };
    writeln!(out, "  EAB: {eab}")?;
    match &overview.progress {
        Progress::Unregistered => writeln!(out, "  state: unregistered")?,
        Progress::Unreadable => writeln!(
            out,
            "  state: the account's record can not be read; acme-proxy upstream import --replace or register --again, with \
             --upstream {name}, puts another one in its place"
        )?,
        Progress::Registering { thumbprint } => {
            writeln!(
                out,
                "  state: registering: the CA has not named the account of the key yet"
            )?;
            writeln!(out, "  key: {thumbprint}")?;
        }
        Progress::Registered { thumbprint, url } => {
            writeln!(out, "  state: registered")?;
            writeln!(out, "  account: {url}")?;
            writeln!(out, "  key: {thumbprint}")?;
        }
    }
    match overview.change {
        Some(Change::Key) => writeln!(
            out,
            "  a change of the key was cut off: which key the CA knows is found out before it is used"
        )?,
        Some(Change::Account) => writeln!(
            out,
            "  another registration was cut off: acme-proxy upstream register --again --upstream {name} goes on with it"
        )?,
        None => {}
    }
    match health {
        Some(health) => writeln!(out, "  health: {health}"),
        None => Ok(()),
    }
}

fn health_of(metrics: &Metrics, name: UpstreamName) -> String {
    if let Some(missing) = metrics.health.missing().remove(&upkeep::account_at(name)) {
        return missing;
    }
    let labels = [name.as_str()];
    let is = |gauge: &prometheus::IntGaugeVec| gauge.with_label_values(&labels).get() > 0;
    match (is(&metrics.upstream.up), is(&metrics.upstream.breaker_open)) {
        (false, _) => "the CA's directory does not answer".to_owned(),
        (true, true) => {
            "the CA has failed several times in a row; one request at a time is let through".to_owned()
        }
        (true, false) => "ok".to_owned(),
    }
}

/// The accounts of a store that nobody else has open. They are put together only when they are asked for: other commands
/// need no working settings of a CA.
pub(crate) struct WithoutDaemon {
    pub(crate) configured: Vec<config::Upstream>,
    pub(crate) store: Arc<dyn Store>,
}

#[async_trait]
impl UpstreamAccounts for WithoutDaemon {
    async fn answer(&self, request: UpstreamRequest) -> Result<String, String> {
        let mut all = Vec::new();
        let vaults = Vaults::of(Arc::clone(&self.store));
        for configured in self.configured.clone() {
            let vault = vaults.of_upstream(&configured);
            let name = configured.name;
            let ca = app::ca(configured, vault).map_err(|error| format!("{error:#}"))?;
            all.push((name, ca));
        }
        let accounts = Accounts { all, metrics: None };
        accounts.answer(request).await
    }

    async fn health(&self, _upstream: &str) -> String {
        NOT_RUNNING.to_owned()
    }
}
