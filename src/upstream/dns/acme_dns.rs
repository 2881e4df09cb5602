//! `acme-dns`: Joohoi's acme-dns (<https://github.com/joohoi/acme-dns>), a DNS server for challenges only, to which
//! `_acme-challenge` is delegated by CNAME. Accounts are kept as lego keeps them: one for each domain, in a file or behind
//! a storage server.
//!
//! acme-dns keeps the last two values of an account and knows no removal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;

#[derive(Debug)]
struct AcmeDns {
    base: String,
    storage: Storage,
    allow_from: Vec<String>,
}

/// Two domains, perhaps of two upstreams, may register at once.
static WRITING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[derive(Debug)]
enum Storage {
    File(PathBuf),
    Server(String),
}

/// As the server and lego's storages write it.
#[derive(Clone, Serialize, Deserialize)]
struct Account {
    fulldomain: String,
    subdomain: String,
    username: String,
    password: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    let base = variables.endpoint("API_BASE");
    let path = variables.text("STORAGE_PATH");
    let server = variables.text("STORAGE_BASE_URL");
    let storage = match (path, server) {
        (Some(path), None) => Ok(Storage::File(path.into())),
        (None, Some(server)) => variables
            .url("STORAGE_BASE_URL", &server, &["https", "http"])
            .map(Storage::Server),
        (Some(_), Some(_)) => {
            Err(variables.wrong("STORAGE_BASE_URL", "excludes ACME_DNS_STORAGE_PATH; remove one"))
        }
        (None, None) => Err(variables.wrong(
            "STORAGE_PATH",
            "is missing; write the full path of the file with the accounts, e.g. \"/opt/acme-proxy/db/acme-dns.json\"",
        )),
    };
    let allowed = variables.text("ALLOWLIST").unwrap_or_default();
    let networks = allowed
        .split(',')
        .map(str::trim)
        .filter(|network| !network.is_empty());
    Ok(Arc::new(AcmeDns {
        base: base?,
        storage: storage?,
        allow_from: networks.map(str::to_owned).collect(),
    }))
}

#[async_trait]
impl Provider for AcmeDns {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        if action == Action::Withdraw {
            return Ok(());
        }
        let account = match self.account(record, web).await? {
            Some(account) => account,
            None => self.register(record, web).await?,
        };
        let request = web
            .request(Method::POST, &format!("{}/update", self.base))
            .header("X-Api-User", &account.username)
            .header("X-Api-Key", &account.password);
        let update = json!({ "subdomain": account.subdomain, "txt": record.value });
        let reply = web.send(with_json(request, &update)).await?;
        match reply.status.is_success() {
            true => Ok(()),
            false => {
                web.hide(account.password);
                Err(reply.refusal())
            }
        }
    }
}

impl AcmeDns {
    async fn account(&self, record: &Record, web: &Web) -> Result<Option<Account>, String> {
        match &self.storage {
            Storage::File(path) => {
                let accounts = read_accounts(path).await?;
                // The CNAME tells whose record it is, if it is there: two domains may share one.
                let target = |account: &&Account| {
                    account.fulldomain.trim_end_matches('.') == record.name.trim_end_matches('.')
                };
                let aimed_at = accounts.values().find(target);
                Ok(aimed_at.or_else(|| accounts.get(&record.domain)).cloned())
            }
            Storage::Server(url) => {
                let request = web.request(Method::GET, &format!("{url}/{}", record.domain));
                let reply = web.send(request).await?;
                match reply.status {
                    StatusCode::NOT_FOUND => Ok(None),
                    _ => reply.json().map(Some),
                }
            }
        }
    }

    async fn new_account(&self, web: &Web) -> Result<Account, String> {
        let body = match self.allow_from.as_slice() {
            [] => json!({}),
            networks => json!({ "allowfrom": networks }),
        };
        let request = web.request(Method::POST, &format!("{}/register", self.base));
        web.send(with_json(request, &body)).await?.json()
    }

    /// Makes an account and keeps it. The operator has to set the CNAME then: until it is there nothing can be issued.
    async fn register(&self, record: &Record, web: &Web) -> Result<Account, String> {
        let account = match &self.storage {
            Storage::File(path) => {
                let _writing = WRITING.lock().await;
                let mut accounts = read_accounts(path).await?;
                // An account that can not be kept is not made.
                let (draft, file) = draft(path)?;
                let account = match self.new_account(web).await {
                    Ok(account) => account,
                    Err(error) => {
                        // If it stays, it is empty, and the next attempt takes it over.
                        let _ = std::fs::remove_file(draft);
                        return Err(error);
                    }
                };
                accounts.insert(record.domain.clone(), account.clone());
                let path = path.clone();
                let write = move || write_accounts(&path, &draft, file, &accounts);
                let written = tokio::task::spawn_blocking(write).await;
                written.map_err(|error| error.to_string())??;
                account
            }
            Storage::Server(url) => {
                let account = self.new_account(web).await?;
                let request = web.request(Method::POST, &format!("{url}/{}", record.domain));
                let reply = web.send(with_json(request, &json!(account))).await?.success()?;
                if reply.status == StatusCode::CREATED {
                    // By lego's contract: the storage server has set the CNAME itself.
                    return Ok(account);
                }
                account
            }
        };
        Err(format!(
            "a new account has been made for {}; set this record in your zone, once: _acme-challenge.{}. CNAME {}.",
            record.domain,
            record.domain,
            account.fulldomain.trim_end_matches('.')
        ))
    }
}

async fn read_accounts(path: &Path) -> Result<BTreeMap<String, Account>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match tokio::fs::read(path).await {
        Ok(content) => serde_json::from_slice(&content).map_err(|error| unusable(&error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(unusable(&error)),
    }
}

/// The file that is going to replace the one with the accounts.
fn draft(path: &Path) -> Result<(PathBuf, File), String> {
    let draft = path.with_extension("new");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft);
    match file {
        Ok(file) => Ok((draft, file)),
        Err(error) => Err(format!("{}: {error}", draft.display())),
    }
}

/// A registration that is not kept is lost: the file is replaced whole, and synced.
fn write_accounts(
    path: &Path,
    draft: &Path,
    mut file: File,
    accounts: &BTreeMap<String, Account>,
) -> Result<(), String> {
    let mut write = || {
        file.write_all(serde_json::to_string_pretty(accounts)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(draft, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}
