//! `acme-proxy upstream`: the accounts at the CAs.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use crate::app::account_file;
use crate::app::control::{Request, UpstreamCommand, UpstreamRequest};

const EXAMPLES: &str = "\
Examples:
  acme-proxy upstream show /etc/acme-proxy/ca.json
  acme-proxy upstream rotate-key /etc/acme-proxy/ca.json
  acme-proxy upstream export account.json /etc/acme-proxy/ca.json
  acme-proxy upstream import account.json /etc/acme-proxy/ca.json
  acme-proxy upstream import ~/.lego/accounts/ca.example/me@example.com /etc/acme-proxy/ca.json
  acme-proxy upstream register --again --upstream spare /etc/acme-proxy/ca.json";

const SHOW_EXAMPLES: &str = "\
Examples:
  acme-proxy upstream show /etc/acme-proxy/ca.json
  acme-proxy upstream show --upstream default /etc/acme-proxy/ca.json";

const REGISTER_EXAMPLES: &str = "\
Examples:
  acme-proxy upstream register /etc/acme-proxy/ca.json
  acme-proxy upstream register --again --upstream spare /etc/acme-proxy/ca.json";

const ROTATE_KEY_EXAMPLES: &str = "\
Examples:
  acme-proxy upstream rotate-key /etc/acme-proxy/ca.json";

const EXPORT_EXAMPLES: &str = "\
Examples:
  acme-proxy upstream export account.json /etc/acme-proxy/ca.json
  acme-proxy upstream export - /etc/acme-proxy/ca.json";

const IMPORT_EXAMPLES: &str = "\
Examples:
  acme-proxy upstream import account.json /etc/acme-proxy/ca.json
  acme-proxy upstream import ~/.lego/accounts/ca.example/me@example.com /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Upstream {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the accounts, without their secrets; asks no CA
    Show(Show),
    /// Registers now, if there is no account, and shows what the CA says
    Register(Register),
    /// Gives the account another key, at the CA and here
    RotateKey(RotateKey),
    /// Writes the account with its private key into a file
    Export(Export),
    /// Takes an account from elsewhere, once the CA has said that its key is good
    Import(Import),
}

#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// The configuration
    config: PathBuf,
    /// The upstream [default: all]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
}

#[derive(Args)]
#[command(after_help = REGISTER_EXAMPLES)]
struct Register {
    /// The configuration
    config: PathBuf,
    #[command(flatten)]
    upstream: Named,
    /// Makes another account if there is one: SPENDS THE EAB ONCE MORE. The account before is kept for revocation
    #[arg(long)]
    again: bool,
}

#[derive(Args)]
#[command(after_help = ROTATE_KEY_EXAMPLES)]
struct RotateKey {
    /// The configuration
    config: PathBuf,
    #[command(flatten)]
    upstream: Named,
}

#[derive(Args)]
#[command(after_help = EXPORT_EXAMPLES)]
struct Export {
    /// A file that does not exist yet, or - for the standard output
    file: PathBuf,
    /// The configuration
    config: PathBuf,
    #[command(flatten)]
    upstream: Named,
}

#[derive(Args)]
#[command(after_help = IMPORT_EXAMPLES)]
struct Import {
    /// What export has written, or the account's directory of certbot, lego or acme.sh
    file: PathBuf,
    /// The configuration
    config: PathBuf,
    #[command(flatten)]
    upstream: Named,
    /// Puts it in the place of the account that is there, which is kept for revocation
    #[arg(long)]
    replace: bool,
}

#[derive(Args)]
struct Named {
    /// The upstream; needed where there are several
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
}

/// A command, ready to be carried out.
pub(crate) struct Prepared {
    /// Tells where the store is.
    pub(crate) config: PathBuf,
    pub(crate) request: Request,
    /// Where the answer goes, if not to the terminal.
    pub(crate) file: Option<PathBuf>,
}

impl Upstream {
    pub(crate) fn prepared(self) -> anyhow::Result<Prepared> {
        let (config, upstream, command, file) = match self.command {
            Command::Show(show) => (show.config, show.upstream, UpstreamCommand::Show, None),
            Command::Register(Register {
                config,
                upstream,
                again,
            }) => (
                config,
                upstream.upstream,
                UpstreamCommand::Register { again },
                None,
            ),
            Command::RotateKey(RotateKey { config, upstream }) => {
                (config, upstream.upstream, UpstreamCommand::RotateKey, None)
            }
            Command::Export(Export {
                file,
                config,
                upstream,
            }) => {
                let file = Some(file).filter(|file| file.as_os_str() != "-");
                if let Some(file) = file.as_deref().filter(|file| file.symlink_metadata().is_ok()) {
                    bail!("{} exists; nothing is overwritten", file.display());
                }
                (config, upstream.upstream, UpstreamCommand::Export, file)
            }
            Command::Import(Import {
                file,
                config,
                upstream,
                replace,
            }) => {
                let account = account_file::read(&file)?;
                let command = UpstreamCommand::Import { account, replace };
                (config, upstream.upstream, command, None)
            }
        };
        let request = Request::Upstream(UpstreamRequest { upstream, command });
        Ok(Prepared {
            config,
            request,
            file,
        })
    }
}

/// Writes a secret where nothing was.
pub(crate) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("{} can not be written", path.display()))
}
