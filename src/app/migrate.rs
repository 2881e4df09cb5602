//! `acme-proxy migrate`: all records from the embedded store into a database, or back, while no daemon has either open.
//!
//! What is read back must be what was written before it counts. Whatever ends it on the way leaves no records, and it is
//! begun anew; where the records were they stay.

use anyhow::bail;
use tokio::task::spawn_blocking;

use crate::app::backup::{check_no_store, make_store};
use crate::app::control::{check_owner, is_missing};
use crate::config::Place;
use crate::store::moving::{self, Records, Tally};
use crate::store::postgres::{self, PostgresStore};
use crate::store::sled::SledStore;
use crate::store::sled::moving::entries;
use crate::store::sled::record::Writes;
use crate::store::{Entry, Settings};

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
    if PostgresStore::look(to).await? {
        bail!(
            "the database {} has records already: give an empty one",
            to.connection.place()
        );
    }
    let (giver, records) = moving::channel();
    let settings = from.clone();
    spawn_blocking(move || giver.give_all(SledStore::open(settings).as_ref().map(SledStore::records)));
    Ok(match dry_run {
        true => records.counted().await?,
        false => PostgresStore::fill(to.clone(), records).await?,
    })
}

async fn into_directory(from: &postgres::Settings, to: &Settings, dry_run: bool) -> anyhow::Result<Tally> {
    check_no_store(&to.path)?;
    if !PostgresStore::look(from).await? {
        bail!("the database {} has no records", from.connection.place());
    }
    let (giver, records) = moving::channel();
    let database = from.clone();
    tokio::spawn(PostgresStore::give_all(database, giver));
    if dry_run {
        return Ok(records.counted().await?);
    }
    let settings = to.clone();
    spawn_blocking(move || write_all(&settings, records)).await?
}

/// Makes a store of the records.
fn write_all(settings: &Settings, mut records: Records) -> anyhow::Result<Tally> {
    let mut given = Tally::default();
    make_store(settings, |inside| {
        let mut parts = Writes::new();
        let mut next_part = || -> anyhow::Result<Option<Entry>> {
            while parts.is_empty() {
                let Some(record) = records.blocking_next()? else {
                    return Ok(None);
                };
                given.add(&record);
                entries(&record, &mut parts)?;
            }
            let part = parts.pop_first().and_then(|(key, value)| Some((key, value?)));
            Ok(part.map(|(key, value)| Entry {
                key,
                value: value.to_vec(),
            }))
        };
        SledStore::restore(inside, std::iter::from_fn(|| next_part().transpose()))?;
        let store = SledStore::open(inside.clone())?;
        let mut found = Tally::default();
        for record in store.records() {
            found.add(&record?);
        }
        found.is_all_of(&given)?;
        Ok(())
    })?;
    Ok(given)
}
