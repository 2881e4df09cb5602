//! The schema is made once, whatever happens on the way, and another version's is left alone (SECURITY F46).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::store::StoreError;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::migrate::{STEPS, is_made, migrate};
use crate::store::postgres::tests::{number, server, settings};

const PROOF: &[u8] = b"proof";

/// A client in a new, empty database, and another.
async fn clients() -> (Client, Client) {
    let config = server::Postgres::fresh_database().await.unwrap();
    (
        server::client(&config).await.unwrap(),
        server::client(&config).await.unwrap(),
    )
}

async fn version(client: &Client) -> i64 {
    number(client, "SELECT version::bigint FROM acme_proxy.meta").await
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_replicas_that_start_at_once_make_the_schema_once() {
    let config = server::Postgres::fresh_database().await.unwrap();
    let settings = Arc::new(settings(&config));
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        let settings = Arc::clone(&settings);
        opening.spawn(async move { PostgresStore::open((*settings).clone()).await });
    }
    let opened = opening.join_all().await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    let client = server::client(&config).await.unwrap();
    assert_eq!(version(&client).await, i64::try_from(STEPS.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_step_that_is_killed_half_way_is_begun_again() {
    let (mut one, other) = clients().await;
    let process = number(&one, "SELECT pg_backend_pid()::bigint").await;
    one.batch_execute("SET search_path = acme_proxy").await.unwrap();
    let first = tokio::spawn(async move {
        let outcome = migrate(
            &mut one,
            &[STEPS[0], "CREATE TABLE later (); SELECT pg_sleep(600)"],
            PROOF,
        )
        .await;
        (outcome, one)
    });
    let asleep =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process} AND wait_event = 'PgSleep'");
    while number(&other, &asleep).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kill = format!("SELECT pg_terminate_backend({process})");
    other.batch_execute(&kill).await.unwrap();
    let (outcome, _) = first.await.unwrap();
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert_eq!(version(&other).await, 1, "the step before it is done");
    let made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'acme_proxy' AND tablename = 'later'";
    assert_eq!(number(&other, made).await, 0);
    let mut again = other;
    again.batch_execute("SET search_path = acme_proxy").await.unwrap();
    migrate(&mut again, &[STEPS[0], "CREATE TABLE later ()"], PROOF)
        .await
        .unwrap();
    assert_eq!((version(&again).await, number(&again, made).await), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_an_older_schema_is_brought_up_to_date_once_by_replicas_that_start_at_once_and_keeps_its_records()
{
    let config = server::Postgres::fresh_database().await.unwrap();
    let mut client = server::client(&config).await.unwrap();
    client
        .batch_execute("SET search_path = acme_proxy")
        .await
        .unwrap();
    migrate(&mut client, STEPS, PROOF).await.unwrap();
    client
        .batch_execute("INSERT INTO sealed VALUES ('value a', 1, 'old')")
        .await
        .unwrap();
    let newer = [
        STEPS[0],
        "CREATE TABLE taken (step int); INSERT INTO taken VALUES (2); ALTER TABLE sealed ADD later int",
        "INSERT INTO taken VALUES (3); UPDATE sealed SET later = 7",
    ];
    assert_eq!(is_made(&client, STEPS).await, Ok(true));
    let older = is_made(&client, &newer).await.unwrap_err().to_string();
    assert!(
        older.contains("are of version 1, and this acme-proxy works with version 3; start the daemon"),
        "{older}"
    );
    let mut upgrading = JoinSet::new();
    for _ in 0..8 {
        let mut replica = server::client(&config).await.unwrap();
        upgrading.spawn(async move {
            replica
                .batch_execute("SET search_path = acme_proxy")
                .await
                .unwrap();
            migrate(&mut replica, &newer, PROOF).await
        });
    }
    for upgraded in upgrading.join_all().await {
        assert_eq!(upgraded, Ok(()));
    }
    assert_eq!(version(&client).await, 3);
    assert_eq!(is_made(&client, &newer).await, Ok(true));
    let taken = "SELECT string_agg(step::text, ' ' ORDER BY step) FROM taken";
    let taken: String = client.query_one(taken, &[]).await.unwrap().get(0);
    assert_eq!(taken, "2 3");
    let kept = "SELECT count(*) FROM sealed WHERE body = 'old' AND later = 7";
    assert_eq!(number(&client, kept).await, 1);
    // The version before finds it newer than itself.
    let refused = migrate(&mut client, STEPS, PROOF).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("run that one, or restore a backup from before"),
        "{refused}"
    );
    assert_eq!(is_made(&client, STEPS).await, Err(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_first_step_that_fails_leaves_nothing() {
    let (mut one, other) = clients().await;
    one.batch_execute("SET search_path = acme_proxy").await.unwrap();
    let broken = format!("{} SELECT 1 / 0", STEPS[0]);
    assert!(migrate(&mut one, &[&broken], PROOF).await.is_err());
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'acme_proxy'";
    assert_eq!(number(&other, left).await, 0);
    migrate(&mut one, STEPS, PROOF).await.unwrap();
    assert_eq!(version(&other).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_schema_of_a_newer_version_is_left_alone() {
    let config = server::Postgres::fresh_database().await.unwrap();
    drop(PostgresStore::open(settings(&config)).await.unwrap());
    let client = server::client(&config).await.unwrap();
    let newer = "UPDATE acme_proxy.meta SET version = version + 1";
    client.batch_execute(newer).await.unwrap();
    let refused = PostgresStore::open(settings(&config)).await.unwrap_err();
    let StoreError::Refused(why) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        why.contains("of version 2") && why.contains("a newer acme-proxy"),
        "{why}"
    );
    assert_eq!(version(&client).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_a_database_that_acknowledges_before_it_syncs_is_refused() {
    let config = server::Postgres::fresh_database().await.unwrap();
    let client = server::client(&config).await.unwrap();
    let name = config.get_dbname().unwrap();
    let set = async |to: &str| {
        let sql = format!("ALTER DATABASE {name} {to}");
        client.batch_execute(&sql).await.unwrap();
        PostgresStore::open(settings(&config)).await
    };
    let Err(StoreError::Refused(why)) = set("SET synchronous_commit = off").await else {
        panic!("it was opened")
    };
    assert!(why.contains("synchronous_commit = off"), "{why}");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'acme_proxy'";
    assert_eq!(number(&client, made).await, 0, "nothing was written");
    set("RESET synchronous_commit").await.unwrap();
}
