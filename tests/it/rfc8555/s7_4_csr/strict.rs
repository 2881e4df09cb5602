//! Where a second reader might see another name: bytes too many, other spellings, and places that hold names on the
//! side (CONFORMANCE K4 to K8, K10; SECURITY C901 to C909).

use crate::harness::csr::{
    BITS, BMP, COMMON_NAME, DNS_NAME, Draft, EXTENSION_REQUEST, IA5, OCTETS, PRINTABLE, SAN, SEQUENCE, SET,
    UTF8, algorithm, attribute, extension, extension_attribute, oid, san, san_of, sign_info, tlv,
};
use crate::harness::key::{Key, unb64};
use crate::rfc8555::s7_4_csr::{Desk, HOST, critical};

const UNIVERSAL: u8 = 0x1c;
const TELETEX: u8 = 0x14;
const NUMERIC: u8 = 0x12;
const VISIBLE: u8 = 0x1a;

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EMAIL: &[u64] = &[1, 2, 840, 113_549, 1, 9, 1];
const UNSTRUCTURED_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 2];
const CHALLENGE_PASSWORD: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];

/// Version, subject, key and attributes of a good request.
fn parts(key: &Key) -> [Vec<u8>; 4] {
    let attributes = extension_attribute(EXTENSION_REQUEST, &[san_of(&[HOST])]);
    [
        vec![2, 1, 0],
        tlv(SEQUENCE, []),
        rcgen::PublicKeyData::subject_public_key_info(&key.pair),
        tlv(0xa0, attributes),
    ]
}

/// A request that has this instead of its extensionRequest attribute.
fn with_attributes(key: &Key, attributes: &[Vec<u8>]) -> Vec<u8> {
    let [version, subject, spki, _] = parts(key);
    sign_info(key, &[version, subject, spki, tlv(0xa0, attributes.concat())])
}

/// The same element with another spelling of its length.
fn respelled(der: &[u8], length: &[u8]) -> Vec<u8> {
    let header = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
    };
    assert_eq!(der.len(), header.0 + header.1);
    let [high, low] = u16::try_from(header.1).unwrap().to_be_bytes();
    let length = [length, &[high, low]].concat();
    [&der[..1], &length, &der[header.0..]].concat()
}

#[tokio::test]
async fn k4_c901_bytes_too_many_and_other_spellings_are_refused_wherever_they_stand() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let evil = san_of(&["evil.example.com"]);
    let [version, subject, spki, attributes] = parts(&key);
    let good = sign_info(&key, &parts(&key));
    let info = |parts: &[&[u8]]| sign_info(&key, &parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>());
    let asking = |extension: Vec<u8>| Draft::with_extensions(&[extension]).sign(&key);
    let list = tlv(SEQUENCE, tlv(DNS_NAME, HOST));
    let evil_list = tlv(SEQUENCE, tlv(DNS_NAME, "evil.example.com"));
    let request = |after_set: &[u8]| {
        let set = tlv(SET, tlv(SEQUENCE, san_of(&[HOST])));
        let attribute = [oid(EXTENSION_REQUEST), set, after_set.to_vec()].concat();
        with_attributes(&key, &[tlv(SEQUENCE, attribute)])
    };
    let extension_of = |parts: &[Vec<u8>]| asking(tlv(SEQUENCE, parts.concat()));
    let outer = |more: &[u8]| {
        let content = [&good[4..], more].concat();
        tlv(SEQUENCE, content)
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a longer length of all", respelled(&good, &[0x83, 0])),
        (
            "a longer length of the subject",
            info(&[&version, &[0x30, 0x81, 0], &spki, &attributes]),
        ),
        (
            "a length of the names with a zero before",
            asking(extension(SAN, respelled(&list, &[0x83, 0]))),
        ),
        (
            "an indefinite length",
            asking(extension(SAN, [&[0x30, 0x80], &list[2..], &[0, 0]].concat())),
        ),
        ("something after the signature", outer(&evil_list)),
        (
            "something after the attributes",
            info(&[&version, &subject, &spki, &attributes, &tlv(0xa0, &evil)]),
        ),
        (
            "something after the subject's sets",
            info(&[&version, &tlv(SEQUENCE, [5, 0]), &spki, &attributes]),
        ),
        (
            "something after the names",
            asking(extension(SAN, [list.clone(), evil_list.clone()].concat())),
        ),
        ("something after the extension's value", {
            extension_of(&[oid(SAN), tlv(OCTETS, &list), tlv(OCTETS, &evil_list)])
        }),
        (
            "something after the attribute's set",
            request(&tlv(SET, tlv(SEQUENCE, &evil))),
        ),
        (
            "an empty set",
            with_attributes(
                &key,
                &[tlv(SEQUENCE, [oid(EXTENSION_REQUEST), tlv(SET, [])].concat())],
            ),
        ),
        (
            "a FALSE that DER leaves out",
            extension_of(&[oid(SAN), vec![1, 1, 0], tlv(OCTETS, &list)]),
        ),
        (
            "a TRUE of BER",
            extension_of(&[oid(SAN), vec![1, 1, 1], tlv(OCTETS, &list)]),
        ),
        ("a host in pieces", asking(san(&[tlv(0xa2, tlv(IA5, HOST))]))),
        ("a host with a tag of its own", asking(san(&[tlv(IA5, HOST)]))),
        (
            "a long tag",
            asking(san(&[[&[0x9f, 0x22], &tlv(DNS_NAME, HOST)[1..]].concat()])),
        ),
        ("no names at all", asking(san(&[]))),
        ("version 1", info(&[&[2, 1, 1], &subject, &spki, &attributes])),
        ("no version", info(&[&subject, &spki, &attributes])),
        ("no attributes", info(&[&version, &subject, &spki])),
    ];
    for (case, csr) in cases {
        desk.refuses(case, &csr, "").await;
    }
    desk.closes(&good).await;
}

