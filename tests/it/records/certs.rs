//! Certificates: found, shown, exported, revoked.

use std::sync::Arc;
use std::time::Duration;

use acme_proxy::app::control::{CertificateFilter, CertsRequest, Part, Request};
use serde_json::{Value, json};

use crate::harness::process::NAME;
use crate::harness::world::World;
use crate::records::{complains, has, obtain, records, started};
use crate::upstream::scene::Scene;

fn colons(serial: &str) -> String {
    let bytes: Vec<&str> = (0..serial.len())
        .step_by(2)
        .map(|at| &serial[at..at + 2])
        .collect();
    bytes.join(":").to_uppercase()
}

fn text(record: &Value, member: &str) -> String {
    record[member].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_found_shown_and_exported_beside_a_daemon_and_without_one() {
    let world = Arc::new(World::new().await);
    let installation = &world.installation;
    let daemon = started(&world).await;
    obtain(&world, &["one.test.example.com", "two.test.example.com"]).await;
    let mut daemon = Some(daemon);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut session = Vec::new();
        // The daemon's own certificate is one of them.
        let all = records(&world, "certs", &[]).await;
        assert_eq!(all.len(), 3);
        let one = records(&world, "certs", &["--name", "one.test.example.com"])
            .await
            .remove(0);
        let (id, serial) = (text(&one, "id"), text(&one, "serial"));
        assert_eq!(one["names"], json!(["one.test.example.com"]));
        assert_eq!(
            (text(&one, "status").as_str(), &one["fetched"]),
            ("valid", &json!(true))
        );
        assert_eq!(
            records(&world, "certs", &["--serial", &colons(&serial)]).await,
            std::slice::from_ref(&one)
        );
        assert_eq!(
            records(&world, "certs", &["--name", "*.test.example.com"])
                .await
                .len(),
            3
        );
        assert_eq!(
            records(&world, "certs", &["--account", &text(&one, "account")])
                .await
                .len(),
            2
        );
        assert!(
            records(&world, "certs", &["--name", "three.test.example.com"])
                .await
                .is_empty()
        );

        let table = installation.prints("certs", &["list"]).await;
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.starts_with("ID ") && table.contains(&serial), "{table}");
        let lengths = |line: &str| line.find("  ").unwrap();
        assert!(table.lines().skip(1).all(|line| lengths(line) == 32), "{table}");

        assert_eq!(table.matches("  the daemon   ").count(), 1, "{table}");
        let own = installation.prints("certs", &["show", NAME]).await;
        has(&own, &["  account: none, it is the daemon's own\n"]);
        let own = installation
            .prints("orders", &["show", own.lines().next().unwrap()])
            .await;
        has(&own, &["  account: none, it is the daemon's own\n"]);

        let mut ways = Vec::new();
        for which in [id.as_str(), &serial, &colons(&serial), "one.test.example.com"] {
            ways.push(installation.prints("certs", &["show", which]).await);
            session.push(installation.prints("certs", &["export", which]).await);
        }
        assert!(ways.iter().all(|way| way == &ways[0]), "{ways:#?}");
        has(
            &ways[0],
            &[
                &format!("{id}\n  status: valid\n  names: one.test.example.com\n  serial: {serial}\n"),
                "fetched by its client: yes\n",
                "  upstream: default\n",
                "  order at the CA: https://",
            ],
        );
        let shown = installation.prints("certs", &["show", &id, "--json"]).await;
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), one);
        session.push(ways.remove(0));
        session.push(table);
        let none = complains(&world, "certs", &["show", "three.test.example.com"]).await;
        has(&none, &["no certificate with the id, serial number or name"]);
        for (flag, value, words) in [
            (
                "--account",
                "me",
                "is no account: write its id, which the list shows, or its URL",
            ),
            ("--serial", "xyz", "is no serial number: write hexadecimal digits"),
            (
                "--name",
                "two names",
                "is no name: write one such as www.example.com",
            ),
        ] {
            has(
                &complains(&world, "certs", &["list", flag, value]).await,
                &[words],
            );
        }
        sessions.push(session);
        if let Some(daemon) = daemon.take() {
            daemon.stop().await;
        }
    }
    assert_eq!(sessions[0], sessions[1], "the same without a daemon");
    let chain = &sessions[0][0];
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "{chain}");
    let file = installation.path("chain.pem").display().to_string();
    let export = ["export", "one.test.example.com", "--out", &file];
    assert_eq!(installation.prints("certs", &export).await, "");
    assert_eq!(&std::fs::read_to_string(&file).unwrap(), chain);
    has(
        &complains(&world, "certs", &export).await,
        &["chain.pem can not be written", "exists"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_revoked_by_the_operator_once_and_only_beside_a_daemon() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    obtain(&world, &["lost.test.example.com", "kept.test.example.com"]).await;
    let lost = records(&world, "certs", &["--name", "lost.test.example.com"])
        .await
        .remove(0);
    let (id, serial) = (text(&lost, "id"), text(&lost, "serial"));
    has(
        &complains(&world, "certs", &["revoke", &id]).await,
        &[&format!(
            "can not be taken back; to revoke this certificate, add --yes:\n{id}\n  status: valid\n  names: lost.test.example.com\n"
        )],
    );
    has(
        &complains(&world, "certs", &["revoke", "lost.test.example.com", "--yes"]).await,
        &[
            "no certificate with the id or serial number \"lost.test.example.com\"",
            "certs list --name shows",
        ],
    );
    assert!(records(&world, "certs", &["--revoked"]).await.is_empty());
    let revoke = ["revoke", &colons(&serial), "--reason", "keycompromise", "--yes"];
    let revoked = world.installation.prints("certs", &revoke).await;
    has(
        &revoked,
        &[
            "The CA has revoked the certificate",
            &id,
            "lost.test.example.com",
            &serial,
        ],
    );
    let again = complains(&world, "certs", &["revoke", &id, "--yes", "--reason", "1"]).await;
    has(&again, &["is revoked already, since "]);
    let revoked = records(&world, "certs", &["--revoked"]).await;
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0]["revocation"]["state"], "confirmed");
    assert_eq!(revoked[0]["revocation"]["reason"], "key_compromise");
    has(
        &world.installation.prints("certs", &["show", &id]).await,
        &[
            "status: revoked\n",
            "revocation: confirmed at ",
            "reason keyCompromise",
        ],
    );
    has(
        &world.installation.prints("orders", &["show", &id]).await,
        &["  revocation asked for\n", "  revoked by the CA\n"],
    );
    daemon.stop().await;
    has(
        &world.installation.log(),
        &["revocation asked for by the operator", "certificate revocation"],
    );
    let without = complains(&world, "certs", &["revoke", &id, "--yes"]).await;
    has(&without, &["no daemon answers", "start the daemon"]);
    assert_eq!(without.lines().count(), 1, "{without}");
}

