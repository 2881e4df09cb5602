//! Public keys as JWK (RFC 7517), their thumbprints (RFC 7638), and the verification of signatures by josekit.
//!
//! A [`Jwk`] is parsed strictly and kept in its one canonical spelling, so that one key is one thumbprint.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jws::{self, JwsVerifier};
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::jose::rsa::{self, WeakRsaKey};

/// A public key, with nothing but its required members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum Jwk {
    /// RFC 7518 §6.2.
    #[serde(rename = "EC")]
    Ec {
        /// The curve.
        crv: Curve,
        /// The x coordinate, base64url, full length.
        x: String,
        /// The y coordinate, base64url, full length.
        y: String,
    },
    /// RFC 7518 §6.3.
    #[serde(rename = "RSA")]
    Rsa {
        /// The exponent, base64url, minimal.
        e: String,
        /// The modulus, base64url, minimal.
        n: String,
    },
    /// RFC 8037 §2.
    #[serde(rename = "OKP")]
    Okp {
        /// The curve.
        crv: EdwardsCurve,
        /// The public key, base64url, 32 bytes.
        x: String,
    },
}

/// The curves for ECDSA (RFC 7518 §6.2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Curve {
    /// For ES256.
    #[serde(rename = "P-256")]
    P256,
    /// For ES384.
    #[serde(rename = "P-384")]
    P384,
    /// For ES512.
    #[serde(rename = "P-521")]
    P521,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// The curves for EdDSA (RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdwardsCurve {
    /// The only one in use.
    Ed25519,
}

/// The signature algorithms that are accepted (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// ECDSA with P-521 and SHA-512.
    Es512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every accepted algorithm.
    pub const ALL: [Self; 5] = [Self::Es256, Self::Es384, Self::Es512, Self::Rs256, Self::EdDsa];

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a JWK is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(pub String);

/// A member that must not be there, whatever its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Present(pub(crate) bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// A JWK as it comes in the protected header.
#[derive(Deserialize)]
pub(crate) struct RawJwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    #[serde(default)]
    d: Present,
    #[serde(default)]
    p: Present,
    #[serde(default)]
    q: Present,
    #[serde(default)]
    dp: Present,
    #[serde(default)]
    dq: Present,
    #[serde(default)]
    qi: Present,
    #[serde(default)]
    k: Present,
}

impl TryFrom<RawJwk> for Jwk {
    type Error = BadKey;

    fn try_from(raw: RawJwk) -> Result<Self, BadKey> {
        let private = [raw.d, raw.p, raw.q, raw.dp, raw.dq, raw.qi, raw.k];
        if private.iter().any(|member| member.0) {
            return Err(bad(
                "the jwk holds a private key; send the public key only, and make a new key",
            ));
        }
        match raw.kty.as_str() {
            "EC" => Self::ec(raw.crv.as_deref(), raw.x.as_deref(), raw.y.as_deref()),
            "RSA" => Self::rsa(raw.n.as_deref(), raw.e.as_deref()),
            "OKP" => Self::okp(raw.crv.as_deref(), raw.x.as_deref()),
            _ => Err(bad("the jwk's kty must be EC, RSA or OKP")),
        }
    }
}

impl Jwk {
    fn ec(crv: Option<&str>, x: Option<&str>, y: Option<&str>) -> Result<Self, BadKey> {
        let crv = match crv {
            Some("P-256") => Curve::P256,
            Some("P-384") => Curve::P384,
            Some("P-521") => Curve::P521,
            Some(_) | None => return Err(bad("an EC key's crv must be P-256, P-384 or P-521")),
        };
        let coordinate = |name: &str, text: Option<&str>| {
            let bytes = decode(name, text)?;
            // RFC 7518 §6.2.1.2: "The length of this octet string MUST be the full size of a coordinate".
            match bytes.len() == crv.coordinate_bytes() {
                true => Ok(URL_SAFE_NO_PAD.encode(bytes)),
                false => Err(bad(
                    "an EC key's coordinates must have the full length of the curve's",
                )),
            }
        };
        let (x, y) = (coordinate("x", x)?, coordinate("y", y)?);
        Ok(Self::Ec { crv, x, y })
    }

    fn rsa(n: Option<&str>, e: Option<&str>) -> Result<Self, BadKey> {
        let (n, e) = (decode("n", n)?, decode("e", e)?);
        Self::rsa_from_numbers(&n, &e)
    }

    fn rsa_from_numbers(n: &[u8], e: &[u8]) -> Result<Self, BadKey> {
        rsa::check_size(n, e).map_err(|weak| weak_key(&weak))?;
        let minimal = |number: &[u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            URL_SAFE_NO_PAD.encode(number.get(zeros..).unwrap_or_default())
        };
        Ok(Self::Rsa {
            e: minimal(e),
            n: minimal(n),
        })
    }

