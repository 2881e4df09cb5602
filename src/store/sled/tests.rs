//! The contract on sled, and what only sled has to answer for: disks that are full, failing or damaged, and two
//! processes on one directory.

mod committer;
mod completion;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::*;
use crate::acme::job::{Job, Lane};
use crate::store::contract::{self, Backend, HERE, LIFETIME, account, answered, contract, order};
use crate::store::{Registration, Store};

struct Sled(tempfile::TempDir);

#[async_trait]
impl Backend for Sled {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(opened(&settings(self.0.path())))
    }

    async fn size(&self) -> usize {
        patiently(|| open::open(&settings(self.0.path())))
            .unwrap()
            .db
            .len()
    }

    async fn plant_unknown_job(&self, order: OrderId) {
        let db = patiently(|| open::open(&settings(self.0.path()))).unwrap().db;
        let mut key = keys::jobs_of(order);
        key.extend_from_slice(b"renew/1");
        let job = r#"{"v":1,"record":{"kind":"renew","job":{"due":"2026-01-01T00:00:00Z"}}}"#;
        db.insert(key, job).unwrap();
    }
}

contract!(Sled);

/// Opens what may have been closed a moment ago. A program that another test starts just then has been forked with every
/// open file, and so with the lock, until it runs.
fn patiently<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 0..500 {
        match open() {
            Err(StoreError::InUse { .. }) => thread::sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
    open()
}

fn opened(settings: &Settings) -> SledStore {
    patiently(|| SledStore::open(settings.clone())).unwrap()
}

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        reserve_bytes: 0,
        cache_bytes: 4 << 20,
        gather: Duration::from_millis(3),
    }
}

