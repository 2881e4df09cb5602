//! Account keys: which are refused, and how (CONFORMANCE D12 to D14, SECURITY C218, C225 and C228 to C232).

use num_bigint::BigUint;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET};
use crate::harness::key::{Key, b64, unb64};
use crate::harness::server::Daemon;

/// The order of P-256 (SEC 2 §2.4.2), big-endian.
pub(crate) const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Asks for an account under this jwk; the signature is by the client's own key.
async fn register_as(client: &Client, alg: &str, jwk: Value) -> Answer {
    let url = client.site.url("new-account");
    let mut header = client.protected(&url, &client.nonce().await);
    header.insert("alg".into(), alg.into());
    header.insert("jwk".into(), jwk);
    let body = client
        .key
        .envelope(Value::Object(header).to_string().as_bytes(), b"{}");
    let answer = client.post_body(&url, body.to_string().as_bytes()).await;
    answer.acme();
    answer
}

fn with(jwk: &Value, member: &str, value: impl Into<Value>) -> Value {
    let mut jwk = jwk.clone();
    jwk[member] = value.into();
    jwk
}

#[tokio::test]
async fn d13_c229_ec_and_okp_keys_that_are_none_are_refused() {
    let daemon = Daemon::start().await;
    let client = Client::stranger(&daemon.site);
    let good = client.key.jwk.clone();
    let x = unb64(good["x"].as_str().unwrap());
    let p384 = Key::generate("ES384").jwk;
    let zero = b64([0; 32]);
    let keys = [
        json!({ "kty": "EC" }),
        json!({ "kty": "EC", "crv": "P-256" }),
        json!({}),
        json!({ "kty": "oct", "k": b64([1; 32]) }),
        with(&good, "kty", "OKP"),
        with(&good, "kty", "ec"),
        with(&good, "crv", "P-384"),
        with(&good, "crv", "P-224"),
        with(&good, "crv", "secp256k1"),
        with(&p384, "crv", "P-256"),
        with(&good, "x", b64(&x[1..])),
        with(&good, "x", b64([&[0], x.as_slice()].concat())),
        with(&good, "y", b64([1; 32])),
        with(&good, "x", zero.clone()),
        with(&with(&good, "x", zero.clone()), "y", zero),
        with(&good, "x", b64([0xff; 32])),
        with(&good, "x", ""),
        with(&good, "x", format!("{}=", good["x"].as_str().unwrap())),
        with(&good, "y", good["x"].clone()),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 31]) }),
        json!({ "kty": "OKP", "crv": "Ed448", "x": b64([1; 57]) }),
        json!({ "kty": "OKP", "crv": "X25519", "x": b64([1; 32]) }),
    ];
    for jwk in keys {
        let answer = register_as(&client, "ES256", jwk.clone()).await;
        assert_eq!(answer.status, 400, "{jwk}: {}", answer.shown());
        let kind = if jwk.get("kty").is_none() {
            "malformed"
        } else {
            "badPublicKey"
        };
        answer.problem(400, kind);
    }
    for jwk in [
        json!("x"),
        json!([]),
        json!(1),
        with(&good, "x", 1),
        with(&good, "kty", Value::Null),
    ] {
        register_as(&client, "ES256", jwk).await.problem(400, "malformed");
    }
    register_as(&client, "ES256", good).await.expect(201);
}

#[tokio::test]
async fn d12_c230_to_c232_rsa_keys_that_are_weak_or_a_burden_are_refused() {
    let daemon = Daemon::start().await;
    let client = Client::new(&daemon.site, Key::generate("RS256").into(), None);
    let good = client.key.jwk.clone();
    let n = BigUint::from_bytes_be(&unb64(good["n"].as_str().unwrap()));
    let number = |n: &BigUint| b64(n.to_bytes_be());
    for bits in [512_u32, 1024, 1030, 2047, 2049, 8192, 16_384, 32_768] {
        let modulus = (BigUint::from(1_u32) << (bits - 1)) + 1_u32;
        let answer = register_as(&client, "RS256", with(&good, "n", number(&modulus))).await;
        assert!(
            answer.problem(400, "badPublicKey")["detail"]
                .as_str()
                .unwrap()
                .contains("2048"),
            "{bits}"
        );
    }
    let one = BigUint::from(1_u32);
    let exponents = [
        BigUint::ZERO,
        one.clone(),
        BigUint::from(2_u32),
        BigUint::from(3_u32),
        BigUint::from(65_536_u32),
        BigUint::from(65_539_u32),
        (&one << 33) - 1_u32,
        (&one << 64) + 1_u32,
        &n - 2_u32,
    ];
    for e in exponents {
        let answer = register_as(&client, "RS256", with(&good, "e", number(&e))).await;
        assert!(
            answer.problem(400, "badPublicKey")["detail"]
                .as_str()
                .unwrap()
                .contains("exponent"),
            "{e}"
        );
    }
    let even = &n - 1_u32;
    let of_three = &n - (&n % 3_u32);
    let of_three = if &of_three % 2_u32 == BigUint::ZERO {
        of_three + 3_u32
    } else {
        of_three
    };
    let square = {
        let root = n.sqrt();
        &root * &root
    };
    for modulus in [even, of_three, square] {
        register_as(&client, "RS256", with(&good, "n", number(&modulus)))
            .await
            .problem(400, "badPublicKey");
    }
    for missing in ["n", "e"] {
        let mut jwk = good.clone();
        jwk.as_object_mut().unwrap().remove(missing);
        register_as(&client, "RS256", jwk)
            .await
            .problem(400, "badPublicKey");
    }
    register_as(&client, "RS256", good).await.expect(201);
}

