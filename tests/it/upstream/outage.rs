//! A CA that refuses, fails, waits or forgets: orders wait, each is bought once, and the CA is left alone when it asks
//! for it (SECURITY F1 to F5, F12, F47, F49; UPSTREAM rules 2, 4 and 5).

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::ca::wire::Raw;
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::key::b64;
use crate::upstream::scene::Finalized;
use crate::upstream::scene::Scene;

const MINUTE: Duration = Duration::from_secs(60);

/// The steps that every order takes at this CA.
const STEPS: [Step; 4] = [Step::NewOrder, Step::Order, Step::Finalize, Step::Certificate];

/// So many orders, each of a name of its own.
async fn finalized(scene: &Scene, count: usize) -> Vec<(String, Finalized)> {
    let mut orders = Vec::new();
    for number in 0..count {
        let name = format!("n{number}.example.com");
        let order = scene.finalized(&[&name]).await;
        orders.push((name, order));
    }
    orders
}

async fn all_issued(scene: &Scene, orders: &[(String, Finalized)]) {
    for (name, order) in orders {
        scene.issued(order, &[name]).await;
        scene.bought_once(&[name]);
    }
}

#[tokio::test]
async fn f2_f3_a_refusal_that_may_pass_at_any_step_costs_time_and_nothing_else() {
    let scene = Scene::new().await;
    let refusals = || {
        [
            Twist::Refuse(Problem::new(500, "serverInternal", "it broke")),
            Twist::Refuse(Problem::new(503, "serverInternal", "busy").after("20")),
            Twist::Refuse(Problem::new(429, "rateLimited", "slow down").after("20")),
            Twist::Refuse(Problem::new(403, "rateLimited", "slow down")),
            Twist::Refuse(Problem::new(
                405,
                "malformed",
                "what ZeroSSL says when it is busy",
            )),
            Twist::Instead(Answer::page(502)),
            Twist::Instead(Answer::page(504)),
            Twist::Instead(Answer::page(403)),
            Twist::Instead(Answer::page(404)),
            Twist::Refuse(Problem::new(400, "badNonce", "no")),
        ]
    };
    for step in STEPS {
        for (number, refusal) in refusals().into_iter().enumerate() {
            let name = format!("n{number}.{step:?}.example.com").to_lowercase();
            scene.will(step, Times::Next(1), refusal);
            let order = scene.finalized(&[&name]).await;
            scene.issued(&order, &[&name]).await;
            scene.bought_once(&[&name]);
        }
    }
}

#[tokio::test]
async fn f2_after_five_faults_one_probe_at_a_time_goes_to_the_ca_and_all_is_issued_in_the_end() {
    let scene = Scene::new().await;
    scene.ready().await;
    let broken = Problem::new(500, "serverInternal", "it broke");
    scene.will(Step::NewOrder, Times::Always, Twist::Refuse(broken));
    let orders = finalized(&scene, 12).await;
    scene
        .until("the breaker is open", async || scene.asked(Step::NewOrder) >= 12)
        .await;
    scene.pass(Duration::ZERO).await;
    for _ in 0..10 {
        let before = scene.asked(Step::NewOrder);
        // Longer than any pause of the breaker, so that every order is due.
        scene.pass(10 * MINUTE).await;
        let probes = scene.asked(Step::NewOrder) - before;
        assert!(probes <= 1, "{probes} at a time");
    }
    scene.daemon.ca.behaves();
    all_issued(&scene, &orders).await;
}

