//! What the throwaway CA does with each request (RFC 8555 §7).

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Options;
use super::http_server::json as reply;
use super::jws::{self, Jwk, Unverified};
use super::pki::Pki;
use super::problem::Problem;
use super::state::{
    Account, Authorization, AuthorizationStatus, Certificate, Identifier, Memory, Order, Phase, Revocation,
    lock, random_text,
};

/// The CA.
pub(crate) struct Ca {
    pub(crate) base: String,
    pub(crate) mac_key: Vec<u8>,
    pub(crate) options: Options,
    pub(crate) pki: Pki,
    pub(crate) memory: Memory,
}

/// A request whose signature, nonce and URL are good.
pub(crate) struct Verified {
    signer: Signer,
    pub(crate) payload: Vec<u8>,
}

enum Signer {
    Account(Arc<Account>),
    Key(Jwk),
}

impl Verified {
    pub(crate) fn account(&self) -> Result<usize, Problem> {
        match &self.signer {
            Signer::Account(account) => Ok(account.id),
            Signer::Key(_) => Err(Problem::malformed("sign with the account's kid")),
        }
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Problem::malformed(format!("the payload is not as it should be: {error}")))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<Identifier>,
    not_before: Option<String>,
    not_after: Option<String>,
}

#[derive(Deserialize)]
struct Finalize {
    csr: String,
}

#[derive(Deserialize)]
struct Revoke {
    certificate: String,
    reason: Option<u64>,
}

impl Ca {
    pub(crate) fn url(&self, path: std::fmt::Arguments<'_>) -> String {
        format!("{}/{path}", self.base)
    }

    /// RFC 8555 §7.1.1.
    pub(crate) fn directory(&self) -> Value {
        json!({
            "newNonce": self.url(format_args!("new-nonce")),
            "newAccount": self.url(format_args!("new-account")),
            "newOrder": self.url(format_args!("new-order")),
            "revokeCert": self.url(format_args!("revoke-cert")),
            "keyChange": self.url(format_args!("key-change")),
            "meta": { "externalAccountRequired": true },
        })
    }

    /// RFC 8555 §6.2 to §6.5: signature first, then nonce and URL.
    pub(crate) fn authenticate(&self, path: &str, body: &[u8]) -> Result<Verified, Problem> {
        let jws = Unverified::parse(body)?;
        let url = jws.header.url.clone();
        let nonce = jws.header.nonce.clone().unwrap_or_default();
        let (signer, payload) = match (&jws.header.kid, &jws.header.jwk) {
            (Some(kid), None) => {
                let account = self.account_at(kid)?;
                let payload = jws.verify(&account.key)?;
                (Signer::Account(account), payload)
            }
            (None, Some(jwk)) => {
                let key = Jwk::parse(jwk)?;
                let payload = jws.verify(&key)?;
                (Signer::Key(key), payload)
            }
            _ => return Err(Problem::malformed("either kid or jwk")),
        };
        if !self.memory.redeem_nonce(&nonce) || self.refuses_this_nonce() {
            return Err(Problem::new(
                400,
                "badNonce",
                "this nonce is unknown, or has been used",
            ));
        }
        match url.strip_prefix(&self.base) == Some(path) {
            true => Ok(Verified { signer, payload }),
            false => Err(Problem::new(
                403,
                "unauthorized",
                "the signed url is not the request's",
            )),
        }
    }

    fn account_at(&self, kid: &str) -> Result<Arc<Account>, Problem> {
        let id = kid
            .strip_prefix(&self.base)
            .and_then(|path| path.strip_prefix("/account/"));
        id.and_then(|id| id.parse().ok())
            .and_then(|id| self.memory.account(id))
            .ok_or_else(|| Problem::new(400, "accountDoesNotExist", "no account has this kid"))
    }

