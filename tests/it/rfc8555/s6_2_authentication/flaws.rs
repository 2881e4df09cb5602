//! The flaws: each takes what an honest client would send, and spoils one thing.

use serde_json::{Map, Value, json};

use crate::harness::client::Client;
use crate::harness::key::{b64, unb64};

/// What an honest client would send.
pub(crate) struct Twin<'a> {
    pub(crate) client: &'a Client,
    pub(crate) header: Map<String, Value>,
    pub(crate) payload: &'a [u8],
}

/// One way to spoil a request, and its answer.
pub(crate) struct Flaw {
    pub(crate) name: &'static str,
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) make: fn(&Twin<'_>) -> Vec<u8>,
}

impl Twin<'_> {
    /// The envelope, good.
    fn envelope(&self) -> Value {
        self.over(&Value::Object(self.header.clone()).to_string())
    }

    /// The envelope over a protected header of this text.
    fn over(&self, header: &str) -> Value {
        self.client.key.envelope(header.as_bytes(), self.payload)
    }

    /// The body with one member of the protected header exchanged.
    fn with(&self, member: &str, value: Value) -> Vec<u8> {
        let mut header = self.header.clone();
        header.insert(member.to_owned(), value);
        self.over(&Value::Object(header).to_string())
            .to_string()
            .into_bytes()
    }

    /// The body without one member of the protected header.
    fn without(&self, member: &str) -> Vec<u8> {
        let mut header = self.header.clone();
        header.remove(member);
        self.over(&Value::Object(header).to_string())
            .to_string()
            .into_bytes()
    }

    /// The body with one member of the envelope exchanged.
    fn sent_with(&self, member: &str, value: Value) -> Vec<u8> {
        let mut envelope = self.envelope();
        envelope[member] = value;
        envelope.to_string().into_bytes()
    }

    /// The body without one member of the envelope.
    fn sent_without(&self, member: &str) -> Vec<u8> {
        let mut envelope = self.envelope();
        envelope.as_object_mut().unwrap().remove(member);
        envelope.to_string().into_bytes()
    }

    /// The body with a member of the envelope spelled otherwise.
    fn respelled(&self, member: &str, respell: impl Fn(&str) -> String) -> Vec<u8> {
        let text = respell(self.envelope()[member].as_str().unwrap());
        self.sent_with(member, text.into())
    }

    /// The body with more text in front of the protected header's members.
    fn with_text(&self, more: &str) -> Vec<u8> {
        let header = Value::Object(self.header.clone()).to_string();
        let header = header.replacen('{', &format!("{{{more},"), 1);
        self.over(&header).to_string().into_bytes()
    }

    /// The body with more text in front of the envelope's members.
    fn sent_with_text(&self, more: &str) -> Vec<u8> {
        let envelope = self.envelope().to_string();
        envelope.replacen('{', &format!("{{{more},"), 1).into_bytes()
    }

    /// The body with another signature.
    fn signed_with(&self, spoil: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        self.respelled("signature", |signature| b64(spoil(unb64(signature))))
    }

    /// The body with a MAC that is keyed with these bytes, as a confused verifier would check it (D8).
    fn maced(&self, alg: &str, key: &[u8]) -> Vec<u8> {
        let mut header = self.header.clone();
        header.insert("alg".into(), alg.into());
        let protected = b64(Value::Object(header).to_string());
        let payload = b64(self.payload);
        let algorithm = match alg {
            "HS256" => aws_lc_rs::hmac::HMAC_SHA256,
            "HS384" => aws_lc_rs::hmac::HMAC_SHA384,
            _ => aws_lc_rs::hmac::HMAC_SHA512,
        };
        let key = aws_lc_rs::hmac::Key::new(algorithm, key);
        let mac = aws_lc_rs::hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        let envelope = json!({ "protected": protected, "payload": payload, "signature": b64(mac) });
        envelope.to_string().into_bytes()
    }
}

/// The last character of base64url with one of its unused bits set; the texts here all have some.
fn with_a_loose_bit(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if text.len().is_multiple_of(4) {
        // No bits are unused: half of a byte more is no byte.
        return format!("{text}A");
    }
    let last = text.bytes().last().unwrap();
    let value = ALPHABET.iter().position(|letter| *letter == last).unwrap();
    format!("{}{}", &text[..text.len() - 1], char::from(ALPHABET[value | 1]))
}