#[tokio::test]
async fn c905_k10_attributes_of_the_request_are_refused_unless_known_to_be_harmless() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let names = extension_attribute(EXTENSION_REQUEST, &[san_of(&[HOST])]);
    let other = |id: &[u64], value: Vec<u8>| tlv(SEQUENCE, [oid(id), tlv(SET, value)].concat());
    let cases: [(&str, Vec<u8>); 4] = [
        (
            "a name without structure",
            other(UNSTRUCTURED_NAME, tlv(IA5, "evil.example.com")),
        ),
        ("an e-mail address", other(EMAIL, tlv(IA5, "a@example.com"))),
        (
            "unknown",
            other(&[1, 2, 3, 4], tlv(SEQUENCE, san_of(&["evil.example.com"]))),
        ),
        (
            "a second extensionRequest",
            extension_attribute(EXTENSION_REQUEST, &[]),
        ),
    ];
    for (case, attribute) in cases {
        let csr = with_attributes(&key, &[names.clone(), attribute]);
        desk.refuses(case, &csr, "").await;
    }
    let harmless = [
        other(CHALLENGE_PASSWORD, tlv(UTF8, "secret")),
        names,
        other(&[1, 3, 6, 1, 4, 1, 311, 13, 2, 3], tlv(IA5, "10.0.20348.2")),
        other(
            &[1, 3, 6, 1, 4, 1, 311, 21, 20],
            tlv(SEQUENCE, tlv(UTF8, "host.internal")),
        ),
    ];
    desk.closes(&with_attributes(&key, &harmless)).await;
}

#[tokio::test]
async fn c905_however_long_an_unknown_object_identifier_is_the_answer_is_short() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let long: Vec<u64> = [1, 2]
        .into_iter()
        .chain(std::iter::repeat_n(100, 20_000))
        .collect();
    let host = || san_of(&[HOST]);
    let subject = Draft {
        subject: vec![attribute(&long, UTF8, "x")],
        ..Draft::of(&[HOST])
    };
    let of_request = [
        extension_attribute(EXTENSION_REQUEST, &[host()]),
        extension_attribute(&long, &[host()]),
    ];
    for (case, csr) in [
        ("subject", subject.sign(&key)),
        ("attribute", with_attributes(&key, &of_request)),
        (
            "extension",
            Draft::with_extensions(&[host(), extension(&long, [5, 0])]).sign(&key),
        ),
    ] {
        let answer = desk.refuses(case, &csr, "1.2.100.100").await;
        assert!(answer.body.len() < 1000, "{case}: {}", answer.body.len());
    }
    desk.closes(&Draft::of(&[HOST]).sign(&key)).await;
}

