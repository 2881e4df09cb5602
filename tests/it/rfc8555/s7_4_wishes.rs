//! RFC 8555 §7.4 and draft-ietf-acme-profiles: what an order asks for beyond names (CONFORMANCE H10, H11, L2, SECURITY C414, C416).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

use crate::harness::answer::Answer;
use crate::harness::ca;
use crate::harness::client::{Client, GET, PATIENCE};
use crate::harness::csr;
use crate::harness::server::{Daemon, Plan};

const WWW: [&str; 1] = ["www.example.com"];

async fn ask(client: &Client, wishes: Value) -> Answer {
    client.ask_order_wishing(&WWW, wishes).await
}

/// From the new order to the valid one.
async fn obtain(daemon: &Daemon, client: &Client, wishes: Value) -> Value {
    let made = ask(client, wishes).await.expect(201);
    client.obtain(daemon, &made, &WWW).await
}

/// A daemon before a CA with three profiles.
async fn with_profiles(config: Value) -> Daemon {
    let profiles = ["classic", "shortlived", "tlsserver"];
    let profiles = profiles.map(|name| (name.to_owned(), format!("what {name} is")));
    let daemon = Daemon::start_with(Plan {
        more: Some(json!({ "authority": { "config": config } })),
        ca: ca::Options {
            profiles: BTreeMap::from(profiles),
            ..ca::Options::default()
        },
        ..Plan::default()
    })
    .await;
    let listed = async {
        while listed(&daemon).await.is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listed)
        .await
        .expect("no profiles are listed");
    daemon
}

async fn listed(daemon: &Daemon) -> Value {
    let directory = daemon.site.get("/acme/acme/directory").await.expect(200);
    directory.json()["meta"]["profiles"].clone()
}

#[tokio::test]
async fn h11_b4_c416_the_cas_profiles_are_listed_checked_reflected_and_sent() {
    let daemon = with_profiles(json!({})).await;
    let client = daemon.account().await;
    let all = json!({
        "classic": "what classic is", "shortlived": "what shortlived is", "tlsserver": "what tlsserver is",
    });
    assert_eq!(listed(&daemon).await, all);
    for unknown in ["", "Classic", "other", "\u{1b}[31m"] {
        let refused = ask(&client, json!({ "profile": unknown })).await;
        refused.problem(400, "invalidProfile");
    }
    let valid = obtain(&daemon, &client, json!({ "profile": "shortlived" })).await;
    assert_eq!(valid["profile"], "shortlived");
    let plain = obtain(&daemon, &client, json!({})).await;
    assert_eq!(plain["profile"], Value::Null);
    let orders = daemon.ca.stats().orders;
    let sent: Vec<_> = orders
        .iter()
        .map(|order| order.terms.profile.as_deref())
        .collect();
    assert_eq!(sent, [Some("shortlived"), None]);
    let daemon = daemon.restart().await;
    assert_eq!(
        listed(&daemon).await,
        all,
        "known before the CA has been asked again"
    );
}

#[tokio::test]
async fn h11_the_operator_chooses_among_the_profiles() {
    let config = json!({ "profiles": ["tlsserver", "unheard-of"], "profile": "classic" });
    let daemon = with_profiles(config).await;
    let client = daemon.account().await;
    assert_eq!(listed(&daemon).await, json!({ "tlsserver": "what tlsserver is" }));
    for refused in ["classic", "shortlived", "unheard-of"] {
        let refused = ask(&client, json!({ "profile": refused })).await;
        refused.problem(400, "invalidProfile");
    }
    obtain(&daemon, &client, json!({})).await;
    let orders = daemon.ca.stats().orders;
    let sent = orders[0].terms.profile.as_deref();
    assert_eq!(
        sent,
        Some("classic"),
        "the operator's choice for those who do not choose"
    )
}

/// A daemon before a CA that takes validities.
async fn with_lifetimes(config: Value) -> Daemon {
    let ca = ca::Options {
        lifetimes: true,
        ..ca::Options::default()
    };
    Daemon::start_with(Plan {
        ca,
        more: Some(json!({ "authority": { "config": config } })),
        ..Plan::default()
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "the CA's certificates begin now")]
fn in_days(days: u64) -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    (now + Duration::from_secs(days * 86_400)).to_string()
}

