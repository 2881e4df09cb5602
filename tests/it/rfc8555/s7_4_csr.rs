//! RFC 8555 §7.4: certificate requests that must not reach the CA (CONFORMANCE K4 to K10, SECURITY C901 to C909).

mod compromised;
mod strict;

use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::client::{Client, Order};
use crate::harness::csr::{
    BMP, COMMON_NAME, DNS_NAME, Draft, EXTENSION_REQUEST, IA5, MICROSOFT_EXTENSIONS, OCTETS, PRINTABLE,
    SEQUENCE, UTF8, algorithm, attribute, extension, extension_attribute, oid, rsa_spki, san, san_of, tlv,
};
use crate::harness::key::{Key, b64};
use crate::harness::server::Daemon;

pub(crate) const HOST: &str = "www.example.com";

/// An account with a ready order, to which bad requests are sent.
pub(crate) struct Desk {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    order: Order,
}

impl Desk {
    pub(crate) async fn open(names: &[&str]) -> Self {
        Self::at(Daemon::start().await, names).await
    }

    /// At a daemon that has been started already.
    pub(crate) async fn at(daemon: Daemon, names: &[&str]) -> Self {
        let client = daemon.account().await;
        let order = client.ready(&daemon, names).await;
        Self {
            daemon,
            client,
            order,
        }
    }

    /// Hands in a request that must be refused for the reason that these words tell, and must leave no trace.
    pub(crate) async fn refuses(&self, case: &str, csr: &[u8], words: &str) -> Answer {
        let answer = self.client.finalize(&self.order, csr).await;
        assert_eq!(answer.status, 400, "{case}: {}", answer.shown());
        let problem = answer.problem(400, "badCSR");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{case}: {detail}");
        assert_eq!(
            self.client.look(&self.order.url).await["status"],
            "ready",
            "{case}"
        );
        answer
    }

    /// In the end the CA has heard nothing, and the good request is taken.
    pub(crate) async fn closes(self, good: &[u8]) {
        assert_eq!(
            self.daemon.ca.stats().orders_opened,
            0,
            "a refused request reached the CA"
        );
        self.client.finalize(&self.order, good).await.expect(200);
        self.client.until(&self.order.url, "valid").await;
    }
}

/// An extension that is critical.
pub(crate) fn critical(id: &[u64], value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, [oid(id), vec![1, 1, 0xff], tlv(OCTETS, value)].concat())
}

#[tokio::test]
async fn c901_k4_a_csr_that_is_not_one_der_request_is_refused() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let good = Draft::of(&[HOST]).sign(&key);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n", b64(&good));
    desk.refuses("PEM", pem.as_bytes(), "PEM").await;
    desk.refuses("empty", b"", "not the DER").await;
    desk.refuses("zeros", &[0; 20_000], "not the DER").await;
    desk.refuses("cut off", &good[..good.len() - 1], "not the DER")
        .await;
    desk.refuses("trailing bytes", &[good.as_slice(), &[0]].concat(), "bytes after")
        .await;
    desk.refuses("two requests", &[good.as_slice(), &good].concat(), "bytes after")
        .await;
    let nested = (0..5000).fold(Vec::new(), |inner, _| tlv(SEQUENCE, inner));
    desk.refuses("nested", &nested, "not the DER").await;
    desk.closes(&good).await;
}

