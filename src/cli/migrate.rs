//! `acme-proxy migrate`: from the embedded store to a database, and back.

use std::process::ExitCode;

use clap::Args;

use crate::app::migrate::{Migration, migrate};
use crate::cli::{EXIT_FAILURE, ended, fail, print, warn};
use crate::config::{Written, place};

const EXAMPLES: &str = "\
Examples:
  systemctl stop acme-proxy
  sudo -u acme-proxy acme-proxy migrate --from sled:/var/lib/acme-proxy/db --to postgresql://acmeproxy@db1,db2/acmeproxy --secret file:/etc/acme-proxy/db-secret --password file:/etc/acme-proxy/db-password --dry-run
  sudo -u acme-proxy acme-proxy migrate --from postgresql://acmeproxy@db1,db2/acmeproxy --to sled:/var/lib/acme-proxy/db --secret file:/etc/acme-proxy/db-secret --password file:/etc/acme-proxy/db-password

Stop every acme-proxy first: it refuses as long as one is connected. What is there already is never overwritten, and where the
records were they stay. If it is cut off, no acme-proxy starts on what it has left; give the same command again: it removes
that and begins anew, or finds that all is done (docs/HIGH-AVAILABILITY.md).";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Migrate {
    /// Where the records are: sled:DIRECTORY, or the URL of a database as in db.dataSource
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Where they are to be; there must be none
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// What db.secret says for the database
    #[arg(long, value_name = "file:PATH|env:NAME")]
    secret: Option<String>,
    /// What db.password says for the database
    #[arg(long, value_name = "file:PATH|env:NAME")]
    password: Option<String>,
    /// Says what would be moved, or why it would be refused, and writes nothing
    #[arg(long)]
    dry_run: bool,
}

/// Moves the records.
pub(crate) fn run(migration: &Migrate) -> ExitCode {
    let read = |flag, written| {
        let written = Written {
            place: written,
            password: migration.password.as_deref(),
            secret: migration.secret.as_deref(),
        };
        place(flag, &written)
    };
    let ((from, of_from), (to, of_to)) = match (read("--from", &migration.from), read("--to", &migration.to))
    {
        (Ok(from), Ok(to)) => (from, to),
        (Err(error), _) | (_, Err(error)) => return fail(&error, error.exit_code()),
    };
    for warning in of_from.iter().chain(&of_to) {
        warn(warning);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let moved = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(migrate(Migration {
            from,
            to,
            dry_run: migration.dry_run,
        }))
    });
    match moved {
        Ok(text) => ended(print(&text)),
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}