#[tokio::test]
async fn h10_c414_a_validity_is_honoured_where_the_ca_takes_it() {
    let daemon = with_lifetimes(json!({ "client_validity": true })).await;
    let client = daemon.account().await;
    let (from, to) = (in_days(0), in_days(10));
    let answer = ask(&client, json!({ "notBefore": from, "notAfter": to }))
        .await
        .expect(201);
    let object = answer.json();
    assert_eq!(
        (&object["notBefore"], &object["notAfter"]),
        (&json!(from), &json!(to))
    );
    let valid = obtain(&daemon, &client, json!({ "notAfter": to })).await;
    assert_eq!(valid["notAfter"], to);
    let leaf = csr::first_of_pem(&client.chain(&valid).await);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let end: Timestamp = to.parse().unwrap();
    assert_eq!(leaf.validity().not_after.timestamp(), end.as_second());
    for wrong in [
        json!({ "notAfter": "2020-01-01T00:00:00Z" }),
        json!({ "notBefore": in_days(3), "notAfter": in_days(2) }),
        json!({ "notBefore": in_days(3), "notAfter": in_days(3) }),
        json!({ "notAfter": "tomorrow" }),
        json!({ "notAfter": 7 }),
    ] {
        ask(&client, wrong).await.problem(400, "malformed");
    }
}

#[tokio::test]
async fn h10_certlifetime_is_the_validity_of_those_who_ask_for_none() {
    let daemon = with_lifetimes(json!({ "certlifetime": 20 })).await;
    let client = daemon.account().await;
    let refused = ask(&client, json!({ "notAfter": in_days(10) })).await;
    refused.problem(400, "malformed");
    let (least, most) = (in_days(20), in_days(21));
    let valid = obtain(&daemon, &client, json!({})).await;
    let end = valid["notAfter"].as_str().unwrap();
    assert!((least.as_str()..most.as_str()).contains(&end), "{end}");
}

#[tokio::test]
async fn l2_the_cas_other_chains_are_linked_and_each_is_fetched_by_its_owner() {
    let daemon = Daemon::start_before(ca::Options {
        alternates: 2,
        intermediates: 2,
        ..ca::Options::default()
    })
    .await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &WWW).await;
    let daemon = daemon.restart().await;
    let client = client.clone();
    let url = |number: usize| match number {
        0 => issued.url.clone(),
        number => format!("{}/{number}", issued.url),
    };
    let mut chains = Vec::new();
    for shown in 0..3 {
        let answer = client.post(&url(shown), GET).await.expect(200);
        assert_eq!(
            answer.header("content-type"),
            Some("application/pem-certificate-chain")
        );
        let links = answer
            .headers
            .get_all("link")
            .iter()
            .map(|link| link.to_str().unwrap());
        let links: Vec<&str> = links
            .filter(|link| link.ends_with(";rel=\"alternate\""))
            .collect();
        let others = (0..3).filter(|other| *other != shown);
        let others: Vec<String> = others
            .map(|other| format!("<{}>;rel=\"alternate\"", url(other)))
            .collect();
        assert_eq!(links, others);
        let text = answer.text();
        let chain: Vec<Vec<u8>> = Pem::iter_from_buffer(text.as_bytes())
            .map(|pem| pem.unwrap().contents)
            .collect();
        for pair in chain.windows(2) {
            let (_, below) = X509Certificate::from_der(&pair[0]).unwrap();
            let (_, above) = X509Certificate::from_der(&pair[1]).unwrap();
            below.verify_signature(Some(above.public_key())).unwrap();
        }
        assert_eq!(chain[0], issued.leaf, "the same leaf");
        chains.push(chain);
    }
    assert!(chains[0] != chains[1] && chains[1] != chains[2] && chains[0] != chains[2]);
    for unknown in ["/3", "/0", "/01", "/+1", "/x", "/1/"] {
        let url = format!("{}{unknown}", issued.url);
        client.post(&url, GET).await.problem(404, "malformed");
    }
    let other = daemon.account().await;
    other.post(&url(1), GET).await.problem(404, "malformed");
    let path = format!("{}/1", daemon.site.path_of(&issued.url));
    daemon.site.get(&path).await.problem(405, "malformed");
}

#[tokio::test]
async fn l2_another_chain_that_is_not_of_the_leaf_is_done_without() {
    use crate::harness::ca::script::{Step, Times, Twist};
    let daemon = Daemon::start_before(ca::Options {
        alternates: 2,
        ..ca::Options::default()
    })
    .await;
    // The second request for a certificate is the first one for another chain.
    let foreign = rcgen::generate_simple_self_signed(WWW.map(str::to_owned)).unwrap();
    let foreign = foreign.cert.pem();
    let twist = Twist::text(move |chain| chain.replacen(&chain[..chain.len() / 2], &foreign, 1));
    daemon.ca.will(Step::Certificate, Times::Nth(2), twist);
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &WWW).await;
    let kept = client.post(&format!("{}/1", issued.url), GET).await.expect(200);
    assert_eq!(csr::first_of_pem(&kept.text()), issued.leaf);
    client
        .post(&format!("{}/2", issued.url), GET)
        .await
        .problem(404, "malformed");
}
