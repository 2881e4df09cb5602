//! `acme-proxy import`: accounts from what was here before.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::import;

const EXAMPLES: &str = "\
Examples:
  acme-proxy import step-ca /var/lib/acme-proxy/db.bbolt /etc/acme-proxy/ca.json --dry-run
  acme-proxy import step-ca /var/lib/acme-proxy/db.bbolt /etc/acme-proxy/ca.json

Stop step-ca (or the Go acme-proxy) first. An import that is repeated changes nothing. A badger database has to become
a bbolt file first: docs/MIGRATION.md.";

#[derive(Args)]
pub(crate) struct Import {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes over the ACME accounts of a step-ca or a Go acme-proxy, so that clients keep their account URLs
    StepCa(StepCa),
}

#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct StepCa {
    /// The bbolt file that db.dataSource names in its ca.json
    path: PathBuf,
    /// The configuration
    config: PathBuf,
    /// Says what would be done, and writes nothing
    #[arg(long)]
    dry_run: bool,
    /// The provisioner of accounts whose own is not written down, as in old versions [default: the only one]
    #[arg(long, value_name = "NAME")]
    provisioner: Option<String>,
}

impl Import {
    /// The configuration that tells where the store is, and what is to be imported.
    pub(crate) fn into_parts(self) -> (PathBuf, import::Import) {
        let Command::StepCa(step_ca) = self.command;
        let import = import::Import {
            path: step_ca.path,
            provisioner: step_ca.provisioner,
            dry_run: step_ca.dry_run,
        };
        (step_ca.config, import)
    }
}
