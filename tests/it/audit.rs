//! The audit log of a real daemon: one line for each change, a chain that `acme-proxy audit verify` follows, and a table
//! in the documentation of what can stand in it (SECURITY I10, F39).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use instant_acme::NewAccount;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::harness::documented::{quoted, root};
use crate::harness::process::{PATIENCE, text};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::{Ledger, builder};

/// Where events come from: the store's changes, and what changes no record.
const SOURCES: [&str; 10] = [
    "src/ra/backup.rs",
    "src/ra/inventory",
    "src/store/audited.rs",
    "src/app/audit/chain.rs",
    "src/app/audit/file.rs",
    "src/app/audit/writer.rs",
    "src/app/backup.rs",
    "src/app/reload.rs",
    "src/upstream",
    "src/worker/collection.rs",
];

async fn audited() -> (Arc<World>, PathBuf) {
    let world = World::new().await;
    let file = world.installation.path("audit.log");
    world
        .installation
        .edit(|config| config["authority"]["config"]["audit"] = json!({ "file": file }));
    (Arc::new(world), file)
}

fn events(file: &PathBuf) -> Vec<Value> {
    let log = std::fs::read_to_string(file).unwrap();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `acme-proxy audit verify` prints, and how it ends.
async fn verify(world: &World, files: &[&PathBuf]) -> (Option<i32>, String) {
    let output = world.installation.run(|command| {
        command.args(["audit", "verify"]).args(files);
    });
    let output = output.await;
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_each_change_of_an_orders_life_has_exactly_one_line() {
    let (world, file) = audited().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    let added = world.installation.prints("eab", &["add", "--kid", "key-1"]).await;
    daemon.stop().await;
    // Without a daemon the command writes it.
    world.installation.prints("eab", &["revoke", "key-1"]).await;
    let events = events(&file);
    let of_client: Vec<&str> = events
        .iter()
        .filter(|event| event["identifiers"] == "www.test.example.com")
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        of_client,
        [
            "order created",
            "challenge answered",
            "authorization validated",
            "order finalized",
            "order opened at the CA",
            "certificate issued",
            "certificate fetched",
        ]
    );
    for (event, times) in [
        ("audit log opened", 2),
        ("audit log closed", 2),
        ("registered at the CA", 1),
        ("external account key added", 1),
        ("external account key revoked", 1),
    ] {
        let count = events.iter().filter(|seen| seen["event"] == event).count();
        assert_eq!(count, times, "{event}");
    }
    let list = world
        .installation
        .run(|command| {
            command.args(["audit", "--ct-export"]).arg(&file);
        })
        .await;
    let list = text(&list.stdout);
    let of_client = list
        .lines()
        .filter(|line| line.ends_with(",www.test.example.com"));
    let certificate: Vec<Vec<&str>> = of_client.map(|line| line.split(',').collect()).collect();
    let issued = events
        .iter()
        .rfind(|event| event["event"] == "certificate issued");
    assert_eq!(certificate.len(), 1, "{list}");
    assert_eq!(issued.unwrap()["certificate.serial"], certificate[0][0], "{list}");
    assert_eq!(issued.unwrap()["certificate.sha256"], certificate[0][1], "{list}");
    let secret = added.split("--eab-hmac-key ").nth(1).unwrap().trim();
    assert!(!std::fs::read_to_string(&file).unwrap().contains(secret));
    let (code, said) = verify(&world, &[&file]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with(&format!("ok: {} events, number 1 to ", events.len())),
        "{said}"
    );
    let changed = std::fs::read_to_string(&file)
        .unwrap()
        .replacen("order finalized", "order invented", 1);
    std::fs::write(&file, changed).unwrap();
    let (code, said) = verify(&world, &[&file]).await;
    assert_eq!(code, Some(2));
    assert!(
        said.contains("audit.log:") && said.contains("was changed"),
        "{said}"
    );
}

#[tokio::test]
async fn a_rotation_with_sighup_and_a_kill_in_the_middle_of_a_line_keep_the_chain() {
    let (world, file) = audited().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let rotated = world.installation.path("audit.log.1");
    std::fs::rename(&file, &rotated).unwrap();
    daemon.hang_up();
    world.installation.says("configuration reloaded", 1).await;
    let (code, said) = verify(&world, &[&rotated, &file]).await;
    assert_eq!(code, Some(0), "{said}");
    daemon.kill().await;
    let torn = std::fs::read_to_string(&file).unwrap() + "{\"seq\":99,\"ev";
    std::fs::write(&file, torn).unwrap();
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    let (code, said) = verify(&world, &[&rotated, &file]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(": a line was cut off here by a crash"), "{said}");
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.contains("{\"seq\":99,\"ev\n"), "what was there stays");
    assert_eq!(log.matches("\"event\":\"line cut off\"").count(), 1);
}