#[tokio::test]
async fn t5_nobody_else_can_read_the_store() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a/b");
    drop(opened(&settings(&path)));
    drop(opened(&settings(&path)));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let expected = if entry.path().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&entry.path()), expected, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 5, "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sync_serves_many_writers() {
    let place = tempfile::tempdir().unwrap();
    let slow = |log: File| -> Sync {
        Box::new(move || {
            thread::sleep(Duration::from_millis(5));
            log.sync_data()
        })
    };
    let store = Arc::new(SledStore::open_with(settings(place.path()), slow).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..10 {
                store
                    .create_order(&order(AccountId::random()), None)
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    let census = store.census().await.unwrap();
    assert_eq!(census.commits, 640);
    assert!(census.commits >= 10 * census.syncs, "{census:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_readers_see_no_write_before_it_is_on_the_disk() {
    let place = tempfile::tempdir().unwrap();
    let (started, is_started) = channel();
    let (release, is_released) = channel();
    let store = SledStore::open_with(settings(place.path()), |_log| {
        Box::new(move || {
            started.send(()).unwrap();
            is_released.recv().map_err(std::io::Error::other)
        })
    });
    let store = Arc::new(store.unwrap());
    let order = order(AccountId::random());
    let owner = order.account();
    let writing = {
        let (store, order) = (Arc::clone(&store), order.clone());
        tokio::spawn(async move { store.create_order(&order, None).await })
    };
    is_started.recv().unwrap();
    assert!(
        store.shared.tree.contains_key(keys::order(order.id())).unwrap(),
        "it is applied"
    );
    assert_eq!(store.order(order.id()).await, Ok(None));
    assert_eq!(store.orders_of(owner, None, 9).await, Ok(vec![]));
    release.send(()).unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(store.order(order.id()).await.unwrap().unwrap().value, order);

    let (changed, work) = answered(order.clone());
    let writing = {
        let (store, job) = (
            Arc::clone(&store),
            Job::now(work, changed.account(), HERE, Timestamp::UNIX_EPOCH),
        );
        tokio::spawn(async move { store.commit(Versioned::with(1, changed), Some(job)).await })
    };
    is_started.recv().unwrap();
    assert_eq!(
        store.order(order.id()).await,
        Ok(Some(Versioned::with(1, order.clone())))
    );
    let now = Timestamp::MAX;
    assert_eq!(
        store.lease(Lane::Validate, now, LIFETIME, 9, 9, 9).await,
        Ok(vec![])
    );
    release.send(()).unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(
        store
            .lease(Lane::Validate, now, LIFETIME, 9, 9, 9)
            .await
            .unwrap()
            .len(),
        1
    );
}

/// The seam for F22 is the committer's sync function: what sled itself writes can not be made to fail from here, but its
/// errors take the same way.
#[tokio::test(flavor = "multi_thread")]
async fn f22_after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let place = tempfile::tempdir().unwrap();
    let (broken, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let store = SledStore::open_with(settings(place.path()), |log| {
        let (broken, syncs) = (Arc::clone(&broken), Arc::clone(&syncs));
        Box::new(move || {
            syncs.fetch_add(1, Ordering::SeqCst);
            match broken.load(Ordering::SeqCst) {
                true => Err(rustix::io::Errno::IO.into()),
                false => log.sync_data(),
            }
        })
    });
    let store = Arc::new(store.unwrap());
    let first = order(AccountId::random());
    store.create_order(&first, None).await.unwrap();
    let watching = Arc::clone(&store);
    let watcher = tokio::spawn(async move { watching.failed().await });
    assert!(!watcher.is_finished());

    broken.store(true, Ordering::SeqCst);
    let before = syncs.load(Ordering::SeqCst);
    let mut lost = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, order) = (Arc::clone(&store), order(AccountId::random()));
        lost.push(order.id());
        tasks.spawn(async move { store.create_order(&order, None).await });
    }
    for outcome in tasks.join_all().await {
        assert!(matches!(outcome, Err(StoreError::Failed(_))), "{outcome:?}");
    }
    let StoreError::Failed(cause) = watcher.await.unwrap() else {
        panic!("another cause")
    };
    assert!(cause.contains("syncing sled's log"), "{cause}");

    broken.store(false, Ordering::SeqCst);
    let late = store.create_order(&order(AccountId::random()), None).await;
    assert_eq!(late, Err(StoreError::Failed(cause)));
    assert!(matches!(
        store.save("a", Versioned::with(0, vec![])).await,
        Err(StoreError::Failed(_))
    ));
    let now = Timestamp::MAX;
    assert!(matches!(
        store.lease(Lane::Issue(HERE), now, LIFETIME, 9, 9, 9).await,
        Err(StoreError::Failed(_))
    ));
    assert_eq!(
        syncs.load(Ordering::SeqCst),
        before + 1,
        "a failed sync is not tried again"
    );
    for id in lost {
        assert_eq!(store.order(id).await, Ok(None));
    }
    assert_eq!(store.order(first.id()).await.unwrap().unwrap().value, first);
    drop(store);
    let store = SledStore::open(settings(place.path())).unwrap();
    assert_eq!(store.order(first.id()).await.unwrap().unwrap().value, first);
}