/// To look for factors takes a millisecond, and to make up a number none: only a nonce of ours, whose MAC is the first
/// thing that is checked, buys the look (SECURITY T1).
#[tokio::test]
async fn t1_a_modulus_is_not_tried_before_the_nonce_is_known_to_be_ours() {
    let daemon = Daemon::start().await;
    let client = Client::new(&daemon.site, Key::generate("RS256").into(), None);
    let n = BigUint::from_bytes_be(&unb64(client.key.jwk["n"].as_str().unwrap()));
    let weak = b64(n.sqrt().pow(2).to_bytes_be());
    let url = client.site.url("new-account");
    for (nonce, kind) in [
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), "badNonce"),
        (client.nonce().await, "badPublicKey"),
    ] {
        let mut header = client.protected(&url, &nonce);
        header.insert("jwk".into(), with(&client.key.jwk, "n", weak.clone()));
        let header = Value::Object(header).to_string();
        let body = client.key.envelope(header.as_bytes(), b"{}").to_string();
        client.post_body(&url, body.as_bytes()).await.problem(400, kind);
    }
}

#[tokio::test]
async fn d14_c228_a_jwk_that_holds_a_private_key_is_refused_and_its_secret_not_repeated() {
    let daemon = Daemon::start().await;
    let client = Client::stranger(&daemon.site);
    for member in ["d", "p", "q", "dp", "dq", "qi", "k"] {
        let answer = register_as(
            &client,
            "ES256",
            with(&client.key.jwk, member, "c2VjcmV0LXNlY3JldA"),
        )
        .await;
        answer.problem(400, "badPublicKey");
        assert!(!answer.text().contains("c2VjcmV0"), "{}", answer.text());
    }
    register_as(&client, "ES256", client.key.jwk.clone())
        .await
        .expect(201);
}

#[tokio::test]
async fn c218_headers_that_point_to_keys_elsewhere_are_never_followed() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/key", elsewhere.local_addr().unwrap());
    let mut header = client.protected(client.kid(), &client.nonce().await);
    for pointer in ["jku", "x5u"] {
        header.insert(pointer.into(), url.clone().into());
    }
    header.insert("x5c".into(), json!(["AAAA"]));
    header.insert("x5t".into(), "AAAA".into());
    let body = client
        .key
        .envelope(Value::Object(header).to_string().as_bytes(), b"");
    client
        .post_body(client.kid(), body.to_string().as_bytes())
        .await
        .expect(200);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(500), elsewhere.accept()).await;
    assert!(waited.is_err(), "somebody asked for the key");
}

/// JWS does not forbid the larger of the two values that `s` can have (RFC 7518 §3.4).
#[tokio::test]
async fn c225_both_forms_of_an_ecdsa_signature_are_accepted() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    for _ in 0..2 {
        let nonce = client.nonce().await;
        let mut envelope: Value = serde_json::from_slice(&client.signed(client.kid(), &nonce, GET)).unwrap();
        let signature = unb64(envelope["signature"].as_str().unwrap());
        let other = BigUint::from_bytes_be(&P256_ORDER) - BigUint::from_bytes_be(&signature[32..]);
        let other = other.to_bytes_be();
        let s = [vec![0; 32 - other.len()], other].concat();
        envelope["signature"] = b64([&signature[..32], &s].concat()).into();
        client
            .post_body(client.kid(), envelope.to_string().as_bytes())
            .await
            .expect(200);
    }
}