#[tokio::test]
async fn c902_k6_a_csr_must_name_exactly_the_orders_hosts() {
    let desk = Desk::open(&[HOST, "mail.example.com"]).await;
    let key = Key::new();
    let names = [HOST, "mail.example.com"];
    let cases: [(&str, &[&str], &str); 6] = [
        ("one missing", &[HOST], "does not name mail.example.com"),
        ("one missing, the other twice", &[HOST, HOST], "does not name"),
        (
            "one more",
            &[HOST, "mail.example.com", "evil.example.com"],
            "evil.example.com",
        ),
        ("one exchanged", &[HOST, "evil.example.com"], "evil.example.com"),
        ("a wildcard", &["*.example.com"], "*.example.com"),
        (
            "all other",
            &["a.example.org", "b.example.org"],
            "not in the order",
        ),
    ];
    for (case, hosts, words) in cases {
        desk.refuses(case, &Draft::of(hosts).sign(&key), words).await;
    }
    desk.refuses("none", &Draft::with_extensions(&[]).sign(&key), "no host")
        .await;
    desk.refuses("an empty list", &Draft::of(&[]).sign(&key), "")
        .await;
    desk.refuses(
        "common name only",
        &Draft::with_extensions(&[]).named(UTF8, HOST).sign(&key),
        "does not name",
    )
    .await;
    let good = Draft::of(&["MAIL.example.com", "Www.Example.Com", names[0]]);
    desk.closes(&good.named(PRINTABLE, "WWW.example.com").sign(&key))
        .await;
}

#[tokio::test]
async fn c903_k8_common_names_count_as_names_in_whatever_form() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let good = || Draft::of(&[HOST]);
    let bmp: Vec<u8> = "evil.example.com"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let cases: [(&str, Vec<u8>, &str); 8] = [
        (
            "not in the order",
            good().named(UTF8, "evil.example.com").sign(&key),
            "evil.example.com",
        ),
        ("BMPString", good().named(BMP, bmp).sign(&key), "common name"),
        ("address", good().named(UTF8, "10.0.0.1").sign(&key), "IP address"),
        (
            "65 characters",
            good().named(UTF8, "a".repeat(65)).sign(&key),
            "common name",
        ),
        (
            "comma",
            good().named(UTF8, "www.example.com,evil.example.com").sign(&key),
            "no host name",
        ),
        (
            "newline",
            good().named(UTF8, "www.example.com\nevil.example.com").sign(&key),
            "no host name",
        ),
        (
            "NUL",
            good().named(IA5, "www.example.com\0.evil.example.com").sign(&key),
            "no host name",
        ),
        (
            "words",
            good().named(UTF8, "Example Ltd").sign(&key),
            "no host name",
        ),
    ];
    for (case, csr, words) in cases {
        desk.refuses(case, &csr, words).await;
    }
    let name = |host: &str| attribute(COMMON_NAME, UTF8, host);
    let two = Draft {
        subject: vec![name(HOST), name("evil.example.com")],
        ..good()
    };
    desk.refuses("two", &two.sign(&key), "more than one common name")
        .await;
    let same = Draft {
        subject: vec![name(HOST), name(HOST)],
        ..good()
    };
    desk.refuses(
        "the same one twice",
        &same.sign(&key),
        "more than one common name",
    )
    .await;
    let mail = Draft {
        subject: vec![attribute(&[1, 2, 840, 113_549, 1, 9, 1], IA5, "a@example.com")],
        ..good()
    };
    desk.refuses("e-mail address", &mail.sign(&key), "e-mail").await;
    desk.closes(&good().named(UTF8, HOST).sign(&key)).await;
}

#[tokio::test]
async fn c904_k7_names_that_are_no_dns_names_are_refused() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let host = tlv(DNS_NAME, HOST);
    let upn = [
        oid(&[1, 3, 6, 1, 4, 1, 311, 20, 2, 3]),
        tlv(0xa0, tlv(UTF8, "admin@example.com")),
    ]
    .concat();
    let directory_name = tlv(SEQUENCE, attribute(COMMON_NAME, UTF8, "evil.example.com"));
    let neither = "neither a DNS name nor an IP address";
    let others: [(&str, Vec<u8>, &str); 7] = [
        ("e-mail", tlv(0x81, "a@example.com"), neither),
        ("URI", tlv(0x86, "https://www.example.com/"), neither),
        (
            "address",
            tlv(0x87, [10, 0, 0, 1]),
            "10.0.0.1, which is not in the order",
        ),
        ("otherName (UPN)", tlv(0xa0, upn), neither),
        ("directoryName", tlv(0xa4, directory_name), neither),
        ("registeredID", tlv(0x88, [42, 3, 4]), neither),
        ("x400Address", tlv(0xa3, tlv(SEQUENCE, [])), neither),
    ];
    for (case, other, words) in others {
        let csr = Draft::with_extensions(&[san(&[host.clone(), other])]).sign(&key);
        desk.refuses(case, &csr, words).await;
    }
    desk.closes(&Draft::of(&[HOST]).sign(&key)).await;
}

