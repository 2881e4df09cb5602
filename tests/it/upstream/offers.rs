//! What the CA offers beyond RFC 8555, and what is asked of it then: profiles, validity, replacement, renewal information,
//! other chains.

use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::offers::Offers;
use acme_proxy::acme::order::Wishes;
use acme_proxy::acme::problem::ProblemType;
use acme_proxy::acme::renewal::CertificateId;
use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer as _;
use acme_proxy::upstream::Progress;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use axum::body::Body;
use axum::response::Response;
use serde_json::Value;
use serde_json::json;

use crate::upstream::MemoryVault;
use crate::upstream::double::CHAIN;
use crate::upstream::double::Double;
use crate::upstream::double::directory;
use crate::upstream::double::json_answer;
use crate::upstream::double::located;
use crate::upstream::double::order_json;
use crate::upstream::double::problem;
use crate::upstream::now;
use crate::upstream::opened;
use crate::upstream::order;
use crate::upstream::validated;

const START: &str = "2026-12-01T00:00:00Z";
const END: &str = "2026-12-03T00:00:00Z";

const REPLACED: &str = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";

fn generous(base: &str) -> Value {
    let mut offers = directory(base, base);
    offers["renewalInfo"] = format!("{base}/renewal").into();
    offers["meta"] =
        json!({ "profiles": { "shortlived": "six days", "classic": "https://ca.example/classic" } });
    offers
}

/// A CA that offers everything, and says what the script says.
async fn offering(script: impl Fn(&str, &str, usize) -> Option<Response> + Send + Sync + 'static) -> Double {
    Double::with_base(|base| {
        let base = base.to_owned();
        Box::new(move |path, nth| match path {
            "/dir" => Some(json_answer(200, &generous(&base))),
            _ => script(&base, path, nth),
        })
    })
    .await
}

fn ca_with(double: &Double, change: impl FnOnce(&mut Settings)) -> Ca {
    let mut settings = double.settings();
    change(&mut settings);
    Ca::new(settings, Arc::new(MemoryVault::default())).unwrap()
}

fn wishes() -> Wishes {
    Wishes {
        not_before: None,
        not_after: Some("2027-01-01T00:00:00.5Z".parse().unwrap()),
        profile: Some("shortlived".to_owned()),
        replaces: Some(REPLACED.parse().unwrap()),
        at_most_days: None,
    }
}

fn id() -> CertificateId {
    REPLACED.parse().unwrap()
}

#[tokio::test]
async fn h10_h11_n4_what_the_client_wishes_is_what_the_ca_is_asked_for() {
    let double = offering(|_, _, _| None).await;
    let ca = double.ca();
    let offers = ca.probe().await.unwrap();
    assert!(offers.renewal_info);
    assert_eq!(offers.profiles["shortlived"], "six days");
    opened(&ca, order(&["www.example.com"]).wishing(wishes())).await;
    let names = json!([{ "type": "dns", "value": "www.example.com" }]);
    let asked = json!({
        "identifiers": names, "notAfter": "2027-01-01T00:00:00Z",
        "profile": "shortlived", "replaces": REPLACED,
    });
    assert_eq!(double.payloads("/new-order"), [asked]);
    opened(&ca, order(&["www.example.com"])).await;
    assert_eq!(double.payloads("/new-order")[1], json!({ "identifiers": names }));
}

#[tokio::test]
async fn a_ca_that_offers_nothing_is_asked_for_nothing_that_no_client_wishes() {
    let double = Double::start(|_, _| None).await;
    let ca = ca_with(&double, |settings| settings.profile = Some("classic".to_owned()));
    assert_eq!(ca.probe().await.unwrap(), Offers::default());
    let wishes = Wishes {
        replaces: wishes().replaces,
        ..Wishes::default()
    };
    opened(&ca, order(&["www.example.com"]).wishing(wishes)).await;
    let asked = double.payloads("/new-order").remove(0);
    assert_eq!(asked.as_object().unwrap().len(), 1, "{asked}");
    assert!(ca.renewal(&id()).await.is_err());
}

