//! `acme-proxy audit`: looks at the audit log's files. Needs neither the daemon nor its configuration.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::verify_audit_log;

const EXAMPLES: &str = "\
Examples:
  acme-proxy audit verify /var/log/acme-proxy/audit.log
  acme-proxy audit verify audit.log.2 audit.log.1 audit.log   the oldest file first

The hash of the last event, kept elsewhere, shows later that nothing was cut off at the end.";

/// What is to be done.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether every event is there as it was written, or which one is not
    Verify {
        /// The log's files, the oldest first
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Does it.
pub(crate) fn run(audit: &Audit) -> anyhow::Result<()> {
    let Command::Verify { files } = &audit.command;
    let found = verify_audit_log(files)?;
    Ok(write!(std::io::stdout(), "{found}")?)
}
