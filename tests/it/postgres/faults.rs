//! What can be wrong with a database, each provoked at a real server: a sentence of its own that says what to do, and a
//! count of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use acme_proxy::store::postgres::fault::{self, Fault};
use acme_proxy::store::{Store as _, StoreError, Versioned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::postgres;
use crate::postgres::server::{Network, PASSWORD, USER, address, complaint, open, open_with};

pub(crate) fn count(label: &str) -> u64 {
    BTreeMap::from_iter(fault::counts())[label]
}

/// The store is not opened: these words say why, this fault is counted.
pub(crate) async fn refuses(url: &str, password: Option<&str>, label: &str, words: &str) -> StoreError {
    let before = count(label);
    let error = complaint(url, password).await;
    assert!(error.to_string().contains(words), "{error}");
    // Others may count, too, at the same time.
    assert!(count(label) > before, "{label} was not counted: {error}");
    error
}

pub(crate) fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_learns_whether_it_is_the_password_the_rules_or_the_database() {
    let network = Network::start(&[]).await;
    let url = |user: &str, database: &str| {
        format!(
            "postgresql://{user}@{}/{database}?sslmode=disable",
            network.address
        )
    };
    drop(open(&url(USER, USER), Some(PASSWORD)).await.unwrap());
    let cases = [
        (url(USER, USER), Some("wrong"), "password", "correct db.password"),
        (
            url("guest", USER),
            Some(PASSWORD),
            "password",
            "there is no such user",
        ),
        (url(USER, USER), None, "password", "password missing"),
        (
            url(USER, "nowhere"),
            Some(PASSWORD),
            "no_database",
            "createdb --owner=USER",
        ),
        (
            url(USER, "postgres"),
            Some(PASSWORD),
            "not_admitted",
            "scram-sha-256",
        ),
    ];
    for (url, password, label, words) in cases {
        let error = refuses(&url, password, label, words).await;
        assert!(!passes(&error), "it does not pass by itself: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_no_server_learns_whether_it_is_the_name_the_port_or_the_network() {
    let nobody = address();
    let deaf = TcpListener::bind(SocketAddr::from((address(), 0))).await.unwrap();
    let deaf = deaf.local_addr().unwrap();
    let cases = [
        (
            "postgresql://u@database.invalid/d".to_owned(),
            "unresolved",
            "the host name has no address",
        ),
        (
            format!("postgresql://u@{nobody}/d"),
            "refused",
            "nothing listens there",
        ),
        (
            "postgresql://u@%2Fnowhere/d".to_owned(),
            "refused",
            "nothing listens there",
        ),
        (
            format!("postgresql://u@{deaf}/d?sslmode=disable&connect_timeout=1"),
            "unreachable",
            "it does not answer in time",
        ),
    ];
    for (url, label, words) in cases {
        let error = refuses(&url, None, label, words).await;
        assert!(passes(&error), "it may pass: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_host_that_cuts_off_the_tls_handshake_may_be_one_that_stops() {
    let listener = TcpListener::bind(SocketAddr::from((address(), 0))).await.unwrap();
    let host = listener.local_addr().unwrap();
    // The double of a server that ends in just this moment: it says yes to TLS, and is gone.
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 8];
            connection.read_exact(&mut request).await.unwrap();
            connection.write_all(b"S").await.unwrap();
        }
    });
    let url = format!("postgresql://u@{host}/d?sslmode=require");
    let error = refuses(&url, None, "lost", "the connection broke").await;
    assert!(passes(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_of_several_hosts_the_one_that_takes_writes_is_used_and_each_of_the_others_is_named() {
    let (first, second) = (Network::start(&[]).await, Network::start(&[]).await);
    first
        .sql("ALTER SYSTEM SET default_transaction_read_only = on")
        .await;
    first.reload().await;
    let url = |second: std::net::Ipv4Addr| {
        let (nobody, first) = (address(), first.address);
        format!("postgresql://{USER}@{nobody},{first},{second}/{USER}?sslmode=disable")
    };
    drop(open(&url(second.address), Some(PASSWORD)).await.unwrap());
    let error = refuses(&url(address()), Some(PASSWORD), "read_only", "it takes no writes").await;
    assert!(
        passes(&error) && error.to_string().matches("nothing listens there").count() == 2,
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("{}:5432", first.address)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_connection_left_and_one_that_stops_are_told_apart() {
    let network = Network::start(&[]).await;
    network
        .sql(&format!(
            "CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0"
        ))
        .await;
    let url = network.url("sslmode=disable");
    let limited = url.replacen(USER, "limited", 1);
    let error = refuses(
        &limited,
        Some(PASSWORD),
        "too_many_connections",
        "max_connections",
    )
    .await;
    assert!(passes(&error), "{error}");
    // As long as somebody is connected, a server that is told to stop waits for him, and lets nobody else in.
    let store = open(&url, Some(PASSWORD)).await.unwrap();
    network.server.stop_softly();
    let error = loop {
        match open(&url, Some(PASSWORD)).await {
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(
        error.to_string().contains("it starts or stops at the moment"),
        "{error}"
    );
    assert!(passes(&error), "{error}");
    drop(store);
}

#[test]
fn each_fault_has_its_label_and_its_sentence_in_the_troubleshooting() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TROUBLESHOOTING.md");
    let document = std::fs::read_to_string(document).unwrap();
    for fault in Fault::ALL {
        let label = format!(" | `{}`. ", fault.label());
        let rows: Vec<&str> = document.lines().filter(|row| row.contains(&label)).collect();
        assert_eq!(rows.len(), 1, "{label}: {rows:?}");
        let message = rows[0]
            .strip_prefix("| `")
            .and_then(|row| row.split('`').next())
            .unwrap();
        assert!(fault.sentence().starts_with(message), "{label}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_a_user_without_rights_another_secret_and_a_newer_schema_are_refused() {
    let network = Network::start(&[]).await;
    let url = network.url("sslmode=disable");
    network
        .sql(&format!(
            "ALTER DATABASE {USER} OWNER TO postgres; REVOKE CREATE ON DATABASE {USER} FROM {USER}"
        ))
        .await;
    let error = refuses(
        &url,
        Some(PASSWORD),
        "rights",
        "ALTER DATABASE name OWNER TO user",
    )
    .await;
    assert!(!passes(&error), "{error}");
    network
        .sql(&format!("ALTER DATABASE {USER} OWNER TO {USER}"))
        .await;
    drop(open(&url, Some(PASSWORD)).await.unwrap());
    let before = count("different_secret");
    let error = open_with(&url, "another secret of more than 32 bytes")
        .await
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("db.secret"), "{error}");
    assert!(count("different_secret") > before && !passes(&error), "{error}");
    network
        .sql_in(USER, "UPDATE acme_proxy.meta SET version = version + 1")
        .await;
    let error = refuses(
        &url,
        Some(PASSWORD),
        "schema",
        "a newer acme-proxy has changed its tables",
    )
    .await;
    assert!(!passes(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_a_server_that_may_lose_what_it_acknowledges_is_refused() {
    let network = Network::start(&[]).await;
    network
        .sql(&format!("ALTER ROLE {USER} SET synchronous_commit = off"))
        .await;
    let error = complaint(&network.url("sslmode=disable"), Some(PASSWORD)).await;
    assert!(error.to_string().contains("synchronous_commit = off"), "{error}");
    assert!(!passes(&error), "{error}");
}

/// A store that is open, and what comes of a write while this holds.
async fn writing_while(network: &Network, statement: &str) -> StoreError {
    let store = open(&network.url("sslmode=disable"), Some(PASSWORD))
        .await
        .unwrap();
    let client = postgres::client(&network.server.config(USER)).await.unwrap();
    client.batch_execute(statement).await.unwrap();
    let written = store.save("a name", Versioned::with(0, b"value".to_vec())).await;
    let is_stored = store.load("a name").await.map(|found| found.is_some());
    assert!(!is_stored.unwrap_or(false), "it was written all the same");
    written.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_lock_that_is_held_are_told_and_nothing_is_acknowledged() {
    let network = Network::start(&[]).await;
    // What the server says when its disk is full, at the moment at which it would.
    let full = "CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
                CREATE TRIGGER is_full BEFORE INSERT ON acme_proxy.sealed EXECUTE FUNCTION public.full()";
    let before = count("disk_full");
    let error = writing_while(&network, full).await;
    assert!(
        error.to_string().contains("its disk is full; make room there"),
        "{error}"
    );
    assert!(count("disk_full") > before && passes(&error), "{error}");
    let network = Network::start(&[]).await;
    let before = count("timeout");
    let error = writing_while(&network, "BEGIN; LOCK TABLE acme_proxy.sealed IN SHARE MODE").await;
    assert!(error.to_string().contains("a statement took too long"), "{error}");
    assert!(count("timeout") > before && passes(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_has_ended_is_replaced_without_a_word() {
    let network = Network::start(&[]).await;
    let store = open(&network.url("sslmode=disable"), Some(PASSWORD))
        .await
        .unwrap();
    for value in 0..3 {
        let version = store
            .save("a name", Versioned::with(value, b"value".to_vec()))
            .await
            .unwrap();
        assert_eq!(version, value + 1);
        network
            .sql(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{USER}'"
            ))
            .await;
    }
}
