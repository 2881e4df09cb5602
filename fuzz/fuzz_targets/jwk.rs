//! Keys: an accepted key has one spelling and one thumbprint, holds nothing private, and can be used or is refused when
//! it is.

#![no_main]

use std::collections::BTreeMap;

use acme_proxy::jose::jwk::Jwk;
use acme_proxy::jose::jws::{Signer, Unverified};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Some(key) = read(data) else {
        return;
    };
    let written = serde_json::to_value(&key).unwrap();
    let sorted: BTreeMap<&String, &Value> = written.as_object().unwrap().iter().collect();
    let members: Vec<&str> = sorted.keys().map(|member| member.as_str()).collect();
    let required: &[&str] = match written["kty"].as_str() {
        Some("EC") => &["crv", "kty", "x", "y"],
        Some("RSA") => &["e", "kty", "n"],
        Some("OKP") => &["crv", "kty", "x"],
        _ => panic!("no such kind of key"),
    };
    assert_eq!(members, required);
    let again = read(written.to_string().as_bytes()).expect("its own spelling is refused");
    assert_eq!(again, key);
    // RFC 7638 §3: the members in lexicographic order.
    let canonical = serde_json::to_vec(&sorted).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &canonical);
    assert_eq!(key.thumbprint(), URL_SAFE_NO_PAD.encode(digest));
    if let Ok(verifier) = key.verifier() {
        assert_eq!(verifier.algorithm(), key.algorithm());
        assert!(!verifier.accepts(b"message", data), "a forged signature");
    }
});

/// The key in these bytes, read as it is in a request's protected header.
fn read(jwk: &[u8]) -> Option<Jwk> {
    let _: Value = serde_json::from_slice(jwk).ok()?;
    let header = [br#"{"alg":"RS256","jwk":"#, jwk, b"}"].concat();
    let body = json!({ "protected": URL_SAFE_NO_PAD.encode(header), "payload": "", "signature": "AAAA" });
    match Unverified::parse(body.to_string().as_bytes()).ok()?.signer() {
        Signer::Key(key) => Some(key.clone()),
        Signer::Account(_) => panic!("a key became an account"),
    }
}
