//! RFC 8555 §7.6: revocation (CONFORMANCE M, SECURITY C1001 and C1002).

use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::revocation::Revocation;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::ca;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::client::{Client, GET, Issued, PATIENCE};
use crate::harness::key::b64;
use crate::harness::server::Daemon;
use crate::harness::storm::Storm;

async fn revoke(client: &Client, leaf: &[u8]) -> Answer {
    revoke_with(client, json!({ "certificate": b64(leaf) })).await
}

async fn revoke_with(client: &Client, payload: Value) -> Answer {
    client.try_post(&client.site.url("revoke-cert"), payload).await
}

/// A client that signs with the certificate's key.
fn holder(daemon: &Daemon, issued: Issued) -> Client {
    Client::new(&daemon.site, Arc::new(issued.key), None)
}

#[tokio::test]
async fn m1_m3_the_owner_revokes_once_and_the_ca_hears_the_reason() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let payload = json!({ "certificate": b64(&issued.leaf), "reason": 4 });
    let answer = revoke_with(&client, payload.clone()).await.expect(200);
    assert!(answer.acme().body.is_empty());
    revoke_with(&client, payload)
        .await
        .acme()
        .problem(400, "alreadyRevoked");
    let revocations = daemon.ca.stats().revocations;
    assert_eq!((revocations.len(), revocations[0].reason), (1, Some(4)));
    assert_eq!(client.look(&issued.order.url).await["status"], "valid");
}

#[tokio::test]
async fn m2_the_certificates_key_may_revoke_without_an_account_and_no_other_key_may() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let leaf = issued.leaf.clone();
    revoke(&Client::stranger(&daemon.site), &leaf)
        .await
        .acme()
        .problem(403, "unauthorized");
    // The account's own key is not the certificate's, if it is sent as jwk.
    let keyed = Client::new(&daemon.site, Arc::clone(&client.key), None);
    revoke(&keyed, &leaf).await.acme().problem(403, "unauthorized");
    assert!(daemon.ca.stats().revocations.is_empty());
    let holder = holder(&daemon, issued);
    revoke(&holder, &leaf).await.expect(200);
    revoke(&holder, &leaf).await.acme().problem(400, "alreadyRevoked");
}

#[tokio::test]
async fn m1_c1002_another_account_needs_authorizations_for_all_names() {
    let daemon = Daemon::start().await;
    let (owner, other) = tokio::join!(daemon.account(), daemon.account());
    let issued = owner.issue(&daemon, &["a.example.com", "b.example.com"]).await;
    revoke(&other, &issued.leaf)
        .await
        .acme()
        .problem(403, "unauthorized");
    other.ready(&daemon, &["a.example.com"]).await;
    other.order(&["b.example.com"]).await;
    let problem = revoke(&other, &issued.leaf)
        .await
        .acme()
        .problem(403, "unauthorized");
    assert!(
        problem["detail"].as_str().unwrap().contains("b.example.com"),
        "{problem}"
    );
    assert!(daemon.ca.stats().revocations.is_empty());
    other.ready(&daemon, &["b.example.com"]).await;
    revoke(&other, &issued.leaf).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_ten_at_once_are_one_revocation_at_the_ca() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (client, leaf) = (client.clone(), issued.leaf.clone());
        requests.spawn(async move { revoke(&client, &leaf).await });
    }
    let mut revoked = 0;
    for answer in requests.join_all().await {
        match answer.acme().status {
            200 => revoked += 1,
            _ => drop(answer.problem(400, "alreadyRevoked")),
        }
    }
    assert_eq!(revoked, 1);
    assert_eq!(daemon.ca.stats().revocations.len(), 1);
}

#[tokio::test]
async fn m4_c1001_reasons_that_a_subscriber_can_not_give_are_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let certificate = b64(&issued.leaf);
    for reason in [2_i64, 6, 7, 8, 9, 10, 11, -1, 1 << 31, i64::MAX, i64::MIN] {
        let answer = revoke_with(&client, json!({ "certificate": certificate, "reason": reason })).await;
        let problem = answer.acme().problem(400, "badRevocationReason");
        assert!(
            problem["detail"].as_str().unwrap().contains("allowed"),
            "RFC 8555 §7.6: {problem}"
        );
    }
    for reason in [json!("1"), json!(1.5), json!([1]), json!(1e300), json!(true)] {
        let answer = revoke_with(&client, json!({ "certificate": certificate, "reason": reason })).await;
        answer.acme().problem(400, "malformed");
    }
    assert!(daemon.ca.stats().revocations.is_empty());
    let answer = revoke_with(&client, json!({ "certificate": certificate, "reason": null })).await;
    assert_eq!(answer.expect(200).status, 200);
    assert_eq!(daemon.ca.stats().revocations[0].reason, None);
}

#[tokio::test]
async fn c1001_a_padded_certificate_is_taken_as_the_go_program_takes_it() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let mut name = "a.example.com".to_owned();
    let leaf = loop {
        let issued = client.issue(&daemon, &[&name]).await;
        if issued.leaf.len() % 3 != 0 {
            break issued.leaf;
        }
        name.insert(0, 'a');
    };
    let padded = format!("{}{}", b64(&leaf), "=".repeat(3 - leaf.len() % 3));
    assert_eq!(padded.len() % 4, 0);
    let answer = revoke_with(&client, json!({ "certificate": padded })).await;
    assert_eq!(answer.expect(200).status, 200);
    assert_eq!(daemon.ca.stats().revocations.len(), 1);
}

