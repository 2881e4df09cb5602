//! RFC 8555 §7.1.1: the directory (CONFORMANCE B).

use serde_json::json;

use crate::harness::client::GET;
use crate::harness::server::{Daemon, Plan};

#[tokio::test]
async fn b1_b2_b4_the_directory_has_absolute_urls_of_what_there_is_and_nothing_else() {
    let daemon = Daemon::start().await;
    let answer = daemon.site.get("/acme/acme/directory").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.link("index"),
        None,
        "A6: the directory itself has no such link"
    );
    let url = |path: &str| daemon.site.url(path);
    let expected = json!({
        "newNonce": url("new-nonce"),
        "newAccount": url("new-account"),
        "newOrder": url("new-order"),
        "revokeCert": url("revoke-cert"),
        "keyChange": url("key-change"),
        "renewalInfo": url("renewal-info"),
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn b1_the_directory_takes_post_as_get_and_nothing_else_that_is_signed() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let url = daemon.site.url("directory");
    let answer = client
        .post_body(&url, &client.signed(&url, &client.nonce().await, GET))
        .await;
    assert_eq!(
        answer.expect(200).json(),
        daemon.site.get("/acme/acme/directory").await.json()
    );
    client.post(&url, json!({})).await.problem(400, "malformed");
}

#[tokio::test]
async fn b3_meta_says_what_the_provisioner_says() {
    let provisioner = json!({
        "termsOfService": "https://example.com/terms",
        "website": "https://example.com/",
        "caaIdentities": ["example.com"],
    });
    let plan = Plan {
        provisioner: Some(provisioner.clone()),
        ..Plan::default()
    };
    let daemon = Daemon::start_with(plan).await;
    let directory = daemon.site.get("/acme/acme/directory").await.expect(200).json();
    assert_eq!(directory["meta"], provisioner);
    let other = daemon.site.get("/acme/other/directory").await.expect(200).json();
    assert_eq!(other["meta"], json!(null));
    let prefix = format!("https://{}/acme/other/", daemon.site.authority());
    assert!(other["newOrder"].as_str().unwrap().starts_with(&prefix));
}
