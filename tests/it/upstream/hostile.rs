//! Against a CA that is hostile, slow, broken or confused, as the test's name says.

use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::certificate::Der;
use acme_proxy::acme::problem::ProblemType;
use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer;
use acme_proxy::upstream::Progress;
use acme_proxy::upstream::Says;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::SetupError;
use acme_proxy::upstream::acme::Ca;
use axum::body::Body;
use axum::response::Response;
use serde_json::json;

use crate::upstream::MemoryVault;
use crate::upstream::double::CHAIN;
use crate::upstream::double::Double;
use crate::upstream::double::Endless;
use crate::upstream::double::directory;
use crate::upstream::double::json_answer;
use crate::upstream::double::located;
use crate::upstream::double::order_json;
use crate::upstream::double::page;
use crate::upstream::double::problem;
use crate::upstream::opened;
use crate::upstream::order;
use crate::upstream::validated;

/// What comes of the first step of an order that has been opened there.
async fn advanced(double: &Double) -> Result<Progress, Error> {
    let ca = double.ca();
    let order = opened(&ca, order(&["www.example.com"])).await;
    ca.advance(&validated(&order)).await
}

#[tokio::test]
async fn a_fast_ca_is_asked_four_times_for_a_certificate() {
    let double = Double::start(|_, _| None).await;
    let ca = double.ca();
    ca.prepare().await.unwrap();
    let before = double.requests().len();
    let order = opened(&ca, order(&["www.example.com"])).await;
    let progress = ca.advance(&validated(&order)).await.unwrap();
    assert_eq!(progress, Progress::Issued(CHAIN.to_owned().into()));
    assert_eq!(
        double.requests()[before..],
        ["/new-order", "/order", "/finalize", "/certificate"]
    );
}

#[tokio::test]
async fn c1104_an_absurd_retry_after_is_clamped_or_ignored() {
    let date = "Fri, 31 Dec 9999 23:59:59 GMT";
    let table = [
        ("18446744073709551615", 3600),
        ("1000000000", 3600),
        (date, 3600),
        ("0", 1),
        ("15", 15),
        ("-1", 2),
        ("soon", 2),
    ];
    for (value, expected) in table {
        let double = Double::with_base(|base| {
            let base = base.to_owned();
            Box::new(move |path, _| {
                let mut answer = json_answer(200, &order_json(&base, "processing"));
                answer.headers_mut().insert("retry-after", value.parse().unwrap());
                (path == "/order").then_some(answer)
            })
        })
        .await;
        let progress = advanced(&double).await.unwrap();
        let retry_after = Duration::from_secs(expected);
        assert_eq!(progress, Progress::Waiting { retry_after }, "{value}");
    }
}

#[tokio::test]
async fn f2_f3_errors_of_the_way_keep_the_order_and_tell_when_to_come_again() {
    for broken in ["/new-order", "/order", "/finalize", "/certificate"] {
        for (status, value, wait, slow_down) in [
            (429, "7", Some(7), true),
            (503, "18446744073709551615", Some(3600), true),
            (502, "soon", None, false),
            (404, "soon", None, false),
            (302, "soon", None, false),
        ] {
            let double = Double::start(move |path, _| (path == broken).then(|| page(status, value))).await;
            let ca = double.ca();
            let order = order(&["www.example.com"]);
            let outcome = match ca.open(&validated(&order)).await {
                Ok(opened) => ca
                    .advance(&validated(&order.opened_upstream(opened)))
                    .await
                    .map(drop),
                Err(error) => Err(error),
            };
            let Err(Error::Transient {
                retry_after, says, ..
            }) = outcome
            else {
                panic!("{broken} {status}: {outcome:?}");
            };
            assert_eq!(
                (retry_after, matches!(says, Says::SlowDown | Says::Away)),
                (wait.map(Duration::from_secs), slow_down),
                "{broken} {status}"
            );
        }
    }
}

