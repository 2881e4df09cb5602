//! RFC 8555 §7.5: authorizations and challenges, and who may see whose objects (CONFORMANCE H12, I and J, SECURITY C5).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{GET, PATIENCE};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};

#[tokio::test]
async fn i1_i4_a_pending_authorization_offers_http_01_with_a_token_of_its_own() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["a.example.com", "b.example.com"]).await;
    let mut tokens = Vec::new();
    for (url, name) in order
        .authorizations
        .iter()
        .zip(["a.example.com", "b.example.com"])
    {
        let object = client.look(url).await;
        assert_eq!(object["identifier"], json!({ "type": "dns", "value": name }));
        assert_eq!(object["status"], "pending");
        assert!(
            object["expires"].is_string() && object.get("wildcard").is_none(),
            "{object}"
        );
        let challenges = object["challenges"].as_array().unwrap();
        assert_eq!(
            challenges.len(),
            1,
            "I3: only what can be validated is offered: {object}"
        );
        let challenge = &challenges[0];
        assert_eq!(
            (&challenge["type"], &challenge["status"]),
            (&json!("http-01"), &json!("pending"))
        );
        tokens.push(challenge["token"].as_str().unwrap().to_owned());
    }
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    assert!(
        tokens
            .iter()
            .all(|token| token.len() >= 22 && token.bytes().all(base64url)),
        "{tokens:?}"
    );
    assert_ne!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn j1_j5_j7_a_challenge_that_is_met_makes_authorization_and_order_follow() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let authorization = &order.authorizations[0];
    let url = client.publish(&daemon, authorization).await;
    let held = daemon.web.hold().await;
    let answer = client.post(&url, json!({})).await.expect(200);
    assert_eq!(
        answer.link("up").as_ref(),
        Some(authorization),
        "J1: certbot needs it"
    );
    assert_eq!(answer.location(), url);
    assert_eq!(answer.json()["status"], "processing");
    assert!(answer.header("retry-after").is_some());
    let looked = client.post(authorization, GET).await;
    assert_eq!(looked.json()["status"], "pending");
    assert!(looked.header("retry-after").is_some());
    drop(held);
    let valid = client.until(authorization, "valid").await;
    assert!(valid["expires"].is_string(), "I2: {valid}");
    let settled = client.post(&url, GET).await.expect(200);
    assert!(
        settled.json()["validated"].is_string() && settled.json().get("error").is_none(),
        "J5"
    );
    assert_eq!(settled.header("retry-after"), None, "J7");
    assert_eq!(
        client.post(authorization, GET).await.header("retry-after"),
        None,
        "J7"
    );
    assert_eq!(client.look(&order.url).await["status"], "ready");
    let again = client.post(&url, json!({})).await.expect(200);
    assert_eq!(again.json(), settled.json(), "J3, C504");
    assert_eq!(daemon.web.looks(), 1);
}

#[tokio::test]
async fn j2_c502_looking_at_a_challenge_or_posting_nonsense_starts_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let url = client.publish(&daemon, &order.authorizations[0]).await;
    for nonsense in ["[]", "\"x\"", "1", "null", "{", "{}{}", "true", " "] {
        client.post(&url, nonsense).await.problem(400, "malformed");
    }
    let long = json!({ "a": "x".repeat(64 * 1024) });
    client.post(&url, long).await.problem(413, "malformed");
    for authorized in [json!({ "status": "valid" }), json!({})] {
        client
            .post(&order.authorizations[0], authorized)
            .await
            .problem(400, "malformed");
    }
    client
        .post(&order.url, json!({ "status": "valid" }))
        .await
        .problem(400, "malformed");
    for _ in 0..3 {
        assert_eq!(client.look(&url).await["status"], "pending");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(daemon.web.looks(), 0);
    let started = client
        .post(&url, json!({ "keyAuthorization": "old", "status": "valid" }))
        .await;
    assert_eq!(
        started.expect(200).json()["status"],
        "processing",
        "J2: unknown members are ignored"
    );
    client.until(&order.url, "ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c503_j3_a_challenge_that_is_posted_100_times_at_once_is_validated_once() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let url = client.publish(&daemon, &order.authorizations[0]).await;
    let held = daemon.web.hold().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (client, url) = (client.clone(), url.clone());
        requests.spawn(async move { client.post(&url, json!({})).await });
    }
    for answer in requests.join_all().await {
        assert_eq!(answer.expect(200).json()["status"], "processing");
    }
    drop(held);
    client.until(&order.url, "ready").await;
    assert_eq!(daemon.web.looks(), 1);
}

