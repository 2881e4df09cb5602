//! Behind a load balancer that says by version 2 of the PROXY protocol whose connection it is (SECURITY C101, C108): from
//! those who are named in the configuration a header is required, from others it is none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::client::Client;
use crate::harness::key::Key;
use crate::harness::metrics::figure;
use crate::harness::process::free_address;
use crate::harness::server::{Daemon, Plan};
use crate::harness::wire::{Connection, Site};
use crate::harness::world::World;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Longer than any deadline of the listener's, so that only a missing one is seen.
const BOUND: Duration = Duration::from_secs(40);

/// Less than an address is shut out for (`PENALTY` in `server/peers.rs`).
const BEFORE_PARDON: Duration = Duration::from_secs(8);

fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// Source, destination, and the ports 40000 and 443.
fn block(source: &str) -> Vec<u8> {
    let ports = [0x9c, 0x40, 0x01, 0xbb];
    match source.parse().unwrap() {
        IpAddr::V4(address) => [&address.octets(), [198, 51, 100, 1].as_slice(), &ports].concat(),
        IpAddr::V6(address) => [&address.octets(), [0x20; 16].as_slice(), &ports].concat(),
    }
}

/// What a balancer sends for a client at this address.
fn of(source: &str) -> Vec<u8> {
    let family = if source.contains(':') { TCP6 } else { TCP4 };
    header(PROXY, family, &block(source))
}

/// The daemon as seen through a balancer that sends these bytes first.
fn behind(daemon: &Daemon, header: Vec<u8>) -> Site {
    Site {
        header,
        ..daemon.site.clone()
    }
}

/// A daemon that this host is the load balancer of, and where its metrics are.
async fn daemon(limits: Value, policy: Value) -> (Daemon, SocketAddr) {
    daemon_of("127.0.0.1", limits, policy).await
}

async fn daemon_of(balancer: &str, limits: Value, policy: Value) -> (Daemon, SocketAddr) {
    let metrics = free_address();
    let more = json!({
        "metricsAddress": metrics.to_string(),
        "authority": { "config": { "proxy_protocol": { "from": [balancer] } } },
    });
    let plan = Plan {
        limits: Some(limits),
        policy: Some(policy),
        more: Some(more),
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, metrics)
}

/// Limits that count addresses, and nothing else.
fn limits(key: &str, limit: u32) -> Value {
    let mut limits = json!({ "bad_requests_per_address_per_minute": 0 });
    limits[key] = limit.into();
    limits
}

/// Whether a client behind this header is served.
async fn is_served(site: &Site) -> Option<Connection> {
    let mut connection = site.connect_with(site.tls(&["http/1.1"])).await.ok()?;
    connection
        .write(&site.head("GET", "/acme/acme/directory", &[], None))
        .await;
    connection.answer("GET").await?.expect(200);
    Some(connection)
}

/// Sends the bytes, and waits for the end of the connection, before which nothing must come.
async fn is_closed_unanswered(mut stream: TcpStream, bytes: &[u8]) {
    // The daemon may have had enough before the end.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(BOUND, stream.read_to_end(&mut answer)).await;
    ended.expect("the daemon has a deadline for this").ok();
    assert_eq!(answer, b"", "{bytes:?} was answered");
}

