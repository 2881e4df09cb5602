//! The daemon's own certificate comes from the CA like any other: bought once, kept over restarts, renewed in time, and
//! waited for while the CA is away (SECURITY F14, F32, CONFORMANCE N4, N5).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use acme_proxy::clock::Clock;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use instant_acme::{Account, Identifier, NewAccount, NewOrder, OrderStatus};
use rcgen::{CertificateParams, KeyPair};
use reqwest::tls::TlsInfo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::ca::{Options, Window};
use crate::harness::instant::InstantHttp;
use crate::harness::key::unb64;
use crate::harness::metrics;
use crate::harness::process::{Daemon, Installation, NAME, PATIENCE, free_address};
use crate::harness::server::{self, Plan};
use crate::harness::world::World;

/// Gets `/health` on a connection of its own, and the certificate that came with it.
async fn health_and_leaf(installation: &Installation) -> (Value, Vec<u8>) {
    let client = installation.trusting_client();
    let answer = client.get(health_url(installation)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let info: &TlsInfo = answer.extensions().get().unwrap();
    let leaf = info.peer_certificate().unwrap().to_vec();
    (
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(),
        leaf,
    )
}

fn health_url(installation: &Installation) -> String {
    format!("https://{NAME}:{}/health", installation.address.port())
}

/// First and last second of the certificate's validity, Unix time.
fn validity(leaf: &[u8]) -> (i64, i64) {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    (
        leaf.validity().not_before.timestamp(),
        leaf.validity().not_after.timestamp(),
    )
}

fn modes(path: &Path, found: &mut BTreeSet<(String, u32)>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let kind = if metadata.is_dir() { "directory" } else { "file" };
        found.insert((kind.to_owned(), metadata.permissions().mode() & 0o7777));
        if metadata.is_dir() {
            modes(&entry.path(), found);
        }
    }
}

#[tokio::test]
async fn it_is_bought_once_and_served_again_after_every_restart() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let (health, bought) = health_and_leaf(&world.installation).await;
    assert_eq!(health["status"], "ok");
    for _ in 0..5 {
        daemon.stop().await;
        daemon = world.installation.start();
        // The first client that is let in sees it, and not the stand-in.
        while TcpStream::connect(world.installation.address).await.is_err() {
            sleep(Duration::from_millis(2)).await;
        }
        let (_, leaf) = health_and_leaf(&world.installation).await;
        assert!(leaf == bought, "another certificate after a restart");
        daemon.is_well().await;
    }
    assert_eq!(world.orders_for(&[NAME]), 1);
    let answer = world
        .installation
        .client()
        .get(health_url(&world.installation))
        .send()
        .await;
    assert_eq!(
        answer.unwrap().status(),
        200,
        "a client that trusts the CA trusts the daemon"
    );

    let store = world.installation.store();
    let mode = std::fs::metadata(&store).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700, "the store's directory");
    let mut found = BTreeSet::new();
    modes(&store, &mut found);
    let private = BTreeSet::from([("directory".to_owned(), 0o700), ("file".to_owned(), 0o600)]);
    assert!(found.is_subset(&private) && !found.is_empty(), "{found:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn f32_it_is_renewed_at_two_thirds_of_its_life_without_breaking_an_open_connection() {
    const LIFE: i64 = 15;
    let world = World::with(Duration::ZERO, |options| {
        options.life = Some(Duration::from_secs(15))
    });
    let world = world.await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let (_, first) = health_and_leaf(&world.installation).await;
    let (from, to) = validity(&first);
    assert_eq!(to - from, LIFE);

    let address = world.installation.address;
    let mut kept = KeptConnection::open(&world.installation).await;
    let renewed = timeout(PATIENCE, async {
        loop {
            kept.get_health().await;
            let (_, leaf) = health_and_leaf(&world.installation).await;
            if leaf != first {
                return leaf;
            }
            sleep(Duration::from_millis(250)).await;
        }
    });
    let renewed = renewed.await.expect("it is not renewed");
    kept.get_health().await;
    assert!(daemon.runs(), "{address}");
    let (renewed_from, _) = validity(&renewed);
    assert!(
        renewed_from >= from + LIFE * 2 / 3,
        "renewed too early: {renewed_from} after {from}"
    );
    assert!(
        renewed_from <= to,
        "renewed too late: {renewed_from}, when the first ended at {to}"
    );
    daemon.stop().await;
}

/// One connection, and nothing that would open another in its place.
struct KeptConnection {
    sender: SendRequest<Empty<Bytes>>,
}

impl KeptConnection {
    async fn open(installation: &Installation) -> Self {
        let stream = installation.connect().await;
        let stream = TokioIo::new(stream);
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(async move { connection.await.ok() });
        Self { sender }
    }

