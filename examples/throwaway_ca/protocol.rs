//! The throwaway CA: its directory, how it checks a request, and accounts (RFC 8555 §6, §7.1.1, §7.3). Orders,
//! authorizations and certificates are in files of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::response::Response;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http_server::json as reply;
use super::jws::{self, Jwk, Unverified};
use super::pki::Pki;
use super::problem::Problem;
use super::script::Script;
use super::state::{Account, AccountStatus, Memory, Stats};
use super::{Options, Window};

/// The CA.
pub(crate) struct Ca {
    pub(crate) base: String,
    pub(crate) mac_key: Vec<u8>,
    pub(crate) options: Options,
    pub(crate) pki: Pki,
    pub(crate) memory: Memory,
    pub(crate) script: Script,
    /// When all certificates are to be renewed, if a test has said so.
    pub(crate) window: Mutex<Option<Window>>,
    /// How often the directory's URLs have changed.
    pub(crate) moves: AtomicUsize,
}

/// A request whose signature, nonce and URL are good.
pub(crate) struct Verified {
    pub(crate) signer: Signer,
    pub(crate) payload: Vec<u8>,
}

pub(crate) enum Signer {
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

    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
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

impl Ca {
    pub(crate) fn url(&self, path: std::fmt::Arguments<'_>) -> String {
        format!("{}/{path}", self.base)
    }

    /// The URL of one of the directory's resources, where it is now.
    pub(crate) fn resource(&self, name: &str) -> String {
        match self.moves.load(Ordering::SeqCst) {
            0 => self.url(format_args!("{name}")),
            moves => self.url(format_args!("v{moves}/{name}")),
        }
    }

    /// The path without what a move has put before it. The directory's resources are where they are now, and nowhere
    /// else; everything else is found where it was.
    pub(crate) fn without_prefix<'a, 'b>(&self, path: &'a [&'b str]) -> &'a [&'b str] {
        let moves = self.moves.load(Ordering::SeqCst);
        match path {
            [prefix, rest @ ..] if moves > 0 && *prefix == format!("v{moves}") => rest,
            ["new-nonce" | "new-account" | "new-order" | "revoke-cert" | "key-change"] if moves > 0 => &[],
            path => path,
        }
    }

    /// Path and query of the directory, byte for byte.
    pub(crate) fn directory_path(&self) -> String {
        format!("/directory{}", self.options.directory_query)
    }

    /// RFC 8555 §7.1.1.
    pub(crate) fn directory(&self) -> Value {
        let mut directory = json!({
            "newNonce": self.resource("new-nonce"),
            "newAccount": self.resource("new-account"),
            "newOrder": self.resource("new-order"),
            "revokeCert": self.resource("revoke-cert"),
            "keyChange": self.resource("key-change"),
            "meta": { "externalAccountRequired": self.options.eab_required },
        });
        if self.options.renewal_info {
            set(&mut directory, "renewalInfo", self.resource("renewal-info"));
        }
        if let (false, Some(meta)) = (self.options.profiles.is_empty(), directory.get_mut("meta")) {
            set(meta, "profiles", json!(self.options.profiles));
        }
        directory
    }

    /// The figures.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            asked: self.script.asked(),
            ..self.memory.stats()
        }
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
        let account = id
            .and_then(|id| id.parse().ok())
            .and_then(|id| self.memory.account(id));
        let account =
            account.ok_or_else(|| Problem::new(400, "accountDoesNotExist", "no account has this kid"))?;
        self.stands(account.id)?;
        Ok(account)
    }

    fn stands(&self, account: usize) -> Result<(), Problem> {
        match self.memory.status(account) {
            AccountStatus::Valid => Ok(()),
            AccountStatus::Deactivated => {
                Err(Problem::new(401, "unauthorized", "the account is deactivated"))
            }
        }
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
            self.stands(id)?;
            return Ok(self.account_reply(StatusCode::OK, id));
        }
        if wanted.only_return_existing {
            return Err(Problem::new(
                400,
                "accountDoesNotExist",
                "this key has no account",
            ));
        }
        match wanted.external_account_binding {
            Some(binding) => {
                let url = self.resource("new-account");
                jws::check_binding(&binding, &key, &self.options.eab.kid, &self.mac_key, &url)?;
            }
            None if self.options.eab_required => {
                let why = "newAccount needs an external account binding";
                return Err(Problem::new(403, "externalAccountRequired", why));
            }
            None => {}
        }
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
}

pub(crate) fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

pub(crate) fn set(object: &mut Value, member: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(member.to_owned(), value.into());
    }
}
