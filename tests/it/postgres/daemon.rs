//! Daemons on one database: what one has begun another one ends, and nothing is bought twice.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::clock::Clock;
use jiff::SignedDuration;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::client::{Client, GET, Order};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::metrics::{figure, page};
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{Installation, NAME, PATIENCE, free_address};
use crate::harness::server::{self, Plan};
use crate::harness::storm::Moment;
use crate::harness::wire::Site;
use crate::harness::world::World;
use crate::postgres::server::{Network, PASSWORD, SECRET, USER};

/// Has the installation keep its records in this database.
pub(crate) fn keep_in(installation: &Installation, url: &str) {
    std::fs::write(installation.path("secret"), SECRET).unwrap();
    installation.edit(|config| {
        config["db"] = json!({
            "type": "postgresql",
            "dataSource": url,
            "secret": format!("file:{}", installation.path("secret").display()),
            "pool": 8,
            "socket_directory": installation.path("run"),
        });
    });
}

/// The way to a daemon whose certificate is the CA's.
pub(crate) fn site(world: &World, installation: &Installation) -> Site {
    Site {
        address: installation.address,
        root: CertificateDer::from_pem_slice(world.ca.root_pem.as_bytes()).unwrap(),
        from: None,
        header: Vec::new(),
    }
}

/// Has the authorization's challenge answered.
pub(crate) async fn prove(world: &World, client: &Client, authorization: &str) {
    let (url, token) = client.challenge(authorization).await;
    world.web.publish(&token, &client.key_authorization(&token));
    client.post(&url, json!({})).await.expect(200);
}