    fn okp(crv: Option<&str>, x: Option<&str>) -> Result<Self, BadKey> {
        if crv != Some("Ed25519") {
            return Err(bad("an OKP key's crv must be Ed25519"));
        }
        let x = decode("x", x)?;
        if x.len() != 32 {
            return Err(bad("an Ed25519 key has 32 bytes"));
        }
        Ok(Self::Okp {
            crv: EdwardsCurve::Ed25519,
            x: URL_SAFE_NO_PAD.encode(x),
        })
    }

    /// The key in a certificate or a certificate request (RFC 5280 §4.1.2.7): RSA, or ECDSA on P-256 or P-384.
    ///
    /// # Errors
    ///
    /// [`BadKey`] if it is of another kind, or weak.
    pub fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, BadKey> {
        match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => {
                rsa::check(rsa.modulus, rsa.exponent).map_err(|weak| weak_key(&weak))?;
                Self::rsa_from_numbers(rsa.modulus, rsa.exponent)
            }
            Ok(PublicKey::EC(point)) => {
                let named = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
                match named {
                    Some(curve) if curve == OID_EC_P256 => Self::from_ec_point(Curve::P256, point.data()),
                    Some(curve) if curve == OID_NIST_EC_P384 => {
                        Self::from_ec_point(Curve::P384, point.data())
                    }
                    Some(_) | None => Err(bad("an EC key must be on the named curve P-256 or P-384")),
                }
            }
            Ok(_) | Err(_) => Err(bad("the key must be RSA or ECDSA")),
        }
    }

    /// The key with this uncompressed point (SEC 1 §2.3.3).
    fn from_ec_point(crv: Curve, point: &[u8]) -> Result<Self, BadKey> {
        let length = crv.coordinate_bytes();
        match point.split_first() {
            Some((0x04, coordinates)) if coordinates.len() == 2 * length => {
                let (x, y) = coordinates.split_at(length);
                Ok(Self::Ec {
                    crv,
                    x: URL_SAFE_NO_PAD.encode(x),
                    y: URL_SAFE_NO_PAD.encode(y),
                })
            }
            Some(_) | None => Err(bad("the EC key is no uncompressed point of its curve")),
        }
    }

    /// SHA-256 over the required members in lexicographic order, base64url (RFC 7638 §3).
    pub fn thumbprint(&self) -> String {
        let canonical = match self {
            Self::Ec { crv, x, y } => format!(r#"{{"crv":"{}","kty":"EC","x":"{x}","y":"{y}"}}"#, crv.name()),
            Self::Rsa { e, n } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::Okp {
                crv: EdwardsCurve::Ed25519,
                x,
            } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// SHA-256 of the number that makes the key, without leading zeros: an RSA key's modulus, the x coordinate of a
    /// point. Lists of compromised keys know a key by it, because it is the same in every encoding, and whoever has the
    /// private key to a modulus has it for every exponent.
    pub fn number_hash(&self) -> [u8; 32] {
        let (Self::Ec { x: number, .. } | Self::Rsa { n: number, .. } | Self::Okp { x: number, .. }) = self;
        let bytes = URL_SAFE_NO_PAD.decode(number).unwrap_or_default();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let hash = digest::digest(&digest::SHA256, bytes.get(zeros..).unwrap_or_default());
        hash.as_ref().try_into().unwrap_or_default()
    }

    /// The one algorithm that this key signs with here.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ec { crv: Curve::P256, .. } => Algorithm::Es256,
            Self::Ec { crv: Curve::P384, .. } => Algorithm::Es384,
            Self::Ec { crv: Curve::P521, .. } => Algorithm::Es512,
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::Okp { .. } => Algorithm::EdDsa,
        }
    }

    /// The verifier of a key that comes with a request. Parsing leaves open whether its factors can be found: whoever
    /// sends a key must have earned what it costs to try.
    ///
    /// # Errors
    ///
    /// [`BadKey`] if the key is none, or weak.
    pub fn examined(&self) -> Result<Verifier, BadKey> {
        if let Self::Rsa { n, .. } = self {
            rsa::check_factors(&decode("n", Some(n))?).map_err(|weak| weak_key(&weak))?;
        }
        self.verifier()
    }

    /// Prepares the verification of signatures by this key. Costs more than a verification: keep it.
    ///
    /// # Errors
    ///
    /// [`BadKey`] if the key is none, e.g. a point that is not on its curve.
    pub fn verifier(&self) -> Result<Verifier, BadKey> {
        let no_key = |_| bad("the jwk is no valid public key");
        let Ok(serde_json::Value::Object(map)) = serde_json::to_value(self) else {
            return Err(bad("the jwk is no valid public key"));
        };
        let key = josekit::jwk::Jwk::from_map(map).map_err(no_key)?;
        let verifier: Arc<dyn JwsVerifier> = match self.algorithm() {
            Algorithm::Es256 => Arc::new(jws::ES256.verifier_from_jwk(&key).map_err(no_key)?),
            Algorithm::Es384 => Arc::new(jws::ES384.verifier_from_jwk(&key).map_err(no_key)?),
            Algorithm::Es512 => Arc::new(jws::ES512.verifier_from_jwk(&key).map_err(no_key)?),
            Algorithm::Rs256 => Arc::new(jws::RS256.verifier_from_jwk(&key).map_err(no_key)?),
            Algorithm::EdDsa => Arc::new(jws::EdDSA.verifier_from_jwk(&key).map_err(no_key)?),
        };
        Ok(Verifier {
            algorithm: self.algorithm(),
            verifier,
        })
    }
}

