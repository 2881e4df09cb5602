//! What the daemon has acknowledged survives `kill -9` at any moment, and the CA issues once for each order (SECURITY
//! section 2, I2 to I5 and I7; F1, F15, F24; UPSTREAM rules 1 and 4).
//!
//! `SOAK_CYCLES` says how often the daemon is killed under load; `make soak` sets it to 1,000.

pub(crate) mod client;
pub(crate) mod ledger;
mod point;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use instant_acme::OrderStatus;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::process::{Installation, NAME, PATIENCE};
use crate::harness::storm::{Moment, fraction};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::{Ledger, Verdict};
use crate::recovery::point::{POINTS, Point};

/// How many clients order at the same time from a daemon.
const CLIENTS: usize = 8;

/// How many orders a client places under one account.
const ORDERS_PER_ACCOUNT: usize = 4;

/// How long everything that is under way may take to end once the killing is over.
const END: Duration = Duration::from_secs(120);

/// How many daemons are killed side by side, each with a CA and clients of its own: most of the time they wait.
const WORLDS: usize = 4;

/// `kill -9` at every step of SECURITY 4.2 in turn, and every third time at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figures are asked for")]
async fn f24_kill_9_at_any_moment_loses_nothing_and_buys_nothing_twice() {
    let cycles: usize =
        std::env::var("SOAK_CYCLES").map_or(POINTS.len() * 3, |cycles| cycles.parse().unwrap());
    let point = |cycle: usize| (cycle % 3 != 2).then(|| &POINTS[cycle % POINTS.len()]);
    let mut worlds = JoinSet::new();
    for world in 0..WORLDS {
        let kills = (world..cycles).step_by(WORLDS).map(point);
        worlds.spawn(killed(kills.collect()));
    }
    let verdict = worlds.join_all().await.into_iter().reduce(Verdict::and).unwrap();
    for part in POINTS.iter().map(Some).chain([None]) {
        let name = part.map_or("at random".to_owned(), Point::to_string);
        let times =
            (0..cycles).filter(|&cycle| point(cycle).map(Point::to_string) == part.map(Point::to_string));
        println!("{:>6}  {name}", times.count());
    }
    println!(
        "kill -9 cycles: {cycles}, orders acknowledged: {}, lost: {}, issued twice: {}, stuck: {}",
        verdict.acknowledged,
        verdict.lost.len(),
        verdict.issued_twice.len(),
        verdict.stuck.len()
    );
    verdict.assert_clean();
}

/// What has become of the orders of a daemon that is killed at these points, or at random.
async fn killed(kills: Vec<Option<&'static Point>>) -> Verdict {
    let world = World::with(Duration::from_millis(100), |options| {
        options.processing = Duration::from_millis(300);
    });
    let world = Arc::new(world.await);
    let ledger = Arc::new(Ledger::default());
    let enough = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::new(&world, &ledger);
        clients.spawn(order_until(enough.clone(), client, number));
    }
    for point in kills {
        match point {
            Some(point) => point.kill(&world).await,
            None => kill_at_random(&world.installation).await,
        }
    }
    let mut daemon = world.installation.start();
    daemon.serves().await;
    enough.store(true, Ordering::Relaxed);
    let ended = timeout(END, async { while clients.join_next().await.is_some() {} }).await;
    clients.shutdown().await;
    if ended.is_err() {
        ledger.complain("a client did not come to an end".to_owned());
    }
    let verdict = ledger.audit(&world).await;
    daemon.stop().await;
    verdict
}

