//! `acme-proxy accounts`: who asks for certificates.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};

use crate::app::control::{AccountFilter, AccountsRequest, Operator, Request};
use crate::cli::listing::Listing;
use crate::cli::print;

const EXAMPLES: &str = "\
Examples:
  acme-proxy accounts list --contact example.com /etc/acme-proxy/ca.json
  acme-proxy accounts show fedcba9876543210fedcba9876543210 /etc/acme-proxy/ca.json
  acme-proxy accounts deactivate fedcba9876543210fedcba9876543210 --yes /etc/acme-proxy/ca.json";

const LIST_EXAMPLES: &str = "\
Examples:
  acme-proxy accounts list --status deactivated /etc/acme-proxy/ca.json
  acme-proxy accounts list --contact admin@example.com --json /etc/acme-proxy/ca.json
  acme-proxy accounts list --key-thumbprint NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs /etc/acme-proxy/ca.json";

const SHOW_EXAMPLES: &str = "\
Examples:
  acme-proxy accounts show fedcba9876543210fedcba9876543210 /etc/acme-proxy/ca.json
  acme-proxy accounts show fedcba9876543210fedcba9876543210 --json /etc/acme-proxy/ca.json";

const DEACTIVATE_EXAMPLES: &str = "\
Examples:
  acme-proxy accounts deactivate fedcba9876543210fedcba9876543210 --yes /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Accounts {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists accounts, in no order
    List(List),
    /// Shows an account, and how many orders it has
    Show(Show),
    /// Ends an account for good; its certificates stay valid
    Deactivate(Deactivate),
}

#[derive(Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// The configuration
    config: PathBuf,
    /// Those with a contact that has this in it
    #[arg(long, value_name = "TEXT")]
    contact: Option<String>,
    /// Those with this status
    #[arg(long)]
    status: Option<Status>,
    /// The one whose key has this RFC 7638 thumbprint
    #[arg(long, value_name = "THUMBPRINT", allow_hyphen_values = true)]
    key_thumbprint: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// The account's id, or its URL
    id: String,
    /// The configuration
    config: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = DEACTIVATE_EXAMPLES)]
struct Deactivate {
    /// The account's id, or its URL
    id: String,
    /// The configuration
    config: PathBuf,
    /// Does it: an account can not be activated again
    #[arg(long)]
    yes: bool,
}

/// RFC 8555 §7.1.6.
#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Valid,
    Deactivated,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Deactivated => "deactivated",
        }
    }
}

impl Accounts {
    /// The configuration that tells where the store is.
    pub(crate) fn config(&self) -> &Path {
        match &self.command {
            Command::List(list) => &list.config,
            Command::Show(show) => &show.config,
            Command::Deactivate(deactivate) => &deactivate.config,
        }
    }

    pub(crate) async fn run(self, operator: &mut Operator) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => {
                let filter = AccountFilter {
                    contact: list.contact,
                    status: list.status.map(|status| status.name().to_owned()),
                    key_thumbprint: list.key_thumbprint,
                };
                let json = list.listing.json;
                let request = |part| {
                    let filter = filter.clone();
                    Request::Accounts(AccountsRequest::List { filter, part, json })
                };
                list.listing
                    .print(operator, "there is no such account", request)
                    .await
            }
            Command::Show(Show { id, json, .. }) => {
                let request = Request::Accounts(AccountsRequest::Show { id, json });
                print(&operator.carry_out(request).await?)
            }
            Command::Deactivate(Deactivate { id, yes, .. }) => {
                if !yes {
                    let request = Request::Accounts(AccountsRequest::Show { id, json: false });
                    let account = operator.carry_out(request).await?;
                    bail!(
                        "an account can not be activated again; to deactivate this one, add --yes:\n{}",
                        account.trim_end()
                    );
                }
                let request = Request::Accounts(AccountsRequest::Deactivate { id });
                print(&operator.carry_out(request).await?)
            }
        }
    }
}
