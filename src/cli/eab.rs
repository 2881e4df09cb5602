//! `acme-proxy eab`: the external account keys that the daemon's own clients register with.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::control::{NewKey, Request};
use crate::config::GoDuration;

const EXAMPLES: &str = "\
Examples:
  acme-proxy eab add --kid web-team --allow '*.web.example.com' /etc/acme-proxy/ca.json
  acme-proxy eab list /etc/acme-proxy/ca.json
  acme-proxy eab revoke web-team /etc/acme-proxy/ca.json";

const ADD_EXAMPLES: &str = "\
Examples:
  acme-proxy eab add /etc/acme-proxy/ca.json
  acme-proxy eab add --one-time --expires 72h /etc/acme-proxy/ca.json
  acme-proxy eab add --kid web-team --allow '*.web.example.com' /etc/acme-proxy/ca.json";

const LIST_EXAMPLES: &str = "\
Examples:
  acme-proxy eab list /etc/acme-proxy/ca.json";

const REVOKE_EXAMPLES: &str = "\
Examples:
  acme-proxy eab revoke web-team /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Eab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a key and shows it, this once
    Add(Add),
    /// Shows all keys without their secrets
    List(List),
    /// Revokes a key: no account can be made with it, and those that were can order nothing more
    Revoke(Revoke),
}

#[derive(Args)]
#[command(after_help = ADD_EXAMPLES)]
struct Add {
    /// The key's id [default: a random one]
    #[arg(long)]
    kid: Option<String>,
    /// The key is for one account only
    #[arg(long)]
    one_time: bool,
    /// Its accounts may order only such names and addresses; may be repeated
    #[arg(long, value_name = "NAME|*.NAME|NETWORK")]
    allow: Vec<String>,
    /// Its accounts may not order such names and addresses; may be repeated
    #[arg(long, value_name = "NAME|*.NAME|NETWORK")]
    deny: Vec<String>,
    /// Its accounts may order wildcards although --allow or --deny is given
    #[arg(long)]
    wildcards: bool,
    /// Its clients must call from such a network; may be repeated
    #[arg(long, value_name = "NETWORK")]
    from: Vec<String>,
    /// Its accounts' certificates may be valid for so many days
    #[arg(long, value_name = "DAYS")]
    days: Option<u32>,
    /// A name that its accounts order may have so many orders --within a time
    #[arg(long, value_name = "NUMBER", requires = "within")]
    orders: Option<u32>,
    /// The time for --orders, e.g. 168h
    #[arg(long, value_name = "DURATION", requires = "orders")]
    within: Option<GoDuration>,
    /// The upstream of its accounts' orders, whatever their names [default: chosen by provisioner and names]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// How long accounts can be made with it, e.g. 72h [default: for ever]
    #[arg(long, value_name = "DURATION")]
    expires: Option<GoDuration>,
    /// The provisioner that it is for [default: the one that requires EAB, or the only one]
    #[arg(long, value_name = "NAME")]
    provisioner: Option<String>,
    /// The configuration
    config: PathBuf,
}

#[derive(Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// The configuration
    config: PathBuf,
}

#[derive(Args)]
#[command(after_help = REVOKE_EXAMPLES)]
struct Revoke {
    /// The key's id
    kid: String,
    /// The configuration
    config: PathBuf,
    /// The key's provisioner, if several have a key of this id
    #[arg(long, value_name = "NAME")]
    provisioner: Option<String>,
}

impl Eab {
    /// The configuration that tells where the store is, and what is to be done.
    pub(crate) fn into_request(self) -> (PathBuf, Request) {
        match self.command {
            Command::Add(add) => {
                let lifetime = add.expires.map(|GoDuration(lifetime)| lifetime);
                let new = NewKey {
                    kid: add.kid,
                    provisioner: add.provisioner,
                    one_time: add.one_time,
                    allow: add.allow,
                    deny: add.deny,
                    wildcards: add.wildcards,
                    from: add.from,
                    days: add.days,
                    orders: add
                        .orders
                        .zip(add.within)
                        .map(|(orders, GoDuration(within))| (orders, within)),
                    upstream: add.upstream,
                    lifetime,
                };
                (add.config, Request::AddKey(new))
            }
            Command::List(list) => (list.config, Request::ListKeys),
            Command::Revoke(revoke) => {
                let request = Request::RevokeKey {
                    kid: revoke.kid,
                    provisioner: revoke.provisioner,
                };
                (revoke.config, request)
            }
        }
    }
}
