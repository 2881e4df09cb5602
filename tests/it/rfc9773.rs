//! RFC 9773 over the wire: when to renew, and what replaces what (CONFORMANCE N, SECURITY C415).

use std::time::Duration;

use acme_proxy::acme::certificate::Der;
use acme_proxy::acme::renewal::CertificateId;
use acme_proxy::clock::Clock;
use jiff::Timestamp;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::ca::{self, Window};
use crate::harness::client::{Client, GET, Issued, Order, PATIENCE};
use crate::harness::csr;
use crate::harness::key::b64;
use crate::harness::server::{Daemon, Plan};

#[expect(clippy::disallowed_methods, reason = "the CA's certificates begin now")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn id_of(issued: &Issued) -> String {
    let id = CertificateId::of(&Der::new(issued.leaf.clone()));
    id.unwrap().to_string()
}

async fn renewal_info(daemon: &Daemon, id: &str) -> Answer {
    daemon.site.get(&format!("/acme/acme/renewal-info/{id}")).await
}

/// Start and end of the suggested window.
fn window(answer: &Answer) -> (Timestamp, Timestamp) {
    let object = answer.json();
    let time = |member: &str| {
        object["suggestedWindow"][member]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    (time("start"), time("end"))
}

async fn ask_for(client: &Client, names: &[&str], replaces: &str) -> Answer {
    let wishes = json!({ "replaces": replaces });
    client.ask_order_wishing(names, wishes).await
}

async fn give_up(client: &Client, order: &Answer) {
    let status = json!({ "status": "deactivated" });
    let authorization = &Order::of(order).authorizations[0];
    client.post(authorization, status).await.expect(200);
}

#[tokio::test]
async fn n1_n2_anybody_may_ask_when_to_renew_a_certificate_and_gets_a_window_in_its_last_third() {
    let daemon = Daemon::start().await;
    let directory = daemon.site.get("/acme/acme/directory").await.json();
    assert_eq!(directory["renewalInfo"], daemon.site.url("renewal-info"));
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let id = id_of(&issued);
    let answer = renewal_info(&daemon, &id).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("retry-after"), Some("21600"));
    let object = client.look(&issued.order.url).await;
    let time = |member: &str| object[member].as_str().unwrap().parse::<Timestamp>().unwrap();
    let (from, to) = (time("notBefore"), time("notAfter"));
    let life = to.as_second() - from.as_second();
    let (start, end) = window(&answer);
    assert!(start < end, "N5");
    assert!(from.as_second() + life * 6 / 10 < start.as_second(), "{start}");
    assert!(end.as_second() < from.as_second() + life * 3 / 4, "{end}");
    let again = renewal_info(&daemon, &id).await;
    assert_eq!(window(&again), (start, end), "it stays where it is");

    let other = client.issue(&daemon, &["www.example.com"]).await;
    assert_ne!(
        window(&renewal_info(&daemon, &id_of(&other)).await),
        (start, end),
        "each certificate has its own"
    );
    for wrong in [
        "x",
        "a.b.c",
        &format!("{id}="),
        &format!("{id}.AA"),
        "%00.AA",
        &id.replace('.', ""),
    ] {
        renewal_info(&daemon, wrong).await.problem(400, "malformed");
    }
    let unknown = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";
    renewal_info(&daemon, unknown).await.problem(404, "malformed");
    let elsewhere = format!("/acme/other/renewal-info/{id}");
    daemon.site.get(&elsewhere).await.problem(404, "malformed");
    let url = format!("{}/{id}", daemon.site.url("renewal-info"));
    let posted = client.post(&url, GET).await;
    posted.problem(405, "malformed");
    assert_eq!(posted.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn n3_a_revoked_certificates_window_is_over() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let payload = json!({ "certificate": b64(&issued.leaf) });
    let url = daemon.site.url("revoke-cert");
    client.post(&url, payload).await.expect(200);
    let (start, end) = window(&renewal_info(&daemon, &id_of(&issued)).await.expect(200));
    assert!(start < end && end < now());
}

#[tokio::test]
async fn n4_c415_a_replacement_is_the_same_accounts_shares_a_name_and_says_what_it_replaces() {
    let daemon = Daemon::start().await;
    let (client, other) = (daemon.account().await, daemon.account().await);
    let issued = client
        .issue(&daemon, &["www.example.com", "mail.example.com"])
        .await;
    let id = id_of(&issued);
    let www = ["www.example.com"];
    for wrong in [
        "",
        "x",
        "a.b.c",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE",
        &format!("{id}="),
    ] {
        ask_for(&client, &www, wrong).await.problem(400, "malformed");
    }
    let wrong_type = client.ask_order_wishing(&www, json!({ "replaces": 7 })).await;
    wrong_type.problem(400, "malformed");
    ask_for(&other, &www, &id).await.problem(403, "unauthorized");
    let strange = ask_for(&client, &["else.example.com"], &id).await;
    strange.problem(400, "malformed");

    let answer = ask_for(&client, &["new.example.com", "www.example.com"], &id)
        .await
        .expect(201);
    assert_eq!(answer.json()["replaces"], id);
    assert_eq!(client.look(&answer.location()).await["replaces"], id);
    ask_for(&client, &www, &id).await.problem(409, "alreadyReplaced");

    // The whole way, after a restart, and the object says it to the end.
    give_up(&client, &answer).await;
    let answer = ask_for(&client, &www, &id).await.expect(201);
    let valid = client.obtain(&daemon, &answer, &www).await;
    assert_eq!(valid["replaces"], id);
    let daemon = daemon.restart().await;
    let client = client.clone();
    ask_for(&client, &www, &id).await.problem(409, "alreadyReplaced");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_of_many_replacements_at_once_there_is_one_and_a_failed_one_makes_way() {
    let clock = Clock::by_hand(now());
    let daemon = Daemon::start_with(Plan {
        clock: clock.clone(),
        ..Plan::default()
    })
    .await;
    let client = daemon.account().await;
    let id = id_of(&client.issue(&daemon, &["www.example.com"]).await);
    let many = (0..20).map(|_| {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { ask_for(&client, &["www.example.com"], &id).await })
    });
    let many: Vec<_> = many.collect();
    let mut winner = None;
    for answer in many {
        let answer = answer.await.unwrap();
        match answer.status {
            201 => assert!(winner.replace(answer).is_none(), "two replacements"),
            _ => drop(answer.problem(409, "alreadyReplaced")),
        }
    }
    give_up(&client, &winner.unwrap()).await;
    // One that is given up, and one that has expired.
    ask_for(&client, &["www.example.com"], &id).await.expect(201);
    ask_for(&client, &["www.example.com"], &id)
        .await
        .problem(409, "alreadyReplaced");
    clock.advance(Duration::from_secs(24 * 3600));
    ask_for(&client, &["www.example.com"], &id).await.expect(201);
    ask_for(&client, &["www.example.com"], &id)
        .await
        .problem(409, "alreadyReplaced");
}

#[tokio::test]
async fn n4_h17_a_replacement_with_a_name_more_is_a_renewal_for_the_limits() {
    let daemon = Daemon::start_with(Plan {
        limits: Some(json!({ "orders_per_account_per_hour": 1 })),
        ..Plan::default()
    })
    .await;
    let client = daemon.account().await;
    let id = id_of(&client.issue(&daemon, &["www.example.com"]).await);
    let names = ["www.example.com", "more.example.com"];
    client.ask_order(&names).await.problem(429, "rateLimited");
    ask_for(&client, &names, &id).await.expect(201);
}

/// A daemon whose CA says when to renew.
async fn advised() -> (Daemon, Clock) {
    let clock = Clock::by_hand(now());
    let plan = Plan {
        clock: clock.clone(),
        ca: ca::Options {
            renewal_info: true,
            ..ca::Options::default()
        },
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, clock)
}

fn suggested(hours: u64) -> Window {
    let start = Timestamp::from_second(now().as_second()).unwrap() + Duration::from_secs(hours * 3600);
    Window {
        start,
        end: start + Duration::from_secs(3600),
        explanation: Some(format!("https://ca.example/{hours}")),
    }
}

/// Waits until the certificate has the CA's window.
async fn has(daemon: &Daemon, id: &str, wanted: &Window) {
    let waiting = async {
        loop {
            let answer = renewal_info(daemon, id).await.expect(200);
            if window(&answer) == (wanted.start, wanted.end) {
                assert_eq!(
                    answer.json()["explanationURL"].as_str(),
                    wanted.explanation.as_deref()
                );
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("the CA's window is not served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_the_cas_window_is_served_and_however_many_ask_the_ca_is_asked_once_in_its_own_time() {
    let (mut daemon, clock) = advised().await;
    let (first, second) = (suggested(5), suggested(500));
    daemon.ca.suggests(first.clone());
    let client = daemon.account().await;
    let id = id_of(&client.issue(&daemon, &["www.example.com"]).await);
    has(&daemon, &id, &first).await;
    daemon.ca.suggests(second.clone());
    for _ in 0..200 {
        renewal_info(&daemon, &id).await.expect(200);
    }
    daemon = daemon.restart().await;
    has(&daemon, &id, &first).await;
    assert_eq!(daemon.ca.asked(Step::RenewalInfo), 1);
    clock.advance(Duration::from_secs(6 * 3600));
    has(&daemon, &id, &second).await;
    assert_eq!(daemon.ca.asked(Step::RenewalInfo), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_a_ca_that_gives_no_good_window_leaves_the_last_one_or_ours() {
    let (daemon, clock) = advised().await;
    let turned = Twist::json(|body| {
        let window = body["suggestedWindow"].clone();
        body["suggestedWindow"] = json!({ "start": window["end"], "end": window["start"] });
    });
    let good = suggested(5);
    daemon.ca.suggests(good.clone());
    daemon.ca.will(Step::RenewalInfo, Times::Next(1), turned);
    let client = daemon.account().await;
    let id = id_of(&client.issue(&daemon, &["www.example.com"]).await);
    let ours = window(&renewal_info(&daemon, &id).await.expect(200));
    let asked = async |times| {
        let waiting = async {
            while daemon.ca.asked(Step::RenewalInfo) < times {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the CA is not asked");
    };
    asked(1).await;
    assert_eq!(window(&renewal_info(&daemon, &id).await), ours);
    clock.advance(Duration::from_secs(3600));
    has(&daemon, &id, &good).await;
    let gone = Problem::new(404, "malformed", "unknown");
    daemon
        .ca
        .will(Step::RenewalInfo, Times::Always, Twist::Refuse(gone));
    clock.advance(Duration::from_secs(6 * 3600));
    asked(3).await;
    has(&daemon, &id, &good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_the_ca_hears_what_is_replaced_and_its_refusal_costs_no_certificate() {
    let (daemon, _) = advised().await;
    let client = daemon.account().await;
    let www = ["www.example.com"];
    let mut id = id_of(&client.issue(&daemon, &www).await);
    has_offers(&daemon).await;
    for refused in [false, true] {
        if refused {
            let taken = Problem::new(409, "alreadyReplaced", "by somebody");
            daemon
                .ca
                .will(Step::NewOrder, Times::Next(1), Twist::Refuse(taken));
        }
        let answer = ask_for(&client, &www, &id).await.expect(201);
        let valid = client.obtain(&daemon, &answer, &www).await;
        assert_eq!(valid["replaces"], id);
        let orders = daemon.ca.stats().orders;
        let told = orders.last().unwrap().terms.replaces.clone();
        assert_eq!(told, (!refused).then_some(id.clone()));
        let leaf = Der::new(csr::first_of_pem(&client.chain(&valid).await));
        id = CertificateId::of(&leaf).unwrap().to_string();
    }
}

/// Waits until the daemon has read the CA's directory: it asks about certificates only then.
async fn has_offers(daemon: &Daemon) {
    let waiting = async {
        while daemon.ca.asked(Step::RenewalInfo) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the CA is not asked");
}
