//! A host of the database that vanishes in the midst of a session: nothing arrives any more, and nobody says so
//! (SECURITY F40, F41).

use std::time::Duration;

use acme_proxy::store::{Store as _, Versioned};
use tokio::time::{Instant, sleep};

use crate::harness::client::GET;
use crate::harness::link::{Gate, Link, Seat};
use crate::harness::postgres::{self, Postgres};
use crate::harness::world::World;
use crate::postgres::daemon::{finalized, keep_in, until_counted, until_ready_is};
use crate::postgres::faults::{count, passes};
use crate::postgres::server::open;

/// A new database, the way to it, and the URL that leads there.
async fn behind_a_link() -> (tokio_postgres::Config, Link, String) {
    let database = Postgres::fresh_database().await.unwrap();
    let [tokio_postgres::config::Host::Unix(directory)] = database.get_hosts() else {
        panic!("a host of another kind")
    };
    let seat = Seat::default();
    seat.is_at(directory.join(".s.PGSQL.5432"));
    let link = Link::to(seat).await.unwrap();
    let (user, name) = (database.get_user().unwrap(), database.get_dbname().unwrap());
    let url = format!("postgresql://{user}@{}/{name}?sslmode=disable", link.address);
    (database, link, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_host_that_vanishes_without_a_word_is_given_up_and_work_goes_on_when_it_is_back() {
    let processing = Duration::from_secs(2);
    let world = World::with(Duration::ZERO, |options| options.processing = processing).await;
    let (_, link, url) = behind_a_link().await;
    keep_in(&world.installation, &url);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let names = ["patient.example.com"];
    let (client, order) = finalized(&world, &names).await;
    link.set(Gate::Silent);
    let answer = client.try_post(&order.url, GET).await;
    answer.problem(503, "serverInternal");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    until_ready_is(&world.installation, 503, "it does not answer in time").await;
    until_counted(&world.installation, "unreachable").await;
    assert!(daemon.runs());
    link.set(Gate::Open);
    until_ready_is(&world.installation, 200, "ok").await;
    client.until(&order.url, "valid").await;
    assert_eq!((world.orders_for(&names), world.finalizes_for(&names)), (1, 1));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_a_change_whose_answer_a_silent_host_keeps_is_looked_up_and_counts_once() {
    let (database, link, url) = behind_a_link().await;
    let store = open(&url, None).await.unwrap();
    assert_eq!(store.save("a name", Versioned::with(0, vec![1])).await, Ok(1));
    let holder = postgres::client(&database).await.unwrap();
    let watcher = postgres::client(&database).await.unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE acme_proxy.sealed IN SHARE MODE")
        .await
        .unwrap();
    let before = count("unreachable");
    let saving = async { store.save("a name", Versioned::with(1, vec![2])).await };
    let vanishing = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock' AND query LIKE '%put_sealed%'";
        while watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        link.set(Gate::Silent);
        holder.batch_execute("COMMIT").await.unwrap();
        // It has given up, and asks elsewhere what has become of it.
        while count("unreachable") == before {
            sleep(Duration::from_millis(10)).await;
        }
        link.set(Gate::Open);
    };
    let (saved, ()) = tokio::join!(saving, vanishing);
    assert_eq!(saved, Ok(2));
    let stored = store.load("a name").await.unwrap().unwrap();
    assert_eq!((stored.version, stored.value), (2, vec![2]));
    let barred = "SELECT count(*) FROM acme_proxy.attempts WHERE barred";
    assert_eq!(watcher.query_one(barred, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn f40_a_host_that_vanishes_is_found_out_once_and_not_once_for_each_connection_of_the_pool() {
    let (database, link, url) = behind_a_link().await;
    let store = open(&url, None).await.unwrap();
    let holder = postgres::client(&database).await.unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE acme_proxy.sealed")
        .await
        .unwrap();
    let watcher = postgres::client(&database).await.unwrap();
    let letting_go = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock'";
        while watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) < 4 {
            sleep(Duration::from_millis(10)).await;
        }
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let load = || async { store.load("a name").await };
    let (first, second, third, fourth, ()) = tokio::join!(load(), load(), load(), load(), letting_go);
    assert_eq!([first, second, third, fourth], [const { Ok(None) }; 4]);
    link.set(Gate::Silent);
    tokio::time::pause();
    let (begun, before) = (Instant::now(), count("unreachable"));
    let error = load().await.unwrap_err();
    assert!(passes(&error), "{error}");
    assert!(
        error
            .to_string()
            .contains("it does not answer in time; look whether the host is up"),
        "{error}"
    );
    assert!(count("unreachable") > before);
    // A look at one connection, and one attempt at a new one.
    assert_eq!(begun.elapsed().as_secs(), 10);
}
