//! What `acme-proxy migrate` looks at before it writes: that no acme-proxy uses the database, under whatever name, and
//! without a write the same that it would be refused with one.

use std::time::Duration;

use acme_proxy::acme::secret::Secret;
use acme_proxy::store::StoreError;
use acme_proxy::store::postgres::moving::AtRest;
use acme_proxy::store::postgres::{PostgresStore, Settings, connect};
use tokio::time::{sleep, timeout};

use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{PATIENCE, text};
use crate::harness::world::World;
use crate::postgres::migrate::{keep, migrate, moved};
use crate::postgres::server::{Network, PASSWORD, SECRET, USER};

/// A world with an embedded store that nobody has open.
async fn world() -> World {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    keep(&world, "secret", SECRET);
    keep(&world, "password", PASSWORD);
    world
}

/// What the command is refused with, which is the same without a write.
async fn refused_either_way(world: &World, from: &str, to: &str) -> String {
    let password = format!("file:{}", world.installation.path("password").display());
    let dry = migrate(world, from, to, &["--password", &password, "--dry-run"]).await;
    let real = migrate(world, from, to, &["--password", &password]).await;
    assert!(!dry.status.success(), "{}", text(&dry.stdout));
    assert!(!real.status.success(), "{}", text(&real.stdout));
    assert_eq!(text(&dry.stderr), text(&real.stderr));
    text(&dry.stderr)
}

