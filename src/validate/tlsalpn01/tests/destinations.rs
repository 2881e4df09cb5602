//! Where the connection goes: the rows C601, C602, C610 and C611 hold for tls-alpn-01 as for http-01, and so does the
//! lesson of CVE-2026-5052.

use std::sync::Mutex;

use hickory_proto::rr::RecordType;
use tokio::net::TcpListener;

use super::*;
use crate::validate::testing::Answer;
use crate::validate::testing::DnsServer;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::kinds;
use crate::validate::testing::listeners;
use crate::validate::testing::serve;
use crate::validate::testing::tls_acceptor;
use crate::validate::testing::zone;

/// Shows on each connection what the attempt wants to see.
fn responder(listener: TcpListener, attempt: &Attempt) -> Arc<Mutex<usize>> {
    let key = KeyPair::generate().unwrap();
    let acceptor = tls_acceptor(
        vec![shown_for(attempt, &key)],
        &key,
        &[&TLS12, &TLS13],
        &["acme-tls/1"],
    );
    serve(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
}

#[tokio::test]
async fn c601_our_own_listeners_are_not_connected_to() {
    let (port, [own]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    for listener in ["127.0.0.2", "0.0.0.0", "[::]"] {
        let attempt = || {
            Attempt::tls_alpn01(dns.address, port).with(|settings| {
                settings.allow = vec!["127.0.0.0/8".parse().unwrap()];
                settings.own_listeners = vec![format!("{listener}:{port}").parse().unwrap()];
            })
        };
        for attempt in [attempt(), attempt().of_address("127.0.0.2")] {
            assert_eq!(
                kinds(&attempt.fails().await),
                (ProblemType::Connection, false),
                "{listener}"
            );
        }
    }
    assert_untouched(&own).await;
}

#[tokio::test]
async fn c602_a_rebinding_name_is_looked_up_once_and_its_checked_address_dialled() {
    let (port, [web, canary]) = listeners(["127.0.0.2", "127.0.0.1"]).await;
    let dns = DnsServer::rebinding().await;
    let attempt = Attempt::tls_alpn01(dns.address, port);
    let connections = responder(web, &attempt);
    attempt.run().await.unwrap();
    assert_eq!(dns.queries(RecordType::A), 1);
    assert_eq!(kinds(&attempt.fails().await), (ProblemType::Connection, false));
    assert_eq!(*connections.lock().unwrap(), 1);
    assert_untouched(&canary).await;
}

#[tokio::test]
async fn c610_a_dead_ipv6_address_does_not_stop_the_ipv4_one_and_a_wrong_one_does() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = DnsServer::of(&[(NAME, &["::1", "127.0.0.2"])]).await;
    let attempt = Attempt::tls_alpn01(dns.address, port)
        .with(|settings| settings.allow.push("::1/128".parse().unwrap()));
    responder(web, &attempt);
    attempt.run().await.unwrap();
    // An answer over IPv6 is an answer, however wrong.
    let v6 = TcpListener::bind(("::1", port)).await.unwrap();
    responder(v6, &Attempt::tls_alpn01(dns.address, port));
    assert_eq!(
        kinds(&attempt.fails().await),
        (ProblemType::IncorrectResponse, false)
    );
}

#[tokio::test]
async fn a_dns_failure_may_pass() {
    for answer in [
        Answer::NxDomain,
        Answer::NoRecords,
        Answer::ServFail,
        Answer::Silence,
    ] {
        let dns = DnsServer::start(move |_, _| answer.clone()).await;
        let attempt =
            Attempt::tls_alpn01(dns.address, 443).with(|settings| settings.timeout = Duration::from_secs(1));
        let failure = attempt.fails().await;
        assert_eq!(kinds(&failure), (ProblemType::Dns, true), "{failure:?}");
    }
}
