//! RFC 8555 §6.6: rate limits. Each is 429 `rateLimited` with a `Retry-After` that holds, leaves no trace in the store,
//! and concerns nobody else (CONFORMANCE H9, H17; SECURITY C101, C108, C417, T1).

use std::net::Ipv4Addr;
use std::time::Duration;

use acme_proxy::clock::Clock;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::client::{Client, PATIENCE};
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::server::{Daemon, Plan};
use crate::harness::wire::{Connection, Site};

/// A daemon with these limits, and the clock to move.
async fn limited(limits: Value) -> (Daemon, Clock) {
    let clock = Clock::by_hand(Clock::system().now());
    let plan = Plan {
        clock: clock.clone(),
        limits: Some(limits),
        provisioner: Some(json!({ "website": "https://www.example.com/certificates" })),
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, clock)
}

/// The answer is 429, says which limit, and how long to wait: so long. `Retry-After` says so, too, or up to half a minute
/// more, so that not all who are refused come back at once.
#[track_caller]
fn refused(answer: &Answer, limit: &str) -> Duration {
    let detail = answer.problem(429, "rateLimited")["detail"].to_string();
    assert!(detail.contains(&format!("limits.{limit}")), "{detail}");
    let (_, wait) = detail.split_once("try again in ").unwrap();
    let (seconds, _) = wait.split_once(" seconds").unwrap();
    let seconds = seconds.parse().unwrap();
    assert!(seconds > 0);
    let told: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((seconds..=seconds + 30).contains(&told), "{told}: {detail}");
    let help = answer.link("help");
    assert_eq!(help.as_deref(), Some("https://www.example.com/certificates"));
    Duration::from_secs(seconds)
}

fn from(daemon: &Daemon, address: [u8; 4]) -> Site {
    Site {
        from: Some(Ipv4Addr::from(address)),
        ..daemon.site.clone()
    }
}

async fn register(client: &Client) -> Answer {
    client.post(&client.site.url("new-account"), json!({})).await
}

