//! The certificate itself, byte for byte: C702 to C705.

use rcgen::CertifiedIssuer;
use rcgen::PublicKeyData;
use rcgen::SigningKey;

use super::*;

const KEY_AUTHORIZATION: &str = "token.thumbprint";

const SEQUENCE: u8 = 0x30;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const SAN: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const ID_PE_ACME_IDENTIFIER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 31];
const DRAFT_ACME_IDENTIFIER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 30, 1];

/// Tag, length and value, the length in its shortest form.
fn tlv(tag: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let length = u16::try_from(value.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, value].concat()
}

/// Not the shortest form.
fn long_form(tag: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let length = u8::try_from(value.as_ref().len()).unwrap();
    [&[tag, 0x82, 0, length], value.as_ref()].concat()
}

/// One extension; `critical` is the value of its BOOLEAN, if it has one.
fn extension(id: &[u8], critical: Option<u8>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let critical = critical.map_or_else(Vec::new, |value| vec![1, 1, value]);
    tlv(SEQUENCE, [tlv(6, id), critical, tlv(4, value)].concat())
}

fn san(names: &[Vec<u8>]) -> Vec<u8> {
    extension(SAN, None, tlv(SEQUENCE, names.concat()))
}

fn good_san() -> Vec<u8> {
    san(&[tlv(DNS_NAME, NAME)])
}

fn acme_identifier(value: impl AsRef<[u8]>) -> Vec<u8> {
    extension(ID_PE_ACME_IDENTIFIER, Some(0xff), value)
}

fn good_value() -> Vec<u8> {
    tlv(4, sha256(KEY_AUTHORIZATION))
}

fn good_identifier() -> Vec<u8> {
    acme_identifier(good_value())
}

/// A certificate with these extensions, signed by its own key.
fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    let (_, tbs) = Any::from_der(parsed.tbs_certificate.as_ref()).unwrap();
    let mut fields = Vec::new();
    let mut rest = tbs.data;
    while !rest.is_empty() && rest[0] != 0xa3 {
        let (after, _) = Any::from_der(rest).unwrap();
        fields.extend_from_slice(&rest[..rest.len() - after.len()]);
        rest = after;
    }
    fields.extend(tlv(0xa3, tlv(SEQUENCE, extensions.concat())));
    signed(tlv(SEQUENCE, fields), &key)
}

