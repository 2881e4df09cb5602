//! The policy over the wire: networks that clients may call from, days and orders per name, at all three levels, asked at
//! new-order and again at finalization; and `acme-proxy policy explain`, which says what the server does (CONFORMANCE H8,
//! H10, H17; SECURITY C413, C417, I1).

mod explain;

use std::net::Ipv4Addr;
use std::time::Duration;

use acme_proxy::clock::Clock;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::answer::Answer;
use crate::harness::ca;
use crate::harness::client::{Client, Order};
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::server::{Daemon, Plan};
use crate::harness::wire::Site;

const WWW: [&str; 1] = ["www.example.com"];
const DAY: Duration = Duration::from_hours(24);

/// A daemon with this `authority.policy`.
async fn under(policy: Value) -> Daemon {
    Daemon::start_with(Plan {
        policy: Some(policy),
        ..Plan::default()
    })
    .await
}

/// The same client at another address.
fn moved(client: &Client, address: [u8; 4]) -> Client {
    let site = Site {
        from: Some(Ipv4Addr::from(address)),
        ..client.site.clone()
    };
    Client::new(&site, client.key.clone(), client.kid.clone())
}

async fn finalize(client: &Client, order: &Order) -> Answer {
    let key = Key::new();
    client.finalize(order, &csr::plain(&key, &WWW)).await
}

