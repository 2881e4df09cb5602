//! `acme-proxy backup` and `acme-proxy restore`: what was acknowledged before a backup is there after its restoration, and
//! what was under way is not bought again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use instant_acme::{Account, Identifier, NewOrder, OrderStatus};
use tokio::time::sleep;

use crate::harness::world::World;
use crate::tampered_store::{account, comes_to, finalized};

/// Long enough for a backup, a `kill -9` and a restoration on a slow machine.
const PROCESSING: Duration = Duration::from_secs(8);

/// Orders one name after the other, which is never proved.
async fn keep_ordering(account: Account, acknowledged: Arc<Mutex<Vec<String>>>) {
    for number in 0.. {
        let names = [Identifier::Dns(format!("o{number}.test.example.com"))];
        let order = account.new_order(&NewOrder::new(&names)).await.unwrap();
        acknowledged.lock().unwrap().push(order.url().to_owned());
    }
}

/// Has a backup made under this name.
async fn back_up(world: &World, name: &str) -> PathBuf {
    let file = world.installation.path(name);
    let said = world
        .installation
        .prints("backup", &[file.to_str().unwrap()])
        .await;
    assert!(
        said.contains(" entries, as of ") && said.contains("secret keys"),
        "{said}"
    );
    file
}

async fn restore(world: &World, file: &std::path::Path) -> String {
    world
        .installation
        .prints("restore", &[file.to_str().unwrap()])
        .await
}

async fn refused(world: &World, command: &str, file: &std::path::Path) -> String {
    let why = world
        .installation
        .complains(command, &[file.to_str().unwrap()])
        .await;
    assert_eq!(why.lines().count(), 1, "{why}");
    why
}

