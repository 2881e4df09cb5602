//! The account's key and what it signs (RFC 7515, RFC 7517, RFC 7638): ECDSA on P-256, the only kind that instant-acme
//! signs with.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use serde_json::json;

use crate::upstream::Eab;
use crate::upstream::Error;
use crate::upstream::fault::Fault;

/// Why a key that the operator brings can not be the account's.
const WRONG_KIND: &str = "the account's key is not ECDSA on P-256, and no other kind can sign here; change it to one at the \
    CA with the client that has the account (RFC 8555 §7.3.5), or register a new account";

/// The account's key.
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
    pub(crate) fn generate() -> Result<Self, Error> {
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

    /// As [`Self::stored`] gave it.
    pub(crate) fn from_stored(text: &str) -> Option<Self> {
        Self::from_pkcs8(URL_SAFE_NO_PAD.decode(text).ok()?)
    }

    /// PKCS #8, base64url.
    pub(crate) fn stored(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.pkcs8)
    }

    /// A key from a PEM file, PKCS #8 or SEC 1.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "there is no private key in PEM in it".to_owned())?;
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der());
        Self::normalised(pair.ok())
    }

    /// A key from a private JWK (RFC 7518 §6.2).
    pub(crate) fn from_private_jwk(jwk: &Value) -> Result<Self, String> {
        let member = |name| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
        if (member("kty"), member("crv")) != ("EC", "P-256") {
            return Err(WRONG_KIND.to_owned());
        }
        let number = |name| {
            let bytes = URL_SAFE_NO_PAD.decode(member(name)).unwrap_or_default();
            // RFC 7518 §6.2.1.2 asks for 32 bytes; some leave out the leading zeros.
            let padding = vec![0; 32_usize.saturating_sub(bytes.len())];
            [padding, bytes].concat()
        };
        let point = [vec![4], number("x"), number("y")].concat();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &number("d"),
            &point,
        );
        Self::normalised(pair.ok()).map_err(|_| "the private key in it is damaged".to_owned())
    }

    fn normalised(pair: Option<EcdsaKeyPair>) -> Result<Self, String> {
        let pkcs8 = pair.and_then(|pair| pair.to_pkcs8v1().ok());
        let key = pkcs8.and_then(|pkcs8| Self::from_pkcs8(pkcs8.as_ref().to_vec()));
        key.ok_or_else(|| WRONG_KIND.to_owned())
    }

    /// The private key, PKCS #8.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The private key, PKCS #8 in PEM (RFC 7468).
    pub(crate) fn pem(&self) -> String {
        let mut text = STANDARD.encode(&self.pkcs8);
        let ends: Vec<usize> = (64..text.len()).step_by(64).rev().collect();
        for end in ends {
            text.insert(end, '\n');
        }
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    fn coordinates(&self) -> (String, String) {
        // SEC 1 §2.3.3, uncompressed: 04, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point
            .get(1..)
            .and_then(|xy| xy.split_at_checked(32))
            .unwrap_or_default();
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }

    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.coordinates();
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    /// RFC 7638 §3: what tells this key from every other one. The members stand in the order that §3.2 asks for.
    pub(crate) fn thumbprint(&self) -> String {
        let (x, y) = self.coordinates();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    pub(crate) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let signature = self.pair.sign(&SystemRandom::new(), input);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Fault::Nonsense("the account's key does not sign".to_owned()))
    }

    /// RFC 8555 §7.3.4: the key, under the MAC that the CA's other side gave us.
    pub(crate) fn bound_to(&self, eab: &Eab, new_account: &str) -> Value {
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

/// RFC 7515 §7.2.2, flattened.
pub(crate) fn jws<E>(
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

/// SHA-256, in hexadecimal.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;

    use super::*;

    #[test]
    fn a_key_reads_back_and_never_prints() {
        let key = Key::generate().unwrap();
        let stored = Key::from_stored(&key.stored()).unwrap();
        let exported = Key::from_pem(&key.pem()).unwrap();
        for again in [stored, exported] {
            assert_eq!(key.jwk(), again.jwk());
            assert_eq!(key.thumbprint(), again.thumbprint());
        }
        assert!(key.pem().lines().all(|line| line.len() <= 64));
        assert_eq!(format!("{key:?}"), "[redacted]");
    }

    #[test]
    fn keys_of_other_clients_are_read_in_pem_of_both_kinds_and_as_a_jwk() {
        // RFC 7517 appendix A.2.
        let jwk = json!({
            "kty": "EC", "crv": "P-256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
        });
        let key = Key::from_private_jwk(&jwk).unwrap();
        assert_eq!(key.jwk()["x"], jwk["x"]);
        assert_eq!(key.jwk()["y"], jwk["y"]);
        let again = Key::from_pem(&key.pem()).unwrap();
        assert_eq!(again.thumbprint(), key.thumbprint());
        // acme.sh and lego write SEC 1, openssl with the curve before it.
        let sec1 = key.pair.private_key();
        let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = sec1.as_der().unwrap();
        let curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let body = STANDARD.encode(sec1.as_ref());
        let pem = format!("{curve}-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n");
        assert_eq!(Key::from_pem(&pem).unwrap().thumbprint(), key.thumbprint());
    }

    #[test]
    fn a_key_of_another_kind_is_refused_with_the_reason() {
        let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"});
        assert_eq!(Key::from_private_jwk(&rsa).unwrap_err(), WRONG_KIND);
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(Key::from_pem(&p384.serialize_pem()).unwrap_err(), WRONG_KIND);
        let none = Key::from_pem("-----BEGIN PRIVATE KEY-----\n").unwrap_err();
        assert!(none.contains("no private key"), "{none}");
        let foreign = json!({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "d": "AQ"});
        let damaged = Key::from_private_jwk(&foreign).unwrap_err();
        assert!(damaged.contains("damaged"), "{damaged}");
    }
}
