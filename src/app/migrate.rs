//! `acme-proxy migrate`: all records from the embedded store into a database, or back, while no daemon has either open.
//!
//! What is read back must be what was written before it counts. Whatever ends it on the way leaves no store that a daemon
//! would start on, or all of it: the same command is given again, which removes what the one before has left and begins anew,
//! or finds that all is done. Where the records were they stay.

use anyhow::bail;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::app::building::Site;
use crate::app::control::{check_owner, is_missing};
use crate::config::Place;
use crate::store::moving::Tally;
use crate::store::postgres;
use crate::store::postgres::moving::AtRest;
use crate::store::sled::SledStore;
use crate::store::{Entry, Settings, Snapshot, StoreError};

/// From where to where.
pub struct Migration {
    /// Where the records are.
    pub from: Place,
    /// Where they are to be. There are none, or the same ones.
    pub to: Place,
    /// Whether it is only to be said what would be done.
    pub dry_run: bool,
}

/// Records, and what has become of them.
type Moved = (Tally, &'static str);

const WOULD_BE: &str = "would be moved; nothing was written";
const WOULD_BE_ANEW: &str =
    "would be moved, in place of the parts that a migration which was cut off has left; nothing was written";
const MOVED: &str = "moved, read back, and found the same";
const MOVED_ANEW: &str = "moved, in place of the parts that a migration which was cut off had left, read back, and found \
                          the same";
const WERE_THERE: &str = "were there already, read back, and found the same; nothing was written";

/// Moves the records, and gives what is to be said about it.
///
/// # Errors
///
/// Why not, in one sentence.
pub async fn migrate(migration: Migration) -> anyhow::Result<String> {
    let Migration { from, to, dry_run } = migration;
    let ((tally, done), from, to) = match (from, to) {
        (Place::Directory(from), Place::Database(to)) => {
            let moved = into_database(&from, &to, dry_run).await?;
            (moved, from.path.display().to_string(), to.connection.place())
        }
        (Place::Database(from), Place::Directory(to)) => {
            let moved = into_directory(&from, &to, dry_run).await?;
            (moved, from.connection.place(), to.path.display().to_string())
        }
        (Place::Directory(_), Place::Directory(_)) | (Place::Database(_), Place::Database(_)) => bail!(
            "--from and --to are of the same kind; a store is copied with acme-proxy backup and restore, and a database with \
             PostgreSQL's own means"
        ),
    };
    Ok(format!(
        "{from} to {to}: {tally}; {done}.\nWhere they were they are still: start no acme-proxy on both.\n"
    ))
}

async fn into_database(from: &Settings, to: &postgres::Settings, dry_run: bool) -> anyhow::Result<Moved> {
    if is_missing(&from.path) {
        bail!("there is no store {}", from.path.display());
    }
    check_owner(&from.path)?;
    let settings = from.clone();
    let store = spawn_blocking(move || SledStore::open(settings)).await??;
    let mut database = AtRest::begin(to).await?;
    let has_records = database.has_records().await?;
    let tally = store.tally()?;
    if has_records {
        let there = database.tally().await?;
        if there != tally {
            bail!(
                "the database {} has records already ({there}), and they are others: give an empty one",
                to.connection.place()
            );
        }
        return Ok((tally, WERE_THERE));
    }
    database.check_restore().await?;
    if dry_run {
        return Ok((tally, WOULD_BE));
    }
    database.restore(store.entries()).await?;
    database.tally().await?.is_all_of(&tally)?;
    Ok((tally, MOVED))
}

async fn into_directory(from: &postgres::Settings, to: &Settings, dry_run: bool) -> anyhow::Result<Moved> {
    let database = AtRest::begin(from).await?;
    if !database.has_records().await? {
        bail!("the database {} has no records", from.connection.place());
    }
    let tally = database.tally().await?;
    let (settings, given) = (to.clone(), tally.clone());
    let mut site = Site::look(&to.path)?;
    if let Err(refused) = site.check_free() {
        if !spawn_blocking(move || has_store_of(&settings, &given)).await? {
            return Err(refused);
        }
        if !dry_run {
            site.clear()?;
        }
        return Ok((tally, WERE_THERE));
    }
    let (would_be, moved) = match site.has_parts() {
        true => (WOULD_BE_ANEW, MOVED_ANEW),
        false => (WOULD_BE, MOVED),
    };
    if dry_run {
        return Ok((tally, would_be));
    }
    let (snapshot, runtime) = (database.snapshot().await?, Handle::current());
    spawn_blocking(move || {
        site.make_store(&settings, |inside| {
            SledStore::restore(inside, all_of(snapshot, &runtime))?;
            SledStore::open(inside.clone())?.tally()?.is_all_of(&given)?;
            Ok(runtime.block_on(database.check_held())?)
        })
    })
    .await??;
    Ok((tally, moved))
}

/// Whether a store is there that has these records and no others.
fn has_store_of(settings: &Settings, given: &Tally) -> bool {
    let exists = |name: &str| settings.path.join(name).exists();
    let is_store = exists(SledStore::LOG) && exists(SledStore::FORMAT) && check_owner(&settings.path).is_ok();
    let there = is_store.then(|| SledStore::open(settings.clone()).and_then(|store| store.tally()));
    matches!(there, Some(Ok(there)) if there == *given)
}

/// The entries of a snapshot, for a thread that may wait for them.
fn all_of(
    mut snapshot: Box<dyn Snapshot>,
    runtime: &Handle,
) -> impl Iterator<Item = Result<Entry, StoreError>> {
    let mut waiting = Vec::new().into_iter();
    std::iter::from_fn(move || {
        if waiting.len() == 0 {
            match runtime.block_on(snapshot.next()) {
                Ok(next) => waiting = next.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        waiting.next().map(Ok)
    })
}
