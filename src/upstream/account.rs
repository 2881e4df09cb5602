//! The one account at the CA (RFC 8555 §7.3), and the EAB that it costs (UPSTREAM rule 1).
//!
//! `unregistered -> registering -> registered`: the key is durable before the CA hears of it, so that a crash at any
//! point leads back to the same account. The EAB is sent again only with the same key, for which a CA that has the
//! account already answers with that account. instant-acme can not register a key of ours with an EAB; the three
//! signed requests that this needs are made here.

use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::acme::upstream::UpstreamName;
use crate::upstream::Eab;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::fault::Fault;
use crate::upstream::http::Answer;
use crate::upstream::http::Client;
use crate::upstream::http::Directory;

/// Times that a request is repeated at once after `badNonce` (RFC 8555 §6.5).
pub const BAD_NONCE_RETRIES: u32 = 5;

/// Where the account's record is kept. Errors are text for the log.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// The record, if there is one.
    async fn load(&self) -> Result<Option<Vec<u8>>, String>;

    /// Keeps the record in place of the one before. Returns once it is durable.
    async fn save(&self, bytes: Vec<u8>) -> Result<(), String>;
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
    format!("upstream/{}", hex_sha256(&account))
}

/// The public key of the account, as a JWK. None if there is no account yet, or its record can not be used, which is
/// for [`ensure`] to tell.
///
/// # Errors
///
/// The vault's.
pub async fn public_key(vault: &dyn Vault) -> Result<Option<Value>, String> {
    let record = vault.load().await?;
    let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let key = record.and_then(|record| record.readable_key());
    Ok(key.map(|key| key.jwk()))
}

/// The account, once the CA has it.
#[derive(Debug)]
pub struct Registered {
    /// Signs.
    pub key: Key,
    /// Names the account in every request.
    pub url: String,
}

/// What the vault holds.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    ca_url: String,
    eab_kid_sha256: Option<String>,
    /// PKCS #8, base64url.
    key: String,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
enum State {
    /// The key may be known to the CA, and the EAB spent on it, or not.
    Registering,
    /// The CA has named the account.
    Registered { url: String },
}

impl Record {
    const VERSION: u32 = 1;

    fn new(settings: &Settings, key: &Key, state: State) -> Self {
        Self {
            version: Self::VERSION,
            ca_url: settings.directory.clone(),
            eab_kid_sha256: kid_sha256(settings),
            key: URL_SAFE_NO_PAD.encode(&key.pkcs8),
            state,
        }
    }

    async fn load(settings: &Settings, vault: &dyn Vault) -> Result<Option<Self>, Error> {
        let Some(bytes) = vault.load().await.map_err(unkept)? else {
            return Ok(None);
        };
        let record: Option<Self> = serde_json::from_slice(&bytes).ok();
        let ours = |record: &Self| {
            record.version == Self::VERSION
                && record.ca_url == settings.directory
                && record.eab_kid_sha256 == kid_sha256(settings)
        };
        match record.filter(ours) {
            Some(record) => Ok(Some(record)),
            None => Err(unusable("it can not be read, or belongs to another CA or EAB")),
        }
    }

    async fn save(&self, vault: &dyn Vault) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|e| unkept(e.to_string()))?;
        vault.save(bytes).await.map_err(unkept)
    }

    fn key(&self) -> Result<Key, Error> {
        self.readable_key()
            .ok_or_else(|| unusable("its key can not be read"))
    }

    fn readable_key(&self) -> Option<Key> {
        let pkcs8 = URL_SAFE_NO_PAD.decode(&self.key).ok();
        pkcs8.and_then(Key::from_pkcs8)
    }
}

fn kid_sha256(settings: &Settings) -> Option<String> {
    settings.eab.as_ref().map(|eab| hex_sha256(eab.kid.reveal()))
}

fn unkept(detail: String) -> Error {
    Error::transient(format!("the record of the account at the CA: {detail}"))
}

/// A record that makes no sense is never replaced: the account in it may be the only one that the EAB will ever give.
fn unusable(why: &str) -> Error {
    tracing::error!(
        why,
        "the record of the account at the CA is unusable; it is left as it is, and no other account is made"
    );
    Error::Permanent(Problem::internal())
}

