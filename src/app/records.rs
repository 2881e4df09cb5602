//! Opens the store that the configuration names: the embedded one, or the database that replicas share.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::health::STORE;
use crate::server::control::ControlSocket;
use crate::store::postgres::PostgresStore;
use crate::store::sled::SledStore;
use crate::store::{Store, StoreError};
use crate::worker::database::show_faults;

/// How long a start waits for a database that is not there yet, or does not let us in: longer than a failover takes, and so
/// long that the metrics are read meanwhile, and that systemd does not take the failed starts for a loop
/// (`StartLimitIntervalSec=`).
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Opens it, or says why not.
pub(crate) async fn open(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    if let Some(database) = &config.database {
        return Ok(Arc::new(PostgresStore::open(database.clone()).await?));
    }
    let settings = config.store.clone();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(settings)).await;
    let store = opened.map_err(|error| StoreError::Failed(error.to_string()))??;
    Ok(Arc::new(store))
}

/// The same for a daemon that starts: perhaps together with its database, or while that changes its primary, or a password.
/// The metrics say what it waits for.
pub(crate) async fn open_patiently(config: &Config, metrics: &Metrics) -> Result<Arc<dyn Store>, StoreError> {
    patiently(metrics, || open(config)).await
}

/// Asks a store that may be away for a moment.
pub(crate) async fn patiently<T, F>(metrics: &Metrics, mut open: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    let mut said = None;
    loop {
        match open().await {
            Err(StoreError::Unavailable(why) | StoreError::Refused(why)) if begun.elapsed() < PATIENCE => {
                show_faults(metrics);
                metrics.health.report(STORE, Err(why.clone()));
                if said.as_ref() != Some(&why) {
                    tracing::warn!(error = %why, "the database can not be used yet; the start goes on trying");
                }
                said = Some(why);
                sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// The socket for the operator's commands. The embedded store is this process's alone, and so is its directory.
pub(crate) fn control_socket(config: &Config) -> io::Result<ControlSocket> {
    let directory = &config.store.path;
    if config.database.is_some() {
        make_directory(directory)?;
        if UnixStream::connect(ControlSocket::path_in(directory)).is_ok() {
            let text = "another acme-proxy of this host answers there; give this one a db.socket_directory of its own";
            return Err(io::Error::new(ErrorKind::AddrInUse, text));
        }
    }
    ControlSocket::bind(directory)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreError {
        StoreError::Unavailable("db1:5432: nothing listens there".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn f40_a_start_waits_for_its_database_for_half_a_minute_and_then_says_what_is_wrong() {
        let mut attempts = 0;
        let metrics = Metrics::new().unwrap();
        let opened = patiently(&metrics, || {
            attempts += 1;
            let result = if attempts < 10 { Err(away()) } else { Ok(attempts) };
            async move { result }
        });
        assert_eq!(opened.await, Ok(10));
        let begun = Instant::now();
        let never = patiently(&metrics, || async { Err::<(), _>(away()) }).await;
        assert_eq!(never, Err(away()));
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(metrics.health.missing()[STORE], "db1:5432: nothing listens there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_what_can_be_put_right_in_the_database_and_for_nothing_else() {
        let metrics = Metrics::new().unwrap();
        let wrong = StoreError::Refused("the password is wrong".to_owned());
        let damaged = StoreError::Corrupt("a record can not be read".to_owned());
        for (error, wait) in [(wrong, PATIENCE), (damaged, Duration::ZERO)] {
            let begun = Instant::now();
            let ended = patiently(&metrics, || async { Err::<(), _>(error.clone()) }).await;
            assert_eq!((ended, begun.elapsed()), (Err(error), wait));
        }
    }
}
