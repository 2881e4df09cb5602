//! What goes wrong with the records for the CA's challenges: providers that are busy or fail, servers that do not answer,
//! a CA that leaves a challenge pending.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::upstream::Issuer as _;
use acme_proxy::upstream::Progress;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use acme_proxy::upstream::dns::Dns01;
use acme_proxy::upstream::dns::Publication;
use acme_proxy::upstream::dns::Solver;
use hickory_proto::op::ResponseCode;
use serde_json::Value;
use serde_json::json;

use crate::harness::process::free_address;
use crate::upstream::MemoryVault;
use crate::upstream::dns::Answers;
use crate::upstream::dns::Web;
use crate::upstream::dns::failure;
use crate::upstream::dns::record;
use crate::upstream::dns::settings;
use crate::upstream::dns::visible;
use crate::upstream::double::Double;
use crate::upstream::double::json_answer;
use crate::upstream::double::located;
use crate::upstream::knot::Knot;
use crate::upstream::knot::SECRET;
use crate::upstream::opened;
use crate::upstream::order;
use crate::upstream::validated;

const WORKS: (u16, Value) = (200, Value::Null);

/// The paths that were asked for since the last call.
fn paths(web: &Web) -> Vec<String> {
    web.sent().into_iter().map(|(path, ..)| path).collect()
}

fn httpreq(web: &Web, more: &[(&str, &str)]) -> Dns01 {
    let endpoint = [("HTTPREQ_ENDPOINT", web.url.as_str())];
    Dns01 {
        servers: vec![web.zone.address],
        polling_interval: Duration::from_millis(1),
        ..settings("httpreq", &[&endpoint, more].concat())
    }
}

/// A CA whose order for www.example.com has a dns-01 challenge that stays as it is until the order has been looked at so
/// often.
async fn posing(challenge: &'static str, looks: usize) -> Double {
    Double::with_base(|base| {
        let base = base.to_owned();
        Box::new(move |path, nth| {
            let order = |status: &str| {
                json!({
                    "status": status, "authorizations": [format!("{base}/authorization")],
                    "finalize": format!("{base}/finalize"), "certificate": format!("{base}/certificate"),
                })
            };
            let challenge = json!({
                "type": "dns-01", "url": format!("{base}/challenge"), "token": "token", "status": challenge,
            });
            match path {
                "/new-order" => Some(located(
                    json_answer(201, &order("pending")),
                    &format!("{base}/order"),
                )),
                "/order" if nth <= looks => Some(json_answer(200, &order("pending"))),
                "/authorization" => Some(json_answer(
                    200,
                    &json!({
                        "status": "pending", "identifier": { "type": "dns", "value": "www.example.com" },
                        "challenges": [challenge],
                    }),
                )),
                "/challenge" => Some(json_answer(200, &challenge)),
                _ => None,
            }
        })
    })
    .await
}

/// A CA that poses challenges, and who solves them, without waiting for what nobody can be asked about.
fn solving(double: &Double, web: &Web) -> Ca {
    let settings = Settings {
        dns01: Some(Dns01 {
            propagation_timeout: Duration::ZERO,
            ..httpreq(web, &[])
        }),
        ..double.settings()
    };
    Ca::new(settings, Arc::new(MemoryVault::default())).unwrap()
}

#[tokio::test]
async fn a_challenge_that_the_ca_leaves_pending_is_answered_once() {
    let double = posing("pending", 4).await;
    let web = Web::start(Answers::from([("/present", WORKS), ("/cleanup", WORKS)])).await;
    let ca = solving(&double, &web);
    let order = opened(&ca, order(&["www.example.com"])).await;
    for _ in 0..4 {
        let progress = ca.advance(&validated(&order)).await.unwrap();
        assert!(matches!(progress, Progress::Waiting { .. }), "{progress:?}");
    }
    assert_eq!(double.count("/challenge"), 1);
    ca.advance(&validated(&order)).await.unwrap();
    assert_eq!(paths(&web), ["/present", "/cleanup"]);
}

#[tokio::test]
async fn after_a_restart_the_records_of_challenges_that_were_answered_before_are_taken_back_too() {
    let double = posing("processing", 1).await;
    let web = Web::start(Answers::from([("/present", WORKS), ("/cleanup", WORKS)])).await;
    let ca = solving(&double, &web);
    let order = opened(&ca, order(&["www.example.com"])).await;
    for _ in 0..2 {
        ca.advance(&validated(&order)).await.unwrap();
    }
    assert_eq!(double.count("/challenge"), 0, "the CA is at it already");
    let nothing_else = "nothing is changed while the CA is at it";
    assert_eq!(paths(&web), ["/cleanup"], "{nothing_else}");
}

