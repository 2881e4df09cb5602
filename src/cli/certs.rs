//! `acme-proxy certs`: the certificates that were bought.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::app::control::{CertificateFilter, CertsRequest, Operator, Part, Request, Row};
use crate::cli::listing::{Listing, asked, span};
use crate::cli::print;

const EXAMPLES: &str = "\
Examples:
  acme-proxy certs list --expires-within 30d /etc/acme-proxy/ca.json
  acme-proxy certs show www.example.com /etc/acme-proxy/ca.json
  acme-proxy certs export www.example.com --out www.pem /etc/acme-proxy/ca.json
  acme-proxy certs revoke 0123456789abcdef0123456789abcdef --reason keyCompromise --yes /etc/acme-proxy/ca.json";

const LIST_EXAMPLES: &str = "\
Examples:
  acme-proxy certs list /etc/acme-proxy/ca.json
  acme-proxy certs list --name '*.example.com' --expires-within 30d /etc/acme-proxy/ca.json
  acme-proxy certs list --account fedcba9876543210fedcba9876543210 --json /etc/acme-proxy/ca.json
  acme-proxy certs list --serial 04:0A:3B:7C /etc/acme-proxy/ca.json
  acme-proxy certs list --revoked --limit 20 /etc/acme-proxy/ca.json";

const SHOW_EXAMPLES: &str = "\
Examples:
  acme-proxy certs show www.example.com /etc/acme-proxy/ca.json
  acme-proxy certs show 0123456789abcdef0123456789abcdef --json /etc/acme-proxy/ca.json";

const EXPORT_EXAMPLES: &str = "\
Examples:
  acme-proxy certs export www.example.com /etc/acme-proxy/ca.json
  acme-proxy certs export 0123456789abcdef0123456789abcdef --out chain.pem /etc/acme-proxy/ca.json";

const REVOKE_EXAMPLES: &str = "\
Examples:
  acme-proxy certs revoke 0123456789abcdef0123456789abcdef --yes /etc/acme-proxy/ca.json
  acme-proxy certs revoke 89abcdef0123456789abcdef01234567 --reason keyCompromise --yes /etc/acme-proxy/ca.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Certs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists certificates, in no order
    List(List),
    /// Shows all that is known of a certificate
    Show(Show),
    /// Prints a certificate with its chain as its client gets it, PEM
    Export(Export),
    /// Has the CA revoke a certificate; needs the running daemon
    Revoke(Revoke),
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
    /// The one with this serial number, in hexadecimal, with or without colons
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// Valid ones that expire in this time, e.g. 30d, 2w or 72h
    #[arg(long, value_name = "TIME", value_parser = span)]
    expires_within: Option<Duration>,
    /// Those that have expired; they are kept for 30 days
    #[arg(long, conflicts_with = "expires_within")]
    expired: bool,
    /// Those that the CA has revoked
    #[arg(long, conflicts_with = "expires_within")]
    revoked: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// The certificate's id, serial number or name; of several with this name, the newest
    #[arg(value_name = "ID|SERIAL|NAME")]
    which: String,
    /// The configuration
    config: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = EXPORT_EXAMPLES)]
struct Export {
    /// The certificate's id, serial number or name; of several with this name, the newest
    #[arg(value_name = "ID|SERIAL|NAME")]
    which: String,
    /// The configuration
    config: PathBuf,
    /// Writes into this file, which must not exist yet [default: the standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = REVOKE_EXAMPLES)]
struct Revoke {
    /// The certificate's id or serial number
    #[arg(value_name = "ID|SERIAL")]
    which: String,
    /// The configuration
    config: PathBuf,
    /// Why, by name or by its code in RFC 5280
    #[arg(long, ignore_case = true)]
    reason: Option<Reason>,
    /// Does it: a revocation can not be taken back
    #[arg(long)]
    yes: bool,
}

/// The reasons that a subscriber may give.
#[derive(Clone, Copy, ValueEnum)]
enum Reason {
    #[value(name = "unspecified", alias = "0")]
    Unspecified = 0,
    #[value(name = "keyCompromise", alias = "1")]
    KeyCompromise = 1,
    #[value(name = "affiliationChanged", alias = "3")]
    AffiliationChanged = 3,
    #[value(name = "superseded", alias = "4")]
    Superseded = 4,
    #[value(name = "cessationOfOperation", alias = "5")]
    CessationOfOperation = 5,
}

impl Certs {
    /// The configuration that tells where the store is.
    pub(crate) fn config(&self) -> &Path {
        match &self.command {
            Command::List(list) => &list.config,
            Command::Show(show) => &show.config,
            Command::Export(export) => &export.config,
            Command::Revoke(revoke) => &revoke.config,
        }
    }