#[tokio::test]
async fn c505_i3_a_wildcard_is_refused_where_dns_01_is_not_enabled_and_no_other_challenge_can_be_posted() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    client
        .ask_order(&["*.example.com"])
        .await
        .problem(400, "rejectedIdentifier");
    let order = client.order(&["www.example.com"]).await;
    let (url, _) = client.challenge(&order.authorizations[0]).await;
    for other in [
        "dns-01",
        "tls-alpn-01",
        "dns-account-01",
        "http-02",
        "HTTP-01",
        "",
    ] {
        let url = url.replace("http-01", other);
        client.post(&url, json!({})).await.problem(404, "malformed");
        client.post(&url, GET).await.problem(404, "malformed");
    }
    assert_eq!(daemon.web.looks(), 0);
}

#[tokio::test]
async fn i3_a_challenge_that_the_operator_does_not_offer_any_more_can_not_be_posted() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let url = client.publish(&daemon, &order.authorizations[0]).await;
    let daemon = daemon
        .restart_with(|file| file["authority"]["provisioners"][0]["challenges"] = json!(["dns-01"]))
        .await;
    let client = client.clone();
    client.post(&url, json!({})).await.problem(400, "malformed");
    assert_eq!(client.look(&url).await["status"], "pending");
    let daemon = daemon
        .restart_with(|file| file["authority"]["provisioners"][0]["challenges"] = json!(["http-01"]))
        .await;
    assert_eq!(daemon.web.looks(), 0);
    let client = client.clone();
    client.post(&url, json!({})).await.expect(200);
    client.until(&order.url, "ready").await;
}

#[tokio::test]
async fn c501_h12_j4_k11_the_five_kinds_of_objects_answer_others_as_if_they_were_not_there() {
    let daemon = Daemon::start().await;
    let (owner, other) = tokio::join!(daemon.account(), daemon.account());
    let issued = owner.issue(&daemon, &["issued.example.com"]).await;
    let ready = owner.ready(&daemon, &["ready.example.com"]).await;
    let pending = owner.order(&["pending.example.com"]).await;
    let challenge = owner.publish(&daemon, &pending.authorizations[0]).await;
    let looks = daemon.web.looks();
    let csr = json!({ "csr": b64(csr::plain(&Key::new(), &["ready.example.com"])) });
    let deactivation = json!({ "status": "deactivated" });
    let requests: [(&str, &Value); 7] = [
        (&pending.url, &json!(null)),
        (&pending.authorizations[0], &json!(null)),
        (&pending.authorizations[0], &deactivation),
        (&challenge, &json!(null)),
        (&challenge, &json!({})),
        (&ready.finalize, &csr),
        (&issued.url, &json!(null)),
    ];
    let post = async |url: &str, payload: &Value| match payload {
        Value::Null => other.post(url, GET).await,
        object => other.post(url, object.clone()).await,
    };
    for (url, payload) in requests {
        let foreign = post(url, payload).await;
        foreign.problem(404, "malformed");
        let id = url
            .split('/')
            .find(|part| part.bytes().take(32).filter(u8::is_ascii_hexdigit).count() == 32)
            .unwrap();
        let (order, rest) = id.split_at(32);
        let missing = format!("{:032x}", u128::from_str_radix(order, 16).unwrap() ^ 1);
        let upper = order.to_uppercase().replace('0', "A");
        for wrong in [
            missing.as_str(),
            &upper,
            "..",
            "%2e%2e",
            "'%20or%201=1",
            "0",
            &"f".repeat(4000),
            "none",
            "%00",
        ] {
            let answer = post(&url.replace(id, &format!("{wrong}{rest}")), payload).await;
            assert_eq!(answer.status, 404, "{}", answer.shown());
            if !wrong.contains("..") {
                assert_eq!(
                    answer.body, foreign.body,
                    "foreign and missing are told alike: {wrong}"
                );
            }
        }
    }
    for (url, index) in [
        (&pending.authorizations[0], "-1"),
        (&pending.authorizations[0], "-00"),
        (&pending.authorizations[0], "-65536"),
        (&pending.authorizations[0], ""),
    ] {
        let url = format!("{}{index}", url.strip_suffix("-0").unwrap());
        owner.post(&url, GET).await.problem(404, "malformed");
    }
    assert_eq!(owner.look(&ready.url).await["status"], "ready");
    assert_eq!(owner.look(&challenge).await["status"], "pending");
    assert_eq!((daemon.web.looks(), daemon.ca.stats().orders_opened), (looks, 1));
}

