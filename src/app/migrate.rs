//! `acme-proxy migrate`: all records from the embedded store into a database, or back, while no daemon has either open.
//!
//! What is read back must be what was written before it counts. Whatever ends it on the way leaves no records, and it is
//! begun anew; where the records were they stay.

use anyhow::bail;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::app::backup::{check_no_store, make_store};
use crate::app::control::{check_owner, is_missing};
use crate::config::Place;
use crate::store::moving::Tally;
use crate::store::postgres::{self, PostgresStore};
use crate::store::sled::SledStore;
use crate::store::{Entry, Settings, Snapshot, Store as _, StoreError};

/// From where to where.
pub struct Migration {
    /// Where the records are.
    pub from: Place,
    /// Where they are to be. There are none.
    pub to: Place,
    /// Whether it is only to be said what would be done.
    pub dry_run: bool,
}

/// Moves the records, and gives what is to be said about it.
///
/// # Errors
///
/// Why not, in one sentence.
pub async fn migrate(migration: Migration) -> anyhow::Result<String> {
    let Migration { from, to, dry_run } = migration;
    let (tally, from, to) = match (from, to) {
        (Place::Directory(from), Place::Database(to)) => {
            let tally = into_database(&from, &to, dry_run).await?;
            (tally, from.path.display().to_string(), to.connection.place())
        }
        (Place::Database(from), Place::Directory(to)) => {
            let tally = into_directory(&from, &to, dry_run).await?;
            (tally, from.connection.place(), to.path.display().to_string())
        }
        (Place::Directory(_), Place::Directory(_)) | (Place::Database(_), Place::Database(_)) => bail!(
            "--from and --to are of the same kind; a store is copied with acme-proxy backup and restore, and a database with \
             PostgreSQL's own means"
        ),
    };
    let done = match dry_run {
        true => "would be moved; nothing was written",
        false => "moved, read back, and found the same",
    };
    Ok(format!(
        "{from} to {to}: {tally}; {done}.\nWhere they were they are still: start no acme-proxy on both.\n"
    ))
}

async fn into_database(from: &Settings, to: &postgres::Settings, dry_run: bool) -> anyhow::Result<Tally> {
    if is_missing(&from.path) {
        bail!("there is no store {}", from.path.display());
    }
    check_owner(&from.path)?;
    let settings = from.clone();
    let store = spawn_blocking(move || SledStore::open(settings)).await??;
    if PostgresStore::has_records_at_rest(to).await? {
        bail!(
            "the database {} has records already: give an empty one",
            to.connection.place()
        );
    }
    let tally = store.tally()?;
    if !dry_run {
        PostgresStore::restore(to, store.entries()).await?;
        let written = PostgresStore::open(to.clone()).await?.tally().await?;
        written.is_all_of(&tally)?;
    }
    Ok(tally)
}

async fn into_directory(from: &postgres::Settings, to: &Settings, dry_run: bool) -> anyhow::Result<Tally> {
    check_no_store(&to.path)?;
    if !PostgresStore::has_records_at_rest(from).await? {
        bail!("the database {} has no records", from.connection.place());
    }
    let database = PostgresStore::open(from.clone()).await?;
    let tally = database.tally().await?;
    if !dry_run {
        let snapshot = database.snapshot().await?;
        let (settings, given, runtime) = (to.clone(), tally.clone(), Handle::current());
        spawn_blocking(move || {
            make_store(&settings, |inside| {
                SledStore::restore(inside, all_of(snapshot, &runtime))?;
                Ok(SledStore::open(inside.clone())?.tally()?.is_all_of(&given)?)
            })
        })
        .await??;
    }
    Ok(tally)
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
