//! What only the store knows: asked of the daemon that has it open, or read from the store of a stopped one. Nothing is
//! written to it, and none is made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::acme::certificate::IssuedCertificate;
use crate::app;
use crate::app::control::check_owner;
use crate::app::deep::Facts;
use crate::app::records;
use crate::app::upstreams::Accounts;
use crate::config::Config;
use crate::server::control::{self, Answer, Request, UpstreamAccounts, UpstreamCommand, UpstreamRequest};
use crate::store::postgres::PostgresStore;
use crate::upstream::account::overview::Confirmation;
use crate::upstream::account::{self, Vault};
use crate::worker::own_certificate;

/// How long a daemon may take to say that it is there.
const GREETING: Duration = Duration::from_secs(10);

/// How long a daemon may take to ask its CAs.
const PATIENCE: Duration = Duration::from_secs(150);

/// What each CA says of our account, by the upstream's name.
pub(crate) type Confirmations = BTreeMap<String, Result<Confirmation, String>>;

/// What the store knows.
pub(crate) struct Known {
    /// The accounts, or why nobody knows.
    pub(crate) accounts: Result<Confirmations, String>,
    /// The own certificate that a stopped daemon would serve.
    pub(crate) own_certificate: Option<IssuedCertificate>,
}

fn request(command: UpstreamCommand) -> Request {
    Request::Upstream(UpstreamRequest {
        upstream: None,
        command,
    })
}

/// Whether a daemon has the store open.
pub(crate) async fn daemon_runs(config: &Config) -> bool {
    let show = request(UpstreamCommand::Show);
    let asked = timeout(GREETING, control::ask(&config.store.path, &show)).await;
    match asked {
        Ok(Ok(answer)) => answer.is_some(),
        // Somebody is there, who does not talk to this user, or not at the moment.
        Ok(Err(_)) | Err(_) => true,
    }
}

impl Known {
    pub(crate) async fn find_out(facts: &Facts) -> Self {
        let accounts_alone = |accounts| Self {
            accounts,
            own_certificate: None,
        };
        if facts.daemon_runs().await {
            return accounts_alone(of_daemon(&facts.config).await);
        }
        match of_store(&facts.config).await {
            Ok(known) => known,
            Err(why) => accounts_alone(Err(why)),
        }
    }
}

async fn of_daemon(config: &Config) -> Result<Confirmations, String> {
    let confirm = request(UpstreamCommand::Confirm);
    let asked = timeout(PATIENCE, control::ask(&config.store.path, &confirm)).await;
    let answer = match asked {
        Ok(Ok(Some(answer))) => answer,
        Ok(Ok(None)) => return Err("the daemon has just ended".to_owned()),
        Ok(Err(error)) => return Err(format!("the daemon can not be asked: {error}")),
        Err(_) => {
            return Err(format!(
                "the daemon has not answered within {} s",
                PATIENCE.as_secs()
            ));
        }
    };
    match answer {
        Answer::Done(text) => parsed(&text),
        Answer::Refused(why) => Err(why),
        Answer::No(_) | Answer::Page(_) => Err("the daemon is of another version".to_owned()),
    }
}

fn parsed(text: &str) -> Result<Confirmations, String> {
    serde_json::from_str(text).map_err(|error| format!("the daemon's answer is not understood: {error}"))
}

/// The store is closed again before any CA is asked: a daemon that is started meanwhile finds it free.
async fn of_store(config: &Config) -> Result<Known, String> {
    let path = &config.store.path;
    let has_store = match &config.database {
        // Who opens it brings it up to date, so it is only opened where there is nothing to be done.
        Some(database) => PostgresStore::is_made(database)
            .await
            .map_err(|error| error.to_string())?,
        None => has_store(path),
    };
    if !has_store {
        let nothing =
            |upstream: &crate::config::Upstream| (upstream.name.to_string(), Ok(Confirmation::Unregistered));
        return Ok(Known {
            accounts: Ok(config.upstreams.iter().map(nothing).collect()),
            own_certificate: None,
        });
    }
    if config.database.is_none() {
        check_owner(path).map_err(|error| error.to_string())?;
    }
    let store = records::open(config).await.map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for configured in config.upstreams.clone() {
        let vault = account::vault_name(configured.name, &configured.settings);
        let record = store.load(&vault).await.map_err(|error| error.to_string())?;
        let vault = Arc::new(Copied(record.map(|record| record.value)));
        let name = configured.name;
        let ca = app::ca(configured, vault).map_err(|error| format!("{error:#}"))?;
        all.push((name, ca));
    }
    let own_certificate = own_certificate::stored(&*store).await;
    drop(store);
    let accounts = Accounts { all, metrics: None };
    let confirm = UpstreamRequest {
        upstream: None,
        command: UpstreamCommand::Confirm,
    };
    let confirmed = accounts.answer(confirm).await;
    Ok(Known {
        accounts: confirmed.and_then(|text| parsed(&text)),
        own_certificate: own_certificate.map_err(|error| error.to_string())?,
    })
}

/// Whether there is a store, in whatever state.
pub(crate) fn has_store(path: &Path) -> bool {
    path.join("db").exists()
}

/// An account's record, to be read only.
struct Copied(Option<Vec<u8>>);

#[async_trait]
impl Vault for Copied {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.clone())
    }

    async fn save(&self, _: Vec<u8>) -> Result<(), String> {
        Err("nothing is written here".to_owned())
    }

    async fn keep(&self, _: &str, _: Vec<u8>) -> Result<(), String> {
        Err("nothing is written here".to_owned())
    }

    async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }

    async fn begin(&self) -> Result<OwnedMutexGuard<()>, String> {
        Err("nothing is changed here".to_owned())
    }

    async fn end(&self, _: OwnedMutexGuard<()>) {}
}
