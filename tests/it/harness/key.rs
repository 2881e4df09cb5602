//! Keys of clients, their JWK, and signatures in the form that JWS wants (RFC 7518 §3).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Every algorithm that the daemon must take (CONFORMANCE D10).
pub(crate) const ALGORITHMS: [&str; 5] = ["ES256", "ES384", "ES512", "RS256", "EdDSA"];

/// A key pair with its one JWS algorithm.
pub(crate) struct Key {
    pub(crate) alg: &'static str,
    pub(crate) jwk: Value,
    pub(crate) pair: rcgen::KeyPair,
}

/// base64url without padding.
pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of base64url without padding.
pub(crate) fn unb64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

impl Key {
    /// A new key for ES256, which most clients use.
    pub(crate) fn new() -> Self {
        Self::generate("ES256")
    }

    /// A new key for the algorithm.
    pub(crate) fn generate(alg: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(match alg {
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "ES384" => &rcgen::PKCS_ECDSA_P384_SHA384,
            "ES512" => &rcgen::PKCS_ECDSA_P521_SHA512,
            "RS256" => &rcgen::PKCS_RSA_SHA256,
            "EdDSA" => &rcgen::PKCS_ED25519,
            other => panic!("no such algorithm: {other}"),
        });
        Self::of(alg, pair.unwrap())
    }

    /// A key for ES256, from its PKCS #8.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Self {
        Self::of("ES256", rcgen::KeyPair::try_from(der).unwrap())
    }

    /// The key pair as a JWS key.
    pub(crate) fn of(alg: &'static str, pair: rcgen::KeyPair) -> Self {
        let spki = pair.subject_public_key_info();
        let (_, spki) = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let jwk = match (alg, spki.parsed().unwrap()) {
            ("ES256", PublicKey::EC(point)) => ec_jwk("P-256", point.data()),
            ("ES384", PublicKey::EC(point)) => ec_jwk("P-384", point.data()),
            ("ES512", PublicKey::EC(point)) => ec_jwk("P-521", point.data()),
            ("RS256", PublicKey::RSA(rsa)) => {
                let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
                json!({ "kty": "RSA", "n": b64(&rsa.modulus[zeros..]), "e": b64(rsa.exponent) })
            }
            ("EdDSA", _) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key_raw()) }),
            _ => panic!("the key is not for {alg}"),
        };
        Self { alg, jwk, pair }
    }

    /// The signature of the message, as it goes into a JWS.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let pkcs8 = self.pair.serialize_der();
        let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).unwrap();
            pair.sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec()
        };
        match self.alg {
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING),
            "RS256" => {
                let pair = RsaKeyPair::from_pkcs8(&pkcs8).unwrap();
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }
            _ => {
                let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
                pair.sign(message).as_ref().to_vec()
            }
        }
    }

    /// The flattened JWS (RFC 7515 §7.2.2) over exactly these bytes.
    pub(crate) fn envelope(&self, protected: &[u8], payload: &[u8]) -> Value {
        let (protected, payload) = (b64(protected), b64(payload));
        let signature = self.sign(format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": b64(signature) })
    }

    /// RFC 7638.
    pub(crate) fn thumbprint(&self) -> String {
        let jwk: acme_proxy::jose::jwk::Jwk = serde_json::from_value(self.jwk.clone()).unwrap();
        jwk.thumbprint()
    }
}

fn ec_jwk(curve: &str, point: &[u8]) -> Value {
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": b64(x), "y": b64(y) })
}