fn padded(text: &str) -> String {
    format!(
        "{text}{}",
        "=".repeat((4 - text.len() % 4).max(1) % 4 + usize::from(text.len().is_multiple_of(4)))
    )
}

const fn malformed(name: &'static str, make: fn(&Twin<'_>) -> Vec<u8>) -> Flaw {
    Flaw {
        name,
        status: 400,
        kind: "malformed",
        make,
    }
}

const fn algorithm(name: &'static str, make: fn(&Twin<'_>) -> Vec<u8>) -> Flaw {
    Flaw {
        kind: "badSignatureAlgorithm",
        ..malformed(name, make)
    }
}

const fn key(name: &'static str, make: fn(&Twin<'_>) -> Vec<u8>) -> Flaw {
    Flaw {
        kind: "badPublicKey",
        ..malformed(name, make)
    }
}

const fn nonce(name: &'static str, make: fn(&Twin<'_>) -> Vec<u8>) -> Flaw {
    Flaw {
        kind: "badNonce",
        ..malformed(name, make)
    }
}

const fn elsewhere(name: &'static str, make: fn(&Twin<'_>) -> Vec<u8>) -> Flaw {
    Flaw {
        status: 403,
        kind: "unauthorized",
        ..malformed(name, make)
    }
}

/// The matrix' rows.
pub(crate) const FLAWS: &[Flaw] = &[
    malformed("D1 C201 an empty body", |_| Vec::new()),
    malformed("D1 C201 {}", |_| b"{}".to_vec()),
    malformed("D1 C201 []", |_| b"[]".to_vec()),
    malformed("D1 C201 null", |_| b"null".to_vec()),
    malformed("D1 C201 a string", |_| b"\"x\"".to_vec()),
    malformed("D1 C201 invalid UTF-8", |twin| {
        [b"\xff".as_slice(), &twin.sent_with("a", json!(1))].concat()
    }),
    malformed("C202 deep nesting", |_| vec![b'['; 65_536]),
    malformed("C202 deep nesting in a member", |twin| {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let envelope = twin.envelope();
        let signature = envelope["signature"].to_string();
        envelope.to_string().replace(&signature, &deep).into_bytes()
    }),
    malformed("C203 a long list", |_| {
        format!("[{}0]", "0,".repeat(32_000)).into_bytes()
    }),
    malformed("C204 protected twice", |twin| {
        twin.sent_with_text("\"protected\":\"\"")
    }),
    malformed("C204 payload twice", |twin| {
        twin.sent_with_text("\"payload\":\"\"")
    }),
    malformed("C204 signature twice", |twin| {
        twin.sent_with_text("\"signature\":\"AAAA\"")
    }),
    malformed("D3 C205 an unprotected header", |twin| {
        twin.sent_with("header", json!({}))
    }),
    malformed("D3 C205 an unprotected header with a kid", |twin| {
        twin.sent_with("header", json!({ "kid": "a" }))
    }),
    malformed("D3 C205 an unprotected header of null", |twin| {
        twin.sent_with("header", Value::Null)
    }),
    malformed("D2 C206 several signatures", |twin| {
        twin.sent_with("signatures", json!([]))
    }),
    malformed("D2 C206 the general serialization", |twin| {
        let envelope = twin.envelope();
        let one = json!({ "protected": envelope["protected"], "signature": envelope["signature"] });
        json!({ "payload": envelope["payload"], "signatures": [one] })
            .to_string()
            .into_bytes()
    }),
    malformed("D2 C207 the compact serialization", |twin| {
        let envelope = twin.envelope();
        let part = |name: &str| envelope[name].as_str().unwrap().to_owned();
        format!("{}.{}.{}", part("protected"), part("payload"), part("signature")).into_bytes()
    }),
    malformed("C208 something after the body", |twin| {
        [twin.envelope().to_string().as_str(), "{}"].concat().into_bytes()
    }),
    malformed("a list of one envelope", |twin| {
        json!([twin.envelope()]).to_string().into_bytes()
    }),
    malformed("the envelope's values as a list", |twin| {
        let envelope = twin.envelope();
        json!([envelope["protected"], envelope["payload"], envelope["signature"]])
            .to_string()
            .into_bytes()
    }),
    malformed("D4 no protected", |twin| twin.sent_without("protected")),
    malformed("D4 no payload", |twin| twin.sent_without("payload")),
    malformed("D4 no signature", |twin| twin.sent_without("signature")),
    malformed("D4 an empty protected", |twin| {
        twin.sent_with("protected", "".into())
    }),
    malformed("D4 C226 an empty signature", |twin| {
        twin.sent_with("signature", "".into())
    }),
    malformed("D4 a payload of null", |twin| {
        twin.sent_with("payload", Value::Null)
    }),
    malformed("a payload that is no string", |twin| {
        twin.sent_with("payload", json!({}))
    }),
    malformed("D21 C209 a padded protected", |twin| {
        twin.respelled("protected", padded)
    }),
    malformed("D21 C209 a padded signature", |twin| {
        twin.respelled("signature", padded)
    }),
    malformed("D21 C209 a padded payload", |twin| {
        twin.respelled("payload", |text| padded(&format!("{text}AA")))
    }),
    malformed("D21 C209 the other alphabet", |twin| {
        twin.respelled("signature", |text| format!("+/{}", &text[2..]))
    }),
    malformed("D21 C209 white space", |twin| {
        twin.respelled("protected", |text| format!("{text} "))
    }),
    malformed("D21 C209 a line break", |twin| {
        twin.respelled("signature", |text| format!("{}\n{}", &text[..9], &text[9..]))
    }),
    malformed("D21 C209 loose bits in the signature", |twin| {
        twin.respelled("signature", with_a_loose_bit)
    }),
    malformed("D21 C209 loose bits in the header", |twin| {
        twin.respelled("protected", with_a_loose_bit)
    }),
    malformed("C210 a header that is a list", |twin| {
        twin.over("[]").to_string().into_bytes()
    }),
    malformed("C210 a header that is a string", |twin| {
        twin.over("\"x\"").to_string().into_bytes()
    }),
    malformed("C210 a header that is no JSON", |twin| {
        twin.over("alg=ES256").to_string().into_bytes()
    }),
    malformed("C210 a header with something after it", |twin| {
        let header = Value::Object(twin.header.clone()).to_string();
        twin.over(&format!("{header}{{}}")).to_string().into_bytes()
    }),
    malformed("D6 C210 alg twice", |twin| twin.with_text("\"alg\":\"none\"")),
    malformed("D6 C210 url twice", |twin| {
        twin.with_text("\"url\":\"https://evil/\"")
    }),
    malformed("D6 C210 nonce twice", |twin| twin.with_text("\"nonce\":\"AAAA\"")),
    algorithm("D7 C211 none", |twin| twin.with("alg", "none".into())),
    algorithm("D7 C211 None", |twin| twin.with("alg", "None".into())),
    algorithm("D7 C211 nOnE", |twin| twin.with("alg", "nOnE".into())),
    algorithm("D7 C211 an empty alg", |twin| twin.with("alg", "".into())),
    algorithm("D7 C211 no alg", |twin| twin.without("alg")),
    algorithm("D7 C211 alg of null", |twin| twin.with("alg", Value::Null)),
    malformed("D7 alg that is no string", |twin| {
        twin.with("alg", json!(["ES256"]))
    }),
    algorithm("es256 in small letters", |twin| twin.with("alg", "es256".into())),
    algorithm("D8 C212 HS256 with the JWK as its key", |twin| {
        twin.maced("HS256", twin.client.key.jwk.to_string().as_bytes())
    }),
    algorithm("D8 C212 HS384 with the DER as its key", |twin| {
        twin.maced(
            "HS384",
            &rcgen::PublicKeyData::subject_public_key_info(&twin.client.key.pair),
        )
    }),
    algorithm("D8 C212 HS512 with the PEM as its key", |twin| {
        twin.maced("HS512", twin.client.key.pair.public_key_pem().as_bytes())
    }),
    algorithm("D8 C212 HS256 with an empty key", |twin| twin.maced("HS256", b"")),
    algorithm("D9 C213 PS256", |twin| twin.with("alg", "PS256".into())),
    algorithm("D9 C213 ES256K", |twin| twin.with("alg", "ES256K".into())),
    algorithm("D9 C213 RS1", |twin| twin.with("alg", "RS1".into())),
    algorithm("D9 C213 RS512", |twin| twin.with("alg", "RS512".into())),
    key("D11 C213 RS256 with an EC key", |twin| {
        twin.with("alg", "RS256".into())
    }),
    key("D11 C213 ES384 with a P-256 key", |twin| {
        twin.with("alg", "ES384".into())
    }),
    key("D11 C213 EdDSA with an EC key", |twin| {
        twin.with("alg", "EdDSA".into())
    }),
    malformed("D5 C214 crit", |twin| twin.with("crit", json!(["exp"]))),
    malformed("D5 C214 an empty crit", |twin| twin.with("crit", json!([]))),
    malformed("D5 C214 a crit of known names", |twin| {
        twin.with("crit", json!(["nonce", "url"]))
    }),
    malformed("D5 C214 crit of null", |twin| twin.with("crit", Value::Null)),
    malformed("D5 C215 b64 false", |twin| twin.with("b64", json!(false))),
    malformed("D5 C215 b64 true", |twin| twin.with("b64", json!(true))),
    nonce("C4 C224 no nonce", |twin| twin.without("nonce")),
    nonce("C4 C224 an empty nonce", |twin| twin.with("nonce", "".into())),
    nonce("C4 C224 a foreign nonce", |twin| {
        twin.with("nonce", b64([7; 32]).into())
    }),
    malformed("C6 a nonce that is not base64url", |twin| {
        twin.with("nonce", "a+b=".into())
    }),
    malformed("a nonce that is no string", |twin| twin.with("nonce", json!(1))),
    elsewhere("D20 C223 no url", |twin| twin.without("url")),
    elsewhere("D20 C223 the url of another endpoint", |twin| {
        twin.with("url", twin.client.site.url("order/0").into())
    }),
    malformed("D20 a url that is no string", |twin| twin.with("url", json!({}))),
    malformed("D19 C225 a signature of DER", |twin| {
        let signature = rcgen::SigningKey::sign(&twin.client.key.pair, b"x").unwrap();
        twin.signed_with(|_| signature.clone())
    }),
    malformed("D19 C225 a signature of 63 bytes", |twin| {
        twin.signed_with(|mut signature| {
            signature.truncate(63);
            signature
        })
    }),
    malformed("D19 C225 a signature of 65 bytes", |twin| {
        twin.signed_with(|signature| [signature, vec![0]].concat())
    }),
    malformed("C225 r = 0", |twin| {
        twin.signed_with(|signature| [&[0; 32], &signature[32..]].concat())
    }),
    malformed("C225 s = 0", |twin| {
        twin.signed_with(|signature| [&signature[..32], &[0; 32]].concat())
    }),
    malformed("C225 r = s = 0", |twin| twin.signed_with(|_| vec![0; 64])),
    malformed("C225 r = s = n", |twin| {
        twin.signed_with(|_| [super::keys::P256_ORDER, super::keys::P256_ORDER].concat())
    }),
    malformed("D19 one bit of the signature off", |twin| {
        twin.signed_with(|mut signature| {
            signature[0] ^= 0x80;
            signature
        })
    }),
    malformed("C226 a signature of 40,000 bytes", |twin| {
        twin.signed_with(|_| vec![1; 40_000])
    }),
    malformed("C227 a payload that was not signed", |twin| {
        twin.sent_with("payload", b64("{ }").into())
    }),
    malformed("D19 signed by another key", |twin| {
        let other = Client::stranger(&twin.client.site);
        let header = Value::Object(twin.header.clone()).to_string();
        other
            .key
            .envelope(header.as_bytes(), twin.payload)
            .to_string()
            .into_bytes()
    }),
    malformed("D15 C217 neither jwk nor kid", |twin| {
        let mut header = twin.header.clone();
        header.remove("jwk");
        header.remove("kid");
        twin.over(&Value::Object(header).to_string())
            .to_string()
            .into_bytes()
    }),
];
