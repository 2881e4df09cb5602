//! `acme-proxy migrate`: from the embedded store into a database and back, and nothing is bought again on the way.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::secret::Secret;
use acme_proxy::store::postgres::{PostgresStore, Settings, connect};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::harness::client::{Client, Order};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{NAME, PATIENCE, text};
use crate::harness::world::World;
use crate::postgres::daemon::{keep_in, prove, site};
use crate::postgres::server::SECRET;

/// Writes a file that nobody else may read.
pub(crate) fn keep(world: &World, name: &str, text: &str) {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(world.installation.path(name)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Runs the command with these flags.
pub(crate) async fn migrate(world: &World, from: &str, to: &str, more: &[&str]) -> Output {
    let secret = format!("file:{}", world.installation.path("secret").display());
    let run = world.installation.run(|program: &mut Command| {
        program
            .args(["migrate", "--from", from, "--to", to, "--secret", &secret])
            .args(more);
    });
    run.await
}

pub(crate) async fn moved(world: &World, from: &str, to: &str, more: &[&str]) -> String {
    let output = migrate(world, from, to, more).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

async fn refused(world: &World, from: &str, to: &str, why: &str) {
    let output = migrate(world, from, to, &[]).await;
    let error = text(&output.stderr);
    assert!(!output.status.success() && error.contains(why), "{why}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_orders_and_certificates_move_into_a_database_and_back_and_nothing_is_bought_again() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    let url = postgres::url_of(&database);
    let before = std::fs::read(world.installation.config()).unwrap();
    let sled = |name: &str| format!("sled:{}", world.installation.path(name).display());
    // Nonces of one store are none of another one's.
    let again = |client: &Client| {
        let site = site(&world, &world.installation);
        Client::new(&site, Arc::clone(&client.key), client.kid.clone())
    };
    // On the embedded store: a certificate, and an order that waits for its client.
    let store = {
        let config: serde_json::Value = serde_json::from_slice(&before).unwrap();
        format!("sled:{}", config["db"]["dataSource"].as_str().unwrap())
    };
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let client = Client::register(&site(&world, &world.installation), Key::new()).await;
    let names = ["done.example.com"];
    let done = Order::of(&client.ask_order(&names).await.expect(201));
    prove(&world, &client, &done.authorizations[0]).await;
    client.until(&done.url, "ready").await;
    let request = json!({ "csr": b64(csr::plain(&Key::new(), &names)) });
    client.post(&done.finalize, request).await.expect(200);
    let chain = client.chain(&client.until(&done.url, "valid").await).await;
    let waiting = Order::of(&client.ask_order(&["waiting.example.com"]).await.expect(201));
    keep(&world, "secret", SECRET);
    refused(&world, &store, &url, "in use").await;
    daemon.stop().await;
    // What would be moved is what is moved.
    let said = moved(&world, &store, &url, &["--dry-run"]).await;
    assert!(
        said.contains("accounts: 1") && said.contains("orders: 3"),
        "{said}"
    );
    assert!(said.contains("nothing was written"), "{said}");
    refused(&world, &url, &sled("back"), "has no records").await;
    let counts = |said: &str| said.split("; ").next().unwrap().to_owned();
    let told = moved(&world, &store, &url, &[]).await;
    assert_eq!(counts(&told), counts(&said));
    assert!(told.contains("found the same"), "{told}");
    // One that was cut off after its last write is given again, and has nothing left to do, in either direction.
    for (from, to) in [(&store, &url), (&url, &store)] {
        let told = moved(&world, from, to, &[]).await;
        assert_eq!(
            counts(&told).rsplit(": ").next(),
            counts(&said).rsplit(": ").next()
        );
        assert!(told.contains("were there already"), "{told}");
    }
    refused(&world, &store, &sled("other"), "of the same kind").await;
    // On the database everything goes on.
    keep_in(&world.installation, &url);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let client = again(&client);
    let valid = client.until(&done.url, "valid").await;
    assert_eq!(client.chain(&valid).await, chain);
    prove(&world, &client, &waiting.authorizations[0]).await;
    client.until(&waiting.url, "ready").await;
    refused(&world, &url, &sled("back"), "stop all replicas").await;
    daemon.stop().await;
    // The two have parted.
    refused(&world, &store, &url, "they are others").await;
    refused(&world, &url, &store, "there is a store").await;
    // And back, into another directory.
    let told = moved(&world, &url, &sled("back"), &[]).await;
    assert!(told.contains("orders: 3"), "{told}");
    world.installation.write_config(&before);
    world
        .installation
        .edit(|config| config["db"]["dataSource"] = json!(world.installation.path("back")));
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let client = again(&client);
    let valid = client.until(&done.url, "valid").await;
    assert_eq!(client.chain(&valid).await, chain);
    let names = ["waiting.example.com"];
    let request = json!({ "csr": b64(csr::plain(&Key::new(), &names)) });
    client.post(&waiting.finalize, request).await.expect(200);
    client.until(&waiting.url, "valid").await;
    daemon.stop().await;
    assert_eq!(world.ca.stats().eab_uses, 1);
    for names in [["done.example.com"].as_slice(), &names, &[NAME]] {
        assert_eq!(
            (world.orders_for(names), world.finalizes_for(names)),
            (1, 1),
            "{names:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_cut_off_leaves_no_records_and_is_begun_anew() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    let url = postgres::url_of(&database);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.installation.config()).unwrap()).unwrap();
    let store = format!("sled:{}", config["db"]["dataSource"].as_str().unwrap());
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    keep(&world, "secret", SECRET);
    let client = postgres::client(&database).await.unwrap();
    let settings = Settings {
        connection: connect::Settings {
            url: url.parse().unwrap(),
            database: database.get_dbname().unwrap().to_owned(),
            password: None,
            pool: 2,
        },
        secret: Secret::new(SECRET.as_bytes().to_vec()),
    };
    drop(PostgresStore::open(settings).await.unwrap());
    // It waits in its midst: accounts are written, orders are not.
    let waits = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NEW; END $$; \
                 CREATE TRIGGER wait BEFORE INSERT ON acme_proxy.orders FOR EACH ROW EXECUTE FUNCTION wait(); \
                 SELECT pg_advisory_lock(77)";
    client.batch_execute(waits).await.unwrap();
    let mut migration = world.installation.command();
    let secret = format!("file:{}", world.installation.path("secret").display());
    migration.args(["migrate", "--from", &store, "--to", &url, "--secret", &secret]);
    let mut migration = migration.spawn().unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
    let is_waiting = async {
        while client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, is_waiting).await.unwrap();
    migration.kill().await.unwrap();
    let over = "SELECT pg_advisory_unlock(77); DROP TRIGGER wait ON acme_proxy.orders";
    client.batch_execute(over).await.unwrap();
    for table in ["accounts", "orders", "sealed", "issuers"] {
        let count = format!("SELECT count(*) FROM acme_proxy.{table}");
        assert_eq!(
            client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0),
            0,
            "{table}"
        );
    }
    drop(client);
    let said = moved(&world, &store, &url, &[]).await;
    assert!(said.contains("orders: 1"), "{said}");
}

/// Each session that reads orders waits until it is let through.
const WAITS: &str = "ALTER TABLE acme_proxy.orders RENAME TO stored_orders; \
    CREATE FUNCTION acme_proxy.let_through() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
      WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 78 AND objid::bigint = pg_backend_pid()) \
      LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN true; END $$; \
    CREATE VIEW acme_proxy.orders AS SELECT * FROM acme_proxy.stored_orders WHERE acme_proxy.let_through()";
const WAITING: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep' \
    AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 78 AND objid::bigint = pid)";
const OVER: &str = "DROP VIEW acme_proxy.orders; ALTER TABLE acme_proxy.stored_orders RENAME TO orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_migration_back_that_is_killed_leaves_no_store_and_the_same_command_begins_anew() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    let url = postgres::url_of(&database);
    let store = format!("sled:{}", world.installation.store().display());
    let back = world.installation.path("back");
    let to = format!("sled:{}", back.display());
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    keep(&world, "secret", SECRET);
    moved(&world, &store, &url, &[]).await;
    let client = postgres::client(&database).await.unwrap();
    client.batch_execute(WAITS).await.unwrap();
    let mut migration = world.installation.command();
    let secret = format!("file:{}", world.installation.path("secret").display());
    migration.args(["migrate", "--from", &url, "--to", &to, "--secret", &secret]);
    let mut migration = migration.spawn().unwrap();
    // It has begun to build the store, and waits for its orders.
    let building = back.join("migrate.partial");
    let in_its_midst = async {
        loop {
            let waiting = client.query(WAITING, &[]).await.unwrap();
            let Some(pid) = waiting.first().map(|row| row.get::<_, i32>(0)) else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            if building.join("db").exists() {
                return pid;
            }
            let through = "SELECT pg_advisory_lock(78, $1)";
            client.execute(through, &[&pid]).await.unwrap();
        }
    };
    let pid = timeout(PATIENCE, in_its_midst).await.unwrap();
    refused(&world, &url, &to, "stop all replicas").await;
    migration.kill().await.unwrap();
    client
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .await
        .unwrap();
    client.batch_execute(OVER).await.unwrap();
    assert!(!back.join("db").exists() && building.join("db").exists());
    // No daemon takes that for a store, or makes a new one there.
    world
        .installation
        .edit(|config| config["db"]["dataSource"] = json!(back));
    let start = world.installation.run(|program: &mut Command| {
        program.arg(world.installation.config());
    });
    let start = start.await;
    let said = text(&start.stderr) + &text(&start.stdout);
    assert!(
        !start.status.success() && said.contains("there is migrate.partial, but no log"),
        "{said}"
    );
    let said = moved(&world, &url, &to, &["--dry-run"]).await;
    assert!(
        said.contains("cut off has left") && said.contains("nothing was written"),
        "{said}"
    );
    assert!(building.join("db").exists());
    // What somebody else has put there is not removed.
    let notes = back.join("notes");
    std::fs::write(&notes, "").unwrap();
    refused(&world, &url, &to, "there is notes in").await;
    assert!(building.join("db").exists());
    std::fs::remove_file(notes).unwrap();
    // Nothing of the parts is used again.
    std::fs::write(building.join("old"), "torn").unwrap();
    let said = moved(&world, &url, &to, &[]).await;
    assert!(
        said.contains("orders: 1") && said.contains("cut off had left"),
        "{said}"
    );
    assert!(!building.exists() && !back.join("old").exists() && back.join("db").exists());
    let said = moved(&world, &url, &to, &[]).await;
    assert!(
        said.contains("orders: 1") && said.contains("were there already"),
        "{said}"
    );
    // Killed when all was done but to tidy up.
    std::fs::create_dir(&building).unwrap();
    std::fs::write(building.join("moving"), "conf\nformat\ndb\n").unwrap();
    let said = moved(&world, &url, &to, &["--dry-run"]).await;
    assert!(said.contains("were there already") && building.exists(), "{said}");
    let said = moved(&world, &url, &to, &[]).await;
    assert!(
        said.contains("were there already") && !building.exists(),
        "{said}"
    );
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    assert_eq!(world.ca.stats().orders_opened, 1);
}
