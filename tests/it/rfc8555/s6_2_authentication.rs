//! RFC 8555 §6.2 to §6.4: signed requests (CONFORMANCE D, SECURITY C2). Every flaw is tried at every route that takes a
//! POST, and the same request without the flaw succeeds there.

mod flaws;
mod keys;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::Daemon;
use crate::rfc8555::s6_2_authentication::flaws::{FLAWS, Twin};

/// A route, and an honest request to it.
struct Route {
    url: String,
    payload: String,
    client: Client,
    /// What the honest request is answered with.
    status: u16,
}

/// Every route that takes a POST, those that end something last.
async fn routes(daemon: &Daemon) -> Vec<Route> {
    let client = daemon.account().await;
    let site = &daemon.site;
    let issued = client.issue(daemon, &["issued.example.com"]).await;
    let ready = client.ready(daemon, &["ready.example.com"]).await;
    let pending = client.order(&["pending.example.com"]).await;
    let (challenge, _) = client.challenge(&pending.authorizations[0]).await;
    let doomed = client.order(&["doomed.example.com"]).await;
    let newcomer = Client::stranger(site);
    let (mover, new_key) = (daemon.account().await, Key::new());
    let header = json!({ "alg": new_key.alg, "jwk": new_key.jwk, "url": site.url("key-change") });
    let change = json!({ "account": mover.kid(), "oldKey": mover.key.jwk });
    let change = new_key.envelope(header.to_string().as_bytes(), change.to_string().as_bytes());
    let order = json!({ "identifiers": [{ "type": "dns", "value": "www.example.com" }] });
    let csr = json!({ "csr": b64(csr::plain(&Key::new(), &["ready.example.com"])) });
    let revocation = json!({ "certificate": b64(&issued.leaf) });
    let by = |url: &str, payload: String, status| Route {
        url: url.to_owned(),
        payload,
        client: client.clone(),
        status,
    };
    let look = |url: &str| by(url, GET.to_owned(), 200);
    vec![
        look(&site.url("directory")),
        look(&site.url("new-nonce")),
        Route {
            client: newcomer,
            ..by(&site.url("new-account"), "{}".to_owned(), 201)
        },
        by(client.kid(), "{}".to_owned(), 200),
        look(&format!("{}/orders", client.kid())),
        by(&site.url("new-order"), order.to_string(), 201),
        look(&pending.url),
        look(&pending.authorizations[0]),
        look(&issued.url),
        by(
            &doomed.authorizations[0],
            json!({ "status": "deactivated" }).to_string(),
            200,
        ),
        by(&challenge, "{}".to_owned(), 200),
        by(&ready.finalize, csr.to_string(), 200),
        by(&site.url("revoke-cert"), revocation.to_string(), 200),
        Route {
            client: mover,
            ..by(&site.url("key-change"), change.to_string(), 200)
        },
    ]
}

#[tokio::test]
async fn d1_to_d22_c201_to_c227_every_flaw_is_refused_at_every_route_and_its_honest_twin_is_not() {
    let daemon = Daemon::start().await;
    let routes = routes(&daemon).await;
    let before = (daemon.web.looks(), daemon.ca.stats().orders_opened);
    let mut nonces = HashSet::new();
    for Route {
        url, payload, client, ..
    } in &routes
    {
        for flaw in FLAWS {
            let nonce = client.nonce().await;
            let twin = Twin {
                client,
                header: client.protected(url, &nonce),
                payload: payload.as_bytes(),
            };
            let answer = client.post_body(url, &(flaw.make)(&twin)).await;
            let told = std::panic::AssertUnwindSafe(|| {
                let problem = answer.acme().problem(flaw.status, flaw.kind);
                assert!(nonces.insert(answer.nonce()), "C3: a nonce came twice");
                let algorithms = problem
                    .get("algorithms")
                    .map(|names| names.as_array().unwrap().len());
                let expected = (flaw.kind == "badSignatureAlgorithm").then_some(5);
                assert_eq!(algorithms, expected, "D9: {problem}");
            });
            if std::panic::catch_unwind(told).is_err() {
                panic!("{} at {url} is answered with {}", flaw.name, answer.shown());
            }
        }
    }
    assert_eq!(
        (daemon.web.looks(), daemon.ca.stats().orders_opened),
        before,
        "nothing went out"
    );
    for Route {
        url,
        payload,
        client,
        status,
    } in &routes
    {
        let answer = client.post(url, payload.as_str()).await;
        assert_eq!(answer.status, *status, "{url}: {}", answer.shown());
    }
    eprintln!(
        "{} flaws at {} routes: {} requests refused, and the honest one accepted at each",
        FLAWS.len(),
        routes.len(),
        nonces.len()
    );
}