    pub(crate) async fn run(self, operator: &mut Operator) -> anyhow::Result<()> {
        match self.command {
            Command::List(list) => {
                let filter = CertificateFilter {
                    id: None,
                    name: list.name,
                    account: list.account,
                    serial: list.serial,
                    expires_within: list.expires_within,
                    expired: list.expired,
                    revoked: list.revoked,
                };
                let json = list.listing.json;
                let request = |part| {
                    let filter = filter.clone();
                    Request::Certs(CertsRequest::List { filter, part, json })
                };
                let nothing = "there is no such certificate";
                list.listing.print(operator, nothing, request).await
            }
            Command::Show(Show { which, json, .. }) => {
                let id = found(operator, &which, true).await?.id;
                let request = Request::Certs(CertsRequest::Show { id, json });
                print(&operator.carry_out(request).await?)
            }
            Command::Export(Export { which, out, .. }) => {
                let id = found(operator, &which, true).await?.id;
                let request = Request::Certs(CertsRequest::Export { id });
                let chain = operator.carry_out(request).await?;
                match out {
                    Some(path) => write_new(&path, &chain),
                    None => print(&chain),
                }
            }
            Command::Revoke(revoke) => {
                let Row { id, .. } = found(operator, &revoke.which, false).await?;
                if !revoke.yes {
                    let request = Request::Certs(CertsRequest::Show { id, json: false });
                    let certificate = operator.carry_out(request).await?;
                    bail!(
                        "a revocation can not be taken back; to revoke this certificate, add --yes:\n{}",
                        certificate.trim_end()
                    );
                }
                let reason = revoke.reason.map(|reason| reason as i64);
                let request = Request::Certs(CertsRequest::Revoke { id, reason });
                print(&operator.carry_out(request).await?)
            }
        }
    }
}

/// The certificate with this id or serial number, or the newest one with this name.
async fn found(operator: &mut Operator, which: &str, may_be_a_name: bool) -> anyhow::Result<Row> {
    let is_hex = which.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    let is_id = which.len() == 32 && which.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let given = || Some(which.to_owned());
    let none = CertificateFilter::default;
    let by_id = is_id.then(|| CertificateFilter {
        id: given(),
        ..none()
    });
    let by_serial = is_hex.then(|| CertificateFilter {
        serial: given(),
        ..none()
    });
    let by_name = may_be_a_name.then(|| CertificateFilter {
        name: given(),
        ..none()
    });
    for filter in [by_id, by_serial, by_name].into_iter().flatten() {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let part = Part {
                after,
                limit: usize::MAX,
            };
            let (filter, json) = (filter.clone(), false);
            let page = asked(
                operator,
                Request::Certs(CertsRequest::List { filter, part, json }),
            )
            .await?;
            all.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let how = match &filter.serial {
            Some(_) => "--serial",
            None => "--name",
        };
        let list = format!("acme-proxy certs list {how} '{which}'");
        if let Some(row) = one_of(all, may_be_a_name, &list)? {
            return Ok(row);
        }
    }
    match may_be_a_name {
        true => bail!("there is no certificate with the id, serial number or name {which:?}"),
        false => bail!(
            "there is no certificate with the id or serial number {which:?}; of a name there may be several, which \
             acme-proxy certs list --name shows"
        ),
    }
}

/// The newest, if that will do; otherwise there must be no other one.
fn one_of(all: Vec<Row>, newest_will_do: bool, list: &str) -> anyhow::Result<Option<Row>> {
    match (all.len(), newest_will_do) {
        (0 | 1, _) => {}
        (several, false) => bail!(
            "there are {several} such certificates, of different CAs; say the id of the one that is meant, as shown by: {list}"
        ),
        (several, true) => {
            let note = format!("acme-proxy: {} others are listed by: {list}", several - 1);
            let _closed = writeln!(std::io::stderr(), "{note}");
        }
    }
    Ok(all.into_iter().max_by_key(|row| row.since))
}

/// Writes where nothing was.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("{} can not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn of_several_certificates_with_a_serial_number_none_is_revoked() {
        let row = |id: &str, second| Row {
            id: id.to_owned(),
            since: Timestamp::from_second(second).unwrap(),
            line: String::new(),
        };
        let id_of = |rows, newest_will_do| one_of(rows, newest_will_do, "certs list --serial '00'");
        let both = || vec![row("new", 2), row("old", 1)];
        assert_eq!(id_of(both(), true).unwrap().unwrap().id, "new");
        let refused = id_of(both(), false).unwrap_err().to_string();
        assert!(
            refused.contains("2 such certificates") && refused.ends_with("certs list --serial '00'"),
            "{refused}"
        );
        assert_eq!(id_of(vec![row("old", 1)], false).unwrap().unwrap().id, "old");
        assert!(id_of(Vec::new(), false).unwrap().is_none());
    }
}
