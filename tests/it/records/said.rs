//! What the program says of itself: help whose examples work, its version, completions, manual pages.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;

use crate::harness::documented::root;
use crate::harness::process::text;
use crate::harness::world::World;
use crate::records::{has, obtain, records, started};

/// Examples of what can not be done beside this daemon, with its files alone; other tests do it. They begin so, and have to
/// be understood.
const NOT_HERE: [&str; 6] = [
    "acme-proxy upstream import",
    "acme-proxy upstream register",
    "acme-proxy check --deep",
    "acme-proxy audit",
    "acme-proxy restore",
    "acme-proxy migrate",
];

/// Examples that do not come to an end by themselves, or are for a terminal.
const NOT_RUN: [&str; 2] = ["acme-proxy /etc", "acme-proxy man | man"];

async fn run(world: &World, arguments: &[String]) -> Output {
    let directory = world.installation.path("");
    world
        .installation
        .run(|program| {
            program.args(arguments).current_dir(directory);
        })
        .await
}

async fn help(world: &World, command: &[String]) -> String {
    let mut arguments = command.to_vec();
    arguments.push("--help".to_owned());
    let output = run(world, &arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The lines of a section of a help.
fn section<'a>(help: &'a str, title: &str) -> impl Iterator<Item = &'a str> {
    let lines = help.lines().skip_while(move |line| *line != title).skip(1);
    lines.take_while(|line| line.starts_with(' ')).map(str::trim)
}

/// All commands with their helps, the program itself first.
async fn all_commands(world: &World) -> Vec<(Vec<String>, String)> {
    let mut all = vec![(Vec::new(), help(world, &[]).await)];
    let mut next = 0;
    while next < all.len() {
        let (command, of_command) = all[next].clone();
        for line in section(&of_command, "Commands:") {
            let mut deeper = command.clone();
            deeper.push(line.split(' ').next().unwrap().to_owned());
            let of_deeper = help(world, &deeper).await;
            all.push((deeper, of_deeper));
        }
        next += 1;
    }
    all
}

/// The command in a line of examples, behind which may stand what it does; `None` if it is another program's.
fn example_in(line: &str) -> Option<&str> {
    let command = line.split("  ").next()?;
    // Before it may stand `sudo -u acme-proxy`.
    Some(&command[command.rfind("acme-proxy ")?..])
}

