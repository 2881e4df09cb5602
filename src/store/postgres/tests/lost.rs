//! Answers that never arrive (SECURITY F41): a proxy between a replica and the database that cuts connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

use crate::acme::id::AccountId;
use crate::acme::job::{Job, Lane};
use crate::store::contract::{HERE, LIFETIME, account, answered, at, done, order};
use crate::store::postgres::tests::{number, server, settings};
use crate::store::postgres::{PostgresStore, connect};
use crate::store::shared::Shared as _;
use crate::store::{Registration, Store, StoreError, Versioned};

/// Nothing is cut.
const WHOLE: u8 = 0;
/// The next statement does not reach the server.
const LOSE_REQUEST: u8 = 1;
/// The next statement reaches the server, whose answer is lost.
const LOSE_ANSWER: u8 = 2;
/// Nobody gets through.
const DOWN: u8 = 3;

/// What a prepared statement's execution begins with (PostgreSQL 15, chapter 55.7: Bind).
const BIND: u8 = b'B';

/// The proxy: its socket lies in a directory of its own.
struct Proxy {
    directory: tempfile::TempDir,
    mode: Arc<AtomicU8>,
    cut: Arc<Notify>,
}

impl Proxy {
    fn start(server: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let (mode, cut) = (Arc::new(AtomicU8::new(WHOLE)), Arc::new(Notify::new()));
        let proxy = Self {
            directory,
            mode: Arc::clone(&mode),
            cut: Arc::clone(&cut),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if mode.load(Ordering::SeqCst) != DOWN {
                    let server = UnixStream::connect(&server).await.unwrap();
                    tokio::spawn(pass_on(client, server, Arc::clone(&mode), Arc::clone(&cut)));
                }
            }
        });
        proxy
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

async fn pass_on(mut client: UnixStream, mut server: UnixStream, mode: Arc<AtomicU8>, cut: Arc<Notify>) {
    let (mut request, mut answer) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    let mut is_last = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let read = read.unwrap_or(0);
                let armed = match request.first() {
                    Some(&BIND) if read > 0 => mode.swap(WHOLE, Ordering::SeqCst),
                    _ => WHOLE,
                };
                is_last = armed == LOSE_ANSWER;
                if read == 0 || armed == LOSE_REQUEST || server.write_all(&request[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answer) => {
                let read = read.unwrap_or(0);
                if read == 0 || is_last || client.write_all(&answer[..read]).await.is_err() {
                    return;
                }
            }
            () = cut.notified() => {
                // The server does not notice.
                drop(client);
                while server.read(&mut answer).await.is_ok_and(|read| read > 0) {}
                return;
            }
        }
    }
}

/// A replica with one connection through the proxy, and the database.
async fn behind_a_proxy() -> (Proxy, PostgresStore, Client) {
    let config: Config = server::Postgres::fresh_database().await.unwrap();
    let Some(Host::Unix(directory)) = config.get_hosts().first() else {
        panic!("a host of another kind")
    };
    let proxy = Proxy::start(directory.join(".s.PGSQL.5432"));
    let mut settings = settings(&config);
    let url = format!(
        "postgresql://postgres@/?host={}",
        proxy.directory.path().display()
    );
    settings.connection = connect::Settings {
        url: url.parse().unwrap(),
        pool: 1,
        ..settings.connection
    };
    let store = PostgresStore::open(settings).await.unwrap();
    (proxy, store, server::client(&config).await.unwrap())
}

