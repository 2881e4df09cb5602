//! The way to the CA: TLS, whom to trust, and proxies (SECURITY F6; UPSTREAM rule 7).

use std::net::Ipv4Addr;
use std::sync::Arc;

use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer as _;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::connect;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;
use crate::upstream::MemoryVault;
use crate::upstream::TlsFiles;
use crate::upstream::scene::Scene;

const NAMES: [&str; 1] = ["www.example.com"];

/// Orders wait, the health page says that the CA's certificate is at fault, and nothing was asked over the connection.
async fn refused(scene: &Scene, why: &str) {
    let finalized = scene.finalized(&NAMES).await;
    scene
        .soon("it says what is missing", async || {
            scene.account_trouble().await.contains(why)
        })
        .await;
    assert_eq!(scene.look(&finalized).await["status"], "processing");
    assert_eq!(scene.asked_in_all(), 0);
}

#[tokio::test]
async fn f6_a_ca_whose_certificate_has_expired_is_told_nothing() {
    let scene = Scene::with(|ca| ca.tls_expired = true).await;
    refused(&scene, "certificate").await;
}

#[tokio::test]
async fn f6_a_ca_under_a_root_that_is_not_trusted_is_told_nothing() {
    let files = TlsFiles::new();
    let more = json!({ "authority": { "config": { "ca_root": files.path("roots.pem") } } });
    let scene = Scene::configured(|_| (), more).await;
    refused(&scene, "certificate").await;
}

#[tokio::test]
async fn f6_tls_older_than_1_2_is_neither_offered_nor_taken() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let files = TlsFiles::new();
    let settings = Settings {
        section: "authority.config".to_owned(),
        directory: format!("https://{}/directory", listener.local_addr().unwrap()),
        roots: Some(files.path("roots.pem")),
        email: None,
        eab: None,
        dns01: None,
        lifetime: None,
        profile: None,
    };
    let ca = Ca::new(settings, Arc::new(MemoryVault::default())).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).await.unwrap();
        // RFC 8446 §4.2.1: supported_versions, with 1.3 and 1.2.
        let versions = [0x00, 0x2b, 0x00, 0x05, 0x04, 0x03, 0x04, 0x03, 0x03];
        assert!(
            hello[..length]
                .windows(versions.len())
                .any(|part| part == versions)
        );
        // RFC 4346 §7.4.1.3: a server that speaks 1.1.
        let body = [&[3, 2][..], &[7; 32], &[0, 0xc0, 0x13, 0]].concat();
        let handshake = [&[2, 0, 0, u8::try_from(body.len()).unwrap()], body.as_slice()].concat();
        let record = [
            &[0x16, 3, 2, 0, u8::try_from(handshake.len()).unwrap()],
            handshake.as_slice(),
        ];
        stream.write_all(&record.concat()).await.unwrap();
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).await.unwrap();
        alert
    };
    let (outcome, alert) = tokio::join!(ca.probe(), server);
    assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
    // RFC 5246 §7.2: fatal, protocol_version.
    assert_eq!(alert, [0x15, 3, 3, 0, 2, 2, 70]);
}

const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

fn without_proxies(command: &mut Command) {
    for variable in PROXIES.into_iter().chain(["NO_PROXY", "no_proxy"]) {
        command.env_remove(variable);
    }
}

/// A client gets a certificate from a daemon in this environment; what the proxy has been asked, and how many
/// connections the CA has seen.
async fn through(environment: impl FnOnce(&mut Command, &str)) -> (Vec<String>, String, u32) {
    let world = Arc::new(World::new().await);
    let tunnel = connect::start().await.unwrap();
    let mut daemon = world.installation.start_with(|command| {
        without_proxies(command);
        environment(command, &format!("http://{}", tunnel.address));
    });
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    daemon.stop().await;
    let authority = world.ca.directory_url.trim_start_matches("https://");
    let authority = authority.trim_end_matches("/directory").to_owned();
    (tunnel.requests(), authority, world.storm.connections())
}

#[tokio::test]
async fn the_ca_is_reached_through_the_proxy_of_the_environment_and_an_applicants_host_never_is() {
    let (requests, ca, connections) = through(|command, proxy| {
        for variable in PROXIES {
            command.env(variable, proxy);
        }
    })
    .await;
    assert!(!requests.is_empty());
    for request in &requests {
        assert_eq!(*request, format!("CONNECT {ca} HTTP/1.1"));
    }
    assert_eq!(
        u32::try_from(requests.len()).unwrap(),
        connections,
        "there is another way"
    );
}

#[tokio::test]
async fn a_ca_that_no_proxy_names_is_reached_without_one() {
    let (requests, _, connections) = through(|command, proxy| {
        command.env("HTTPS_PROXY", proxy).env("NO_PROXY", "127.0.0.1");
    })
    .await;
    assert!(requests.is_empty(), "{requests:?}");
    assert!(connections > 0);
}
