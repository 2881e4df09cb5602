//! Signed requests (RFC 8555 §6.2-§6.5). A body can not be read before it is verified: handlers take [`ByAccount`],
//! [`ByKey`] or [`ByAccountOrKey`], and nothing else gives them a payload.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::acme::account::Account;
use crate::acme::id::AccountId;
use crate::acme::problem::{Problem, ProblemType};
use crate::jose::jwk::{Jwk, Verifier};
use crate::jose::jws::{self, Signer, Unverified};
use crate::server::Shared;
use crate::server::link::{Links, account_of_kid};
use crate::server::respond::Rejection;

/// The longest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(15);

/// How many accounts' verifiers are kept.
const CACHED_VERIFIERS: usize = 4096;

/// A payload signed by an account (`kid`).
pub(crate) struct ByAccount {
    pub(crate) account: Account,
    /// The account's URL, as the request spells it.
    pub(crate) kid: String,
    /// The request's own URL.
    pub(crate) url: String,
    pub(crate) links: Links,
    payload: Vec<u8>,
}

/// A payload signed by the key that it names (`jwk`).
pub(crate) struct ByKey {
    pub(crate) key: Jwk,
    pub(crate) provisioner: String,
    pub(crate) links: Links,
    /// The URL that the request was meant for, and sent to.
    pub(crate) url: String,
    payload: Vec<u8>,
}

/// A payload signed by an account or by a key; only revocation takes either (RFC 8555 §7.6).
pub(crate) enum ByAccountOrKey {
    Account(ByAccount),
    Key(ByKey),
}

/// A POST-as-GET (RFC 8555 §6.3): signed by an account, with an empty payload.
pub(crate) struct PostAsGet {
    pub(crate) account: Account,
    pub(crate) links: Links,
}

impl ByAccount {
    /// The payload as it is.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as a JSON object.
    pub(crate) fn object<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        object(&self.payload)
    }

    /// Whether the request is a POST-as-GET (RFC 8555 §6.3).
    pub(crate) fn is_post_as_get(&self) -> bool {
        self.payload.is_empty()
    }
}

impl ByKey {
    /// The payload as a JSON object.
    pub(crate) fn object<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        object(&self.payload)
    }
}

impl ByAccountOrKey {
    /// The payload as a JSON object.
    pub(crate) fn object<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        match self {
            Self::Account(signed) => signed.object(),
            Self::Key(signed) => signed.object(),
        }
    }
}

/// An object without members that matter.
#[derive(Deserialize)]
pub(crate) struct Empty {}

fn object<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Rejection> {
    let wrong =
        || Problem::malformed("the payload must be a JSON object with members of the right types").into();
    jws::object(payload).ok_or_else(wrong)
}

impl FromRequest<Arc<Shared>> for ByAccountOrKey {
    type Rejection = Rejection;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Rejection> {
        let received = Received::read(request, shared).await?;
        received.verify(shared).await
    }
}

impl FromRequest<Arc<Shared>> for ByAccount {
    type Rejection = Rejection;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Rejection> {
        let received = Received::read(request, shared).await?;
        if let Signer::Key(_) = received.body.signer() {
            return Err(
                Problem::malformed("this request must be signed by an account: send kid, not jwk").into(),
            );
        }
        match received.verify(shared).await? {
            ByAccountOrKey::Account(signed) => Ok(signed),
            ByAccountOrKey::Key(_) => Err(Problem::internal().into()),
        }
    }
}

impl FromRequest<Arc<Shared>> for ByKey {
    type Rejection = Rejection;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Rejection> {
        let received = Received::read(request, shared).await?;
        if let Signer::Account(_) = received.body.signer() {
            return Err(Problem::malformed(
                "this request must be signed by the key itself: send jwk, not kid",
            )
            .into());
        }
        match received.verify(shared).await? {
            ByAccountOrKey::Key(signed) => Ok(signed),
            ByAccountOrKey::Account(_) => Err(Problem::internal().into()),
        }
    }
}

impl FromRequest<Arc<Shared>> for PostAsGet {
    type Rejection = Rejection;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Rejection> {
        let signed = ByAccount::from_request(request, shared).await?;
        match signed.is_post_as_get() {
            true => Ok(Self {
                account: signed.account,
                links: signed.links,
            }),
            false => Err(Problem::malformed(
                "this resource takes only POST-as-GET: the payload must be empty",
            )
            .into()),
        }
    }
}

/// A request whose form is right, before anybody is believed.
struct Received {
    body: Unverified,
    provisioner: String,
    links: Links,
    url: String,
}

impl Received {
    async fn read(request: Request, shared: &Shared) -> Result<Self, Rejection> {
        let links = request.extensions().get::<Links>().cloned();
        let links = links.ok_or_else(Problem::not_found)?;
        let path_and_query = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let provisioner = provisioner_in(request.uri().path(), shared).ok_or_else(Problem::not_found)?;
        // RFC 8555 §6.2: "servers MUST reject such requests [without this media type] with 415".
        let media_type = request
            .headers()
            .get(CONTENT_TYPE)
            .map(http::HeaderValue::as_bytes);
        if media_type != Some(b"application/jose+json") {
            let problem =
                Problem::malformed("the Content-Type must be application/jose+json").with_status(415);
            return Err(problem.into());
        }
        let bytes = read_body(request.into_body()).await?;
        Ok(Self {
            body: Unverified::parse(&bytes)?,
            provisioner,
            url: links.of_request(&path_and_query),
            links,
        })
    }