/// One certificate after the other, each for names of its own.
async fn order_until(enough: Arc<AtomicBool>, mut client: Client, number: usize) {
    for order in 0.. {
        if order % ORDERS_PER_ACCOUNT == 0 {
            client.register().await;
        }
        let name = |which| format!("{which}.o{order}.c{number}.test.example.com");
        let (first, second) = (name("a"), name("b"));
        match order % 3 == 0 {
            true => client.obtain(&[&first, &second]).await,
            false => client.obtain(&[&first]).await,
        }
        if enough.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Starts the daemon and kills it: mostly some time after it serves requests, sometimes while it starts.
async fn kill_at_random(installation: &Installation) {
    let mut daemon = installation.start();
    if fraction() < 0.15 {
        sleep(Duration::from_millis(300).mul_f64(fraction())).await;
    } else {
        daemon.serves().await;
        sleep(Duration::from_millis(50) + Duration::from_millis(1450).mul_f64(fraction())).await;
    }
    daemon.kill().await;
}

/// The same steps, each with one order that nothing else goes on beside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_an_order_that_is_cut_off_between_the_daemon_and_the_ca_is_taken_up_where_it_was() {
    let world = World::with(Duration::ZERO, |options| {
        options.processing = Duration::from_millis(300);
    });
    let world = Arc::new(world.await);
    let ledger = Arc::new(Ledger::default());
    let mut client = Client::new(&world, &ledger);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    for (number, point) in POINTS.iter().enumerate() {
        let name = format!("o{number}.test.example.com");
        world.storm.stop(point.moment, point.request);
        let order = async {
            client.obtain(&[&name]).await;
        };
        let kill = async {
            point.kill_at(&world, daemon).await;
            world.installation.start()
        };
        let both = timeout(END, async { tokio::join!(order, kill) }).await;
        ((), daemon) = both.unwrap_or_else(|_| panic!("no certificate after a crash: {point}"));
        // Only an order whose URL was on its way may be opened once more; it issues nothing.
        let opened = world.orders_for(&[&name]);
        match (point.moment, point.request) {
            (Moment::Done, "new-order") => assert_eq!(opened, 2, "{point}"),
            (Moment::Answered, "new-order") => assert!(opened <= 2, "{point}: {opened} orders"),
            _ => assert_eq!(opened, 1, "{point}"),
        }
        assert_eq!(world.finalizes_for(&[&name]), 1, "{point}");
    }
    ledger.audit(&world).await.assert_clean();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_registration_that_is_cut_off_finds_the_account_again_and_spends_no_second_eab() {
    for moment in [Moment::Received, Moment::Done] {
        let world = World::new().await;
        world.storm.stop(moment, "new-account");
        let daemon = world.installation.start();
        world.storm.has_caught_one().await;
        daemon.kill().await;
        world.storm.let_go();
        let mut daemon = world.installation.start();
        daemon.is_well().await;
        let stats = world.ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses), (1, 1), "{moment:?}");
        assert_eq!(world.orders_for(&[NAME]), 1, "{moment:?}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_f15_orders_that_are_finalized_while_the_ca_is_down_wait_and_are_all_issued_once_it_is_back() {
    const ORDERS: usize = 20;
    let world = Arc::new(World::new().await);
    let ledger = Arc::new(Ledger::default());
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    world.storm.goes_down();
    let mut clients = JoinSet::new();
    for number in 0..ORDERS {
        let mut client = Client::new(&world, &ledger);
        let name = format!("o{number}.test.example.com");
        clients.spawn(async move { client.obtain(&[&name]).await });
    }
    let all_wait = ledger.has(ORDERS, OrderStatus::Processing);
    timeout(PATIENCE, all_wait)
        .await
        .expect("an order does not get as far as processing");
    // Long enough for the daemon to try, to fail, and to show what that does to an order.
    sleep(Duration::from_secs(3)).await;
    assert!(ledger.has_now(ORDERS, OrderStatus::Processing), "they wait");
    assert_eq!(world.ca.stats().orders_opened, 1, "the daemon's own");
    world.storm.comes_up();
    let ended = async { while clients.join_next().await.is_some() {} };
    timeout(END, ended)
        .await
        .expect("an order was not issued after the CA's return");
    for number in 0..ORDERS {
        let name = format!("o{number}.test.example.com");
        assert_eq!(world.orders_for(&[&name]), 1, "{name}");
    }
    ledger.audit(&world).await.assert_clean();
    daemon.stop().await;
}

/// With `FIRST_STARTS` more often than by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_first_start_that_is_killed_while_it_makes_the_store_can_be_repeated() {
    let rounds: u32 = std::env::var("FIRST_STARTS").map_or(12, |rounds| rounds.parse().unwrap());
    let world = World::new().await;
    // Only the store is made, and no account.
    world.storm.goes_down();
    let started = Instant::now();
    let mut daemon = world.installation.start();
    daemon.serves().await;
    let takes = started.elapsed();
    daemon.kill().await;
    for _ in 0..rounds {
        std::fs::remove_dir_all(world.installation.store()).unwrap();
        let daemon = world.installation.start();
        sleep(takes.mul_f64(fraction())).await;
        daemon.kill().await;
        let mut daemon = world.installation.start();
        daemon.serves().await;
        daemon.kill().await;
    }
}
