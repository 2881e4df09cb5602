//! The one account at the CA (RFC 8555 §7.3), and the EAB that it costs (UPSTREAM rule 1).
//!
//! `unregistered -> registering -> registered`: the key is durable before the CA hears of it, so that a crash at any
//! point leads back to the same account. The EAB is sent again only with the same key, for which a CA that has the
//! account already answers with that account. instant-acme can not register a key of ours with an EAB; the three
//! signed requests that this needs are made here.

pub mod change;
pub(crate) mod key;
pub mod overview;
pub mod portable;
pub(crate) mod record;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::acme::upstream::UpstreamName;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::account::key::hex_sha256;
use crate::upstream::account::key::jws;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::State;
use crate::upstream::account::record::Successor;
use crate::upstream::fault::Fault;
use crate::upstream::http::Answer;
use crate::upstream::http::Client;
use crate::upstream::http::Directory;

pub use crate::upstream::account::key::Key;

/// Times that a request is repeated at once after `badNonce` (RFC 8555 §6.5).
pub const BAD_NONCE_RETRIES: u32 = 5;

/// What the names of all records begin with.
pub const VAULT: &str = "upstream/";

/// Where the account's record is kept. Errors are text for the log.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// The record, if there is one.
    async fn load(&self) -> Result<Option<Vec<u8>>, String>;

    /// Keeps the record in place of the one that was there when the change has begun, or was saved since. Returns once it is
    /// durable. An error if somebody else has put another one there.
    async fn save(&self, bytes: Vec<u8>) -> Result<(), String>;

    /// Keeps the record of another account beside it, for good. The id tells what is in it.
    async fn keep(&self, id: &str, bytes: Vec<u8>) -> Result<(), String>;

    /// All records but this one: those that were kept, and those of other CAs and EABs.
    async fn others(&self) -> Result<Vec<Vec<u8>>, String>;

    /// Begins a change of the account, as soon as no other one is under way in this process. Until [`Self::end`], or for five
    /// minutes, no other process with these records can do so.
    ///
    /// # Errors
    ///
    /// Another process is at it, or nobody can tell.
    async fn begin(&self) -> Result<OwnedMutexGuard<()>, String>;

    /// Ends the change.
    async fn end(&self, turn: OwnedMutexGuard<()>);
}

/// Does something about the account that nobody else may do at the same time, in this process or another one.
pub(crate) async fn alone<T, E: From<Error>>(
    vault: &dyn Vault,
    change: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let turn = vault.begin().await.map_err(record::unkept)?;
    let outcome = change.await;
    vault.end(turn).await;
    outcome
}

/// The name to keep the account's record under. Another directory or another EAB is another account; where no EAB tells
/// them apart, each upstream has its own.
pub fn vault_name(upstream: UpstreamName, settings: &Settings) -> String {
    let whose = match &settings.eab {
        Some(eab) => eab.kid.reveal().clone(),
        None if upstream.is_default() => String::new(),
        None => format!("\n{upstream}"),
    };
    let account = format!("{}\n{whose}", settings.directory);
    format!("{VAULT}{}", hex_sha256(account.as_bytes()))
}

/// The public keys in a record, as JWKs: the account's, and the one that is to take its place. None if the record can
/// not be used, which is for [`ensure`] to tell.
pub fn public_keys(record: &[u8]) -> Vec<Value> {
    let keys = Record::of_any(record).map(|record| record.readable_keys());
    let keys = keys.unwrap_or_default();
    keys.iter().map(Key::jwk).collect()
}

/// The account, once the CA has it.
#[derive(Debug)]
pub struct Registered {
    /// Signs.
    pub key: Key,
    /// Names the account in every request.
    pub url: String,
}

/// Finds the account or registers it, whatever the last attempt left behind.
///
/// # Errors
///
/// Permanent if the operator has to do something: the text says what.
pub async fn ensure(client: &Client, settings: &Settings, vault: &dyn Vault) -> Result<Registered, Error> {
    let stored = Record::load(settings, vault).await?;
    match stored
        .filter(Record::is_settled)
        .and_then(|record| record.account())
    {
        Some(account) => Ok(account),
        None => alone(vault, ensure_alone(client, settings, vault)).await,
    }
}

