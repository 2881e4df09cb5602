//! The operator's commands on certificates.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::Part;
use crate::ra::inventory::certificates::{CertificateFilter, CertificateRecord};
use crate::server::control::Answer;
use crate::server::control::listing::{Table, as_json, few, owner, owner_of, yes};

/// A day, in seconds.
const DAY: i64 = 24 * 3600;

/// What the operator wants of the certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertsRequest {
    /// A part of the list of those that are wanted.
    List {
        /// Which are wanted.
        filter: CertificateFilter,
        /// Which part.
        part: Part,
        /// Whether it is wanted as JSON.
        json: bool,
    },
    /// All about one.
    Show {
        /// Its id.
        id: String,
        /// Whether it is wanted as JSON.
        json: bool,
    },
    /// The chain of one, as its client gets it.
    Export {
        /// Its id.
        id: String,
    },
    /// The end of one.
    Revoke {
        /// Its id.
        id: String,
        /// The code of the reason (RFC 5280 §5.3.1).
        reason: Option<i64>,
    },
}

/// Does what the operator wants.
pub(crate) async fn answer(ra: &RegistrationAuthority, request: CertsRequest) -> Result<Answer, KeyError> {
    Ok(match request {
        CertsRequest::List { filter, part, json } => {
            let found = ra.certificates(&filter, &part).await?;
            Answer::Page(table().page(&found, json)?)
        }
        CertsRequest::Show { id, json } => {
            let record = ra.certificate_record(&id).await?;
            Answer::Done(match json {
                true => as_json(&record)? + "\n",
                false => shown(&record),
            })
        }
        CertsRequest::Export { id } => Answer::Done(ra.exported_chain(&id).await?),
        CertsRequest::Revoke { id, reason } => {
            ra.revoke_by_operator(&id, reason).await?;
            let record = ra.certificate_record(&id).await?;
            Answer::Done(format!(
                "The CA has revoked the certificate {id} for {}, serial number {}.\n",
                few(&record.names),
                record.serial
            ))
        }
    })
}

fn table() -> Table<CertificateRecord> {
    Table {
        header: format!(
            "{:<32}  {:<7}  {:<20}  {:<34}  {:<32}  NAMES",
            "ID", "STATUS", "EXPIRES", "SERIAL", "ACCOUNT"
        ),
        line: |record| {
            let expires = format!("{:.0}", record.not_after);
            format!(
                "{:<32}  {:<7}  {expires:<20}  {:<34}  {:<32}  {}",
                record.id.to_string(),
                record.status,
                record.serial,
                owner(record.account),
                few(&record.names)
            )
        },
        key: |record| (record.id.to_string(), record.not_before),
    }
}

fn shown(record: &CertificateRecord) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_record(&mut text, record);
    text
}

fn write_record(out: &mut String, record: &CertificateRecord) -> std::fmt::Result {
    writeln!(out, "{}", record.id)?;
    writeln!(out, "  status: {}", record.status)?;
    writeln!(out, "  names: {}", record.names.join(" "))?;
    writeln!(out, "  serial: {}", record.serial)?;
    writeln!(out, "  sha256: {}", record.sha256)?;
    writeln!(out, "  issuer: {}", record.issuer)?;
    let days = (record.not_after.as_second() - record.not_before.as_second()) / DAY;
    writeln!(
        out,
        "  valid: from {:.0} to {:.0}, {days} days",
        record.not_before, record.not_after
    )?;
    match (record.issued, record.late) {
        (Some(issued), _) => writeln!(
            out,
            "  issued: {issued:.0}, fetched by its client: {}",
            yes(record.fetched)
        )?,
        (None, _) => writeln!(out, "  issued: after its order's end; its client does not get it")?,
    }
    writeln!(
        out,
        "  account: {}",
        owner_of(record.account, &record.provisioner)
    )?;
    writeln!(out, "  upstream: {}", record.upstream)?;
    if let Some(url) = &record.ca_order {
        writeln!(out, "  order at the CA: {url}")?;
    }
    if let Some(revocation) = &record.revocation {
        write!(out, "  revocation: {} at {:.0}", revocation.state, revocation.at)?;
        if let Some(reason) = revocation.reason {
            write!(out, ", reason {reason}")?;
        }
        match &revocation.problem {
            Some(problem) => writeln!(out, ": {problem}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}