#[track_caller]
fn detail(answer: &Answer, status: u16, kind: &str) -> String {
    let problem = answer.problem(status, kind);
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn clients_of_other_networks_can_neither_register_nor_order_nor_finalize() {
    let daemon =
        under(json!({ "clients": { "allow": ["127.0.0.1", "127.1.0.0/16"], "deny": ["127.1.1.0/24"] } }))
            .await;
    let client = daemon.account().await;
    let order = client.ready(&daemon, &WWW).await;
    for (address, rule) in [
        ([127, 0, 0, 9], "authority.policy.clients.allow"),
        ([127, 1, 1, 9], "authority.policy.clients.deny[0]"),
    ] {
        let stranger = moved(&Client::stranger(&daemon.site), address);
        let there = moved(&client, address);
        let url = stranger.site.url("new-account");
        for answer in [
            stranger.post(&url, json!({})).await,
            there.ask_order(&WWW).await,
            finalize(&there, &order).await,
        ] {
            let detail = detail(&answer, 403, "unauthorized");
            let address = Ipv4Addr::from(address);
            assert!(
                detail.ends_with(&format!("your address, {address} ({rule})")),
                "{detail}"
            );
        }
        // What is there already can be looked at, and given up, from everywhere.
        assert_eq!(there.look(&order.url).await["status"], "ready");
        let known = there.post(&url, json!({ "onlyReturnExisting": true })).await;
        known.problem(400, "malformed");
    }
    let allowed = moved(&client, [127, 1, 2, 3]);
    let headers = [
        ("Content-Type", "application/jose+json"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
    ];
    let there = moved(&client, [127, 0, 0, 9]);
    let url = there.site.url("new-order");
    let wanted = json!({ "identifiers": [{ "type": "dns", "value": "www.example.com" }] });
    let body = there.signed(&url, &there.nonce().await, wanted);
    let answer = there
        .send("POST", there.site.path_of(&url), &headers, &body)
        .await;
    detail(&answer, 403, "unauthorized");
    assert_eq!(daemon.ca.stats().orders_opened, 0);
    finalize(&allowed, &order).await.expect(200);
    allowed.until(&order.url, "valid").await;
}

#[tokio::test]
async fn i1_what_has_been_denied_since_is_not_finalized_and_the_order_stays_ready() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.ready(&daemon, &WWW).await;
    let denial = json!({ "x509": { "deny": { "dns": ["mail.example.com", "www.example.com"] } } });
    let daemon = daemon
        .restart_with(|file| file["authority"]["policy"] = denial)
        .await;
    let client = client.clone();
    for _ in 0..2 {
        let refused = detail(&finalize(&client, &order).await, 400, "rejectedIdentifier");
        assert_eq!(
            refused,
            "www.example.com: the policy of this server denies this identifier (authority.policy.x509.deny.dns[1])"
        );
        assert_eq!(client.look(&order.url).await["status"], "ready");
    }
    assert_eq!(daemon.ca.stats().orders_opened, 0);
    let daemon = daemon
        .restart_with(|file| file["authority"]["policy"] = json!({}))
        .await;
    let client = client.clone();
    finalize(&client, &order).await.expect(200);
    // What is finalized is the worker's: no policy stops it any more.
    let denial = json!({ "x509": { "deny": { "dns": ["www.example.com"] } } });
    let _daemon = daemon
        .restart_with(|file| file["authority"]["policy"] = denial)
        .await;
    client.clone().until(&order.url, "valid").await;
}

/// A daemon before a CA that takes validities, or takes none.
async fn lasting(policy: Value, config: Value, lifetimes: bool) -> Daemon {
    Daemon::start_with(Plan {
        policy: Some(policy),
        ca: ca::Options {
            lifetimes,
            ..ca::Options::default()
        },
        more: Some(json!({ "authority": { "config": config } })),
        ..Plan::default()
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "the CA's certificates begin now")]
fn in_hours(hours: u64) -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    (now + Duration::from_hours(hours)).to_string()
}

/// Days until the end of a certificate for the name, of which nobody has asked for anything.
async fn days_of(daemon: &Daemon, client: &Client, name: &str) -> u64 {
    let made = client.ask_order(&[name]).await.expect(201);
    assert_eq!(made.json()["notAfter"], Value::Null, "no client has asked for it");
    let valid = client.obtain(daemon, &made, &[name]).await;
    let end = valid["notAfter"].as_str().unwrap();
    (1..=90)
        .find(|days| end < in_hours(24 * days + 1).as_str())
        .unwrap_or(u64::MAX)
}

#[tokio::test]
async fn h10_days_are_asked_of_the_ca_and_who_asks_for_more_is_refused() {
    let policy = json!({ "per_name": [
        { "dns": ["www.example.com", "mail.example.com"], "days": 10 },
        { "dns": ["mail.example.com"], "days": 5 },
    ] });
    let daemon = lasting(policy, json!({ "client_validity": true }), true).await;
    let client = daemon.account().await;
    assert_eq!(days_of(&daemon, &client, "www.example.com").await, 10);
    assert_eq!(
        days_of(&daemon, &client, "mail.example.com").await,
        5,
        "the shortest counts"
    );
    assert!(days_of(&daemon, &client, "free.example.com").await > 10);
    let ask = |names: &'static [&'static str], hours| {
        let client = &client;
        async move {
            client
                .ask_order_wishing(names, json!({ "notAfter": in_hours(hours) }))
                .await
        }
    };
    let short = ask(&WWW, 9 * 24).await.expect(201);
    let valid = client.obtain(&daemon, &short, &WWW).await;
    assert_eq!(valid["notAfter"], short.json()["notAfter"]);
    let refused = detail(&ask(&WWW, 10 * 24 + 1).await, 400, "malformed");
    assert_eq!(
        refused,
        "notAfter is too late: a certificate for www.example.com is valid for at most 10 days \
         (authority.policy.per_name[0])"
    );
    let refused = detail(
        &ask(&["free.example.com", "mail.example.com"], 6 * 24).await,
        400,
        "malformed",
    );
    assert!(
        refused.contains("mail.example.com is valid for at most 5 days"),
        "{refused}"
    );
    let later = json!({ "notBefore": in_hours(48), "notAfter": in_hours(11 * 24) });
    client.ask_order_wishing(&WWW, later).await.expect(201);
    // What was within the bound when it was ordered need not be when it is finalized.
    let made = ask(&WWW, 9 * 24).await;
    let order = Order::of(&made.expect(201));
    client.prove(&daemon, &order).await;
    let _daemon = daemon
        .restart_with(|file| file["authority"]["policy"]["per_name"][0]["days"] = 8.into())
        .await;
    let client = client.clone();
    let refused = detail(&finalize(&client, &order).await, 400, "malformed");
    assert!(refused.contains("at most 8 days"), "{refused}");
    assert_eq!(client.look(&order.url).await["status"], "ready");
}

#[tokio::test]
async fn h10_days_shorten_certlifetime_and_never_lengthen_it() {
    let policy = json!({ "per_name": [
        { "dns": ["www.example.com"], "days": 3 }, { "dns": ["mail.example.com"], "days": 30 },
    ] });
    let daemon = lasting(policy, json!({ "certlifetime": 20 }), true).await;
    let client = daemon.account().await;
    assert_eq!(days_of(&daemon, &client, "www.example.com").await, 3);
    assert_eq!(days_of(&daemon, &client, "mail.example.com").await, 20);
}

