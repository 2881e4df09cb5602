//! Who has bought a certificate, and who gets it: the account that has opened an order leads it to its end and revokes, at
//! the CA where that is (UPSTREAM rules 1 and 4); and a client that gave up finds its certificate (rule 8).

use std::time::Duration;

use acme_proxy::app::control::Request;
use acme_proxy::app::control::UpstreamCommand;
use acme_proxy::app::control::UpstreamRequest;
use serde_json::Value;
use serde_json::json;

use crate::harness::ca;
use crate::harness::ca::Options;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::key::b64;
use crate::upstream::scene::Finalized;
use crate::upstream::scene::Scene;

const NAMES: [&str; 1] = ["www.example.com"];

/// The certificate can not be fetched from the CA until it behaves.
fn withholds_certificates(scene: &Scene) {
    let later = Problem::new(503, "serverInternal", "later");
    scene.will(Step::Certificate, Times::Always, Twist::Refuse(later));
}

/// Finalized, and bought at the CA, which does not hand it out.
async fn bought(scene: &Scene) -> Finalized {
    withholds_certificates(scene);
    let order = scene.finalized(&NAMES).await;
    scene
        .soon("it is bought", async || scene.asked(Step::Certificate) > 0)
        .await;
    order
}

async fn registers_again(scene: &Scene) {
    let again = UpstreamRequest {
        upstream: None,
        command: UpstreamCommand::Register { again: true },
    };
    scene.daemon.control(Request::Upstream(again)).await.unwrap();
}

fn revocation(chain: &str) -> Value {
    json!({ "certificate": b64(csr::first_of_pem(chain)) })
}

/// The same daemon, with the account at another CA from now on.
async fn moved_to(scene: Scene, other: &ca::Running) -> Scene {
    let root = other.root_pem.clone();
    let (url, eab) = (other.directory_url.clone(), other.eab.clone());
    let scene = scene
        .restarted_with(|file| {
            let config = &mut file["authority"]["config"];
            config["ca_url"] = url.into();
            config["eab_kid"] = eab.kid.into();
            config["eab_hmac_key"] = eab.hmac_key.into();
            let roots = config["ca_root"].as_str().unwrap();
            let both = std::fs::read_to_string(roots).unwrap() + &root;
            std::fs::write(roots, both).unwrap();
        })
        .await;
    scene.ready().await;
    scene
}

async fn another_ca() -> ca::Running {
    ca::start(Options::default()).await.unwrap()
}

#[tokio::test]
async fn rule_1_an_order_of_an_account_that_has_been_replaced_is_fetched_and_revoked_by_it() {
    let scene = Scene::with(|ca| ca.eab_once = false).await;
    scene.ready().await;
    let order = bought(&scene).await;
    registers_again(&scene).await;
    scene.daemon.ca.behaves();
    let chain = scene.issued(&order, &NAMES).await;
    scene.bought_once(&NAMES);
    let next = scene.finalized(&["new.example.com"]).await;
    scene.issued(&next, &["new.example.com"]).await;
    assert_eq!(scene.daemon.ca.stats().accounts, 2);
    let revoke = scene.client.site.url("revoke-cert");
    scene.client.post(&revoke, revocation(&chain)).await.expect(200);
    assert_eq!(scene.daemon.ca.stats().revocations.len(), 1);
}

#[tokio::test]
async fn rule_1_after_a_change_of_ca_url_the_ca_of_before_delivers_and_revokes_what_was_bought_there() {
    let scene = Scene::new().await;
    scene.ready().await;
    let order = bought(&scene).await;
    let other = another_ca().await;
    let scene = moved_to(scene, &other).await;
    let next = scene.finalized(&["new.example.com"]).await;
    assert_eq!(scene.end(&next).await["status"], "valid");
    assert_eq!(other.stats().certificates.len(), 1);
    scene.daemon.ca.behaves();
    let chain = scene.issued(&order, &NAMES).await;
    scene.bought_once(&NAMES);
    let revoke = scene.client.site.url("revoke-cert");
    scene.client.post(&revoke, revocation(&chain)).await.expect(200);
    let revoked = [&scene.daemon.ca, &other].map(|ca| ca.stats().revocations.len());
    assert_eq!(revoked, [1, 0]);
}

