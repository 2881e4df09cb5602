//! The inner JWS of a key change (RFC 8555 §7.3.5): the new key's consent, signed by itself.
//!
//! Which account the key is to belong to, and whether it is free, are the server's and the registration authority's
//! business.

use serde::Deserialize;

use crate::jose::jwk::{Jwk, RawJwk};
use crate::jose::jws::{self, JwsError, Signer, Unverified};

/// What the new key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The key that signed it, which is to be the account's.
    pub new_key: Jwk,
    /// The URL of the account.
    pub account: String,
    /// The key that the account has until then.
    pub old_key: Jwk,
}

#[derive(Deserialize)]
struct Payload {
    account: String,
    #[serde(rename = "oldKey")]
    old_key: RawJwk,
}

impl KeyChange {
    /// Parses and verifies the payload of a request that was sent to this URL.
    ///
    /// # Errors
    ///
    /// [`JwsError`] says which rule is broken.
    pub fn verify(payload: &[u8], url: &str) -> Result<Self, JwsError> {
        let inner = Unverified::parse(payload)?;
        // RFC 8555 §7.3.5: "The inner JWS MUST have a "jwk" header parameter, containing the public key of the new key
        // pair."
        let Signer::Key(new_key) = inner.signer().clone() else {
            return Err(JwsError::Malformed("it must have the new key as jwk, and no kid"));
        };
        // "The inner JWS MUST have the same "url" header parameter as the outer JWS."
        if inner.url() != Some(url) {
            return Err(JwsError::Malformed("its url must be the outer one"));
        }
        // "The inner JWS MUST omit the "nonce" header parameter."
        if inner.nonce().is_some() {
            return Err(JwsError::Malformed("it must have no nonce"));
        }
        let payload = inner.verify(&new_key.examined()?)?;
        let payload: Payload = jws::object(&payload).ok_or(JwsError::Malformed(
            "its payload must be an object with account and oldKey",
        ))?;
        let old_key = Jwk::try_from(payload.old_key)
            .map_err(|_| JwsError::Malformed("its oldKey is not the public key of an account"))?;
        Ok(Self {
            new_key,
            account: payload.account,
            old_key,
        })
    }
}
