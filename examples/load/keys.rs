//! Keys and certificate requests, and what is signed with them (RFC 8555 §6.2, §7.3.4; RFC 7515).

use std::num::NonZero;
use std::thread;

use anyhow::{Context, anyhow};
use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use rcgen::{CertificateParams, DistinguishedName};
use serde_json::{Value, json};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// One certificate to be had.
pub(crate) struct Request {
    /// The names.
    pub(crate) names: Vec<String>,
    /// The CSR, base64url.
    pub(crate) csr: String,
}

/// A request for these names, with a key of its own.
pub(crate) fn request(names: Vec<String>) -> anyhow::Result<Request> {
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&rcgen::KeyPair::generate()?)?;
    Ok(Request {
        names,
        csr: encode(csr.der()),
    })
}

/// Makes the requests, each with a key of its own and names that no other run has.
pub(crate) fn requests(count: usize, names: usize, domain: &str) -> anyhow::Result<Vec<Request>> {
    let mut run = [0; 4];
    aws_lc_rs::rand::fill(&mut run).map_err(|_| anyhow!("no randomness"))?;
    let run = u32::from_ne_bytes(run);
    let make = |order: usize| -> anyhow::Result<Request> {
        let names: Vec<String> = (0..names)
            .map(|name| format!("n{name}.o{order}.r{run:08x}.{domain}"))
            .collect();
        request(names)
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..count)
                        .step_by(threads)
                        .map(make)
                        .collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for part in parts {
            all.extend(
                part.join()
                    .map_err(|_| anyhow!("a thread that makes keys died"))??,
            );
        }
        Ok(all)
    })
}

/// An account's key.
pub(crate) struct AccountKey {
    pair: EcdsaKeyPair,
    jwk: Value,
    thumbprint: String,
}

impl AccountKey {
    /// A fresh P-256 key.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        // The uncompressed point: 4, x, y.
        let coordinates = pair.public_key().as_ref().get(1..).context("a P-256 point")?;
        let (x, y) = coordinates.split_at_checked(32).context("a P-256 point")?;
        let (x, y) = (encode(x), encode(y));
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Ok(Self {
            pair,
            jwk: json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }),
            thumbprint: encode(digest::digest(&digest::SHA256, canonical.as_bytes())),
        })
    }

    /// RFC 8555 §8.1.
    pub(crate) fn key_authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint)
    }

    /// A signed request body; signed as the account if it has a URL yet, otherwise with the key in it.
    pub(crate) fn sign(
        &self,
        url: &str,
        nonce: &str,
        account: Option<&str>,
        payload: &str,
    ) -> anyhow::Result<String> {
        let header = match account {
            Some(kid) => json!({ "alg": "ES256", "nonce": nonce, "url": url, "kid": kid }),
            None => json!({ "alg": "ES256", "nonce": nonce, "url": url, "jwk": self.jwk }),
        };
        let (protected, payload) = (encode(header.to_string()), encode(payload));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes())?;
        Ok(json!({ "protected": protected, "payload": payload, "signature": encode(signature) }).to_string())
    }

    /// The External Account Binding for newAccount.
    pub(crate) fn bind(&self, url: &str, kid: &str, mac_key: &str) -> anyhow::Result<Value> {
        let mac_key = BASE64_URL_SAFE_NO_PAD
            .decode(mac_key.trim_end_matches('='))
            .context("the EAB key is not base64url")?;
        let protected = encode(json!({ "alg": "HS256", "kid": kid, "url": url }).to_string());
        let payload = encode(self.jwk.to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &mac_key);
        let signature = encode(hmac::sign(&key, format!("{protected}.{payload}").as_bytes()));
        Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
    }
}