/// The same for whoever is [`alone`] with the account.
pub(crate) async fn ensure_alone(
    client: &Client,
    settings: &Settings,
    vault: &dyn Vault,
) -> Result<Registered, Error> {
    let stored = Record::load(settings, vault).await?;
    if let Some(record) = &stored
        && let Some(Successor::SameAccount { .. }) = record.successor
    {
        let known = change::settle(client, settings, vault, record).await?;
        return known.ok_or_else(|| {
            Error::transient("the CA knows our account by neither of the keys between which it was to change")
        });
    }
    let (key, known) = match &stored {
        Some(record) => (record.key()?, true),
        None => (Key::generate()?, false),
    };
    if let Some(State::Registered { url }) = stored.map(|record| record.state) {
        return Ok(Registered { key, url });
    }
    let directory = client.directory().await?;
    if directory.external_account_required() && settings.eab.is_none() {
        return Err(eab_is_missing(settings));
    }
    if !known {
        Record::new(settings, &key, State::Registering)
            .save(vault)
            .await?;
    }
    let found = match known {
        true => find(client, &directory, &key).await?,
        false => None,
    };
    let url = match found {
        Some(url) => url,
        None => register(client, &directory, settings, &key).await?,
    };
    let state = State::Registered { url: url.clone() };
    Record::new(settings, &key, state).save(vault).await?;
    tracing::info!(
        audit = true, ca.directory = settings.directory, ca.account = %cleaned(&url, 200), "registered at the CA"
    );
    Ok(Registered { key, url })
}

/// RFC 8555 §7.3.1: the account that the key has already, if it has one. Some CAs ask for an EAB even here; what they
/// answer to a registration with the same key is the account just the same.
pub(crate) async fn find(client: &Client, directory: &Directory, key: &Key) -> Result<Option<String>, Error> {
    let payload = json!({"onlyReturnExisting": true}).to_string();
    match signed(
        client,
        &directory.new_nonce,
        key,
        None,
        &directory.new_account,
        &payload,
    )
    .await
    {
        Ok(answer) => account_url(client, answer).map(Some),
        Err(fault) => match fault.kind() {
            Some(ProblemType::AccountDoesNotExist | ProblemType::ExternalAccountRequired) => Ok(None),
            _ => Err(fault.into()),
        },
    }
}

/// RFC 8555 §7.3: spends the EAB on the key.
pub(crate) async fn register(
    client: &Client,
    directory: &Directory,
    settings: &Settings,
    key: &Key,
) -> Result<String, Error> {
    let mut payload = json!({"termsOfServiceAgreed": true});
    if let Some(members) = payload.as_object_mut() {
        if let Some(email) = &settings.email {
            members.insert("contact".to_owned(), json!([format!("mailto:{email}")]));
        }
        if let Some(eab) = &settings.eab {
            members.insert(
                "externalAccountBinding".to_owned(),
                key.bound_to(eab, &directory.new_account),
            );
        }
    }
    let payload = payload.to_string();
    match signed(
        client,
        &directory.new_nonce,
        key,
        None,
        &directory.new_account,
        &payload,
    )
    .await
    {
        Ok(answer) => account_url(client, answer),
        Err(fault) => Err(refused_registration(fault, directory, settings)),
    }
}

fn account_url(client: &Client, answer: Answer) -> Result<String, Error> {
    let url = answer
        .location
        .ok_or_else(|| Fault::Nonsense("newAccount without the account's URL".to_owned()))?;
    client.permitted(&url)?;
    Ok(url)
}

fn eab_is_missing(settings: &Settings) -> Error {
    let section = &settings.section;
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!("the CA wants an External Account Binding: configure {section}.eab_kid and eab_hmac_key"),
    ))
}

/// F10: what the operator is to do about it, if it is anything to do with what is configured.
fn refused_registration(mut fault: Fault, directory: &Directory, settings: &Settings) -> Error {
    // Whoever may see the health page reads what the CA says.
    if let (Fault::Refused(refusal), Some(eab)) = (&mut fault, &settings.eab)
        && let Some(detail) = refusal.document.as_mut().and_then(|d| d.detail.as_mut())
    {
        *detail = detail.replace(eab.kid.reveal().as_str(), "[eab_kid]");
    }
    let kind = fault.kind();
    if kind == Some(ProblemType::ExternalAccountRequired) && settings.eab.is_none() {
        return eab_is_missing(settings);
    }
    let said = fault.to_string();
    let error = Error::from(fault);
    let by_us = matches!(error, Error::Permanent(_)) || kind == Some(ProblemType::ExternalAccountRequired);
    if !by_us {
        return error;
    }
    let section = &settings.section;
    let hint = match (kind, &settings.eab) {
        (Some(ProblemType::InvalidContact | ProblemType::UnsupportedContact), _) => {
            format!("look at {section}.account_email")
        }
        (_, Some(_)) if directory.external_account_required() => {
            format!(
                "look at {section}.eab_kid and eab_hmac_key, and whether the EAB has been used or has expired"
            )
        }
        (_, Some(_)) => {
            format!(
                "an EAB is configured, and the CA's directory does not ask for one: look at {section}.eab_kid and ca_url"
            )
        }
        (_, None) => format!("look at {section}.ca_url"),
    };
    tracing::error!(answer = said, hint, "the CA refuses to register us");
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!("the CA refuses to register this server: {hint}; what it says: {said}"),
    ))
}

