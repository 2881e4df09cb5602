//! RFC 8555 §7.3.4: external account binding (CONFORMANCE F, SECURITY C307 to C309).

use acme_proxy::app::control::{NewKey, Request};
use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};

const MAC_KEY: [u8; 32] = *b"an external account key of 32 B.";

/// A daemon that registers only those who have one of these keys.
async fn requiring(keys: Value) -> Daemon {
    Daemon::start_with(Plan {
        provisioner: Some(json!({ "requireEAB": true, "eabKeys": keys })),
        ..Plan::default()
    })
    .await
}

fn keys() -> Value {
    json!([{ "kid": "team", "hmacKey": b64(MAC_KEY) }])
}

/// The protected header of an honest binding.
fn header(client: &Client, kid: &str) -> Value {
    json!({ "alg": "HS256", "kid": kid, "url": client.site.url("new-account") })
}

fn mac(algorithm: hmac::Algorithm, key: &[u8], header: &Value, payload: &Value) -> Value {
    let (protected, payload) = (b64(header.to_string()), b64(payload.to_string()));
    let key = hmac::Key::new(algorithm, key);
    let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
    json!({ "protected": protected, "payload": payload, "signature": b64(tag) })
}

/// An honest binding of the client's key.
fn binding(client: &Client, kid: &str, key: &[u8]) -> Value {
    mac(hmac::HMAC_SHA256, key, &header(client, kid), &client.key.jwk)
}

async fn register(client: &Client, binding: &Value) -> Answer {
    let url = client.site.url("new-account");
    client
        .post(&url, json!({ "externalAccountBinding": binding }))
        .await
}

/// A client whose account is bound to the key.
pub(crate) async fn bound(daemon: &Daemon, kid: &str, key: &[u8]) -> Client {
    let newcomer = Client::stranger(&daemon.site);
    let answer = register(&newcomer, &binding(&newcomer, kid, key))
        .await
        .expect(201);
    Client::new(&daemon.site, newcomer.key, Some(answer.location()))
}

#[tokio::test]
async fn b3_the_directory_says_that_a_binding_is_needed_only_if_it_is() {
    let daemon = requiring(keys()).await;
    let meta = |directory: Answer| directory.expect(200).json()["meta"].clone();
    let directory = daemon.site.get("/acme/acme/directory").await;
    assert_eq!(meta(directory), json!({ "externalAccountRequired": true }));
    let directory = daemon.site.get("/acme/other/directory").await;
    assert_eq!(meta(directory), Value::Null);
}