#[tokio::test]
async fn f39_what_can_not_be_written_is_health_and_nothing_begins_meanwhile() {
    fills_up("mount -t tmpfs -o size=16k none \"$0\" && exec \"$@\"", false).await;
}

#[tokio::test]
async fn f39_on_a_full_disk_a_log_that_can_only_be_appended_to_keeps_half_a_line_and_its_chain() {
    let append_only = "mount -t tmpfs -o size=16k none \"$0\" && touch \"$0/audit.log\" && chattr +a \"$0/audit.log\" && exec \"$@\"";
    fills_up(append_only, true).await;
}

/// A log on a disk of 16 KiB that this script makes, and that only the daemon sees.
async fn fills_up(script: &str, keeps_half_a_line: bool) {
    let world = World::new().await;
    let disk = world.installation.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let file = disk.join("audit.log");
    world
        .installation
        .edit(|config| config["authority"]["config"]["audit"] = json!({ "file": file }));
    let mut daemon = world.installation.start_by(|program| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(&disk)
            .arg(program);
        command.arg(world.installation.config());
        command
    });
    daemon.is_well().await;
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let http = world.installation.client();
    let register = async || {
        let created = builder(&http).create(&newcomer, world.installation.directory_url(), None);
        created.await.map(drop).map_err(|error| error.to_string())
    };
    let mut made = 0;
    let refused = loop {
        match register().await {
            Ok(()) => made += 1,
            Err(refused) => break refused,
        }
        assert!(made < 5000, "all of them on 16 KiB?");
    };
    assert!(refused.contains("the server is busy"), "{refused}");
    let missing = daemon.health().await.unwrap()["missing"]["audit log"].clone();
    let missing = missing.as_str().unwrap();
    for says in ["No space left on device", "nothing new is taken on"] {
        assert!(missing.contains(says), "{missing}");
    }
    grow(daemon.pid(), &disk).await;
    daemon.is_well().await;
    register().await.unwrap();
    let seen = format!("/proc/{}/root{}", daemon.pid(), file.display());
    let copy = world.installation.path("copy.log");
    let complete = async {
        let is_complete = || {
            std::fs::copy(&seen, &copy).unwrap();
            let log = std::fs::read_to_string(&copy).unwrap();
            // Not the half of one that stays.
            let whole = log.lines().filter(|line| line.ends_with("\"}"));
            whole.filter(|line| line.contains("\"account created\"")).count() == made + 1
        };
        while !is_complete() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, complete).await.expect("an event is lost");
    let (code, said) = verify(&world, &[&copy]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        said.contains("a line was cut off here"),
        keeps_half_a_line,
        "{said}"
    );
    daemon.stop().await;
}

/// Gives the disk more room.
async fn grow(pid: u32, disk: &Path) {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &pid.to_string()]);
    command.args(["mount", "-o", "remount,size=16m"]).arg(disk);
    assert!(command.status().await.unwrap().success());
}

