//! Signed requests: what the strict parser accepts, a lenient reading sees the same way; written again it is accepted
//! again; and no signature is accepted that nobody made.

#![no_main]

use acme_proxy::jose::jws::{Signer, Unverified};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    check(data);
    // The protected header on its own: mutations seldom survive base64.
    let body = json!({ "protected": URL_SAFE_NO_PAD.encode(data), "payload": "", "signature": "AAAA" });
    check(body.to_string().as_bytes());
});

fn check(body: &[u8]) {
    let Ok(request) = Unverified::parse(body) else {
        return;
    };
    // A member that nobody reads may hold half a surrogate pair: JSON by its grammar, and no text in Rust.
    let Ok(envelope) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    assert!(envelope.get("header").is_none() && envelope.get("signatures").is_none());
    let member = |name: &str| envelope[name].as_str().expect("a member is no text");
    let header = URL_SAFE_NO_PAD.decode(member("protected")).unwrap();
    let Ok(header) = serde_json::from_slice::<Value>(&header) else {
        return;
    };
    assert_eq!(request.nonce(), header["nonce"].as_str());
    assert_eq!(request.url(), header["url"].as_str());
    assert!(header.get("crit").is_none() && header.get("b64").is_none());
    assert!(["ES256", "ES384", "ES512", "RS256", "EdDSA"].contains(&header["alg"].as_str().unwrap()));

    let again = json!({
        "protected": member("protected"), "payload": member("payload"), "signature": member("signature"),
    });
    let again = Unverified::parse(again.to_string().as_bytes()).expect("the same request is refused");
    assert_eq!(again.signer(), request.signer());

    match request.signer().clone() {
        Signer::Account(kid) => assert_eq!(header["kid"].as_str(), Some(kid.as_str())),
        Signer::Key(key) => {
            assert!(header["kid"].is_null() && header["jwk"].is_object());
            if let Ok(verifier) = key.verifier() {
                assert!(request.verify(&verifier).is_err(), "a forged signature");
            }
        }
    }
}
