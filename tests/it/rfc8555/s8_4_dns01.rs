//! RFC 8555 §8.4: dns-01 over the wire, with records that the daemon looks up in real DNS (CONFORMANCE I1, I3, J5, J6,
//! SECURITY C8, F18).

use aws_lc_rs::digest;
use hickory_proto::op::ResponseCode;
use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};
use crate::harness::zone::Zone;

const PLACE: &str = "_acme-challenge.example.com";

/// A daemon that offers http-01 and dns-01, and asks the zone.
async fn start() -> (Daemon, Zone) {
    let zone = Zone::start().await;
    let plan = Plan {
        provisioner: Some(json!({ "challenges": ["http-01", "dns-01"] })),
        resolver: Some(zone.address),
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, zone)
}

/// URL and right value of the authorization's dns-01 challenge.
async fn challenge(client: &Client, authorization: &str) -> (String, String) {
    let object = client.look(authorization).await;
    let challenges = object["challenges"].as_array().unwrap();
    let dns = challenges.iter().find(|challenge| challenge["type"] == "dns-01");
    let dns = dns.unwrap_or_else(|| panic!("no dns-01: {object}"));
    let proof = client.key_authorization(dns["token"].as_str().unwrap());
    let value = b64(digest::digest(&digest::SHA256, proof.as_bytes()));
    (dns["url"].as_str().unwrap().to_owned(), value)
}

fn types(authorization: &Value) -> Vec<&str> {
    let challenges = authorization["challenges"].as_array().unwrap().iter();
    challenges
        .map(|challenge| challenge["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn i1_i3_a_wildcard_offers_dns_01_alone_and_an_address_never_does() {
    let (daemon, _zone) = start().await;
    let client = daemon.account().await;
    let order = client.order(&["*.example.com", "example.com"]).await;
    let mut wildcards = 0;
    for url in &order.authorizations {
        let object = client.look(url).await;
        assert_eq!(
            object["identifier"],
            json!({ "type": "dns", "value": "example.com" })
        );
        match object.get("wildcard") {
            Some(wildcard) => {
                assert_eq!(wildcard, &json!(true));
                assert_eq!(types(&object), ["dns-01"]);
                wildcards += 1;
            }
            None => assert_eq!(types(&object), ["http-01", "dns-01"]),
        }
    }
    assert_eq!((order.authorizations.len(), wildcards), (2, 1));
    let identifiers = json!([{ "type": "ip", "value": "127.0.0.1" }]);
    let url = daemon.site.url("new-order");
    let answer = client.post(&url, json!({ "identifiers": identifiers })).await;
    let authorization = answer.expect(201).json()["authorizations"][0].clone();
    let object = client.look(authorization.as_str().unwrap()).await;
    assert_eq!(types(&object), ["http-01"]);
    let url = object["challenges"][0]["url"].as_str().unwrap();
    let other = url.replace("http-01", "dns-01");
    client.post(&other, json!({})).await.problem(404, "malformed");
}

#[tokio::test]
async fn a_wildcard_and_its_base_name_are_issued_with_a_record_each_at_one_place() {
    let (daemon, zone) = start().await;
    let client = daemon.account().await;
    let names = ["*.example.com", "example.com"];
    let order = client.order(&names).await;
    let mut challenges = Vec::new();
    for authorization in &order.authorizations {
        challenges.push(challenge(&client, authorization).await);
    }
    let values: Vec<&str> = challenges.iter().map(|(_, value)| value.as_str()).collect();
    assert_ne!(values[0], values[1]);
    zone.set_txt(PLACE, &values);
    for (url, _) in &challenges {
        client.post(url, json!({})).await.expect(200);
    }
    client.until(&order.url, "ready").await;
    for authorization in &order.authorizations {
        let settled = client.look(authorization).await;
        assert_eq!(types(&settled), ["dns-01"], "I2: what settled it");
        assert!(settled["expires"].is_string(), "I2: {settled}");
    }
    // Two look-ups of one name at one time share a question.
    assert!((1..=2).contains(&zone.looks(PLACE)));
    let key = Key::new();
    client
        .finalize(&order, &csr::plain(&key, &names))
        .await
        .expect(200);
    let valid = client.until(&order.url, "valid").await;
    let pem = client.chain(&valid).await;
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(daemon.web.looks(), 0);
}

#[tokio::test]
async fn c804_a_delegated_challenge_is_followed_into_the_other_zone() {
    let (daemon, zone) = start().await;
    let client = daemon.account().await;
    let order = client.order(&["*.example.com"]).await;
    let (url, value) = challenge(&client, &order.authorizations[0]).await;
    zone.set_alias(PLACE, "x1.acme.example.net");
    zone.set_txt("x1.acme.example.net", &["of another order", &value]);
    client.post(&url, json!({})).await.expect(200);
    client.until(&order.url, "ready").await;
}

#[tokio::test]
async fn f18_j6_servfail_leaves_the_challenge_processing_until_the_record_can_be_read() {
    let (daemon, zone) = start().await;
    let client = daemon.account().await;
    let order = client.order(&["example.com"]).await;
    let (url, value) = challenge(&client, &order.authorizations[0]).await;
    zone.fail(PLACE, ResponseCode::ServFail);
    client.post(&url, json!({})).await.expect(200);
    let problem = loop {
        let answer = client.post(&url, GET).await.expect(200);
        assert_eq!(answer.json()["status"], "processing");
        if let Some(problem) = answer.json().get("error") {
            assert!(answer.header("retry-after").is_some());
            break problem.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(problem["type"], "urn:ietf:params:acme:error:dns");
    zone.set_txt(PLACE, &[&value]);
    client.until(&order.url, "ready").await;
    let settled = client.look(&url).await;
    assert!(
        settled["status"] == "valid" && settled.get("error").is_none(),
        "{settled}"
    );
    assert!(zone.looks(PLACE) >= 2);
}

#[tokio::test]
async fn j5_c808_a_record_that_stays_wrong_ends_invalid_with_its_problem_after_four_looks() {
    let (daemon, zone) = start().await;
    let client = daemon.account().await;
    let order = client.order(&["example.com"]).await;
    let (url, _) = challenge(&client, &order.authorizations[0]).await;
    let token = client.look(&url).await["token"].as_str().unwrap().to_owned();
    zone.set_txt(PLACE, &["SECRET", &client.key_authorization(&token)]);
    client.post(&url, json!({})).await.expect(200);
    let invalid = client.until(&order.url, "invalid").await;
    let settled = client.look(&url).await;
    assert_eq!(settled["status"], "invalid");
    for error in [&invalid["error"], &settled["error"]] {
        assert_eq!(error["type"], "urn:ietf:params:acme:error:incorrectResponse");
        let detail = error["detail"].as_str().unwrap();
        assert!(
            detail.contains(PLACE) && detail.contains("the key authorization itself"),
            "{detail}"
        );
        assert!(!detail.contains("SECRET") && !detail.contains(&token), "{detail}");
    }
    assert_eq!(zone.looks(PLACE), 4);
    assert_eq!(daemon.ca.stats().orders_opened, 0);
}