/// The rest around the part that is signed, with ECDSA and SHA-256.
fn signed(tbs: Vec<u8>, key: &KeyPair) -> Vec<u8> {
    let algorithm = tlv(SEQUENCE, tlv(6, [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
    let signature = [vec![0], key.sign(&tbs).unwrap()].concat();
    tlv(SEQUENCE, [tbs, algorithm, tlv(3, signature)].concat())
}

fn check_for(identifier: &Identifier, certificate: &[u8]) -> Result<(), BadCertificate> {
    check_certificate(certificate, identifier, KEY_AUTHORIZATION)
}

fn check(certificate: &[u8]) -> Result<(), BadCertificate> {
    check_for(&Identifier::dns(NAME).unwrap(), certificate)
}

fn name(text: &str) -> Identifier {
    Identifier::dns(text).unwrap()
}

fn address(text: &str) -> Identifier {
    Identifier::ip(text).unwrap()
}

#[test]
fn a_certificate_with_the_one_name_and_the_digest_is_accepted() {
    assert_eq!(check(&with_extensions(&[good_san(), good_identifier()])), Ok(()));
    // In any order, among others.
    let others = [
        good_identifier(),
        extension(BASIC_CONSTRAINTS, None, tlv(SEQUENCE, [])),
        good_san(),
    ];
    assert_eq!(check(&with_extensions(&others)), Ok(()));
}

#[test]
fn certificates_as_clients_make_them_are_accepted_whatever_the_algorithm() {
    let algorithms = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA512,
        &rcgen::PKCS_ED25519,
    ];
    let params = params(dns(NAME), KEY_AUTHORIZATION);
    for algorithm in algorithms {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(check(certificate.der()), Ok(()), "{algorithm:?}");
    }
}

#[test]
fn c702_the_case_of_letters_does_not_matter_in_a_name_of_any_length() {
    let longest = format!("{}{}.example.com", "a".repeat(60), ".bb".repeat(60));
    for text in [NAME, "a.bc", &format!("{}.com", "a.b".repeat(40)), &longest] {
        let upper = text.to_ascii_uppercase();
        let certificate = with_extensions(&[san(&[tlv(DNS_NAME, upper)]), good_identifier()]);
        assert_eq!(check_for(&name(text), &certificate), Ok(()), "{text}");
    }
}

#[test]
fn c702_any_other_subject_alternative_name_is_refused() {
    let right = || tlv(DNS_NAME, NAME);
    let with = |other: Vec<u8>| tlv(SEQUENCE, [right(), other].concat());
    let only = |tag: u8, text: &str| tlv(SEQUENCE, tlv(tag, text));
    let other_name = [tlv(6, [0x2b, 6, 1]), tlv(0xa0, tlv(12, "x"))].concat();
    let values = [
        ("two names", with(tlv(DNS_NAME, "b.example.com"))),
        ("the name twice", with(right())),
        ("the other name first", {
            tlv(SEQUENCE, [tlv(DNS_NAME, "b.example.com"), right()].concat())
        }),
        ("an address as well", with(tlv(IP_ADDRESS, [127, 0, 0, 2]))),
        ("an otherName as well", with(tlv(0xa0, other_name))),
        ("a URI as well", with(tlv(0x86, "http://b.example.com"))),
        (
            "a tag that nobody knows as well",
            with(tlv(0x8a, "b.example.com")),
        ),
        ("another name", only(DNS_NAME, "b.example.com")),
        ("a wildcard", only(DNS_NAME, "*.example.com")),
        ("a wildcard below", only(DNS_NAME, "*.www.example.com")),
        ("a final dot", only(DNS_NAME, "www.example.com.")),
        ("a leading dot", only(DNS_NAME, ".www.example.com")),
        ("a parent", only(DNS_NAME, "example.com")),
        ("a child", only(DNS_NAME, "a.www.example.com")),
        ("a longer one", only(DNS_NAME, "www.example.com.evil.example")),
        ("a zero byte", only(DNS_NAME, "www.example.com\0")),
        ("a space", only(DNS_NAME, "www.example.com ")),
        ("as an e-mail address", only(0x81, NAME)),
        ("as a URI", only(0x86, NAME)),
        ("as an address", only(IP_ADDRESS, NAME)),
        ("empty", tlv(SEQUENCE, [])),
        ("no sequence", right()),
        ("nothing", Vec::new()),
        ("bytes after it", [with(Vec::new()), vec![0]].concat()),
        ("a second sequence", [with(Vec::new()), with(Vec::new())].concat()),
        ("a length in long form", long_form(SEQUENCE, right())),
        (
            "a name's length in long form",
            tlv(SEQUENCE, long_form(DNS_NAME, NAME)),
        ),
        (
            "a constructed name",
            tlv(SEQUENCE, tlv(DNS_NAME | 0x20, tlv(22, NAME))),
        ),
    ];
    for (case, value) in values {
        let certificate = with_extensions(&[extension(SAN, None, value), good_identifier()]);
        assert_eq!(check(&certificate), Err(BadCertificate::OtherName), "{case}");
    }
}

#[test]
fn c702_a_common_name_is_no_subject_alternative_name() {
    let mut params = params(dns(NAME), KEY_AUTHORIZATION);
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.subject_alt_names.clear();
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(check(certificate.der()), Err(BadCertificate::NoName));
}

#[test]
fn an_address_is_4_or_16_octets_and_no_name() {
    let v6 = "2001:db8::41";
    let octets = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for text in ["127.0.0.2", "10.0.0.65", v6, "::1"] {
        let certificate = with_extensions(&[san(&[tlv(IP_ADDRESS, octets(text))]), good_identifier()]);
        assert_eq!(check_for(&address(text), &certificate), Ok(()), "{text}");
        assert_eq!(check(&certificate), Err(BadCertificate::OtherName), "{text}");
    }
    let others = [
        // 65 and 97 are the two cases of one letter.
        ("10.0.0.65", tlv(IP_ADDRESS, [10, 0, 0, 97])),
        ("10.0.0.65", tlv(IP_ADDRESS, octets("::ffff:10.0.0.65"))),
        ("10.0.0.65", tlv(IP_ADDRESS, [10, 0, 0, 65, 255, 255, 255, 255])),
        ("10.0.0.65", tlv(IP_ADDRESS, "10.0.0.65")),
        ("10.0.0.65", tlv(DNS_NAME, "10.0.0.65")),
        ("10.0.0.65", tlv(DNS_NAME, "65.0.0.10.in-addr.arpa")),
        (
            "10.0.0.65",
            [tlv(IP_ADDRESS, [10, 0, 0, 65]), tlv(DNS_NAME, NAME)].concat(),
        ),
        (v6, tlv(IP_ADDRESS, octets("2001:db8::61"))),
        (v6, tlv(IP_ADDRESS, [10, 0, 0, 65])),
        (v6, tlv(DNS_NAME, v6)),
    ];
    for (text, general_names) in others {
        let certificate = with_extensions(&[san(&[general_names]), good_identifier()]);
        assert_eq!(
            check_for(&address(text), &certificate),
            Err(BadCertificate::OtherName),
            "{text}"
        );
    }
}

#[test]
fn a_wildcard_has_no_certificate() {
    let certificate = with_extensions(&[san(&[tlv(DNS_NAME, "*.example.com")]), good_identifier()]);
    assert_eq!(
        check_for(&name("*.example.com"), &certificate),
        Err(BadCertificate::OtherName)
    );
}

#[test]
fn c703_any_other_acme_identifier_is_refused() {
    use BadCertificate::*;
    let right = sha256(KEY_AUTHORIZATION);
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, KEY_AUTHORIZATION.as_bytes());
    let of = |value: Vec<u8>| vec![acme_identifier(value)];
    let cases = [
        ("none", vec![], NoDigest),
        (
            "the draft's, 1.3.6.1.5.5.7.1.30.1",
            vec![extension(DRAFT_ACME_IDENTIFIER, Some(0xff), good_value())],
            NoDigest,
        ),
        (
            "not critical",
            vec![extension(ID_PE_ACME_IDENTIFIER, None, good_value())],
            NotCritical,
        ),
        (
            "critical, but false",
            vec![extension(ID_PE_ACME_IDENTIFIER, Some(0), good_value())],
            NotCritical,
        ),
        (
            "critical, in BER's way",
            vec![extension(ID_PE_ACME_IDENTIFIER, Some(1), good_value())],
            Unreadable,
        ),
        (
            "twice",
            vec![good_identifier(), good_identifier()],
            RepeatedExtension,
        ),
        (
            "twice, the wrong one first",
            vec![acme_identifier(tlv(4, [0; 32])), good_identifier()],
            RepeatedExtension,
        ),
        ("31 bytes", of(tlv(4, &right[..31])), NoSha256),
        (
            "33 bytes",
            of(tlv(4, [right.as_slice(), &[0]].concat())),
            NoSha256,
        ),
        ("no bytes", of(tlv(4, [])), NoSha256),
        ("nothing", of(Vec::new()), NoSha256),
        ("not wrapped", of(right.clone()), NoSha256),
        ("wrapped twice", of(tlv(4, good_value())), NoSha256),
        ("as a BIT STRING", of(tlv(3, &right)), NoSha256),
        ("constructed", of(tlv(0x24, tlv(4, &right))), NoSha256),
        ("a length in long form", of(long_form(4, &right)), NoSha256),
        (
            "the indefinite form",
            of([&[0x24, 0x80], good_value().as_slice(), &[0, 0]].concat()),
            NoSha256,
        ),
        (
            "bytes after it",
            of([good_value().as_slice(), &[0]].concat()),
            NoSha256,
        ),
        ("a SHA-1 digest", of(tlv(4, sha1.as_ref())), NoSha256),
        ("in hexadecimal", of(tlv(4, "a".repeat(64))), NoSha256),
        (
            "another digest",
            of(tlv(4, sha256("other.thumbprint"))),
            OtherDigest,
        ),
        (
            "the digest of the digest",
            of(tlv(4, digest::digest(&digest::SHA256, &right))),
            OtherDigest,
        ),
        (
            "the wrapper in long form",
            vec![long_form(
                SEQUENCE,
                [
                    tlv(6, ID_PE_ACME_IDENTIFIER),
                    vec![1, 1, 0xff],
                    tlv(4, good_value()),
                ]
                .concat(),
            )],
            Unreadable,
        ),
        (
            "the outer OCTET STRING in long form",
            vec![tlv(
                SEQUENCE,
                [
                    tlv(6, ID_PE_ACME_IDENTIFIER),
                    vec![1, 1, 0xff],
                    long_form(4, good_value()),
                ]
                .concat(),
            )],
            Unreadable,
        ),
    ];
    for (case, identifiers, expected) in cases {
        let certificate = with_extensions(&[vec![good_san()], identifiers].concat());
        assert_eq!(check(&certificate), Err(expected), "{case}");
    }
}

#[test]
fn c703_no_extension_may_stand_twice() {
    let basic = || extension(BASIC_CONSTRAINTS, None, tlv(SEQUENCE, []));
    for repeated in [good_san(), basic(), san(&[tlv(DNS_NAME, "b.example.com")])] {
        let certificate = with_extensions(&[good_san(), basic(), good_identifier(), repeated]);
        assert_eq!(check(&certificate), Err(BadCertificate::RepeatedExtension));
    }
}

#[test]
fn c704_a_certificate_that_another_signed_is_refused() {
    let key = KeyPair::generate().unwrap();
    let other = || KeyPair::generate().unwrap();
    let params = params(dns(NAME), KEY_AUTHORIZATION);
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "A \"CA\"");
    let issued_by = |issuer: &CertificateParams, issuer_key: KeyPair| {
        let issuer = CertifiedIssuer::self_signed(issuer.clone(), issuer_key).unwrap();
        check(params.signed_by(&key, &issuer).unwrap().der())
    };
    assert_eq!(issued_by(&authority, other()), Err(BadCertificate::NotSelfSigned));
    // In its own name with another key, and in another name with its own key.
    assert_eq!(issued_by(&params, other()), Err(BadCertificate::Signature));
    let own = KeyPair::try_from(key.serialize_der()).unwrap();
    assert_eq!(issued_by(&authority, own), Err(BadCertificate::NotSelfSigned));
}

