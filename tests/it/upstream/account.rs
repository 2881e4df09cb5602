//! The account at the CA, and what happens to it (SECURITY F9, F10, F16, F17; UPSTREAM rules 1 and 7).

use std::time::Duration;

use acme_proxy::upstream::Issuer as _;
use serde_json::json;

use crate::harness::ca;
use crate::harness::ca::Options;
use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::upstream::opened;
use crate::upstream::order;
use crate::upstream::scene::Scene;
use crate::upstream::scene::issuer;
use crate::upstream::scene::sleeps_end;

const MINUTE: Duration = Duration::from_secs(60);

const NAMES: [&str; 1] = ["www.example.com"];

#[tokio::test]
async fn f9_while_the_account_is_deactivated_or_lost_orders_wait_and_no_other_one_is_made() {
    for lost in [false, true] {
        let scene = Scene::with(|ca| ca.eab_once = true).await;
        scene.ready().await;
        if lost {
            let gone = Problem::new(400, "accountDoesNotExist", "no such account");
            for step in [Step::NewOrder, Step::Account] {
                scene.will(step, Times::Always, Twist::Refuse(gone.clone()));
            }
        } else {
            scene.daemon.ca.deactivates_accounts();
        }
        let waiting = scene.finalized(&NAMES).await;
        scene
            .soon("it is refused", async || scene.asked(Step::NewOrder) > 0)
            .await;
        // The first faults come soon one after the other; then the CA is left alone.
        for _ in 0..10 {
            scene.pass(Duration::from_secs(30)).await;
        }
        let before = scene.asked_in_all();
        for _ in 0..20 {
            scene.pass(Duration::from_secs(30)).await;
        }
        let asked = scene.asked_in_all() - before;
        assert!(asked <= 40, "{asked} requests in ten minutes");
        assert_eq!(scene.look(&waiting).await["status"], "processing");
        let stats = scene.daemon.ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses, stats.orders_opened), (1, 1, 0));

        scene.daemon.ca.behaves();
        scene.daemon.ca.reactivates_accounts();
        scene.issued(&waiting, &NAMES).await;
        scene.bought_once(&NAMES);
    }
}

#[tokio::test]
async fn f10_with_an_eab_that_is_refused_the_daemon_serves_and_says_what_to_look_at() {
    let scene = Scene::with(|ca| ca.eab_once = true).await;
    scene.ready().await;
    let scene = scene
        .restarted_with(|file| file["authority"]["config"]["eab_kid"] = "another".into())
        .await;
    scene
        .soon("it says what is missing", async || {
            let trouble = scene.account_trouble().await;
            trouble.contains("authority.config.eab_kid")
        })
        .await;
    let waiting = scene.finalized(&NAMES).await;
    assert_eq!(scene.look(&waiting).await["status"], "processing");
    // With the EAB of before, the account of before is there again.
    let eab = scene.daemon.ca.eab.kid.clone();
    let scene = scene
        .restarted_with(|file| file["authority"]["config"]["eab_kid"] = eab.into())
        .await;
    scene.issued(&waiting, &NAMES).await;
    let stats = scene.daemon.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test]
async fn f10_an_eab_that_the_ca_refuses_is_tried_again_an_hour_later_and_no_sooner() {
    let refused = Problem::new(403, "unauthorized", "the binding is not known here");
    let scene = Scene::with(|ca| {
        ca.eab_once = true;
        ca.script = vec![(Step::NewAccount, Times::Always, Twist::Refuse(refused))];
    })
    .await;
    scene
        .soon("it is refused", async || {
            !scene.account_trouble().await.is_empty()
        })
        .await;
    let waiting = scene.finalized(&NAMES).await;
    for _ in 0..2 {
        let before = scene.asked(Step::NewAccount);
        sleeps_end(59 * MINUTE).await;
        scene.pass(Duration::ZERO).await;
        assert_eq!(scene.asked(Step::NewAccount), before, "once an hour");
        sleeps_end(2 * MINUTE).await;
        scene
            .soon("it is tried again", async || {
                scene.asked(Step::NewAccount) > before
            })
            .await;
        scene.pass(Duration::ZERO).await;
    }
    assert_eq!(scene.look(&waiting).await["status"], "processing");
    // Somebody has talked to the CA.
    scene.daemon.ca.behaves();
    sleeps_end(61 * MINUTE).await;
    scene.ready().await;
    scene.issued(&waiting, &NAMES).await;
    let stats = scene.daemon.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test]
