//! The schema: made, and brought up to date, one transaction for each step, under a lock that all replicas take. A step
//! that is killed half-way has never begun.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio_postgres::{Client, Row, Transaction};

use crate::store::StoreError;
use crate::store::postgres::connect::{DATABASE, SCHEMA, noted, unavailable};
use crate::store::postgres::fault::{Fault, Told};

/// What leads from each version to the next.
pub(crate) const STEPS: &[&str] = &[include_str!("schema.sql")];

/// For as long as another replica may need for its steps; a step itself may take its time.
const PATIENCE: &str = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '30min'";

/// What stands before all steps. `proof` shows whether a replica has the secret that the records are sealed under.
const BEGINNING: &str = "CREATE TABLE acme_proxy.meta (version integer NOT NULL, proof bytea NOT NULL); \
                         CREATE UNIQUE INDEX ON acme_proxy.meta ((true))";

const META: &str = "SELECT version, proof FROM acme_proxy.meta";

/// What the user may not do that a restoration does, if there is something.
const MISSING_RIGHT: &str = "SELECT CASE \
    WHEN to_regnamespace('acme_proxy') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE') \
      THEN 'permission denied for database ' || current_database() \
    WHEN to_regnamespace('acme_proxy') IS NOT NULL AND to_regclass('acme_proxy.meta') IS NULL \
      AND NOT has_schema_privilege(to_regnamespace('acme_proxy'), 'CREATE') \
      THEN 'permission denied for schema acme_proxy' \
    WHEN NOT has_database_privilege(current_database(), 'TEMPORARY') \
      THEN format('permission denied to create temporary tables in database \"%s\"', current_database()) \
    ELSE (SELECT 'permission denied for table ' || relname FROM pg_class \
      WHERE relnamespace = to_regnamespace('acme_proxy') AND relkind = 'r' AND relname <> 'meta' \
      AND NOT has_table_privilege(oid, 'INSERT') ORDER BY relname LIMIT 1) END";

/// Makes the schema, or brings it up to date.
///
/// # Errors
///
/// [`StoreError::Refused`] if it is newer than these steps, or was made with another secret.
pub(crate) async fn migrate(client: &mut Client, steps: &[&str], proof: &[u8]) -> Result<(), StoreError> {
    while step(client, steps, proof).await? {}
    Ok(())
}

/// Whether the schema is there.
///
/// # Errors
///
/// [`StoreError::Refused`] if it is newer than these steps, or older.
pub(crate) async fn is_made(client: &Client, steps: &[&str]) -> Result<bool, StoreError> {
    let Some(meta) = meta(client).await? else {
        return Ok(false);
    };
    let version: i32 = meta.get(0);
    match done(version, steps)? == steps.len() {
        true => Ok(true),
        false => Err(StoreError::Refused(format!(
            "the database: its tables are of version {version}, and this acme-proxy works with version {}; start the \
             daemon, which brings them up to date",
            steps.len()
        ))),
    }
}

/// How many of the steps have been taken.
fn done(version: i32, steps: &[&str]) -> Result<usize, StoreError> {
    let known = steps.len();
    match usize::try_from(version) {
        Ok(done) if done <= known => Ok(done),
        _ => {
            let detail =
                format!("its schema is of version {version}, and this acme-proxy knows none after {known}");
            Err(noted(Told::new("the database", Fault::Schema, &detail)))
        }
    }
}

/// Takes one step. Gives whether there may be another.
async fn step(client: &mut Client, steps: &[&str], proof: &[u8]) -> Result<bool, StoreError> {
    let transaction = client.transaction().await.map_err(|e| unavailable(&e))?;
    run(&transaction, PATIENCE).await?;
    run(
        &transaction,
        "SELECT pg_advisory_xact_lock(3, hashtext('acme_proxy'))",
    )
    .await?;
    if !exists(&transaction, "to_regclass('acme_proxy.meta')").await? {
        // Where it is there already, the right to make one may be missing.
        if !exists(&transaction, "to_regnamespace('acme_proxy')").await? {
            run(&transaction, &format!("CREATE SCHEMA {SCHEMA}")).await?;
        }
        run(&transaction, BEGINNING).await?;
        transaction
            .execute("INSERT INTO acme_proxy.meta VALUES (0, $1)", &[&proof])
            .await
            .map_err(|e| unavailable(&e))?;
    }
    let meta = transaction.query_one(META, &[]).await;
    let done = read(&meta.map_err(|e| unavailable(&e))?, steps, proof)?;
    let Some(next) = steps.get(done) else {
        return Ok(false);
    };
    run(&transaction, next).await?;
    run(&transaction, "UPDATE acme_proxy.meta SET version = version + 1").await?;
    transaction.commit().await.map_err(|e| unavailable(&e))?;
    Ok(true)
}

