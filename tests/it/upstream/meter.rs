//! What an operator sees of the requests to the CA themselves.

use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::ca::wire::Raw;
use crate::upstream::scene::Scene;

const OUTCOMES: [&str; 8] = [
    "done",
    "bad_nonce",
    "rate_limited",
    "server_error",
    "refused",
    "timeout",
    "unreachable",
    "too_long",
];

/// How many requests to the CA have come to this.
pub(crate) async fn requests(scene: &Scene, outcome: &str) -> f64 {
    let series =
        format!(r#"acme_proxy_upstream_http_requests_total{{outcome="{outcome}",upstream="default"}}"#);
    scene.metric(&series).await
}

#[tokio::test]
async fn each_http_request_to_the_ca_is_counted_by_what_came_of_it() {
    let scene = Scene::new().await;
    scene.ready().await;
    let twists = [
        (
            "bad_nonce",
            Twist::Refuse(Problem::new(400, "badNonce", "not this one")),
        ),
        (
            "rate_limited",
            Twist::Refuse(Problem::new(429, "rateLimited", "slow down")),
        ),
        (
            "rate_limited",
            Twist::Instead(Answer::page(503).with("retry-after", "5")),
        ),
        ("server_error", Twist::Instead(Answer::page(502))),
        ("refused", Twist::Instead(Answer::page(403))),
        ("unreachable", Twist::Raw(Raw::broken())),
        ("too_long", Twist::Raw(Raw::endless("application/json"))),
    ];
    for (number, (outcome, twist)) in twists.into_iter().enumerate() {
        let before = requests(&scene, outcome).await;
        scene.will(Step::NewOrder, Times::Next(1), twist);
        let name = format!("n{number}.example.com");
        let finalized = scene.finalized(&[&name]).await;
        scene.issued(&finalized, &[&name]).await;
        assert_eq!(requests(&scene, outcome).await, before + 1.0, "{outcome}");
        if outcome == "bad_nonce" {
            let retries = scene.metric(r#"acme_proxy_upstream_retries_total{upstream="default"}"#);
            assert_eq!(retries.await, 0.0, "to the queue it is one request");
        }
    }
    scene
        .soon("every request is counted", async || {
            let mut counted = 0.0;
            for outcome in OUTCOMES {
                counted += requests(&scene, outcome).await;
            }
            counted == f64::from(u32::try_from(scene.asked_in_all()).unwrap())
        })
        .await;
}