/// Whether the CA still knows the account (RFC 8555 §7.3.6: a deactivated one gets `unauthorized`).
///
/// # Errors
///
/// [`Fault`] if the CA's answer tells neither.
pub async fn stands(client: &Client, account: &Registered) -> Result<bool, Fault> {
    #[derive(Deserialize)]
    struct Account {
        status: Option<String>,
    }
    let directory = client.directory().await?;
    match signed(
        client,
        &directory.new_nonce,
        &account.key,
        Some(&account.url),
        &account.url,
        "",
    )
    .await
    {
        Ok(answer) => {
            let account: Account = serde_json::from_slice(&answer.body)
                .map_err(|e| Fault::Nonsense(format!("our account: {e}")))?;
            Ok(account.status.is_none_or(|status| status == "valid"))
        }
        Err(fault) => match fault.kind() {
            Some(ProblemType::AccountDoesNotExist | ProblemType::Unauthorized) => Ok(false),
            _ => Err(fault),
        },
    }
}

/// Posts a payload signed by the account's key, which is named by the account's URL if it has one already. An empty
/// payload makes a POST-as-GET (RFC 8555 §6.3).
pub(crate) async fn signed(
    client: &Client,
    new_nonce: &str,
    key: &Key,
    kid: Option<&str>,
    url: &str,
    payload: &str,
) -> Result<Answer, Fault> {
    let mut retries = 0;
    loop {
        let nonce = client.nonce(new_nonce).await?;
        let protected = match kid {
            Some(kid) => json!({"alg": "ES256", "kid": kid, "nonce": nonce, "url": url}),
            None => json!({"alg": "ES256", "jwk": key.jwk(), "nonce": nonce, "url": url}),
        };
        let body = jws(&protected, payload, |input| key.sign(input))?;
        match client.post(url, body.to_string().into_bytes()).await {
            Err(fault) if fault.kind() == Some(ProblemType::BadNonce) && retries < BAD_NONCE_RETRIES => {
                retries += 1
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Mutex;

    use super::*;
    use crate::acme::secret::Secret;
    use crate::upstream::Eab;

    fn settings(directory: &str, kid: Option<&str>) -> Settings {
        Settings {
            section: "authority.config".to_owned(),
            directory: directory.to_owned(),
            roots: None,
            email: None,
            eab: kid.map(|kid| Eab {
                kid: Secret::new(kid.to_owned()),
                hmac_key: Secret::new(vec![7; 32]),
            }),
            dns01: None,
            lifetime: None,
            profile: None,
        }
    }

    #[test]
    fn another_directory_or_eab_is_another_account() {
        let base = vault_name(
            UpstreamName::DEFAULT,
            &settings("https://ca.example/dir", Some("kid-1")),
        );
        assert_eq!(
            base,
            vault_name(
                UpstreamName::DEFAULT,
                &settings("https://ca.example/dir", Some("kid-1"))
            )
        );
        assert_ne!(
            base,
            vault_name(
                UpstreamName::DEFAULT,
                &settings("https://ca.example/dir", Some("kid-2"))
            )
        );
        let other: UpstreamName = "other".parse().unwrap();
        let bare = settings("https://ca.example/dir", None);
        assert_ne!(base, vault_name(UpstreamName::DEFAULT, &bare));
        assert_ne!(vault_name(other, &bare), vault_name(UpstreamName::DEFAULT, &bare));
        assert_eq!(
            base,
            vault_name(other, &settings("https://ca.example/dir", Some("kid-1"))),
            "an EAB is an account, whatever the upstream is called"
        );
        assert_ne!(
            base,
            vault_name(
                UpstreamName::DEFAULT,
                &settings("https://ca.example/dir?x", Some("kid-1"))
            )
        );
        assert!(!base.contains("kid"));
    }

    struct Holding(&'static str);

    #[async_trait]
    impl Vault for Holding {
        async fn load(&self) -> Result<Option<Vec<u8>>, String> {
            Ok(Some(self.0.into()))
        }

        async fn save(&self, _: Vec<u8>) -> Result<(), String> {
            panic!("a record that can not be read was replaced");
        }

        async fn keep(&self, _: &str, _: Vec<u8>) -> Result<(), String> {
            panic!("another account was made");
        }

        async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
            Ok(Vec::new())
        }

        async fn begin(&self) -> Result<OwnedMutexGuard<()>, String> {
            Ok(Arc::<Mutex<()>>::default().lock_owned().await)
        }

        async fn end(&self, _: OwnedMutexGuard<()>) {}
    }

    #[tokio::test]
    async fn f11_a_record_that_can_not_be_used_is_never_replaced() {
        let settings = settings("https://ca.example/dir", None);
        let client = Client::new(&settings).unwrap();
        let foreign = r#"{"version":1,"ca_url":"https://other.example/dir","eab_kid_sha256":null,"key":"","state":{"name":"registering"}}"#;
        let keyless = r#"{"version":1,"ca_url":"https://ca.example/dir","eab_kid_sha256":null,"key":"AAAA","state":{"name":"registering"}}"#;
        for record in ["", "{", foreign, keyless] {
            let outcome = ensure(&client, &settings, &Holding(record)).await;
            assert!(matches!(outcome, Err(Error::Permanent(_))), "{record}");
        }
    }
}