#[tokio::test]
async fn h17_new_accounts_of_one_address() {
    let (daemon, clock) = limited(json!({ "accounts_per_address_per_hour": 2 })).await;
    let known = daemon.account().await;
    daemon.account().await;
    let stranger = Client::stranger(&daemon.site);
    let wait = refused(&register(&stranger).await, "accounts_per_address_per_hour");
    assert_eq!(wait, Duration::from_secs(1800));
    let lookup = json!({ "onlyReturnExisting": true });
    let found = stranger.post(&stranger.site.url("new-account"), lookup).await;
    found.problem(400, "accountDoesNotExist");

    let holder = Client::new(&daemon.site, known.key.clone(), None);
    assert_eq!(register(&holder).await.expect(200).location(), known.kid());
    register(&Client::stranger(&from(&daemon, [127, 0, 0, 9])))
        .await
        .expect(201);
    let headers = [
        ("Content-Type", "application/jose+json"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
    ];
    let url = stranger.site.url("new-account");
    let body = stranger.signed(&url, &stranger.nonce().await, json!({}));
    let answer = stranger
        .send("POST", stranger.site.path_of(&url), &headers, &body)
        .await;
    refused(&answer, "accounts_per_address_per_hour");

    clock.advance(wait - Duration::from_secs(1));
    let rest = refused(&register(&stranger).await, "accounts_per_address_per_hour");
    assert_eq!(rest, Duration::from_secs(1));
    clock.advance(rest);
    register(&stranger).await.expect(201);
}

#[tokio::test]
async fn h17_orders_of_one_account_but_not_renewals() {
    let (daemon, clock) = limited(json!({ "orders_per_account_per_hour": 3 })).await;
    let client = daemon.account().await;
    let renewed = ["www.example.com", "mail.example.com"];
    client.issue(&daemon, &renewed).await;
    client.order(&["a.example.com"]).await;
    client.order(&["b.example.com"]).await;
    let orders = client.look(&format!("{}/orders", client.kid())).await;
    let wait = refused(
        &client.ask_order(&["c.example.com"]).await,
        "orders_per_account_per_hour",
    );
    assert_eq!(wait, Duration::from_secs(1200));
    for _ in 0..5 {
        client.order(&["mail.example.com", "www.example.com"]).await;
    }
    for other in [
        &["www.example.com"][..],
        &["www.example.com", "mail.example.com", "c.example.com"],
    ] {
        refused(&client.ask_order(other).await, "orders_per_account_per_hour");
    }
    let after = client.look(&format!("{}/orders", client.kid())).await;
    let count = |orders: &Value| orders["orders"].as_array().unwrap().len();
    assert_eq!(count(&after), count(&orders) + 5, "refusals leave nothing behind");

    let other = daemon.account().await;
    for name in ["a.example.com", "b.example.com", "c.example.com"] {
        other.order(&[name]).await;
    }
    refused(&other.ask_order(&renewed).await, "orders_per_account_per_hour");
    clock.advance(wait);
    client.order(&["c.example.com"]).await;
    refused(
        &client.ask_order(&["d.example.com"]).await,
        "orders_per_account_per_hour",
    );
}

#[tokio::test]
async fn c417_h17_a_client_that_renews_in_a_loop_has_the_limit_of_all_orders() {
    let (daemon, clock) = limited(json!({ "orders_per_account_per_hour": 3 })).await;
    let client = daemon.account().await;
    client.issue(&daemon, &["www.example.com"]).await;
    client.issue(&daemon, &["mail.example.com"]).await;
    for _ in 0..10 + 1 {
        client.order(&["www.example.com"]).await;
    }
    refused(
        &client.ask_order(&["www.example.com"]).await,
        "orders_per_account_per_hour",
    );
    client.order(&["mail.example.com"]).await;
    clock.advance(Duration::from_secs(360));
    client.order(&["www.example.com"]).await;
}

#[tokio::test]
async fn c417_h17_pending_orders_of_one_account() {
    let (daemon, clock) = limited(json!({ "pending_orders_per_account": 2 })).await;
    let client = daemon.account().await;
    let failing = client.order(&["a.example.com"]).await;
    clock.advance(Duration::from_secs(600));
    client.order(&["b.example.com"]).await;
    let wait = refused(
        &client.ask_order(&["c.example.com"]).await,
        "pending_orders_per_account",
    );
    assert_eq!(
        wait,
        Duration::from_secs(24 * 3600 - 600),
        "until the first one expires"
    );
    daemon.account().await.order(&["c.example.com"]).await;
    fail(&daemon, &client, &failing.authorizations[0]).await;
    clock.advance(Duration::from_secs(10));
    let third = client.ready(&daemon, &["c.example.com"]).await;
    refused(
        &client.ask_order(&["d.example.com"]).await,
        "pending_orders_per_account",
    );
    let csr = csr::plain(&Key::new(), &["c.example.com"]);
    client.finalize(&third, &csr).await.expect(200);
    client.order(&["d.example.com"]).await;
    let answer = client.ask_order(&["e.example.com"]).await;
    clock.advance(refused(&answer, "pending_orders_per_account"));
    client.order(&["e.example.com"]).await;
}

/// Has the authorization's challenge validated where there is something else, and waits for the end.
async fn fail(daemon: &Daemon, client: &Client, authorization: &str) {
    let (url, token) = client.challenge(authorization).await;
    daemon.web.publish(&token, "something else");
    client.post(&url, json!({})).await.expect(200);
    client.until(authorization, "invalid").await;
}

#[tokio::test]
async fn h17_failed_validations_of_one_name_by_one_account() {
    const LIMIT: &str = "failed_validations_per_name_per_hour";
    let (daemon, clock) = limited(json!({ LIMIT: 3 })).await;
    let client = daemon.account().await;
    // What succeeds, or was never tried, does not count.
    for _ in 0..4 {
        client.ready(&daemon, &["www.example.com"]).await;
        client.order(&["www.example.com"]).await;
    }
    let spare = client.order(&["www.example.com"]).await;
    for _ in 0..3 {
        let order = client.order(&["www.example.com", "mail.example.com"]).await;
        fail(&daemon, &client, &order.authorizations[0]).await;
        clock.advance(Duration::from_secs(60));
    }
    let answer = client.ask_order(&["mail.example.com", "www.example.com"]).await;
    let wait = refused(&answer, LIMIT);
    assert_eq!(
        wait,
        Duration::from_secs(3600 - 180),
        "until the first failure is an hour old"
    );
    let looks = daemon.web.looks();
    let (challenge, _) = client.challenge(&spare.authorizations[0]).await;
    refused(&client.post(&challenge, json!({})).await, LIMIT);
    assert_eq!(
        client.look(&spare.url).await["status"],
        "pending",
        "the order that is there can wait"
    );
    assert_eq!(daemon.web.looks(), looks);
    client.order(&["mail.example.com"]).await;
    daemon.account().await.ready(&daemon, &["www.example.com"]).await;
    clock.advance(wait - Duration::from_secs(1));
    refused(&client.ask_order(&["www.example.com"]).await, LIMIT);
    clock.advance(Duration::from_secs(1));
    client.ready(&daemon, &["www.example.com"]).await;
}

#[tokio::test]
async fn t1_validations_of_one_name_that_are_under_way_are_no_way_around_the_limit_of_failed_ones() {
    const LIMIT: &str = "failed_validations_per_name_per_hour";
    let (daemon, _) = limited(json!({ LIMIT: 1 })).await;
    let client = daemon.account().await;
    let mut challenges = Vec::new();
    for _ in 0..5 {
        let order = client.order(&["www.example.com"]).await;
        let url = client.publish(&daemon, &order.authorizations[0]).await;
        challenges.push((order, url));
    }
    let held = daemon.web.hold().await;
    let (last, last_url) = challenges.pop().unwrap();
    for (_, url) in &challenges {
        client.post(url, json!({})).await.expect(200);
    }
    let wait = refused(&client.post(&last_url, json!({})).await, LIMIT);
    assert_eq!(wait, Duration::from_secs(10));
    assert_eq!(client.look(&last.url).await["status"], "pending");
    drop(held);
    for (order, _) in &challenges {
        client.until(&order.url, "ready").await;
    }
    client.post(&last_url, json!({})).await.expect(200);
    client.until(&last.url, "ready").await;
}

#[tokio::test]
async fn h9_c401_names_in_one_order() {
    let (daemon, _) = limited(json!({ "names_per_order": 2 })).await;
    let client = daemon.account().await;
    client.order(&["a.example.com", "b.example.com"]).await;
    let answer = client
        .ask_order(&["a.example.com", "b.example.com", "c.example.com"])
        .await;
    let problem = answer.problem(400, "malformed");
    assert!(problem["detail"].to_string().contains("at most 2"), "{problem}");
}

/// Whether the daemon takes on a connection.
async fn is_admitted(site: &Site) -> bool {
    site.connect_with(site.tls(&["http/1.1"])).await.is_ok()
}

#[tokio::test]
async fn t1_flood_bad_signatures_of_one_address_are_refused_unread_and_its_connections_closed() {
    const LIMIT: &str = "bad_requests_per_address_per_minute";
    let (daemon, clock) = limited(json!({ LIMIT: 4 })).await;
    let client = daemon.account().await;
    let url = client.site.url("new-order");
    for _ in 0..10 {
        let stale = client.signed(&url, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", json!({}));
        client.post_body(&url, &stale).await.problem(400, "badNonce");
    }
    let liar = Client::new(&daemon.site, Key::new().into(), client.kid.clone());
    for _ in 0..2 {
        liar.post(&url, json!({})).await.problem(400, "malformed");
        liar.post_body(&url, b"{}").await.problem(400, "malformed");
    }
    // The limit holds for whoever has the address, even on a connection that is open already.
    let honest = client.ask_order(&["a.example.com"]).await;
    let wait = refused(&honest, LIMIT);
    assert_eq!(wait, Duration::from_secs(15 + 10), "with ten seconds on top");
    assert_eq!(honest.header("connection"), Some("close"));
    assert!(!is_admitted(&daemon.site).await);
    let other = Client::new(
        &from(&daemon, [127, 0, 0, 9]),
        client.key.clone(),
        client.kid.clone(),
    );
    other.order(&["a.example.com"]).await;
    clock.advance(wait);
    client.order(&["a.example.com"]).await;
    liar.post(&url, json!({})).await.problem(400, "malformed");
    assert!(!is_admitted(&daemon.site).await, "the bucket fills slowly");
    clock.advance(wait);
    client.order(&["a.example.com"]).await;
}

#[tokio::test]
async fn c101_connections_of_one_address_and_those_that_bring_no_request() {
    let limits = json!({ "connections_per_address": 3, "bad_requests_per_address_per_minute": 2 });
    let (daemon, _) = limited(limits).await;
    let slow = from(&daemon, [127, 0, 0, 8]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..3 {
        held.push(slow.connect().await);
    }
    assert!(!is_admitted(&slow).await);
    assert!(is_admitted(&daemon.site).await, "other addresses have their own");
    let Some(mut last) = held.pop() else { panic!() };
    last.write(&slow.head("GET", "/acme/acme/directory", &[("Connection", "close")], None))
        .await;
    assert_eq!(last.answer("GET").await.unwrap().status, 200);
    assert!(last.ends().await);
    let admitted = tokio::time::timeout(PATIENCE, async {
        loop {
            match slow.connect_with(slow.tls(&["http/1.1"])).await {
                Ok(connection) => break connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let used = admitted.await.unwrap();
    // Two that say nothing are two bad requests; the third's place stays free, but for nobody from there.
    drop(held);
    let closed = tokio::time::timeout(PATIENCE, async {
        while is_admitted(&slow).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    closed.await.unwrap();
    drop(used);
    assert!(is_admitted(&daemon.site).await);
}
