//! Answers of the CA that are HTTP, and not what the protocol asks for (SECURITY C1101, C1104, C1105, C1106).

use std::time::Duration;

use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer as _;
use serde_json::Value;
use serde_json::json;

use crate::harness::ca;
use crate::harness::ca::Options;
use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::upstream::scene::Scene;
use crate::upstream::scene::issuer;

const HOUR: Duration = Duration::from_secs(3600);

/// Directories that can not be used.
fn bad_directories() -> Vec<(&'static str, Twist)> {
    let url = |member: &'static str, value: &'static str| {
        Twist::json(move |directory| directory[member] = value.into())
    };
    let without = |member: &'static str| {
        Twist::json(move |directory| {
            directory.as_object_mut().unwrap().remove(member);
        })
    };
    vec![
        ("plain http", url("newOrder", "http://127.0.0.1:1/new-order")),
        (
            "another host",
            url("newAccount", "https://evil.example/new-account"),
        ),
        ("another port", url("newNonce", "https://127.0.0.1:1/new-nonce")),
        (
            "another host's revocation",
            url("revokeCert", "https://evil.example/"),
        ),
        ("no URL", url("newOrder", "/new-order")),
        ("no newNonce", without("newNonce")),
        ("no newAccount", without("newAccount")),
        ("no newOrder", without("newOrder")),
        ("a list", Twist::json(|directory| *directory = json!([]))),
        (
            "a number for a URL",
            Twist::json(|directory| directory["newOrder"] = 7.into()),
        ),
        ("HTML", Twist::Instead(Answer::page(200))),
        (
            "nothing",
            Twist::Instead(Answer::new(200, "application/json", "")),
        ),
        (
            "10 MB",
            Twist::json(|directory| directory["padding"] = "x".repeat(10 << 20).into()),
        ),
        (
            "a redirect",
            Twist::Instead(Answer::page(302).with("location", "https://evil.example/directory")),
        ),
        (
            "a redirect to itself",
            Twist::Instead(Answer::page(308).with("location", "/directory")),
        ),
    ]
}

