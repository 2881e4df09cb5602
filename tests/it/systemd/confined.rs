//! The daemon behind the walls of its unit, as far as they stand without systemd: its system calls, its capabilities, no
//! new privileges, no memory that is written and executed.
//!
//! Not shown here: the read-only file system and the other name spaces of the unit, the limits of its control group.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;

use tokio::process::Command;

use crate::harness::documented::root;
use crate::harness::process::text;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;
use crate::systemd::UNIT;

/// The values of a setting of the unit, in their order.
fn settings(name: &str) -> Vec<String> {
    let unit = std::fs::read_to_string(root().join(UNIT)).unwrap();
    let values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

/// The system calls of a set, with those of the sets in it.
async fn calls_of(set: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    let mut sets = vec![set.to_owned()];
    while let Some(set) = sets.pop() {
        let listed = Command::new("systemd-analyze")
            .args(["syscall-filter", "--no-pager", &set])
            .output();
        let Output { stdout, status, .. } = listed.await.unwrap();
        assert!(status.success(), "{set}");
        for word in text(&stdout).lines().skip(1).map(str::trim) {
            match word {
                "" => {}
                word if word.starts_with('#') => {}
                word if word.starts_with('@') => sets.push(word.to_owned()),
                word => drop(calls.insert(word.to_owned())),
            }
        }
    }
    calls
}

/// What the unit's filter lets through.
async fn permitted() -> BTreeSet<String> {
    let mut permitted = BTreeSet::new();
    for value in settings("SystemCallFilter") {
        let (refuses, sets) = match value.strip_prefix('~') {
            Some(sets) => (true, sets.to_owned()),
            None => (false, value),
        };
        for set in sets.split_whitespace() {
            for call in calls_of(set).await {
                match refuses {
                    true => drop(permitted.remove(&call)),
                    false => drop(permitted.insert(call)),
                }
            }
        }
    }
    permitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t6_the_daemon_works_behind_its_units_walls() {
    let world = Arc::new(World::new().await);
    let permitted: Vec<String> = permitted().await.into_iter().collect();
    assert!(permitted.len() > 100, "{permitted:?}");
    assert!(!permitted.iter().any(|call| call == "mount" || call == "setuid"));
    assert_eq!(settings("MemoryDenyWriteExecute"), ["yes"]);
    assert_eq!(settings("CapabilityBoundingSet"), ["CAP_NET_BIND_SERVICE"]);
    let launcher = root().join("tests/it/systemd/confine.py");
    let mut daemon = world.installation.start_by(|program| {
        // Debian's own, which has the module.
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(&launcher)
            .arg(permitted.join(","))
            .arg(program)
            .arg(world.installation.config());
        command
    });
    daemon.is_well().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    for line in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        // CAP_NET_BIND_SERVICE is number 10.
        "CapBnd:\t0000000000000400",
    ] {
        assert!(status.contains(line), "{line} is not in: {status}");
    }
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    daemon.hang_up();
    world.installation.says("configuration reloaded", 1).await;
    assert!(!world.installation.log().contains("Operation not permitted"));
    daemon.stop().await;
}