/// The next transaction's number: who writes, takes one.
async fn transactions(server: &Postgres) -> String {
    let client = postgres::client(&server.config("postgres")).await.unwrap();
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    client.query_one(next, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_f46_what_the_database_would_refuse_is_said_without_a_write_in_the_same_words() {
    let world = world().await;
    let network = Network::start(&["autovacuum=off"]).await;
    let store = format!("sled:{}", world.installation.store().display());
    let url = network.url("sslmode=disable");
    let database = |what: &str| format!("ALTER DATABASE {USER} {what}");
    let expect = async |words: &str| {
        let said = refused_either_way(&world, &store, &url).await;
        assert!(said.contains(words), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    network.sql(&database("SET synchronous_commit = off")).await;
    expect("the database has synchronous_commit = off for us").await;
    network.sql(&database("RESET synchronous_commit")).await;
    network.sql("ALTER SYSTEM SET fsync = off").await;
    network.reload().await;
    expect("the database has fsync = off").await;
    network.sql("ALTER SYSTEM RESET fsync").await;
    network.reload().await;
    // Somebody else's database, where we may make no schema.
    network.sql(&database("OWNER TO postgres")).await;
    expect("the user lacks rights; make it the owner of the database").await;
    // A schema of somebody else, in which we may make no tables, and then a table which we may not write.
    let schema = format!("CREATE SCHEMA acme_proxy; GRANT USAGE ON SCHEMA acme_proxy TO {USER}");
    network.sql_in(USER, &schema).await;
    expect("permission denied for schema acme_proxy").await;
    network.sql_in(USER, "DROP SCHEMA acme_proxy").await;
    let temporary =
        format!("REVOKE TEMPORARY ON DATABASE {USER} FROM PUBLIC; GRANT CREATE ON DATABASE {USER} TO {USER}");
    network.sql(&temporary).await;
    expect("permission denied to create temporary tables").await;
    let temporary =
        format!("GRANT TEMPORARY ON DATABASE {USER} TO PUBLIC; ALTER DATABASE {USER} OWNER TO {USER}");
    network.sql(&temporary).await;
    // An empty schema that was made with another secret, or by a newer version.
    drop(
        crate::postgres::server::open_with(&url, "another secret, of 32 bytes or more")
            .await
            .unwrap(),
    );
    expect("it was set up with another db.secret").await;
    network.sql_in(USER, "DROP SCHEMA acme_proxy CASCADE").await;
    drop(crate::postgres::server::open(&url, Some(PASSWORD)).await.unwrap());
    network
        .sql_in(USER, "UPDATE acme_proxy.meta SET version = version + 1")
        .await;
    expect("a newer acme-proxy has changed its tables").await;
    network
        .sql_in(USER, "UPDATE acme_proxy.meta SET version = version - 1")
        .await;
    let revoke = format!(
        "ALTER TABLE acme_proxy.orders OWNER TO postgres; GRANT SELECT ON acme_proxy.orders TO {USER}"
    );
    network.sql_in(USER, &revoke).await;
    expect("permission denied for table orders").await;
    let give = format!("ALTER TABLE acme_proxy.orders OWNER TO {USER}");
    network.sql_in(USER, &give).await;

    // And it is right when nothing is in the way. Nothing is written, in either direction.
    let password = format!("file:{}", world.installation.path("password").display());
    let flags = ["--password", &password, "--dry-run"];
    let back = world.installation.path("back");
    let to = format!("sled:{}", back.display());
    let before = transactions(&network.server).await;
    let said = moved(&world, &store, &url, &flags).await;
    assert!(said.contains("would be moved; nothing was written"), "{said}");
    assert_eq!(transactions(&network.server).await, before);
    moved(&world, &store, &url, &["--password", &password]).await;
    let before = transactions(&network.server).await;
    let said = moved(&world, &url, &to, &flags).await;
    assert!(said.contains("would be moved; nothing was written"), "{said}");
    assert_eq!(transactions(&network.server).await, before);
    assert!(!back.exists());
    std::fs::create_dir(&back).unwrap();
    moved(&world, &url, &to, &flags).await;
    assert_eq!(std::fs::read_dir(&back).unwrap().count(), 0);
    // Tables of an older version are not changed by the way.
    network
        .sql_in(USER, "UPDATE acme_proxy.meta SET version = 0")
        .await;
    for (from, to) in [(&store, &url), (&url, &to)] {
        let said = refused_either_way(&world, from, to).await;
        assert!(
            said.contains("are an older version's; start this acme-proxy with it once"),
            "{said}"
        );
    }
    network
        .sql_in(USER, "UPDATE acme_proxy.meta SET version = 1")
        .await;

    // The URL's own dangers are named, and the password is not shown.
    let open = format!(
        "postgresql://{USER}:{PASSWORD}@{}/{USER}?sslmode=disable",
        network.address
    );
    let output = migrate(&world, &store, &open, &["--dry-run"]).await;
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("acme-proxy: warning: --to") && said.contains("holds the password; take it out"),
        "{said}"
    );
    assert!(
        !said.contains(PASSWORD) && !text(&output.stdout).contains(PASSWORD),
        "{said}"
    );
}

fn settings(url: &str, database: &str) -> Settings {
    Settings {
        connection: connect::Settings {
            url: url.parse().unwrap(),
            database: database.to_owned(),
            password: None,
            pool: 2,
        },
        secret: Secret::new(SECRET.as_bytes().to_vec()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f46_no_migration_begins_while_a_replica_of_whatever_name_is_connected_and_no_replica_while_one_is_under_way()
 {
    let database = Postgres::fresh_database().await.unwrap();
    let name = database.get_dbname().unwrap();
    let url = postgres::url_of(&database);
    let ours = settings(&url, name);
    let replica = settings(&format!("{url}?application_name=paris"), name);
    let store = PostgresStore::open(replica.clone()).await.unwrap();
    let refused = async || match AtRest::begin(&ours).await {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{:?}", other.map(drop)),
    };
    let why = refused().await;
    assert!(
        why.contains("pid ") && why.contains("application_name paris"),
        "{why}"
    );
    assert!(why.contains("stop all replicas first"), "{why}");
    // It stays so when the connection was made anew.
    let client = postgres::client(&database).await.unwrap();
    let holders = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 4 AND granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let holder = async || {
        let held = async {
            loop {
                if let Some(row) = client.query_opt(holders, &[]).await.unwrap() {
                    return row.get::<_, i32>(0);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, held).await.unwrap()
    };
    let first = holder().await;
    let end = "SELECT pg_terminate_backend($1, 10000)";
    client.query_one(end, &[&first]).await.unwrap();
    assert_ne!(holder().await, first);
    assert!(refused().await.contains("application_name paris"));
    drop(store);
    let migration = AtRest::begin(&ours).await.unwrap();
    let refused = PostgresStore::open(replica.clone()).await.map(drop).unwrap_err();
    let StoreError::Unavailable(why) = &refused else {
        panic!("{refused:?}")
    };
    assert!(
        why.contains("acme-proxy migrate has it for itself at the moment"),
        "{why}"
    );
    migration.check_held().await.unwrap();
    drop(migration);
    let opens = async {
        while PostgresStore::open(replica.clone()).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, opens).await.unwrap();
}