#[tokio::test]
async fn f3_what_the_ca_asks_for_is_heard_in_the_middle_of_a_step_too() {
    let told = |outcome: Result<(), Error>| match outcome {
        Err(Error::Transient {
            retry_after, says, ..
        }) => (retry_after.map(|wait| wait.as_secs()), says),
        other => panic!("{other:?}"),
    };
    let slow_down = (Some(7), Says::SlowDown);
    // While it is found out whether the account still stands.
    let double = Double::start(|path, _| match path {
        "/new-order" => Some(problem(403, "unauthorized")),
        "/account" => Some(page(429, "7")),
        _ => None,
    })
    .await;
    let outcome = double.ca().open(&validated(&order(&["www.example.com"]))).await;
    assert_eq!(told(outcome.map(drop)), slow_down);
    // While it is found out why an order is invalid.
    let double = Double::with_base(|base| {
        let mut invalid = order_json(base, "invalid");
        invalid["authorizations"] = json!([format!("{base}/authorization")]);
        Box::new(move |path, _| match path {
            "/order" => Some(json_answer(200, &invalid)),
            "/authorization" => Some(page(429, "7")),
            _ => None,
        })
    })
    .await;
    assert_eq!(told(advanced(&double).await.map(drop)), slow_down);
    // While it is found out why a CSR is refused; a refusal to say so does not end the order.
    for (answer, expected) in [
        ((|| page(429, "7")) as fn() -> Response, slow_down),
        (|| problem(400, "malformed"), (None, Says::Nothing)),
    ] {
        let double = Double::start(move |path, nth| match (path, nth) {
            ("/finalize", _) => Some(problem(400, "malformed")),
            ("/order", 2) => Some(answer()),
            _ => None,
        })
        .await;
        assert_eq!(told(advanced(&double).await.map(drop)), expected);
    }
}

#[tokio::test]
async fn f2_what_is_about_one_order_is_not_held_against_the_ca() {
    let told = async |broken: &'static str, answer: fn() -> Response| {
        let double = Double::start(move |path, _| (path == broken).then(answer)).await;
        let ca = double.ca();
        let order = order(&["www.example.com"]);
        let outcome = match ca.open(&validated(&order)).await {
            Ok(opened) => ca
                .advance(&validated(&order.opened_upstream(opened)))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Err(Error::Transient { says, .. }) => says,
            other => panic!("{broken}: {other:?}"),
        }
    };
    for at_order in ["/order", "/finalize", "/certificate"] {
        assert_eq!(told(at_order, || page(404, "")).await, Says::Nothing);
        assert_eq!(told(at_order, || page(403, "")).await, Says::Nothing);
        assert_eq!(told(at_order, || page(200, "")).await, Says::Nothing);
        assert_eq!(told(at_order, || page(502, "")).await, Says::Failing);
        assert_eq!(told(at_order, || problem(405, "malformed")).await, Says::Failing);
        assert_eq!(told(at_order, || problem(400, "badNonce")).await, Says::Failing);
    }
    for at_all in ["/new-order", "/dir"] {
        assert_eq!(told(at_all, || page(404, "")).await, Says::Failing);
        assert_eq!(told(at_all, || page(403, "")).await, Says::Failing);
        assert_eq!(told(at_all, || page(200, "")).await, Says::Failing);
        assert_eq!(told(at_all, || page(502, "")).await, Says::Failing);
    }
}

#[tokio::test]
async fn c1101_urls_that_are_not_the_cas_own_are_not_used() {
    for foreign in [
        "http://localhost:1",
        "https://evil.example",
        "https://localhost:1",
    ] {
        let double = Double::with_base(|base| {
            let base = base.to_owned();
            Box::new(move |path, _| (path == "/dir").then(|| json_answer(200, &directory(&base, foreign))))
        })
        .await;
        for outcome in [double.ca().probe().await.map(drop), double.ca().prepare().await] {
            let Err(Error::Transient { detail, .. }) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(
                detail.contains("not an https URL of the CA's own host"),
                "{detail}"
            );
        }
        assert_eq!(double.count("/new-account"), 0);
    }
    let located_elsewhere = Double::with_base(|base| {
        let base = base.to_owned();
        Box::new(move |path, _| {
            let answer = json_answer(201, &order_json(&base, "ready"));
            (path == "/new-order").then(|| located(answer, "https://evil.example/order"))
        })
    })
    .await;
    let outcome = located_elsewhere
        .ca()
        .open(&validated(&order(&["www.example.com"])))
        .await;
    assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
}