#[tokio::test]
async fn f3_a_429_at_one_order_pauses_all_of_them_and_new_ones_are_taken_on() {
    let scene = Scene::new().await;
    scene.ready().await;
    // As Google says it, in words alone (UPSTREAM 1.3).
    let google = Problem::new(429, "rateLimited", "Quota exceeded. Try again in 42.47s.");
    let usual = Problem::new(429, "rateLimited", "slow down").after("43");
    for (number, refusal) in [usual, google].into_iter().enumerate() {
        let names = [format!("a{number}.example.com"), format!("b{number}.example.com")];
        scene.will(Step::NewOrder, Times::Next(1), Twist::Refuse(refusal));
        let asked = scene.asked(Step::NewOrder);
        let first = scene.finalized(&[&names[0]]).await;
        scene
            .soon("it is refused", async || scene.asked(Step::NewOrder) > asked)
            .await;
        scene.pass(Duration::ZERO).await;
        let second = scene.finalized(&[&names[1]]).await;
        scene.pass(Duration::from_secs(41)).await;
        assert_eq!(scene.asked(Step::NewOrder), asked + 1, "the pause is not kept");
        assert_eq!(scene.look(&second).await["status"], "processing");
        scene.pass(Duration::from_secs(3)).await;
        scene
            .soon("both go on", async || scene.asked(Step::NewOrder) == asked + 3)
            .await;
        scene.issued(&first, &[&names[0]]).await;
        scene.issued(&second, &[&names[1]]).await;
    }
}

#[tokio::test]
async fn an_order_that_has_waited_in_line_for_long_is_looked_at_as_soon_as_any_other() {
    let scene = Scene::new().await;
    scene.ready().await;
    // The order that the CA shows as it is; all others take for ever.
    let ready = Arc::new(Mutex::new(String::new()));
    let shown_last = Arc::new(Mutex::new(String::new()));
    for step in [Step::Finalize, Step::Order] {
        let (ready, shown_last) = (ready.clone(), shown_last.clone());
        let twist = Twist::json(move |order| {
            let finalize = order["finalize"].to_string();
            if order["status"] == "valid" && finalize != *ready.lock().unwrap() {
                order["status"] = "processing".into();
            }
            *shown_last.lock().unwrap() = finalize;
        });
        scene.will(step, Times::Always, twist);
    }
    let name = ["www.example.com"];
    let (first, _second) = (scene.finalized(&name).await, scene.finalized(&name).await);
    scene
        .soon("the first is there", async || scene.asked(Step::Finalize) == 1)
        .await;
    scene.pass(20 * MINUTE).await;
    ready.lock().unwrap().clone_from(&shown_last.lock().unwrap());
    scene.issued(&first, &name).await;
    scene
        .until("its turn has come", async || scene.asked(Step::Finalize) == 2)
        .await;
    let before = scene.asked(Step::Order);
    for _ in 0..12 {
        scene.pass(Duration::from_secs(5)).await;
    }
    let looks = scene.asked(Step::Order) - before;
    assert!(looks >= 6, "{looks} looks in its first minute at the CA");
}

#[tokio::test]
async fn f4_with_half_of_all_nonces_refused_every_order_is_issued_once() {
    let scene = Scene::with(|ca| ca.bad_nonces = 50).await;
    let orders = finalized(&scene, 40).await;
    all_issued(&scene, &orders).await;
    assert_eq!(scene.daemon.ca.stats().accounts, 1);
}

#[tokio::test]
async fn f5_with_every_nonce_refused_the_ca_is_asked_once_a_second_at_most() {
    let scene = Scene::new().await;
    scene.ready().await;
    for step in STEPS {
        let bad = Problem::new(400, "badNonce", "no");
        scene.will(step, Times::Always, Twist::Refuse(bad));
    }
    let orders = finalized(&scene, 5).await;
    scene
        .until("the breaker is open", async || scene.asked(Step::NewOrder) >= 30)
        .await;
    let before = scene.asked_in_all();
    for _ in 0..40 {
        scene.pass(Duration::from_secs(3)).await;
    }
    let asked = scene.asked_in_all() - before;
    assert!(asked <= 120, "{asked} requests in two minutes");
    scene.daemon.ca.behaves();
    all_issued(&scene, &orders).await;
}