async fn f10_the_settings_to_look_at_are_those_of_the_upstream_that_is_refused() {
    for (eab_kid, hint) in [
        ("another", "look at authority.config.upstreams[0].eab_kid and"),
        ("", "configure authority.config.upstreams[0].eab_kid and"),
    ] {
        let scene = Scene::new().await;
        let scene = scene
            .restarted_with(|file| {
                let config = &mut file["authority"]["config"];
                let mut second = json!({ "name": "second", "eab_kid": eab_kid });
                for same in ["ca_url", "ca_root"] {
                    second[same] = config[same].clone();
                }
                if !eab_kid.is_empty() {
                    second["eab_hmac_key"] = config["eab_hmac_key"].clone();
                }
                config["upstreams"] = json!([second]);
            })
            .await;
        scene
            .soon("it says what is missing", async || {
                scene.missing("upstream account second").await.contains(hint)
            })
            .await;
        scene.ready().await;
    }
}

#[tokio::test]
async fn rule_1_ten_restarts_spend_one_eab_and_make_one_account() {
    let mut scene = Scene::with(|ca| ca.eab_once = true).await;
    for number in 0..10 {
        let name = format!("n{number}.example.com");
        let finalized = scene.finalized(&[&name]).await;
        scene.issued(&finalized, &[&name]).await;
        scene = scene.restarted_after(|_| ()).await;
    }
    let stats = scene.daemon.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    assert_eq!(scene.asked(Step::NewAccount), 1);
}

#[tokio::test]
async fn f16_a_ca_whose_resources_have_moved_is_found_by_its_directory() {
    let scene = Scene::new().await;
    scene.ready().await;
    let before = scene.finalized(&NAMES).await;
    scene.issued(&before, &NAMES).await;
    scene.daemon.ca.moves();
    let after = scene.finalized(&["new.example.com"]).await;
    scene.issued(&after, &["new.example.com"]).await;
    scene.bought_once(&["new.example.com"]);
    assert_eq!(scene.daemon.ca.stats().accounts, 1);
}

#[tokio::test]
async fn f16_the_directory_is_looked_at_again_every_day_and_used_on_for_minutes_while_it_does_not_answer() {
    let at_ca = ca::start(Options::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = issuer(&at_ca, directory.path());
    let opens = async |name: &str, looks: bool| {
        let before = at_ca.asked(Step::Directory);
        opened(&ca, order(&[name])).await;
        assert_eq!(at_ca.asked(Step::Directory) > before, looks, "{name}");
    };
    ca.prepare().await.unwrap();
    sleeps_end(23 * 60 * MINUTE).await;
    opens("same-day.example.com", false).await;
    sleeps_end(61 * MINUTE).await;
    opens("next-day.example.com", true).await;
    at_ca.moves();
    sleeps_end(24 * 60 * MINUTE).await;
    opens("moved.example.com", true).await;

    at_ca.will(Step::Directory, Times::Always, Twist::Instead(Answer::page(503)));
    sleeps_end(24 * 60 * MINUTE).await;
    opens("no-directory.example.com", true).await;
    sleeps_end(4 * MINUTE).await;
    opens("no-directory-and-not-asked-for.example.com", false).await;
    sleeps_end(2 * MINUTE).await;
    opens("still-no-directory.example.com", true).await;
    at_ca.behaves();
    at_ca.moves();
    sleeps_end(6 * MINUTE).await;
    opens("found-again.example.com", true).await;
}

#[tokio::test]
async fn f17_new_terms_make_orders_wait_for_the_operator_and_are_not_agreed_to() {
    let scene = Scene::new().await;
    scene.ready().await;
    let terms = Problem::new(403, "userActionRequired", "agree to the new terms");
    scene.will(Step::NewOrder, Times::Always, Twist::Refuse(terms));
    let registrations = scene.asked(Step::NewAccount);
    let waiting = scene.finalized(&NAMES).await;
    for _ in 0..5 {
        scene.pass(Duration::from_secs(60)).await;
    }
    assert_eq!(scene.look(&waiting).await["status"], "processing");
    assert_eq!(scene.asked(Step::NewAccount), registrations);
    assert_eq!(scene.asked(Step::Account), 0, "nothing is agreed to");
    scene.daemon.ca.behaves();
    scene.issued(&waiting, &NAMES).await;
    scene.bought_once(&NAMES);
}

#[tokio::test]
async fn rule_7_a_directorys_query_is_kept_byte_for_byte() {
    let query = "?action=enroll&orderId=17%2f4&x=a+b";
    let scene = Scene::with(|ca| ca.directory_query = query).await;
    let finalized = scene.finalized(&NAMES).await;
    scene.issued(&finalized, &NAMES).await;
}

#[tokio::test]
async fn a_ca_without_external_accounts_needs_none() {
    let scene = Scene::with(|ca| ca.eab_required = false).await;
    let finalized = scene.finalized(&NAMES).await;
    scene.issued(&finalized, &NAMES).await;
}
