//! `acme-proxy backup` and `acme-proxy restore`: what was acknowledged before a backup is there after its restoration, and
//! what was under way is not bought again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use instant_acme::{Account, Identifier, NewOrder, OrderStatus};
use tokio::time::sleep;

use crate::harness::disk::Disk;
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

async fn restore(world: &World, file: &Path) -> String {
    world
        .installation
        .prints("restore", &[file.to_str().unwrap()])
        .await
}

async fn refused(world: &World, command: &str, file: &Path) -> String {
    let why = world
        .installation
        .complains(command, &[file.to_str().unwrap()])
        .await;
    assert_eq!(why.lines().count(), 1, "{why}");
    why
}

/// The entries of a backup, without when it was made.
fn entries(file: &Path) -> Vec<String> {
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
        assert!(!store.exists(), "{sentence}");
    }
    let missing = world.installation.path("missing");
    assert!(
        refused(&world, "restore", &missing)
            .await
            .contains("can not be read")
    );
    std::fs::create_dir_all(store.join("restore.partial")).unwrap();
    let why = refused(&world, "restore", &good).await;
    assert!(
        why.contains("another restore is under way, or one has broken off; then empty the directory"),
        "{why}"
    );
    std::fs::remove_dir_all(&store).unwrap();
    std::os::unix::fs::symlink(world.installation.path("gone"), &store).unwrap();
    let why = refused(&world, "restore", &good).await;
    assert!(why.contains("is a symbolic link that leads nowhere"), "{why}");
    std::fs::remove_file(&store).unwrap();

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

/// A file system in memory; `None` where that is impossible and whoever runs the tests has said so.
fn mounted_on(directory: &Path, size: &str) -> Option<Disk> {
    match Disk::mount(directory, size) {
        Ok(disk) => Some(disk),
        Err(why) => {
            let is_known = std::env::var_os("ACME_PROXY_TEST_NO_MOUNT").is_some();
            assert!(is_known, "set ACME_PROXY_TEST_NO_MOUNT=1, or {why}");
            std::fs::remove_dir(directory).unwrap();
            None
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A world, and a backup of its daemon, whose store is gone.
async fn without_store() -> (World, PathBuf) {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let backup = back_up(&world, "backup").await;
    daemon.stop().await;
    std::fs::remove_dir_all(world.installation.store()).unwrap();
    (world, backup)
}

async fn goes_on(world: &World) {
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    assert_eq!(
        world.ca.stats().orders_opened,
        1,
        "its own certificate was bought again"
    );
}

#[tokio::test]
async fn a_store_is_restored_into_a_directory_that_can_not_be_replaced() {
    let (world, backup) = without_store().await;
    let store = world.installation.store();
    let elsewhere = world.installation.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &store).unwrap();
    restore(&world, &backup).await;
    assert!(store.is_symlink());
    assert!(!names_in(&elsewhere).contains(&"restore.partial".to_owned()));
    goes_on(&world).await;
    std::fs::remove_file(&store).unwrap();

    let Some(_mounted) = mounted_on(&store, "128m") else {
        return;
    };
    // As mkfs makes it.
    std::fs::create_dir(store.join("lost+found")).unwrap();
    restore(&world, &backup).await;
    assert!(names_in(&store).contains(&"lost+found".to_owned()));
    goes_on(&world).await;
}

#[tokio::test]
async fn f21_a_restore_that_the_disk_has_no_room_for_leaves_what_was_there() {
    let (world, backup) = without_store().await;
    let store = world.installation.store();
    let Some(_mounted) = mounted_on(&store, "100k") else {
        return;
    };
    std::fs::create_dir(store.join("lost+found")).unwrap();
    let why = refused(&world, "restore", &backup).await;
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(names_in(&store), ["lost+found"]);
}

/// The moment before the last file comes to its place.
#[tokio::test]
async fn a_restore_that_was_killed_is_no_store_and_no_new_one_is_made_in_its_place() {
    let (world, backup) = without_store().await;
    let store = world.installation.store();
    restore(&world, &backup).await;
    let building = store.join("restore.partial");
    std::fs::create_dir(&building).unwrap();
    std::fs::rename(store.join("db"), building.join("db")).unwrap();
    let before = names_in(&store);
    let output = world
        .installation
        .run(|command| {
            command.arg(world.installation.config());
        })
        .await;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && said.contains("its log, the file db, is missing"),
        "{said}"
    );
    let why = refused(&world, "restore", &backup).await;
    assert!(why.contains("then empty the directory"), "{why}");
    for name in before {
        assert!(store.join(&name).exists(), "{name}");
    }
    // And the moment before the first.
    let beginning = world.installation.path("beginning");
    std::fs::rename(&building, &beginning).unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::rename(&beginning, &building).unwrap();
    let output = world
        .installation
        .run(|command| {
            command.arg(world.installation.config());
        })
        .await;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && said.contains("there is restore.partial, but no log"),
        "{said}"
    );
}