/// Sends the bytes and nothing else, and waits until the daemon has closed the connection.
async fn leaves_at_once(daemon: &Daemon, bytes: &[u8]) {
    let mut stream = TcpStream::connect(daemon.site.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(BOUND, stream.read_to_end(&mut answer)).await;
    ended.expect("the daemon has a deadline for this").ok();
}

async fn refused(metrics: SocketAddr, reason: &str) -> f64 {
    let series = format!("acme_proxy_proxy_headers_refused_total{{reason=\"{reason}\"}}");
    figure(metrics, &series).await.unwrap()
}

#[tokio::test]
async fn c101_connections_count_for_the_client_that_the_header_names() {
    let (daemon, _) = daemon(limits("connections_per_address", 2), json!({})).await;
    for (client, same, other) in [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
    ] {
        let first = is_served(&behind(&daemon, of(client))).await;
        let second = is_served(&behind(&daemon, of(same))).await;
        assert!(first.is_some() && second.is_some());
        assert!(
            is_served(&behind(&daemon, of(client))).await.is_none(),
            "{client} has two"
        );
        assert!(is_served(&behind(&daemon, of(other))).await.is_some());
    }
}

#[tokio::test]
async fn c108_limits_and_rules_are_by_the_address_in_the_header() {
    let policy = json!({ "clients": { "allow": ["192.0.2.0/24"] } });
    let (daemon, _) = daemon(limits("accounts_per_address_per_hour", 1), policy).await;
    let registers = async |address: &str| {
        let stranger = Client::stranger(&behind(&daemon, of(address)));
        let url = daemon.site.url("new-account");
        stranger.post(&url, json!({})).await
    };
    registers("192.0.2.1").await.expect(201);
    registers("192.0.2.1").await.problem(429, "rateLimited");
    registers("192.0.2.2").await.expect(201);
    registers("198.51.100.1").await.problem(403, "unauthorized");
    registers("2001:db8::1").await.problem(403, "unauthorized");

    // What a client says itself is not looked at.
    let client = Client::register(&behind(&daemon, of("192.0.2.3")), Key::new()).await;
    let site = behind(&daemon, of("198.51.100.1"));
    let elsewhere = Client::new(&site, client.key.clone(), client.kid.clone());
    let refusal = elsewhere.ask_order(&["www.example.com"]).await;
    refusal.problem(403, "unauthorized");
    client.ask_order(&["www.example.com"]).await.expect(201);
}

#[tokio::test]
async fn what_follows_the_addresses_is_passed_over_and_a_header_may_come_in_pieces() {
    let (daemon, _) = daemon(limits("connections_per_address", 1), json!({})).await;
    // A checksum that is wrong, the name of a host, and as much padding as fits.
    let mut long = [block("192.0.2.1").as_slice(), b"\x03\0\x04\0\0\0\0\x02\0\x03abc"].concat();
    long.resize(536 - 16, 0);
    let site = behind(&daemon, header(PROXY, TCP4, &long));
    let held = is_served(&site).await;
    assert!(held.is_some());
    assert!(
        is_served(&behind(&daemon, of("192.0.2.1"))).await.is_none(),
        "it was 192.0.2.1"
    );

    let mut stream = TcpStream::connect(daemon.site.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in of("192.0.2.2") {
        stream.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let name = crate::harness::wire::NAMES[0].try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(daemon.site.tls(&["http/1.1"])));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = daemon.site.head("GET", "/acme/acme/directory", &[], None);
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    assert!(is_served(&behind(&daemon, of("192.0.2.2"))).await.is_none());
}

#[tokio::test]
async fn a_balancers_own_connections_are_its_own_and_its_checks_are_no_bad_requests() {
    let limits = json!({ "bad_requests_per_address_per_minute": 3, "connections_per_address": 2 });
    let (daemon, _) = daemon(limits, json!({})).await;
    for block in [b"".as_slice(), &block("192.0.2.1"), b"dummy"] {
        for _ in 0..3 {
            leaves_at_once(&daemon, &header(LOCAL, TCP4, block)).await;
        }
    }
    let own = behind(&daemon, header(LOCAL, UNSPEC, b""));
    let mut held = Vec::new();
    let both = async {
        while held.len() < 2 {
            // Those of before may not have ended yet.
            held.extend(is_served(&own).await);
        }
    };
    let both = timeout(BEFORE_PARDON, both).await;
    both.expect("the balancer is shut out");
    assert!(is_served(&own).await.is_none(), "it has two of its own");
    assert!(is_served(&behind(&daemon, of("192.0.2.1"))).await.is_some());

    // A client that does the same is not heard any more, and nobody else suffers.
    for _ in 0..3 {
        leaves_at_once(&daemon, &of("192.0.2.9")).await;
    }
    let gone = async {
        while is_served(&behind(&daemon, of("192.0.2.9"))).await.is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = timeout(BEFORE_PARDON, gone).await;
    gone.expect("connections that bring nothing count");
    assert!(is_served(&behind(&daemon, of("192.0.2.1"))).await.is_some());
}

#[tokio::test]
async fn a_balancer_that_does_not_say_whose_a_connection_is_is_refused_and_each_reason_is_counted() {
    let (daemon, metrics) = daemon(limits("connections", 0), json!({})).await;
    let mut long = block("192.0.2.1");
    long.resize(536 - 16 + 1, 0);
    let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n".to_vec();
    let cases = [
        ("version_1", vec![v1, b"PROXY UNKNOWN\r\n".to_vec()]),
        (
            "malformed",
            vec![
                b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaa".to_vec(),
                b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                header(0x22, TCP4, &block("192.0.2.1")),
                header(0x11, TCP4, &block("192.0.2.1")),
                header(PROXY, 0x41, &block("192.0.2.1")),
                header(PROXY, TCP4, b"192.0.2.1"),
            ],
        ),
        (
            "too_long",
            vec![header(PROXY, TCP4, &long), header(LOCAL, UNSPEC, &long)],
        ),
        (
            "no_address",
            vec![
                header(PROXY, UNSPEC, b""),
                header(PROXY, 0x12, &block("192.0.2.1")),
                header(PROXY, 0x31, &[0; 216]),
            ],
        ),
    ];
    for (reason, cases) in cases {
        assert!(refused(metrics, reason).await.abs() < 0.5, "{reason}");
        for bytes in &cases {
            // The rest of a short one never comes.
            let bytes = [bytes.as_slice(), &[b'\n'; 16]].concat();
            let stream = TcpStream::connect(daemon.site.address).await.unwrap();
            is_closed_unanswered(stream, &bytes).await;
        }
        let counted = refused(metrics, reason).await;
        assert!(
            (counted - cases.len() as f64).abs() < 0.5,
            "{reason} was counted {counted} times"
        );
    }
    assert!(
        daemon
            .site
            .connect_with(daemon.site.tls(&["http/1.1"]))
            .await
            .is_err(),
        "TLS without a header"
    );
    assert!(is_served(&behind(&daemon, of("192.0.2.1"))).await.is_some());
}

#[tokio::test]
async fn c1_a_header_that_never_comes_whole_is_not_waited_for_for_long() {
    let (daemon, metrics) = daemon(limits("connections", 0), json!({})).await;
    let waits = async |bytes: &[u8]| {
        let stream = TcpStream::connect(daemon.site.address).await.unwrap();
        is_closed_unanswered(stream, bytes).await;
    };
    let whole = of("192.0.2.1");
    tokio::join!(waits(b""), waits(&whole[..12]), waits(&whole[..20]));
    // Those who leave by themselves: a check that only opens a connection.
    for sent in [0, 12, 20] {
        leaves_at_once(&daemon, &whole[..sent]).await;
    }
    let counted = refused(metrics, "incomplete").await;
    assert!((counted - 6.0).abs() < 0.5, "counted {counted} times");
}

#[tokio::test]
async fn c108_from_others_a_header_is_no_header() {
    let (daemon, metrics) = daemon_of("127.0.0.2", limits("connections_per_address", 1), json!({})).await;
    let held = is_served(&daemon.site).await;
    assert!(held.is_some(), "no header is wanted of others");
    drop(held);
    assert!(is_served(&behind(&daemon, of("192.0.2.1"))).await.is_none());
    for reason in ["malformed", "incomplete", "no_address"] {
        assert!(refused(metrics, reason).await.abs() < 0.5, "{reason}");
    }
    // The same host is believed from the address that is named.
    let balancer = Site {
        from: Some(Ipv4Addr::new(127, 0, 0, 2)),
        ..behind(&daemon, of("192.0.2.1"))
    };
    assert!(is_served(&balancer).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_who_is_a_balancer_from_the_next_connection_on() {
    let world = World::new().await;
    let installation = &world.installation;
    let mut daemon = installation.start();
    daemon.is_well().await;
    let plain = Site {
        address: installation.address,
        root: CertificateDer::from_pem_slice(world.ca.root_pem.as_bytes()).unwrap(),
        from: None,
        header: Vec::new(),
    };
    let balanced = Site {
        header: of("192.0.2.1"),
        ..plain.clone()
    };
    let mut open = is_served(&plain).await.unwrap();
    assert!(is_served(&balanced).await.is_none());
    installation.edit(|config| {
        config["authority"]["config"]["proxy_protocol"] = json!({"from": ["127.0.0.0/8"]});
    });
    daemon.hang_up();
    installation.says("configuration reloaded", 1).await;
    assert!(is_served(&balanced).await.is_some());
    assert!(is_served(&plain).await.is_none());
    open.write(&plain.head("GET", "/acme/acme/directory", &[], None))
        .await;
    open.answer("GET").await.unwrap().expect(200);
    let says = "level=warning msg=\"a connection is closed: there is no PROXY header of version 2";
    installation.says(says, 1).await;
    assert!(
        installation.log().contains(" from=127.0.0.1"),
        "{}",
        installation.log()
    );
    daemon.stop().await;
}