    async fn verify(self, shared: &Shared) -> Result<ByAccountOrKey, Rejection> {
        let nonce = match self.body.nonce() {
            None => return Err(bad_nonce(shared, "the request has no nonce")),
            // RFC 8555 §6.5.2: "If the value of a "nonce" header parameter is not valid according to this encoding, then
            // the verifier MUST reject the JWS as malformed."
            Some(text) if !text.bytes().all(is_base64url) => {
                return Err(Problem::malformed("the nonce is not base64url").into());
            }
            Some(text) => shared.nonces.authenticate(text),
        };
        let nonce = nonce
            .ok_or_else(|| bad_nonce(shared, "the nonce is not one of this server's; use the new one"))?;
        let is_for_this_url = self.body.url() == Some(&self.url);
        let (payload, signer) = match self.body.signer().clone() {
            Signer::Key(key) => {
                let verifier = key.examined().map_err(jws::JwsError::from)?;
                (self.body.verify(&verifier)?, Ok(key))
            }
            Signer::Account(kid) => {
                let account = self.signing_account(shared, &kid).await?;
                let verifier = shared.verifiers.of(&account)?;
                (self.body.verify(&verifier)?, Err((account, kid)))
            }
        };
        if !shared.nonces.redeem(nonce, &shared.ra).await? {
            return Err(bad_nonce(
                shared,
                "the nonce has been used before or is too old; use the new one",
            ));
        }
        // RFC 8555 §6.4: "the server MUST check that the value of the "url" header parameter ... If they do not match,
        // then the server MUST reject the request as unauthorized." The nonce of a signed request is used up even so
        // (CONFORMANCE C7).
        if !is_for_this_url {
            let detail = format!("the protected header's url must be {}", self.url);
            return Err(Problem::unauthorized(detail).into());
        }
        let (provisioner, links, url) = (self.provisioner, self.links, self.url);
        Ok(match signer {
            Ok(key) => ByAccountOrKey::Key(ByKey {
                key,
                provisioner,
                links,
                url,
                payload,
            }),
            Err((account, kid)) => ByAccountOrKey::Account(ByAccount {
                account,
                kid,
                url,
                links,
                payload,
            }),
        })
    }

    async fn signing_account(&self, shared: &Shared, kid: &str) -> Result<Account, Rejection> {
        let Some(name) = account_of_kid(&shared.settings, &self.provisioner, kid) else {
            let detail =
                "the kid is not the URL of an account here; use the Location of the new-account answer";
            return Err(Problem::new(ProblemType::AccountDoesNotExist, detail).into());
        };
        Ok(shared.ra.signing_account(&self.provisioner, &name).await?)
    }
}

/// What follows `/acme/` in the path of an ACME resource. step-ca has each a second time, below `/2.0`.
pub(crate) fn acme_path(path: &str) -> Option<&str> {
    path.strip_prefix("/2.0").unwrap_or(path).strip_prefix("/acme/")
}

/// The provisioner that a path leads to, if there is one.
pub(crate) fn provisioner_in(path: &str, shared: &Shared) -> Option<String> {
    let name = acme_path(path)?.split('/').next()?;
    let known = shared
        .settings
        .provisioners
        .iter()
        .find(|known| known.name == name)?;
    Some(known.name.clone())
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn bad_nonce(shared: &Shared, detail: &str) -> Rejection {
    shared.metrics.nonces_rejected.inc();
    Problem::new(ProblemType::BadNonce, detail).into()
}

async fn read_body(body: Body) -> Result<Bytes, Rejection> {
    let too_long =
        || Problem::malformed(format!("the body is longer than {MAX_BODY} bytes")).with_status(413);
    let declared = http_body::Body::size_hint(&body).lower();
    if declared > MAX_BODY as u64 {
        return Err(too_long().into());
    }
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long().into()),
        Ok(Err(_)) => Err(Problem::malformed("the body broke off").into()),
        Err(_) => Err(Problem::malformed("the body did not arrive in time")
            .with_status(408)
            .into()),
    }
}

/// Verifiers of the accounts that have been active lately: to make one costs more than to verify a signature.
#[derive(Default)]
pub(crate) struct VerifierCache {
    verifiers: Mutex<HashMap<AccountId, (Jwk, Verifier)>>,
}

impl VerifierCache {
    /// The verifier of the account's current key.
    fn of(&self, account: &Account) -> Result<Verifier, Rejection> {
        let cached = {
            let verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
            verifiers
                .get(&account.id())
                .filter(|(key, _)| key == account.key())
                .map(|(_, verifier)| verifier.clone())
        };
        if let Some(verifier) = cached {
            return Ok(verifier);
        }
        let verifier = account.key().verifier().map_err(jws::JwsError::from)?;
        let mut verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
        // Starting over now and then is as good as keeping track of who was active last, and simpler.
        if verifiers.len() >= CACHED_VERIFIERS {
            verifiers.clear();
        }
        verifiers.insert(account.id(), (account.key().clone(), verifier.clone()));
        Ok(verifier)
    }
}
