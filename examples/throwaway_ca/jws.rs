//! Signed requests (RFC 8555 §6.2): taken apart, and their signatures checked. ES256 and RS256 for accounts, HS256 for the
//! External Account Binding (RFC 8555 §7.3.4). Nonces and URLs are the caller's business.

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::signature;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;

/// base64url without padding, as JOSE wants it (RFC 7515 §2).
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The reverse of [`encode`].
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Problem::malformed("not base64url"))
}

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

/// The protected header of a request.
#[derive(Deserialize)]
pub(crate) struct Header {
    alg: String,
    pub(crate) url: String,
    pub(crate) nonce: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) jwk: Option<Value>,
}

/// A request whose signature has not been checked yet; its payload is out of reach until it has.
pub(crate) struct Unverified {
    pub(crate) header: Header,
    signing_input: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Unverified {
    /// Takes the flattened JSON serialization apart.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let parts: Flattened = serde_json::from_slice(body).map_err(|_| Problem::malformed("not a JWS"))?;
        let header = serde_json::from_slice(&decode(&parts.protected)?)
            .map_err(|_| Problem::malformed("the protected header is not what RFC 8555 asks for"))?;
        Ok(Self {
            header,
            payload: decode(&parts.payload)?,
            signature: decode(&parts.signature)?,
            signing_input: format!("{}.{}", parts.protected, parts.payload),
        })
    }

    /// Checks the signature, and gives the payload out.
    pub(crate) fn verify(self, key: &Jwk) -> Result<Vec<u8>, Problem> {
        match key.verify(&self.header.alg, self.signing_input.as_bytes(), &self.signature) {
            true => Ok(self.payload),
            false => Err(Problem::malformed("the signature does not verify")),
        }
    }
}

/// A public account key (RFC 7517).
pub(crate) enum Jwk {
    /// The point on P-256, uncompressed.
    Ec { point: Vec<u8>, thumbprint: String },
    /// Modulus and exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
        thumbprint: String,
    },
}

impl Jwk {
    /// Reads an EC P-256 or RSA key.
    pub(crate) fn parse(jwk: &Value) -> Result<Self, Problem> {
        let member = |name| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
        match (member("kty"), member("crv")) {
            ("EC", "P-256") => {
                let (x, y) = (member("x"), member("y"));
                // RFC 7638 §3.2: the required members in lexicographic order.
                let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
                Ok(Self::Ec {
                    point: [vec![4], decode(x)?, decode(y)?].concat(),
                    thumbprint: encode(digest::digest(&digest::SHA256, canonical.as_bytes())),
                })
            }
            ("RSA", _) => {
                let (n, e) = (member("n"), member("e"));
                let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
                Ok(Self::Rsa {
                    n: decode(n)?,
                    e: decode(e)?,
                    thumbprint: encode(digest::digest(&digest::SHA256, canonical.as_bytes())),
                })
            }
            _ => Err(Problem::new(
                400,
                "badPublicKey",
                "account keys here are EC P-256 or RSA",
            )),
        }
    }

    /// What tells two keys apart (RFC 7638).
    pub(crate) fn thumbprint(&self) -> &str {
        match self {
            Self::Ec { thumbprint, .. } | Self::Rsa { thumbprint, .. } => thumbprint,
        }
    }

    /// Whether this is the key with the given bits in its `SubjectPublicKeyInfo`. RSA keys are not looked at: only a
    /// revocation by certificate key asks, and the tests' certificates have P-256 keys.
    pub(crate) fn is_subject_key(&self, bits: &[u8]) -> bool {
        matches!(self, Self::Ec { point, .. } if point == bits)
    }

    fn verify(&self, alg: &str, message: &[u8], sig: &[u8]) -> bool {
        match (self, alg) {
            (Self::Ec { point, .. }, "ES256") => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, sig)
                    .is_ok()
            }
            (Self::Rsa { n, e, .. }, "RS256") => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, sig)
                .is_ok(),
            _ => false,
        }
    }
}

/// Checks an External Account Binding: our key id, our MAC key, the newAccount URL, the account's own key inside.
pub(crate) fn check_binding(
    binding: &Value,
    account: &Jwk,
    kid: &str,
    mac_key: &[u8],
    url: &str,
) -> Result<(), Problem> {
    let refused = |why| Problem::new(403, "unauthorized", why);
    let jws = Unverified::parse(binding.to_string().as_bytes())?;
    if jws.header.alg != "HS256" || jws.header.url != url || jws.header.nonce.is_some() {
        return Err(refused("the external account binding has a wrong header"));
    }
    if jws.header.kid.as_deref() != Some(kid) {
        return Err(refused("the external account binding names an unknown key"));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, mac_key);
    hmac::verify(&key, jws.signing_input.as_bytes(), &jws.signature)
        .map_err(|_| refused("the external account binding's MAC does not verify"))?;
    let inner: Value = serde_json::from_slice(&jws.payload)
        .map_err(|_| refused("the external account binding does not hold a key"))?;
    match Jwk::parse(&inner)?.thumbprint() == account.thumbprint() {
        true => Ok(()),
        false => Err(refused(
            "the external account binding holds another account's key",
        )),
    }
}