    async fn get_health(&mut self) {
        let request = http::Request::get("/health").header("host", NAME);
        let request = request.body(Empty::new()).unwrap();
        self.sender.ready().await.expect("the open connection was broken");
        let answer = self
            .sender
            .send_request(request)
            .await
            .expect("the open connection was broken");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn f14_with_the_ca_down_the_daemon_serves_says_what_is_missing_and_gets_well_by_itself() {
    let world = World::new().await;
    world.storm.goes_down();
    let mut daemon = world.installation.start();
    daemon.serves().await;
    let missing = what_is_missing(&world, &daemon).await;
    for part in ["upstream account", "own certificate"] {
        assert!(
            missing[part].as_str().is_some_and(|text| !text.is_empty()),
            "{part}: {missing}"
        );
    }

    let http = world.installation.trusting_client();
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, _) = Account::builder_with_http(Box::new(InstantHttp(http)))
        .create(&newcomer, world.installation.directory_url(), None)
        .await
        .expect("directory and new-account are served");
    let identifiers = [Identifier::Dns("www.test.example.com".to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Pending);

    world.storm.comes_up();
    daemon.is_well().await;
    let (health, _) = health_and_leaf(&world.installation).await;
    assert_eq!(health["status"], "ok");
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    assert_eq!(world.orders_for(&[NAME]), 1);
    daemon.stop().await;
}

/// What both listeners say, which must be the same.
async fn what_is_missing(world: &World, daemon: &Daemon) -> Value {
    let told = async {
        loop {
            let (public, _) = health_and_leaf(&world.installation).await;
            let operators = daemon.health().await.unwrap();
            let complete = public["missing"]
                .as_object()
                .is_some_and(|missing| missing.len() == 2);
            // The reasons change while it tries.
            if complete && public == operators {
                assert_eq!(public["status"], "degraded");
                return public["missing"].clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, told)
        .await
        .expect("/health does not say what is missing")
}

#[tokio::test]
async fn a_ca_that_refuses_it_is_not_asked_again_by_restarts() {
    let world = World::new().await;
    world.storm.refuse("finalize", 403, "rejectedIdentifier");
    restart_without_certificate(&world, "was not issued").await;
    let stats = world.ca.stats();
    assert_eq!(stats.orders_opened, 1, "a restart asked for another certificate");
}

#[tokio::test]
async fn a_ca_that_fails_keeps_the_one_order_over_restarts() {
    let world = World::new().await;
    world.storm.refuse("finalize", 500, "serverInternal");
    restart_without_certificate(&world, "will try again").await;
    let stats = world.ca.stats();
    assert_eq!(stats.orders_opened, 1, "a restart opened another order");
}

/// Starts the daemon six times; each time it has the time to ask, and gets no certificate.
async fn restart_without_certificate(world: &World, what_it_says: &str) {
    for _ in 0..6 {
        let mut daemon = world.installation.start();
        daemon.serves().await;
        let opened = async {
            while world.ca.stats().orders_opened == 0 || !world.installation.log().contains(what_it_says) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let opened = timeout(PATIENCE, opened).await;
        opened.unwrap_or_else(|_| panic!("it does not ask:\n{}", world.installation.log()));
        // As long as it takes to look after the certificate once or twice.
        sleep(Duration::from_millis(1500)).await;
        let health = daemon.health().await.unwrap();
        assert!(health["missing"]["own certificate"].is_string(), "{health}");
        assert!(health["missing"]["upstream account"].is_null(), "{health}");
        daemon.stop().await;
    }
}

/// A certificate for the daemon and its key as files, valid between these years.
fn write_files(installation: &Installation, from: i32, to: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let (certificate_pem, key_pem) = (installation.path("cert.pem"), installation.path("key.pem"));
    std::fs::write(&certificate_pem, certificate.pem()).unwrap();
    std::fs::write(&key_pem, key.serialize_pem()).unwrap();
    installation.edit(|file| {
        file["tls"]["certificate"] = certificate_pem.to_str().unwrap().into();
        file["tls"]["key"] = key_pem.to_str().unwrap().into();
    });
}

/// When the certificate ends by the metrics, Unix time, and in how many days; once it has been looked at.
async fn end_shown(daemon: &Daemon) -> (f64, f64) {
    let read = |page: &str, series: &str| -> Option<f64> {
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line?.trim().parse().ok()
    };
    let shown = timeout(PATIENCE, async {
        loop {
            let page = daemon.page("/metrics").await.unwrap();
            let end = read(&page, "acme_proxy_own_certificate_expiry_timestamp_seconds ");
            let days = read(&page, "acme_proxy_own_certificate_days_left ");
            match (end, days) {
                (Some(end), Some(days)) if end > 0.0 => return (end, days),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    shown.await.expect("the end of the certificate is not shown")
}

#[tokio::test]
async fn f32_the_end_of_one_from_files_is_shown_and_an_expired_one_is_missing() {
    const YEAR_2020: f64 = 1_577_836_800.0;
    const YEAR_2100: f64 = 4_102_444_800.0;
    let world = World::new().await;
    write_files(&world.installation, 2020, 2100);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let (end, days) = end_shown(&daemon).await;
    assert_eq!(end, YEAR_2100);
    let life = (YEAR_2100 - YEAR_2020) / 86_400.0;
    assert!((1.0..life).contains(&days), "{days} of {life}");
    daemon.stop().await;

    write_files(&world.installation, 2019, 2020);
    let mut daemon = world.installation.start();
    daemon.serves().await;
    assert_eq!(end_shown(&daemon).await, (YEAR_2020, 0.0));
    let missing = daemon.health().await.unwrap()["missing"]["own certificate"].take();
    let missing = missing.as_str().unwrap_or_default();
    assert!(missing.contains("tls.certificate has expired"), "{missing}");
    assert_eq!(world.ca.stats().orders_opened, 0, "one was bought");
    daemon.stop().await;
}

const HOUR: Duration = Duration::from_secs(3600);

/// A daemon in this process that buys its own certificate, with a clock that the test moves. The CA wants every
/// certificate renewed in the second day after the start.
struct Advised {
    daemon: server::Daemon,
    clock: Clock,
    metrics: SocketAddr,
}

impl Advised {
    /// One that has its certificate, and knows when to renew it.
    async fn start() -> Self {
        let now = Clock::system().now();
        let (clock, metrics) = (Clock::by_hand(now), free_address());
        let plan = Plan {
            clock: clock.clone(),
            ca: Options {
                renewal_info: true,
                ..Options::default()
            },
            more: Some(json!({
                "tls": null,
                "metricsAddress": metrics.to_string(),
                "authority": { "config": { "issuance": { "deadline": "1m" } } },
            })),
            ..Plan::default()
        };
        let daemon = server::Daemon::start_with(plan).await;
        daemon.ca.suggests(Window {
            start: now + 36 * HOUR,
            end: now + 37 * HOUR,
            explanation: None,
        });
        let advised = Self {
            daemon,
            clock,
            metrics,
        };
        let is_known = async || advised.daemon.ca.asked(Step::RenewalInfo) >= 1;
        advised
            .until("its window is known", Duration::ZERO, is_known)
            .await;
        advised
    }

    /// Waits until something holds, with so much of the daemon's time between two looks.
    async fn until(&self, what: &str, pace: Duration, mut holds: impl AsyncFnMut() -> bool) {
        let waiting = async {
            while !holds().await {
                self.clock.advance(pace);
                sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "waited for long until {what}");
    }

    /// Lets time pass, and waits until the CA has been asked so often about renewals.
    async fn after(&self, pass: Duration, asked: usize) {
        self.clock.advance(pass);
        let is_asked = async || self.daemon.ca.asked(Step::RenewalInfo) >= asked;
        self.until("the CA is asked", Duration::ZERO, is_asked).await;
    }

    /// The serial numbers of the certificates that have been issued.
    fn issued(&self) -> BTreeSet<String> {
        self.daemon.ca.stats().certificates.into_iter().collect()
    }

    /// The serial number of the certificate that each order at the CA replaces.
    fn replaced(&self) -> Vec<Option<String>> {
        let serial = |named: String| {
            let (_, serial) = named.split_once('.').unwrap();
            unb64(serial).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let orders = self.daemon.ca.stats().orders.into_iter();
        orders.map(|order| order.terms.replaces.map(serial)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_n5_it_is_renewed_when_the_ca_says_replaces_the_one_before_and_is_bought_once_a_day_at_most() {
    let advised = Advised::start().await;
    let first = advised.issued();
    // The CA is asked about every certificate, and the window of each but the first is over when it comes.
    advised.after(48 * HOUR, 3).await;
    let both = advised.issued();
    advised.after(23 * HOUR, 5).await;
    assert_eq!(advised.issued(), both, "it is a day old at least");
    advised.after(HOUR, 6).await;
    let second = both.difference(&first).next();
    assert_eq!(
        advised.replaced(),
        [None, first.first().cloned(), second.cloned()]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_a_renewal_that_came_to_nothing_does_not_keep_the_next_one_from_replacing_the_certificate() {
    let advised = Advised::start().await;
    let first = advised.issued().pop_first();
    let refused = Problem::new(403, "rejectedIdentifier", "not today");
    let paused = Problem::new(429, "rateLimited", "not now").after("3600");
    for problem in [refused, paused] {
        let ca = &advised.daemon.ca;
        ca.will(Step::NewOrder, Times::Next(1), Twist::Refuse(problem));
    }
    advised.clock.advance(48 * HOUR);
    let pace = Duration::from_secs(10);
    let has_failed = async || advised.daemon.ca.asked(Step::NewOrder) >= 3;
    advised
        .until("it is refused, and then told to wait", pace, has_failed)
        .await;
    // The one that waits ends by its time alone: nothing is done at the CA for an hour.
    let is_asked_again = async || {
        let jobs = metrics::figure(advised.metrics, "acme_proxy_jobs_waiting{kind=\"issue\"}").await;
        jobs.is_some_and(|jobs| jobs > 1.0)
    };
    advised.until("it is asked for again", pace, is_asked_again).await;
    advised.clock.advance(HOUR);
    let is_renewed = async || advised.issued().len() == 2;
    advised.until("it is renewed", pace, is_renewed).await;
    assert_eq!(advised.replaced(), [None, first]);
}
