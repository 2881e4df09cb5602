//! RFC 8555 §7.4: orders, from new-order to finalization (CONFORMANCE H and K, SECURITY C4, C910 to C912).

use std::collections::HashSet;
use std::time::Duration;

use acme_proxy::clock::Clock;
use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};

/// Asks for an order with this payload.
async fn ask(client: &Client, payload: Value) -> crate::harness::answer::Answer {
    client.post(&client.site.url("new-order"), payload).await
}

fn dns(name: &str) -> Value {
    json!({ "type": "dns", "value": name })
}

#[tokio::test]
async fn h1_a_new_order_is_201_pending_with_an_authorization_for_each_name() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let answer = client
        .ask_order(&["b.example.com", "a.example.com"])
        .await
        .expect(201);
    let order = answer.json();
    assert_eq!(order["status"], "pending");
    assert_eq!(
        order["identifiers"],
        json!([dns("b.example.com"), dns("a.example.com")])
    );
    assert_eq!(order["authorizations"].as_array().unwrap().len(), 2);
    assert_eq!(order["finalize"], format!("{}/finalize", answer.location()));
    assert!(order["expires"].as_str().unwrap().ends_with('Z'), "A12");
    for absent in ["certificate", "error", "notBefore", "notAfter"] {
        assert!(order.get(absent).is_none(), "H15: {order}");
    }
    let looked = client.post(&answer.location(), GET).await.expect(200);
    assert_eq!(looked.json(), order);
    assert_eq!(looked.header("retry-after"), None);
}

#[tokio::test]
async fn h18_the_same_names_again_are_another_order() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let first = client.order(&["www.example.com"]).await;
    let second = client.ready(&daemon, &["www.example.com"]).await;
    assert_ne!(first.url, second.url);
    assert_eq!(
        client.look(&first.url).await["status"],
        "pending",
        "authorizations are not shared, either"
    );
}