#[tokio::test]
async fn c905_c907_k10_extensions_that_stand_twice_or_widen_the_certificate_are_refused() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let host = || san_of(&[HOST]);
    let evil = || san_of(&["evil.example.com"]);
    let with = |attributes: Vec<Vec<u8>>| {
        let draft = Draft {
            attributes,
            ..Draft::of(&[])
        };
        draft.sign(&key)
    };
    let standard = |extensions: &[Vec<u8>]| extension_attribute(EXTENSION_REQUEST, extensions);
    let two_values = tlv(0x31, [tlv(SEQUENCE, host()), tlv(SEQUENCE, evil())].concat());
    let two_values = tlv(SEQUENCE, [oid(EXTENSION_REQUEST), two_values].concat());
    let twice: [(&str, Vec<u8>, &str); 5] = [
        (
            "two name lists",
            with(vec![standard(&[host(), evil()])]),
            "the same extension twice",
        ),
        (
            "two attributes",
            with(vec![standard(&[host()]), standard(&[evil()])]),
            "more than one extensionRequest",
        ),
        ("two values", with(vec![two_values]), "more than one value"),
        (
            "Microsoft's attribute, too",
            with(vec![
                standard(&[host()]),
                extension_attribute(MICROSOFT_EXTENSIONS, &[evil()]),
            ]),
            "Microsoft attribute",
        ),
        (
            "Microsoft's attribute first",
            with(vec![
                extension_attribute(MICROSOFT_EXTENSIONS, &[evil()]),
                standard(&[host()]),
            ]),
            "Microsoft attribute",
        ),
    ];
    for (case, csr, words) in twice {
        desk.refuses(case, &csr, words).await;
    }
    let usage = |purpose: &[u64]| extension(&[2, 5, 29, 37], tlv(SEQUENCE, oid(purpose)));
    let policy = tlv(SEQUENCE, tlv(SEQUENCE, oid(&[2, 23, 140, 1, 1])));
    let wider: [(&str, Vec<u8>); 9] = [
        ("CA:TRUE", extension(&[2, 5, 29, 19], tlv(SEQUENCE, [1, 1, 0xff]))),
        ("keyCertSign", extension(&[2, 5, 29, 15], [3, 2, 2, 4])),
        ("cRLSign", extension(&[2, 5, 29, 15], [3, 2, 1, 2])),
        ("codeSigning", usage(&[1, 3, 6, 1, 5, 5, 7, 3, 3])),
        ("anyExtendedKeyUsage", usage(&[2, 5, 29, 37, 0])),
        ("certificatePolicies", extension(&[2, 5, 29, 32], policy)),
        ("nameConstraints", extension(&[2, 5, 29, 30], tlv(SEQUENCE, []))),
        ("unknown and critical", critical(&[1, 2, 3, 4], &[5, 0])),
        ("unknown", extension(&[1, 2, 3, 4], [5, 0])),
    ];
    for (case, more) in wider {
        desk.refuses(
            case,
            &Draft::with_extensions(&[host(), more]).sign(&key),
            "asks for",
        )
        .await;
    }
    let harmless = [
        host(),
        critical(&[2, 5, 29, 19], &[0x30, 0]),
        critical(&[2, 5, 29, 15], &[3, 2, 7, 0x80]),
        usage(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
        extension(&[1, 3, 6, 1, 5, 5, 7, 1, 24], tlv(SEQUENCE, [2, 1, 5])),
    ];
    desk.closes(&Draft::with_extensions(&harmless).sign(&key)).await;
}

