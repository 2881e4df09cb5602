//! Several directories side by side (RFC 8555 §7.1): what one has, the others do not.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::Daemon;

/// The same path below the other provisioner's.
fn elsewhere(url: &str) -> String {
    url.replace("/acme/acme/", "/acme/other/")
}

#[tokio::test]
async fn a_directory_has_its_own_urls_and_one_key_has_an_account_in_each() {
    let daemon = Daemon::start().await;
    let directory = async |path: &str| daemon.site.get(path).await.expect(200).json();
    let here = directory("/acme/acme/directory").await;
    let there = directory("/acme/other/directory").await;
    for (name, url) in here.as_object().unwrap() {
        assert_eq!(there[name], elsewhere(url.as_str().unwrap()), "{name}");
    }
    let client = daemon.account().await;
    let bare = Client::new(&daemon.site, Arc::clone(&client.key), None);
    let new_account = elsewhere(&daemon.site.url("new-account"));
    bare.post(&new_account, json!({ "onlyReturnExisting": true }))
        .await
        .problem(400, "accountDoesNotExist");
    let made = bare.post(&new_account, json!({})).await.expect(201);
    assert!(
        made.location()
            .starts_with(&elsewhere(&daemon.site.url("account/")))
    );
    assert_eq!(made.json()["orders"], format!("{}/orders", made.location()));
    assert_ne!(made.location(), elsewhere(client.kid()));
    let found = bare.post(&daemon.site.url("new-account"), json!({})).await;
    assert_eq!(found.expect(200).location(), client.kid());
    // Neither ends with the other.
    let twin = Client::new(&daemon.site, Arc::clone(&client.key), Some(made.location()));
    client
        .post(client.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    twin.post(twin.kid(), GET).await.expect(200);
    // A key that is taken in one directory is free in the other.
    let other = daemon.account().await;
    let inner = json!({ "account": twin.kid(), "oldKey": twin.key.jwk });
    let url = elsewhere(&daemon.site.url("key-change"));
    let header = json!({ "alg": "ES256", "jwk": other.key.jwk, "url": url });
    let inner = other
        .key
        .envelope(header.to_string().as_bytes(), inner.to_string().as_bytes());
    twin.post(&url, inner).await.expect(200);
    other.post(other.kid(), GET).await.expect(200);
}

#[tokio::test]
async fn c501_nothing_of_one_directory_can_be_reached_under_another() {
    let daemon = Daemon::start().await;
    let owner = daemon.account().await;
    let issued = owner.issue(&daemon, &["issued.example.com"]).await;
    let ready = owner.ready(&daemon, &["ready.example.com"]).await;
    let pending = owner.order(&["pending.example.com"]).await;
    let challenge = owner.publish(&daemon, &pending.authorizations[0]).await;
    let looks = daemon.web.looks();
    // The same key, with an account there.
    let bare = Client::new(&daemon.site, Arc::clone(&owner.key), None);
    let made = bare
        .post(&elsewhere(&daemon.site.url("new-account")), json!({}))
        .await
        .expect(201);
    let twin = Client::new(&daemon.site, Arc::clone(&owner.key), Some(made.location()));
    let moved = Client::new(&daemon.site, Arc::clone(&owner.key), Some(elsewhere(owner.kid())));
    let csr = json!({ "csr": b64(csr::plain(&Key::new(), &["ready.example.com"])) });
    let deactivation = json!({ "status": "deactivated" });
    let objects: [(&str, &Value); 7] = [
        (&pending.url, &Value::Null),
        (&pending.authorizations[0], &Value::Null),
        (&pending.authorizations[0], &deactivation),
        (&challenge, &Value::Null),
        (&challenge, &json!({})),
        (&ready.finalize, &csr),
        (&issued.url, &Value::Null),
    ];
    let post = async |client: &Client, url: &str, payload: &Value| match payload {
        Value::Null => client.post(url, GET).await,
        object => client.post(url, object.clone()).await,
    };
    let orders = format!("{}/orders", owner.kid());
    let accounts: [(&str, &Value); 3] = [
        (owner.kid(), &Value::Null),
        (owner.kid(), &deactivation),
        (&orders, &Value::Null),
    ];
    for (url, payload) in objects {
        let there = elsewhere(url);
        post(&twin, &there, payload).await.problem(404, "malformed");
    }
    for (url, payload) in accounts {
        let there = elsewhere(url);
        post(&twin, &there, payload).await.problem(403, "unauthorized");
    }
    for (url, payload) in objects.into_iter().chain(accounts) {
        // An account of the one is none in the other, in either spelling, at either path.
        for (client, url) in [
            (&owner, elsewhere(url)),
            (&moved, elsewhere(url)),
            (&moved, url.to_owned()),
            (&twin, url.to_owned()),
        ] {
            let answer = post(client, &url, payload).await;
            answer.problem(400, "accountDoesNotExist");
        }
    }
    assert_eq!(owner.look(&challenge).await["status"], "pending");
    assert_eq!(owner.look(&ready.url).await["status"], "ready");
    assert_eq!(owner.look(owner.kid()).await["status"], "valid");
    assert_eq!((daemon.ca.stats().orders_opened, daemon.web.looks()), (1, looks));
}