#[tokio::test]
async fn h10_a_ca_that_takes_no_dates_issues_nothing_for_a_name_with_days() {
    let policy = json!({ "per_name": [{ "dns": ["www.example.com"], "days": 3 }] });
    let daemon = lasting(policy, json!({ "certlifetime": 20 }), false).await;
    let client = daemon.account().await;
    let order = client.finalized(&daemon, &WWW).await;
    let ended = client.until(&order.url, "invalid").await;
    assert!(ended["error"]["detail"].is_string(), "{ended}");
    let mail = client.issue(&daemon, &["mail.example.com"]).await;
    assert!(
        !mail.pem.is_empty(),
        "certlifetime alone is left out for such a CA"
    );
}

/// A daemon with this `authority.policy`, and the clock to move.
async fn counting(policy: Value) -> (Daemon, Clock) {
    let clock = Clock::by_hand(Clock::system().now());
    let plan = Plan {
        clock: clock.clone(),
        policy: Some(policy),
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, clock)
}

/// The answer is 429, names the rule, and says how long to wait: so long.
#[track_caller]
fn used_up(answer: &Answer, rule: &str) -> Duration {
    let detail = detail(answer, 429, "rateLimited");
    assert!(
        detail.contains(&format!("the server's limit is {rule} in ca.json")),
        "{detail}"
    );
    let (_, wait) = detail.split_once("try again in ").unwrap();
    let seconds: u64 = wait.split(' ').next().unwrap().parse().unwrap();
    let told: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((seconds..=seconds + 30).contains(&told), "{told}: {detail}");
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn h17_c417_a_name_has_so_many_orders_whoever_makes_them_also_after_a_restart() {
    const RULE: &str = "authority.policy.per_name[0]";
    let limit = json!({ "dns": ["www.example.com"], "orders": 2, "within": "24h" });
    let (daemon, clock) = counting(json!({ "per_name": [limit] })).await;
    let (one, other) = (daemon.account().await, daemon.account().await);
    // Orders that nobody finalizes use up nothing: anybody can open them.
    for _ in 0..5 {
        other.order(&WWW).await;
    }
    one.issue(&daemon, &WWW).await;
    clock.advance(Duration::from_secs(3600));
    let waiting = one.ready(&daemon, &WWW).await;
    other
        .issue(&daemon, &["www.example.com", "mail.example.com"])
        .await;
    let wait = used_up(&one.ask_order(&WWW).await, RULE);
    assert_eq!(wait, DAY - Duration::from_secs(3600 - 1));
    used_up(
        &other.ask_order(&["web.example.com", "www.example.com"]).await,
        RULE,
    );
    used_up(&finalize(&one, &waiting).await, RULE);
    assert_eq!(one.look(&waiting.url).await["status"], "ready");
    one.issue(&daemon, &["mail.example.com"]).await;
    let daemon = daemon.restart().await;
    let one = one.clone();
    used_up(&one.ask_order(&WWW).await, RULE);
    clock.advance(wait - Duration::from_secs(2));
    used_up(&one.ask_order(&WWW).await, RULE);
    clock.advance(Duration::from_secs(2));
    one.issue(&daemon, &WWW).await;
    assert_eq!(
        used_up(&one.ask_order(&WWW).await, RULE),
        Duration::from_secs(3600),
        "until the second one has its day"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h17_of_orders_that_are_finalized_at_once_no_more_pass_than_may() {
    let daemon = under(json!({ "per_name": [{ "orders": 3, "within": "24h" }] })).await;
    let mut ready = Vec::new();
    for _ in 0..8 {
        let client = daemon.account().await;
        ready.push((client.ready(&daemon, &WWW).await, client));
    }
    let mut requests = JoinSet::new();
    for (order, client) in ready {
        requests.spawn(async move { (finalize(&client, &order).await, order, client) });
    }
    let done = requests.join_all().await;
    let count = |status| done.iter().filter(|(answer, ..)| answer.status == status).count();
    assert_eq!((count(200), count(429)), (3, 5));
    for (answer, order, client) in &done {
        let status = client.look(&order.url).await["status"].clone();
        assert_eq!(answer.status == 429, status == "ready", "{status}");
    }
}
