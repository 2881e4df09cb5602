//! RFC 8555 §7.3: accounts (CONFORMANCE E, SECURITY C3).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{ALGORITHMS, Key};
use crate::harness::server::{Daemon, Plan};

#[tokio::test]
async fn e1_a_new_account_is_201_with_its_url_and_object() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    let contact = json!({ "contact": ["mailto:ops@example.com"], "termsOfServiceAgreed": true });
    let answer = newcomer
        .post(&daemon.site.url("new-account"), contact)
        .await
        .expect(201);
    let url = answer.location();
    let expected = json!({
        "status": "valid",
        "contact": ["mailto:ops@example.com"],
        "termsOfServiceAgreed": true,
        "orders": format!("{url}/orders"),
    });
    assert_eq!(answer.json(), expected);
    let id = url.strip_prefix(&daemon.site.url("account/")).unwrap();
    assert_eq!(id.len(), 32, "E14: 128 random bits");
}

#[tokio::test]
async fn d10_keys_of_every_accepted_algorithm_can_have_an_account_and_order() {
    let daemon = Daemon::start().await;
    for alg in ALGORITHMS {
        let client = Client::register(&daemon.site, Key::generate(alg)).await;
        client.order(&["www.example.com"]).await;
    }
}

#[tokio::test]
async fn e2_e5_c302_a_known_key_gets_its_account_back_whatever_else_it_says() {
    let plan = Plan {
        provisioner: Some(json!({ "termsOfService": "https://example.com/terms" })),
        ..Plan::default()
    };
    let daemon = Daemon::start_with(plan).await;
    let newcomer = Client::stranger(&daemon.site);
    let url = daemon.site.url("new-account");
    newcomer
        .post(&url, json!({}))
        .await
        .problem(403, "userActionRequired");
    let refused = newcomer
        .post(&url, json!({ "termsOfServiceAgreed": false }))
        .await;
    let problem = refused.problem(403, "userActionRequired");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("https://example.com/terms"));
    assert_eq!(
        refused.link("terms-of-service").as_deref(),
        Some("https://example.com/terms"),
        "E5, C302"
    );
    let elsewhere = url.replace("/acme/acme/", "/acme/other/");
    let other = newcomer.post(&elsewhere, json!({})).await.expect(201);
    assert_eq!(other.link("terms-of-service"), None);
    let agreed = json!({ "termsOfServiceAgreed": true, "contact": ["mailto:a@example.com"] });
    let first = newcomer.post(&url, agreed).await.expect(201);
    for other in [
        json!({}),
        json!({ "contact": ["tel:1"] }),
        json!({ "onlyReturnExisting": true }),
    ] {
        let again = newcomer.post(&url, other).await.expect(200);
        assert_eq!((again.location(), again.json()), (first.location(), first.json()));
    }
}

#[tokio::test]
async fn d23_two_spellings_of_one_key_are_one_account() {
    let daemon = Daemon::start().await;
    let client = Client::register(&daemon.site, Key::generate("RS256")).await;
    let url = daemon.site.url("new-account");
    let mut jwk = client.key.jwk.clone();
    let modulus = crate::harness::key::unb64(jwk["n"].as_str().unwrap());
    jwk["n"] = crate::harness::key::b64([&[0], modulus.as_slice()].concat()).into();
    jwk["use"] = "sig".into();
    let spelled = Client::new(&daemon.site, Arc::clone(&client.key), None);
    let mut header = spelled.protected(&url, &spelled.nonce().await);
    header.insert("jwk".into(), jwk);
    let body = client
        .key
        .envelope(Value::Object(header).to_string().as_bytes(), b"{}");
    let answer = spelled.post_body(&url, body.to_string().as_bytes()).await;
    assert_eq!(answer.expect(200).location(), client.kid());
}