#[tokio::test]
async fn f12_what_the_ca_refuses_for_good_reaches_the_client_in_our_words() {
    let scene = Scene::new().await;
    let table = [
        ("caa", "caa"),
        ("rejectedIdentifier", "rejectedIdentifier"),
        ("unauthorized", "rejectedIdentifier"),
        ("badCSR", "badCSR"),
        ("badPublicKey", "badCSR"),
        ("unsupportedIdentifier", "unsupportedIdentifier"),
        ("dns", "serverInternal"),
        ("malformed", "serverInternal"),
        ("neverHeardOf", "serverInternal"),
    ];
    for (number, (said, told)) in table.into_iter().enumerate() {
        for (step, inside) in [
            (Step::NewOrder, false),
            (Step::Finalize, false),
            (Step::Order, true),
        ] {
            let name = format!("n{number}.{step:?}.example.com").to_lowercase();
            let twist = match inside {
                false => Twist::Refuse(Problem::new(403, said, "the CA's reason")),
                true => {
                    let dead = name.clone();
                    Twist::json(move |order| {
                        if order["identifiers"][0]["value"] == dead.as_str() {
                            order["status"] = "invalid".into();
                            let kind = format!("urn:ietf:params:acme:error:{said}");
                            order["error"] = json!({"type": kind, "detail": "the CA's reason"});
                        }
                    })
                }
            };
            let times = if inside { Times::Always } else { Times::Next(1) };
            scene.will(step, times, twist);
            let (kind, detail) = scene.failed(&scene.finalized(&[&name]).await).await;
            assert_eq!(kind, told, "{said} at {step:?}");
            assert!(detail.contains("the CA's reason"), "{said} at {step:?}: {detail}");
            assert!(scene.orders_at_ca(&[&name]).len() <= 1, "it is not tried again");
            scene.daemon.ca.behaves();
        }
    }
}

#[tokio::test]
async fn rule_4_an_order_that_is_dead_at_the_ca_without_a_reason_is_replaced_by_one_other() {
    let scene = Scene::new().await;
    let dead = Twist::json(|order| order["status"] = "invalid".into());
    scene.will(Step::Order, Times::Next(1), dead);
    let order = scene.finalized(&["www.example.com"]).await;
    scene.issued(&order, &["www.example.com"]).await;
    let opened = scene.orders_at_ca(&["www.example.com"]);
    let figures: Vec<_> = opened
        .iter()
        .map(|order| (order.finalizes, order.issued))
        .collect();
    assert_eq!(figures, [(0, 0), (1, 1)]);
}

/// The CA says this of the order, whatever it has done.
fn shown(status: &'static str) -> Twist {
    Twist::json(move |order| {
        order["status"] = status.into();
        order.as_object_mut().unwrap().remove("certificate");
    })
}

#[tokio::test]
async fn rule_4_an_order_that_a_replica_of_the_ca_does_not_show_is_not_bought_twice() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    scene.will(Step::Finalize, Times::Next(1), shown("processing"));
    // The second look, the third and the fourth.
    for _ in 0..3 {
        let unknown = Problem::new(404, "malformed", "no such order");
        scene.will(Step::Order, Times::Nth(2), Twist::Refuse(unknown));
    }
    let order = scene.finalized(&names).await;
    scene.issued(&order, &names).await;
    assert!(scene.asked(Step::Order) > 4);
    scene.bought_once(&names);
}

#[tokio::test]
async fn rule_4_an_order_that_the_ca_does_not_show_for_minutes_is_replaced_by_one_other() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    let unknown = Problem::new(404, "malformed", "no such order");
    scene.will(Step::Order, Times::Next(8), Twist::Refuse(unknown));
    let order = scene.finalized(&names).await;
    scene.issued(&order, &names).await;
    let opened = scene.orders_at_ca(&names);
    let figures: Vec<_> = opened
        .iter()
        .map(|order| (order.finalizes, order.issued))
        .collect();
    assert_eq!(figures, [(0, 0), (1, 1)]);
}

#[tokio::test]
async fn rule_4_a_csr_that_is_refused_while_the_ca_is_at_it_ends_the_order_and_not_the_certificate() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    scene.will(Step::Finalize, Times::Next(1), Twist::Raw(Raw::broken()));
    let busy = Problem::new(400, "malformed", "there is a CSR already");
    scene.will(Step::Finalize, Times::Next(1), Twist::Refuse(busy));
    // The second look and the third.
    for _ in 0..2 {
        scene.will(Step::Order, Times::Nth(2), shown("ready"));
    }
    let first = scene.finalized(&names).await;
    let (kind, detail) = scene.failed(&first).await;
    assert_eq!(kind, "serverInternal");
    assert!(detail.contains("there is a CSR already"), "{detail}");
    let order = scene.client.ready(&scene.daemon, &names).await;
    let csr = csr::plain(&first.key, &names);
    let answer = scene.client.finalize(&order, &csr).await.expect(200);
    let second = Finalized {
        order,
        key: first.key,
        answer,
    };
    scene.issued(&second, &names).await;
    scene.bought_once(&names);
}