#[tokio::test]
async fn c307_f1_without_a_binding_nobody_registers() {
    let daemon = requiring(keys()).await;
    let newcomer = Client::stranger(&daemon.site);
    let url = daemon.site.url("new-account");
    for request in [json!({}), json!({ "externalAccountBinding": null })] {
        let answer = newcomer.post(&url, request).await;
        answer.problem(403, "externalAccountRequired");
    }
    let existing = newcomer.post(&url, json!({ "onlyReturnExisting": true })).await;
    existing.problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn f2_a_good_binding_registers_and_comes_back_in_every_account_object() {
    let daemon = requiring(keys()).await;
    for (name, algorithm) in [
        ("HS256", hmac::HMAC_SHA256),
        ("HS384", hmac::HMAC_SHA384),
        ("HS512", hmac::HMAC_SHA512),
    ] {
        let newcomer = Client::stranger(&daemon.site);
        let mut header = header(&newcomer, "team");
        header["alg"] = name.into();
        let sent = mac(algorithm, &MAC_KEY, &header, &newcomer.key.jwk);
        // Members in another order than usual, and blanks: it is to come back as it was.
        let text = format!(
            "{{ \"signature\":  {}, \"payload\": {}, \"protected\": {} }}",
            sent["signature"], sent["payload"], sent["protected"]
        );
        let request = format!("{{\"externalAccountBinding\":{text}}}");
        let url = daemon.site.url("new-account");
        let created = newcomer.post(&url, request.as_str()).await.expect(201);
        assert!(created.text().contains(&text), "{}", created.text());
        let client = Client::new(&daemon.site, newcomer.key.clone(), Some(created.location()));
        for answer in [
            newcomer.post(&url, json!({})).await,
            client.post(client.kid(), GET).await,
            client
                .post(client.kid(), json!({ "contact": ["mailto:a@example.com"] }))
                .await,
        ] {
            assert!(answer.text().contains(&text), "{}", answer.text());
        }
        client.order(&["www.example.com"]).await;
    }
}

#[tokio::test]
async fn f5_the_bound_key_may_be_spelled_in_another_way() {
    let daemon = requiring(keys()).await;
    let newcomer = Client::stranger(&daemon.site);
    let mut spelled = newcomer.key.jwk.clone();
    spelled["use"] = "sig".into();
    let sent = mac(hmac::HMAC_SHA256, &MAC_KEY, &header(&newcomer, "team"), &spelled);
    register(&newcomer, &sent).await.expect(201);
}

#[tokio::test]
async fn c308_f3_f5_bindings_that_break_a_rule_are_malformed() {
    let daemon = requiring(keys()).await;
    let newcomer = Client::stranger(&daemon.site);
    let good = header(&newcomer, "team");
    let with = |member: &str, value: Value| {
        let mut header = good.clone();
        header[member] = value;
        mac(hmac::HMAC_SHA256, &MAC_KEY, &header, &newcomer.key.jwk)
    };
    let without = |member: &str| {
        let mut header = good.clone();
        header.as_object_mut().unwrap().remove(member);
        mac(hmac::HMAC_SHA256, &MAC_KEY, &header, &newcomer.key.jwk)
    };
    let of = |payload: &Value| mac(hmac::HMAC_SHA256, &MAC_KEY, &good, payload);
    let plus = |member: &str, value: Value| {
        let mut binding = binding(&newcomer, "team", &MAC_KEY);
        binding[member] = value;
        binding
    };
    let signed_by_client = newcomer.key.envelope(
        json!({ "alg": "ES256", "kid": "team", "url": good["url"] })
            .to_string()
            .as_bytes(),
        newcomer.key.jwk.to_string().as_bytes(),
    );
    for (what, binding) in [
        ("alg RS256", with("alg", json!("RS256"))),
        ("alg none", with("alg", json!("none"))),
        ("alg ES256", signed_by_client),
        ("no alg", without("alg")),
        ("no kid", without("kid")),
        ("kid a number", with("kid", json!(7))),
        ("a nonce", with("nonce", json!(newcomer.nonce().await))),
        ("a null nonce", with("nonce", Value::Null)),
        ("no url", without("url")),
        ("another url", with("url", json!(daemon.site.url("new-order")))),
        (
            "another provisioner's url",
            with(
                "url",
                json!(
                    daemon
                        .site
                        .url("new-account")
                        .replace("/acme/acme/", "/acme/other/")
                ),
            ),
        ),
        ("a jwk", with("jwk", newcomer.key.jwk.clone())),
        ("crit", with("crit", json!(["exp"]))),
        ("another key", of(&Key::new().jwk)),
        ("no key", of(&json!({}))),
        ("a string", of(&json!("key"))),
        ("an unprotected header", plus("header", json!({ "kid": "team" }))),
        ("an empty unprotected header", plus("header", json!({}))),
        ("several signatures", plus("signatures", json!([]))),
        ("a padded signature", plus("signature", json!("AAA="))),
        ("an empty signature", plus("signature", json!(""))),
        ("no object", json!("a.b.c")),
        ("a list", json!([])),
        ("nothing in it", json!({})),
    ] {
        let answer = register(&newcomer, &binding).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.shown());
        answer.problem(400, "malformed");
    }
    let url = daemon.site.url("new-account");
    let existing = newcomer.post(&url, json!({ "onlyReturnExisting": true })).await;
    existing.problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn c308_f4_an_unknown_key_and_a_wrong_mac_get_the_same_answer() {
    let daemon = requiring(keys()).await;
    let newcomer = Client::stranger(&daemon.site);
    let good = binding(&newcomer, "team", &MAC_KEY);
    let tag = crate::harness::key::unb64(good["signature"].as_str().unwrap());
    let tagged = |tag: &[u8]| {
        let mut binding = good.clone();
        binding["signature"] = b64(tag).into();
        binding
    };
    let flipped: Vec<u8> = tag.iter().map(|byte| byte ^ 1).collect();
    let mut details = Vec::new();
    for (what, binding) in [
        ("an unknown kid", binding(&newcomer, "nobody", &MAC_KEY)),
        ("a kid that leaves", binding(&newcomer, "a/../team", &MAC_KEY)),
        ("an empty kid", binding(&newcomer, "", &MAC_KEY)),
        ("a long kid", binding(&newcomer, &"k".repeat(1000), &MAC_KEY)),
        (
            "a key that stands in for none",
            binding(&newcomer, "nobody", &[0; 32]),
        ),
        ("a wrong key", binding(&newcomer, "team", &[7; 32])),
        (
            "the key's text",
            binding(&newcomer, "team", b64(MAC_KEY).as_bytes()),
        ),
        ("a flipped MAC", tagged(&flipped)),
        ("half a MAC", tagged(&tag[..16])),
        ("one byte of a MAC", tagged(&tag[..1])),
        ("a longer MAC", tagged(&[tag.as_slice(), &[0]].concat())),
        (
            "HS512 under the name of HS256",
            mac(
                hmac::HMAC_SHA512,
                &MAC_KEY,
                &header(&newcomer, "team"),
                &newcomer.key.jwk,
            ),
        ),
    ] {
        let answer = register(&newcomer, &binding).await;
        assert_eq!(answer.status, 403, "{what}: {}", answer.shown());
        details.push(answer.problem(403, "unauthorized")["detail"].clone());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "{details:?}");
    register(&newcomer, &good).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c309_a_one_time_key_used_100_times_at_once_makes_one_account() {
    let daemon = requiring(json!([{ "kid": "once", "hmacKey": b64(MAC_KEY), "reusable": false }])).await;
    let add = Request::AddKey(NewKey {
        kid: Some("stored".to_owned()),
        one_time: true,
        ..NewKey::default()
    });
    let stored = daemon.control(add).await.unwrap();
    for (kid, key) in [("once", MAC_KEY.to_vec()), ("stored", secret_in(&stored))] {
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let newcomer = Client::stranger(&daemon.site);
            let binding = binding(&newcomer, kid, &key);
            requests.spawn(async move { register(&newcomer, &binding).await });
        }
        let answers = requests.join_all().await;
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(created, 1, "{kid}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            let problem = answer.problem(403, "unauthorized");
            assert!(
                problem["detail"].as_str().unwrap().contains("used already"),
                "{problem}"
            );
        }
    }
    // The use survives the process.
    let daemon = daemon.restart().await;
    let newcomer = Client::stranger(&daemon.site);
    let late = register(&newcomer, &binding(&newcomer, "once", &MAC_KEY)).await;
    late.problem(403, "unauthorized");
}

#[tokio::test]
async fn e2_a_known_key_gets_its_account_back_whatever_binding_it_sends() {
    let daemon = requiring(json!([
        { "kid": "team", "hmacKey": b64(MAC_KEY), "reusable": false },
        { "kid": "other", "hmacKey": b64([9; 32]) },
    ]))
    .await;
    let newcomer = Client::stranger(&daemon.site);
    let first = binding(&newcomer, "team", &MAC_KEY);
    let created = register(&newcomer, &first).await.expect(201);
    for again in [
        json!(null),
        json!("nonsense"),
        first.clone(),
        binding(&newcomer, "team", &[1; 32]),
        binding(&newcomer, "other", &[9; 32]),
    ] {
        let answer = register(&newcomer, &again).await.expect(200);
        assert_eq!(
            (answer.location(), answer.json()),
            (created.location(), created.json())
        );
    }
    // Not even the end of the key matters to one who only looks for the account.
    let daemon = daemon.restart_with(forget_keys).await;
    let newcomer = Client::new(&daemon.site, newcomer.key, None);
    let answer = newcomer
        .post(
            &daemon.site.url("new-account"),
            json!({ "onlyReturnExisting": true }),
        )
        .await;
    assert_eq!(answer.expect(200).location(), created.location());
}

fn forget_keys(file: &mut Value) {
    file["authority"]["provisioners"][0]["eabKeys"] = json!([]);
}

#[tokio::test]
async fn f2_where_nobody_asks_for_a_binding_only_one_of_a_key_is_kept() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    // There is no key: nobody can tell a good binding from a bad one.
    for sent in [json!("nonsense"), binding(&newcomer, "team", &MAC_KEY)] {
        let answer = register(&newcomer, &sent).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.shown());
        assert_eq!(answer.json().get("externalAccountBinding"), None);
    }
    let daemon = daemon
        .restart_with(|file| file["authority"]["provisioners"][0]["eabKeys"] = keys())
        .await;
    let newcomer = Client::stranger(&daemon.site);
    let wrong = register(&newcomer, &binding(&newcomer, "team", &[7; 32])).await;
    wrong.problem(403, "unauthorized");
    let sent = binding(&newcomer, "team", &MAC_KEY);
    let answer = register(&newcomer, &sent).await.expect(201);
    assert_eq!(answer.json()["externalAccountBinding"], sent);
    daemon.account().await.order(&["www.example.com"]).await;
}