#[tokio::test]
async fn c403_h3_a_name_that_is_asked_for_twice_is_authorized_once() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let answer = client
        .ask_order(&["www.example.com", "WWW.Example.COM", "www.example.com"])
        .await;
    let order = answer.expect(201).json();
    assert_eq!(order["identifiers"], json!([dns("www.example.com")]));
    assert_eq!(order["authorizations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c404_to_c412_h4_to_h7_identifiers_that_no_certificate_may_have_are_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let long_label = format!("{}.example.com", "a".repeat(64));
    let long_name = format!("{}.example.com", "a.".repeat(122).trim_end_matches('.'));
    let many_labels = format!("{}example.com", "a.".repeat(128));
    let malformed = [
        "",
        "example.com.",
        ".",
        "*",
        "*.",
        "*.com",
        "*.*.example.com",
        "a.*.example.com",
        "*a.example.com",
        "a*.example.com",
        "localhost",
        "com",
        ".example.com",
        "a..b",
        &long_label,
        &long_name,
        &many_labels,
        "10.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "a.0x7f",
        "example.123",
        "[::1]",
        "::1",
        "::ffff:127.0.0.1",
        "müller.example",
        "xn--a.example",
        "xn--example-.org",
        "xn--zz--zz.example",
        "_acme-challenge.example.com",
        "a_b.example.com",
        "a\0.example.com",
        "a\nb.example.com",
        "a\tb.example.com",
        "a/b.example.com",
        "a@example.com",
        "a.example.com:80",
        "%61.example.com",
        "\"a\".example.com",
        "$(id).example.com",
        "a;b.example.com",
        "a b.example.com",
        " a.example.com",
        "-a.example.com",
        "a-.example.com",
        "ı.example.com",
        "\u{212a}.example.com",
        "ａ.example.com",
        "а.example.com",
        "https://a.example.com",
        "*.10.0.0.1",
    ];
    for name in malformed {
        let problem = client.ask_order(&[name]).await.problem(400, "malformed");
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.contains(char::is_control), "C411: {detail:?}");
    }
    for address in [
        "10.0.0.01",
        "10.0.0.0/8",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "2001:DB8::1",
        "2001:db8:0::1",
        "[2001:db8::1]",
        "2130706433",
        "www.example.com",
        "",
    ] {
        let payload = json!({ "identifiers": [{ "type": "ip", "value": address }] });
        ask(&client, payload).await.problem(400, "malformed");
    }
    for rejected in ["*.example.com", "ab--cd.example.com"] {
        client
            .ask_order(&[rejected])
            .await
            .problem(400, "rejectedIdentifier");
    }
    let longest = format!("{}.example.com", "a.".repeat(121).trim_end_matches('.'));
    assert_eq!(longest.len(), 253);
    for good in [
        &longest,
        "xn--mller-kva.example",
        "a-b.example.com",
        "1.example.com",
        "example.com",
    ] {
        client.ask_order(&[good]).await.expect(201);
    }
    let orders = format!("{}/orders", client.kid());
    assert_eq!(client.look(&orders).await["orders"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn c401_c402_h2_h9_lists_of_identifiers_that_are_none_are_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let names = |count: usize| {
        (0..count)
            .map(|n| dns(&format!("n{n}.example.com")))
            .collect::<Vec<_>>()
    };
    let malformed = [
        json!({}),
        json!({ "identifiers": null }),
        json!({ "identifiers": [] }),
        json!({ "identifiers": {} }),
        json!({ "identifiers": "www.example.com" }),
        json!({ "identifiers": ["www.example.com"] }),
        json!({ "identifiers": [{}] }),
        json!({ "identifiers": [{ "type": "dns" }] }),
        json!({ "identifiers": [{ "value": "www.example.com" }] }),
        json!({ "identifiers": [{ "type": "dns", "value": 1 }] }),
        json!({ "identifiers": [{ "type": "dns", "value": ["www.example.com"] }] }),
        json!({ "identifiers": names(101) }),
        json!({ "identifiers": names(1000) }),
    ];
    for payload in malformed {
        ask(&client, payload).await.problem(400, "malformed");
    }
    ask(&client, json!({ "identifiers": names(10_000) }))
        .await
        .problem(413, "malformed");
    for kind in [
        "IP",
        "email",
        "DNS",
        "",
        "Dns",
        "permanent-identifier",
        "TNAuthList",
    ] {
        let answer = ask(
            &client,
            json!({ "identifiers": [{ "type": kind, "value": "10.0.0.1" }] }),
        )
        .await;
        answer.problem(400, "unsupportedIdentifier");
    }
    assert_eq!(
        ask(&client, json!({ "identifiers": names(100) }))
            .await
            .expect(201)
            .json()["identifiers"],
        json!(names(100))
    );
}

#[tokio::test]
async fn c413_h8_names_outside_the_policy_are_named_each_in_its_subproblem() {
    let allow = json!({ "x509": { "allow": { "dns": ["*.example.com", "example.com"] }, "deny": { "dns": ["secret.example.com"] } } });
    let plan = Plan {
        policy: Some(allow),
        ..Plan::default()
    };
    let daemon = Daemon::start_with(plan).await;
    let client = daemon.account().await;
    client
        .ask_order(&["www.example.com", "example.com"])
        .await
        .expect(201);
    for outside in [
        "evilexample.com",
        "example.com.evil.net",
        "www.example.org",
        "secret.example.com",
        "SECRET.example.com",
    ] {
        let problem = client
            .ask_order(&["www.example.com", outside])
            .await
            .problem(400, "rejectedIdentifier");
        assert!(problem["detail"].as_str().unwrap().contains(outside), "{problem}");
    }
    let mixed = ["www.example.com", "evilexample.com", "a b", "secret.example.com"];
    let problem = client.ask_order(&mixed).await.problem(400, "compound");
    let subproblems = problem["subproblems"].as_array().unwrap();
    let told: Vec<(&str, &str)> = subproblems
        .iter()
        .map(|sub| {
            (
                sub["identifier"]["value"].as_str().unwrap(),
                sub["type"].as_str().unwrap().rsplit(':').next().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("evilexample.com", "rejectedIdentifier"),
        ("a b", "malformed"),
        ("secret.example.com", "rejectedIdentifier"),
    ];
    assert_eq!(told, expected);
    let alike = client
        .ask_order(&["a.example.org", "b.example.org"])
        .await
        .problem(400, "rejectedIdentifier");
    assert_eq!(alike["subproblems"].as_array().unwrap().len(), 2);
    let orders = client.look(&format!("{}/orders", client.kid())).await;
    assert_eq!(
        orders["orders"].as_array().unwrap().len(),
        1,
        "a refused order leaves nothing"
    );
}

#[tokio::test]
async fn c414_c416_h10_h11_a_validity_or_a_profile_is_refused_and_never_dropped() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let www = || json!([dns("www.example.com")]);
    for time in [
        json!("2000-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59Z"),
        json!("tomorrow"),
        json!(1_000_000_000),
        json!({}),
    ] {
        for member in ["notBefore", "notAfter"] {
            ask(&client, json!({ "identifiers": www(), member: time }))
                .await
                .problem(400, "malformed");
        }
    }
    for profile in ["shortlived", "", "\u{1b}[31m"] {
        let answer = ask(&client, json!({ "identifiers": www(), "profile": profile })).await;
        answer.problem(400, "invalidProfile");
    }
    ask(&client, json!({ "identifiers": www(), "profile": 1 }))
        .await
        .problem(400, "malformed");
    let unknown = json!({ "identifiers": www(), "status": "valid", "profile": null, "notAfter": null });
    let order = ask(&client, unknown).await.expect(201).json();
    assert!(
        order.get("profile").is_none() && order["status"] == "pending",
        "{order}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c417_h17_the_301st_pending_order_is_429_until_one_is_finalized() {
    let daemon = Daemon::start_with(Plan {
        limits: Some(json!({ "pending_orders_per_account": 300 })),
        ..Plan::default()
    })
    .await;
    let client = daemon.account().await;
    let ready = client.ready(&daemon, &["ready.example.com"]).await;
    let mut orders = tokio::task::JoinSet::new();
    for part in 0..13 {
        let client = client.clone();
        orders.spawn(async move {
            for n in 0..23 {
                client.order(&[&format!("n{part}-{n}.example.com")]).await;
            }
        });
    }
    orders.join_all().await;
    for _ in 0..2 {
        let refused = client.ask_order(&["one.more.example.com"]).await;
        refused.problem(429, "rateLimited");
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    }
    daemon
        .account()
        .await
        .order(&["another.account.example.com"])
        .await;
    let csr = csr::plain(&Key::new(), &["ready.example.com"]);
    client.finalize(&ready, &csr).await.expect(200);
    client.ask_order(&["one.more.example.com"]).await.expect(201);
}

#[tokio::test]
async fn k1_h16_a_finalized_order_is_200_with_its_url_and_becomes_valid() {
    let daemon = Daemon::start_with_slow_ca(Duration::from_secs(4)).await;
    let client = daemon.account().await;
    let order = client
        .ready(&daemon, &["www.example.com", "mail.example.com"])
        .await;
    let csr = csr::plain(&Key::new(), &["mail.example.com", "www.example.com"]);
    let answer = client.finalize(&order, &csr).await.expect(200);
    assert_eq!(
        answer.location(),
        order.url,
        "K1: golang.org/x/crypto/acme polls what Location says"
    );
    assert_eq!(answer.json()["status"], "processing");
    assert!(answer.header("retry-after").is_some(), "H16");
    let looked = client.post(&order.url, GET).await.expect(200);
    assert_eq!(looked.json()["status"], "processing");
    assert!(looked.header("retry-after").is_some(), "H16");
    assert!(looked.json().get("certificate").is_none(), "H15");
    let valid = client.until(&order.url, "valid").await;
    assert!(
        valid["certificate"].is_string() && valid.get("error").is_none(),
        "H15: {valid}"
    );
    assert_eq!(valid["authorizations"], json!(order.authorizations), "H13");
    assert_eq!(valid["identifiers"], looked.json()["identifiers"], "H13");
    assert_eq!(client.post(&order.url, GET).await.header("retry-after"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c910_k3_of_100_parallel_finalizations_one_is_taken_and_one_order_reaches_the_ca() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.ready(&daemon, &["www.example.com"]).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (client, order) = (client.clone(), order.clone());
        requests.spawn(async move {
            let csr = csr::plain(&Key::new(), &["www.example.com"]);
            client.finalize(&order, &csr).await
        });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.problem(403, "orderNotReady");
    }
    client.until(&order.url, "valid").await;
    let stats = daemon.ca.stats();
    assert_eq!((stats.orders_opened, stats.certificates.len()), (1, 1));
}

#[tokio::test]
async fn c911_k2_an_order_that_is_not_ready_can_not_be_finalized() {
    let daemon = Daemon::start_with_slow_ca(Duration::from_secs(3)).await;
    let client = daemon.account().await;
    let names = ["www.example.com", "mail.example.com"];
    let csr = csr::plain(&Key::new(), &names);
    let order = client.order(&names).await;
    client.finalize(&order, &csr).await.problem(403, "orderNotReady");
    // One of two names is proved.
    let url = client.publish(&daemon, &order.authorizations[0]).await;
    client.post(&url, json!({})).await.expect(200);
    client.until(&order.authorizations[0], "valid").await;
    client.finalize(&order, &csr).await.problem(403, "orderNotReady");
    client.prove(&daemon, &order).await;
    client.finalize(&order, &csr).await.expect(200);
    client.finalize(&order, &csr).await.problem(403, "orderNotReady");
    client.until(&order.url, "valid").await;
    client.finalize(&order, &csr).await.problem(403, "orderNotReady");
    let failed = client.order(&["failed.example.com"]).await;
    let (url, token) = client.challenge(&failed.authorizations[0]).await;
    daemon.web.publish(&token, "wrong");
    client.post(&url, json!({})).await.expect(200);
    client.until(&failed.url, "invalid").await;
    let csr = csr::plain(&Key::new(), &["failed.example.com"]);
    client.finalize(&failed, &csr).await.problem(403, "orderNotReady");
    assert_eq!(daemon.ca.stats().orders_opened, 1);
}

#[tokio::test]
async fn c911_c912_h14_an_order_whose_time_is_over_is_invalid_and_nothing_of_it_goes_out() {
    let clock = Clock::by_hand(Clock::system().now());
    let plan = Plan {
        clock: clock.clone(),
        ..Plan::default()
    };
    let daemon = Daemon::start_with(plan).await;
    let client = daemon.account().await;
    let ready = client.ready(&daemon, &["ready.example.com"]).await;
    let pending = client.order(&["pending.example.com"]).await;
    let (challenge, _) = client.challenge(&pending.authorizations[0]).await;
    let looks = daemon.web.looks();
    clock.advance(Duration::from_hours(24));
    for order in [&ready, &pending] {
        let object = client.look(&order.url).await;
        assert_eq!(
            (&object["status"], &object["error"]["status"]),
            (&json!("invalid"), &json!(400)),
            "{object}"
        );
        assert_eq!(client.look(&order.authorizations[0]).await["status"], "expired");
    }
    let csr = csr::plain(&Key::new(), &["ready.example.com"]);
    client.finalize(&ready, &csr).await.problem(403, "orderNotReady");
    client.post(&challenge, json!({})).await.problem(400, "malformed");
    let listed = client.look(&format!("{}/orders", client.kid())).await;
    assert_eq!(listed["orders"], json!([]), "E13: no invalid orders");
    assert_eq!((daemon.ca.stats().orders_opened, daemon.web.looks()), (0, looks));
}

#[tokio::test]
async fn h8_a_policy_that_has_become_stricter_refuses_at_finalization() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.ready(&daemon, &["www.example.com"]).await;
    let daemon = daemon
        .restart_with(|file| {
            file["authority"]["policy"] = json!({ "x509": { "deny": { "dns": ["www.example.com"] } } })
        })
        .await;
    let csr = csr::plain(&Key::new(), &["www.example.com"]);
    client
        .clone()
        .finalize(&order, &csr)
        .await
        .problem(400, "rejectedIdentifier");
    assert_eq!(daemon.ca.stats().orders_opened, 0);
}

#[tokio::test]
async fn k4_finalize_without_a_csr_is_malformed_and_the_order_stays_ready() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.ready(&daemon, &["www.example.com"]).await;
    let csr = b64(csr::plain(&Key::new(), &["www.example.com"]));
    let mut statuses = HashSet::new();
    for payload in [
        json!({}),
        json!({ "csr": null }),
        json!({ "csr": 1 }),
        json!({ "csr": [csr] }),
        json!({ "csr": format!("{csr} ") }),
        json!({ "csr": "++//" }),
    ] {
        client
            .post(&order.finalize, payload)
            .await
            .problem(400, "malformed");
        statuses.insert(client.look(&order.url).await["status"].to_string());
    }
    client.post(&order.finalize, GET).await.problem(400, "malformed");
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), ["\"ready\""]);
    client
        .post(&order.finalize, json!({ "csr": format!("{csr}==") }))
        .await
        .expect(200);
}