/// The certificate that the daemon shows.
async fn leaf(installation: &Installation) -> Vec<u8> {
    let connection = installation.connect().await;
    connection.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// An order for these names that the daemon has the CSR of.
pub(crate) async fn finalized(world: &World, names: &[&str]) -> (Client, Order) {
    let client = Client::register(&site(world, &world.installation), Key::new()).await;
    let order = Order::of(&client.ask_order(names).await.expect(201));
    for authorization in &order.authorizations {
        prove(world, &client, authorization).await;
    }
    client.until(&order.url, "ready").await;
    let csr = csr::plain(&Key::new(), names);
    client.finalize(&order, &csr).await.expect(200);
    (client, order)
}

/// Waits until a fault of the database is counted.
pub(crate) async fn until_counted(installation: &Installation, fault: &str) {
    let series = format!("acme_proxy_store_faults_total{{fault=\"{fault}\"}}");
    let counted = timeout(PATIENCE, async {
        while figure(installation.metrics, &series).await.unwrap_or_default() == 0.0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let counted = counted.await;
    assert!(counted.is_ok(), "{fault} is not counted:\n{}", installation.log());
}

/// Waits until `/readyz` has this status, and these words about the store.
pub(crate) async fn until_ready_is(installation: &Installation, wanted: u16, words: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/readyz", installation.metrics);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let answer = client.get(&url).send().await.unwrap();
        let status = answer.status();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        if status == wanted && body["checks"]["store"].as_str().unwrap().contains(words) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("/readyz is not {wanted}:\n{}", installation.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_the_ca_is_asked_by_one_replica_at_a_time_when_to_renew_a_certificate_however_long_it_takes() {
    let world = World::with(Duration::ZERO, |options| options.renewal_info = true).await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let another = world.another();
    world.ca.will(Step::RenewalInfo, Times::Always, Twist::Silence);
    let mut daemons = Vec::new();
    for installation in [&world.installation, &another] {
        keep_in(installation, &database);
        daemons.push(installation.start());
    }
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    let is_asked = async |times| {
        let asked = timeout(PATIENCE, async {
            while world.ca.asked(Step::RenewalInfo) < times {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(asked.await.is_ok(), "not {times} times");
    };
    let (client, order) = finalized(&world, &["www.test.example.com"]).await;
    client.until(&order.url, "valid").await;
    is_asked(1).await;
    // Time for the other one, which looks every second.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.ca.asked(Step::RenewalInfo), 1);
    let (client, order) = finalized(&world, &["next.test.example.com"]).await;
    client.until(&order.url, "valid").await;
    // The turn is given back.
    is_asked(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_f44_two_replicas_behave_as_one_server() {
    let world = World::new().await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let first = &world.installation;
    let mut second = world.another();
    // Behind a load balancer both go by the same URL.
    second.address = (Ipv4Addr::new(127, 0, 0, 2), first.address.port()).into();
    second.edit(|config| config["address"] = second.address.to_string().into());
    for installation in [first, &second] {
        keep_in(installation, &database);
    }
    let mut daemons = [first.start(), second.start()];
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    // One account, one own certificate, which both serve.
    assert_eq!(world.ca.stats().eab_uses, 1);
    assert_eq!((world.orders_for(&[NAME]), world.finalizes_for(&[NAME])), (1, 1));
    assert_eq!(leaf(first).await, leaf(&second).await);
    // A nonce of one is good at the other, once.
    let a = Client::register(&site(&world, first), Key::new()).await;
    let b = Client::new(&site(&world, &second), Arc::clone(&a.key), a.kid.clone());
    let nonce = a.nonce().await;
    let signed = b.signed(b.kid(), &nonce, GET);
    b.post_body(b.kid(), &signed).await.expect(200);
    for replay in [&a, &b] {
        let answer = replay.post_body(a.kid(), &signed).await.expect(400);
        assert_eq!(answer.json()["type"], "urn:ietf:params:acme:error:badNonce");
    }
    // Each step at another one.
    let names = ["one.example.com", "two.example.com"];
    let order = Order::of(&a.ask_order(&names).await.expect(201));
    prove(&world, &b, &order.authorizations[0]).await;
    prove(&world, &a, &order.authorizations[1]).await;
    b.until(&order.url, "ready").await;
    let request = json!({ "csr": b64(csr::plain(&Key::new(), &names)) });
    a.post(&order.finalize, request).await.expect(200);
    let valid = b.until(&order.url, "valid").await;
    assert_eq!(a.chain(&valid).await, b.chain(&valid).await);
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    for daemon in daemons {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_many_replicas_that_start_at_once_buy_one_certificate_of_their_own() {
    let world = World::new().await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let others: Vec<_> = (0..7).map(|_| world.another()).collect();
    let mut daemons = Vec::new();
    for installation in others.iter().chain([&world.installation]) {
        keep_in(installation, &database);
        daemons.push(installation.start());
    }
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    assert_eq!((world.orders_for(&[NAME]), world.finalizes_for(&[NAME])), (1, 1));
    assert_eq!(world.ca.stats().eab_uses, 1);
    for daemon in daemons {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_one_replica_renews_their_own_certificate_and_all_serve_the_new_one() {
    let life = Duration::from_secs(60);
    let world = World::with(Duration::ZERO, |options| options.life = Some(life)).await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let others: Vec<_> = (0..2).map(|_| world.another()).collect();
    let replicas: Vec<_> = others.iter().chain([&world.installation]).collect();
    let mut daemons = Vec::new();
    for installation in &replicas {
        keep_in(installation, &database);
        daemons.push(installation.start());
    }
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    let first = leaf(replicas[0]).await;
    for replica in &replicas {
        assert_eq!(leaf(replica).await, first);
    }
    // It is renewed at two thirds of its life.
    let deadline = Instant::now() + PATIENCE;
    let mut renewed = Vec::new();
    for replica in &replicas {
        while leaf(replica).await == first {
            assert!(Instant::now() < deadline, "{}", replica.log());
            sleep(Duration::from_millis(200)).await;
        }
        renewed.push(leaf(replica).await);
    }
    assert!(renewed.iter().all(|leaf| *leaf == renewed[0]));
    assert_eq!((world.orders_for(&[NAME]), world.finalizes_for(&[NAME])), (2, 2));
    for daemon in daemons {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_while_the_database_is_away_clients_are_told_to_come_back_and_then_everything_goes_on() {
    let processing = Duration::from_secs(2);
    let world = World::with(Duration::ZERO, |options| options.processing = processing).await;
    let mut server = Postgres::start(&[]).unwrap();
    let database = server.database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let names = ["patient.example.com"];
    let (client, order) = finalized(&world, &names).await;
    server.stop().unwrap();
    let answer = client.try_post(&order.url, GET).await.expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(
        !answer.text().contains("PGSQL"),
        "where the database is, is nobody's business: {answer:?}"
    );
    until_ready_is(&world.installation, 503, "nothing listens there").await;
    assert!(daemon.runs());
    server.resume().unwrap();
    until_ready_is(&world.installation, 200, "ok").await;
    until_counted(&world.installation, "refused").await;
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_the_order_that_the_ca_has_opened_is_kept_although_the_password_is_changed_at_that_moment() {
    let world = Arc::new(World::new().await);
    let network = Network::start(&[]).await;
    keep_in(&world.installation, &network.url("sslmode=disable"));
    let password = world.installation.path("password");
    std::fs::write(&password, PASSWORD).unwrap();
    world
        .installation
        .edit(|config| config["db"]["password"] = format!("file:{}", password.display()).into());
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    world.storm.stop(Moment::Done, "new-order");
    let names = ["patient.example.com"];
    let (client, order) = finalized(&world, &names).await;
    world.storm.has_caught_one().await;
    let change = |password: &str| format!("ALTER ROLE {USER} PASSWORD '{password}'");
    network.sql(&change("another")).await;
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'");
    network.sql(&end).await;
    world.storm.let_go();
    until_counted(&world.installation, "password").await;
    until_ready_is(&world.installation, 503, "the password is wrong").await;
    network.sql(&change(PASSWORD)).await;
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    daemon.stop().await;
    // So does a start.
    network.sql(&change("another")).await;
    let mut daemon = world.installation.start();
    world.installation.says("the start goes on trying", 1).await;
    until_ready_is(&world.installation, 503, "the password is wrong").await;
    network.sql(&change(PASSWORD)).await;
    daemon.is_well().await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_daemon_that_starts_before_its_database_waits_for_it() {
    let world = World::new().await;
    let mut server = Postgres::start(&[]).unwrap();
    let database = server.database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    server.stop().unwrap();
    let mut daemon = world.installation.start();
    world.installation.says("the start goes on trying", 1).await;
    assert!(daemon.runs());
    server.resume().unwrap();
    daemon.is_well().await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_sigterm_ends_a_start_that_waits_for_its_database_well() {
    let world = World::new().await;
    let mut server = Postgres::start(&[]).unwrap();
    let database = server.database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    server.stop().unwrap();
    let daemon = world.installation.start();
    world.installation.says("the start goes on trying", 1).await;
    daemon.terminate();
    assert_eq!(
        daemon.ended().await.code(),
        Some(0),
        "{}",
        world.installation.log()
    );
    world
        .installation
        .says("told to end before the start was over", 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_f42_when_a_standby_takes_over_everything_goes_on_there_and_nothing_is_lost_or_done_twice() {
    let processing = Duration::from_secs(2);
    let world = World::with(Duration::ZERO, |options| options.processing = processing).await;
    let mut primary = Postgres::start(&[]).unwrap();
    let database = primary.database().await.unwrap();
    let standby = primary.standby(&[]).unwrap();
    let superuser = postgres::client(&database).await.unwrap();
    superuser
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await
        .unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let hosts =
        [&primary, &standby].map(|server| server.directory().display().to_string().replace('/', "%2F"));
    let name = database.get_dbname().unwrap();
    keep_in(
        &world.installation,
        &format!("postgresql://postgres@{}/{name}", hosts.join(",")),
    );
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let names = ["patient.example.com"];
    let (client, order) = finalized(&world, &names).await;
    primary.stop().unwrap();
    until_ready_is(&world.installation, 503, "it takes no writes").await;
    let superuser = postgres::client(&standby.config(name)).await.unwrap();
    superuser.batch_execute("SELECT pg_promote()").await.unwrap();
    until_ready_is(&world.installation, 200, "ok").await;
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f45_a_clock_that_differs_from_the_databases_is_shown_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let metrics = free_address();
    let slow = Clock::system().now() - SignedDuration::from_secs(100);
    let daemon = server::Daemon::start_with(Plan {
        clock: Clock::by_hand(slow),
        more: Some(json!({
            "metricsAddress": metrics.to_string(),
            "db": {
                "type": "postgresql",
                "dataSource": database,
                "secret": format!("file:{}", secret.display()),
                "socket_directory": directory.path().join("run"),
            },
        })),
        ..Plan::default()
    });
    let daemon = daemon.await;
    let figure_of = |page: &str, name: &str| {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::parse::<f64>);
        line.and_then(Result::ok).unwrap_or_default()
    };
    let offset = loop {
        let page = page(metrics, "/metrics").await.unwrap_or_default();
        let offset = figure_of(&page, "acme_proxy_store_clock_offset_seconds");
        let counted = figure_of(&page, "acme_proxy_store_faults_total{fault=\"clock_skew\"}");
        if offset != 0.0 && counted > 0.0 {
            break offset;
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert!(offset >= 100.0, "{offset}");
    daemon.account().await.order(&["a.example.com"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_another_secret_says_why_in_its_log_and_its_metrics_and_ends_and_the_others_go_on() {
    let world = World::new().await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let second = world.another();
    for installation in [&world.installation, &second] {
        keep_in(installation, &database);
    }
    std::fs::write(second.path("secret"), "another secret of more than 32 bytes").unwrap();
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let refused = second.start();
    let why = "it was set up with another db.secret; give every replica the same one";
    second.says(why, 1).await;
    until_ready_is(&second, 503, why).await;
    until_counted(&second, "different_secret").await;
    assert_eq!(refused.ended().await.code(), Some(2));
    let client = Client::register(&site(&world, &world.installation), Key::new()).await;
    client.ask_order(&["a.example.com"]).await.expect(201);
    std::fs::write(second.path("secret"), SECRET).unwrap();
    let mut other = second.start();
    other.is_well().await;
    for daemon in [daemon, other] {
        daemon.stop().await;
    }
}