#[tokio::test]
async fn d15_d16_c216_to_c220_jwk_and_kid_are_each_taken_only_where_they_belong() {
    let daemon = Daemon::start().await;
    for Route {
        url, payload, client, ..
    } in routes(&daemon).await
    {
        let newcomer = url.ends_with("/new-account");
        let account = if newcomer {
            daemon.account().await
        } else {
            client.clone()
        };
        let keyed = Client::new(&daemon.site, Arc::clone(&client.key), None);
        let stranger = Client::stranger(&daemon.site);
        let wrong = if newcomer {
            vec![account]
        } else {
            vec![keyed, stranger]
        };
        for wrong in wrong {
            let answer = wrong.post(&url, payload.as_str()).await;
            match url.ends_with("/revoke-cert") {
                true => answer.problem(403, "unauthorized"),
                false => answer.problem(400, "malformed"),
            };
        }
        let nonce = client.nonce().await;
        let mut both = client.protected(&url, &nonce);
        both.insert("jwk".into(), client.key.jwk.clone());
        both.insert("kid".into(), daemon.site.url("account/1").into());
        let mut neither = client.protected(&url, &nonce);
        neither.remove("jwk");
        neither.remove("kid");
        for header in [both, neither] {
            let body = client
                .key
                .envelope(Value::Object(header).to_string().as_bytes(), payload.as_bytes());
            let answer = client.post_body(&url, body.to_string().as_bytes()).await;
            answer.acme().problem(400, "malformed");
        }
    }
}

#[tokio::test]
async fn d17_d18_c221_c222_a_kid_is_the_whole_url_of_the_signers_account() {
    let daemon = Daemon::start().await;
    let (client, other) = tokio::join!(daemon.account(), daemon.account());
    let kid = client.kid();
    let id = kid.rsplit('/').next().unwrap();
    let unknown = [
        kid.replace("https:", "http:"),
        kid.replace("acmeproxy.test", "evil"),
        kid.replace("acmeproxy", "ACMEPROXY"),
        kid.replace(
            &daemon.site.authority(),
            &format!("{}@{}", "user", daemon.site.authority()),
        ),
        kid.replace("/acme/acme/", "/acme/other/"),
        kid.replace("/acme/acme/", "/acme/acme/../acme/"),
        kid.replace("/account/", "/order/"),
        kid.replace("/account/", "//account/"),
        format!("{kid}/"),
        format!("{kid}?"),
        format!("{kid}#"),
        format!("{kid}/orders"),
        format!(" {kid}"),
        daemon.site.path_of(kid).to_owned(),
        id.to_owned(),
        String::new(),
        "x".repeat(10_000),
        kid.replace(id, &id.to_uppercase().replace('0', "A")),
        kid.replace(id, "00000000000000000000000000000000"),
        daemon.site.url("account/0123456789abcdef0123456789abcdef"),
    ];
    for kid in unknown {
        let liar = Client::new(&daemon.site, Arc::clone(&client.key), Some(kid));
        let answer = liar.post(&daemon.site.url("new-order"), json!({})).await;
        answer.problem(400, "accountDoesNotExist");
    }
    let thief = Client::new(&daemon.site, Arc::clone(&client.key), other.kid.clone());
    thief.post(other.kid(), GET).await.problem(400, "malformed");
    let renamed = kid.replace("acmeproxy.test", "ra.test");
    let renamed = Client::new(&daemon.site, Arc::clone(&client.key), Some(renamed));
    renamed.post(kid, GET).await.expect(200);
}

#[tokio::test]
async fn d20_c223_a_request_is_good_only_for_the_url_that_it_is_signed_for() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let orders = format!("{}/orders", client.kid());
    let port = format!(":{}", daemon.site.address.port());
    let signed_for = [
        daemon.site.url("new-order"),
        client.kid().to_owned(),
        format!("{orders}/"),
        format!("{orders}?"),
        format!("{orders}?cursor=1"),
        format!("{orders}#x"),
        orders.replace("https:", "http:"),
        orders.replace("https:", "HTTPS:"),
        orders.replace("acmeproxy", "AcmeProxy"),
        orders.replace("acmeproxy.test", "ra.test"),
        orders.replace(&port, ""),
        orders.replace(&port, ":443"),
        orders.replace("/account/", "/%61ccount/"),
        daemon.site.path_of(&orders).to_owned(),
        String::new(),
    ];
    for url in &signed_for {
        let body = client.signed(url, &client.nonce().await, GET);
        client
            .post_body(&orders, &body)
            .await
            .acme()
            .problem(403, "unauthorized");
    }
    let next = format!("{orders}?cursor=00000000000000000000000000000000");
    let body = client.signed(&orders, &client.nonce().await, GET);
    client
        .post_body(&next, &body)
        .await
        .acme()
        .problem(403, "unauthorized");
    client.post(&next, GET).await.expect(200);
    client.post(&orders, GET).await.expect(200);
}

#[tokio::test]
async fn d22_c233_c234_a_payload_is_an_object_or_nothing_as_the_resource_wants_it() {
    let daemon = Daemon::start().await;
    for Route {
        url, payload, client, ..
    } in routes(&daemon).await
    {
        let wrong: &[&str] = match payload.is_empty() {
            true => &["{}", "[]", "null", " ", "{\"status\":\"valid\"}", "x"],
            false => &[
                "[]",
                "null",
                "\"x\"",
                "1",
                "true",
                "{",
                "{}{}",
                "{\"a\":1",
                "\u{feff}{}",
                "[{}]",
            ],
        };
        for wrong in wrong {
            client.post(&url, *wrong).await.problem(400, "malformed");
        }
        let may_look = payload.is_empty()
            || ["/challenge/", "/account/", "/authz/"]
                .iter()
                .any(|part| url.contains(part));
        let looked = client.post(&url, GET).await;
        match may_look {
            true => assert_eq!(looked.status, 200, "{url}"),
            false => drop(looked.problem(400, "malformed")),
        }
        client
            .post(&url, vec![0xff, 0xfe])
            .await
            .problem(400, "malformed");
    }
}
