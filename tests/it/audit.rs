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
const SOURCES: [&str; 7] = [
    "src/ra/inventory",
    "src/server/control/backup.rs",
    "src/store/audited.rs",
    "src/app/audit.rs",
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
        ("registered at the CA", 1),
        ("external account key added", 1),
        ("external account key revoked", 1),
    ] {
        let count = events.iter().filter(|seen| seen["event"] == event).count();
        assert_eq!(count, times, "{event}");
    }
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
    let opened = events(&file)
        .into_iter()
        .rfind(|event| event["event"] == "audit log opened");
    assert!(
        opened.unwrap()["torn"]
            .as_str()
            .unwrap()
            .contains("audit.log.torn-")
    );
}

#[tokio::test]
async fn f39_what_can_not_be_written_is_health_and_nothing_begins_meanwhile() {
    let world = World::new().await;
    let disk = world.installation.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let file = disk.join("audit.log");
    world
        .installation
        .edit(|config| config["authority"]["config"]["audit"] = json!({ "file": file }));
    // A disk of 16 KiB that only the daemon sees.
    const SCRIPT: &str = "mount -t tmpfs -o size=16k none \"$0\" && exec \"$@\"";
    let mut daemon = world.installation.start_by(|program| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", SCRIPT])
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
            log.matches("\"account created\"").count() == made + 1
        };
        while !is_complete() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, complete).await.expect("an event is lost");
    let (code, said) = verify(&world, &[&copy]).await;
    assert_eq!(code, Some(0), "{said}");
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
    for call in source.split(".append(").skip(1) {
        there.extend(
            call.split('"')
                .nth(1)
                .filter(|_| call[..60].contains('"'))
                .map(str::to_owned),
        );
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