/// The names of the certificates that a filter finds.
async fn found(scene: &Scene, filter: CertificateFilter) -> Vec<String> {
    let part = Part {
        after: None,
        limit: 100,
    };
    let json = true;
    let request = Request::Certs(CertsRequest::List { filter, part, json });
    let printed = scene.daemon.control(request).await.unwrap();
    let records = printed.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut names: Vec<String> = records
        .map(|record: Value| text(&record, "status") + " " + record["names"][0].as_str().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_expires_soon_has_expired_or_is_revoked_is_found_by_the_daemons_clock() {
    const DAY: Duration = Duration::from_hours(24);
    let scene = Scene::new().await;
    scene.ready().await;
    let old = scene.finalized(&["old.example.com"]).await;
    scene.issued(&old, &["old.example.com"]).await;
    let none = CertificateFilter::default;
    let within = |days: u32| CertificateFilter {
        expires_within: Some(DAY * days),
        ..none()
    };
    assert_eq!(found(&scene, none()).await, ["valid old.example.com"]);
    assert!(found(&scene, within(89)).await.is_empty());
    assert_eq!(found(&scene, within(91)).await, ["valid old.example.com"]);
    scene.pass(65 * DAY).await;
    assert_eq!(found(&scene, within(30)).await, ["valid old.example.com"]);
    scene.pass(26 * DAY).await;
    assert!(found(&scene, within(30)).await.is_empty(), "it has expired");
    let expired = CertificateFilter {
        expired: true,
        ..none()
    };
    assert_eq!(found(&scene, expired).await, ["expired old.example.com"]);
    let revoked = CertificateFilter {
        revoked: true,
        ..none()
    };
    assert!(found(&scene, revoked).await.is_empty());
}
