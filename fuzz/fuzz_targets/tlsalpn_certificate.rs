//! Certificates for tls-alpn-01: one is accepted only if the digest of the key authorization stands in it, and the
//! name; never for another name or another key authorization.
//!
//! Each input is tried as it is, and with a key and a signature that are good: mutations seldom survive a signature.

#![no_main]

use acme_proxy::acme::identifier::Identifier;
use acme_proxy::validate::fuzzing::tlsalpn01_accepts;
use acme_proxy_fuzz::signed_again;
use aws_lc_rs::digest::{SHA256, digest};
use libfuzzer_sys::fuzz_target;
use x509_parser::prelude::*;

const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ.kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

/// RFC 8737 §3, DER without tag and length.
const ACME_IDENTIFIER: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f];

fuzz_target!(|data: &[u8]| {
    check(data);
    let Ok((_, certificate)) = X509Certificate::from_der(data) else {
        return;
    };
    if let Some(signed) = signed_again(data, certificate.public_key().raw) {
        check(&signed);
    }
});

fn check(der: &[u8]) {
    let name = Identifier::dns("www.example.com").unwrap();
    let address = Identifier::ip("192.0.2.1").unwrap();
    for (identifier, bytes, other) in [
        (&name, &b"www.example.com"[..], &address),
        (&address, &[192, 0, 2, 1], &name),
    ] {
        if !tlsalpn01_accepts(der, identifier, KEY_AUTHORIZATION) {
            continue;
        }
        let holds = |part: &[u8]| {
            der.windows(part.len())
                .any(|window| window.eq_ignore_ascii_case(part))
        };
        let digest = digest(&SHA256, KEY_AUTHORIZATION.as_bytes());
        assert!(
            der.windows(32).any(|window| window == digest.as_ref()),
            "accepted without the digest"
        );
        assert!(
            holds(&ACME_IDENTIFIER) && holds(bytes),
            "accepted without the name or the extension"
        );
        assert!(
            !tlsalpn01_accepts(der, other, KEY_AUTHORIZATION),
            "accepted for two identifiers"
        );
        assert!(
            !tlsalpn01_accepts(der, identifier, "another"),
            "accepted for another key authorization"
        );
        let (rest, certificate) = X509Certificate::from_der(der).expect("another parser refuses it");
        assert!(rest.is_empty());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1, "more than one name");
    }
}
