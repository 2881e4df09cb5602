//! Why is this order stuck: each reason is told in words.

use std::time::Duration;

use acme_proxy::app::control::{CertificateFilter, CertsRequest, OrderFilter, OrdersRequest, Part, Request};
use serde_json::{Value, json};

use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::csr;
use crate::records::has;
use crate::upstream::scene::Scene;

const NAME: [&str; 1] = ["www.example.com"];

fn id_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

async fn shown(scene: &Scene, url: &str) -> String {
    let id = id_of(url).to_owned();
    let request = Request::Orders(OrdersRequest::Show { id, json: false });
    scene.daemon.control(request).await.unwrap()
}

/// Waits until an order is shown with these words, while the clock stands; all that is shown then.
async fn says(scene: &Scene, url: &str, words: &str) -> String {
    let mut text = String::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !text.contains(words) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{words:?} is not in:\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        text = shown(scene, url).await;
    }
    text
}

/// The ids of the orders that are found to be stuck.
async fn stuck(scene: &Scene) -> Vec<String> {
    let filter = OrderFilter {
        stuck: true,
        ..OrderFilter::default()
    };
    let part = Part {
        after: None,
        limit: 100,
    };
    let request = Request::Orders(OrdersRequest::List {
        filter,
        part,
        json: true,
    });
    let printed = scene.daemon.control(request).await.unwrap();
    let id = |line| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["id"].as_str().unwrap().to_owned()
    };
    printed.lines().map(id).collect()
}

#[tokio::test]
async fn an_order_whose_challenge_nobody_answers_waits_for_its_client() {
    let scene = Scene::new().await;
    let order = scene.client.order(&["a.example.com", "b.example.com"]).await;
    let text = shown(&scene, &order.url).await;
    has(
        &text,
        &[
            "  status: pending\n",
            "  waits for: the client to answer the http-01 challenge of a.example.com\n",
            "  waits for: the client to answer the http-01 challenge of b.example.com\n",
            "  authorizations:\n    a.example.com: pending; http-01 pending\n",
            "Z  created\n",
        ],
    );
    assert!(stuck(&scene).await.is_empty(), "it is the client's turn");
    scene.client.prove(&scene.daemon, &order).await;
    let text = says(&scene, &order.url, "status: ready").await;
    has(
        &text,
        &[
            "  waits for: the client to finalize, with its CSR\n",
            "Z  the client has answered a challenge: http-01 of a.example.com\n",
            "Z  validated: http-01 of b.example.com\n",
        ],
    );
}

#[tokio::test]
async fn an_order_whose_validation_fails_says_why_and_when_it_is_tried_again() {
    let scene = Scene::configured(
        |_| (),
        json!({ "authority": { "config": { "validation": { "http_port": 1 } } } }),
    )
    .await;
    let order = scene.client.order(&NAME).await;
    let (url, _) = scene.client.challenge(&order.authorizations[0]).await;
    scene.client.post(&url, "{}").await.expect(200);
    let text = says(&scene, &order.url, "; 1 so far, the latest: ").await;
    has(
        &text,
        &[
            "  waits for: the validation of www.example.com by http-01: next attempt at ",
            "  a validation attempt has failed: connection: http-01 of www.example.com: ",
            "    www.example.com: pending; http-01 processing (connection: ",
        ],
    );
    assert_eq!(stuck(&scene).await, [id_of(&order.url)]);
    let mut ended = String::new();
    scene
        .until("it has failed for good", async || {
            ended = shown(&scene, &order.url).await;
            ended.contains("status: invalid")
        })
        .await;
    has(
        &ended,
        &["  error: connection: www.example.com: ", " times, the latest at "],
    );
    assert!(!ended.contains("waits for:"), "{ended}");
    assert!(stuck(&scene).await.is_empty());
}

#[tokio::test]
async fn an_order_whose_ca_fails_says_what_the_ca_has_said_and_how_often() {
    let scene = Scene::new().await;
    scene.ready().await;
    let broken = Problem::new(500, "serverInternal", "the database is down");
    scene.will(Step::NewOrder, Times::Always, Twist::Refuse(broken));
    let order = scene.finalized(&NAME).await;
    let text = says(&scene, &order.order.url, "it has failed: ").await;
    has(
        &text,
        &[
            "  status: processing\n",
            "  waits for: an order to be opened at the CA (upstream default): it is asked next at ",
            "the database is down",
            "Z  finalized: the client has handed in its CSR\n",
            "Z  the CA did not answer as it should: ",
        ],
    );
    assert_eq!(stuck(&scene).await, [id_of(&order.order.url)]);
    scene
        .until("it has failed often", async || {
            let text = shown(&scene, &order.order.url).await;
            text.contains("(6 times, the latest at ")
        })
        .await;
    let later = says(&scene, &order.order.url, "one request at a time is let through").await;
    has(
        &later,
        &["; it has failed ", " times in a row, the latest: the CA refused"],
    );
    assert_eq!(later.matches("the CA did not answer").count(), 1, "{later}");
    scene.daemon.ca.behaves();
    scene.issued(&order, &NAME).await;
    let done = shown(&scene, &order.order.url).await;
    has(
        &done,
        &[
            "Z  opened at the CA: https://",
            "Z  the certificate has come\n",
            "Z  the client has fetched",
        ],
    );
    assert!(!done.contains("waits for:"), "{done}");
}