/// How many steps have been taken.
fn read(meta: &Row, steps: &[&str], proof: &[u8]) -> Result<usize, StoreError> {
    let (version, stored): (i32, Vec<u8>) = (meta.get(0), meta.get(1));
    if verify_slices_are_equal(&stored, proof).is_err() {
        return Err(noted(Told::new("the database", Fault::DifferentSecret, "")));
    }
    done(version, steps)
}

/// How many steps have been taken; `None` if there is no schema. Changes nothing.
///
/// # Errors
///
/// As [`migrate`].
pub(crate) async fn look(client: &Client, steps: &[&str], proof: &[u8]) -> Result<Option<usize>, StoreError> {
    let meta = meta(client).await?;
    meta.map(|meta| read(&meta, steps, proof)).transpose()
}

async fn meta(client: &Client) -> Result<Option<Row>, StoreError> {
    let found = client
        .query_one("SELECT to_regclass('acme_proxy.meta') IS NOT NULL", &[])
        .await;
    match found.map_err(|e| unavailable(&e))?.get::<_, bool>(0) {
        true => client.query_opt(META, &[]).await.map_err(|e| unavailable(&e)),
        false => Ok(None),
    }
}

/// Whether the user may make what is missing in the database, and write into what is there. Changes nothing.
///
/// # Errors
///
/// [`StoreError::Refused`], with the server's words for what it would not let us do.
pub(crate) async fn check_rights(client: &Client) -> Result<(), StoreError> {
    let missing = client.query_one(MISSING_RIGHT, &[]).await;
    match missing.map_err(|e| unavailable(&e))?.get::<_, Option<&str>>(0) {
        None => Ok(()),
        Some(what) => Err(noted(Told::new(
            DATABASE,
            Fault::Rights,
            &format!("42501 {what}"),
        ))),
    }
}

async fn run(transaction: &Transaction<'_>, sql: &str) -> Result<(), StoreError> {
    transaction.batch_execute(sql).await.map_err(|e| unavailable(&e))
}

async fn exists(transaction: &Transaction<'_>, what: &str) -> Result<bool, StoreError> {
    let found = transaction
        .query_one(&format!("SELECT {what} IS NOT NULL"), &[])
        .await;
    Ok(found.map_err(|e| unavailable(&e))?.get(0))
}

/// Whether what the database acknowledges survives a power cut of its host, by its settings.
///
/// # Errors
///
/// [`StoreError::Refused`], with what to set.
pub(crate) async fn check_durability(client: &Client) -> Result<(), StoreError> {
    let settings = client
        .query_one(
            "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
             current_setting('synchronous_commit')",
            &[],
        )
        .await
        .map_err(|e| unavailable(&e))?;
    check_settings(settings.get(0), settings.get(1), settings.get(2)).map_err(StoreError::Refused)
}

fn check_settings(fsync: &str, full_page_writes: &str, synchronous_commit: &str) -> Result<(), String> {
    let lost = "orders and certificates that were acknowledged would be lost with the power";
    for (name, value) in [("fsync", fsync), ("full_page_writes", full_page_writes)] {
        if value != "on" {
            return Err(format!(
                "the database has {name} = {value}: {lost}; set {name} = on in postgresql.conf"
            ));
        }
    }
    match synchronous_commit {
        "on" | "remote_apply" => Ok(()),
        value => Err(format!(
            "the database has synchronous_commit = {value} for us: {lost}, or with the primary; set it to on, in \
             postgresql.conf or by ALTER ROLE or ALTER DATABASE where that was done"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f40_a_database_that_forgets_what_it_acknowledged_is_refused() {
        for synchronous in ["on", "remote_apply"] {
            assert_eq!(check_settings("on", "on", synchronous), Ok(()));
        }
        for (fsync, pages, synchronous, named) in [
            ("off", "on", "on", "set fsync = on"),
            ("on", "off", "on", "set full_page_writes = on"),
            ("on", "on", "off", "synchronous_commit = off"),
            ("on", "on", "local", "synchronous_commit = local"),
            ("on", "on", "remote_write", "synchronous_commit = remote_write"),
        ] {
            let why = check_settings(fsync, pages, synchronous).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }
}