/// Finds the account or registers it, whatever the last attempt left behind.
///
/// # Errors
///
/// Permanent if the operator has to do something: the text says what.
pub async fn ensure(client: &Client, settings: &Settings, vault: &dyn Vault) -> Result<Registered, Error> {
    let stored = Record::load(settings, vault).await?;
    let (key, known) = match &stored {
        Some(record) => (record.key()?, true),
        None => (Key::generate()?, false),
    };
    if let Some(State::Registered { url }) = stored.map(|record| record.state) {
        return Ok(Registered { key, url });
    }
    let directory = client.directory().await?;
    if directory.external_account_required() && settings.eab.is_none() {
        return Err(eab_is_missing());
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
async fn find(client: &Client, directory: &Directory, key: &Key) -> Result<Option<String>, Error> {
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
async fn register(
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

fn eab_is_missing() -> Error {
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        "the CA wants an External Account Binding: configure authority.config.eab_kid and eab_hmac_key",
    ))
}

/// F10: what the operator is to do about it, if it is anything to do with what is configured.
fn refused_registration(fault: Fault, directory: &Directory, settings: &Settings) -> Error {
    let kind = fault.kind();
    if kind == Some(ProblemType::ExternalAccountRequired) && settings.eab.is_none() {
        return eab_is_missing();
    }
    let said = fault.to_string();
    let error = Error::from(fault);
    let by_us = matches!(error, Error::Permanent(_)) || kind == Some(ProblemType::ExternalAccountRequired);
    if !by_us {
        return error;
    }
    let hint = match (kind, &settings.eab) {
        (Some(ProblemType::InvalidContact | ProblemType::UnsupportedContact), _) => {
            "look at authority.config.account_email"
        }
        (_, Some(_)) if directory.external_account_required() => {
            "look at authority.config.eab_kid and eab_hmac_key, and whether the EAB has been used or has expired"
        }
        (_, Some(_)) => {
            "an EAB is configured, and the CA's directory does not ask for one: look at authority.config.eab_kid and ca_url"
        }
        (_, None) => "look at authority.config.ca_url",
    };
    tracing::error!(answer = said, hint, "the CA refuses to register us");
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!("the CA refuses to register this server: {hint}"),
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

/// RFC 7515 §7.2.2, flattened.
fn jws<E>(
    protected: &Value,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Value, E> {
    let protected = URL_SAFE_NO_PAD.encode(protected.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    let signature = URL_SAFE_NO_PAD.encode(signature);
    Ok(json!({"protected": protected, "payload": payload, "signature": signature}))
}

/// The account's key: ECDSA on P-256, the only kind that instant-acme signs with.
pub struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Key {
    fn generate() -> Result<Self, Error> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let key = pkcs8
            .ok()
            .and_then(|pkcs8| Self::from_pkcs8(pkcs8.as_ref().to_vec()));
        key.ok_or_else(|| Error::transient("a key for the account at the CA could not be made"))
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok()?;
        Some(Self { pair, pkcs8 })
    }

    /// The private key, PKCS #8.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn jwk(&self) -> Value {
        // SEC 1 §2.3.3, uncompressed: 04, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point
            .get(1..)
            .and_then(|xy| xy.split_at_checked(32))
            .unwrap_or_default();
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    fn sign(&self, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let signature = self.pair.sign(&SystemRandom::new(), input);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Fault::Nonsense("the account's key does not sign".to_owned()))
    }

    /// RFC 8555 §7.3.4: the key, under the MAC that the CA's other side gave us.
    fn bound_to(&self, eab: &Eab, new_account: &str) -> Value {
        let protected = json!({"alg": "HS256", "kid": eab.kid.reveal(), "url": new_account});
        let mac = hmac::Key::new(hmac::HMAC_SHA256, eab.hmac_key.reveal());
        let sign =
            |input: &[u8]| Ok::<_, std::convert::Infallible>(hmac::sign(&mac, input).as_ref().to_vec());
        match jws(&protected, &self.jwk().to_string(), sign) {
            Ok(bound) => bound,
            Err(never) => match never {},
        }
    }
}

fn hex_sha256(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Secret;

    fn settings(directory: &str, kid: Option<&str>) -> Settings {
        Settings {
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

    #[test]
    fn a_key_reads_back_and_never_prints() {
        let key = Key::generate().unwrap();
        let again = Key::from_pkcs8(key.pkcs8().to_vec()).unwrap();
        assert_eq!(key.jwk(), again.jwk());
        assert_eq!(format!("{key:?}"), "[redacted]");
    }
}
