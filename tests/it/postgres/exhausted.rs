//! A database that has no more of something: room on its disk, room for its WAL, connections (SECURITY F40). Clients are
//! told to come back, nothing is acknowledged that is not written, and with more of it everything goes on.

use std::path::Path;
use std::time::Duration;

use acme_proxy::store::{Store as _, Versioned};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET, Order};
use crate::harness::csr;
use crate::harness::disk::Disk;
use crate::harness::key::Key;
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{Daemon, PATIENCE};
use crate::harness::world::World;
use crate::postgres::daemon::{keep_in, prove, site, until_counted, until_ready_is};
use crate::postgres::faults::{passes, refuses};
use crate::postgres::server::{Network, PASSWORD, USER, open};

/// A file system in memory on this directory.
fn disk(directory: &Path, size: &str) -> Disk {
    Disk::mount(directory, size).unwrap_or_else(|why| panic!("a full disk can not be made: {why}"))
}

/// The client is told to come back, and nothing about the database.
#[track_caller]
fn is_told_to_come_back(answer: &Answer) {
    let problem = answer.problem(503, "serverInternal");
    assert_eq!(
        problem["detail"],
        "the server can not use its database; try again later"
    );
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

/// Orders one name after the other until that is refused. Gives what was acknowledged.
async fn order_until_refused(client: &Client) -> Vec<Order> {
    let mut acknowledged = Vec::new();
    loop {
        let identifiers = json!([{ "type": "dns", "value": format!("n{}.example.com", acknowledged.len()) }]);
        let order = json!({ "identifiers": identifiers });
        let answer = client.try_post(&client.site.url("new-order"), order).await;
        if answer.status != 201 {
            is_told_to_come_back(&answer);
            return acknowledged;
        }
        acknowledged.push(Order::of(&answer));
        assert!(acknowledged.len() < 20_000, "all of them on that disk?");
    }
}

/// A daemon with limits that are out of the way, and a client with an account.
async fn started(world: &World, database: &str) -> (Daemon, Client) {
    keep_in(&world.installation, database);
    let limits = json!({ "orders_per_account_per_hour": 1_000_000, "pending_orders_per_account": 1_000_000 });
    world
        .installation
        .edit(|config| config["authority"]["config"]["limits"] = limits);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let client = Client::register(&site(world, &world.installation), Key::new()).await;
    (daemon, client)
}

/// Everything that was acknowledged is there, and the first of it comes to its certificate.
async fn all_is_there(world: &World, client: &Client, acknowledged: &[Order]) {
    for order in acknowledged {
        assert_eq!(client.look(&order.url).await["status"], "pending");
    }
    let order = &acknowledged[0];
    prove(world, client, &order.authorizations[0]).await;
    client.until(&order.url, "ready").await;
    let names = ["n0.example.com"];
    let csr = csr::plain(&Key::new(), &names);
    client.finalize(order, &csr).await.expect(200);
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_on_a_full_disk_of_the_database_nothing_is_acknowledged_that_is_not_written() {
    let world = World::new().await;
    let server = Postgres::start(&[]).unwrap();
    let directory = server.directory().join("disk");
    let disk = disk(&directory, "24m");
    postgres::give(&directory).unwrap();
    let superuser = postgres::client(&server.config("postgres")).await.unwrap();
    for statement in [
        &format!("CREATE TABLESPACE small LOCATION '{}'", directory.display()),
        "CREATE DATABASE small TABLESPACE small",
    ] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let (daemon, client) = started(&world, &postgres::url_of(&server.config("small"))).await;
    let ballast = disk.fill();
    let acknowledged = order_until_refused(&client).await;
    world
        .installation
        .says("its disk is full; make room there", 1)
        .await;
    until_counted(&world.installation, "disk_full").await;
    std::fs::remove_file(ballast).unwrap();
    all_is_there(&world, &client, &acknowledged).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_database_without_room_for_its_wal_stops_and_has_everything_that_was_acknowledged() {
    let world = World::new().await;
    // No checkpoint gives a segment of the WAL back, so that the next one needs room.
    let mut wal = None;
    let prepare = |directory: &Path| {
        wal = Some(disk(directory, "16m"));
        Ok(())
    };
    let mut server = Postgres::start_with_wal(prepare, &["checkpoint_timeout=1h"]).unwrap();
    let database = server.database().await.unwrap();
    let (mut daemon, client) = started(&world, &postgres::url_of(&database)).await;
    let ballast = wal.as_ref().unwrap().fill();
    let acknowledged = order_until_refused(&client).await;
    assert!(server.log().contains("PANIC"), "{}", server.log());
    // Nobody starts it as long as there is no room.
    server.stop().unwrap();
    until_ready_is(&world.installation, 503, "nothing listens there").await;
    until_counted(&world.installation, "refused").await;
    assert!(daemon.runs());
    std::fs::remove_file(ballast).unwrap();
    server.resume().unwrap();
    until_ready_is(&world.installation, 200, "ok").await;
    all_is_there(&world, &client, &acknowledged).await;
    daemon.stop().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_a_server_whose_connections_others_have_taken_is_told_and_those_that_are_open_go_on() {
    let network = Network::start(&["max_connections=12"]).await;
    let url = network.url("sslmode=disable");
    let first = open(&url, Some(PASSWORD)).await.unwrap();
    let save = async |version| {
        first
            .save("a name", Versioned::with(version, b"value".to_vec()))
            .await
    };
    assert_eq!(save(0).await, Ok(1));
    let mut user = network.server.config(USER);
    user.user(USER);
    let mut others = Vec::new();
    while let Ok(other) = postgres::client(&user).await {
        others.push(other);
    }
    let error = refuses(
        &url,
        Some(PASSWORD),
        "too_many_connections",
        "raise its max_connections",
    )
    .await;
    assert!(passes(&error), "{error}");
    assert_eq!(save(1).await, Ok(2));
    drop(others);
    let again = async {
        while open(&url, Some(PASSWORD)).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_when_all_connections_of_the_pool_hang_clients_are_told_to_come_back() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    let (daemon, client) = started(&world, &postgres::url_of(&database)).await;
    let superuser = postgres::client(&database).await.unwrap();
    superuser
        .batch_execute("BEGIN; LOCK TABLE acme_proxy.nonces")
        .await
        .unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..40 {
        let client = client.clone();
        asking.spawn(async move { client.try_post(client.kid(), GET).await });
    }
    for answer in asking.join_all().await {
        is_told_to_come_back(&answer);
    }
    for (words, fault) in [
        ("all connections are in use", "pool_exhausted"),
        ("a statement took too long", "timeout"),
    ] {
        world.installation.says(words, 1).await;
        until_counted(&world.installation, fault).await;
    }
    superuser.batch_execute("ROLLBACK").await.unwrap();
    until_ready_is(&world.installation, 200, "ok").await;
    let order = Order::of(&client.ask_order(&["n0.example.com"]).await.expect(201));
    all_is_there(&world, &client, &[order]).await;
    daemon.stop().await;
}
