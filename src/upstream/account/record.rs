//! The account as the vault holds it. A record that makes no sense is never replaced unless the operator says so: the
//! account in it may be the only one that the EAB will ever give (SECURITY F11).

use serde::Deserialize;
use serde::Serialize;

use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::account::Registered;
use crate::upstream::account::Vault;
use crate::upstream::account::key::Key;
use crate::upstream::account::key::hex_sha256;

/// What the vault holds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) ca_url: String,
    eab_kid_sha256: Option<String>,
    key: String,
    pub(crate) state: State,
    /// The key that is to take the place of this one, if a change has begun and not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) successor: Option<Successor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub(crate) enum State {
    /// The key may be known to the CA, and the EAB spent on it, or not.
    Registering,
    /// The CA has named the account.
    Registered { url: String },
}

/// A key that is durable before the CA hears of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub(crate) enum Successor {
    /// Of the same account: the CA knows it by this key or by the one before.
    SameAccount { key: String },
    /// Of another account, for which the EAB may have been spent, or not.
    NextAccount { key: String },
}

impl Successor {
    fn readable_key(&self) -> Option<Key> {
        let (Self::SameAccount { key } | Self::NextAccount { key }) = self;
        Key::from_stored(key)
    }
}

impl Record {
    const VERSION: u32 = 1;

    pub(crate) fn new(settings: &Settings, key: &Key, state: State) -> Self {
        Self {
            version: Self::VERSION,
            ca_url: settings.directory.clone(),
            eab_kid_sha256: kid_sha256(settings),
            key: key.stored(),
            state,
            successor: None,
        }
    }

    /// An account that the CA has.
    pub(crate) fn registered(settings: &Settings, account: &Registered) -> Self {
        let url = account.url.clone();
        Self::new(settings, &account.key, State::Registered { url })
    }

    pub(crate) async fn load(settings: &Settings, vault: &dyn Vault) -> Result<Option<Self>, Error> {
        let Some(bytes) = vault.load().await.map_err(unkept)? else {
            return Ok(None);
        };
        match Self::read(settings, &bytes) {
            Some(record) => Ok(Some(record)),
            None => Err(unusable("it can not be read, or belongs to another CA or EAB")),
        }
    }

    /// The record of the account of these settings.
    pub(crate) fn read(settings: &Settings, bytes: &[u8]) -> Option<Self> {
        let ours = |record: &Self| {
            record.ca_url == settings.directory && record.eab_kid_sha256 == kid_sha256(settings)
        };
        Self::of_any(bytes).filter(ours)
    }

    /// The record of any account.
    pub(crate) fn of_any(bytes: &[u8]) -> Option<Self> {
        let record: Option<Self> = serde_json::from_slice(bytes).ok();
        record.filter(|record| record.version == Self::VERSION)
    }

    pub(crate) async fn save(&self, vault: &dyn Vault) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|e| unkept(e.to_string()))?;
        vault.save(bytes).await.map_err(unkept)
    }

    /// The same, with a change begun.
    pub(crate) fn followed_by(self, successor: Successor) -> Self {
        Self {
            successor: Some(successor),
            ..self
        }
    }

    /// Keeps a copy beside, whatever takes this one's place.
    pub(crate) async fn keep(&self, vault: &dyn Vault) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|e| unkept(e.to_string()))?;
        keep(vault, bytes).await
    }

    pub(crate) fn key(&self) -> Result<Key, Error> {
        self.readable_key()
            .ok_or_else(|| unusable("its key can not be read"))
    }

    pub(crate) fn readable_key(&self) -> Option<Key> {
        Key::from_stored(&self.key)
    }

    /// All of its keys that can be read: the account's, and the one that is to take its place.
    pub(crate) fn readable_keys(&self) -> Vec<Key> {
        let successor = self.successor.as_ref().and_then(Successor::readable_key);
        self.readable_key().into_iter().chain(successor).collect()
    }

    /// The account by each key that the CA may know it by, if the CA has named it.
    pub(crate) fn accounts(&self) -> Vec<Registered> {
        let State::Registered { url } = &self.state else {
            return Vec::new();
        };
        let next = match &self.successor {
            Some(Successor::SameAccount { key }) => Key::from_stored(key),
            Some(Successor::NextAccount { .. }) | None => None,
        };
        let keys = self.readable_key().into_iter().chain(next);
        keys.map(|key| Registered {
            key,
            url: url.clone(),
        })
        .collect()
    }

    /// Whether the CA is not to be asked which of two keys the account has.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.successor, Some(Successor::SameAccount { .. }))
    }

    /// The account, if the CA has named it and its key can be read.
    pub(crate) fn account(&self) -> Option<Registered> {
        let State::Registered { url } = &self.state else {
            return None;
        };
        let key = self.readable_key()?;
        Some(Registered {
            key,
            url: url.clone(),
        })
    }
}

/// Keeps a copy of a record, or of what should be one.
pub(crate) async fn keep(vault: &dyn Vault, bytes: Vec<u8>) -> Result<(), Error> {
    let id = hex_sha256(&bytes);
    vault.keep(&id, bytes).await.map_err(unkept)
}

fn kid_sha256(settings: &Settings) -> Option<String> {
    let kid = settings.eab.as_ref().map(|eab| eab.kid.reveal());
    kid.map(|kid| hex_sha256(kid.as_bytes()))
}

pub(crate) fn unkept(detail: String) -> Error {
    Error::transient(format!("the record of the account at the CA: {detail}"))
}

fn unusable(why: &str) -> Error {
    tracing::error!(why, "the record of the account at the CA is unusable");
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!(
            "the record of the account at the CA is unusable: {why}; it is left as it is, and no other account is made; \
             acme-proxy upstream import --replace or register --again puts another one in its place (of several upstreams, \
             --upstream names this one)"
        ),
    ))
}
