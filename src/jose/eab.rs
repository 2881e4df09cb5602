//! External account bindings (RFC 8555 §7.3.4): a JWS inside a new-account request, in which a key that the operator
//! has given out vouches, by a MAC, for the account's public key.
//!
//! Which keys there are is not known here.

use aws_lc_rs::hmac;
use serde::Deserialize;

use crate::jose::jwk::{Jwk, Present, RawJwk};
use crate::jose::jws::{self, Parts};

/// The longest binding, in bytes. One with an RSA key of 4096 bits has about 1.4 kB; it is stored with the account.
const MAX_BYTES: usize = 8 * 1024;

/// Takes the place of the key when a binding names one that does not exist.
const NO_KEY: [u8; 32] = [0; 32];

/// Why a binding's form is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("externalAccountBinding: {0}")]
pub struct BadBinding(String);

/// A well-formed binding of an account's key whose MAC nobody has looked at yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    algorithm: hmac::Algorithm,
    kid: String,
    json: String,
    message: Vec<u8>,
    tag: Vec<u8>,
}

/// A binding whose MAC is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    json: String,
}

impl Verified {
    /// The binding as the client sent it.
    pub fn into_json(self) -> String {
        self.json
    }
}

#[derive(Deserialize)]
struct ProtectedHeader {
    alg: Option<String>,
    kid: Option<String>,
    url: Option<String>,
    #[serde(default)]
    nonce: Present,
    #[serde(default)]
    jwk: Present,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    b64: Present,
}

impl Unverified {
    /// Parses the binding of a request that was sent to `url` and is signed by `account`.
    ///
    /// # Errors
    ///
    /// [`BadBinding`] says which rule of the form is broken.
    pub fn parse(json: &str, url: &str, account: &Jwk) -> Result<Self, BadBinding> {
        if json.len() > MAX_BYTES {
            return Err(bad("it is longer than 8 kB"));
        }
        let parts = Parts::parse(json.as_bytes()).map_err(|error| bad(&error.to_string()))?;
        let header: ProtectedHeader = jws::object(&parts.protected).ok_or_else(|| {
            bad("the protected header must be one JSON object whose members occur once, with strings in alg, kid and url")
        })?;
        // RFC 8555 §7.3.4: "The "alg" field MUST indicate a MAC-based algorithm".
        let algorithm = match header.alg.as_deref() {
            Some("HS256") => hmac::HMAC_SHA256,
            Some("HS384") => hmac::HMAC_SHA384,
            Some("HS512") => hmac::HMAC_SHA512,
            Some(_) | None => return Err(bad("the alg must be HS256, HS384 or HS512")),
        };
        // RFC 8555 §7.3.4: "The "kid" field MUST contain the key identifier provided by the CA".
        let kid = header.kid.ok_or_else(|| bad("the kid is missing"))?;
        // RFC 8555 §7.3.4: "The "nonce" field MUST NOT be present".
        if header.nonce.0 {
            return Err(bad("it must not have a nonce"));
        }
        if header.jwk.0 || header.crit.0 || header.b64.0 {
            return Err(bad("the protected header must not have jwk, crit or b64"));
        }
        // RFC 8555 §7.3.4: "The "url" field MUST be set to the same value as the outer JWS".
        if header.url.as_deref() != Some(url) {
            return Err(bad(&format!("the url must be {url}")));
        }
        let payload: Option<RawJwk> = jws::object(&parts.payload);
        let payload = payload.ok_or_else(|| bad("the payload must be the account's public key as a JWK"))?;
        let bound = Jwk::try_from(payload).map_err(|error| bad(&error.to_string()))?;
        // One key has many spellings, and the two may differ in theirs.
        if bound.thumbprint() != account.thumbprint() {
            return Err(bad(
                "the payload is another key than the one that signed the request",
            ));
        }
        Ok(Self {
            algorithm,
            kid,
            json: json.to_owned(),
            message: parts.message,
            tag: parts.signature,
        })
    }

    /// The id of the key that vouches, by the request's own word.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the MAC, all of it and in constant time. A missing key takes as long as a wrong one, so that nobody
    /// learns which keys there are.
    pub fn verify(self, key: Option<&[u8]>) -> Option<Verified> {
        let mac_key = hmac::Key::new(self.algorithm, key.unwrap_or(&NO_KEY));
        let right = hmac::verify(&mac_key, &self.message, &self.tag).is_ok();
        (right && key.is_some()).then_some(Verified { json: self.json })
    }
}

