//! RFC 8737: tls-alpn-01 over the wire. What the validator takes and refuses is tested where it stands.

use serde_json::json;

use crate::harness::client::{Client, Order};
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::server::{Daemon, Plan};
use crate::harness::tls_responder::TlsResponder;

/// A daemon that offers these challenges, and looks for tls-alpn-01 at the responder.
pub(crate) async fn daemon(responder: &TlsResponder, challenges: &[&str]) -> Daemon {
    Daemon::start_with(Plan {
        provisioner: Some(json!({ "challenges": challenges })),
        tls_port: Some(responder.address.port()),
        ..Plan::default()
    })
    .await
}

/// Says that the order's one challenge can be met; the responder shows a certificate for this key authorization.
pub(crate) async fn answer(
    client: &Client,
    order: &Order,
    responder: &TlsResponder,
    (server_name, identifier): (&str, &str),
    key_authorization: impl FnOnce(String) -> String,
) {
    let (url, token) = client.challenge_by("tls-alpn-01", &order.authorizations[0]).await;
    let key_authorization = key_authorization(client.key_authorization(&token));
    responder.publish(server_name, identifier, &key_authorization);
    client.post(&url, json!({})).await.expect(200);
}

#[tokio::test]
async fn i3_j5_a_name_proved_by_tls_alpn_01_gets_its_certificate() {
    let responder = TlsResponder::start().await;
    let daemon = daemon(&responder, &["tls-alpn-01"]).await;
    let client = daemon.account().await;
    let name = "www.example.com";
    let order = client.order(&[name]).await;
    let offered = client.look(&order.authorizations[0]).await["challenges"].clone();
    assert_eq!(offered.as_array().unwrap().len(), 1, "{offered}");
    answer(&client, &order, &responder, (name, name), |right| right).await;
    let authorization = client.until(&order.authorizations[0], "valid").await;
    assert_eq!(authorization["challenges"][0]["type"], "tls-alpn-01");
    assert!(authorization["challenges"][0]["validated"].is_string());
    let ready = client.until(&order.url, "ready").await;
    assert!(ready.get("error").is_none(), "{ready}");
    client
        .finalize(&order, &csr::plain(&Key::new(), &[name]))
        .await
        .expect(200);
    client.until(&order.url, "valid").await;
    assert_eq!(daemon.web.looks(), 0);
}

#[tokio::test]
async fn j5_a_certificate_for_another_token_or_name_makes_the_order_invalid() {
    let responder = TlsResponder::start().await;
    let daemon = daemon(&responder, &["http-01", "tls-alpn-01"]).await;
    let client = daemon.account().await;
    let cases: [(&str, &str, fn(String) -> String); 2] = [
        ("a.example.com", "a.example.com", |right| format!("{right}x")),
        ("b.example.com", "other.example.com", |right| right),
    ];
    for (name, shown, key_authorization) in cases {
        let order = client.order(&[name]).await;
        answer(&client, &order, &responder, (name, shown), key_authorization).await;
        let authorization = client.until(&order.authorizations[0], "invalid").await;
        let challenges = authorization["challenges"].as_array().unwrap();
        let failed = challenges
            .iter()
            .find(|challenge| challenge["type"] == "tls-alpn-01")
            .unwrap();
        assert_eq!(
            failed["error"]["type"],
            "urn:ietf:params:acme:error:incorrectResponse"
        );
        let detail = failed["error"]["detail"].as_str().unwrap();
        assert!(
            detail.starts_with(&format!("tls-alpn-01 of {name}: ")),
            "{detail}"
        );
        assert!(!detail.contains("other.example.com"), "{detail}");
        assert_eq!(client.look(&order.url).await["status"], "invalid");
    }
    assert_eq!(daemon.ca.stats().orders_opened, 0);
}
