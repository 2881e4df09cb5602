//! Replicas that are suspended in the midst of something, and what the others do meanwhile. A suspended process is one that
//! has got SIGSTOP.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::client::Client;
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::PATIENCE;
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::postgres::daemon::{finalized, keep_in, site};

/// What another replica may lease at once, whoever holds it.
const END_LEASES: &str = "UPDATE acme_proxy.jobs SET until = clock_timestamp() WHERE token IS NOT NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_an_order_of_the_account_of_now_stays_in_line_at_a_replica_that_knows_only_the_one_before() {
    let world = World::with(Duration::ZERO, |options| options.eab_once = false).await;
    let database = Postgres::fresh_database().await.unwrap();
    let (second, third) = (world.another(), world.another());
    for installation in [&world.installation, &second, &third] {
        keep_in(installation, &postgres::url_of(&database));
    }
    let (mut one, mut other) = (world.installation.start(), second.start());
    one.is_well().await;
    other.is_well().await;
    third.prints("upstream", &["register", "--again"]).await;
    let database = postgres::client(&database).await.unwrap();
    other.freeze();
    world.storm.stop(Moment::Received, "finalize");
    let names = ["www.test.example.com"];
    let (client, order) = finalized(&world, &names).await;
    world.storm.has_caught_one().await;
    // The job goes to the other replica, which has heard of no other account.
    one.freeze();
    world.storm.stop(Moment::Received, "finalize");
    assert_eq!(database.execute(END_LEASES, &[]).await.unwrap(), 1);
    other.wake();
    world.storm.has_caught_one().await;
    let open = "SELECT count(*) FROM acme_proxy.orders WHERE line_rank = 0";
    let open: i64 = database.query_one(open, &[]).await.unwrap().get(0);
    assert_eq!(open, 1, "the order has left the line");
    world.storm.let_go();
    one.wake();
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_replica_that_wakes_up_sends_no_csr_for_an_order_that_another_one_has_given_up() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    let mut second = world.another();
    // Both go by the same URL.
    second.address = (Ipv4Addr::new(127, 0, 0, 2), world.installation.address.port()).into();
    second.edit(|config| config["address"] = second.address.to_string().into());
    for installation in [&world.installation, &second] {
        keep_in(installation, &postgres::url_of(&database));
    }
    let (mut one, mut other) = (world.installation.start(), second.start());
    one.is_well().await;
    other.is_well().await;
    let database = postgres::client(&database).await.unwrap();
    other.freeze();
    world.storm.stop(Moment::Done, "order");
    let names = ["www.test.example.com"];
    let (client, order) = finalized(&world, &names).await;
    world.storm.has_caught_one().await;
    // The CA is about to say that it waits for the CSR.
    one.freeze();
    world.storm.let_go();
    other.wake();
    let there = Client::new(
        &site(&world, &second),
        Arc::clone(&client.key),
        client.kid.clone(),
    );
    let given_up = json!({ "status": "deactivated" });
    there.post(&order.authorizations[0], given_up).await.expect(200);
    assert_eq!(database.execute(END_LEASES, &[]).await.unwrap(), 1);
    let jobs = "SELECT count(*) FROM acme_proxy.jobs WHERE work LIKE '%issue%' OR lane LIKE 'issue%'";
    let deadline = Instant::now() + 3 * PATIENCE;
    while database.query_one(jobs, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "{}", second.log());
        sleep(Duration::from_millis(200)).await;
    }
    // It wakes up, and does not learn at once that its lease is over.
    let lock = "BEGIN; LOCK TABLE acme_proxy.jobs";
    database.batch_execute(lock).await.unwrap();
    one.wake();
    assert_eq!(client.look(&order.url).await["status"], "invalid");
    sleep(Duration::from_secs(1)).await;
    database.batch_execute("ROLLBACK").await.unwrap();
    one.stop().await;
    other.stop().await;
    assert_eq!(
        (world.orders_for(&names), world.finalizes_for(&names)),
        (1, 0),
        "{}\n{}",
        world.installation.log(),
        second.log()
    );
}
