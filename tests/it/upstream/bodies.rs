//! Answers of the CA that break below the protocol, or are too much: they cost a try and a wait, never an order
//! (SECURITY C1107, C1108, F1; UPSTREAM rules 5, 7 and 8).

use std::fs::read_to_string;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::ca::wire::Raw;
use crate::harness::ca::wire::Then;
use crate::harness::process::Daemon;
use crate::harness::process::NAME;
use crate::harness::process::PATIENCE;
use crate::harness::world::World;
use crate::upstream::meter::requests;
use crate::upstream::scene::Scene;

const JSON: &str = "application/json";
const CHAIN: &str = "application/pem-certificate-chain";

/// The steps that every order takes at this CA.
const STEPS: [Step; 4] = [Step::NewOrder, Step::Order, Step::Finalize, Step::Certificate];

/// Answers that end by themselves, none as it should.
fn broken(step: Step) -> Vec<(&'static str, Twist)> {
    let kind = if step == Step::Certificate { CHAIN } else { JSON };
    let raw = |bytes: &str, then| Twist::Raw(Raw::new(bytes.to_owned(), then));
    // RFC 1952: a member that holds `{}`, stored.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01\x02\0\xfd\xff{}\x43\xbf\xa6\xa3\x02\0\0\0";
    vec![
        ("reset", Twist::Raw(Raw::broken())),
        (
            "truncated",
            Twist::Raw(Raw::partial(kind, 5000, "{\"status\":\"valid\"", Then::Break)),
        ),
        (
            "shorter than it is",
            Twist::Raw(Raw::partial(kind, 5, "{\"status\":\"valid\"}", Then::Break)),
        ),
        (
            "cut without a length",
            raw(
                &format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n{{\"status\":"),
                Then::Break,
            ),
        ),
        (
            "a chunk too few",
            raw(
                &format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n"
                ),
                Then::Break,
            ),
        ),
        (
            "a chunk with a wrong length",
            raw(
                &format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"
                ),
                Then::Break,
            ),
        ),
        ("no HTTP", raw("SSH-2.0-OpenSSH_9.2\r\n", Then::Break)),
        (
            "gzip",
            Twist::Instead(Answer::new(200, kind, gzip.as_slice()).with("content-encoding", "gzip")),
        ),
        (
            "10 MB",
            Twist::Instead(Answer::new(200, kind, " ".repeat(10 << 20))),
        ),
        ("endless", Twist::Raw(Raw::endless(kind))),
        (
            "headers without end",
            raw("HTTP/1.1 200 OK\r\n", Then::Flood("x: y\r\n".repeat(500).into())),
        ),
        (
            "a header without end",
            raw("HTTP/1.1 200 OK\r\nx: ", Then::Flood("y".repeat(0x2000).into())),
        ),
        ("a page", Twist::Instead(Answer::page(502))),
        ("a page of 200", Twist::Instead(Answer::new(200, kind, "<html>"))),
    ]
}

#[tokio::test]
async fn c1107_an_answer_that_breaks_is_asked_for_again_and_nothing_is_bought_twice() {
    let scene = Scene::new().await;
    for step in STEPS {
        let mut number = 0;
        for (what, twist) in broken(step) {
            number += 1;
            let name = format!("n{number}.{step:?}.example.com").to_lowercase();
            let names = [name.as_str()];
            scene.will(step, Times::Next(1), twist);
            let finalized = scene.finalized(&names).await;
            let order = scene.end(&finalized).await;
            assert_eq!(order["status"], "valid", "{step:?}, {what}: {order}");
            // An order whose URL is lost issues nothing.
            let bought = scene.orders_at_ca(&names);
            let opened = if step == Step::NewOrder { 1..=2 } else { 1..=1 };
            assert!(opened.contains(&bought.len()), "{step:?}, {what}");
            let finalizes: u64 = bought.iter().map(|order| order.finalizes).sum();
            assert_eq!(finalizes, 1, "{step:?}, {what}");
        }
    }
}

