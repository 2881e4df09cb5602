//! Identifiers: an accepted name has one spelling, which reads back as itself, and which a URL parser takes for that
//! host and for no address.

#![no_main]

use std::net::IpAddr;

use acme_proxy::acme::identifier::Identifier;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(identifier) = Identifier::dns(text) {
        let shown = identifier.to_string();
        assert_eq!(shown, text.to_ascii_lowercase(), "more than the case was changed");
        assert_eq!(
            Identifier::dns(&shown),
            Ok(identifier.clone()),
            "it does not read back"
        );
        let host = identifier.without_wildcard().to_string();
        assert!(host.len() <= 253 && host.contains('.'));
        for label in host.split('.') {
            assert!((1..=63).contains(&label.len()));
            let ldh = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(label.bytes().all(ldh) && !label.starts_with('-') && !label.ends_with('-'));
        }
        assert!(
            shown.parse::<IpAddr>().is_err() && Identifier::ip(&shown).is_err(),
            "an address as a name"
        );
        // A URL parser may refuse A-labels that are good one by one, for their directions (RFC 5893 §2).
        match url::Url::parse(&format!("http://{host}/")) {
            Ok(url) => assert_eq!(url.host(), Some(url::Host::Domain(host.as_str()))),
            Err(_) => assert!(host.contains("xn--"), "no URL parser takes the host"),
        }
        stored(&identifier);
    }
    if let Ok(identifier) = Identifier::ip(text) {
        assert_eq!(identifier.to_string(), text, "an address has one spelling");
        stored(&identifier);
    }
});

/// The store gives back what it got.
fn stored(identifier: &Identifier) {
    let json = serde_json::to_string(identifier).unwrap();
    assert_eq!(&serde_json::from_str::<Identifier>(&json).unwrap(), identifier);
}
