//! The daemon under systemd: what it tells it, the sockets that it takes from it, and its unit's walls (SECURITY T6).

mod confined;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::documented::root;
use crate::harness::process::{PATIENCE, free_address, text};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

const UNIT: &str = "systemd/acme-proxy.service";

/// systemd's end of `NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message that is no sign of life.
    async fn hears(&self) -> String {
        loop {
            let message = self.hears_anything().await;
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    async fn hears_anything(&self) -> String {
        let mut bytes = [0; 4096];
        let length = timeout(PATIENCE, self.0.recv(&mut bytes)).await;
        let length = length.expect("nothing is told").unwrap();
        text(&bytes[..length])
    }
}

#[tokio::test]
async fn systemd_is_told_of_the_start_each_reload_life_and_the_end() {
    let world = World::new().await;
    let socket = world.installation.path("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    let daemon = world.installation.start_with(|command| {
        command
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "400000");
    });
    assert_eq!(manager.hears_anything().await, "READY=1\nSTATUS=serving\n");
    for _ in 0..3 {
        assert_eq!(manager.hears_anything().await, "WATCHDOG=1\n");
    }
    daemon.hang_up();
    let reloading = manager.hears().await;
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let time: u64 = time
        .unwrap_or_else(|| panic!("{reloading}"))
        .trim()
        .parse()
        .unwrap();
    assert!(time > 0);
    assert_eq!(
        manager.hears().await,
        "READY=1\nSTATUS=the configuration was reloaded\n"
    );
    world.installation.write_config(b"{");
    daemon.hang_up();
    assert!(manager.hears().await.starts_with("RELOADING=1\n"));
    assert_eq!(
        manager.hears().await,
        "READY=1\nSTATUS=the configuration was not reloaded, see the log: the one before stays in force\n"
    );
    daemon.terminate();
    assert!(manager.hears().await.starts_with("STOPPING=1\n"));
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_watchdog_that_is_off_is_told_nothing_and_the_daemon_serves() {
    let world = World::new().await;
    let socket = world.installation.path("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    let daemon = world.installation.start_with(|command| {
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "0");
    });
    assert_eq!(manager.hears_anything().await, "READY=1\nSTATUS=serving\n");
    daemon.hang_up();
    assert!(manager.hears_anything().await.starts_with("RELOADING=1\n"));
    assert!(manager.hears_anything().await.starts_with("READY=1\n"));
    daemon.stop().await;
}

