//! `acme-proxy certs`, `orders` and `accounts`: the records in the operator's hands, beside a running daemon and without
//! one; and what the program says of itself.

mod accounts;
mod certs;
mod lists;
mod said;
mod stuck;

use std::sync::Arc;

use serde_json::Value;

use crate::harness::process::Daemon;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

async fn started(world: &World) -> Daemon {
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon
}

/// Gets a certificate for each of these names.
async fn obtain(world: &Arc<World>, names: &[&str]) {
    let mut client = Client::new(world, &Arc::new(Ledger::default()));
    for name in names {
        client.obtain(&[name]).await;
        assert_eq!(world.finalizes_for(&[name]), 1);
    }
}

/// What a list prints as JSON, an object a line.
async fn records(world: &World, command: &str, arguments: &[&str]) -> Vec<Value> {
    let arguments: Vec<&str> = ["list", "--json"].iter().chain(arguments).copied().collect();
    let printed = world.installation.prints(command, &arguments).await;
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What a command complains of, in its last line; audit events stand before it.
async fn complains(world: &World, command: &str, arguments: &[&str]) -> String {
    let error = world.installation.complains(command, arguments).await;
    let begin = error.find("acme-proxy: ").unwrap_or_else(|| panic!("{error}"));
    error[begin..].to_owned()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
