//! Statements: each is one round trip and one transaction. What breaks on the way is told apart: what was not done is
//! done again, and what may have been done is looked up before anybody hears of it (SECURITY F41).

use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool::managed::Object;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::acme::random::random_bytes;
use crate::store::StoreError;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::connect::{DATABASE, noted, unavailable};
use crate::store::postgres::fault::{Fault, Told};

/// A parameter of a statement.
pub(crate) type Value<'a> = &'a (dyn ToSql + Sync);

/// How often a statement that was certainly not done is begun again: the connection may be one to a server that has
/// gone, and so may the next one.
const ATTEMPTS: u32 = 3;

/// How long a statement may take by our own clock: longer than the server lets it.
const DEADLINE: Duration = Duration::from_secs(15);

/// How often, and how far apart, the outcome of a change is looked up: for as long as a failover takes.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is durable.
    Written,
    /// Another version is stored.
    Conflict,
    /// Another record has what must be unique.
    Taken,
    /// The lease is not held.
    Lost,
}

/// Why a statement has no answer.
enum Broken {
    /// It was not done, and would not be done again either.
    Refused(StoreError),
    /// It was not done. The next time it may be.
    NotDone(StoreError),
    /// It may have been done.
    Unknown(StoreError),
    /// Another record has what must be unique.
    Taken,
}

impl PostgresStore {
    /// Makes a change by a function of `schema.sql` that takes a name for the change as its first parameter.
    pub(crate) async fn change(&self, sql: &str, values: &[Value<'_>]) -> Result<Outcome, StoreError> {
        let mut latest = None;
        for _ in 0..ATTEMPTS {
            let attempt = random_bytes::<16>();
            let attempt = attempt.as_slice();
            let mut all: Vec<Value<'_>> = vec![&attempt];
            all.extend(values);
            match self.ask(sql, &all).await {
                Ok(rows) => return self.outcome(&rows),
                Err(Broken::Taken) => return Ok(Outcome::Taken),
                Err(Broken::Refused(error)) => return Err(error),
                Err(Broken::NotDone(error)) => latest = Some(error),
                Err(Broken::Unknown(error)) => match self.was_written(attempt).await {
                    Some(true) => {
                        self.commits.fetch_add(1, Ordering::Relaxed);
                        return Ok(Outcome::Written);
                    }
                    Some(false) => latest = Some(error),
                    None => return Err(error),
                },
            }
        }
        Err(latest.unwrap_or_else(not_asked))
    }

    /// Makes a change that needs no name, because nothing is lost if its outcome is not known.
    pub(crate) async fn light_change(&self, sql: &str, values: &[Value<'_>]) -> Result<Outcome, StoreError> {
        self.outcome(&self.rows(sql, values).await?)
    }

    /// Rows. A statement that may have been done is done again, so it must be one that does no harm twice.
    pub(crate) async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut latest = None;
        for _ in 0..ATTEMPTS {
            match self.ask(sql, values).await {
                Ok(rows) => return Ok(rows),
                Err(Broken::Taken) => return Err(StoreError::Conflict),
                Err(Broken::Refused(error)) => return Err(error),
                Err(Broken::NotDone(error) | Broken::Unknown(error)) => latest = Some(error),
            }
        }
        Err(latest.unwrap_or_else(not_asked))
    }

    /// The row, if there is one.
    pub(crate) async fn row(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// Rows of a statement that is not done again if it may have been done.
    pub(crate) async fn rows_once(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut latest = None;
        for _ in 0..ATTEMPTS {
            match self.ask(sql, values).await {
                Ok(rows) => return Ok(rows),
                Err(Broken::Taken) => return Err(StoreError::Conflict),
                Err(Broken::Refused(error) | Broken::Unknown(error)) => return Err(error),
                Err(Broken::NotDone(error)) => latest = Some(error),
            }
        }
        Err(latest.unwrap_or_else(not_asked))
    }

    fn outcome(&self, rows: &[Row]) -> Result<Outcome, StoreError> {
        let said = rows.first().map(|row| row.try_get::<_, &str>(0));
        match said {
            Some(Ok("written")) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok(Outcome::Written)
            }
            Some(Ok("conflict")) => Ok(Outcome::Conflict),
            Some(Ok("taken")) => Ok(Outcome::Taken),
            Some(Ok("lost")) => Ok(Outcome::Lost),
            _ => Err(StoreError::Failed(
                "the database's functions are not those of this version".to_owned(),
            )),
        }
    }

    /// Whether the change of that name was written; if not, it never will be. `None` if nobody can tell for too long.
    async fn was_written(&self, attempt: &[u8]) -> Option<bool> {
        for _ in 0..LOOKS {
            if let Ok(rows) = self.ask("SELECT was_written($1)", &[&attempt]).await {
                return rows.first().and_then(|row| row.try_get(0).ok());
            }
            sleep(BETWEEN_LOOKS).await;
        }
        None
    }

    async fn ask(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Broken> {
        // That waits for hosts that do not answer, so it is not tried again here.
        let client = self.connections.get().await.map_err(Broken::Refused)?;
        let statement = match timeout(DEADLINE, client.prepare_cached(sql)).await {
            Ok(Ok(statement)) => statement,
            Ok(Err(error)) => {
                let refused = error.as_db_error().is_some() && !is_of_connection(&error);
                let error = unavailable(&error);
                return Err(match refused {
                    true => Broken::Refused(error),
                    false => {
                        drop(Object::take(client));
                        Broken::NotDone(error)
                    }
                });
            }
            Err(_) => {
                drop(Object::take(client));
                return Err(Broken::NotDone(silent()));
            }
        };
        self.statements.fetch_add(1, Ordering::Relaxed);
        match timeout(DEADLINE, client.query(&statement, values)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                let broken = broken(&error);
                if client.is_closed() || is_of_connection(&error) {
                    drop(Object::take(client));
                }
                Err(broken)
            }
            Err(_) => {
                // The server may still be at it.
                drop(Object::take(client));
                Err(Broken::Unknown(silent()))
            }
        }
    }
}

fn not_asked() -> StoreError {
    StoreError::Unavailable("the database was not asked".to_owned())
}

fn silent() -> StoreError {
    let detail = format!("not within {} s", DEADLINE.as_secs());
    noted(Told::new(DATABASE, Fault::Unreachable, &detail))
}

fn broken(error: &tokio_postgres::Error) -> Broken {
    let ours = unavailable(error);
    let Some(code) = error.code() else {
        return Broken::Unknown(ours);
    };
    match *code {
        SqlState::UNIQUE_VIOLATION => Broken::Taken,
        // The transaction was rolled back for the sake of another one, or never had a place to write to (SECURITY F42).
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::READ_ONLY_SQL_TRANSACTION => Broken::NotDone(ours),
        _ if is_of_connection(error) => Broken::Unknown(ours),
        _ => Broken::Refused(ours),
    }
}

/// Whether the connection is of no use after this: the server ends it, or is not the one to write to.
fn is_of_connection(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        None | Some("25006" | "40003" | "57P01" | "57P02" | "57P03" | "57P05") => true,
        Some(code) => code.starts_with("08"),
    }
}
