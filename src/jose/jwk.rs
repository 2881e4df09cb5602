//! JWK: being written.
use serde::{Deserialize, Serialize};
/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum Jwk {
    /// EC.
    #[serde(rename = "EC")]
    Ec {
        /// Curve.
        crv: String,
        /// x
        x: String,
        /// y
        y: String,
    },
    /// RSA
    #[serde(rename = "RSA")]
    Rsa {
        /// e
        e: String,
        /// n
        n: String,
    },
    /// Ed25519
    #[serde(rename = "OKP")]
    Okp {
        /// crv
        crv: String,
        /// x
        x: String,
    },
}
impl Jwk {
    /// RFC 7638 thumbprint, base64url of SHA-256.
    pub fn thumbprint(&self) -> String {
        use base64::Engine as _;
        let json = match self {
            Self::Ec { crv, x, y } => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Self::Rsa { e, n } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
        };
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            json.as_bytes(),
        ))
    }
}
