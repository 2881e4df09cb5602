//! Certificates that are not what was ordered, and chains in every form: what is withheld, and what is put right
//! (SECURITY C1102, C1103, F7, F8; UPSTREAM rule 3).

use jiff::SignedDuration;

use crate::harness::ca::answer::Answer;
use crate::harness::ca::pki::Flaw;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::csr::first_of_pem;
use crate::upstream::now;
use crate::upstream::scene::Scene;

const MISMATCHES: &str = "acme_proxy_certificate_mismatch_total";

/// Finalizes an order of this name, which must end without a certificate.
async fn withheld(scene: &Scene, name: &str) {
    let before = scene.metric(MISMATCHES).await;
    let (kind, detail) = scene.failed(&scene.finalized(&[name]).await).await;
    assert_eq!(kind, "serverInternal", "{name}");
    assert!(detail.contains("does not match the order"), "{name}: {detail}");
    assert_eq!(
        scene.metric(MISMATCHES).await,
        before + 1.0,
        "{name}: nobody is alarmed"
    );
    assert_eq!(
        scene.orders_at_ca(&[name]).len(),
        1,
        "{name}: another one is bought"
    );
}

#[tokio::test]
async fn f8_c1102_a_certificate_that_was_not_ordered_is_never_handed_out() {
    let scene = Scene::new().await;
    let ago = |hours| now() - SignedDuration::from_hours(hours);
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let flaws = [
        ("key.example.com", Flaw::OtherKey),
        ("names.example.com", Flaw::Names(text(&["evil.example.com"]))),
        (
            "extra.example.com",
            Flaw::Names(text(&["extra.example.com", "evil.example.com"])),
        ),
        ("wild.example.com", Flaw::Names(text(&["*.example.com"]))),
        ("ca.example.com", Flaw::IsCa),
        ("old.example.com", Flaw::Dates(ago(48), ago(1))),
        ("early.example.com", Flaw::Dates(ago(-24), ago(-48))),
        ("issuer.example.com", Flaw::OtherIssuer),
    ];
    for (name, flaw) in flaws {
        scene.will(Step::Finalize, Times::Next(1), Twist::Flaw(flaw));
        withheld(&scene, name).await;
    }
    let other = scene.finalized(&["other.example.com"]).await;
    let chain = scene.issued(&other, &["other.example.com"]).await;
    scene.will(
        Step::Certificate,
        Times::Next(1),
        Twist::text(move |_| chain.clone()),
    );
    withheld(&scene, "mixed.example.com").await;
    // The CA is right again, and so is the certificate.
    let good = scene.finalized(&["key.example.com"]).await;
    scene.issued(&good, &["key.example.com"]).await;
}

#[tokio::test]
async fn c1103_chains_that_can_be_put_right_are_and_everything_else_is_withheld() {
    let scene = Scene::new().await;
    let root = scene.daemon.ca.root_pem.clone();
    let fine: [(&str, Twist); 5] = [
        (
            "windows.example.com",
            Twist::text(|pem| pem.replace('\n', "\r\n")),
        ),
        (
            "preamble.example.com",
            Twist::text(|pem| format!("Subject: CN=somebody\nIssuer: CN=somebody else\n\n{pem}")),
        ),
        ("end.example.com", Twist::text(|pem| pem.trim_end().to_owned())),
        (
            "between.example.com",
            Twist::text(|pem| pem.replace("-----BEGIN", "\n  i:/CN=somebody\n-----BEGIN")),
        ),
        (
            "rooted.example.com",
            Twist::text(move |pem| format!("{pem}{root}")),
        ),
    ];
    for (name, change) in fine {
        scene.will(Step::Certificate, Times::Next(1), change);
        let order = scene.end(&scene.finalized(&[name]).await).await;
        assert_eq!(order["status"], "valid", "{name}: {order}");
        let chain = scene.chain(&order).await;
        assert!(
            chain.starts_with("-----BEGIN CERTIFICATE-----\n"),
            "{name}: {chain}"
        );
        assert!(chain.ends_with("-----END CERTIFICATE-----\n"), "{name}: {chain}");
        assert!(
            !chain.contains('\r') && !chain.contains("i:/CN"),
            "{name}: {chain}"
        );
    }
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let refused: [(&str, Twist); 3] = [
        (
            "secret.example.com",
            Twist::text(move |pem| format!("{pem}{key}")),
        ),
        (
            "many.example.com",
            Twist::text(|pem| {
                let block = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
                format!("{pem}{}", block.repeat(1000))
            }),
        ),
        (
            "lonely.example.com",
            Twist::text(|pem| pem.split_inclusive("END CERTIFICATE-----\n").take(1).collect()),
        ),
    ];
    for (name, change) in refused {
        scene.will(Step::Certificate, Times::Next(1), change);
        withheld(&scene, name).await;
    }
}

#[tokio::test]
async fn c1103_what_is_no_whole_chain_is_asked_for_again_and_the_purchase_is_not_forgotten() {
    let scene = Scene::new().await;
    let none: [(&str, Twist); 4] = [
        ("empty.example.com", Twist::text(|_| String::new())),
        ("html.example.com", Twist::text(|_| "<html>".to_owned())),
        (
            "cut.example.com",
            Twist::text(|pem| pem.chars().take(pem.len() - 200).collect()),
        ),
        (
            "der.example.com",
            Twist::edit(|answer| {
                let pem = String::from_utf8_lossy(&answer.body).into_owned();
                *answer = Answer::new(200, "application/pkix-cert", first_of_pem(&pem));
            }),
        ),
    ];
    for (name, change) in none {
        scene.will(Step::Certificate, Times::Always, change);
        let asked = scene.asked(Step::Certificate);
        let finalized = scene.finalized(&[name]).await;
        scene
            .until("it is asked for often", async || {
                scene.asked(Step::Certificate) >= asked + 4
            })
            .await;
        assert_eq!(scene.look(&finalized).await["status"], "processing", "{name}");
        scene.daemon.ca.behaves();
        scene.issued(&finalized, &[name]).await;
        scene.bought_once(&[name]);
    }
    assert_eq!(scene.metric(MISMATCHES).await, 0.0);
}

#[tokio::test]
async fn f7_a_chain_in_another_order_is_put_right_if_it_verifies() {
    let scene = Scene::with(|ca| ca.intermediates = 2).await;
    let certificates = |pem: &str| -> Vec<String> {
        pem.split_inclusive("END CERTIFICATE-----\n")
            .map(str::to_owned)
            .collect()
    };
    for (number, order) in [[0, 2, 1], [2, 1, 0], [1, 0, 2], [2, 0, 1]]
        .into_iter()
        .enumerate()
    {
        let name = format!("o{number}.example.com");
        scene.will(
            Step::Certificate,
            Times::Next(1),
            Twist::text(move |pem| {
                let blocks = certificates(pem);
                order.map(|index: usize| blocks[index].clone()).concat()
            }),
        );
        let names = [name.as_str()];
        let finalized = scene.finalized(&names).await;
        let chain = scene.issued(&finalized, &names).await;
        assert_eq!(certificates(&chain).len(), 3);
    }
    assert_eq!(scene.metric(MISMATCHES).await, 0.0);
    let stranger = Scene::new().await;
    let foreign = stranger.finalized(&["foreign.example.com"]).await;
    let foreign = stranger.issued(&foreign, &["foreign.example.com"]).await;
    let intermediate = certificates(&foreign)[1].clone();
    scene.will(
        Step::Certificate,
        Times::Next(1),
        Twist::text(move |pem| format!("{intermediate}{pem}")),
    );
    withheld(&scene, "stranger.example.com").await;
}