#[tokio::test]
async fn c903_k8_a_subject_holds_no_other_name_in_any_type_or_place() {
    let long = format!("{}.{}.example.com", "a".repeat(40), "b".repeat(20));
    let desk = Desk::open(&[HOST, &long]).await;
    let key = Key::new();
    let good = || Draft::of(&[HOST, &long]);
    let utf16: Vec<u8> = HOST.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let utf32: Vec<u8> = HOST.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
    // Even the right name is refused in a type that two readers might read in two ways.
    for (case, tag, text) in [
        ("BMPString", BMP, utf16),
        ("UniversalString", UNIVERSAL, utf32),
        ("TeletexString", TELETEX, HOST.into()),
        ("NumericString", NUMERIC, HOST.into()),
        ("VisibleString", VISIBLE, HOST.into()),
        ("OCTET STRING", OCTETS, HOST.into()),
        ("a UTF8String in pieces", UTF8 | 0x20, tlv(UTF8, HOST)),
        ("no UTF-8", UTF8, b"www.example.com\xff".to_vec()),
    ] {
        desk.refuses(case, &good().named(tag, text).sign(&key), "common name must be")
            .await;
    }
    assert_eq!(long.len(), 73);
    desk.refuses(
        "an ordered name of more than 64 characters",
        &good().named(UTF8, &long).sign(&key),
        "longer than 64",
    )
    .await;
    let pair = |id: &[u64], tag: u8, value: &str| tlv(SEQUENCE, [oid(id), tlv(tag, value)].concat());
    let set = |pairs: &[Vec<u8>]| tlv(SET, pairs.concat());
    let name = pair(COMMON_NAME, UTF8, HOST);
    let subjects: [(&str, Vec<Vec<u8>>, &str); 7] = [
        (
            "two common names in one set",
            vec![set(&[name.clone(), pair(COMMON_NAME, UTF8, "evil.example.com")])],
            "more than one",
        ),
        (
            "an empty one and another",
            vec![
                set(&[pair(COMMON_NAME, UTF8, "")]),
                set(&[pair(COMMON_NAME, UTF8, "evil.example.com")]),
            ],
            "more than one",
        ),
        (
            "an e-mail address beside it",
            vec![set(&[name.clone(), pair(EMAIL, IA5, "a@example.com")])],
            "e-mail",
        ),
        (
            "an unstructured name",
            vec![attribute(UNSTRUCTURED_NAME, IA5, "evil.example.com")],
            "not allowed",
        ),
        (
            "domain components",
            vec![attribute(&[0, 9, 2342, 19_200_300, 100, 1, 25], IA5, "evil")],
            "not allowed",
        ),
        (
            "a user's id",
            vec![attribute(&[0, 9, 2342, 19_200_300, 100, 1, 1], UTF8, "root")],
            "not allowed",
        ),
        (
            "a set that ends early",
            vec![tlv(SET, [name.as_slice(), &[0]].concat())],
            "not the DER",
        ),
    ];
    for (case, subject, words) in subjects {
        desk.refuses(case, &Draft { subject, ..good() }.sign(&key), words)
            .await;
    }
    let subject = vec![
        attribute(&[2, 5, 4, 6], PRINTABLE, "DE"),
        attribute(&[2, 5, 4, 10], UTF8, "Example, Ltd"),
        set(&[name, pair(&[2, 5, 4, 11], UTF8, "Web")]),
    ];
    desk.closes(&Draft { subject, ..good() }.sign(&key)).await;
}

#[tokio::test]
async fn c904_c907_k7_k10_addresses_and_usages_have_one_form() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let mapped = [&[0; 10][..], &[0xff, 0xff, 10, 0, 0, 1]].concat();
    let addresses: [(&str, &[u8]); 6] = [
        ("5 octets", &[10, 0, 0, 1, 0]),
        ("an address with its mask", &[10, 0, 0, 0, 255, 0, 0, 0]),
        ("no octets", &[]),
        ("IPv4 inside IPv6", &mapped),
        ("the text of an address", b"10.0.0.1"),
        ("another address than a host", &[10, 0, 0, 1]),
    ];
    for (case, octets) in addresses {
        let csr = Draft::with_extensions(&[san(&[tlv(DNS_NAME, HOST), tlv(0x87, octets)])]).sign(&key);
        desk.refuses(case, &csr, "").await;
    }
    let usage = |bits: &[u8]| extension(KEY_USAGE, tlv(BITS, bits));
    let constraints = |content: &[u8]| extension(BASIC_CONSTRAINTS, tlv(SEQUENCE, content));
    let ca = "a CA's certificate";
    let wider: [(&str, Vec<u8>, &str); 9] = [
        ("a path length", constraints(&[2, 1, 0]), ca),
        ("CA:TRUE of BER", constraints(&[1, 1, 1]), ca),
        ("CA:FALSE and more", constraints(&[1, 1, 0, 1, 1, 0xff]), ca),
        ("key usage without bits", usage(&[0]), "not the DER"),
        (
            "key usage in bits that are not used",
            usage(&[2, 0x81]),
            "not the DER",
        ),
        (
            "key usage in a second byte that is not used",
            usage(&[7, 0x80, 0x40]),
            "not the DER",
        ),
        (
            "key usage and more",
            extension(KEY_USAGE, [3, 2, 7, 0x80, 5, 0]),
            "not the DER",
        ),
        (
            "another feature of TLS",
            extension(&[1, 3, 6, 1, 5, 5, 7, 1, 24], tlv(SEQUENCE, [2, 1, 17])),
            "not allowed",
        ),
        (
            "issuerAltName",
            extension(&[2, 5, 29, 18], tlv(SEQUENCE, tlv(DNS_NAME, "evil.example.com"))),
            "not allowed",
        ),
    ];
    for (case, more, words) in wider {
        let csr = Draft::with_extensions(&[san_of(&[HOST]), more]).sign(&key);
        desk.refuses(case, &csr, words).await;
    }
    let usage = usage(&[7, 0x80]);
    let twice = Draft::with_extensions(&[san_of(&[HOST]), usage.clone(), usage.clone()]).sign(&key);
    desk.refuses("the same extension twice", &twice, "extension twice")
        .await;
    let san_critical = critical(SAN, &tlv(SEQUENCE, tlv(DNS_NAME, HOST)));
    desk.closes(&Draft::with_extensions(&[san_critical, usage]).sign(&key))
        .await;
}