    fn refuses_this_nonce(&self) -> bool {
        let mut byte = [0];
        let share = u16::from(self.options.bad_nonces) * 256 / 100;
        share > 0 && aws_lc_rs::rand::fill(&mut byte).is_ok() && byte.iter().all(|b| u16::from(*b) < share)
    }

    /// RFC 8555 §7.3.
    pub(crate) fn new_account(&self, request: Verified) -> Result<Response, Problem> {
        let wanted: NewAccount = request.json()?;
        let Signer::Key(key) = request.signer else {
            return Err(Problem::malformed("sign with the account's jwk"));
        };
        if let Some(id) = self.memory.account_of(&key) {
            return Ok(self.account_reply(StatusCode::OK, id));
        }
        if wanted.only_return_existing {
            return Err(Problem::new(
                400,
                "accountDoesNotExist",
                "this key has no account",
            ));
        }
        let Some(binding) = wanted.external_account_binding else {
            let why = "newAccount needs an external account binding";
            return Err(Problem::new(403, "externalAccountRequired", why));
        };
        let url = self.url(format_args!("new-account"));
        jws::check_binding(&binding, &key, &self.options.eab.kid, &self.mac_key, &url)?;
        let id = self.memory.register(key, self.options.eab_once)?;
        Ok(self.account_reply(StatusCode::CREATED, id))
    }

    /// RFC 8555 §7.3.2 and §7.3.6, without any change: the double's accounts have nothing that could be changed.
    pub(crate) fn show_account(&self, request: &Verified, id: &str) -> Result<Response, Problem> {
        match request.account()? {
            own if own.to_string() == id => Ok(self.account_reply(StatusCode::OK, own)),
            _ => Err(Problem::not_found()),
        }
    }

    fn account_reply(&self, status: StatusCode, id: usize) -> Response {
        let mut response = reply(status, &json!({ "status": "valid" }));
        add(response.headers_mut(), LOCATION, &self.account_url(id));
        response
    }

    pub(crate) fn account_url(&self, id: usize) -> String {
        self.url(format_args!("account/{id}"))
    }

    /// RFC 8555 §7.4. A lifetime that the client asks for is refused, as by Let's Encrypt.
    pub(crate) fn new_order(&self, request: &Verified) -> Result<Response, Problem> {
        let account = request.account()?;
        let wanted: NewOrder = request.json()?;
        if wanted.not_before.or(wanted.not_after).is_some() {
            return Err(Problem::malformed("notBefore and notAfter are not offered here"));
        }
        if wanted.identifiers.is_empty() {
            return Err(Problem::malformed("an order needs an identifier"));
        }
        let status = match self.options.prevalidated {
            true => AuthorizationStatus::Valid,
            false => AuthorizationStatus::Pending,
        };
        let mut authorizations = Vec::with_capacity(wanted.identifiers.len());
        for identifier in wanted.identifiers {
            authorizations.push(Authorization {
                identifier: normalised(identifier)?,
                token: random_text(),
                status,
            });
        }
        let order = self.memory.open(account, authorizations);
        Ok(self.order_reply(StatusCode::CREATED, &lock(&order)))
    }

