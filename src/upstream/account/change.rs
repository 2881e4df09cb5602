//! What the operator changes about the account: another key (RFC 8555 §7.3.5), another account, one from elsewhere.
//!
//! What is new is durable beside what it replaces before the CA hears of it, and what was replaced is kept for good: it
//! alone can revoke what it has bought. So every change can be cut off anywhere and done again.

use serde_json::json;

use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::account;
use crate::upstream::account::Registered;
use crate::upstream::account::Vault;
use crate::upstream::account::key::Key;
use crate::upstream::account::key::jws;
use crate::upstream::account::portable::Portable;
use crate::upstream::account::record;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::State;
use crate::upstream::account::record::Successor;
use crate::upstream::account::record::unkept;
use crate::upstream::fault::Fault;
use crate::upstream::http::Client;

/// Why the account is as it was, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unchanged(pub String);

impl From<Error> for Unchanged {
    fn from(error: Error) -> Self {
        match error {
            Error::Permanent(problem) => Self(problem.detail),
            Error::Transient { detail, .. } | Error::OrderGone(detail) | Error::OrderUnseen(detail) => {
                Self(detail)
            }
        }
    }
}

impl From<Fault> for Unchanged {
    fn from(fault: Fault) -> Self {
        Self(fault.to_string())
    }
}

