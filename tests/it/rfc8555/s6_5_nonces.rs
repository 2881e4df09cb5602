//! RFC 8555 §6.5: anti-replay nonces (CONFORMANCE C, SECURITY C224).

use std::collections::HashSet;

use serde_json::json;

use crate::harness::client::{Client, GET};
use crate::harness::key::{b64, unb64};
use crate::harness::server::Daemon;

/// Sends an honest POST-as-GET of the own account with this nonce.
async fn with_nonce(client: &Client, nonce: &str) -> crate::harness::answer::Answer {
    let body = client.signed(client.kid(), nonce, GET);
    let answer = client.post_body(client.kid(), &body).await;
    answer.acme();
    answer
}

#[tokio::test]
async fn c5_a_nonce_is_good_once() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let nonce = client.nonce().await;
    with_nonce(&client, &nonce).await.expect(200);
    let again = with_nonce(&client, &nonce).await;
    again.problem(400, "badNonce");
    with_nonce(&client, &again.nonce()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_of_100_parallel_requests_with_one_nonce_one_is_accepted() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let nonce = client.nonce().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (client, nonce) = (client.clone(), nonce.clone());
        requests.spawn(async move { with_nonce(&client, &nonce).await });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    let mut nonces = HashSet::new();
    for answer in &answers {
        assert!(
            nonces.insert(answer.nonce()),
            "C3: each answer has a nonce of its own"
        );
        if answer.status != 200 {
            answer.problem(400, "badNonce");
        }
    }
}

#[tokio::test]
async fn c4_c224_nonces_that_this_server_did_not_make_are_refused_and_the_new_one_works() {
    let (daemon, elsewhere) = tokio::join!(Daemon::start(), Daemon::start());
    let client = daemon.account().await;
    let good = client.nonce().await;
    let foreign = elsewhere.account().await.nonce().await;
    let mut altered = unb64(&good);
    altered[0] ^= 1;
    let altered = b64(altered);
    let nonces = [
        "",
        &foreign,
        &good[..good.len() - 4],
        &good[4..],
        &altered,
        &format!("{good}AAAA"),
        "AAAA",
    ];
    for wrong in nonces {
        let refused = with_nonce(&client, wrong).await;
        refused.problem(400, "badNonce");
        with_nonce(&client, &refused.nonce()).await.expect(200);
    }
    let mut header = client.protected(client.kid(), "");
    header.remove("nonce");
    let body = client
        .key
        .envelope(serde_json::Value::Object(header).to_string().as_bytes(), b"");
    let refused = client.post_body(client.kid(), body.to_string().as_bytes()).await;
    refused.acme().problem(400, "badNonce");
    with_nonce(&client, &good).await.expect(200);
}

/// RFC 8555 §6.5.2: "If the value of a "nonce" header parameter is not valid according to this encoding, then the
/// verifier MUST reject the JWS as malformed."
#[tokio::test]
async fn c6_a_nonce_that_is_not_base64url_is_malformed() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    for wrong in ["a+b/", "AAA=", "a b", "\n", "ä", "a.b"] {
        with_nonce(&client, wrong).await.problem(400, "malformed");
    }
}

#[tokio::test]
async fn c7_a_nonce_is_used_up_by_a_signed_request_that_is_refused_and_not_by_a_forged_one() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let url = daemon.site.url("new-order");
    let nonce = client.nonce().await;
    let refused = client
        .post_body(&url, &client.signed(&url, &nonce, json!({ "identifiers": [] })))
        .await;
    refused.problem(400, "malformed");
    with_nonce(&client, &nonce).await.problem(400, "badNonce");

    let nonce = refused.nonce();
    let elsewhere = client.signed(client.kid(), &nonce, GET);
    let refused = client.post_body(&url, &elsewhere).await;
    refused.problem(403, "unauthorized");
    with_nonce(&client, &nonce).await.problem(400, "badNonce");

    let nonce = refused.nonce();
    let forger = Client::new(
        &daemon.site,
        Client::stranger(&daemon.site).key,
        client.kid.clone(),
    );
    with_nonce(&forger, &nonce).await.problem(400, "malformed");
    with_nonce(&client, &nonce).await.expect(200);
}

#[tokio::test]
async fn c4_c224_after_a_restart_a_client_goes_on_with_the_nonce_that_comes_with_the_refusal() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let before = client.nonce().await;
    let daemon = daemon.restart().await;
    let client = client.clone();
    let refused = with_nonce(&client, &before).await;
    refused.problem(400, "badNonce");
    with_nonce(&client, &refused.nonce()).await.expect(200);
    client.order(&["after.example.com"]).await;
    drop(daemon);
}

#[tokio::test]
async fn c1_new_nonce_takes_post_as_get() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let answer = client.post(&daemon.site.url("new-nonce"), GET).await.expect(200);
    with_nonce(&client, &answer.nonce()).await.expect(200);
}