#[tokio::test]
async fn an_order_that_the_ca_takes_long_for_waits_for_the_ca_and_others_for_its_names_wait_in_line() {
    let scene = Scene::with(|ca| ca.processing = Duration::from_hours(1)).await;
    scene.ready().await;
    let first = scene.finalized(&NAME).await;
    let text = says(&scene, &first.order.url, "Z  opened at the CA: https://").await;
    has(
        &text,
        &[
            "  waits for: the CA (upstream default) to issue: it is asked next ",
            "  upstream: default (ok)\n",
            "  order at the CA: https://",
        ],
    );
    let second = scene.finalized(&NAME).await;
    let text = shown(&scene, &second.order.url).await;
    let behind = format!(
        "  waits for: its turn: it stands in line behind order {}, which is for the same names\n",
        id_of(&first.order.url)
    );
    has(&text, &[&behind]);
    assert_eq!(stuck(&scene).await.len(), 2);
    scene.pass(Duration::from_hours(25)).await;
    let text = says(
        &scene,
        &first.order.url,
        "although the order has ended for its client",
    )
    .await;
    has(
        &text,
        &[
            "  status: invalid\n",
            "  error: serverInternal: the CA did not issue",
            "Z  failed: ",
        ],
    );
}

#[tokio::test]
async fn an_order_without_an_account_at_the_ca_says_that_there_is_none() {
    let refused = Problem::new(403, "unauthorized", "this EAB is spent");
    let refuse = (Step::NewAccount, Times::Always, Twist::Refuse(refused));
    let scene = Scene::with(|ca| ca.script = vec![refuse]).await;
    let order = scene.finalized(&NAME).await;
    let text = says(&scene, &order.order.url, "there is no account at the CA").await;
    has(
        &text,
        &[
            "  waits for: an order to be opened at the CA (upstream default): it is asked next now\n",
            "this EAB is spent",
        ],
    );
}

#[tokio::test]
async fn an_order_that_got_the_certificate_of_an_earlier_one_says_so_and_the_certificate_is_listed_once() {
    let scene = Scene::new().await;
    scene.ready().await;
    let first = scene.finalized(&NAME).await;
    let url = &first.order.url;
    let text = says(&scene, url, "status: valid").await;
    has(&text, &["  waits for: the client to fetch the certificate\n"]);
    let second = scene.client.ready(&scene.daemon, &NAME).await;
    let csr = csr::plain(&first.key, &NAME);
    scene.client.finalize(&second, &csr).await.expect(200);
    let text = says(&scene, &second.url, "status: valid").await;
    let step = format!("Z  got the certificate of an earlier order: {}\n", id_of(url));
    has(&text, &[&step]);
    scene.bought_once(&NAME);
    let filter = CertificateFilter {
        name: Some(NAME[0].to_owned()),
        ..CertificateFilter::default()
    };
    let part = Part {
        after: None,
        limit: 9,
    };
    let request = Request::Certs(CertsRequest::List {
        filter,
        part,
        json: false,
    });
    let listed = scene.daemon.control(request).await.unwrap();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.starts_with(id_of(&second.url)), "{listed}");
    let id = id_of(url).to_owned();
    let request = Request::Certs(CertsRequest::Show { id, json: false });
    let error = scene.daemon.control(request).await.unwrap_err().to_string();
    has(&error, &["was handed over to a later order for the same names"]);
}

#[tokio::test]
async fn a_revocation_that_the_ca_does_not_confirm_says_when_it_is_asked_again() {
    let scene = Scene::new().await;
    scene.ready().await;
    let order = scene.finalized(&NAME).await;
    scene.issued(&order, &NAME).await;
    let broken = Problem::new(500, "serverInternal", "the database is down");
    scene.will(Step::RevokeCert, Times::Always, Twist::Refuse(broken));
    let id = id_of(&order.order.url).to_owned();
    let reason = Some(4);
    let revoke = scene
        .daemon
        .control(Request::Certs(CertsRequest::Revoke { id, reason }));
    let waits = says(&scene, &order.order.url, "it has failed: ");
    let text = tokio::select! {
        text = waits => text,
        done = revoke => panic!("{done:?}"),
    };
    has(
        &text,
        &[
            "the CA to revoke the certificate: it is asked next at ",
            "Z  revocation asked for\n",
            "the database is down",
        ],
    );
    scene.daemon.ca.behaves();
    scene
        .until("it is revoked", async || {
            shown(&scene, &order.order.url)
                .await
                .contains("Z  revoked by the CA\n")
        })
        .await;
}
