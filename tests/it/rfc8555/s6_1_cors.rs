//! RFC 8555 §6.1: web pages of other origins as clients (CONFORMANCE A11).

use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET};
use crate::harness::server::Daemon;
use crate::rfc8555::s6_transport::POSTS;

const FROM_A_PAGE: [(&str, &str); 3] = [
    ("Origin", "https://page.example.net"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "content-type"),
];

/// Every header of CORS in the answer.
fn cors(answer: &Answer) -> Vec<String> {
    let names = answer.headers.keys().map(|name| name.as_str().to_owned());
    names.filter(|name| name.starts_with("access-control-")).collect()
}

/// What an answer to an actual request has.
#[track_caller]
fn open(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        answer.header("access-control-expose-headers"),
        Some("Link, Replay-Nonce, Location, Retry-After")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

async fn daemon() -> Daemon {
    let daemon = Daemon::start().await;
    daemon
        .restart_with(|file| file["authority"]["config"]["cors"] = true.into())
        .await
}

#[tokio::test]
async fn a11_every_answer_may_be_read_by_any_page_if_the_operator_wants_that() {
    let daemon = daemon().await;
    let origin = &FROM_A_PAGE[..1];
    for path in ["directory", "new-nonce", "nothing", "new-order"] {
        let answer = daemon
            .site
            .request("GET", &format!("/acme/acme/{path}"), origin, b"")
            .await;
        open(&answer);
    }
    let client = daemon.account().await;
    let newcomer = Client::stranger(&daemon.site);
    open(
        &newcomer
            .post(&daemon.site.url("new-account"), json!({}))
            .await
            .expect(201),
    );
    open(&client.post(client.kid(), GET).await.expect(200));
    open(&client.post(client.kid(), "x").await.expect(400));
    open(&client.post(&daemon.site.url("order/none"), GET).await.expect(404));
    let elsewhere = [("Host", "evil.example"), FROM_A_PAGE[0]];
    open(
        &daemon
            .site
            .request("GET", "/acme/acme/directory", &elsewhere, b"")
            .await
            .expect(421),
    );
    for path in ["/health", "/version"] {
        let answer = daemon.site.request("GET", path, origin, b"").await;
        assert!(cors(&answer).is_empty(), "{path} is none of ACME's: {answer:?}");
    }
}

#[tokio::test]
async fn a11_a_preflight_request_is_told_what_the_resource_takes() {
    let daemon = daemon().await;
    let posts = POSTS.map(|path| (path, "POST"));
    for (path, methods) in posts
        .into_iter()
        .chain([("directory", "GET,HEAD,POST"), ("new-nonce", "GET,HEAD,POST")])
    {
        let path = format!("/acme/acme/{path}");
        let answer = daemon
            .site
            .request("OPTIONS", &path, &FROM_A_PAGE, b"")
            .await
            .expect(204);
        open(&answer);
        assert_eq!(
            answer.header("access-control-allow-methods"),
            Some(methods),
            "{path}"
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("Content-Type")
        );
        assert_eq!(answer.header("access-control-max-age"), Some("86400"));
        assert!(answer.body.is_empty());
        let delete = daemon.site.request("DELETE", &path, &FROM_A_PAGE, b"").await;
        delete.problem(405, "malformed");
        assert_eq!(delete.header("allow"), Some(methods));
    }
    let nothing = daemon
        .site
        .request("OPTIONS", "/acme/acme/nothing", &FROM_A_PAGE, b"")
        .await;
    nothing.problem(404, "malformed");
}

#[tokio::test]
async fn a11_no_page_may_read_anything_unless_the_operator_wants_that() {
    let daemon = Daemon::start().await;
    for method in ["GET", "OPTIONS"] {
        let answer = daemon
            .site
            .request(method, "/acme/acme/directory", &FROM_A_PAGE, b"")
            .await;
        assert!(cors(&answer).is_empty(), "{answer:?}");
        assert_eq!(answer.status, if method == "GET" { 200 } else { 405 });
    }
    let client = daemon.account().await;
    assert!(cors(&client.post(client.kid(), GET).await.expect(200)).is_empty());
}
