//! `acme-proxy audit`: looks at the audit log's files. Needs neither the daemon nor its configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::{export_for_transparency, verify_audit_log};
use crate::cli::print;

const EXAMPLES: &str = "\
Examples:
  acme-proxy audit verify /var/log/acme-proxy/audit.log
  acme-proxy audit verify audit.log.2 audit.log.1 audit.log   the oldest file first
  acme-proxy audit --ct-export audit.log.1 audit.log   list the certificates, to compare with Certificate Transparency

The hash of the last event, kept elsewhere, shows later that nothing was cut off at the end.";

/// What is to be done.
#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Option<Command>,
    /// Lists the certificates that these files tell of, as CSV, if every event is there as it was written; the oldest
    /// file first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    ct_export: Vec<PathBuf>,
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
    let text = match &audit.command {
        Some(Command::Verify { files }) => verify_audit_log(files),
        None => export_for_transparency(&audit.ct_export),
    };
    print(&text?)
}