/// What has become of an order, its authorization and its challenge.
async fn ends_invalid(daemon: &Daemon, content: Option<&str>, kinds: &[&str]) {
    let client = daemon.account().await;
    let order = client.order(&["www.example.com", "mail.example.com"]).await;
    let (url, token) = client.challenge(&order.authorizations[0]).await;
    if let Some(content) = content {
        daemon.web.publish(
            &token,
            &content
                .replace("TOKEN", &token)
                .replace("RIGHT", &client.key_authorization(&token)),
        );
    }
    client.post(&url, json!({})).await.expect(200);
    let invalid = client.until(&order.url, "invalid").await;
    let authorization = client.look(&order.authorizations[0]).await;
    let challenge = client.post(&url, GET).await.expect(200);
    assert_eq!(
        (&authorization["status"], &challenge.json()["status"]),
        (&json!("invalid"), &json!("invalid"))
    );
    assert_eq!(challenge.header("retry-after"), None, "J7");
    for error in [
        &invalid["error"],
        &authorization["challenges"][0]["error"],
        &challenge.json()["error"],
    ] {
        let kind = error["type"].as_str().unwrap().rsplit(':').next().unwrap();
        assert!(kinds.contains(&kind), "{content:?}: {error}");
        assert!(
            !error.to_string().contains("SECRET"),
            "C607: nothing that was fetched is told: {error}"
        );
    }
    let sibling = client.look(&order.authorizations[1]).await;
    assert_eq!(sibling["status"], "pending");
    client.post(&url, json!({})).await.problem(400, "malformed");
    let csr = csr::plain(&Key::new(), &["www.example.com", "mail.example.com"]);
    client.finalize(&order, &csr).await.problem(403, "orderNotReady");
}

#[tokio::test]
async fn j5_wrong_content_ends_challenge_authorization_and_order_at_once() {
    let daemon = Daemon::start().await;
    for content in [
        "SECRET",
        "TOKEN",
        "",
        "RIGHTx",
        " RIGHT",
        "TOKEN.SECRETSECRETSECRETSECRETSECRETSECRETSECRETSE",
        "\u{feff}RIGHT",
    ] {
        ends_invalid(&daemon, Some(content), &["incorrectResponse"]).await;
    }
    ends_invalid(&daemon, None, &["incorrectResponse", "unauthorized"]).await;
    assert_eq!(daemon.ca.stats().orders_opened, 0);
}

#[tokio::test]
async fn j6_a_host_that_refuses_connections_is_tried_again_and_ends_as_connection() {
    let nobody = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let plan = Plan {
        http_port: Some(port),
        ..Plan::default()
    };
    let daemon = Daemon::start_with(plan).await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let (url, _) = client.challenge(&order.authorizations[0]).await;
    client.post(&url, json!({})).await.expect(200);
    let tried = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = client.post(&url, GET).await.expect(200);
            if answer.json().get("error").is_some() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let tried = tried.await.unwrap();
    let object = tried.json();
    assert_eq!(
        (&object["status"], &object["error"]["type"]),
        (
            &json!("processing"),
            &json!("urn:ietf:params:acme:error:connection")
        ),
        "the first failure is not the last: {object}"
    );
    assert!(tried.header("retry-after").is_some());
    ends_invalid(&daemon, None, &["connection"]).await;
}

#[tokio::test]
async fn j6_a_host_that_breaks_connections_is_tried_four_times() {
    let breaker = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let plan = Plan {
        http_port: Some(breaker.local_addr().unwrap().port()),
        ..Plan::default()
    };
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    tokio::spawn(async move {
        while breaker.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let daemon = Daemon::start_with(plan).await;
    ends_invalid(&daemon, None, &["connection"]).await;
    assert_eq!(tries.load(Ordering::SeqCst), 4);
}