#[tokio::test]
async fn m5_c1001_what_is_no_certificate_of_ours_is_refused_and_the_ca_hears_nothing() {
    let (daemon, elsewhere) = tokio::join!(Daemon::start(), Daemon::start());
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let foreign = elsewhere
        .account()
        .await
        .issue(&elsewhere, &["www.example.com"])
        .await;
    let mut altered = issued.leaf.clone();
    *altered.last_mut().unwrap() ^= 1;
    let trailing = [issued.leaf.as_slice(), &[0]].concat();
    let intermediate = {
        let (_, rest) = issued.pem.split_once("-----END CERTIFICATE-----\n").unwrap();
        crate::harness::csr::first_of_pem(rest)
    };
    for wrong in [
        b"".as_slice(),
        b"garbage",
        &[0x30; 20_000],
        &foreign.leaf,
        &altered,
        &trailing,
        &intermediate,
    ] {
        revoke(&client, wrong).await.acme().problem(404, "malformed");
    }
    for wrong in [
        json!({}),
        json!({ "certificate": null }),
        json!({ "certificate": 1 }),
        json!({ "certificate": "++" }),
        json!({ "certificate": issued.pem }),
    ] {
        revoke_with(&client, wrong).await.acme().problem(400, "malformed");
    }
    client
        .post(&daemon.site.url("revoke-cert"), GET)
        .await
        .problem(400, "malformed");
    let big = json!({ "certificate": b64(vec![0x30; 64 * 1024]) });
    revoke_with(&client, big).await.acme().problem(413, "malformed");
    assert!(daemon.ca.stats().revocations.is_empty() && elsewhere.ca.stats().revocations.is_empty());
}

#[tokio::test]
async fn m6_f49_a_revocation_that_the_ca_refuses_is_a_5xx_and_is_not_recorded() {
    let daemon = Daemon::start_before(ca::Options {
        revocations_refused: true,
        ..ca::Options::default()
    })
    .await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    for _ in 0..2 {
        let answer = revoke(&client, &issued.leaf).await;
        answer.problem(500, "serverInternal");
        assert!(answer.header("retry-after").is_some());
        answer.nonce();
    }
    assert!(daemon.ca.stats().revocations.is_empty());
}

#[tokio::test]
async fn m6_f49_a_reason_that_the_ca_does_not_take_is_the_clients_to_hear_of() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let reason = Problem::new(400, "badRevocationReason", "not this one");
    daemon
        .ca
        .will(Step::RevokeCert, Times::Next(1), Twist::Refuse(reason));
    let payload = json!({ "certificate": b64(&issued.leaf), "reason": 1 });
    let answer = revoke_with(&client, payload).await;
    answer.problem(400, "badRevocationReason");
    assert!(answer.text().contains("not this one"));
    assert!(daemon.ca.stats().revocations.is_empty());
    revoke(&client, &issued.leaf).await.expect(200);
}

#[tokio::test]
async fn m6_f49_a_revocation_that_the_ca_does_not_answer_is_503_and_is_done_once_when_the_ca_is_back() {
    let storm = Arc::new(Storm::with_delay(Duration::ZERO));
    let daemon = Daemon::start_before(ca::Options {
        trouble: storm.clone(),
        ..ca::Options::default()
    })
    .await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    storm.goes_down();
    let payload = json!({ "certificate": b64(&issued.leaf), "reason": 3 });
    // Asking again changes nothing, and is no second revocation.
    for _ in 0..2 {
        let answer = revoke_with(&client, payload.clone()).await;
        answer.problem(503, "serverInternal");
        assert!(answer.header("retry-after").is_some());
    }
    let (daemon, order) = daemon.stored(&issued.order.url).await;
    let requested = order.revocation();
    assert!(
        matches!(requested, Some(Revocation::Requested { .. })),
        "nobody has confirmed it: {requested:?}"
    );
    assert!(daemon.ca.stats().revocations.is_empty());
    // It outlives the daemon, and nobody has to ask again.
    storm.comes_up();
    let waited = tokio::time::timeout(PATIENCE, async {
        while daemon.ca.stats().revocations.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("the revocation is lost");
    let repeated = revoke_with(&client.clone(), payload).await;
    repeated.acme().problem(400, "alreadyRevoked");
    let revocations = daemon.ca.stats().revocations;
    assert_eq!((revocations.len(), revocations[0].reason), (1, Some(3)));
    let (_, order) = daemon.stored(&issued.order.url).await;
    assert!(matches!(order.revocation(), Some(Revocation::Confirmed { .. })));
}

#[tokio::test]
async fn a_deactivated_accounts_certificate_can_still_be_revoked_with_its_key() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let leaf = issued.leaf.clone();
    client
        .post(client.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    revoke(&client, &leaf).await.acme().problem(401, "unauthorized");
    revoke(&holder(&daemon, issued), &leaf).await.expect(200);
}