#[tokio::test]
async fn what_copies_or_replaces_the_store_without_a_daemon_leaves_a_trace() {
    let (world, file) = audited().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    let backup = world.installation.path("backup");
    let backup = backup.to_str().unwrap();
    world.installation.prints("backup", &[backup]).await;
    let account = world.installation.path("account");
    let account = account.to_str().unwrap();
    world.installation.prints("upstream", &["export", account]).await;
    std::fs::rename(world.installation.store(), world.installation.path("lost")).unwrap();
    world.installation.prints("restore", &[backup]).await;
    let traces: Vec<Value> = events(&file).into_iter().rev().take(9).collect();
    let made: Vec<&str> = traces
        .iter()
        .rev()
        .map(|event| event["event"].as_str().unwrap())
        .filter(|event| !event.starts_with("audit log"))
        .collect();
    assert_eq!(
        made,
        [
            "backup made",
            "account exported with its private key",
            "store restored from a backup"
        ]
    );
    assert_eq!(traces[1]["store.entries"], traces[7]["store.entries"]);
    // Nothing is copied or replaced that would leave none.
    let kept = world.installation.path("kept.log");
    std::fs::rename(&file, &kept).unwrap();
    std::fs::create_dir(&file).unwrap();
    let again = world.installation.path("again");
    let refused = world
        .installation
        .complains("backup", &[again.to_str().unwrap()])
        .await;
    assert!(refused.contains("authority.config.audit.file: "), "{refused}");
    assert!(!again.exists());
    std::fs::rename(world.installation.store(), world.installation.path("lost again")).unwrap();
    let refused = world.installation.complains("restore", &[backup]).await;
    assert!(refused.contains("authority.config.audit.file: "), "{refused}");
    assert!(!world.installation.store().exists());
    let (code, said) = verify(&world, &[&kept]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn a_file_that_can_not_be_the_log_stops_the_start() {
    let world = World::new().await;
    let nowhere = world.installation.path("missing/audit.log");
    for (file, says) in [
        (PathBuf::from("/dev/full"), "/dev/full is no regular file"),
        (
            nowhere,
            "missing/audit.log can not be opened; give the service's user access to it",
        ),
    ] {
        world
            .installation
            .edit(|config| config["authority"]["config"]["audit"] = json!({ "file": file }));
        let output = world.installation.run(|command| {
            command.arg(world.installation.config());
        });
        let output = output.await;
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains("authority.config.audit.file: "), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn i10_the_documentation_names_every_event_that_there_is_and_no_other() {
    let chapters = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let chapter = chapters
        .split("\n## ")
        .find(|chapter| chapter.starts_with("Audit log\n"));
    let rows = chapter
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let documented: BTreeSet<String> = rows
        .flat_map(|cell| quoted(&format!("`{cell}")).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut source = String::new();
    for path in SOURCES {
        source += &read(&root().join(path));
    }
    let mut there = BTreeSet::new();
    // The names in the table of steps, and the last text of each event.
    for line in source
        .lines()
        .filter(|line| line.contains("StepKind::") && line.contains("=> \""))
    {
        there.extend(line.split('"').nth(1).map(str::to_owned));
    }
    for call in source
        .split("event!(")
        .skip(1)
        .chain(source.split("audit = true").skip(1))
    {
        let call = &call[..call.find(");").unwrap()];
        there.extend(call.rsplit('"').nth(1).map(str::to_owned));
    }
    // What the log says of itself.
    for call in source
        .split(".say(\"")
        .chain(source.split("CUT_OFF: &str = \""))
        .skip(1)
    {
        there.extend(call.split('"').next().map(str::to_owned));
    }
    there.retain(|event| !event.contains(['{', '$', '%']) && event.contains(' '));
    assert_eq!(there, documented);
}

fn read(path: &Path) -> String {
    if path.is_file() {
        return std::fs::read_to_string(path).unwrap();
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|entry| read(&entry.unwrap().path())).collect()
}