#[tokio::test]
async fn c906_dns_names_that_are_none_are_refused() {
    let desk = Desk::open(&[HOST]).await;
    let key = Key::new();
    let names: [&[u8]; 9] = [
        b"www.example.com\0.evil.com",
        b"www.example.com.",
        b"www.example.com ",
        b" www.example.com",
        b"\xff\xfe",
        b"",
        b"10.0.0.1",
        b"www.example.com:443",
        "wwẉ.example.com".as_bytes(),
    ];
    for name in names {
        let csr = Draft::with_extensions(&[san(&[tlv(DNS_NAME, HOST), tlv(DNS_NAME, name)])]).sign(&key);
        let words = match str::from_utf8(name) {
            Ok(_) => "no host name",
            Err(_) => "other characters than ASCII",
        };
        desk.refuses(&String::from_utf8_lossy(name), &csr, words).await;
    }
    desk.closes(&Draft::of(&[HOST]).sign(&key)).await;
}

#[tokio::test]
async fn c908_k5_signatures_that_prove_nothing_are_refused() {
    let desk = Desk::open(&[HOST]).await;
    let (key, other) = (Key::new(), Key::new());
    let good = Draft::of(&[HOST]);
    let with = |id: &[u64], null: bool| Draft {
        algorithm: Some(algorithm(id, null)),
        ..good.clone()
    };
    let tampered = Draft {
        tampered: true,
        ..good.clone()
    };
    desk.refuses("one bit off", &tampered.sign(&key), "signature")
        .await;
    let foreign = Draft {
        spki: Some(rcgen::PublicKeyData::subject_public_key_info(&other.pair)),
        ..good.clone()
    };
    desk.refuses(
        "signed by another key",
        &foreign.sign(&key),
        "signature does not verify",
    )
    .await;
    let weak: [(&str, &[u64], bool); 6] = [
        ("ECDSA with SHA-1", &[1, 2, 840, 10_045, 4, 1], false),
        ("ECDSA with SHA-224", &[1, 2, 840, 10_045, 4, 3, 1], false),
        ("RSA with SHA-1", &[1, 2, 840, 113_549, 1, 1, 5], true),
        ("RSA with MD5", &[1, 2, 840, 113_549, 1, 1, 4], true),
        ("RSA-PSS", &[1, 2, 840, 113_549, 1, 1, 10], false),
        ("none", &[1, 2, 3], false),
    ];
    for (case, id, null) in weak {
        desk.refuses(case, &with(id, null).sign(&key), "must be signed with")
            .await;
    }
    desk.refuses(
        "Ed25519",
        &good.sign(&Key::generate("EdDSA")),
        "must be signed with",
    )
    .await;
    let rsa = Key::generate("RS256");
    desk.refuses(
        "RSA's name on an EC signature",
        &with(&[1, 2, 840, 113_549, 1, 1, 11], true).sign(&key),
        "signature",
    )
    .await;
    desk.closes(&good.sign(&rsa)).await;
}