#[tokio::test]
async fn rule_5_a_ca_that_lets_every_order_die_is_asked_for_fewer_and_fewer() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    scene.will(Step::Finalize, Times::Always, shown("processing"));
    let dead = Twist::json(|order| {
        if order["status"] == "valid" {
            order["status"] = "invalid".into();
        }
    });
    scene.will(Step::Order, Times::Always, dead);
    scene.finalized(&names).await;
    for _ in 0..30 {
        scene.pass(Duration::from_secs(10)).await;
    }
    let at_first = scene.orders_at_ca(&names).len();
    assert!((2..=8).contains(&at_first), "{at_first} orders in five minutes");
    for _ in 0..30 {
        scene.pass(MINUTE).await;
    }
    let later = scene.orders_at_ca(&names).len() - at_first;
    assert!((1..=8).contains(&later), "{later} orders in half an hour");
}

#[tokio::test]
async fn rule_5_an_order_that_takes_long_is_looked_at_less_often() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    scene.will(Step::Finalize, Times::Always, shown("processing"));
    scene.will(Step::Order, Times::Always, {
        Twist::json(|order| {
            if order["status"] == "valid" {
                order["status"] = "processing".into();
                order.as_object_mut().unwrap().remove("certificate");
            }
        })
    });
    let order = scene.finalized(&names).await;
    scene
        .soon("the CSR is sent", async || scene.asked(Step::Finalize) == 1)
        .await;
    scene.pass(60 * MINUTE).await;
    let looks = scene.asked(Step::Order);
    for _ in 0..25 {
        scene.pass(Duration::from_secs(2)).await;
    }
    let looks = scene.asked(Step::Order) - looks;
    assert!(looks <= 2, "{looks} looks in a minute");
    scene.daemon.ca.behaves();
    scene.issued(&order, &names).await;
    scene.bought_once(&names);
}

#[tokio::test]
async fn rule_5_an_order_that_never_works_holds_up_no_other_and_is_not_held_against_the_ca() {
    let scene = Scene::new().await;
    scene.ready().await;
    let broken = || {
        Twist::json(|order| match order["identifiers"][0]["value"].as_str() {
            Some("lost.example.com") => drop(order.as_object_mut().unwrap().remove("certificate")),
            Some("foreign.example.com") => order["certificate"] = "https://evil.example/certificate".into(),
            _ => {}
        })
    };
    for step in [Step::Finalize, Step::Order] {
        scene.will(step, Times::Always, broken());
    }
    let lost = scene.finalized(&["lost.example.com"]).await;
    let foreign = scene.finalized(&["foreign.example.com"]).await;
    scene
        .until("they have failed often", async || scene.asked(Step::Order) >= 14)
        .await;
    // Nothing is paused: the clock stands.
    let good = scene.finalized(&["good.example.com"]).await;
    scene
        .soon("another one is issued", async || {
            scene.look(&good).await["status"] == "valid"
        })
        .await;
    let open = "acme_proxy_upstream_breaker_open{upstream=\"default\"}";
    assert_eq!(scene.metric(open).await, 0.0);
    scene.daemon.ca.behaves();
    for (order, name) in [(&lost, "lost.example.com"), (&foreign, "foreign.example.com")] {
        scene.issued(order, &[name]).await;
        scene.bought_once(&[name]);
    }
}