/// A file system of its own, in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where that is impossible and whoever runs the tests has said so.
    fn new(megabytes: u64) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(disk.0.path())
            .output();
        let said = match mount {
            Ok(output) if output.status.success() => return Some(disk),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        if std::env::var_os("ACME_PROXY_TEST_NO_MOUNT").is_some() {
            return None;
        }
        panic!(
            "this test needs a small file system, and mounting one failed: {}; run it as root, or set \
             ACME_PROXY_TEST_NO_MOUNT=1 to do without it",
            said.trim()
        );
    }

    /// Leaves that many bytes free.
    fn fill(&self, leave: u64) {
        let ballast = self.0.path().join("ballast");
        drop(fs::remove_file(&ballast));
        let free = rustix::fs::statvfs(self.0.path()).unwrap();
        let size = (free.f_bavail * free.f_frsize).saturating_sub(leave);
        fs::write(&ballast, vec![1; usize::try_from(size).unwrap()]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

/// Waits until the store has seen how much room there is.
async fn until<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, StoreError>,
    expected: impl Fn(&Result<T, StoreError>) -> bool,
) {
    for _ in 0..100 {
        if expected(&attempt().await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came")
}

fn is_full<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Full { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_nearly_full_disk_refuses_new_work_and_recovers_without_a_restart() {
    let Some(disk) = SmallDisk::new(32) else { return };
    let settings = Settings {
        reserve_bytes: 8 << 20,
        ..settings(&disk.0.path().join("db"))
    };
    let store = SledStore::open(settings.clone()).unwrap();
    let (known, stranger) = (account(), account());
    store.create_account(&known).await.unwrap();
    let pending = order(known.id());
    store.create_order(&pending, None).await.unwrap();

    disk.fill(6 << 20);
    until(async || store.check_room().await, is_full).await;
    assert!(is_full(&store.create_account(&stranger).await));
    assert!(is_full(&store.create_order(&order(known.id()), None).await));
    assert!(matches!(
        store.create_account(&known).await,
        Ok(Registration::Exists(_))
    ));
    let (changed, work) = answered(pending);
    let job = Job::now(work, changed.account(), HERE, Timestamp::UNIX_EPOCH);
    assert_eq!(
        store.commit(Versioned::with(1, changed.clone()), Some(job)).await,
        Ok(())
    );
    assert_eq!(store.order(changed.id()).await.unwrap().unwrap().value, changed);

    // Not even work under way may use up the last bytes: sled would break on the first write that fails.
    disk.fill(0);
    let mut version = 2;
    let rewrite = async || {
        let written = store
            .commit(Versioned::with(version, changed.clone()), None)
            .await;
        version += u64::from(written.is_ok());
        written
    };
    until(rewrite, is_full).await;
    assert_eq!(store.order(changed.id()).await.unwrap().unwrap().value, changed);

    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    until(
        async || store.create_account(&stranger).await,
        |outcome| outcome.is_ok(),
    )
    .await;
    assert!(store.create_order(&order(known.id()), None).await.is_ok());
    assert_eq!(*store.shared.failure.borrow(), None);
    drop(store);
    let store = opened(&settings);
    assert_eq!(store.order(changed.id()).await.unwrap().unwrap().value, changed);
}

#[tokio::test]
async fn f21_without_room_nothing_new_is_taken_on() {
    let place = tempfile::tempdir().unwrap();
    let settings = Settings {
        reserve_bytes: u64::MAX,
        ..settings(place.path())
    };
    let store = SledStore::open(settings).unwrap();
    assert!(is_full(&store.check_room().await));
    assert!(is_full(&store.create_account(&account()).await));
}

/// A closed store with an order in it.
async fn used() -> (Sled, OrderId) {
    let place = Sled::new();
    let store = place.open().await;
    let order = order(AccountId::random());
    store.create_order(&order, None).await.unwrap();
    for _ in 0..20 {
        store
            .create_order(&contract::order(AccountId::random()), None)
            .await
            .unwrap();
    }
    drop(store);
    // A snapshot is written when a store is opened that has something in it.
    drop(place.open().await);
    (place, order.id())
}

fn damage_of(place: &Sled) -> String {
    match patiently(|| SledStore::open(settings(place.0.path()))) {
        Err(StoreError::Corrupt(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn snapshots(place: &Sled) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect()
}

#[tokio::test]
async fn f23_a_store_without_its_log_is_not_an_empty_store() {
    let (place, _) = used().await;
    let path = place.0.path();
    fs::remove_file(path.join("db")).unwrap();
    let missing = format!("{}: its log, the file db, is missing", path.display());
    assert_eq!(damage_of(&place), missing);
    fs::write(path.join("db"), []).unwrap();
    assert_eq!(
        damage_of(&place),
        format!("{}: its log, the file db, is empty", path.display())
    );
    fs::remove_file(path.join("db")).unwrap();
    fs::remove_file(path.join("format")).unwrap();
    assert!(damage_of(&place).contains("but no log"), "{}", damage_of(&place));
    assert!(!path.join("db").exists());
}

#[tokio::test]
async fn f23_a_log_that_has_lost_its_content_is_not_an_empty_store() {
    for filler in [0, 0xff] {
        let (place, _) = used().await;
        let path = place.0.path();
        let length = fs::metadata(path.join("db")).unwrap().len();
        fs::write(path.join("db"), vec![filler; usize::try_from(length).unwrap()]).unwrap();
        let text = damage_of(&place);
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        assert!(path.join("format").exists());
    }
}

#[tokio::test]
async fn f23_a_log_of_another_store_is_refused() {
    let ((place, _), (other, _)) = (used().await, used().await);
    fs::copy(other.0.path().join("format"), place.0.path().join("format")).unwrap();
    assert!(damage_of(&place).contains("another store"));
}

#[tokio::test]
async fn f23_a_directory_of_something_else_is_left_alone() {
    let place = Sled::new();
    fs::write(place.0.path().join("MANIFEST"), "badger").unwrap();
    let text = damage_of(&place);
    assert!(text.contains("there is MANIFEST, but no log"), "{text}");
    assert!(!place.0.path().join("db").exists());
    let place = Sled::new();
    sled::open(place.0.path()).unwrap().insert("a", "b").unwrap();
    assert!(damage_of(&place).contains("not one of acme-proxy"));
}

#[tokio::test]
async fn f23_a_store_that_was_never_finished_is_made_anew() {
    let place = Sled::new();
    fs::create_dir(place.0.path().join("blobs")).unwrap();
    fs::write(place.0.path().join("format.new"), "{\"v\":").unwrap();
    fs::write(place.0.path().join("conf"), []).unwrap();
    fs::write(place.0.path().join("lock"), "99999999\n").unwrap();
    place.open().await;
}

#[tokio::test]
async fn f23_a_damaged_snapshot_is_set_aside_and_the_log_read_again() {
    let (place, id) = used().await;
    let snapshot = snapshots(&place).remove(0);
    let whole = fs::read(&snapshot).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let later = place.0.path().join("snap.00FFFFFFFFFFFFFF.generating");
    let cases = [
        (snapshot.clone(), Vec::new()),
        (snapshot.clone(), whole[..whole.len() / 2].to_vec()),
        (snapshot, flipped),
        (later, whole[..20].to_vec()),
    ];
    for (file, content) in cases {
        fs::write(&file, content).unwrap();
        let store = place.open().await;
        assert!(store.order(id).await.unwrap().is_some());
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(place.0.path().join(format!("damaged.{name}")).exists());
        drop(store);
    }
}

#[tokio::test]
async fn f23_a_panic_of_sled_is_an_error() {
    let (place, _) = used().await;
    // A valid snapshot that does not fit the log.
    let (other, _) = used().await;
    let big = other.open().await;
    for _ in 0..300 {
        big.create_order(&order(AccountId::random()), None).await.unwrap();
    }
    drop(big);
    drop(other.open().await);
    for snapshot in snapshots(&other) {
        fs::copy(&snapshot, place.0.path().join(snapshot.file_name().unwrap())).unwrap();
    }
    // Whatever sled makes of it: either the log alone is good, or the damage is named.
    match patiently(|| SledStore::open(settings(place.0.path()))) {
        Ok(_) | Err(StoreError::Corrupt(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// The lock is the open file's, not the process's; tests/it/start.rs has a second process.
#[tokio::test]
async fn f37_whoever_comes_second_is_told_who_has_the_store() {
    let place = Sled::new();
    let store = place.open().await;
    let refused = SledStore::open(settings(place.0.path())).unwrap_err();
    let expected = StoreError::InUse {
        path: place.0.path().display().to_string(),
        pid: std::process::id().to_string(),
    };
    assert_eq!(refused, expected);
    assert_eq!(store.load("a").await, Ok(None));
}