/// Everything that changes something, with the proxy in this mode each time.
async fn change_everything(mode: u8) {
    let (proxy, store, client) = behind_a_proxy().await;
    // What is prepared on this connection is sent at once from now on.
    let mut owner = account();
    for is_cut in [false, true] {
        let cut = || {
            if is_cut {
                proxy.set(mode);
            }
        };
        owner = account();
        cut();
        let created = store.create_account(&owner).await.unwrap();
        assert!(matches!(created, Registration::Created), "{created:?}");
        let deactivated = Versioned::with(1, owner.clone().deactivated(at(5)));
        cut();
        assert_eq!(store.update_account(deactivated).await, Ok(()));
        let (order, work) = answered(order(owner.id()));
        let job = Job::now(work, owner.id(), HERE, at(1));
        cut();
        assert_eq!(store.create_order(&order, None).await, Ok(()));
        cut();
        let changed = Versioned::with(1, order.clone());
        assert_eq!(store.commit(changed, Some(job)).await, Ok(()));
        let lease = store.lease(Lane::Validate, at(9), LIFETIME, 1, 9, 9).await;
        let lease = lease.unwrap().remove(0);
        cut();
        let changed = store.checkpoint(&lease, Versioned::with(2, order.clone())).await;
        let changed = changed.unwrap();
        assert_eq!(changed.version, 3);
        cut();
        assert_eq!(store.settle(lease, done(Some(changed))).await, Ok(()));
        assert_eq!(store.order(order.id()).await.unwrap().unwrap().version, 4);
        cut();
        let name = format!("value {is_cut}");
        assert_eq!(store.save(&name, Versioned::with(0, vec![7])).await, Ok(1));
    }
    assert_eq!(proxy.mode.load(Ordering::SeqCst), WHOLE, "each was cut");
    assert_eq!(store.account(owner.id()).await.unwrap().unwrap().version, 2);
    assert_eq!(number(&client, "SELECT count(*) FROM acme_proxy.jobs").await, 0);
    let barred = "SELECT count(*) FROM acme_proxy.attempts WHERE barred";
    let expected = if mode == LOSE_REQUEST { 7 } else { 0 };
    assert_eq!(number(&client, barred).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_a_change_whose_answer_is_lost_is_looked_up_and_not_repeated() {
    change_everything(LOSE_ANSWER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_a_change_that_never_arrived_is_looked_up_and_repeated() {
    change_everything(LOSE_REQUEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_a_change_that_is_still_under_way_can_not_come_after_the_one_that_takes_its_place() {
    let (proxy, store, client) = behind_a_proxy().await;
    let order = order(AccountId::random());
    store.create_order(&order, None).await.unwrap();
    store
        .commit(Versioned::with(1, order.clone()), None)
        .await
        .unwrap();
    // The change waits for this row, and its connection is cut while it does.
    let hold = "BEGIN; SELECT FROM acme_proxy.orders FOR UPDATE";
    client.batch_execute(hold).await.unwrap();
    let store = Arc::new(store);
    let committing = {
        let (store, changed) = (Arc::clone(&store), Versioned::with(2, order.clone()));
        tokio::spawn(async move { store.commit(changed, None).await })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%write_order%'";
    while number(&client, waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        // Within a transaction the view shows for ever what it has shown first.
        let anew = "SELECT pg_stat_clear_snapshot()";
        client.batch_execute(anew).await.unwrap();
    }
    proxy.cut.notify_waiters();
    let barred = "SELECT count(*) FROM acme_proxy.attempts WHERE barred";
    while number(&client, barred).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(committing.await.unwrap(), Ok(()));
    let stored = store.order(order.id()).await.unwrap().unwrap();
    assert_eq!(stored.version, 3, "it was written once");
}

#[tokio::test(flavor = "multi_thread")]
async fn f40_a_database_that_is_down_is_unavailable_and_comes_back() {
    let (proxy, store, client) = behind_a_proxy().await;
    let order = order(AccountId::random());
    store.create_order(&order, None).await.unwrap();
    proxy.set(DOWN);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    number(&client, kill).await;
    let down = store.commit(Versioned::with(1, order.clone()), None).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    let down = store.order(order.id()).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    let down = store.use_nonce(b"nonce", at(60)).await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    let down = store.check_room().await;
    assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    proxy.set(WHOLE);
    assert_eq!(store.check_room().await, Ok(()));
    assert_eq!(store.use_nonce(b"nonce", at(60)).await, Ok(true));
    assert_eq!(store.commit(Versioned::with(1, order), None).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_server_that_takes_no_writes_any_more_is_left() {
    let (_proxy, store, _) = behind_a_proxy().await;
    let order = order(AccountId::random());
    store.create_order(&order, None).await.unwrap();
    // The session that is open is read-only, as after a primary became a standby; new ones are not.
    store
        .rows(
            "SELECT set_config('default_transaction_read_only', 'on', false)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        store.commit(Versioned::with(1, order.clone()), None).await,
        Ok(()),
        "on another connection"
    );
    assert_eq!(store.order(order.id()).await.unwrap().unwrap().version, 2);
}
