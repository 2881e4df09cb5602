//! `acme-proxy eab`: the same beside a running daemon and without one.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{AccountBuilder, Error, ExternalAccountKey, NewAccount};

use crate::harness::process::Daemon;
use crate::harness::world::World;
use crate::recovery::ledger::builder;

/// A world whose daemon wants external account keys.
async fn world() -> World {
    let world = World::new().await;
    world.installation.edit(|config| {
        config["authority"]["provisioners"][0]["requireEAB"] = true.into();
    });
    world
}

/// What a command prints, if it succeeds.
async fn prints(world: &World, arguments: &[&str]) -> String {
    world.installation.prints("eab", arguments).await
}

/// What a command complains of.
async fn complains(world: &World, arguments: &[&str]) -> String {
    let error = world.installation.complains("eab", arguments).await;
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// The id and the secret of the key that was just added.
fn added(printed: &str) -> (String, String) {
    let flags: Vec<&str> = printed.lines().last().unwrap().split(' ').collect();
    let ["--eab-kid", kid, "--eab-hmac-key", key] = flags.as_slice() else {
        panic!("not to be pasted into certbot: {printed}");
    };
    assert!(!kid.starts_with('-') && !key.starts_with('-'), "{printed}");
    ((*kid).to_owned(), (*key).to_owned())
}

async fn register(world: &World, (kid, key): &(String, String)) -> Result<(), Error> {
    let key = URL_SAFE_NO_PAD.decode(key).unwrap();
    let key = ExternalAccountKey::new(kid.clone(), &key);
    let builder: AccountBuilder = builder(&world.installation.client());
    let account = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let url = world.installation.directory_url();
    builder.create(&account, url, Some(&key)).await.map(drop)
}

/// The same commands, and what they print, without what is random or the time.
async fn session(world: &World) -> Vec<String> {
    let mut printed = Vec::new();
    let commands: [&[&str]; 5] = [
        &["list"],
        &["add", "--kid", "many"],
        &[
            "add",
            "--kid",
            "once",
            "--one-time",
            "--allow",
            "*.example.com",
            "--allow",
            "10.0.0.0/8",
            "--deny",
            "secret.example.com",
            "--expires",
            "72h",
            "--provisioner",
            "acme",
        ],
        &["revoke", "many"],
        &["list"],
    ];
    for arguments in commands {
        let mut text = prints(world, arguments).await;
        if arguments[0] == "add" {
            let (_, key) = added(&text);
            text = text.replace(&key, "KEY");
        }
        let dated = |line: &str| match line.trim_start().split_once(": ") {
            Some((word @ ("expires" | "revoked"), _)) => format!("  {word}: TIME\n"),
            Some(_) | None => format!("{line}\n"),
        };
        printed.push(text.lines().map(dated).collect());
    }
    for arguments in [
        &["add", "--kid", "once"][..],
        &["add", "--kid", "-x y"],
        &["add", "--allow", "a..b"],
        &["add", "--provisioner", "nobody"],
        &["revoke", "nobody"],
    ] {
        // With `=`, so that the flag's value may begin with a dash.
        let joined: Vec<String> = match arguments {
            [command, flag, value] => vec![(*command).to_owned(), format!("{flag}={value}")],
            other => other.iter().map(|text| (*text).to_owned()).collect(),
        };
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        printed.push(complains(world, &joined).await);
    }
    printed
}

async fn started(world: &World) -> Daemon {
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon
}

#[tokio::test]
async fn eab_commands_print_the_same_with_and_without_a_daemon() {
    let (down, up) = (world().await, world().await);
    started(&down).await.stop().await;
    let without = session(&down).await;
    let daemon = started(&up).await;
    assert!(
        up.installation.log().contains("acme-proxy eab add"),
        "the start says that there is no key:\n{}",
        up.installation.log()
    );
    let with = session(&up).await;
    assert_eq!(without, with);
    daemon.stop().await;
    for audit in ["external account key added", "external account key revoked"] {
        assert!(up.installation.log().contains(audit), "{audit}");
    }
    // What was done through the daemon is there without it, and the other way round.
    assert_eq!(
        prints(&up, &["list"]).await.lines().count(),
        prints(&down, &["list"]).await.lines().count()
    );
    let list = with[4].as_str();
    for part in [
        "many\n  provisioner: acme (in the store)\n  for: any number of accounts\n  names: every name",
        "  revoked: TIME\n",
        "once\n  provisioner: acme (in the store)\n  for: one account, not used yet\n  names: only *.example.com, but not \
         secret.example.com, and no wildcards; only 10.0.0.0/8\n  expires: TIME\n",
    ] {
        assert!(list.contains(part), "{part:?} is not in:\n{list}");
    }
}

#[tokio::test]
async fn a_key_that_was_added_registers_clients_until_it_is_used_up_or_revoked() {
    let world = world().await;
    let before = added(&prints(&world, &["add", "--one-time"]).await);
    let daemon = started(&world).await;
    assert!(!world.installation.log().contains("there is no key yet"));
    let beside = added(&prints(&world, &["add"]).await);
    assert_ne!(before, beside);
    register(&world, &before).await.unwrap();
    assert!(register(&world, &before).await.is_err());
    for _ in 0..2 {
        register(&world, &beside).await.unwrap();
    }
    let list = prints(&world, &["list"]).await;
    assert!(list.contains("  for: one account, used by "), "{list}");
    prints(&world, &["revoke", &beside.0]).await;
    assert!(register(&world, &beside).await.is_err());
    let wrong = (before.0.clone(), beside.1.clone());
    assert!(register(&world, &wrong).await.is_err());
    let log = world.installation.log();
    assert_eq!(log.matches("external account key used").count(), 3, "{log}");
    for (_, key) in [&before, &beside] {
        assert!(
            !log.contains(key) && !list.contains(key),
            "a secret is shown once only"
        );
    }
    daemon.stop().await;
    let list = prints(&world, &["list"]).await;
    assert!(list.contains("used by") && list.contains("revoked: "), "{list}");
}

#[tokio::test]
async fn a_key_that_has_expired_is_none_that_anybody_could_register_with() {
    let world = world().await;
    prints(&world, &["add", "--expires", "1s"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let daemon = started(&world).await;
    assert!(
        world.installation.log().contains("there is no key yet"),
        "{}",
        world.installation.log()
    );
    daemon.stop().await;
}

#[tokio::test]
async fn keys_of_the_file_are_listed_and_can_not_be_revoked_or_added_again() {
    let world = world().await;
    world.installation.edit(|config| {
        let key = URL_SAFE_NO_PAD.encode([7; 32]);
        config["authority"]["provisioners"][0]["eabKeys"] =
            serde_json::json!([{ "kid": "team", "hmacKey": key, "reusable": false }]);
    });
    let unmade = complains(&world, &["list"]).await;
    assert!(unmade.contains("there is no store"), "{unmade}");
    started(&world).await.stop().await;
    let list = prints(&world, &["list"]).await;
    let expected = "team\n  provisioner: acme (in ca.json)\n  for: one account, not used yet\n";
    assert!(list.starts_with(expected), "{list}");
    assert!(complains(&world, &["revoke", "team"]).await.contains("eabKeys"));
    assert!(
        complains(&world, &["add", "--kid", "team"])
            .await
            .contains("already")
    );
}

#[tokio::test]
async fn a_key_that_nobody_needs_says_so() {
    let world = World::new().await;
    let printed = prints(&world, &["add"]).await;
    assert!(
        printed.starts_with("Clients may register without a key: requireEAB"),
        "{printed}"
    );
    added(&printed);
}

#[tokio::test]
async fn a_store_whose_path_is_too_long_for_a_socket_costs_only_the_commands_beside_a_daemon() {
    let world = world().await;
    let store = world.installation.path(&"long".repeat(40)).join("db");
    world.installation.edit(|config| {
        config["db"]["dataSource"] = store.display().to_string().into();
    });
    prints(&world, &["add", "--kid", "first"]).await;
    let daemon = started(&world).await;
    assert!(world.installation.log().contains("there is no control socket"));
    let log = world.installation.log();
    for command in [
        "eab", "upstream", "certs", "orders", "accounts", "policy", "backup", "import",
    ] {
        assert!(log.contains(command), "{command}: {log}");
    }
    let id = "0".repeat(32);
    let file = world.installation.path("backup").display().to_string();
    let revoke: &[&str] = &["revoke", &id, "--yes"];
    for (command, arguments) in [("eab", &["list"][..]), ("certs", revoke), ("backup", &[&file])] {
        let error = world.installation.complains(command, arguments).await;
        assert!(
            error.contains(&format!("in use by process {}", daemon.pid())),
            "{command}: {error}"
        );
    }
    daemon.stop().await;
    assert!(prints(&world, &["list"]).await.contains("first"));
}

#[tokio::test]
async fn whoever_only_asks_makes_no_store() {
    let world = world().await;
    let installation = &world.installation;
    let id = "0".repeat(32);
    let questions: [(&str, &[&str]); 12] = [
        ("eab", &["list"]),
        ("eab", &["revoke", "team"]),
        ("upstream", &["show"]),
        ("upstream", &["rotate-key"]),
        ("policy", &["explain", "www.example.com"]),
        ("certs", &["list"]),
        ("certs", &["show", "www.example.com"]),
        ("certs", &["revoke", &id, "--yes"]),
        ("orders", &["list", "--stuck"]),
        ("orders", &["show", &id]),
        ("accounts", &["list"]),
        ("accounts", &["deactivate", &id, "--yes"]),
    ];
    for (command, arguments) in questions {
        let error = installation.complains(command, arguments).await;
        let expected = format!("there is no store {}", installation.store().display());
        assert!(error.contains(&expected), "{command} {arguments:?}: {error}");
        assert!(!installation.store().exists(), "{command} {arguments:?}");
    }
    prints(&world, &["add", "--kid", "first"]).await;
    assert!(prints(&world, &["list"]).await.contains("first"));
}

#[tokio::test]
async fn a_leftover_socket_hinders_neither_the_commands_nor_the_next_daemon() {
    let world = world().await;
    let socket = world.installation.store().join("control.sock");
    started(&world).await.kill().await;
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    prints(&world, &["add", "--kid", "while-down"]).await;
    let daemon = started(&world).await;
    assert!(prints(&world, &["list"]).await.contains("while-down"));
    daemon.stop().await;
    assert!(!socket.exists(), "a good end leaves no socket behind");
}
