//! Lists that are longer than what is asked for at a time, and readers who have heard enough.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::challenge::ChallengeType;
use acme_proxy::acme::id::AccountId;
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::order::Order;
use acme_proxy::clock::Clock;
use acme_proxy::store::Store as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::process::PATIENCE;
use crate::harness::server::store_of;
use crate::harness::world::World;
use crate::records::{complains, has, records, started};

const ORDERS: usize = 3000;

/// Stores orders, one of which is for another name, and gives the ids: all, and the other one.
async fn seeded(world: &World) -> (BTreeSet<String>, String) {
    let store = Arc::new(store_of(&world.installation.config()).await);
    let account = AccountId::random();
    let mut writes = JoinSet::new();
    for number in 0..ORDERS {
        let name = match number {
            1234 => "needle.example.com".to_owned(),
            _ => format!("h{number}.hay.example.com"),
        };
        let names = vec![(Identifier::dns(&name).unwrap(), vec![ChallengeType::Http01])];
        let now = Clock::system().now();
        let order = Order::new(account, "acme".to_owned(), names, now, Duration::from_hours(1));
        let store = Arc::clone(&store);
        writes.spawn(async move {
            store.create_order(&order, None).await.unwrap();
            (order.id().to_string(), name)
        });
    }
    let all = writes.join_all().await;
    let needle = all.iter().find(|(_, name)| name == "needle.example.com");
    let needle = needle.unwrap().0.clone();
    (all.into_iter().map(|(id, _)| id).collect(), needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_orders_are_listed_page_by_page_beside_a_daemon_and_without_one() {
    let world = World::new().await;
    let (ids, needle) = seeded(&world).await;
    let mut daemon = None;
    let mut own = 0;
    for _ in 0..2 {
        let table = world.installation.prints("orders", &["list"]).await;
        assert_eq!(table.lines().count(), 1 + ORDERS + own);
        assert_eq!(table.matches("NAMES").count(), 1, "one header");
        let listed: BTreeSet<String> = table.lines().map(|line| line[..32].to_owned()).collect();
        assert!(listed.is_superset(&ids));
        assert_eq!(records(&world, "orders", &[]).await.len(), ORDERS + own);
        for (limit, expected) in [("1", 1), ("201", 201), ("1500", 1500)] {
            let limited = records(&world, "orders", &["--limit", limit]).await;
            let different: BTreeSet<_> = limited.iter().map(|record| record["id"].as_str()).collect();
            assert_eq!((limited.len(), different.len()), (expected, expected));
        }
        let found = records(&world, "orders", &["--name", "needle.example.com"]).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["id"], needle.as_str());
        let hay = records(
            &world,
            "orders",
            &["--name", "*.hay.example.com", "--status", "pending"],
        )
        .await;
        assert_eq!(hay.len(), ORDERS - 1);
        let none = world
            .installation
            .operator("orders", &["list", "--status", "ready"]);
        let none = { none }.output().await.unwrap();
        assert!(none.status.success() && none.stdout.is_empty());
        has(
            &String::from_utf8(none.stderr).unwrap(),
            &["acme-proxy: there is no such order\n"],
        );
        let nothing = world.installation.operator("orders", &["list", "--limit", "0"]);
        let nothing = { nothing }.output().await.unwrap();
        assert_eq!(nothing.status.code(), Some(1));
        has(
            &String::from_utf8(nothing.stderr).unwrap(),
            &["invalid value '0' for '--limit <NUMBER>'"],
        );
        has(
            &complains(&world, "orders", &["list", "--name", "*"]).await,
            &["\"*\" is no name: write one such as www.example.com, *.example.com"],
        );
        has(
            &complains(&world, "orders", &["show", "0123"]).await,
            &["\"0123\" is no id: write the 32 hexadecimal digits"],
        );
        has(
            &complains(&world, "orders", &["show", &"0".repeat(32)]).await,
            &["there is no order with the id 0000"],
        );
        if daemon.is_none() {
            daemon = Some(started(&world).await);
            // For its own certificate.
            own = 1;
        }
    }
    daemon.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_has_heard_enough_ends_a_command_without_a_complaint() {
    let world = World::new().await;
    seeded(&world).await;
    let commands: [(&str, &[&str]); 2] = [("orders", &["list"]), ("orders", &["list", "--json"])];
    for (command, arguments) in commands {
        let mut program = world.installation.operator(command, arguments);
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = program.spawn().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        assert!(lines.next_line().await.unwrap().is_some());
        drop(lines);
        let mut complaint = String::new();
        let mut stderr = program.stderr.take().unwrap();
        stderr.read_to_string(&mut complaint).await.unwrap();
        let status = timeout(PATIENCE, program.wait()).await.unwrap().unwrap();
        assert!(status.success() && complaint.is_empty(), "{status} {complaint}");
    }
}