/// Finds out which of its two keys the CA knows the account by, after a change whose end nobody has seen. The request for
/// it may still reach the CA: the new key is kept, too. `None` if neither.
pub(crate) async fn settle(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
    record: &Record,
) -> Result<Option<Registered>, Error> {
    let new = match &record.successor {
        Some(Successor::SameAccount { key }) => Key::from_stored(key),
        Some(Successor::NextAccount { .. }) | None => None,
    };
    let old = record.account();
    let new = new.zip(old.as_ref()).map(|(key, old)| Registered {
        key,
        url: old.url.clone(),
    });
    for candidate in [new, old].into_iter().flatten() {
        if knows(client, &candidate).await? {
            record.keep(vault).await?;
            Record::registered(settings, &candidate).save(vault).await?;
            tracing::info!(
                key.thumbprint = candidate.key.thumbprint(),
                "a change of the account's key was cut off; the CA knows the account by this one"
            );
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Finds the account that the CA does not know by its key any more by another one that was kept, if there is one: a
/// change of the key may have reached the CA after it was asked. `None` if the CA knows it by none.
pub(crate) async fn found_again(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
) -> Result<Option<Registered>, Error> {
    let record = Record::load(settings, vault).await?;
    let Some(State::Registered { url }) = record.map(|record| record.state) else {
        return Ok(None);
    };
    let kept = vault.others().await.map_err(unkept)?;
    let kept = kept.iter().filter_map(|bytes| Record::of_any(bytes));
    let kept = kept.filter(|record| record.ca_url == settings.directory);
    for candidate in kept.flat_map(|record| record.accounts()) {
        if candidate.url == url && knows(client, &candidate).await? {
            Record::registered(settings, &candidate).save(vault).await?;
            tracing::info!(
                audit = true,
                ca.directory = settings.directory,
                key.thumbprint = candidate.key.thumbprint(),
                "account found again by another key"
            );
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Whether the CA takes the key for the account. A key that it does not is refused as `malformed` by some, as
/// `unauthorized` by others.
pub(crate) async fn knows(client: &Client, account: &Registered) -> Result<bool, Error> {
    match account::stands(client, account).await.map_err(Error::from) {
        Err(Error::Permanent(_)) => Ok(false),
        answer => answer,
    }
}

/// The account has a new key.
#[derive(Debug)]
pub struct Rotated {
    /// RFC 7638, of the key before.
    pub from: String,
    /// And of this one.
    pub to: String,
}

/// Changes the account's key.
///
/// # Errors
///
/// Why it is as it was, or that nobody knows yet.
pub(crate) async fn rotate(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
) -> Result<Rotated, Unchanged> {
    let stored = Record::load(settings, vault).await?;
    if stored
        .as_ref()
        .is_none_or(|record| record.state == State::Registering)
    {
        return Err(Unchanged(
            "there is no account yet whose key could be changed".to_owned(),
        ));
    }
    let old = account::ensure_alone(client, settings, vault).await?;
    let directory = client.directory().await?;
    let Some(url) = &directory.key_change else {
        return Err(Unchanged(
            "the CA's directory has no keyChange: it changes no keys".to_owned(),
        ));
    };
    let Some(record) = Record::load(settings, vault).await? else {
        return Err(Unchanged("the account's record is gone".to_owned()));
    };
    if record.successor.is_some() {
        // The key of another account that may have been made with it.
        record.keep(vault).await?;
    }
    let new = Key::generate()?;
    let changing = record.followed_by(Successor::SameAccount { key: new.stored() });
    changing.save(vault).await?;
    let protected = json!({"alg": "ES256", "jwk": new.jwk(), "url": url});
    let payload = json!({"account": old.url, "oldKey": old.key.jwk()}).to_string();
    let inner = jws(&protected, &payload, |input| new.sign(input))?.to_string();
    let nonces = &directory.new_nonce;
    let asked = account::signed(client, nonces, &old.key, Some(&old.url), url, &inner).await;
    let (from, to) = (old.key.thumbprint(), new.thumbprint());
    match asked {
        Ok(_) => {
            let changed = Registered {
                key: new,
                url: old.url,
            };
            Record::registered(settings, &changed).save(vault).await?;
        }
        // The answer may be about an attempt that was heard, although its own answer was lost.
        Err(fault) => match settle(client, settings, vault, &changing).await {
            Ok(Some(known)) if known.key.thumbprint() == to => {}
            Ok(Some(_)) => return Err(Unchanged(format!("the key is not changed: {fault}"))),
            Ok(None) | Err(_) => {
                return Err(Unchanged(format!(
                    "it is not known whether the CA has changed the key ({fault}); both keys are kept, and the right \
                     one is found out before the account is used again"
                )));
            }
        },
    }
    tracing::info!(
        audit = true,
        ca.directory = settings.directory,
        key.thumbprint = to,
        "account key changed at the CA"
    );
    Ok(Rotated { from, to })
}

/// Registers another account in place of the one that is there, and keeps that one. Spends the EAB once more, always
/// with the same key until the CA has said yes or no.
///
/// # Errors
///
/// Why there is no other one.
pub(crate) async fn register_again(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
) -> Result<Registered, Unchanged> {
    let Some(bytes) = vault.load().await.map_err(unkept)? else {
        return Ok(account::ensure_alone(client, settings, vault).await?);
    };
    let readable = Record::read(settings, &bytes).filter(|record| record.readable_key().is_some());
    let Some(record) = readable else {
        // F11: the operator has been told that it is of no use.
        record::keep(vault, bytes).await?;
        let key = Key::generate()?;
        Record::new(settings, &key, State::Registering)
            .save(vault)
            .await?;
        return Ok(account::ensure_alone(client, settings, vault).await?);
    };
    if record.state == State::Registering {
        return Ok(account::ensure_alone(client, settings, vault).await?);
    }
    let directory = client.directory().await?;
    let (key, tried) = match &record.successor {
        Some(Successor::NextAccount { key }) => (Key::from_stored(key), true),
        Some(Successor::SameAccount { .. }) | None => (Some(Key::generate()?), false),
    };
    let Some(key) = key else {
        return Err(Unchanged(
            "the key of the next account can not be read".to_owned(),
        ));
    };
    // With the key that a change may have given it.
    record.keep(vault).await?;
    let next = Successor::NextAccount { key: key.stored() };
    record.clone().followed_by(next).save(vault).await?;
    let found = match tried {
        true => account::find(client, &directory, &key).await?,
        false => None,
    };
    let registered = match found {
        Some(url) => Ok(url),
        None => account::register(client, &directory, settings, &key).await,
    };
    let url = match registered {
        Ok(url) => url,
        Err(error) => {
            if matches!(error, Error::Permanent(_)) && !tried {
                record.save(vault).await?;
            }
            return Err(error.into());
        }
    };
    let account = Registered { key, url };
    Record::registered(settings, &account).save(vault).await?;
    tracing::info!(
        audit = true, ca.directory = settings.directory, ca.account = %cleaned(&account.url, 200),
        "registered again at the CA"
    );
    Ok(account)
}

/// Takes an account from elsewhere, once the CA has said that its key is good.
///
/// # Errors
///
/// Why not.
pub(crate) async fn import(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
    account: Portable,
    replace: bool,
) -> Result<String, Unchanged> {
    let refused = |why: String| Err(Unchanged(why));
    if let Some(directory) = account
        .directory
        .filter(|directory| *directory != settings.directory)
    {
        let (theirs, ours) = (cleaned(&directory, 200), &settings.directory);
        return refused(format!(
            "the account is one at {theirs}, and this upstream is {ours}"
        ));
    }
    let stored = vault.load().await.map_err(unkept)?;
    let thumbprint = account.key.thumbprint();
    let there = stored.as_ref().and_then(|bytes| Record::read(settings, bytes));
    let there = there.as_ref().and_then(Record::account);
    match there {
        Some(there) if there.key.thumbprint() == thumbprint => {
            return refused(format!("the account is this upstream's already: {}", there.url));
        }
        Some(there) if !replace => {
            let url = there.url;
            return refused(format!(
                "there is an account already: {url}; --replace puts the other one in its place, and keeps it"
            ));
        }
        None if stored.is_some() && !replace => {
            return refused(
                "there is a key already, whose account the CA has not named yet, or that can not be read; --replace puts \
                 the other account in its place, and keeps it"
                    .to_owned(),
            );
        }
        Some(_) | None => {}
    }
    let directory = client.directory().await?;
    let found = account::find(client, &directory, &account.key).await?;
    let url = match (found, account.account) {
        (Some(found), Some(named)) if found != named => {
            let named = cleaned(&named, 200);
            return refused(format!(
                "the key is the one of {found}, and not of {named}, as the file says"
            ));
        }
        (Some(url), _) | (None, Some(url)) => url,
        (None, None) => return refused("the CA has no account with this key".to_owned()),
    };
    client.permitted(&url)?;
    let account = Registered {
        key: account.key,
        url,
    };
    if !knows(client, &account).await? {
        let url = cleaned(&account.url, 200);
        return refused(format!(
            "the CA does not take the key for {url}: the account is unknown or deactivated, or the key is another one's"
        ));
    }
    if let Some(bytes) = stored {
        record::keep(vault, bytes).await?;
    }
    Record::registered(settings, &account).save(vault).await?;
    tracing::info!(
        audit = true, ca.directory = settings.directory, ca.account = %cleaned(&account.url, 200),
        key.thumbprint = thumbprint, "account imported"
    );
    Ok(account.url)
}