#[tokio::test]
async fn c1101_no_bad_directory_is_used() {
    let ca = ca::start(Options::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fresh = issuer(&ca, directory.path());
    for (what, twist) in bad_directories() {
        ca.will(Step::Directory, Times::Always, twist);
        let outcome = fresh.prepare().await;
        assert!(
            matches!(outcome, Err(Error::Transient { .. })),
            "{what}: {outcome:?}"
        );
        let outcome = fresh.probe().await;
        assert!(
            matches!(outcome, Err(Error::Transient { .. })),
            "{what}: {outcome:?}"
        );
        ca.behaves();
    }
    assert_eq!(ca.stats().accounts, 0);
    fresh.prepare().await.unwrap();
    let stats = ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test]
async fn c1101_a_good_directory_is_kept_when_a_bad_one_comes() {
    let scene = Scene::new().await;
    let first = scene.finalized(&["first.example.com"]).await;
    scene.issued(&first, &["first.example.com"]).await;
    for (number, (_, twist)) in bad_directories().into_iter().enumerate() {
        scene.will(Step::Directory, Times::Always, twist);
        let name = format!("n{number}.example.com");
        let finalized = scene.finalized(&[&name]).await;
        scene.issued(&finalized, &[&name]).await;
        scene.daemon.ca.behaves();
    }
}

#[tokio::test]
async fn f14_c1101_with_a_bad_directory_at_first_start_the_daemon_takes_orders_on_and_is_not_ready() {
    let foreign = Twist::json(|directory| directory["newOrder"] = "http://127.0.0.1:1/new-order".into());
    let scene = Scene::with(|ca| ca.script = vec![(Step::Directory, Times::Always, foreign)]).await;
    let finalized = scene.finalized(&["www.example.com"]).await;
    scene
        .soon("it says what is missing", async || {
            let trouble = scene.account_trouble().await;
            trouble.contains("not an https URL of the CA's own host")
        })
        .await;
    scene.pass(Duration::from_secs(60)).await;
    assert_eq!(scene.look(&finalized).await["status"], "processing");
    assert_eq!(scene.asked(Step::NewAccount), 0);
    scene.daemon.ca.behaves();
    scene.issued(&finalized, &["www.example.com"]).await;
    assert_eq!(scene.account_trouble().await, "");
}

/// The order is processing after finalize, with this `Retry-After`.
fn slow(retry_after: &str) -> Twist {
    let retry_after = retry_after.to_owned();
    Twist::edit(move |answer| {
        let mut order: Value = serde_json::from_slice(&answer.body).unwrap();
        order["status"] = "processing".into();
        order.as_object_mut().unwrap().remove("certificate");
        answer.body = order.to_string().into_bytes();
        answer.set("retry-after", &retry_after);
    })
}

#[tokio::test]
async fn c1104_an_absurd_retry_after_is_waited_for_no_longer_than_an_hour_and_panics_nobody() {
    let scene = Scene::new().await;
    let table = [
        ("18446744073709551615", 3600),
        ("99999999999999999999999999999999", 3600),
        ("1000000000", 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("45", 45),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("0", 1),
        ("-1", 2),
        ("soon", 2),
    ];
    for (number, (value, wait)) in table.into_iter().enumerate() {
        let name = format!("n{number}.example.com");
        scene.will(Step::Finalize, Times::Next(1), slow(value));
        let before = scene.asked(Step::Finalize);
        let finalized = scene.finalized(&[&name]).await;
        scene
            .soon("the CSR is sent", async || scene.asked(Step::Finalize) > before)
            .await;
        scene.pass(Duration::ZERO).await;
        let looks = scene.asked(Step::Order);
        scene.pass(Duration::from_millis(wait * 1000 - 500)).await;
        assert_eq!(scene.asked(Step::Order), looks, "{value}: it is asked too early");
        scene.pass(Duration::from_secs(1)).await;
        assert_eq!(
            scene.asked(Step::Order),
            looks + 1,
            "{value}: it is not asked again"
        );
        scene.issued(&finalized, &[&name]).await;
        scene.bought_once(&[&name]);
    }
}

#[tokio::test]
async fn c1104_no_refusal_of_a_load_balancer_stops_the_daemon_for_more_than_an_hour() {
    let scene = Scene::new().await;
    for (number, status) in [429, 503].into_iter().enumerate() {
        let name = format!("n{number}.example.com");
        let answer = Answer::page(status).with("retry-after", "18446744073709551615");
        scene.will(Step::NewOrder, Times::Next(1), Twist::Instead(answer));
        let before = scene.asked(Step::NewOrder);
        let finalized = scene.finalized(&[&name]).await;
        scene
            .soon("it is refused", async || scene.asked(Step::NewOrder) > before)
            .await;
        scene.pass(Duration::ZERO).await;
        scene.pass(HOUR - Duration::from_secs(5)).await;
        assert_eq!(scene.asked(Step::NewOrder), before + 1);
        scene.pass(Duration::from_secs(10)).await;
        scene.issued(&finalized, &[&name]).await;
    }
}

#[tokio::test]
async fn c1105_nonces_that_are_refused_and_answers_that_are_none_are_tried_five_times_and_then_later() {
    let scene = Scene::new().await;
    let bad = Problem::new(400, "badNonce", "no");
    let document = json!({"type": "urn:ietf:params:acme:error:badNonce", "detail": "no"});
    let without_nonce = Answer::json(400, &document);
    let names = ["www.example.com"];
    scene.ready().await;
    scene.will(Step::NewOrder, Times::Next(6), Twist::Refuse(bad));
    scene.will(Step::NewOrder, Times::Next(6), Twist::Instead(without_nonce));
    scene.will(Step::NewOrder, Times::Next(1), Twist::Instead(Answer::page(400)));
    let nonces = scene.asked(Step::NewNonce);
    let finalized = scene.finalized(&names).await;
    for (tries, asked) in [(6, 6), (12, 12), (13, 13)] {
        scene
            .soon("it is refused", async || scene.asked(Step::NewOrder) >= tries)
            .await;
        scene.pass(Duration::ZERO).await;
        assert_eq!(scene.asked(Step::NewOrder), asked, "not at once again");
        assert_eq!(scene.look(&finalized).await["status"], "processing");
        scene.pass(Duration::from_secs(5)).await;
    }
    // A new one for each that was refused without another, and no more.
    let fetched = scene.asked(Step::NewNonce) - nonces;
    assert!((5..=7).contains(&fetched), "{fetched}");
    scene.issued(&finalized, &names).await;
    scene.bought_once(&names);
}

#[tokio::test]
async fn c1106_an_order_that_makes_no_sense_is_looked_at_again_until_it_does() {
    let scene = Scene::new().await;
    let without =
        |member: &'static str| Twist::json(move |order| drop(order.as_object_mut().unwrap().remove(member)));
    let table = [
        ("url.example.com", Step::Finalize, without("certificate")),
        (
            "foreign.example.com",
            Step::Finalize,
            Twist::json(|order| order["certificate"] = "https://evil.example/certificate".into()),
        ),
        (
            "plain.example.com",
            Step::Finalize,
            Twist::json(|order| {
                let url = order["certificate"].as_str().unwrap().replace("https:", "http:");
                order["certificate"] = url.into();
            }),
        ),
        (
            "status.example.com",
            Step::Order,
            Twist::json(|order| order["status"] = "pondering".into()),
        ),
        ("nothing.example.com", Step::Order, without("status")),
        (
            "finalize.example.com",
            Step::Order,
            Twist::json(|order| order["finalize"] = "https://evil.example/finalize".into()),
        ),
        (
            "location.example.com",
            Step::NewOrder,
            Twist::header("location", "https://evil.example/order"),
        ),
        ("lost.example.com", Step::NewOrder, Twist::header("location", "")),
    ];
    for (name, step, twist) in table {
        scene.will(step, Times::Next(1), twist);
        let finalized = scene.finalized(&[name]).await;
        scene.issued(&finalized, &[name]).await;
        let orders = scene.orders_at_ca(&[name]);
        assert_eq!(
            orders.iter().map(|order| order.finalizes).sum::<u64>(),
            1,
            "{name}"
        );
        assert_eq!(orders.len(), 1 + usize::from(step == Step::NewOrder), "{name}");
    }
}

#[tokio::test]
async fn c1106_an_order_that_is_processing_for_ever_ends_at_its_deadline_with_a_reason() {
    let scene = Scene::with(|ca| ca.processing = 1000 * HOUR).await;
    let finalized = scene.finalized(&["www.example.com"]).await;
    for _ in 0..3 {
        scene.pass(7 * HOUR).await;
        assert_eq!(scene.look(&finalized).await["status"], "processing");
    }
    scene.pass(4 * HOUR).await;
    let (kind, detail) = scene.failed(&finalized).await;
    assert_eq!(kind, "serverInternal");
    assert!(detail.contains("before the order expired"), "{detail}");
    scene.bought_once(&["www.example.com"]);
}

#[tokio::test]
async fn f13_c1106_a_name_that_the_ca_wants_to_validate_itself_fails_with_what_to_configure() {
    let scene = Scene::with(|ca| {
        ca.prevalidated = false;
        ca.challenges = vec!["http-01".to_owned(), "sectigo-email-01".to_owned()];
    })
    .await;
    let finalized = scene.finalized(&["www.example.com"]).await;
    let (kind, detail) = scene.failed(&finalized).await;
    assert_eq!(kind, "serverInternal");
    for part in [
        "requires validation of www.example.com",
        "sectigo-email-01",
        "authority.config.dns01_txt",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(scene.asked(Step::Challenge), 0);
}