fn bad(reason: &str) -> BadBinding {
    BadBinding(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    const URL: &str = "https://ra.example.com/acme/acme/new-account";
    const KEY: [u8; 32] = [7; 32];

    fn jwk() -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
    }

    fn account() -> Jwk {
        serde_json::from_value(jwk()).unwrap()
    }

    fn header() -> Value {
        json!({ "alg": "HS256", "kid": "k1", "url": URL })
    }

    fn binding(algorithm: hmac::Algorithm, header: &Value, payload: &Value) -> Value {
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
        let key = hmac::Key::new(algorithm, &KEY);
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(tag) })
    }

    fn parse(binding: &Value) -> Result<Unverified, BadBinding> {
        Unverified::parse(&binding.to_string(), URL, &account())
    }

    #[test]
    fn f2_a_binding_by_each_of_the_three_algorithms_verifies_and_comes_back_as_it_was() {
        for (name, algorithm) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let mut header = header();
            header["alg"] = name.into();
            let text = format!(" {:#}\n", binding(algorithm, &header, &jwk()));
            let sent = Unverified::parse(&text, URL, &account()).unwrap();
            assert_eq!(sent.kid(), "k1");
            assert_eq!(sent.verify(Some(&KEY)).unwrap().into_json(), text);
        }
    }

    #[test]
    fn f3_headers_that_break_a_rule_are_refused() {
        for (member, value) in [
            ("alg", json!("RS256")),
            ("alg", json!("none")),
            ("alg", json!("hs256")),
            ("alg", json!("ES256")),
            ("alg", Value::Null),
            ("kid", Value::Null),
            ("kid", json!(1)),
            ("nonce", json!("AAAA")),
            ("nonce", Value::Null),
            ("url", json!("https://ra.example.com/acme/other/new-account")),
            ("url", Value::Null),
            ("jwk", jwk()),
            ("crit", json!([])),
            ("b64", json!(false)),
        ] {
            let mut header = header();
            header[member] = value;
            let refused = parse(&binding(hmac::HMAC_SHA256, &header, &jwk()));
            assert!(refused.is_err(), "{header}");
        }
    }

    #[test]
    fn f3_forms_other_than_the_flattened_one_are_refused() {
        let good = binding(hmac::HMAC_SHA256, &header(), &jwk());
        for (member, value) in [
            ("header", json!({})),
            ("signatures", json!([])),
            ("signature", json!("")),
            ("signature", json!("AAA=")),
            ("protected", json!("e30")),
            ("payload", json!("")),
        ] {
            let mut binding = good.clone();
            binding[member] = value;
            assert!(parse(&binding).is_err(), "{binding}");
        }
        for other in [json!([]), json!("a.b.c"), json!(true)] {
            assert!(parse(&other).is_err(), "{other}");
        }
        let long = format!("{good}{}", " ".repeat(MAX_BYTES));
        assert!(Unverified::parse(&long, URL, &account()).is_err());
    }

    #[test]
    fn f5_the_payload_is_the_accounts_key_in_whatever_spelling() {
        let mut spelled = jwk();
        spelled["use"] = "sig".into();
        assert!(parse(&binding(hmac::HMAC_SHA256, &header(), &spelled)).is_ok());
        let mut other = jwk();
        other["x"] = URL_SAFE_NO_PAD.encode([9; 32]).into();
        for payload in [other, json!({}), json!([jwk()]), json!(null)] {
            assert!(
                parse(&binding(hmac::HMAC_SHA256, &header(), &payload)).is_err(),
                "{payload}"
            );
        }
    }

    #[test]
    fn f4_c308_only_the_whole_mac_of_the_right_key_verifies() {
        let good = binding(hmac::HMAC_SHA256, &header(), &jwk());
        assert!(parse(&good).unwrap().verify(Some(&[8; 32])).is_none());
        assert!(parse(&good).unwrap().verify(None).is_none());
        let tag = URL_SAFE_NO_PAD
            .decode(good["signature"].as_str().unwrap())
            .unwrap();
        for length in [1, 16, 31] {
            let mut cut = good.clone();
            cut["signature"] = URL_SAFE_NO_PAD.encode(&tag[..length]).into();
            assert!(parse(&cut).unwrap().verify(Some(&KEY)).is_none(), "{length}");
        }
        let mut long = good;
        long["signature"] = URL_SAFE_NO_PAD.encode([tag, vec![0]].concat()).into();
        assert!(parse(&long).unwrap().verify(Some(&KEY)).is_none());
    }

    #[test]
    fn a_mac_by_the_key_that_stands_in_for_a_missing_one_does_not_verify() {
        let protected = URL_SAFE_NO_PAD.encode(header().to_string());
        let payload = URL_SAFE_NO_PAD.encode(jwk().to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &NO_KEY);
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        let forged =
            json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(tag) });
        assert!(parse(&forged).unwrap().verify(None).is_none());
    }
}
