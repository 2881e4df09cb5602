//! The envelope of a signed request (RFC 8555 §6.2, RFC 7515 §7.2.2), parsed strictly.
//!
//! josekit would also take `crit`, an unprotected header, several signatures and duplicate members; so it only gets to
//! see the bytes and the signature. Nonces, URLs and accounts are the server's business.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::jose::jwk::{Algorithm, BadKey, Jwk, Present, RawJwk, Verifier};

/// Why a signed request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// It breaks the form.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its algorithm is none of [`Algorithm::ALL`].
    #[error("the signature algorithm is not accepted")]
    Algorithm,
    /// Its key is not acceptable, or does not fit the algorithm.
    #[error("{0}")]
    Key(String),
}

impl From<BadKey> for JwsError {
    fn from(BadKey(reason): BadKey) -> Self {
        Self::Key(reason)
    }
}

/// Who signed, by the request's own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The holder of this key (`jwk`).
    Key(Jwk),
    /// The account with this URL (`kid`).
    Account(String),
}

/// A well-formed request whose signature nobody has looked at yet. Its payload stays locked until then.
#[derive(Debug, Clone)]
pub struct Unverified {
    algorithm: Algorithm,
    signer: Signer,
    nonce: Option<String>,
    url: Option<String>,
    message: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    protected: Cow<'a, str>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    #[serde(default)]
    header: Present,
    #[serde(default)]
    signatures: Present,
}

/// The decoded parts of a JWS in the flattened form.
pub(crate) struct Parts {
    pub(crate) protected: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// What the signature is over.
    pub(crate) message: Vec<u8>,
}

impl Parts {
    /// Parses the JSON of a JWS.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, JwsError> {
        let envelope: Envelope<'_> = object(json).ok_or(JwsError::Malformed(
            "the JWS must be one JSON object with the members protected, payload and signature, once each",
        ))?;
        // RFC 8555 §6.2: "The JWS Unprotected Header [RFC7515] MUST NOT be used" and "The JWS MUST NOT have multiple
        // signatures".
        if envelope.header.0 {
            return Err(JwsError::Malformed("the JWS must not have an unprotected header"));
        }
        if envelope.signatures.0 {
            return Err(JwsError::Malformed(
                "the JWS must be in the flattened form, with one signature",
            ));
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text);
        let protected = decode(&envelope.protected)
            .map_err(|_| JwsError::Malformed("the protected header is not base64url without padding"))?;
        let payload = decode(&envelope.payload)
            .map_err(|_| JwsError::Malformed("the payload is not base64url without padding"))?;
        let signature = decode(&envelope.signature)
            .map_err(|_| JwsError::Malformed("the signature is not base64url without padding"))?;
        if signature.is_empty() {
            return Err(JwsError::Malformed("the signature is empty"));
        }
        Ok(Self {
            protected,
            payload,
            signature,
            message: format!("{}.{}", envelope.protected, envelope.payload).into_bytes(),
        })
    }
}

#[derive(Deserialize)]
struct ProtectedHeader {
    alg: Option<String>,
    nonce: Option<String>,
    url: Option<String>,
    kid: Option<String>,
    jwk: Option<RawJwk>,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    b64: Present,
}

impl Unverified {
    /// Parses a request's body.
    ///
    /// # Errors
    ///
    /// [`JwsError`] says which rule of the form is broken.
    pub fn parse(body: &[u8]) -> Result<Self, JwsError> {
        let Parts {
            protected,
            payload,
            signature,
            message,
        } = Parts::parse(body)?;
        let header: ProtectedHeader = object(&protected).ok_or(JwsError::Malformed(
            "the protected header must be one JSON object whose members occur once",
        ))?;
        if header.crit.0 || header.b64.0 {
            return Err(JwsError::Malformed(
                "the protected header must not have crit or b64",
            ));
        }
        let wanted = header.alg.as_deref();
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|known| Some(known.name()) == wanted);
        let algorithm = algorithm.ok_or(JwsError::Algorithm)?;
        let signer = match (header.jwk, header.kid) {
            (Some(jwk), None) => Signer::Key(Jwk::try_from(jwk)?),
            (None, Some(kid)) => Signer::Account(kid),
            // RFC 8555 §6.2: "The "jwk" and "kid" fields are mutually exclusive."
            (Some(_), Some(_)) | (None, None) => {
                return Err(JwsError::Malformed(
                    "the protected header must have either jwk or kid",
                ));
            }
        };
        Ok(Self {
            algorithm,
            signer,
            nonce: header.nonce,
            url: header.url,
            message,
            payload,
            signature,
        })
    }

    /// Who claims to have signed.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The anti-replay nonce (RFC 8555 §6.5.2).
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }

    /// The URL that the request is meant for (RFC 8555 §6.4).
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Checks the signature and gives the payload.
    ///
    /// # Errors
    ///
    /// [`JwsError::Key`] if the algorithm is not the key's, [`JwsError::Malformed`] if the signature is not the key's.
    pub fn verify(self, key: &Verifier) -> Result<Vec<u8>, JwsError> {
        if self.algorithm != key.algorithm() {
            return Err(JwsError::Key(format!(
                "the key signs with {}, not with {}",
                key.algorithm().name(),
                self.algorithm.name()
            )));
        }
        match key.accepts(&self.message, &self.signature) {
            true => Ok(self.payload),
            false => Err(JwsError::Malformed(
                "the signature does not verify under the signer's key",
            )),
        }
    }
}

