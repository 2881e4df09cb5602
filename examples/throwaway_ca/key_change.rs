//! Another key for an account (RFC 8555 §7.3.5).

use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http_server::json as reply;
use super::jws::{Jwk, Unverified};
use super::problem::Problem;
use super::protocol::{Ca, Verified};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange {
    account: String,
    old_key: Value,
}

impl Ca {
    /// The inner request is signed by the new key, and names the account and its old key.
    pub(crate) fn key_change(&self, request: &Verified) -> Result<Response, Problem> {
        let account = request.account()?;
        let inner = Unverified::parse(&request.payload)?;
        let named = inner.header.url.clone();
        let (Some(jwk), None, None) = (&inner.header.jwk, &inner.header.kid, &inner.header.nonce) else {
            return Err(Problem::malformed(
                "the inner request has a jwk, and neither kid nor nonce",
            ));
        };
        let new = Jwk::parse(jwk)?;
        let payload = inner.verify(&new)?;
        let change: KeyChange = serde_json::from_slice(&payload)
            .map_err(|_| Problem::malformed("the inner payload is not as it should be"))?;
        if named != self.resource("key-change") || change.account != self.account_url(account) {
            return Err(Problem::malformed("the inner request is about something else"));
        }
        let old = Jwk::parse(&change.old_key)?;
        self.memory.change_key(account, &old, new)?;
        Ok(reply(StatusCode::OK, &json!({ "status": "valid" })))
    }
}