#[tokio::test]
async fn c304_e3_an_unknown_key_that_wants_only_its_account_makes_none() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    let url = daemon.site.url("new-account");
    for _ in 0..2 {
        let answer = newcomer.post(&url, json!({ "onlyReturnExisting": true })).await;
        answer.problem(400, "accountDoesNotExist");
    }
    newcomer.post(&url, json!({})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c305_e4_one_key_that_asks_100_times_at_once_gets_one_account() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let newcomer = newcomer.clone();
        requests.spawn(async move { newcomer.post(&newcomer.site.url("new-account"), json!({})).await });
    }
    let answers = requests.join_all().await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(200)), (1, 99));
    let urls: HashSet<String> = answers.iter().map(|answer| answer.location()).collect();
    assert_eq!(urls.len(), 1);
}

#[tokio::test]
async fn c301_e7_contacts_that_are_no_plain_mail_address_are_refused_and_make_no_account() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    let url = daemon.site.url("new-account");
    let many: Vec<String> = (0..500).map(|n| format!("mailto:a{n}@example.com")).collect();
    let long = format!("mailto:{}@example.com", "a".repeat(10_000));
    let invalid = [
        json!(["mailto:"]),
        json!(["mailto:nobody"]),
        json!(["mailto:a@example.com,b@example.com"]),
        json!(["mailto:a@example.com?subject=x"]),
        json!(["mailto:a%0d%0aBcc:b@example.com"]),
        json!(["mailto:a\r\nBcc: b@example.com"]),
        json!(["mailto:ä@example.com"]),
        json!(["nobody@example.com"]),
        json!(["mailto:a@10.0.0.1"]),
        json!([""]),
        json!(many),
        json!([long]),
        json!(["mailto:good@example.com", "mailto:bad"]),
    ];
    for contact in invalid {
        let answer = newcomer.post(&url, json!({ "contact": contact })).await;
        answer.problem(400, "invalidContact");
    }
    for other in ["http://example.com/", "tel:+15550100", "xmpp:a@example.com"] {
        let answer = newcomer.post(&url, json!({ "contact": [other] })).await;
        answer.problem(400, "unsupportedContact");
    }
    for wrong in [
        json!("mailto:a@example.com"),
        json!({}),
        json!([1]),
        json!([["mailto:a@example.com"]]),
    ] {
        newcomer
            .post(&url, json!({ "contact": wrong }))
            .await
            .problem(400, "malformed");
    }
    newcomer
        .post(&url, json!({ "onlyReturnExisting": true }))
        .await
        .problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn c303_e6_members_that_are_the_servers_are_ignored() {
    let daemon = Daemon::start().await;
    let newcomer = Client::stranger(&daemon.site);
    let asked = json!({ "status": "deactivated", "orders": "https://evil/", "id": 1, "__proto__": { "a": 1 }, "contact": [] });
    let answer = newcomer
        .post(&daemon.site.url("new-account"), asked)
        .await
        .expect(201);
    let url = answer.location();
    assert_eq!(
        answer.json(),
        json!({ "status": "valid", "orders": format!("{url}/orders") })
    );
}

#[tokio::test]
async fn e8_an_account_can_be_read_and_its_contacts_changed() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let url = client.kid().to_owned();
    let object = client.look(&url).await;
    assert_eq!(client.post(&url, json!({})).await.expect(200).json(), object);
    let changed = client
        .post(
            &url,
            json!({ "contact": ["mailto:new@example.com"], "status": "valid" }),
        )
        .await;
    assert_eq!(
        changed.expect(200).json()["contact"],
        json!(["mailto:new@example.com"])
    );
    client
        .post(&url, json!({ "contact": ["mailto:bad"] }))
        .await
        .problem(400, "invalidContact");
    assert_eq!(
        client.look(&url).await["contact"],
        json!(["mailto:new@example.com"])
    );
    client.post(&url, json!({ "contact": [] })).await.expect(200);
    assert_eq!(client.look(&url).await, object);
}