#[tokio::test]
async fn rule_2_two_orders_for_the_same_names_never_share_one_at_a_ca_that_reuses_orders() {
    let scene = Scene::with(|ca| {
        ca.orders_reused = true;
        ca.processing = Duration::from_millis(200);
    })
    .await;
    let names = ["b.example.com", "a.example.com"];
    let turned = ["a.example.com", "b.example.com"];
    let mut orders = Vec::new();
    for number in 0..4 {
        let names = if number % 2 == 0 { names } else { turned };
        orders.push((names, scene.finalized(&names).await));
    }
    let mut chains = Vec::new();
    for (names, order) in &orders {
        chains.push(scene.issued(order, names).await);
    }
    chains.sort();
    chains.dedup();
    assert_eq!(chains.len(), 4);
    let at_ca = scene.daemon.ca.stats().orders;
    assert_eq!(at_ca.len(), 4);
    let mut csrs: Vec<String> = at_ca.iter().flat_map(|order| order.csrs.clone()).collect();
    assert_eq!(csrs.len(), 4, "one CSR for each order");
    csrs.dedup();
    assert_eq!(csrs.len(), 4);
}

#[tokio::test]
async fn f47_with_the_store_of_yesterday_a_certificate_is_found_again_by_its_order_and_not_bought_again() {
    let scene = Scene::new().await;
    let names = ["www.example.com"];
    let processing = || {
        Twist::json(|order| {
            order["status"] = "processing".into();
            order.as_object_mut().unwrap().remove("certificate");
        })
    };
    scene.will(Step::Finalize, Times::Next(1), processing());
    let order = scene.finalized(&names).await;
    scene
        .soon("the CSR is sent", async || scene.asked(Step::Finalize) == 1)
        .await;
    scene.will(Step::Order, Times::Always, processing());
    scene.pass(Duration::from_secs(5)).await;
    let backup = tempfile::tempdir().unwrap();
    let kept = backup.path().join("db");
    let copy = kept.clone();
    let restarted = scene.restarted_after(move |directory| copied(&directory.join("db"), &copy));
    let scene = restarted.await;
    scene.daemon.ca.behaves();
    let chain = scene.issued(&order, &names).await;
    // Disaster: the store is lost, and the backup does not know of the certificate.
    let restarted = scene.restarted_after(move |directory| {
        std::fs::remove_dir_all(directory.join("db")).unwrap();
        copied(&kept, &directory.join("db"));
    });
    let scene = restarted.await;
    assert_eq!(scene.look(&order).await["status"], "processing");
    assert_eq!(scene.issued(&order, &names).await, chain);
    scene.bought_once(&names);
    let stats = scene.daemon.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copied(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test]
async fn f49_a_revocation_waits_for_the_ca_and_counts_only_when_that_has_confirmed_it() {
    let scene = Scene::new().await;
    let issued = scene.client.issue(&scene.daemon, &["www.example.com"]).await;
    let busy = Problem::new(503, "serverInternal", "busy").after("30");
    scene.will(Step::RevokeCert, Times::Next(2), Twist::Refuse(busy));
    let url = scene.client.site.url("revoke-cert");
    let payload = || json!({ "certificate": b64(&issued.leaf), "reason": 4 });
    let revoke = async || scene.client.try_post(&url, payload()).await;
    revoke().await.problem(503, "serverInternal");
    assert!(scene.daemon.ca.stats().revocations.is_empty());
    scene
        .until("the CA confirms it", async || {
            !scene.daemon.ca.stats().revocations.is_empty()
        })
        .await;
    scene
        .soon("it is known", async || revoke().await.status == 400)
        .await;
    revoke().await.problem(400, "alreadyRevoked");
    let revocations = scene.daemon.ca.stats().revocations;
    assert_eq!((revocations.len(), revocations[0].reason), (1, Some(4)));
}

#[tokio::test]
async fn rule_8_a_second_order_with_the_same_names_is_answered_at_once_while_the_first_is_at_the_ca() {
    let scene = Scene::new().await;
    scene.will(Step::NewOrder, Times::Next(1), Twist::Silence);
    let names = ["www.example.com"];
    for _ in 0..2 {
        let order = scene.client.ready(&scene.daemon, &names).await;
        let csr = csr::plain(&Key::new(), &names);
        let answer = scene.client.finalize(&order, &csr).await.expect(200);
        assert_eq!(answer.json()["status"], "processing");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(scene.client.look(&order.url).await["status"], "processing");
    }
}
