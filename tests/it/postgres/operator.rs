//! The operator's commands on a database: through the daemon that runs, without one, and the check that changes nothing.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;

use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{Daemon, Installation, text};
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::import::says;
use crate::postgres::daemon::keep_in;
use crate::postgres::server::{Network, PASSWORD};
use crate::upstream_cli::issues;

/// The findings of `check --deep` about the database: level and text.
async fn database_findings(world: &World) -> Vec<(String, String)> {
    let output = world.installation.run(|command| {
        command
            .args(["check", "--deep", "--json"])
            .arg(world.installation.config());
    });
    let output = text(&output.await.stdout);
    let findings = output
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_database = findings.filter(|finding| finding["check"] == "database");
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    of_database
        .map(|finding| (word(&finding["level"]), word(&finding["text"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deep_check_looks_at_each_host_and_makes_nothing() {
    let world = World::new().await;
    let network = Network::start(&["default_transaction_read_only=on"]).await;
    let database = Postgres::fresh_database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    let found = database_findings(&world).await;
    let says = |level: &str, words: &str| {
        let mut found = found.iter();
        assert!(
            found.any(|finding| finding.0 == level && finding.1.contains(words)),
            "{words}: {found:#?}"
        );
    };
    says("ok", "takes writes, no TLS");
    says("ok", "the schema acme_proxy will be made at the first start");
    says("ok", "no standby follows it");
    says("ok", "connections are in use; this replica takes up to 9");
    says("ok", "s ahead of this host's");
    let client = postgres::client(&database).await.unwrap();
    let made = client
        .query_one("SELECT to_regnamespace('acme_proxy') IS NULL", &[])
        .await
        .unwrap();
    assert!(made.get::<_, bool>(0), "the check has made the schema");
    world.installation.edit(|config| {
        config["db"]["dataSource"] = network.url("sslmode=disable").into();
        config["db"]["password"] = format!("file:{}", world.installation.path("password").display()).into();
    });
    std::fs::write(world.installation.path("password"), PASSWORD).unwrap();
    let found = database_findings(&world).await;
    assert_eq!(
        found[0],
        (
            "ok".to_owned(),
            "lets us in, and takes no writes: a standby".to_owned()
        )
    );
    assert_eq!(
        found[1],
        ("failure".to_owned(), "none of the hosts takes writes".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_through_the_daemon_and_without_one_and_make_no_tables() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    let installation = &world.installation;
    let complaint = installation.complains("eab", &["list"]).await;
    assert!(
        complaint.contains("has no tables of acme-proxy; start the daemon"),
        "{complaint}"
    );
    let mut daemon = installation.start();
    daemon.is_well().await;
    assert!(installation.path("run/control.sock").exists());
    let made = installation.prints("eab", &["add", "--kid", "printer"]).await;
    assert!(made.contains("printer"), "{made}");
    daemon.stop().await;
    let listed = installation.prints("eab", &["list"]).await;
    assert!(listed.contains("printer"), "{listed}");
    // F46: neither another version's tables are used, nor called missing.
    let client = postgres::client(&database).await.unwrap();
    for (version, words) in [
        (0, "start the daemon, which brings them up to date"),
        (2, "a newer acme-proxy has changed its tables"),
    ] {
        let set = format!("UPDATE acme_proxy.meta SET version = {version}");
        client.batch_execute(&set).await.unwrap();
        let complaint = installation.complains("eab", &["list"]).await;
        assert!(complaint.contains(words), "{complaint}");
        let found = database_findings(&world).await;
        let said = |finding: &(String, String)| finding.0 == "failure" && finding.1.contains(words);
        assert!(found.iter().any(said), "{found:#?}");
    }
    client
        .batch_execute("UPDATE acme_proxy.meta SET version = 1")
        .await
        .unwrap();
    let file = installation.path("backup").display().to_string();
    let mut backup = installation.command();
    backup.arg("backup").arg(&file).arg(installation.config());
    let output = backup.output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut restore = installation.command();
    restore.arg("restore").arg(&file).arg(installation.config());
    let output = restore.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("restored by its own tools"),
        "{}",
        text(&output.stderr)
    );
}

/// Two installations on the same database, without a daemon.
async fn two() -> (Arc<World>, Installation, tokio_postgres::Config) {
    let world = Arc::new(World::new().await);
    let database = Postgres::fresh_database().await.unwrap();
    let another = world.another();
    for installation in [&world.installation, &another] {
        keep_in(installation, &postgres::url_of(&database));
    }
    (world, another, database)
}

/// A daemon, and another installation without one, on the same database.
async fn daemon_and_another() -> (Arc<World>, Daemon, Installation, tokio_postgres::Client) {
    let (world, another, database) = two().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let client = postgres::client(&database).await.unwrap();
    (world, daemon, another, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_what_the_operator_does_about_a_refused_account_at_one_replica_every_replica_knows_without_a_restart()
 {
    let (world, another, _) = two().await;
    world.storm.refuse("new-account", 403, "unauthorized");
    let mut daemons = Vec::new();
    for installation in [&world.installation, &another] {
        daemons.push(installation.start());
        installation.says("there is no account at the CA", 1).await;
    }
    world.storm.refuses_nothing();
    another.prints("upstream", &["register"]).await;
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    issues(&world, "www.test.example.com").await;
    for daemon in daemons {
        daemon.stop().await;
    }
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_change_of_key_by_one_replica_costs_no_order_that_another_one_opens_meanwhile() {
    let (world, daemon, another, _) = daemon_and_another().await;
    world.storm.stop(Moment::Received, "new-order");
    let ours = Arc::clone(&world);
    let order = tokio::spawn(async move { issues(&ours, "www.test.example.com").await });
    world.storm.has_caught_one().await;
    another.prints("upstream", &["rotate-key"]).await;
    world.storm.let_go();
    order.await.unwrap();
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let log = world.installation.log();
    assert!(!log.contains("does not know our account"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_change_of_key_that_the_ca_hears_of_when_another_replica_has_given_it_up_costs_no_account() {
    let (world, daemon, sleeper, database) = daemon_and_another().await;
    let shown = async || world.installation.prints("upstream", &["show"]).await;
    let before = shown().await;
    world.storm.stop(Moment::Received, "key-change");
    let mut command = sleeper.operator("upstream", &["rotate-key"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let command = command.spawn().unwrap();
    world.storm.has_caught_one().await;
    // It has slept for more than five minutes.
    let sql = "UPDATE acme_proxy.holds SET until = clock_timestamp() WHERE what LIKE 'upstream/%'";
    assert_eq!(database.execute(sql, &[]).await.unwrap(), 1);
    issues(&world, "before.test.example.com").await;
    assert_eq!(shown().await, before, "the change is given up");
    world.storm.let_go();
    let refused = command.wait_with_output().await.unwrap();
    let refused = text(&refused.stderr);
    assert!(
        refused.contains("another acme-proxy has changed it meanwhile"),
        "{refused}"
    );
    // A third one is at it, too: nobody's order ends for that.
    let sql = "INSERT INTO acme_proxy.holds SELECT DISTINCT substring(name FROM 'upstream/[0-9a-f]{64}'), 7, \
               now() + interval '3 s' FROM acme_proxy.sealed WHERE name LIKE 'value upstream/%'";
    assert_eq!(database.execute(sql, &[]).await.unwrap(), 1);
    issues(&world, "after.test.example.com").await;
    assert_ne!(shown().await, before, "the key that the CA has");
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let log = world.installation.log();
    assert_eq!(
        log.matches("account found again by another key").count(),
        1,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_a_step_ca_are_imported_once_with_a_daemon_and_without_and_every_replica_has_them() {
    for with_daemon in [true, false] {
        let (world, daemon, another, client) = daemon_and_another().await;
        let running = match with_daemon {
            true => Some(daemon),
            false => {
                daemon.stop().await;
                None
            }
        };
        let dry = says(&world, &["--dry-run"]).await;
        assert_eq!(dry[1], "to be imported: 11, 1 of them deactivated");
        assert_eq!(dry.last().unwrap(), "Nothing was written: this was a dry run.");
        let stored = async || {
            let sql = "SELECT count(*) FROM acme_proxy.accounts";
            client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
        };
        assert_eq!(stored().await, 0);
        for (new, deactivated, before) in [(11, 1, 0), (0, 0, 11)] {
            let done = says(&world, &[]).await;
            assert_eq!(
                done[1..4],
                [
                    format!("imported: {new}, {deactivated} of them deactivated"),
                    format!("here before: {before}"),
                    "not taken: 0".to_owned(),
                ]
            );
            assert_eq!(stored().await, 11);
        }
        // The URL that its client knows, at a replica that was not there.
        let id = "R5zyUjDMmwGUWZVKVjH7ncaANWnRufAq";
        let shown = another.prints("accounts", &["show", id]).await;
        assert!(
            shown.contains(&format!("imported as: {id}")) && shown.contains("mailto:ops@example.com"),
            "{shown}"
        );
        if let Some(daemon) = running {
            daemon.stop().await;
        }
    }
}
