//! RFC 8555 §6.1 and what lies below: HTTP and TLS as hostile clients speak them (SECURITY C1, CONFORMANCE A).

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::client::{Client, GET};
use crate::harness::server::Daemon;
use crate::harness::wire::{Connection, NAMES, Site};

/// What takes nothing but POST, below the directory.
pub(crate) const POSTS: [&str; 11] = [
    "new-account",
    "account/0",
    "account/0/orders",
    "new-order",
    "order/0",
    "order/0/finalize",
    "authz/0-0",
    "challenge/0-0/http-01",
    "certificate/0",
    "revoke-cert",
    "key-change",
];

const JOSE: (&str, &str) = ("Content-Type", "application/jose+json");
const NEW_ORDER: &str = "/acme/acme/new-order";

/// Longer than any deadline of the listener's, so that only a missing one is seen.
const BOUND: Duration = Duration::from_secs(40);

async fn within<T>(bound: Duration, what: impl Future<Output = T>) -> T {
    timeout(bound, what)
        .await
        .expect("the daemon has a deadline for this")
}

#[tokio::test]
async fn c102_a_body_that_is_declared_too_long_is_refused_before_it_is_read() {
    let daemon = Daemon::start().await;
    let mut connection = daemon.site.connect().await;
    connection
        .write(&daemon.site.head("POST", NEW_ORDER, &[JOSE], Some(70_000)))
        .await;
    let answer = within(BOUND, connection.answer("POST")).await.unwrap();
    answer.acme().problem(413, "malformed");
}

#[tokio::test]
async fn c103_a_chunked_body_that_never_ends_is_refused_at_64_kib() {
    let daemon = Daemon::start().await;
    let mut connection = daemon.site.connect().await;
    let chunked = [JOSE, ("Transfer-Encoding", "chunked")];
    connection
        .write(&daemon.site.head("POST", NEW_ORDER, &chunked, None))
        .await;
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    for _ in 0..17 {
        connection.write(&chunk).await;
    }
    let answer = within(BOUND, connection.answer("POST")).await.unwrap();
    answer.acme().problem(413, "malformed");
    assert!(
        connection.ends().await,
        "what comes after the refusal is not read"
    );
}

#[tokio::test]
async fn c104_a_body_that_drips_is_given_up_with_408() {
    let daemon = Daemon::start().await;
    let mut connection = daemon.site.connect().await;
    connection
        .write(&daemon.site.head("POST", NEW_ORDER, &[JOSE], Some(1000)))
        .await;
    let mut writer = connection.writer;
    let dripping = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() && writer.flush().await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let answer = within(BOUND, connection.reader.next("POST")).await.unwrap();
    answer.acme().problem(408, "malformed");
    within(BOUND, dripping).await.unwrap();
}

#[tokio::test]
async fn c115_a_client_that_waits_for_100_continue_and_then_falls_silent_gets_408() {
    let daemon = Daemon::start().await;
    let mut connection = daemon.site.connect().await;
    let expecting = [JOSE, ("Expect", "100-continue")];
    connection
        .write(&daemon.site.head("POST", NEW_ORDER, &expecting, Some(1000)))
        .await;
    assert_eq!(connection.answer("POST").await.unwrap().status, 100);
    let answer = within(BOUND, connection.answer("POST")).await.unwrap();
    answer.acme().problem(408, "malformed");
}