#[tokio::test]
async fn a_provider_that_wants_us_to_slow_down_is_left_alone_and_what_is_published_stays() {
    let web = Web::start(BTreeMap::from([("/present", (429, json!("slow down")))])).await;
    let solver = Solver::new(httpreq(&web, &[])).unwrap();
    let records = [record("www.example.com", "token")];
    for _ in 0..3 {
        let publication = solver.publish("order", &records).await.unwrap();
        assert!(matches!(publication, Publication::Spreading(wait) if wait > Duration::from_secs(1)));
    }
    assert_eq!(paths(&web), ["/present"]);
}

#[tokio::test]
async fn a_record_that_was_seen_is_not_looked_for_again() {
    let web = Web::start(Answers::from([("/present", WORKS)])).await;
    let solver = Solver::new(httpreq(&web, &[])).unwrap();
    let records = [record("a.example.com", "token"), record("b.example.com", "token")];
    web.zone
        .set_txt("_acme-challenge.a.example.com", &[&records[0].value]);
    for _ in 0..3 {
        let publication = solver.publish("order", &records).await.unwrap();
        assert!(matches!(publication, Publication::Spreading(_)));
    }
    assert_eq!(web.zone.looks("_acme-challenge.a.example.com"), 1);
    assert_eq!(web.zone.looks("_acme-challenge.b.example.com"), 3);
    web.zone
        .set_txt("_acme-challenge.b.example.com", &[&records[1].value]);
    visible(&solver, "order", &records).await;
    assert_eq!(web.zone.looks("_acme-challenge.a.example.com"), 1);
}

#[tokio::test]
async fn where_nobody_can_be_asked_the_provider_is_believed_after_the_time_for_propagation() {
    let web = Web::start(Answers::from([("/present", WORKS)])).await;
    let records = [record("www.example.com", "token")];
    for (propagation_timeout, is_believed) in [(Duration::from_secs(60), false), (Duration::ZERO, true)] {
        let solver = Solver::new(Dns01 {
            propagation_timeout,
            ..httpreq(&web, &[])
        });
        let publication = solver.unwrap().publish("order", &records).await.unwrap();
        assert_eq!(publication == Publication::Visible, is_believed);
    }
}

#[tokio::test]
async fn nothing_is_published_while_dns_does_not_tell_whether_the_name_is_an_alias() {
    let web = Web::start(Answers::from([("/present", WORKS)])).await;
    let records = [record("www.example.com", "token")];
    web.zone
        .fail("_acme-challenge.www.example.com", ResponseCode::ServFail);
    let solver = Solver::new(httpreq(&web, &[])).unwrap();
    let error = failure(solver.publish("order", &records).await);
    assert!(
        error.contains("whether _acme-challenge.www.example.com. is an alias"),
        "{error}"
    );
    assert_eq!(paths(&web), [""; 0]);
    // lego's variable, for a zone where aliases lead astray.
    let settings = httpreq(&web, &[("LEGO_DISABLE_CNAME_SUPPORT", "true")]);
    let solver = Solver::new(settings).unwrap();
    solver.publish("order", &records).await.unwrap();
    assert_eq!(paths(&web), ["/present"]);
}

#[tokio::test]
async fn the_servers_of_the_zone_that_an_alias_leads_to_are_not_asked() {
    let port = free_address().port();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let address = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
    let own = [
        (
            "example.com",
            "@ NS ns\nns A 127.0.0.1\nwww CNAME other.example.\n",
        ),
        ("other.example", "@ NS ns\nns A 127.0.0.2\n"),
    ];
    let knot = Knot::start(directories[0].path(), address(1), &own).unwrap();
    // It does not know the record, and says so if it is asked.
    let other = [("example.com", "@ NS ns\nns A 127.0.0.2\n")];
    let _other = Knot::start(directories[1].path(), address(2), &other).unwrap();
    let server = knot.address.to_string();
    let variables = [
        ("RFC2136_NAMESERVER", server.as_str()),
        ("RFC2136_TSIG_KEY", "hmac-sha1"),
        ("RFC2136_TSIG_SECRET", SECRET),
    ];
    let solver = Solver::new(Dns01 {
        servers: vec![knot.address],
        authority_port: port,
        ..settings("rfc2136", &variables)
    });
    let records = [record("www.example.com", "token")];
    let publication = solver.unwrap().publish("order", &records).await.unwrap();
    assert_eq!(publication, Publication::Visible);
}

#[tokio::test]
async fn acme_dns_makes_no_account_that_it_can_not_keep() {
    let web = Web::start(Answers::from([("/register", (201, json!({})))])).await;
    let variables = [
        ("ACME_DNS_API_BASE", web.url.as_str()),
        ("ACME_DNS_STORAGE_PATH", "/nowhere/acme-dns.json"),
    ];
    let solver = web.solver("acme-dns", &variables);
    let error = failure(
        solver
            .publish("order", &[record("www.example.com", "token")])
            .await,
    );
    assert!(error.contains("/nowhere/acme-dns.new"), "{error}");
    assert_eq!(paths(&web), [""; 0]);
}