    /// RFC 8555 §7.1.3.
    pub(crate) fn show_order(&self, request: &Verified, id: &str) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        Ok(self.order_reply(StatusCode::OK, &lock(&order)))
    }

    fn order_reply(&self, status: StatusCode, order: &Order) -> Response {
        let id = order.id;
        let authz = |index| self.url(format_args!("authz/{id}/{index}"));
        let identifiers: Vec<&Identifier> = order
            .authorizations
            .iter()
            .map(|authz| &authz.identifier)
            .collect();
        let shown = order.status();
        let mut body = json!({
            "status": shown,
            "identifiers": identifiers,
            "authorizations": (0..order.authorizations.len()).map(authz).collect::<Vec<_>>(),
            "finalize": self.url(format_args!("order/{id}/finalize")),
        });
        let mut wait = Duration::ZERO;
        if let Phase::Issued { visible, serial } = &order.phase {
            if shown == "valid" {
                set(
                    &mut body,
                    "certificate",
                    self.url(format_args!("certificate/{serial}")),
                );
            }
            wait = visible.saturating_duration_since(Instant::now());
        }
        let mut response = reply(status, &body);
        add(
            response.headers_mut(),
            LOCATION,
            &self.url(format_args!("order/{id}")),
        );
        if shown == "processing" {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            add(response.headers_mut(), RETRY_AFTER, &seconds.to_string());
        }
        response
    }

    /// RFC 8555 §7.4: only a `ready` order, and it issues once however many requests arrive at the same time.
    pub(crate) fn finalize(&self, request: &Verified, id: &str) -> Result<Response, Problem> {
        let account = request.account()?;
        let order = self.memory.order(account, id)?;
        let names = self.begin_finalize(&order)?;
        let issued = request
            .json::<Finalize>()
            .and_then(|body| jws::decode(body.csr.trim_end_matches('=')))
            .and_then(|csr| self.pki.issue(&csr, &names));
        let leaf = match issued {
            Ok(leaf) => leaf,
            Err(problem) => {
                let mut order = lock(&order);
                order.refused += 1;
                order.phase = Phase::Open;
                return Err(problem);
            }
        };
        let certificate = Certificate {
            account,
            chain: leaf.chain,
            revoked: false,
        };
        lock(&self.memory.certificates).insert(leaf.serial.clone(), certificate);
        let mut order = lock(&order);
        order.finalizes += 1;
        order.phase = Phase::Issued {
            visible: Instant::now() + self.options.processing,
            serial: leaf.serial,
        };
        Ok(self.order_reply(StatusCode::OK, &order))
    }

    fn begin_finalize(&self, order: &Mutex<Order>) -> Result<Vec<String>, Problem> {
        let mut order = lock(order);
        match order.status() {
            "ready" => {
                order.phase = Phase::Issuing;
                Ok(order.names())
            }
            status => {
                order.refused += 1;
                Err(Problem::new(
                    403,
                    "orderNotReady",
                    format!("the order is {status}"),
                ))
            }
        }
    }

    /// RFC 8555 §7.5.
    pub(crate) fn show_authorization(
        &self,
        request: &Verified,
        id: &str,
        index: &str,
    ) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        let order = lock(&order);
        let authz = index
            .parse()
            .ok()
            .and_then(|index: usize| order.authorizations.get(index));
        let authz = authz.ok_or_else(Problem::not_found)?;
        let base_name = authz.identifier.value.strip_prefix("*.");
        // RFC 8555 §8.3: a wildcard is not proved by http-01. RFC 8738 §7: nor is an address by dns-01.
        let unfit = match (base_name, authz.identifier.kind.as_str()) {
            (Some(_), _) => "http-01",
            (None, "ip") => "dns-01",
            (None, _) => "",
        };
        let identifier = Identifier {
            kind: authz.identifier.kind.clone(),
            value: base_name.unwrap_or(&authz.identifier.value).to_owned(),
        };
        let offered = self.options.challenges.iter().filter(|kind| *kind != unfit);
        let challenges: Vec<Value> = offered
            .map(|kind| self.challenge(id, index, kind, authz))
            .collect();
        let mut body = json!({
            "status": authz.status.as_str(),
            "identifier": identifier,
            "challenges": challenges,
        });
        if base_name.is_some() {
            set(&mut body, "wildcard", true);
        }
        Ok(reply(StatusCode::OK, &body))
    }

    fn challenge(&self, id: &str, index: &str, kind: &str, authz: &Authorization) -> Value {
        let mut challenge = json!({
            "type": kind,
            "url": self.url(format_args!("challenge/{id}/{index}/{kind}")),
            "token": authz.token,
            "status": authz.status.as_str(),
        });
        if authz.status == AuthorizationStatus::Invalid {
            let error = json!({
                "type": "urn:ietf:params:acme:error:unauthorized",
                "status": 403,
                "detail": "this throwaway CA was told to fail challenges",
            });
            set(&mut challenge, "error", error);
        }
        challenge
    }

    /// RFC 8555 §7.5.1. The answer is not looked at: the outcome is an option.
    pub(crate) fn accept_challenge(
        &self,
        request: &Verified,
        id: &str,
        index: &str,
        kind: &str,
    ) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        let mut order = lock(&order);
        let authz = index
            .parse()
            .ok()
            .and_then(|index: usize| order.authorizations.get_mut(index));
        let authz = authz.filter(|_| self.options.challenges.iter().any(|offered| offered == kind));
        let authz = authz.ok_or_else(Problem::not_found)?;
        // POST-as-GET only looks (§6.3); `{}` says that the answer stands.
        if authz.status == AuthorizationStatus::Pending && !request.payload.is_empty() {
            authz.status = match self.options.challenges_succeed {
                true => AuthorizationStatus::Valid,
                false => AuthorizationStatus::Invalid,
            };
        }
        let mut response = reply(StatusCode::OK, &self.challenge(id, index, kind, authz));
        let up = format!("<{}>;rel=\"up\"", self.url(format_args!("authz/{id}/{index}")));
        add(response.headers_mut(), LINK, &up);
        Ok(response)
    }

    /// RFC 8555 §7.4.2.
    pub(crate) fn certificate(&self, request: &Verified, serial: &str) -> Result<Response, Problem> {
        let account = request.account()?;
        let certificates = lock(&self.memory.certificates);
        let certificate = certificates
            .get(serial)
            .filter(|certificate| certificate.account == account);
        let chain = certificate.ok_or_else(Problem::not_found)?.chain.clone();
        Ok(([(CONTENT_TYPE, "application/pem-certificate-chain")], chain).into_response())
    }

    /// RFC 8555 §7.6: by the account that it was issued to, or by the certificate's own key.
    pub(crate) fn revoke(&self, request: &Verified) -> Result<Response, Problem> {
        let wanted: Revoke = request.json()?;
        let der = jws::decode(wanted.certificate.trim_end_matches('='))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| Problem::malformed("not a certificate"))?;
        let serial: String = parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut certificates = lock(&self.memory.certificates);
        let certificate = certificates.get_mut(&serial).ok_or_else(Problem::not_found)?;
        let allowed = match &request.signer {
            Signer::Account(account) => account.id == certificate.account,
            Signer::Key(key) => key.is_subject_key(&parsed.public_key().subject_public_key.data),
        };
        if !allowed {
            return Err(Problem::new(
                403,
                "unauthorized",
                "neither the account's nor the certificate's key",
            ));
        }
        if wanted.reason.is_some_and(|reason| reason == 7 || reason > 10) {
            return Err(Problem::new(
                400,
                "badRevocationReason",
                "RFC 5280 section 5.3.1 has no such reason",
            ));
        }
        if self.options.revocations_refused {
            let why = "this throwaway CA was told to refuse revocations";
            return Err(Problem::new(403, "unauthorized", why));
        }
        if certificate.revoked {
            return Err(Problem::new(400, "alreadyRevoked", "it is revoked already"));
        }
        certificate.revoked = true;
        let reason = wanted.reason;
        lock(&self.memory.revocations).push(Revocation { serial, reason });
        Ok(StatusCode::OK.into_response())
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

fn set(object: &mut Value, member: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(member.to_owned(), value.into());
    }
}

/// One spelling for each name. Single labels such as `localhost` are welcome here.
fn normalised(identifier: Identifier) -> Result<Identifier, Problem> {
    let value = match identifier.kind.as_str() {
        "dns" => identifier.value.to_ascii_lowercase(),
        "ip" => match identifier.value.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => return Err(Problem::malformed("not an address")),
        },
        _ => return Err(Problem::new(400, "unsupportedIdentifier", "dns and ip only")),
    };
    Ok(Identifier {
        kind: identifier.kind,
        value,
    })
}