/// Verifies signatures by one key with the key's one algorithm.
#[derive(Clone)]
pub struct Verifier {
    algorithm: Algorithm,
    verifier: Arc<dyn JwsVerifier>,
}

impl Verifier {
    /// The key's algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the signature is the key's over the message.
    pub fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifier.verify(message, signature).is_ok()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.algorithm.name())
    }
}

fn decode(name: &str, text: Option<&str>) -> Result<Vec<u8>, BadKey> {
    let text = text.ok_or_else(|| bad(&format!("the jwk has no {name}")))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| bad(&format!("the jwk's {name} is not base64url without padding")))
}

fn weak_key(weak: &WeakRsaKey) -> BadKey {
    bad(&weak.to_string())
}

fn bad(reason: &str) -> BadKey {
    BadKey(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Jwk, BadKey> {
        serde_json::from_str::<RawJwk>(json).unwrap().try_into()
    }

    #[test]
    fn d23_the_thumbprint_is_the_one_of_rfc_8037_appendix_a_3_and_ignores_other_members() {
        let plain = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let decorated = r#"{"use":"sig","kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert_eq!(parse(plain).unwrap().thumbprint(), expected);
        assert_eq!(parse(decorated).unwrap().thumbprint(), expected);
    }

    #[test]
    fn c909_a_key_is_listed_by_the_hash_of_its_number_without_leading_zeros() {
        // A key that Debian's OpenSSL made (CVE-2008-0166): badkeys 0.0.21, tests/data/rsa-debianweak.key.
        let debian = concat!(
            "wJZTDExKND_DiP-LbhTIi2F0hZZt0PdX897LLwPf3-b1GOCUj1OHBZvVqhJPJtOPE53W68I0NgVhaJdY6bFOA_",
            "cUUIFnN0y_ZOJOJsPNle1aXQTjxAS-FXu4CQ6a2pzcU-9-gGwed7XxAkIVCiTprfmRCI2vIKdb61S8kf5D3YdV",
            "RH_Tq977nxyYeosEGYJFBOIT-N0mqca37S8hA9hCJyD3p0AM40dD5M5ARAxpAT7-oqOXkPzfzLtCTaHYJK3-WA",
            "ce121Br4NuQJPqYPVxniUPohT4YxFTqB7vwX2C4_gZ2ldpHtlgJVAHT96nOsnlz-EPa5GtwxtALD43CwOlWQ",
        );
        let padded = URL_SAFE_NO_PAD.encode([&[0; 2][..], &[7; 30]].concat());
        let keys = [
            // The hashes are those that badkeys makes.
            (
                format!(r#"{{"kty":"RSA","e":"AQAB","n":"{debian}"}}"#),
                "31c152529eb033a010f8c272fd8d42",
            ),
            // RFC 7517 Appendix A.2.
            (
                r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#.to_owned(),
                "fa0823c601e01670320f579ad4c5c4",
            ),
            // RFC 8037 Appendix A.1.
            (
                r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.to_owned(),
                "21fe31dfa154a261626bf854046fd2",
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{padded}","y":"{padded}"}}"#),
                "e9b626fe9cb2fceb5c59fab6ea8842",
            ),
        ];
        for (json, expected) in keys {
            let hash = parse(&json).unwrap().number_hash();
            let hash: String = hash.iter().take(15).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, expected, "{json}");
        }
    }

    #[test]
    fn c228_a_private_key_is_refused() {
        let json =
            r#"{"kty":"OKP","crv":"Ed25519","d":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        assert!(parse(json).unwrap_err().0.contains("private"));
    }

    #[test]
    fn d13_c229_points_that_are_none_are_refused() {
        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        let long = URL_SAFE_NO_PAD.encode([1; 33]);
        let one = URL_SAFE_NO_PAD.encode([1; 32]);
        for (x, y) in [(&short, &one), (&one, &long)] {
            let json = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
            assert!(parse(&json).is_err(), "{json}");
        }
        for (x, y) in [(&zero, &zero), (&one, &one)] {
            let key = parse(&format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#)).unwrap();
            assert!(key.verifier().is_err(), "{key:?}");
        }
        let mismatch = format!(r#"{{"kty":"EC","crv":"P-384","x":"{one}","y":"{one}"}}"#);
        assert!(parse(&mismatch).is_err());
        assert!(parse(&format!(r#"{{"kty":"oct","k":"{one}"}}"#)).is_err());
    }
}