/// Each takes as long as a request to the CA may: they are tried side by side.
#[tokio::test]
async fn f1_c1107_an_answer_that_never_ends_is_given_up_and_asked_for_again() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </>; rel=preload\r\n\r\n";
    let twists = || {
        [
            Twist::Silence,
            Twist::Raw(Raw::partial(JSON, 5000, "{", Then::Hang)),
            Twist::Raw(Raw::partial(JSON, 5000, "{", Then::Trickle(" ".into()))),
            Twist::Raw(Raw::new(interim, Then::Trickle(interim.into()))),
            Twist::Raw(Raw::new("", Then::Trickle("HTTP/1.1 200 OK\r\nx: ".into()))),
        ]
    };
    let order = async |step: Step, twist: Twist| {
        let scene = Scene::new().await;
        scene.will(step, Times::Next(1), twist);
        let names = ["www.example.com"];
        let finalized = scene.finalized(&names).await;
        // Rule 8: the client does not wait for the CA.
        assert_eq!(finalized.answer.json()["status"], "processing");
        assert!(finalized.answer.header("retry-after").is_some());
        scene
            .soon("the CA is asked", async || scene.asked(step) > 0)
            .await;
        assert_eq!(scene.look(&finalized).await["status"], "processing");
        // Slowly, so that the request is given up before its job's lease is over.
        for _ in 0..250 {
            if scene.look(&finalized).await["status"] != "processing" {
                break;
            }
            scene.pass(Duration::from_secs(1)).await;
        }
        scene.issued(&finalized, &names).await;
        let finalizes: u64 = scene
            .orders_at_ca(&names)
            .iter()
            .map(|order| order.finalizes)
            .sum();
        assert_eq!(finalizes, 1);
        assert_eq!(requests(&scene, "timeout").await, 1.0);
    };
    let [a, b, c, d, e] = twists();
    tokio::join!(
        order(Step::NewOrder, a),
        order(Step::Order, b),
        order(Step::Finalize, c),
        order(Step::Order, d),
        order(Step::Finalize, e),
    );
}