#[tokio::test]
async fn c909_k5_k9_keys_that_no_certificate_should_have_are_refused() {
    let desk = Desk::open(&[HOST]).await;
    let rsa = Key::generate("RS256");
    let modulus = crate::harness::key::unb64(rsa.jwk["n"].as_str().unwrap());
    let good = Draft::of(&[HOST]);
    let keyed = |spki: Vec<u8>| {
        let draft = Draft {
            spki: Some(spki),
            ..good.clone()
        };
        draft.sign(&rsa)
    };
    // A number of so many bits that no small prime divides: the length is looked at before the signature is.
    let sized = |bytes: usize| [&[0xff], vec![0; bytes - 2].as_slice(), &[1]].concat();
    for bytes in [64, 128, 255, 257, 1024, 2048] {
        let csr = keyed(rsa_spki(&sized(bytes), &[1, 0, 1]));
        desk.refuses(&format!("RSA of {bytes} bytes"), &csr, "2048, 3072 or 4096 bits")
            .await;
    }
    for exponent in [&[3_u8][..], &[1], &[17], &[1, 0, 2], &[1, 0xff, 0xff, 0xff, 0xff]] {
        desk.refuses("exponent", &keyed(rsa_spki(&modulus, exponent)), "65537")
            .await;
    }
    let mut even = modulus.clone();
    *even.last_mut().unwrap() &= 0xfe;
    desk.refuses(
        "even modulus",
        &keyed(rsa_spki(&even, &[1, 0, 1])),
        "small factor",
    )
    .await;
    let p521 = Draft {
        algorithm: Some(algorithm(&[1, 2, 840, 10_045, 4, 3, 2], false)),
        ..good.clone()
    };
    desk.refuses("P-521", &p521.sign(&Key::generate("ES512")), "P-256 or P-384")
        .await;
    let ec_key = |parameters: &[u8], point: &[u8]| {
        let kind = [oid(&[1, 2, 840, 10_045, 2, 1]).as_slice(), parameters].concat();
        let bits = tlv(0x03, [&[0], point].concat());
        tlv(SEQUENCE, [tlv(SEQUENCE, kind), bits].concat())
    };
    let p256 = oid(&[1, 2, 840, 10_045, 3, 1, 7]);
    let explicit = tlv(SEQUENCE, [2, 1, 1]);
    let point = Key::new().pair.public_key_raw().to_vec();
    let off_curve = [&[4], [1; 64].as_slice()].concat();
    let compressed = [&[2], &point[1..33]].concat();
    let curve = "named curve P-256 or P-384";
    let ec: [(&str, Vec<u8>, &str); 5] = [
        ("explicit curve", ec_key(&explicit, &point), curve),
        ("no curve", ec_key(&[], &point), curve),
        ("secp256k1", ec_key(&oid(&[1, 3, 132, 0, 10]), &point), curve),
        ("off the curve", ec_key(&p256, &off_curve), "signature"),
        ("compressed", ec_key(&p256, &compressed), "no uncompressed point"),
    ];
    for (case, spki, words) in ec {
        desk.refuses(case, &keyed(spki), words).await;
    }
    desk.refuses("the account's key", &good.sign(&desk.client.key), "account's key")
        .await;
    let neighbour = desk.daemon.account().await;
    desk.refuses(
        "another account's key",
        &good.sign(&neighbour.key),
        "account's key",
    )
    .await;
    let elsewhere = Client::stranger(&desk.daemon.site);
    let directory = desk.daemon.site.url("new-account");
    let directory = directory.replace("/acme/acme/", "/acme/other/");
    elsewhere.post(&directory, json!({})).await.expect(201);
    desk.refuses(
        "the key of an account of another provisioner",
        &good.sign(&elsewhere.key),
        "account's key",
    )
    .await;
    desk.refuses(
        "the key that the daemon serves TLS with",
        &good.sign(&desk.daemon.own_key()),
        "server's own",
    )
    .await;
    desk.closes(&good.sign(&Key::generate("ES384"))).await;
}

#[tokio::test]
async fn c901_a_padded_csr_is_taken_as_synologys_client_sends_it() {
    let desk = Desk::open(&[HOST]).await;
    let csr = Draft::of(&[HOST]).sign(&Key::new());
    let padded = format!("{}{}", b64(&csr), "=".repeat((3 - csr.len() % 3) % 3));
    let answer = desk
        .client
        .post(&desk.order.finalize, json!({ "csr": padded }))
        .await;
    answer.expect(200);
    desk.client.until(&desk.order.url, "valid").await;
}
