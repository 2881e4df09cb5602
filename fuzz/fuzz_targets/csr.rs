//! Certificate requests: an accepted one matches the order for exactly the names that another parser (x509-parser) finds
//! in it, and no other order; whatever else it asks for is not a CA's.
//!
//! Each input is tried as it is, and with a key and a signature that are good: mutations seldom survive a signature.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use acme_proxy::acme::csr::Csr;
use acme_proxy::acme::id::AccountId;
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::order::Order;
use acme_proxy_fuzz::signed_again;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::*;

fuzz_target!(|data: &[u8]| {
    check(data.to_vec());
    let Ok((_, request)) = X509CertificationRequest::from_der(data) else {
        return;
    };
    if let Some(signed) = signed_again(data, request.certification_request_info.subject_pki.raw) {
        check(signed);
    }
});

fn check(der: Vec<u8>) {
    let Ok(csr) = Csr::parse(der.clone()) else {
        return;
    };
    let names = names_found_by_another(&der);
    assert!(
        csr.matching(&order(&names), None).is_ok(),
        "it stands for other names than {names:?}"
    );
    let mut more = names.clone();
    more.insert(Identifier::dns("one-more.example.org").unwrap());
    if more != names {
        assert!(
            csr.matching(&order(&more), None).is_err(),
            "it matches an order for more"
        );
    }
    let mut fewer = names;
    fewer.pop_first();
    assert!(
        csr.matching(&order(&fewer), None).is_err(),
        "it matches an order for fewer"
    );
}

fn order(names: &BTreeSet<Identifier>) -> Order {
    let identifiers = names.iter().map(|name| (name.clone(), Vec::new())).collect();
    let lifetime = Duration::from_secs(3600);
    Order::new(
        AccountId::random(),
        "fuzz".to_owned(),
        identifiers,
        Timestamp::UNIX_EPOCH,
        lifetime,
    )
}

/// Every name in the request, read by x509-parser; a panic where that sees something that must not be there.
fn names_found_by_another(der: &[u8]) -> BTreeSet<Identifier> {
    let (rest, csr) = X509CertificationRequest::from_der(der).expect("another parser refuses it");
    assert!(rest.is_empty());
    let info = &csr.certification_request_info;
    let mut names = BTreeSet::new();
    for attribute in info.subject.iter_attributes() {
        if *attribute.attr_type() == OID_X509_COMMON_NAME {
            let text = attribute.as_str().expect("a common name that is no text");
            assert!(text.len() <= 64);
            if !text.is_empty() {
                names.insert(Identifier::dns(text).expect("a common name that is no host"));
            }
        }
    }
    let mut requests = 0;
    for attribute in info.attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            continue;
        };
        requests += 1;
        for extension in &request.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(list) => {
                    names.extend(list.general_names.iter().map(|name| match name {
                        GeneralName::DNSName(text) => Identifier::dns(text).unwrap(),
                        GeneralName::IPAddress([a, b, c, d]) => Identifier::Ip([*a, *b, *c, *d].into()),
                        GeneralName::IPAddress(octets) => {
                            Identifier::Ip(<[u8; 16]>::try_from(*octets).unwrap().into())
                        }
                        other => panic!("a name of another kind: {other:?}"),
                    }));
                }
                ParsedExtension::BasicConstraints(constraints) => assert!(!constraints.ca),
                ParsedExtension::KeyUsage(usage) => assert!(!usage.key_cert_sign() && !usage.crl_sign()),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    assert!(!usage.any && !usage.code_signing && usage.other.is_empty());
                }
                ParsedExtension::SubjectKeyIdentifier(_) | ParsedExtension::UnsupportedExtension { .. } => {}
                other => panic!("an extension that is not allowed: {other:?}"),
            }
        }
    }
    assert!(requests <= 1);
    names
}