/// An example as the arguments of a command line: no more of a shell than quotes and `>` is understood.
fn arguments(example: &str) -> Vec<String> {
    let words = example.split(" > ").next().unwrap().split_whitespace();
    words
        .skip(1)
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_has_examples_and_each_of_them_works() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    obtain(&world, &["www.example.com", "other.example.com"]).await;
    let id = |record: &serde_json::Value, member: &str| record[member].as_str().unwrap().to_owned();
    let certificate = records(&world, "certs", &["--name", "www.example.com"])
        .await
        .remove(0);
    let other = records(&world, "certs", &["--name", "other.example.com"])
        .await
        .remove(0);
    let own = records(&world, "certs", &["--account", &"0".repeat(32)])
        .await
        .remove(0);
    let database = root().join("tests/samples/step-ca/accounts.bbolt");
    let pages = world.installation.path("man1");
    std::fs::create_dir(&pages).unwrap();
    let [secret, password] = ["db-secret", "db-password"].map(|name| world.installation.path(name));
    for file in [&secret, &password] {
        std::fs::write(file, "0123456789abcdefghijklmnopqrstuv").unwrap();
    }
    // The things of the examples, and what is there.
    let there = [
        (
            "/etc/acme-proxy/ca.json",
            world.installation.config().display().to_string(),
        ),
        ("0123456789abcdef0123456789abcdef", id(&certificate, "id")),
        ("89abcdef0123456789abcdef01234567", id(&other, "serial")),
        ("04:0A:3B:7C", id(&own, "serial")),
        ("fedcba9876543210fedcba9876543210", id(&certificate, "account")),
        ("/etc/acme-proxy/db-secret", secret.display().to_string()),
        ("/etc/acme-proxy/db-password", password.display().to_string()),
        ("/usr/local/share/man/man1", pages.display().to_string()),
        ("/var/lib/acme-proxy/db.bbolt", database.display().to_string()),
        ("/var/backups/", world.installation.path("").display().to_string()),
        ("$(date +%F)", "2026-11-22".to_owned()),
    ];
    let mut faults = Vec::new();
    let mut done = BTreeSet::new();
    let all = all_commands(&world).await;
    for (command, of_command) in &all {
        let examples: Vec<&str> = section(of_command, "Examples:").filter_map(example_in).collect();
        let own = format!("acme-proxy {} ", command.join(" "));
        let is_shown = |(_, help): &(_, String)| section(help, "Examples:").any(|line| line.contains(&own));
        if examples.is_empty() && !all.iter().any(is_shown) {
            faults.push(format!("{command:?} has no examples"));
        }
        for example in examples {
            if NOT_RUN.iter().any(|begin| example.starts_with(begin)) || !done.insert(example) {
                continue;
            }
            let mut real = example.to_owned();
            for (sample, there) in &there {
                real = real.replace(sample, there);
            }
            let output = run(&world, &arguments(&real)).await;
            let complaint = text(&output.stderr);
            let is_good = match output.status.code() {
                // 3 is the answer no.
                Some(0 | 3) => true,
                // What the example before has revoked or deactivated.
                Some(2) => {
                    NOT_HERE.iter().any(|begin| example.starts_with(begin))
                        || complaint.contains(" already, since ")
                }
                Some(_) | None => false,
            };
            if !is_good {
                faults.push(format!("{example}: {complaint}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(all.len() > 20 && done.len() > 30, "{} {}", all.len(), done.len());
    daemon.stop().await;
}

#[tokio::test]
async fn the_version_is_told_in_words_and_as_json() {
    let world = World::new().await;
    let version = env!("CARGO_PKG_VERSION");
    let words = run(&world, &["version".to_owned()]).await;
    assert_eq!(text(&words.stdout), format!("acme-proxy {version}\n"));
    let json = run(&world, &["version".to_owned(), "--json".to_owned()]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["version"], version);
}

#[tokio::test]
async fn completions_know_every_command_and_bash_reads_its_script() {
    let world = World::new().await;
    let commands = all_commands(&world).await;
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&world, &["completions".to_owned(), shell.to_owned()]).await;
        let script = text(&output.stdout);
        for name in commands.iter().flat_map(|(command, _)| command) {
            assert!(script.contains(name.as_str()), "{shell} does not know {name}");
        }
        if shell == "bash" {
            let file = world.installation.path("completions");
            std::fs::write(&file, &script).unwrap();
            let read = tokio::process::Command::new("bash")
                .arg("-n")
                .arg(file)
                .status()
                .await;
            assert!(read.unwrap().success());
        }
    }
}

#[tokio::test]
async fn there_is_a_manual_page_for_every_command() {
    let world = World::new().await;
    let page = run(&world, &["man".to_owned()]).await;
    has(&text(&page.stdout), &[".TH acme-proxy 1", "acme\\-proxy\\-certs"]);
    let directory = world.installation.path("man1");
    let out = ["man", "--out", directory.to_str().unwrap()].map(str::to_owned);
    let missing = run(&world, &out).await;
    assert_eq!(missing.status.code(), Some(2));
    has(
        &text(&missing.stderr),
        &["the manual pages can not be written into ", "man1"],
    );
    std::fs::create_dir(&directory).unwrap();
    assert!(run(&world, &out).await.status.success());
    for (command, _) in all_commands(&world).await {
        let name = [&["acme-proxy".to_owned()], command.as_slice()]
            .concat()
            .join("-");
        let page = std::fs::read_to_string(directory.join(format!("{name}.1"))).unwrap();
        has(&page, &[".SH NAME", ".SH SYNOPSIS"]);
    }
}