/// Parses JSON that must be an object: serde would also fill a struct from an array.
pub fn object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Option<T> {
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn envelope(protected: &str) -> String {
        format!(
            r#"{{"protected":"{}","payload":"","signature":"AAAA"}}"#,
            URL_SAFE_NO_PAD.encode(protected)
        )
    }

    fn refused(body: &str) -> JwsError {
        Unverified::parse(body.as_bytes()).expect_err(body)
    }

    #[test]
    fn a_well_formed_request_is_parsed() {
        let body = envelope(&format!(
            r#"{{"alg":"EdDSA","nonce":"n","url":"u","jwk":{KEY},"x5u":"http://evil"}}"#
        ));
        let request = Unverified::parse(body.as_bytes()).unwrap();
        assert_eq!((request.nonce(), request.url()), (Some("n"), Some("u")));
        assert!(matches!(request.signer(), Signer::Key(Jwk::Okp { .. })));
    }

    #[test]
    fn c201_to_c209_bodies_that_are_no_flattened_jws_are_malformed() {
        let good = envelope(&format!(r#"{{"alg":"EdDSA","jwk":{KEY}}}"#));
        let protected = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","jwk":{KEY}}}"#));
        let cases = [
            String::new(),
            "{}".into(),
            "[]".into(),
            "null".into(),
            "\"x\"".into(),
            "[".repeat(65_536),
            format!("{good}{{}}"),
            good.replace("\"payload\"", "\"protected\""),
            good.replace('{', "{\"header\":{},"),
            good.replace('{', "{\"header\":null,"),
            good.replace('{', "{\"signatures\":[],"),
            "a.b.c".into(),
            good.replace("AAAA", "AAA="),
            good.replace("AAAA", "AA+/"),
            good.replace("AAAA", "AAAB\\n"),
            good.replace("AAAA", "AB"),
            good.replace("AAAA", ""),
            format!(r#"["{protected}","","AAAA"]"#),
            good.replace("\"payload\":\"\",", ""),
        ];
        for body in cases {
            assert!(matches!(refused(&body), JwsError::Malformed(_)), "{body:.80}");
        }
        assert!(Unverified::parse(&[b'{', 0xff, b'}']).is_err());
    }

    #[test]
    fn c210_to_c217_protected_headers_that_break_the_rules_are_refused() {
        let malformed = [
            "[]".to_owned(),
            "\"x\"".to_owned(),
            format!(r#"{{"alg":"EdDSA","alg":"ES256","jwk":{KEY}}}"#),
            format!(r#"{{"alg":"EdDSA","jwk":{KEY},"crit":["exp"]}}"#),
            format!(r#"{{"alg":"EdDSA","jwk":{KEY},"crit":null}}"#),
            format!(r#"{{"alg":"EdDSA","jwk":{KEY},"b64":false}}"#),
            format!(r#"{{"alg":"EdDSA","jwk":{KEY},"kid":"a"}}"#),
            r#"{"alg":"EdDSA"}"#.to_owned(),
        ];
        for header in malformed {
            assert!(
                matches!(refused(&envelope(&header)), JwsError::Malformed(_)),
                "{header}"
            );
        }
        for alg in [
            "none", "None", "nOnE", "", "HS256", "HS384", "HS512", "PS256", "ES256K", "RS1", "es256",
        ] {
            assert_eq!(
                refused(&envelope(&format!(r#"{{"alg":"{alg}","jwk":{KEY}}}"#))),
                JwsError::Algorithm,
                "{alg}"
            );
        }
        assert_eq!(
            refused(&envelope(&format!(r#"{{"jwk":{KEY}}}"#))),
            JwsError::Algorithm
        );
    }

    #[test]
    fn d11_c213_an_algorithm_that_is_not_the_keys_is_refused() {
        let body = envelope(&format!(r#"{{"alg":"ES256","jwk":{KEY}}}"#));
        let request = Unverified::parse(body.as_bytes()).unwrap();
        let Signer::Key(key) = request.signer().clone() else {
            panic!("a jwk was sent")
        };
        assert!(matches!(
            request.verify(&key.verifier().unwrap()),
            Err(JwsError::Key(_))
        ));
    }
}
