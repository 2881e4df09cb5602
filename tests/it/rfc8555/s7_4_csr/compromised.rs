//! Keys that others have, too, are in no certificate and no account; nor are the daemon's own (CONFORMANCE K5, K9, D12,
//! G5; SECURITY C909).

use std::path::Path;

use acme_proxy::app::control::{Request, UpstreamCommand, UpstreamRequest};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::harness::ca::answer::Answer as CaAnswer;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::client::Client;
use crate::harness::csr::Draft;
use crate::harness::key::{Key, unb64};
use crate::harness::server::Daemon;
use crate::rfc8555::s7_3_5_key_change::change;
use crate::rfc8555::s7_4_csr::{Desk, HOST};

/// RFC 7517 Appendix A.2: a private key that everybody has.
fn published() -> Key {
    let d = unb64("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE");
    let x = unb64("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4");
    let y = unb64("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
    let point = [&[4], x.as_slice(), &y].concat();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &d, &point);
    let pkcs8 = pair.unwrap().to_pkcs8v1().unwrap();
    Key::from_pkcs8(pkcs8.as_ref())
}

/// A `blocklist.dat` as badkeys writes it, with these keys and many others.
fn write_blocklist(path: &Path, keys: &[&Key]) {
    let hash = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let hash = digest::digest(&digest::SHA256, &number[zeros..]);
        [&hash.as_ref()[..15], &[3]].concat()
    };
    let number = |key: &&Key| {
        let number = key.jwk["n"].as_str().or(key.jwk["x"].as_str());
        unb64(number.unwrap())
    };
    let mut records: Vec<Vec<u8>> = keys.iter().map(|key| hash(&number(key))).collect();
    records.extend((1..=1000_u32).map(|other| hash(&other.to_be_bytes())));
    records.sort();
    std::fs::write(path, records.concat()).unwrap();
}

async fn new_account(daemon: &Daemon, key: Key) -> crate::harness::answer::Answer {
    let stranger = Client::new(&daemon.site, key.into(), None);
    stranger.post(&daemon.site.url("new-account"), json!({})).await
}

#[tokio::test]
async fn c909_k5_d12_g5_a_key_that_is_published_is_in_no_certificate_and_no_account() {
    let desk = Desk::open(&[HOST]).await;
    let good = Draft::of(&[HOST]);
    desk.refuses(
        "an RFC's example",
        &good.sign(&published()),
        "RFC 7517 Appendix A.2",
    )
    .await;
    let refused = new_account(&desk.daemon, published()).await;
    let problem = refused.problem(400, "badPublicKey");
    assert!(
        problem["detail"].as_str().unwrap().contains("RFC 7517"),
        "{problem}"
    );
    change(&desk.client, &published())
        .await
        .problem(400, "badPublicKey");
    desk.closes(&good.sign(&Key::new())).await;
}

#[tokio::test]
async fn c909_k5_d12_a_key_of_the_operators_list_is_in_no_certificate_and_no_new_account() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("blocklist.dat");
    let listed = ["ES256", "ES384", "RS256"].map(Key::generate);
    let daemon = Daemon::start().await;
    // It has its account before its key is found out.
    let early = daemon.account().await;
    let keys: Vec<&Key> = listed.iter().chain([&*early.key]).collect();
    write_blocklist(&list, &keys);
    let daemon = daemon
        .restart_with(|file| file["authority"]["config"]["blocked_keys"] = list.display().to_string().into())
        .await;
    let desk = Desk::at(daemon, &[HOST]).await;
    let good = Draft::of(&[HOST]);
    for key in &listed {
        desk.refuses(key.alg, &good.sign(key), "a list of compromised keys")
            .await;
    }
    for key in listed {
        let refused = new_account(&desk.daemon, key).await;
        refused.problem(400, "badPublicKey");
    }
    // It can still get away from the key.
    let early = Client::new(&desk.daemon.site, early.key.clone(), early.kid.clone());
    change(&early, &Key::new()).await.expect(200);
    desk.closes(&good.sign(&Key::new())).await;
}

#[tokio::test]
async fn c909_k9_no_key_of_our_accounts_at_the_ca_is_in_a_certificate_or_an_account() {
    for (last, step) in [
        (UpstreamCommand::RotateKey, Step::KeyChange),
        (UpstreamCommand::Register { again: true }, Step::NewAccount),
    ] {
        let daemon = Daemon::start().await;
        daemon
            .account()
            .await
            .issue(&daemon, &["first.example.com"])
            .await;
        let upstream = async |command| {
            let upstream = None;
            daemon
                .control(Request::Upstream(UpstreamRequest { upstream, command }))
                .await
        };
        upstream(UpstreamCommand::Register { again: true }).await.unwrap();
        // The end of the next change stays open: whether the CA has the new key is not known.
        for silent in [step, Step::Account] {
            daemon
                .ca
                .will(silent, Times::Always, Twist::Instead(CaAnswer::page(503)));
        }
        upstream(last).await.unwrap_err();
        let (daemon, keys) = daemon.upstream_keys().await;
        assert_eq!(
            keys.len(),
            3,
            "the first, the second, and the one that is to follow"
        );
        let desk = Desk::at(daemon, &[HOST]).await;
        let good = Draft::of(&[HOST]);
        let opened = desk.daemon.ca.stats().orders_opened;
        for key in keys {
            desk.refuses("the server's", &good.sign(&key), "server's own")
                .await;
            change(&desk.client, &key).await.problem(400, "badPublicKey");
            new_account(&desk.daemon, key).await.problem(400, "badPublicKey");
        }
        assert_eq!(desk.daemon.ca.stats().orders_opened, opened);
        let taken = desk.client.finalize(&desk.order, &good.sign(&Key::new())).await;
        taken.expect(200);
    }
}