/// The entries of a backup, without when it was made.
fn entries(file: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    lines.remove(0);
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_daemon_brings_back_what_was_acknowledged_and_nothing_is_bought_twice() {
    let world = World::with(Duration::ZERO, |options| options.processing = PROCESSING).await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let owner = account(&world).await;
    let names: Vec<String> = (0..6)
        .map(|number| format!("w{number}.test.example.com"))
        .collect();
    let mut under_way = Vec::new();
    for name in &names {
        under_way.push(finalized(&world, &owner, &[name]).await);
    }
    for name in &names {
        while world.finalizes_for(&[name]) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let load: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let (http, url) = (world.installation.client(), world.installation.directory_url());
                let acknowledged = Arc::clone(&acknowledged);
                async move {
                    let account = crate::tampered_store::account_by(http, url).await;
                    keep_ordering(account, acknowledged).await;
                }
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < 100 {
        sleep(Duration::from_millis(10)).await;
    }
    let before = acknowledged.lock().unwrap().clone();
    let backup = back_up(&world, "backup").await;
    for task in load {
        task.abort();
    }
    daemon.kill().await;
    let mode = backup.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds keys");

    std::fs::rename(world.installation.store(), world.installation.path("lost")).unwrap();
    assert!(restore(&world, &backup).await.contains("What came after is lost"));
    let again = back_up(&world, "again").await;
    assert_eq!(entries(&again), entries(&backup));

    let mut daemon = world.installation.start();
    daemon.is_well().await;
    for (name, url) in names.iter().zip(&under_way) {
        comes_to(&owner, url, OrderStatus::Valid).await;
        assert_eq!(
            (world.orders_for(&[name]), world.finalizes_for(&[name])),
            (1, 1),
            "{name}"
        );
    }
    let ids: Vec<&str> = before.iter().map(|url| url.rsplit('/').next().unwrap()).collect();
    let kept = entries(&backup).join("\n");
    let decoded: String = kept
        .lines()
        .map(|line| {
            use base64::Engine as _;
            let [_, value]: [String; 2] = serde_json::from_str(line).unwrap();
            let value = base64::engine::general_purpose::STANDARD.decode(value).unwrap();
            String::from_utf8_lossy(&value).into_owned() + "\n"
        })
        .collect();
    for id in ids {
        assert!(
            decoded.contains(id),
            "order {id} was acknowledged and is not in the backup"
        );
    }
    // The daemon's own certificate, and these.
    assert_eq!(world.ca.stats().orders_opened, 1 + names.len());
    daemon.stop().await;
}

#[tokio::test]
async fn nothing_is_overwritten_and_each_bad_backup_has_its_own_sentence() {
    let world = World::new().await;
    let store = world.installation.store();
    let nowhere = world.installation.path("nothing");
    assert!(
        refused(&world, "backup", &nowhere)
            .await
            .contains("there is no store")
    );
    assert!(!nowhere.exists());
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let good = back_up(&world, "good").await;
    assert!(
        refused(&world, "backup", &good)
            .await
            .contains("exists already; nothing is overwritten")
    );
    std::fs::write(world.installation.path("held.partial"), "").unwrap();
    let held = world.installation.path("held");
    assert!(
        refused(&world, "backup", &held)
            .await
            .contains("another backup is under way, or one has broken off")
    );
    let no_directory = world.installation.path("no/where");
    assert!(
        refused(&world, "backup", &no_directory)
            .await
            .contains("can not be made")
    );
    for stopped in [false, true] {
        if stopped {
            daemon.stop().await;
            assert!(
                refused(&world, "restore", &good)
                    .await
                    .contains("there is a store")
            );
            break;
        }
        assert!(
            refused(&world, "restore", &good)
                .await
                .contains("perhaps of a daemon that runs: stop it")
        );
    }
    std::fs::rename(&store, world.installation.path("away")).unwrap();

    let text = std::fs::read_to_string(&good).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |index: usize| {
        let mut lines = lines.clone();
        lines.remove(index);
        lines.join("\n") + "\n"
    };
    let middle = lines.len() / 2;
    let altered = {
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let at = lines[middle].len() - 6;
        let other = if lines[middle].as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        lines[middle].replace_range(at..=at, other);
        lines.join("\n") + "\n"
    };
    for (content, sentence) in [
        (String::new(), "is no backup of acme-proxy"),
        ("{\"some\":\"json\"}\n".to_owned(), "is no backup of acme-proxy"),
        ("x".repeat(100_000), "is no backup of acme-proxy"),
        (text[..text.len() / 2].to_owned(), "is cut off"),
        (
            without(lines.len() - 1),
            "is cut off: the last line, with the checksum, is missing",
        ),
        (without(middle), "is damaged: it has "),
        (altered, "is damaged: its checksum does not match"),
        (format!("{text}{}\n", lines[1]), "stands behind the last one"),
        (text.replacen("\n[", "\n[[", 1), "is damaged: line 2 is no entry"),
        (
            text.replacen("\"version\":1", "\"version\":2", 1),
            "is a backup of form 2, made by acme-proxy 0.1.0",
        ),
    ] {
        let bad = world.installation.path("bad");
        std::fs::write(&bad, content).unwrap();
        let why = refused(&world, "restore", &bad).await;
        assert!(why.contains(sentence), "{why}");
        assert!(
            !store.exists() && !world.installation.path("db.partial").exists(),
            "{sentence}"
        );
    }
    let missing = world.installation.path("missing");
    assert!(
        refused(&world, "restore", &missing)
            .await
            .contains("can not be read")
    );
    std::fs::create_dir(world.installation.path("db.partial")).unwrap();
    assert!(
        refused(&world, "restore", &good)
            .await
            .contains("another restore is under way, or one has broken off")
    );
    std::fs::remove_dir(world.installation.path("db.partial")).unwrap();

    // An empty directory, as systemd makes it, is no store.
    std::fs::create_dir(&store).unwrap();
    restore(&world, &good).await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    assert_eq!(
        world.ca.stats().orders_opened,
        1,
        "its own certificate was bought again"
    );
}