#[tokio::test]
async fn f6_a_key_that_was_revoked_or_has_expired_registers_nobody() {
    let clock = acme_proxy::clock::Clock::by_hand("2026-11-01T00:00:00Z".parse().unwrap());
    let daemon = Daemon::start_with(Plan {
        clock: clock.clone(),
        provisioner: Some(json!({ "requireEAB": true })),
        ..Plan::default()
    })
    .await;
    let hour = std::time::Duration::from_secs(3600);
    let brief = NewKey {
        kid: Some("brief".to_owned()),
        lifetime: Some(hour),
        ..NewKey::default()
    };
    let brief = secret_in(&daemon.control(Request::AddKey(brief)).await.unwrap());
    let client = bound(&daemon, "brief", &brief).await;
    clock.advance(hour);
    let newcomer = Client::stranger(&daemon.site);
    let late = register(&newcomer, &binding(&newcomer, "brief", &brief)).await;
    let problem = late.problem(403, "unauthorized");
    assert!(
        problem["detail"].as_str().unwrap().contains("expired"),
        "{problem}"
    );
    client.order(&["www.example.com"]).await;

    revoke(&daemon, "brief").await;
    let revoked = register(&newcomer, &binding(&newcomer, "brief", &brief)).await;
    let problem = revoked.problem(403, "unauthorized");
    assert!(
        problem["detail"].as_str().unwrap().contains("revoked"),
        "{problem}"
    );
    // Without the key nobody learns that there was one.
    let guessed = register(&newcomer, &binding(&newcomer, "brief", &[1; 32])).await;
    assert!(
        guessed.problem(403, "unauthorized")["detail"]
            .as_str()
            .unwrap()
            .contains("does not verify")
    );
}