#[tokio::test]
async fn certlifetime_and_profile_are_the_operators_wishes_and_a_client_has_the_last_word() {
    let double = offering(|_, _, _| None).await;
    let ca = ca_with(&double, |settings| {
        settings.lifetime = Some(Duration::from_secs(30 * 86_400));
        settings.profile = Some("classic".to_owned());
    });
    opened(&ca, order(&["www.example.com"])).await;
    opened(&ca, order(&["www.example.com"]).wishing(wishes())).await;
    let asked = double.payloads("/new-order");
    assert_eq!(asked[0]["profile"], "classic");
    let until: jiff::Timestamp = asked[0]["notAfter"].as_str().unwrap().parse().unwrap();
    let days = (until.as_second() - now().as_second()).div_euclid(86_400);
    assert!((29..=30).contains(&days), "{asked:?}");
    assert_eq!(asked[1]["profile"], "shortlived");
    assert_eq!(asked[1]["notAfter"], "2027-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_ca_that_takes_no_validity_issues_without_and_is_not_asked_again() {
    let double =
        offering(|_, path, nth| (path == "/new-order" && nth == 1).then(|| problem(400, "malformed"))).await;
    let ca = ca_with(&double, |settings| {
        settings.lifetime = Some(Duration::from_secs(86_400))
    });
    for _ in 0..2 {
        opened(&ca, order(&["www.example.com"])).await;
    }
    let asked = double.payloads("/new-order");
    let with: Vec<bool> = asked
        .iter()
        .map(|asked| asked.get("notAfter").is_some())
        .collect();
    assert_eq!(with, [true, false, false]);
}

#[tokio::test]
async fn n4_certlifetime_is_sent_on_if_it_was_the_replacement_or_the_order_itself_that_the_ca_did_not_take() {
    let replaces = || Wishes {
        replaces: wishes().replaces,
        ..Wishes::default()
    };
    // As many refusals: with both, without the replacement, without either.
    for (refusals, opens) in [(1, true), (3, false)] {
        let double = offering(move |_, path, nth| {
            (path == "/new-order" && nth <= refusals).then(|| problem(400, "malformed"))
        })
        .await;
        let ca = ca_with(&double, |settings| {
            settings.lifetime = Some(Duration::from_secs(86_400))
        });
        let first = order(&["www.example.com"]).wishing(replaces());
        assert_eq!(ca.open(&validated(&first)).await.is_ok(), opens);
        opened(&ca, order(&["www.example.com"])).await;
        let asked = double.payloads("/new-order");
        let members: Vec<_> = asked
            .iter()
            .map(|asked| (asked.get("notAfter").is_some(), asked.get("replaces").is_some()))
            .collect();
        let expected = match opens {
            true => vec![(true, true), (true, false), (true, false)],
            false => vec![(true, true), (true, false), (false, false), (true, false)],
        };
        assert_eq!(members, expected);
    }
}

#[tokio::test]
async fn h10_a_client_whose_validity_the_ca_refuses_gets_no_certificate_with_another() {
    let double = offering(|_, path, _| (path == "/new-order").then(|| problem(400, "malformed"))).await;
    let ca = ca_with(&double, |settings| {
        settings.lifetime = Some(Duration::from_secs(86_400))
    });
    let wishes = Wishes {
        not_after: wishes().not_after,
        ..Wishes::default()
    };
    let order = order(&["www.example.com"]).wishing(wishes);
    assert!(matches!(
        ca.open(&validated(&order)).await,
        Err(Error::Permanent(_))
    ));
    assert_eq!(double.count("/new-order"), 1);
}

#[tokio::test]
async fn n4_a_ca_that_takes_no_replacement_gets_a_new_order_instead() {
    for (status, kind) in [
        (409, "alreadyReplaced"),
        (400, "malformed"),
        (403, "unauthorized"),
        (404, "malformed"),
        (409, "malformed"),
    ] {
        let double =
            offering(move |_, path, nth| (path == "/new-order" && nth == 1).then(|| problem(status, kind)))
                .await;
        let ca = double.ca();
        opened(&ca, order(&["www.example.com"]).wishing(wishes())).await;
        let asked = double.payloads("/new-order");
        assert_eq!(asked.len(), 2, "{status} {kind}");
        assert_eq!(asked[0]["replaces"], REPLACED);
        assert!(asked[1].get("replaces").is_none());
        assert_eq!(asked[1]["profile"], "shortlived", "all else stays");
    }
}

#[tokio::test]
async fn h11_a_profile_that_the_ca_has_no_more_is_the_clients_to_hear_of() {
    let double = offering(|_, path, _| (path == "/new-order").then(|| problem(400, "invalidProfile"))).await;
    let ca = double.ca();
    let order = order(&["www.example.com"]).wishing(wishes());
    match ca.open(&validated(&order)).await {
        Err(Error::Permanent(problem)) => assert_eq!(problem.kind, ProblemType::InvalidProfile),
        other => panic!("{other:?}"),
    }
}

/// What the CA answers to a question for a window.
fn told(start: &str, end: &str, retry_after: &str) -> Response {
    let body = json!({ "suggestedWindow": { "start": start, "end": end }, "explanationURL": "https://ca.example/why" });
    let mut answer = json_answer(200, &body);
    if !retry_after.is_empty() {
        answer
            .headers_mut()
            .insert("retry-after", retry_after.parse().unwrap());
    }
    answer
}

#[tokio::test]
async fn n5_the_cas_window_is_taken_over_if_it_is_one() {
    for (retry_after, seconds) in [
        ("21600", 21_600),
        ("", 21_600),
        ("1", 60),
        ("99999999999", 86_400),
    ] {
        let double = offering(move |_, path, _| {
            path.starts_with("/renewal/")
                .then(|| told(START, END, retry_after))
        })
        .await;
        let suggestion = double.ca().renewal(&id()).await.unwrap();
        assert_eq!(suggestion.good_for, Duration::from_secs(seconds), "{retry_after}");
        assert_eq!(suggestion.info.start(), START.parse().unwrap());
        assert_eq!(suggestion.info.end(), END.parse().unwrap());
        assert_eq!(suggestion.info.explanation(), Some("https://ca.example/why"));
        assert_eq!(double.count(&format!("/renewal/{REPLACED}")), 1);
    }
    for answer in [
        (|| told(END, START, "1")) as fn() -> Response,
        || told(START, START, "1"),
        || told("soon", END, "1"),
        || json_answer(200, &json!({})),
        || problem(404, "malformed"),
        || problem(429, "rateLimited"),
        || Response::new(Body::from("<html>")),
    ] {
        let double = offering(move |_, path, _| path.starts_with("/renewal/").then(answer)).await;
        assert!(double.ca().renewal(&id()).await.is_err());
    }
}

#[tokio::test]
async fn l2_the_cas_other_chains_are_fetched_and_one_that_can_not_be_had_is_done_without() {
    let double = offering(|base, path, _| {
        let chain = |text: &str| Some(Response::new(Body::from(format!("{text}\n{CHAIN}"))));
        match path {
            "/order" => Some(located(
                json_answer(200, &order_json(base, "valid")),
                &format!("{base}/order"),
            )),
            "/certificate" => {
                let mut answer = chain("first")?;
                for link in [
                    format!("<{base}/dir>;rel=\"index\""),
                    format!("<{base}/certificate/1>;rel=\"alternate\", <certificate/2>;rel=alternate"),
                    format!("<{base}/certificate/gone>;rel=\"alternate\""),
                    "<https://ca.invalid/certificate/3>;rel=\"alternate\"".to_owned(),
                ] {
                    answer.headers_mut().append("link", link.parse().unwrap());
                }
                Some(answer)
            }
            "/certificate/1" => chain("second"),
            "/certificate/2" => chain("third"),
            "/certificate/gone" => Some(problem(404, "malformed")),
            _ => None,
        }
    })
    .await;
    let ca = double.ca();
    let order = opened(&ca, order(&["www.example.com"])).await;
    match ca.advance(&validated(&order)).await {
        Ok(Progress::Issued(chains)) => {
            assert!(chains.first.starts_with("first"), "{chains:?}");
            let others: Vec<_> = chains
                .others
                .iter()
                .filter_map(|other| other.lines().next())
                .collect();
            assert_eq!(others, ["second", "third"]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn l2_no_more_than_eight_other_chains_are_fetched() {
    let double = offering(|base, path, _| {
        let mut answer = match path {
            "/order" => return Some(json_answer(200, &order_json(base, "valid"))),
            _ if path.starts_with("/certificate") => Response::new(Body::from(CHAIN)),
            _ => return None,
        };
        for number in 0..1000 {
            let link = format!("<{base}/certificate/{number}>;rel=\"alternate\"");
            answer.headers_mut().append("link", link.parse().unwrap());
        }
        Some(answer)
    })
    .await;
    let ca = double.ca();
    let order = opened(&ca, order(&["www.example.com"])).await;
    let _ = ca.advance(&validated(&order)).await;
    let fetched = double.requests();
    let fetched = fetched.iter().filter(|path| path.starts_with("/certificate/"));
    assert!(fetched.count() <= 8);
}