#[tokio::test]
async fn c311_a_client_can_set_no_status_but_deactivated() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    for status in [
        json!("revoked"),
        json!("foo"),
        json!(""),
        json!("Deactivated"),
        json!(1),
        json!(["deactivated"]),
    ] {
        let answer = client.post(client.kid(), json!({ "status": status })).await;
        answer.problem(400, "malformed");
    }
    assert_eq!(client.look(client.kid()).await["status"], "valid");
}

#[tokio::test]
async fn c310_e9_e13_nobody_reads_or_changes_anothers_account() {
    let daemon = Daemon::start().await;
    let (owner, other) = tokio::join!(daemon.account(), daemon.account());
    owner.order(&["www.example.com"]).await;
    let missing = daemon.site.url("account/00000000000000000000000000000001");
    for url in [
        owner.kid(),
        &format!("{}/orders", owner.kid()),
        &missing,
        &format!("{missing}/orders"),
    ] {
        other.post(url, GET).await.problem(403, "unauthorized");
    }
    for change in [
        json!({ "status": "deactivated" }),
        json!({ "contact": ["mailto:evil@example.com"] }),
    ] {
        other.post(owner.kid(), change).await.problem(403, "unauthorized");
    }
    let owned = owner.look(owner.kid()).await;
    assert_eq!(
        (&owned["status"], &owned["contact"]),
        (&json!("valid"), &json!(null))
    );
}

#[tokio::test]
async fn c306_e10_e11_a_deactivated_account_gets_401_everywhere() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["old.example.com"]).await;
    let ready = client.ready(&daemon, &["ready.example.com"]).await;
    let pending = client.order(&["pending.example.com"]).await;
    let (challenge, _) = client.challenge(&pending.authorizations[0]).await;
    let answer = client
        .post(client.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    assert_eq!(answer.json()["status"], "deactivated");

    let before = (daemon.ca.stats().orders_opened, daemon.web.looks());
    let csr = crate::harness::key::b64(csr::plain(&Key::new(), &["ready.example.com"]));
    let certificate = crate::harness::key::b64(&issued.leaf);
    let orders = format!("{}/orders", client.kid());
    let site = &daemon.site;
    let requests = [
        (client.kid(), json!({ "status": "deactivated" })),
        (
            &site.url("new-order"),
            json!({ "identifiers": [{ "type": "dns", "value": "new.example.com" }] }),
        ),
        (&ready.finalize, json!({ "csr": csr })),
        (&challenge, json!({})),
        (&pending.authorizations[0], json!({ "status": "deactivated" })),
        (&site.url("revoke-cert"), json!({ "certificate": certificate })),
        (&site.url("key-change"), json!({})),
        (&site.url("order/none/finalize"), json!({})),
    ];
    for (url, payload) in requests {
        client.post(url, payload).await.problem(401, "unauthorized");
    }
    let looks = [
        client.kid(),
        &orders,
        &ready.url,
        &ready.authorizations[0],
        &challenge,
        &issued.url,
        &site.url("new-nonce"),
        &site.url("directory"),
        &site.url("order/none"),
        &site.url("account/none"),
        &site.url("authz/none"),
        &site.url("challenge/none/http-01"),
        &site.url("certificate/none"),
    ];
    for url in looks {
        client.post(url, GET).await.problem(401, "unauthorized");
    }
    let keyed = Client::new(site, Arc::clone(&client.key), None);
    for payload in [json!({}), json!({ "onlyReturnExisting": true })] {
        keyed
            .post(&site.url("new-account"), payload)
            .await
            .problem(401, "unauthorized");
    }
    assert_eq!(
        (daemon.ca.stats().orders_opened, daemon.web.looks()),
        before,
        "nothing went out"
    );
}