async fn revoke(daemon: &Daemon, kid: &str) {
    let request = Request::RevokeKey {
        kid: kid.to_owned(),
        provisioner: None,
    };
    daemon.control(request).await.unwrap();
}

/// The secret in what `eab add` prints.
pub(crate) fn secret_in(printed: &str) -> Vec<u8> {
    let (_, key) = printed.split_once("--eab-hmac-key ").unwrap();
    crate::harness::key::unb64(key.trim())
}

#[tokio::test]
async fn f6_the_accounts_of_a_revoked_key_order_nothing_more_but_keep_what_they_have() {
    let daemon = requiring(keys()).await;
    let add = Request::AddKey(NewKey {
        kid: Some("stored".to_owned()),
        ..NewKey::default()
    });
    let key = secret_in(&daemon.control(add).await.unwrap());
    let client = bound(&daemon, "stored", &key).await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let ready = client.ready(&daemon, &["www.example.com"]).await;
    let mate = bound(&daemon, "team", &MAC_KEY).await;

    revoke(&daemon, "stored").await;
    let refused = |answer: Answer| {
        let problem = answer.problem(403, "unauthorized");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("external account key") && detail.contains("revoked"),
            "{detail}"
        );
    };
    refused(client.ask_order(&["www.example.com"]).await);
    let csr = csr::plain(&Key::new(), &["www.example.com"]);
    refused(client.finalize(&ready, &csr).await);
    assert_eq!(client.look(&ready.url).await["status"], "ready");
    assert_eq!(client.post(&issued.url, GET).await.expect(200).text(), issued.pem);
    let revocation = json!({ "certificate": b64(&issued.leaf) });
    client
        .post(&daemon.site.url("revoke-cert"), revocation)
        .await
        .expect(200);
    mate.order(&["www.example.com"]).await;

    // A key that is not in the file any more is as good as revoked.
    let daemon = daemon.restart_with(forget_keys).await;
    let mate = Client::new(&daemon.site, mate.key.clone(), mate.kid.clone());
    refused(mate.ask_order(&["www.example.com"]).await);
}

