//! What is known here about the account at the CA, without asking it. Nothing secret.

use serde::Deserialize;
use serde::Serialize;

use crate::upstream::Settings;
use crate::upstream::account::Vault;
use crate::upstream::account::key::Key;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::State;
use crate::upstream::account::record::Successor;

/// The account of an upstream.
#[derive(Debug)]
pub struct Overview {
    /// The CA's directory.
    pub directory: String,
    /// Whether an EAB is configured.
    pub has_eab: bool,
    /// How far the account has come.
    pub progress: Progress,
    /// What has begun and not ended.
    pub change: Option<Change>,
}

/// How far an account has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is none.
    Unregistered,
    /// There is a record, and nothing can be read in it.
    Unreadable,
    /// There is a key, and the CA has not named its account yet.
    Registering {
        /// RFC 7638.
        thumbprint: String,
    },
    /// The CA has named it.
    Registered {
        /// RFC 7638.
        thumbprint: String,
        /// Its URL.
        url: String,
    },
}

/// What has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To another key.
    Key,
    /// To another account.
    Account,
}

/// What the CA says of the account, or why it was not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confirmation {
    /// There is no account yet.
    Unregistered,
    /// There is a record, and nothing can be read in it.
    Unreadable,
    /// There is a key, and the CA has not named its account yet.
    Registering,
    /// The CA knows the account.
    Known {
        /// Its URL.
        url: String,
    },
    /// The CA does not know the account, or has deactivated it.
    Lost {
        /// Its URL.
        url: String,
    },
    /// The CA does not tell.
    Unclear {
        /// The account's URL.
        url: String,
        /// What it says instead.
        why: String,
    },
}

/// An account that is used for nothing but revocation.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Earlier {
    /// The CA's directory.
    pub directory: String,
    /// Its URL.
    pub url: String,
    /// RFC 7638.
    pub thumbprint: String,
}

impl Overview {
    pub(crate) async fn of(settings: &Settings, vault: &dyn Vault) -> Result<Self, String> {
        let bytes = vault.load().await?;
        let record = bytes.as_ref().and_then(|bytes| Record::read(settings, bytes));
        let thumbprint = record.as_ref().and_then(Record::readable_key);
        let thumbprint = thumbprint.as_ref().map(Key::thumbprint);
        let progress = match (&bytes, &record, thumbprint) {
            (None, ..) => Progress::Unregistered,
            (Some(_), Some(record), Some(thumbprint)) => match &record.state {
                State::Registering => Progress::Registering { thumbprint },
                State::Registered { url } => Progress::Registered {
                    thumbprint,
                    url: url.clone(),
                },
            },
            (Some(_), ..) => Progress::Unreadable,
        };
        let change = record.and_then(|record| record.successor);
        Ok(Self {
            directory: settings.directory.clone(),
            has_eab: settings.eab.is_some(),
            progress,
            change: change.map(|successor| match successor {
                Successor::SameAccount { .. } => Change::Key,
                Successor::NextAccount { .. } => Change::Account,
            }),
        })
    }
}

impl Earlier {
    /// The accounts of all records but the vault's own.
    pub(crate) async fn all(vault: &dyn Vault) -> Result<Vec<Self>, String> {
        let records = vault.others().await?;
        let records = records.iter().filter_map(|bytes| Record::of_any(bytes));
        let earlier = records.filter_map(|record| {
            let account = record.account()?;
            Some(Self {
                directory: record.ca_url,
                url: account.url,
                thumbprint: account.key.thumbprint(),
            })
        });
        Ok(earlier.collect())
    }
}
