//! C601 to C613, over real DNS packets and real sockets on loopback: 127.0.0.2 is allowed, and nothing else is.

use std::sync::Mutex;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::validate::testing::Answer as DnsAnswer;
use crate::validate::testing::Attempt;
use crate::validate::testing::DnsServer;
use crate::validate::testing::MARKER;
use crate::validate::testing::NAME;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::head;
use crate::validate::testing::http;
use crate::validate::testing::kinds;
use crate::validate::testing::listeners;
use crate::validate::testing::moved;
use crate::validate::testing::ok;
use crate::validate::testing::serve;
use crate::validate::testing::server_hello;
use crate::validate::testing::tls_acceptor;
use crate::validate::testing::zone;

mod content;
mod destinations;

/// One attempt against a server that answers each request with this text.
async fn answered(answer: impl Fn(&Attempt) -> String) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::http01(dns.address, port);
    let text = answer(&attempt);
    http(web, move |_| text.clone());
    attempt.run().await
}

#[tokio::test]
async fn the_key_authorization_at_its_place_proves_control() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::http01(dns.address, port);
    let (path, content) = (attempt.token.as_str().to_owned(), attempt.key_authorization());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    http(web, move |head| {
        seen.lock().unwrap().push(head.to_owned());
        ok(&content)
    });
    attempt.run().await.unwrap();
    let expected = format!(
        "GET /.well-known/acme-challenge/{path} HTTP/1.1\r\nhost: {NAME}\r\nuser-agent: {USER_AGENT}\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(*requests.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn an_address_is_asked_by_itself_without_dns() {
    // RFC 8738 §4: the Host header field has the address; RFC 3986 §3.2.2: IPv6 in brackets.
    for (address, host) in [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")] {
        let (port, [web]) = listeners([address]).await;
        let dns = zone("127.0.0.9").await;
        let attempt = Attempt::http01(dns.address, port)
            .with(|settings| settings.allow.push("::1/128".parse().unwrap()))
            .of_address(address);
        let content = attempt.key_authorization();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        http(web, move |head| {
            seen.lock().unwrap().push(head.to_owned());
            match head.starts_with("GET /.well-known/") {
                true => moved(302, "/there"),
                false => ok(&content),
            }
        });
        attempt.run().await.unwrap();
        let heads = heads.lock().unwrap().clone();
        assert_eq!(heads.len(), 2);
        for head in heads {
            assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
        }
        assert_eq!(dns.names().len(), 0);
    }
}
