//! `acme-proxy policy`: what the policy says, and which rule it is that says so.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::control::{Question, Request};

const EXAMPLES: &str = "\
Examples:
  acme-proxy policy explain www.example.com /etc/acme-proxy/ca.json
  acme-proxy policy explain '*.example.com' --from 10.1.2.3 /etc/acme-proxy/ca.json
  acme-proxy policy explain www.example.com --account fedcba9876543210fedcba9876543210 /etc/acme-proxy/ca.json
  acme-proxy policy explain www.example.com --eab web-team /etc/acme-proxy/ca.json

Exit codes: 0 an order would be taken, 3 it would be refused, 1 wrong flags or unreadable configuration, 2 anything else.";

#[derive(Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what would become of an order for a name, and which rule decides
    #[command(after_help = EXAMPLES)]
    Explain(Explain),
}

#[derive(Args)]
struct Explain {
    /// The name, *.NAME for a wildcard, or an IP address
    name: String,
    /// The configuration
    config: PathBuf,
    /// The account that would order it: its id, or its URL [default: one without an external account key]
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// The client's external account key that an account would be made with to order it
    #[arg(long, value_name = "KID", conflicts_with = "account")]
    eab: Option<String>,
    /// The provisioner [default: the account's; else the one that requires EAB, or the only one]
    #[arg(long, value_name = "NAME")]
    provisioner: Option<String>,
    /// The address that the client would call from [default: rules about clients are not asked]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
}

impl Policy {
    /// The configuration that tells where the store is, and what is to be done.
    pub(crate) fn into_request(self) -> (PathBuf, Request) {
        let Command::Explain(explain) = self.command;
        let question = Question {
            name: explain.name,
            account: explain.account,
            eab: explain.eab,
            provisioner: explain.provisioner,
            from: explain.from,
        };
        (explain.config, Request::ExplainPolicy(question))
    }
}
