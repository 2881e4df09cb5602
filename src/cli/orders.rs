//! `acme-proxy orders`: how far orders have come, and why one is stuck.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::app::control::{Operator, OrderFilter, OrdersRequest, Request};
use crate::cli::listing::Listing;
use crate::cli::print;

const EXAMPLES: &str = "\
Examples:
  acme-proxy orders list --stuck /etc/acme-proxy/ca.json
  acme-proxy orders show 0123456789abcdef0123456789abcdef /etc/acme-proxy/ca.json";

const LIST_EXAMPLES: &str = "\
Examples:
  acme-proxy orders list --stuck /etc/acme-proxy/ca.json
  acme-proxy orders list --name www.example.com --status invalid /etc/acme-proxy/ca.json
  acme-proxy orders list --account fedcba9876543210fedcba9876543210 --json --limit 100 /etc/acme-proxy/ca.json";

const SHOW_EXAMPLES: &str = "\
Examples:
  acme-proxy orders show 0123456789abcdef0123456789abcdef /etc/acme-proxy/ca.json
  acme-proxy orders show 0123456789abcdef0123456789abcdef --json /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Orders {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists orders, in no order
    List(List),
    /// Shows what an order waits for, and each of its steps with its time and error
    Show(Show),
}

#[derive(Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// The configuration
    config: PathBuf,
    /// Those for this name or address; *.example.com: those for names that end so
    #[arg(long)]
    name: Option<String>,
    /// Those of this account
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Those with this status
    #[arg(long)]
    status: Option<Status>,
    /// Those that the CA is at, and those whose validation has failed and is tried again
    #[arg(long)]
    stuck: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// The order's id: the 32 hexadecimal digits of its URL
    id: String,
    /// The configuration
    config: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// RFC 8555 §7.1.6.
#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
        }
    }
}

impl Orders {
    /// The configuration that tells where the store is.
    pub(crate) fn config(&self) -> &Path {
        match &self.command {
            Command::List(list) => &list.config,
            Command::Show(show) => &show.config,
        }
    }

    pub(crate) async fn run(self, operator: &mut Operator) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => {
                let filter = OrderFilter {
                    name: list.name,
                    account: list.account,
                    status: list.status.map(|status| status.name().to_owned()),
                    stuck: list.stuck,
                };
                let json = list.listing.json;
                let request = |part| {
                    let filter = filter.clone();
                    Request::Orders(OrdersRequest::List { filter, part, json })
                };
                list.listing
                    .print(operator, "there is no such order", request)
                    .await
            }
            Command::Show(Show { id, json, .. }) => {
                let request = Request::Orders(OrdersRequest::Show { id, json });
                print(&operator.carry_out(request).await?)
            }
        }
    }
}