#[tokio::test]
async fn the_names_of_a_key_hold_for_its_accounts_as_of_now() {
    let web = |allow: &str| {
        json!([{
            "kid": "web", "hmacKey": b64(MAC_KEY),
            "policy": { "x509": { "allow": { "dns": [allow] } } },
        }, { "kid": "all", "hmacKey": b64([9; 32]) }])
    };
    let daemon = requiring(web("*.web.example.com")).await;
    let client = bound(&daemon, "web", &MAC_KEY).await;
    let free = bound(&daemon, "all", &[9; 32]).await;
    let refused = client.ask_order(&["a.web.example.com", "www.example.com"]).await;
    let problem = refused.problem(400, "rejectedIdentifier");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("external account key"),
        "{problem}"
    );
    free.order(&["www.example.com"]).await;
    let order = client.ready(&daemon, &["a.web.example.com"]).await;

    let daemon = daemon
        .restart_with(|file| {
            file["authority"]["provisioners"][0]["eabKeys"] = web("*.other.example.com");
        })
        .await;
    let client = Client::new(&daemon.site, client.key.clone(), client.kid.clone());
    let csr = csr::plain(&Key::new(), &["a.web.example.com"]);
    let refused = client.finalize(&order, &csr).await;
    refused.problem(400, "rejectedIdentifier");
    assert_eq!(client.look(&order.url).await["status"], "ready");
    client.ask_order(&["a.other.example.com"]).await.expect(201);

    let limited = NewKey {
        kid: Some("limited".to_owned()),
        allow: vec!["*.db.example.com".to_owned()],
        deny: vec!["secret.db.example.com".to_owned()],
        ..NewKey::default()
    };
    let key = secret_in(&daemon.control(Request::AddKey(limited)).await.unwrap());
    let client = bound(&daemon, "limited", &key).await;
    client.order(&["a.db.example.com"]).await;
    for name in ["secret.db.example.com", "www.example.com"] {
        client.ask_order(&[name]).await.problem(400, "rejectedIdentifier");
    }
}

#[tokio::test]
async fn an_account_from_before_keys_were_required_goes_on() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let daemon = daemon
        .restart_with(|file| file["authority"]["provisioners"][0]["requireEAB"] = true.into())
        .await;
    let client = Client::new(&daemon.site, client.key.clone(), client.kid.clone());
    client.order(&["www.example.com"]).await;
    let newcomer = Client::stranger(&daemon.site);
    let refused = newcomer.post(&daemon.site.url("new-account"), json!({})).await;
    refused.problem(403, "externalAccountRequired");
}