/// What `LoadCredential=` of the unit makes of the EAB: a file of its own file system, which only the service may read, where
/// the unit and the documents say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_eab_comes_from_the_credential_that_the_unit_loads() {
    let unit = std::fs::read_to_string(root().join(UNIT)).unwrap();
    let loaded = unit
        .lines()
        .find_map(|line| line.strip_prefix("#LoadCredential="));
    let (id, _) = loaded.unwrap().split_once(':').unwrap();
    let service = std::path::Path::new(UNIT).file_name().unwrap().to_str().unwrap();
    let directory = format!("/run/credentials/{service}");
    let value = format!("\"eab_hmac_key\": \"file:{directory}/{id}\"");
    for page in [UNIT, "docs/OPERATIONS.md", "docs/CONFIGURATION.md"] {
        let page = std::fs::read_to_string(root().join(page)).unwrap();
        assert!(page.contains(&value), "{value} is not in {page}");
    }
    let world = Arc::new(World::new().await);
    let source = world.installation.path("eab");
    std::fs::write(&source, format!("{}\n", world.ca.eab.hmac_key)).unwrap();
    world.installation.edit(|config| {
        config["authority"]["config"]["eab_hmac_key"] = json!(format!("file:{directory}/{id}"));
    });
    // As systemd does it, in name spaces that only the daemon sees.
    const SCRIPT: &str = "set -e
        mkdir -p \"$0\"; mount -t tmpfs -o mode=0700 none \"$0\"
        cat \"$1\" > \"$0/$2\"; chmod 0400 \"$0/$2\"; chmod 0500 \"$0\"
        mount -o remount,ro,nosuid,nodev,noexec \"$0\"
        CREDENTIALS_DIRECTORY=\"$0\"; export CREDENTIALS_DIRECTORY
        shift 2; exec \"$@\"";
    let mut daemon = world.installation.start_by(|program| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", SCRIPT, &directory])
            .arg(&source)
            .args([id, program])
            .arg(world.installation.config());
        command
    });
    daemon.is_well().await;
    assert_eq!(world.ca.stats().eab_uses, 1);
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    daemon.hang_up();
    world.installation.says("configuration reloaded", 1).await;
    daemon.stop().await;
    let log = world.installation.log();
    assert!(!log.contains(&world.ca.eab.hmac_key), "{log}");
    assert!(!log.contains("eab_hmac_key"), "no warning about it: {log}");
    // Elsewhere there is no such file, and that is said.
    let without = world.installation.run(|command| {
        command.arg(world.installation.config());
    });
    let without = without.await;
    assert_eq!(without.status.code(), Some(2));
    let complaint = text(&without.stderr);
    assert!(
        complaint.contains(&format!(
            "authority.config.eab_hmac_key: \"file:{directory}/{id}\" can not be read"
        )),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_start_that_fails_never_says_that_it_is_ready() {
    let world = World::new().await;
    let socket = world.installation.path("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    let _taken = std::net::TcpListener::bind(world.installation.address).unwrap();
    let output = world.installation.run(|command| {
        command
            .env("NOTIFY_SOCKET", &socket)
            .arg(world.installation.config());
    });
    assert_eq!(output.await.status.code(), Some(2));
    assert!(manager.0.try_recv(&mut [0; 4096]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_systemd_opens_are_served() {
    let world = Arc::new(World::new().await);
    // By real socket activation: the program is started by the first connection. Its own addresses stay free.
    let daemon = world.installation.start_by(|program| {
        let mut command = Command::new("systemd-socket-activate");
        command
            .args(["-l", &world.installation.address.to_string()])
            .args(["-l", &world.installation.metrics.to_string()])
            .args(["--fdname=acme:metrics", "--setenv=ACME_PROXY_LOG=info"])
            .arg(program)
            .arg(world.installation.config());
        command
    });
    let mut daemon = daemon;
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    assert!(
        !world.installation.log().contains("is not used"),
        "{}",
        world.installation.log()
    );
    daemon.stop().await;
    let own = free_address();
    world
        .installation
        .edit(|config| config["address"] = json!(own.to_string()));
    let mut daemon = world.installation.start_by(|program| {
        let mut command = Command::new("systemd-socket-activate");
        command
            .args(["-l", &world.installation.address.to_string()])
            .args(["-l", &world.installation.metrics.to_string()])
            .args(["--fdname=web:metrics"])
            .arg(program)
            .arg(world.installation.config());
        command
    });
    daemon.serves().await;
    let says = format!(
        "address: {own} is not used, for systemd passes a socket that listens on {}",
        world.installation.address
    );
    assert!(
        world.installation.log().contains(&says),
        "{}",
        world.installation.log()
    );
    drop(std::net::TcpListener::bind(own).unwrap());
    daemon.stop().await;
}

#[tokio::test]
async fn a_socket_too_many_or_of_another_kind_stops_the_start() {
    let world = World::new().await;
    let [first, second] = [free_address(), free_address()].map(|address| address.to_string());
    let path = world.installation.path("unix").display().to_string();
    for (sockets, says) in [
        (
            &["-l", &first, "-l", &second][..],
            "more than one socket for ACME or for metrics",
        ),
        (
            &["-l", &first, "-l", &second, "--fdname=acme:acme"],
            "one of them 127.0.0.1:",
        ),
        // The names that systemd gives to two sockets of a unit that names neither.
        (
            &[
                "-l",
                &first,
                "-l",
                &second,
                "--fdname=acme-proxy.socket:acme-proxy.socket",
            ],
            "; write FileDescriptorName=metrics where it is for metrics",
        ),
        (&["-l", &first, "-l", &path], "which is none of TCP"),
    ] {
        let mut command = Command::new("systemd-socket-activate");
        command
            .args(sockets)
            .arg(env!("CARGO_BIN_EXE_acme-proxy"))
            .arg(world.installation.config())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        let address: std::net::SocketAddr = first.parse().unwrap();
        let knock = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, knock).await.unwrap();
        let output = timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(says), "{says:?} is not in: {error}");
    }
}

#[tokio::test]
async fn t6_the_unit_scores_at_most_1_5() {
    let unit = root().join(UNIT);
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=15"])
        .arg(&unit)
        .output();
    let output = security.await.unwrap();
    let report = text(&output.stdout);
    let verdict = report
        .lines()
        .find(|line| line.contains("Overall exposure level"));
    assert!(
        output.status.success() && verdict.is_some(),
        "{report}{}",
        text(&output.stderr)
    );
}