#[tokio::test]
async fn a_ca_of_before_that_is_gone_holds_up_nothing_at_the_one_of_now_and_nobody_for_ever() {
    let scene = Scene::new().await;
    scene.ready().await;
    let issued = scene.finalized(&["old.example.com"]).await;
    let chain = scene.issued(&issued, &["old.example.com"]).await;
    let order = bought(&scene).await;
    let other = another_ca().await;
    let scene = moved_to(scene, &other).await;
    for step in [Step::Directory, Step::NewNonce, Step::Order, Step::Account] {
        let gone = Problem::new(500, "serverInternal", "gone");
        scene.will(step, Times::Always, Twist::Refuse(gone));
    }
    let revoke = scene.client.site.url("revoke-cert");
    let queued = scene.client.try_post(&revoke, revocation(&chain)).await;
    queued.problem(503, "serverInternal");
    let asked = scene.asked_in_all();
    scene
        .until("it was tried ten times", async || {
            scene.asked_in_all() > asked + 20
        })
        .await;
    let breaker = scene
        .metric("acme_proxy_upstream_breaker_open{upstream=\"default\"}")
        .await;
    assert_eq!(breaker, 0.0);
    assert_eq!(scene.account_trouble().await, "");
    // Not for the names of the order that is stuck there, either.
    for names in [&["new.example.com"], &NAMES] {
        let next = scene.finalized(names).await;
        assert_eq!(scene.end(&next).await["status"], "valid", "{names:?}");
    }

    scene.pass(Duration::from_hours(25)).await;
    let (kind, _) = scene.failed(&order).await;
    assert_eq!(kind, "serverInternal");
    scene.pass(Duration::from_hours(24 * 400)).await;
    let asked = async || {
        scene.pass(Duration::from_hours(1)).await;
        scene.asked_in_all()
    };
    let mut before = asked().await;
    scene
        .until("nobody asks the CA of before any more", async || {
            let now = asked().await;
            std::mem::replace(&mut before, now) == now
        })
        .await;
}

#[tokio::test]
async fn f9_an_order_of_an_account_that_the_ca_has_deactivated_is_bought_by_the_one_made_again() {
    let scene = Scene::with(|ca| ca.eab_once = false).await;
    scene.ready().await;
    let order = bought(&scene).await;
    scene.daemon.ca.deactivates_accounts();
    registers_again(&scene).await;
    scene.daemon.ca.behaves();
    scene.issued(&order, &NAMES).await;
    assert_eq!(scene.orders_at_ca(&NAMES).len(), 2);
    assert_eq!(scene.daemon.ca.stats().accounts, 2);
}

#[tokio::test]
async fn f9_while_the_ca_does_not_know_our_account_the_health_page_and_the_metrics_say_so() {
    let scene = Scene::new().await;
    scene.ready().await;
    let ready = "acme_proxy_upstream_ready{upstream=\"default\"}";
    assert_eq!(scene.metric(ready).await, 1.0);
    scene.daemon.ca.deactivates_accounts();
    let waiting = scene.finalized(&NAMES).await;
    scene
        .until("it says what is missing", async || {
            scene.account_trouble().await.contains("register --again")
        })
        .await;
    assert_eq!(scene.metric(ready).await, 0.0);
    scene.daemon.ca.reactivates_accounts();
    scene.issued(&waiting, &NAMES).await;
    assert_eq!(
        (scene.account_trouble().await.as_str(), scene.metric(ready).await),
        ("", 1.0)
    );
}

#[tokio::test]
async fn rule_8_a_client_that_gave_up_finds_its_certificate_at_the_next_try_with_the_same_key() {
    let scene = Scene::new().await;
    let (key, client) = (Key::new(), &scene.client);
    let obtain = async |key: &Key| {
        let order = client.ready(&scene.daemon, &NAMES).await;
        client
            .finalize(&order, &csr::plain(key, &NAMES))
            .await
            .expect(200);
        client.until(&order.url, "valid").await
    };
    // Nobody comes for this one.
    obtain(&key).await;
    obtain(&Key::new()).await;
    assert_eq!(
        scene.orders_at_ca(&NAMES).len(),
        2,
        "it is of no use to another key"
    );
    let found = obtain(&key).await;
    assert_eq!(scene.orders_at_ca(&NAMES).len(), 2);
    let first = scene.chain(&found).await;
    let renewed = obtain(&key).await;
    assert_eq!(
        scene.orders_at_ca(&NAMES).len(),
        3,
        "one that was fetched is renewed"
    );
    assert_ne!(scene.chain(&renewed).await, first);
}
