//! RFC 8555 §7.5.2: authorizations that their owner gives up (CONFORMANCE I5, H14 and J8, SECURITY C506 and C507).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::Daemon;

async fn give_up(client: &Client, authorization: &str) -> Answer {
    client
        .post(authorization, json!({ "status": "deactivated" }))
        .await
}

#[tokio::test]
async fn i5_h14_an_authorization_that_is_given_up_ends_its_order() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let names = ["www.example.com", "mail.example.com"];
    let pending = client.order(&names).await;
    let ready = client.ready(&daemon, &names).await;
    let kept = client.order(&names).await;
    let looks = daemon.web.looks();
    for order in [&pending, &ready] {
        let url = &order.authorizations[1];
        let before = client.look(url).await;
        let answer = give_up(&client, url).await.expect(200);
        assert_eq!(&answer.location(), url);
        let mut expected = before.clone();
        expected["status"] = "deactivated".into();
        assert_eq!(answer.json(), expected);
        assert_eq!(client.look(url).await, expected);
        assert_eq!(give_up(&client, url).await.expect(200).json(), expected, "again");

        let ended = client.look(&order.url).await;
        assert_eq!(ended["status"], "invalid");
        assert_eq!(ended["authorizations"], json!(order.authorizations), "H13");
        assert_eq!(ended["error"]["type"], "urn:ietf:params:acme:error:unauthorized");
        assert!(
            ended["error"]["detail"]
                .as_str()
                .unwrap()
                .contains("mail.example.com")
        );
        let csr = csr::plain(&Key::new(), &names);
        client.finalize(order, &csr).await.problem(403, "orderNotReady");
    }
    let (challenge, _) = client.challenge(&pending.authorizations[1]).await;
    client.post(&challenge, json!({})).await.problem(400, "malformed");
    assert_eq!(client.look(&challenge).await["status"], "pending");
    let listed = client.look(&format!("{}/orders", client.kid())).await;
    assert_eq!(listed["orders"], json!([kept.url]), "E13: no invalid orders");
    assert_eq!((daemon.ca.stats().orders_opened, daemon.web.looks()), (0, looks));
}

#[tokio::test]
async fn c507_i5_a_client_can_set_no_other_status() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let url = &order.authorizations[0];
    for wrong in [
        json!({}),
        json!({ "status": "valid" }),
        json!({ "status": "pending" }),
        json!({ "status": "revoked" }),
        json!({ "status": "Deactivated" }),
        json!({ "status": null }),
        json!({ "status": 1 }),
        json!({ "status": ["deactivated"] }),
        json!({ "Status": "deactivated" }),
        json!(["deactivated"]),
        json!("deactivated"),
    ] {
        client.post(url, wrong).await.problem(400, "malformed");
    }
    assert_eq!(client.look(url).await["status"], "pending");
}

#[tokio::test]
async fn c506_j8_a_validation_that_is_under_way_does_not_undo_a_deactivation() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com"]).await;
    let url = &order.authorizations[0];
    let challenge = client.publish(&daemon, url).await;
    let held = daemon.web.hold().await;
    let started = client.post(&challenge, json!({})).await.expect(200);
    assert!(started.header("retry-after").is_some());
    while daemon.web.looks() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    give_up(&client, url).await.expect(200);
    drop(held);
    // Another validation, which is queued behind it, comes to its end.
    client.ready(&daemon, &["other.example.com"]).await;
    for _ in 0..20 {
        assert_eq!(client.look(url).await["status"], "deactivated");
        assert_eq!(client.look(&order.url).await["status"], "invalid");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let looked = client.post(&challenge, GET).await.expect(200);
    assert_eq!(
        looked.header("retry-after"),
        None,
        "J7: there is nothing to wait for"
    );
    assert_eq!(looked.json()["validated"], json!(null));
}

#[tokio::test]
async fn i5_a_finalized_order_whose_authorization_is_given_up_does_not_go_to_the_ca() {
    let daemon = Daemon::start_with_slow_ca(Duration::from_secs(3)).await;
    let client = daemon.account().await;
    let names = ["www.example.com"];
    // Orders for the same names stand in line: the second one waits until the CA has issued the first one's.
    let mut orders = Vec::new();
    for _ in 0..3 {
        orders.push(client.ready(&daemon, &names).await);
    }
    for order in &orders {
        let csr = csr::plain(&Key::new(), &names);
        client.finalize(order, &csr).await.expect(200);
    }
    give_up(&client, &orders[1].authorizations[0]).await.expect(200);
    let ended = client.look(&orders[1].url).await;
    assert_eq!(ended["status"], "invalid");
    client.until(&orders[0].url, "valid").await;
    client.until(&orders[2].url, "valid").await;
    assert_eq!(client.look(&orders[1].url).await, ended);
    let stats = daemon.ca.stats();
    assert_eq!((stats.orders_opened, stats.certificates.len()), (2, 2));
}

#[tokio::test]
async fn i5_an_issued_certificate_stays_and_the_authorization_permits_nothing_any_more() {
    let daemon = Daemon::start().await;
    let (client, other) = tokio::join!(daemon.account(), daemon.account());
    let names = ["www.example.com"];
    let issued = client.issue(&daemon, &names).await;
    let before = client.look(&issued.order.url).await;
    give_up(&client, &issued.order.authorizations[0])
        .await
        .expect(200);
    assert_eq!(client.look(&issued.order.url).await, before);
    assert_eq!(client.post(&issued.url, GET).await.expect(200).text(), issued.pem);
    // Another account may revoke what it holds authorizations for (RFC 8555 §7.6), but not what it held them for.
    let held = other.ready(&daemon, &names).await;
    give_up(&other, &held.authorizations[0]).await.expect(200);
    let revocation = json!({ "certificate": b64(&issued.leaf) });
    other
        .post(&daemon.site.url("revoke-cert"), revocation)
        .await
        .problem(403, "unauthorized");
}

#[tokio::test]
async fn i5_lego_gives_up_what_has_failed_and_is_told_that_it_has() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order(&["www.example.com", "mail.example.com"]).await;
    let (challenge, token) = client.challenge(&order.authorizations[0]).await;
    daemon.web.publish(&token, "wrong");
    client.post(&challenge, json!({})).await.expect(200);
    let failed = client.until(&order.url, "invalid").await;
    let statuses: [(usize, Value); 2] = [(0, json!("invalid")), (1, json!("deactivated"))];
    for (index, status) in statuses {
        let answer = give_up(&client, &order.authorizations[index]).await.expect(200);
        assert_eq!(answer.json()["status"], status);
    }
    assert_eq!(client.look(&order.url).await["error"], failed["error"]);
}