/// A daemon that gets its own certificate, from a CA with trouble at this step; well again after it has logged this.
async fn gets_well(world: &World, step: Step, trouble: Twist, logged: &str) -> Daemon {
    world.ca.will(step, Times::Next(1), trouble);
    let mut daemon = world.installation.start();
    let log = timeout(PATIENCE, async {
        while !world.installation.log().contains(logged) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    log.await
        .unwrap_or_else(|_| panic!("it does not say so:\n{}", world.installation.log()));
    daemon.is_well().await;
    let bought = (world.orders_for(&[NAME]), world.finalizes_for(&[NAME]));
    assert_eq!(bought, (1, 1));
    daemon
}

#[tokio::test]
async fn c1107_a_flood_of_interim_answers_is_given_up_in_time_and_takes_no_memory() {
    const MOST_KIB: u64 = 128 * 1024;
    let world = World::new().await;
    let hints = format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "y".repeat(4000));
    let flood = format!("HTTP/1.1 100 Continue\r\n\r\n{hints}").repeat(4);
    let flood = Twist::Raw(Raw::new("", Then::Flood(flood.into())));
    let daemon = gets_well(&world, Step::Finalize, flood, "no answer from the CA in time").await;
    let status = read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    let peak: u64 = peak.unwrap().parse().unwrap();
    assert!(peak < MOST_KIB, "{peak} KiB");
    daemon.stop().await;
}

/// More than is read of a chain.
fn too_long() -> Twist {
    Twist::text(|chain| chain.repeat((256 << 10) / chain.len() + 1))
}

#[tokio::test]
async fn c1107_a_chain_that_is_too_long_is_said_in_the_log_to_be() {
    let world = World::new().await;
    let said = "status 200 OK with more than 262144 bytes";
    let daemon = gets_well(&world, Step::Certificate, too_long(), said).await;
    let log = world.installation.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(said)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("level=warning") && lines[0].contains("will try again"),
        "{log}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn c1107_a_chain_that_is_too_long_is_asked_for_until_the_deadline_and_bought_once() {
    const HOUR: Duration = Duration::from_secs(3600);
    let scene = Scene::new().await;
    scene.will(Step::Certificate, Times::Always, too_long());
    let names = ["www.example.com"];
    let finalized = scene.finalized(&names).await;
    for _ in 0..3 {
        let asked = scene.asked(Step::Certificate);
        scene.pass(7 * HOUR).await;
        scene
            .soon("the chain is asked for again", async || {
                scene.asked(Step::Certificate) > asked
            })
            .await;
        assert_eq!(scene.look(&finalized).await["status"], "processing");
    }
    scene.bought_once(&names);
    scene.pass(4 * HOUR).await;
    let (kind, detail) = scene.failed(&finalized).await;
    assert_eq!(kind, "serverInternal");
    assert!(detail.contains("before the order expired"), "{detail}");
    scene.bought_once(&names);
}

#[tokio::test]
async fn l2_other_chains_that_do_not_come_hold_up_the_first_for_a_moment_and_no_more_of_them_are_asked_for() {
    let slow = Problem::new(429, "rateLimited", "slow down").after("20");
    for twist in [Twist::Silence, Twist::Refuse(slow)] {
        let scene = Scene::with(|ca| ca.alternates = 3).await;
        scene.will(Step::Certificate, Times::Nth(2), twist);
        let finalized = scene.finalized(&["www.example.com"]).await;
        scene
            .soon("it is issued", async || {
                scene.look(&finalized).await["status"] == "valid"
            })
            .await;
        assert_eq!(scene.asked(Step::Certificate), 2);
    }
}

#[tokio::test]
async fn c1108_the_cas_words_are_capped_and_cleaned_before_a_client_sees_them() {
    let scene = Scene::new().await;
    let nasty = "\u{1b}[31mred\r\nX-Injected: yes\n<script>alert(1)</script>\0\u{202e}";
    let words = [
        ("controls.example.com", nasty.repeat(20)),
        ("long.example.com", "x".repeat(25_000)),
    ];
    for (name, detail) in words {
        let refusal = Problem::new(400, "rejectedIdentifier", detail).about([name.to_owned()]);
        scene.will(Step::NewOrder, Times::Next(1), Twist::Refuse(refusal));
        let finalized = scene.finalized(&[name]).await;
        let (kind, detail) = scene.failed(&finalized).await;
        assert_eq!(kind, "rejectedIdentifier");
        assert!(detail.chars().count() < 300, "{detail}");
        assert!(!detail.chars().any(char::is_control), "{detail:?}");
        assert!(!detail.contains('\u{202e}'), "{detail:?}");
    }
    // More parts than anybody wants to read.
    let names = (0..300).map(|number| format!("n{number}.example.com"));
    let refusal = Problem::new(403, "caa", "no").about(names);
    scene.will(Step::NewOrder, Times::Next(1), Twist::Refuse(refusal));
    let finalized = scene.finalized(&["parts.example.com"]).await;
    let order = scene.end(&finalized).await;
    assert_eq!(order["error"]["type"], "urn:ietf:params:acme:error:caa");
    let parts = order["error"]["subproblems"].as_array().map_or(0, Vec::len);
    assert!(parts <= 10, "{parts} parts");
    // A document that is too big or too deep is none: it says nothing about the order.
    let deep = "{\"subproblems\":[".repeat(3000) + &"]}".repeat(3000);
    let big = json!({"type": "urn:ietf:params:acme:error:caa", "detail": "x".repeat(1 << 20)});
    for (name, body) in [("deep.example.com", deep), ("big.example.com", big.to_string())] {
        let answer = Answer::new(403, "application/problem+json", body);
        scene.will(Step::NewOrder, Times::Next(1), Twist::Instead(answer));
        let finalized = scene.finalized(&[name]).await;
        scene.issued(&finalized, &[name]).await;
        scene.bought_once(&[name]);
    }
}