#[test]
fn c705_what_is_no_certificate_is_refused() {
    let good = with_extensions(&[good_san(), good_identifier()]);
    for length in 0..good.len() {
        assert_eq!(
            check(&good[..length]),
            Err(BadCertificate::Unreadable),
            "{length}"
        );
    }
    let nested = (0..5000).fold(Vec::new(), |inner, _| tlv(SEQUENCE, inner));
    let zeros = vec![0; 65_536];
    for bytes in [[good.as_slice(), &[0]].concat(), good.repeat(2), nested, zeros] {
        assert_eq!(check(&bytes), Err(BadCertificate::Unreadable));
    }
}

#[test]
fn c705_each_bit_that_is_signed_counts_and_each_of_the_signature() {
    let good = with_extensions(&[good_san(), good_identifier()]);
    let (_, parsed) = X509Certificate::from_der(&good).unwrap();
    let signed = 4..4 + parsed.tbs_certificate.as_ref().len();
    let signature = good.len() - parsed.signature_value.data.len()..good.len();
    for position in signed.chain(signature) {
        for bit in [0x01, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[position] ^= bit;
            assert!(check(&bad).is_err(), "bit {bit:#04x} of byte {position}");
        }
    }
    // The frame around them.
    for (position, byte) in [(0, 0x10), (signature_head(&good), 0x23)] {
        let mut bad = good.clone();
        bad[position] = byte;
        assert_eq!(check(&bad), Err(BadCertificate::Unreadable), "{position}");
    }
    let mut short = good.clone();
    short[signature_head(&good) + 2] = 1;
    assert_eq!(check(&short), Err(BadCertificate::Unreadable));
}