#[tokio::test]
async fn c105_heads_that_are_too_long_or_have_too_many_headers_get_431() {
    let daemon = Daemon::start().await;
    let long = "x".repeat(20 * 1024);
    let answer = daemon
        .site
        .request("GET", "/acme/acme/directory", &[("X-Long", &long)], b"")
        .await;
    assert_eq!(answer.status, 431);
    let names: Vec<String> = (0..200).map(|n| format!("X-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let answer = daemon
        .site
        .request("GET", "/acme/acme/directory", &many, b"")
        .await;
    assert_eq!(answer.status, 431);
}

/// RFC 9112 §6.1 lets a server take such a request by its Transfer-Encoding, if it closes the connection afterwards.
#[tokio::test]
async fn c106_a_request_with_two_lengths_can_not_smuggle_a_second_one() {
    let daemon = Daemon::start().await;
    let (length, chunked) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    for (first, second) in [(length, chunked), (chunked, length)] {
        let mut connection = daemon.site.connect().await;
        let smuggled = "GET /acme/acme/directory HTTP/1.1\r\nHost: x\r\n\r\n";
        let request = format!(
            "POST {NEW_ORDER} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/jose+json\r\n{first}\r\n{second}\r\n\r\n0\r\n\r\n{smuggled}",
            daemon.site.authority()
        );
        connection.write(request.as_bytes()).await;
        connection
            .answer("POST")
            .await
            .unwrap()
            .acme()
            .problem(400, "malformed");
        assert!(connection.ends().await, "the second request is not answered");
    }
    for wrong in [
        "Transfer-Encoding: chunked, gzip",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        let mut connection = daemon.site.connect().await;
        let request = format!(
            "POST {NEW_ORDER} HTTP/1.1\r\nHost: {}\r\n{wrong}\r\n\r\n",
            daemon.site.authority()
        );
        connection.write(request.as_bytes()).await;
        assert_eq!(connection.answer("POST").await.unwrap().status, 400, "{wrong}");
        assert!(connection.ends().await);
    }
}

#[tokio::test]
async fn c107_c108_a1_a_host_that_is_not_ours_is_refused_and_no_header_gets_into_a_url() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let port = daemon.site.address.port();
    for evil in [
        "evil.example.net",
        "evil.example.net:443",
        "127.0.0.1",
        "",
        "acmeproxy.test.example.com.evil.net",
    ] {
        for (method, path) in [
            ("GET", "/acme/acme/directory"),
            ("HEAD", "/acme/acme/new-nonce"),
            ("POST", NEW_ORDER),
        ] {
            let answer = daemon
                .site
                .request(method, path, &[("Host", evil), JOSE], b"")
                .await;
            assert_eq!(answer.status, 421, "{method} {path} at {evil:?}");
            assert!(!answer.text().contains("evil"), "{}", answer.shown());
            if method != "HEAD" {
                answer.problem(421, "malformed");
            }
        }
    }
    let url = format!("https://evil.example.net:{port}{NEW_ORDER}");
    let body = client.signed(&url, &client.nonce().await, json!({}));
    let answer = client
        .send("POST", NEW_ORDER, &[("Host", "evil.example.net"), JOSE], &body)
        .await;
    answer.problem(421, "malformed");
    let forwarded = [
        ("X-Forwarded-Host", "evil.example.net"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "host=evil"),
    ];
    let answer = daemon
        .site
        .request("GET", "/acme/acme/directory", &forwarded, b"")
        .await;
    assert_eq!(answer.json()["newNonce"], daemon.site.url("new-nonce"));
    let other = [("Host", format!("{}:{port}", NAMES[1].to_uppercase()))];
    let other: Vec<(&str, &str)> = other
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let answer = daemon
        .site
        .request("GET", "/acme/acme/directory", &other, b"")
        .await;
    let expected = format!("https://{}:{port}/acme/acme/new-nonce", NAMES[1]);
    assert_eq!(
        answer.json()["newNonce"],
        expected,
        "the Host selects among the configured names"
    );
}

#[tokio::test]
async fn c109_a2_a3_a_method_that_a_resource_does_not_take_gets_405_and_allow() {
    let daemon = Daemon::start().await;
    for path in POSTS {
        let path = format!("/acme/acme/{path}");
        for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = daemon.site.request(method, &path, &[], b"").await;
            answer.problem(405, "malformed");
            assert_eq!(answer.header("allow"), Some("POST"), "{method} {path}");
            assert!(answer.link("index").is_some(), "A6");
        }
    }
    for (path, allow) in [("directory", "GET,HEAD,POST"), ("new-nonce", "GET,HEAD,POST")] {
        let answer = daemon
            .site
            .request("DELETE", &format!("/acme/acme/{path}"), &[], b"")
            .await;
        answer.problem(405, "malformed");
        assert_eq!(answer.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn c110_a4_a_post_with_another_content_type_gets_415() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let url = client.kid().to_owned();
    let types = [
        "application/json",
        "application/jose",
        "text/plain",
        "application/jose+json; charset=utf-8",
        "application/jose+json, text/plain",
        "APPLICATION/JOSE+JSON",
        "",
    ];
    for wrong in types
        .map(|name| vec![("Content-Type", name)])
        .into_iter()
        .chain([vec![]])
    {
        let body = client.signed(&url, &client.nonce().await, GET);
        let answer = client
            .send("POST", daemon.site.path_of(&url), &wrong, &body)
            .await;
        answer.acme().problem(415, "malformed");
    }
    client.post(&url, GET).await.expect(200);
}

#[tokio::test]
async fn c111_a3_paths_that_lead_nowhere_get_404_problem_documents() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let paths = [
        "/",
        "/acme",
        "/acme/",
        "/acme/acme",
        "/acme/acme/",
        "//acme//new-order",
        "/acme/acme/new-order/",
        "/acme//acme/new-order",
        "/acme/acme/%2e%2e/new-order",
        "/acme/acme/../acme/new-order",
        "/acme/nobody/new-order",
        "/acme/nobody/directory",
        "/ACME/acme/new-order",
        "/acme/acme/new%2dorder/x",
        "/acme/acme/order/a/b/c",
        "/metrics",
        "/acme/acme/renewal-info",
        "/acme/acme/renewal-info/x/y",
        "/acme/acme/new-authz",
    ];
    for path in paths {
        for method in ["GET", "POST"] {
            let answer = daemon.site.request(method, path, &[JOSE], b"").await;
            answer.problem(404, "malformed");
        }
    }
    for path in [
        "/acme/acme/order/%ff",
        "/acme/acme/account/%ff/orders",
        "/acme/%ff/directory",
    ] {
        let method = if path.ends_with("directory") {
            "GET"
        } else {
            "POST"
        };
        let answer = daemon.site.request(method, path, &[JOSE], b"").await;
        let status = answer.status;
        assert!(matches!(status, 400 | 404), "{path}: {}", answer.shown());
        answer.problem(status, "malformed");
    }
    for odd in ["?cursor=%ff", "?cursor", "?cursor=&cursor=", "?cursor=zz", "?%"] {
        let url = format!("{}/orders{odd}", client.kid());
        client.post(&url, GET).await.problem(404, "malformed");
    }
}

/// A `ClientHello` of the old version, just long enough to be one.
fn old_hello(version: u8) -> Vec<u8> {
    let mut hello = vec![3, version];
    hello.extend([7; 32]);
    // No session, two cipher suites of the time, no compression.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let handshake = [&[1, 0, 0, length], hello.as_slice()].concat();
    [&[22, 3, version.min(1), 0, length + 4], handshake.as_slice()].concat()
}

#[tokio::test]
async fn c112_old_tls_and_plain_http_are_turned_away() {
    let daemon = Daemon::start().await;
    let http = format!(
        "GET /acme/acme/directory HTTP/1.1\r\nHost: {}\r\n\r\n",
        daemon.site.authority()
    );
    let ssl_2 = vec![0x80, 0x2e, 1, 3, 0, 0, 0x15, 0, 0, 0, 0x10];
    let openings = [
        ("SSL 2", ssl_2),
        ("SSL 3", old_hello(0)),
        ("TLS 1.0", old_hello(1)),
        ("TLS 1.1", old_hello(2)),
        ("HTTP", http.into_bytes()),
        ("noise", vec![0xff; 300]),
    ];
    for (name, opening) in openings {
        let mut stream = TcpStream::connect(daemon.site.address).await.unwrap();
        stream.write_all(&opening).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ended = within(BOUND, stream.read_to_end(&mut answer)).await;
        assert!(
            answer.is_empty() || answer[0] == 21,
            "{name}: only an alert may come back: {answer:?}"
        );
    }
    daemon.site.get("/acme/acme/directory").await.expect(200);
}

#[tokio::test]
async fn c113_a_client_hello_in_records_of_one_byte_is_understood_or_ends_the_connection() {
    let daemon = Daemon::start().await;
    let site = daemon.site.clone();
    let talk = tokio::task::spawn_blocking(move || fragmented(&site));
    let answer = within(BOUND, talk).await.unwrap();
    if let Ok(answer) = answer {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    daemon.site.get("/acme/acme/directory").await.expect(200);
}

fn fragmented(site: &Site) -> std::io::Result<String> {
    let name = ServerName::try_from(NAMES[0]).unwrap();
    let mut tls = ClientConnection::new(Arc::new(site.tls(&["http/1.1"])), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello)?;
    let mut tcp = std::net::TcpStream::connect(site.address)?;
    tcp.set_read_timeout(Some(BOUND))?;
    for byte in &hello[5..] {
        tcp.write_all(&[22, 3, 1, 0, 1, *byte])?;
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.write_all(&site.head("GET", "/acme/acme/directory", &[("Connection", "close")], None))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn c114_http_2_is_not_spoken() {
    let daemon = Daemon::start().await;
    let both = daemon
        .site
        .connect_with(daemon.site.tls(&["h2", "http/1.1"]))
        .await
        .unwrap();
    assert_eq!(both.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    assert!(daemon.site.connect_with(daemon.site.tls(&["h2"])).await.is_err());
    let mut without = daemon.site.connect_with(daemon.site.tls(&[])).await.unwrap();
    without.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = within(BOUND, without.answer("PRI")).await;
    assert!(answer.is_none_or(|answer| answer.status >= 400));
}

#[tokio::test]
async fn c116_c5_of_1000_pipelined_requests_with_one_nonce_one_is_accepted() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let body = client.signed(client.kid(), &client.nonce().await, GET);
    let head = daemon.site.head(
        "POST",
        daemon.site.path_of(client.kid()),
        &[JOSE],
        Some(body.len()),
    );
    let request = [head, body].concat();
    let Connection {
        mut reader,
        mut writer,
        ..
    } = daemon.site.connect().await;
    let writing = tokio::spawn(async move {
        for _ in 0..1000 {
            writer.write_all(&request).await.unwrap();
        }
        writer.flush().await.unwrap();
        writer
    });
    let mut accepted = 0;
    for _ in 0..1000 {
        let answer = reader.next("POST").await.unwrap();
        match answer.acme().status {
            200 => accepted += 1,
            _ => drop(answer.problem(400, "badNonce")),
        }
    }
    drop(writing.await.unwrap());
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn c1_c117_new_nonce_answers_head_with_200_and_get_with_204_uncached_and_never_the_same() {
    let daemon = Daemon::start().await;
    let client = Client::stranger(&daemon.site);
    let mut seen = std::collections::HashSet::new();
    for round in 0..500 {
        let (method, status) = if round % 2 == 0 {
            ("HEAD", 200)
        } else {
            ("GET", 204)
        };
        let answer = client
            .send(method, "/acme/acme/new-nonce", &[], b"")
            .await
            .expect(status);
        assert!(answer.acme().body.is_empty());
        assert!(seen.insert(answer.nonce()), "a nonce came twice");
    }
}

#[tokio::test]
async fn c101_a13_two_hundred_slow_connections_are_closed_and_keep_nobody_waiting() {
    let daemon = Daemon::start().await;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let site = daemon.site.clone();
        slow.spawn(async move {
            let mut connection = site.connect().await;
            let opened = Instant::now();
            for byte in std::iter::repeat_n(b'a', 60) {
                if !connection.write(&[byte]).await {
                    break;
                }
                if timeout(Duration::from_millis(1500), connection.ends())
                    .await
                    .is_ok()
                {
                    break;
                }
            }
            opened.elapsed()
        });
    }
    let mut honest = 0;
    let client = daemon.account().await;
    while !slow.is_empty() {
        client.order(&["honest.example.com"]).await;
        honest += 1;
        sleep(Duration::from_millis(100)).await;
        while let Some(held) = slow.try_join_next() {
            let held = held.unwrap();
            assert!(held < BOUND, "a slow connection was kept for {held:?}");
        }
    }
    assert!(honest > 10, "an honest client got {honest} orders meanwhile");
}

#[tokio::test]
async fn a12_a10_bodies_that_are_no_json_get_400_and_a_client_without_a_name_is_served() {
    let daemon = Daemon::start().await;
    let client = Client::stranger(&daemon.site);
    let deep = "[".repeat(60_000);
    let wide = format!("[{}0]", "0,".repeat(30_000));
    let huge = format!("{{\"protected\":1{}}}", "0".repeat(400));
    for body in [
        b"".as_slice(),
        b"{}",
        b"\0",
        &[0xff; 100],
        deep.as_bytes(),
        wide.as_bytes(),
        huge.as_bytes(),
    ] {
        let answer = client.post_body(&daemon.site.url("new-account"), body).await;
        answer.acme().problem(400, "malformed");
    }
}