#[tokio::test]
async fn c908_c909_k5_keys_and_signatures_have_one_encoding() {
    let desk = Desk::open(&[HOST]).await;
    let (key, rsa) = (Key::new(), Key::generate("RS256"));
    let good = Draft::of(&[HOST]);
    let modulus = unb64(rsa.jwk["n"].as_str().unwrap());
    let rsa_oid = &[1, 2, 840, 113_549, 1, 1, 1];
    let rsa_key = |kind: Vec<u8>, numbers: &[&[u8]], more: &[u8]| {
        let numbers: Vec<Vec<u8>> = numbers.iter().map(|number| tlv(2, number)).collect();
        let bits = [&[0], tlv(SEQUENCE, numbers.concat()).as_slice(), more].concat();
        tlv(SEQUENCE, [kind, tlv(BITS, bits)].concat())
    };
    let positive = [&[0], modulus.as_slice()].concat();
    let longer = [&[0, 0], modulus.as_slice()].concat();
    let e: &[u8] = &[1, 0, 1];
    let plain = || algorithm(rsa_oid, true);
    let pss = || algorithm(&[1, 2, 840, 113_549, 1, 1, 10], false);
    let spkis: [(&str, Vec<u8>); 7] = [
        (
            "no NULL",
            rsa_key(algorithm(rsa_oid, false), &[&positive, e], &[]),
        ),
        ("a negative modulus", rsa_key(plain(), &[&modulus, e], &[])),
        (
            "a modulus with zeros before",
            rsa_key(plain(), &[&longer, e], &[]),
        ),
        (
            "an exponent with zeros before",
            rsa_key(plain(), &[&positive, &[0, 1, 0, 1]], &[]),
        ),
        ("a third number", rsa_key(plain(), &[&positive, e, &[1]], &[])),
        (
            "something after the numbers",
            rsa_key(plain(), &[&positive, e], &[5, 0]),
        ),
        ("a key for RSA-PSS only", rsa_key(pss(), &[&positive, e], &[])),
    ];
    for (case, spki) in spkis {
        let draft = Draft {
            spki: Some(spki),
            ..good.clone()
        };
        desk.refuses(case, &draft.sign(&rsa), "").await;
    }
    let curve = [
        oid(&[1, 2, 840, 10_045, 2, 1]),
        oid(&[1, 2, 840, 10_045, 3, 1, 7]),
    ]
    .concat();
    let point = key.pair.public_key_raw().to_vec();
    let ec_key = |curve: &[u8], unused: u8, point: &[u8]| {
        tlv(
            SEQUENCE,
            [tlv(SEQUENCE, curve), tlv(BITS, [&[unused], point].concat())].concat(),
        )
    };
    let hybrid = [&[6 | point[64] & 1], &point[1..]].concat();
    let spkis: [(&str, Vec<u8>); 5] = [
        ("the point at infinity", ec_key(&curve, 0, &[0])),
        ("the hybrid form", ec_key(&curve, 0, &hybrid)),
        (
            "something after the point",
            ec_key(&curve, 0, &[point.as_slice(), &[0]].concat()),
        ),
        ("unused bits", ec_key(&curve, 1, &point)),
        (
            "something after the curve",
            ec_key(&[curve.as_slice(), &[5, 0]].concat(), 0, &point),
        ),
    ];
    for (case, spki) in spkis {
        let draft = Draft {
            spki: Some(spki),
            ..good.clone()
        };
        desk.refuses(case, &draft.sign(&key), "").await;
    }
    let signed = good.sign(&key);
    let oddly = |id: &[u64], parameters: &[u8]| Draft {
        algorithm: Some(tlv(SEQUENCE, [oid(id).as_slice(), parameters].concat())),
        ..good.clone()
    };
    let ecdsa = &[1, 2, 840, 10_045, 4, 3, 2];
    desk.refuses("two parameters", &oddly(ecdsa, &[5, 0, 5, 0]).sign(&key), "")
        .await;
    desk.closes(&signed).await;
}