#[tokio::test]
async fn t4_an_endless_body_is_not_read() {
    for endless in ["/dir", "/order", "/certificate"] {
        let double = Double::start(move |path, _| {
            let kind = ["application/json", "application/pem-certificate-chain"]
                [usize::from(path == "/certificate")];
            let answer = Response::builder()
                .header("content-type", kind)
                .body(Body::new(Endless))
                .unwrap();
            (path == endless).then_some(answer)
        })
        .await;
        let ca = double.ca();
        let order = order(&["www.example.com"]);
        let outcome = match ca.open(&validated(&order)).await {
            Ok(opened) => ca
                .advance(&validated(&order.opened_upstream(opened)))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        let Err(Error::Transient { detail, .. }) = outcome else {
            panic!("{endless}: {outcome:?}");
        };
        assert!(detail.contains("more than"), "{detail}");
    }
}

#[tokio::test]
async fn f5_c1105_a_storm_of_bad_nonces_is_given_up_after_five_retries() {
    let double = Double::start(|path, _| (path == "/order").then(|| problem(400, "badNonce"))).await;
    let outcome = advanced(&double).await;
    assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
    assert_eq!(double.count("/order"), 6);
    let double = Double::start(|path, nth| {
        let signed = [
            "/new-account",
            "/new-order",
            "/order",
            "/finalize",
            "/certificate",
        ];
        (signed.contains(&path) && nth <= 5).then(|| problem(400, "badNonce"))
    })
    .await;
    let outcome = advanced(&double).await;
    assert!(matches!(outcome, Ok(Progress::Issued(_))), "{outcome:?}");
}

#[tokio::test]
async fn i2_a_finalize_whose_answer_is_lost_is_not_sent_again() {
    let double = Double::with_base(|base| {
        let base = base.to_owned();
        Box::new(move |path, nth| match (path, nth) {
            ("/finalize", _) => Some(page(502, "soon")),
            ("/order", 2) => Some(json_answer(200, &order_json(&base, "processing"))),
            ("/order", 3) => Some(json_answer(200, &order_json(&base, "valid"))),
            _ => None,
        })
    })
    .await;
    let ca = double.ca();
    let order = opened(&ca, order(&["www.example.com"])).await;
    ca.advance(&validated(&order)).await.unwrap_err();
    assert!(matches!(
        ca.advance(&validated(&order)).await,
        Ok(Progress::Waiting { .. })
    ));
    assert!(matches!(
        ca.advance(&validated(&order)).await,
        Ok(Progress::Issued(_))
    ));
    assert_eq!(double.count("/finalize"), 1);
}

#[tokio::test]
async fn i2_a_finalize_that_is_refused_because_one_is_under_way_ends_nothing() {
    for (status, ends) in [
        ("processing", false),
        ("valid", false),
        ("ready", true),
        ("invalid", true),
    ] {
        let double = Double::with_base(|base| {
            let base = base.to_owned();
            Box::new(move |path, nth| match (path, nth) {
                ("/finalize", _) => Some(problem(400, "malformed")),
                ("/order", 2) => Some(json_answer(200, &order_json(&base, status))),
                _ => None,
            })
        })
        .await;
        let outcome = advanced(&double).await;
        assert_eq!(
            matches!(outcome, Err(Error::Permanent(_))),
            ends,
            "{status}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn f12_an_invalid_order_ends_ours_only_for_a_reason_that_holds() {
    for (kind, expected) in [
        ("caa", Some(ProblemType::Caa)),
        ("unauthorized", Some(ProblemType::RejectedIdentifier)),
        ("serverInternal", None),
        ("", None),
    ] {
        let double = Double::with_base(|base| {
            let mut body = order_json(base, "invalid");
            if !kind.is_empty() {
                body["error"] =
                    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no\u{1b}[31m"});
            }
            Box::new(move |path, _| (path == "/order").then(|| json_answer(200, &body)))
        })
        .await;
        match advanced(&double).await {
            Err(Error::Permanent(problem)) => {
                assert_eq!(Some(problem.kind), expected);
                assert!(problem.detail.contains("no?[31m"), "{problem}");
            }
            Err(Error::OrderGone(_)) => assert_eq!(expected, None, "{kind}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_order_that_the_ca_does_not_know_is_unseen_and_one_that_it_will_not_show_is_not() {
    for (status, kind, unseen) in [
        (404, "malformed", true),
        (403, "unauthorized", false),
        (400, "malformed", false),
    ] {
        let double = Double::start(move |path, _| (path == "/order").then(|| problem(status, kind))).await;
        let outcome = advanced(&double).await;
        assert_eq!(
            matches!(outcome, Err(Error::OrderUnseen(_))),
            unseen,
            "{outcome:?}"
        );
        assert_eq!(
            matches!(outcome, Err(Error::Transient { .. })),
            !unseen,
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn f49_a_revocation_ends_with_the_cas_own_word_and_waits_for_anything_else() {
    for (answer, expected) in [(404, "permanent"), (400, "ok"), (500, "transient")] {
        let double = Double::start(move |path, _| {
            let kind = if answer == 400 {
                "alreadyRevoked"
            } else {
                "malformed"
            };
            (path == "/revoke").then(|| problem(answer, kind))
        })
        .await;
        let outcome = match double.ca().revoke(&Der::new(vec![1]), None, None).await {
            Ok(()) => "ok",
            Err(Error::Permanent(_)) => "permanent",
            Err(Error::Transient { .. } | Error::OrderGone(_) | Error::OrderUnseen(_)) => "transient",
        };
        assert_eq!(outcome, expected);
    }
}

#[tokio::test]
async fn c1106_a_status_that_nobody_knows_and_a_missing_certificate_url_are_waited_for() {
    for body in [
        json!({"status": "pondering"}),
        json!({"status": "valid", "authorizations": [], "finalize": ""}),
    ] {
        let double = Double::start(move |path, _| (path == "/order").then(|| json_answer(200, &body))).await;
        let outcome = advanced(&double).await;
        assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn f9_unauthorized_is_about_the_names_if_the_account_stands() {
    for deactivated in [false, true] {
        let double = Double::start(move |path, _| match path {
            "/new-order" => Some(problem(403, "unauthorized")),
            "/account" if deactivated => Some(problem(401, "unauthorized")),
            _ => None,
        })
        .await;
        let outcome = double.ca().open(&validated(&order(&["www.example.com"]))).await;
        assert_eq!(
            matches!(outcome, Err(Error::Permanent(_))),
            !deactivated,
            "{outcome:?}"
        );
        assert_eq!(double.count("/new-account"), 1);
    }
}

#[tokio::test]
async fn t4_a_program_is_not_given_a_name_that_is_not_the_orders() {
    let double = Double::with_base(|base| {
        let mut pending = order_json(base, "pending");
        pending["authorizations"] = json!([format!("{base}/authorization")]);
        let authorization = json!({
            "status": "pending", "identifier": {"type": "dns", "value": "$(reboot).example"},
            "challenges": [{"type": "dns-01", "url": format!("{base}/challenge"), "token": "t", "status": "pending"}],
        });
        Box::new(move |path, _| match path {
            "/order" => Some(json_answer(200, &pending)),
            "/authorization" => Some(json_answer(200, &authorization)),
            _ => None,
        })
    })
    .await;
    let outcome = advanced(&double).await;
    assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
}

#[tokio::test]
async fn f15_callers_who_come_together_share_one_attempt() {
    let double = Double::start(|_, _| None).await;
    let ca = double.ca();
    let all = [(); 8].map(|()| ca.prepare());
    let [a, b, c, d, e, f, g, h] = all;
    let outcomes = tokio::join!(a, b, c, d, e, f, g, h);
    assert_eq!(outcomes.0, Ok(()));
    assert_eq!(outcomes.7, Ok(()));
    assert_eq!(double.count("/new-account"), 1);

    let down = Double::start(|_, _| Some(page(502, "soon"))).await;
    let ca = down.ca();
    let (a, b, c) = tokio::join!(ca.prepare(), ca.prepare(), ca.prepare());
    assert!(a.is_err() && b.is_err() && c.is_err());
    assert_eq!(down.requests(), ["/dir"]);
    ca.prepare().await.unwrap_err();
    assert_eq!(down.requests(), ["/dir", "/dir"]);
}

#[tokio::test]
async fn c1201_settings_that_can_not_work_are_refused_at_once() {
    let double = Double::start(|_, _| None).await;
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = double.settings();
        change(&mut settings);
        Ca::new(settings, Arc::new(MemoryVault::default())).err()
    };
    let plain = with(&|settings| settings.directory = "http://localhost/dir".to_owned());
    assert!(matches!(plain, Some(SetupError::Directory(_))), "{plain:?}");
    let missing = with(&|settings| settings.roots = Some("/nonexistent/roots.pem".into()));
    assert!(matches!(missing, Some(SetupError::Roots { .. })), "{missing:?}");
    let key = double.files.path("server.key");
    let no_certificate = with(&move |settings| settings.roots = Some(key.clone()));
    assert!(
        matches!(no_certificate, Some(SetupError::Roots { .. })),
        "{no_certificate:?}"
    );
}