/// Where the BIT STRING of the signature begins.
fn signature_head(certificate: &[u8]) -> usize {
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    certificate.len() - parsed.signature_value.data.len() - 3
}

/// A key that signs with nonsense.
struct Impostor {
    key: Vec<u8>,
    signature: Vec<u8>,
}

impl PublicKeyData for Impostor {
    fn der_bytes(&self) -> &[u8] {
        &self.key
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for Impostor {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signature.clone())
    }
}

#[test]
fn c705_keys_of_an_absurd_size_are_not_used() {
    let params = params(dns(NAME), KEY_AUTHORIZATION);
    // RSA with 512, 16,384 and some 250,000 bits, and with an exponent as long as the modulus.
    for (modulus, exponent) in [(64, 3), (2048, 3), (31_000, 3), (2048, 2048)] {
        let number = |length: usize| tlv(2, vec![0x7f; length]);
        let impostor = Impostor {
            key: tlv(SEQUENCE, [number(modulus), number(exponent)].concat()),
            signature: vec![1; modulus],
        };
        let certificate = params.self_signed(&impostor).unwrap();
        assert_eq!(check(certificate.der()), Err(BadCertificate::Signature));
    }
}

#[test]
fn c705_unknown_curves_and_algorithms_are_named_as_such() {
    let large = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let params = params(dns(NAME), KEY_AUTHORIZATION);
    let certificate = params.self_signed(&large).unwrap();
    assert_eq!(check(certificate.der()), Err(BadCertificate::Algorithm));
    let mut unknown = with_extensions(&[good_san(), good_identifier()]);
    let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let curve = unknown.windows(8).position(|eight| eight == p256).unwrap();
    unknown[curve + 7] = 0x70;
    assert_eq!(check(&unknown), Err(BadCertificate::Algorithm));
}

#[test]
fn c705_dates_do_not_matter() {
    let mut params = params(dns(NAME), KEY_AUTHORIZATION);
    for (from, to) in [(1990, 1991), (1975, 4096), (3000, 3001)] {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(check(certificate.der()), Ok(()), "{from} to {to}");
    }
}