#[tokio::test]
async fn e12_an_order_that_waits_for_the_ca_ends_when_its_account_is_deactivated() {
    let daemon = Daemon::start_with_slow_ca(Duration::from_secs(3)).await;
    let names = ["www.example.com"];
    // Orders for the same names stand in line: the second one waits until the CA has issued the first one's.
    let (first, second, third) = tokio::join!(daemon.account(), daemon.account(), daemon.account());
    let mut orders = Vec::new();
    for client in [&first, &second, &third] {
        let order = client.ready(&daemon, &names).await;
        orders.push(order);
    }
    for (client, order) in [&first, &second, &third].into_iter().zip(&orders) {
        let csr = csr::plain(&Key::new(), &names);
        client.finalize(order, &csr).await.expect(200);
    }
    second
        .post(second.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    first.until(&orders[0].url, "valid").await;
    third.until(&orders[2].url, "valid").await;
    assert_eq!(daemon.ca.stats().orders_opened, 2);
}

#[tokio::test]
async fn e13_the_orders_list_has_pages_of_ones_own_orders() {
    let daemon = Daemon::start().await;
    let (client, other) = tokio::join!(daemon.account(), daemon.account());
    other.order(&["other.example.com"]).await;
    let mut made = HashSet::new();
    for _ in 0..103 {
        made.insert(client.order(&["www.example.com"]).await.url);
    }
    // The first ones end before they are finalized: they are not listed, and leave gaps.
    let ended: Vec<String> = made.iter().take(3).cloned().collect();
    for url in &ended {
        let authorization = client.look(url).await["authorizations"][0].clone();
        client
            .post(
                authorization.as_str().unwrap(),
                json!({ "status": "deactivated" }),
            )
            .await
            .expect(200);
        made.remove(url);
    }
    let mut listed = HashSet::new();
    let mut page = format!("{}/orders", client.kid());
    loop {
        let answer = client.post(&page, GET).await.expect(200);
        for url in answer.json()["orders"].as_array().unwrap() {
            assert!(
                listed.insert(url.as_str().unwrap().to_owned()),
                "{url} is listed twice"
            );
        }
        match answer.link("next") {
            Some(next) => page = next,
            None => break,
        }
    }
    // A page starts after a place, not at an order: it may be anybody's, and gone.
    let first = client.post(&format!("{}/orders", client.kid()), GET).await;
    let second = client.look(&page).await;
    let cursor = page.rsplit('=').next().unwrap();
    let gone = format!("{:032x}", u128::from_str_radix(cursor, 16).unwrap() + 1);
    assert_eq!(client.look(&page.replace(cursor, &gone)).await, second);
    let foreign = other.order(&["other.example.com"]).await.url;
    let foreign = foreign.rsplit('/').next().unwrap();
    let rest = client.look(&page.replace(cursor, foreign)).await;
    let rest = rest["orders"].as_array().unwrap();
    let own = |url: &Value| made.contains(url.as_str().unwrap());
    assert!(rest.iter().all(own), "{rest:?}");
    assert_eq!(first.link("next").as_ref(), Some(&page));
    other.post(&page, GET).await.problem(403, "unauthorized");
    assert_eq!(listed, made);
    assert!(page.contains("?cursor="), "103 orders do not fit on one page");
}

#[tokio::test]
async fn an_account_is_known_under_its_own_provisioner_only() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let elsewhere = format!("https://{}/acme/other/new-order", daemon.site.authority());
    let payload = json!({ "identifiers": [{ "type": "dns", "value": "www.example.com" }] });
    client
        .post(&elsewhere, payload)
        .await
        .problem(400, "accountDoesNotExist");
    let id = client.kid().rsplit('/').next().unwrap();
    let kid = format!("https://{}/acme/other/account/{id}", daemon.site.authority());
    let moved = Client::new(&daemon.site, Arc::clone(&client.key), Some(kid));
    moved
        .post(&elsewhere, json!({ "identifiers": [] }))
        .await
        .problem(400, "accountDoesNotExist");
}
