//! `acme-proxy backup` and `acme-proxy restore`: the store as a file.

use std::path::PathBuf;

use clap::Args;

const BACKUP_EXAMPLES: &str = "\
Examples:
  acme-proxy backup /var/backups/acme-proxy-$(date +%F) /etc/acme-proxy/ca.json";

const RESTORE_EXAMPLES: &str = "\
Examples:
  systemctl stop acme-proxy
  mv /var/lib/acme-proxy/db /var/lib/acme-proxy/db.old
  sudo -u acme-proxy acme-proxy restore /var/backups/acme-proxy-2026-11-22 /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct Backup {
    /// The file to make; it must not exist. It will hold secret keys
    pub(crate) file: PathBuf,
    /// The configuration
    pub(crate) config: PathBuf,
}

#[derive(Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct Restore {
    /// The file that acme-proxy backup has made
    pub(crate) file: PathBuf,
    /// The configuration; the store that it names must not exist
    pub(crate) config: PathBuf,
}
