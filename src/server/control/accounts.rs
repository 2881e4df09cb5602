//! The operator's commands on accounts.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::Part;
use crate::ra::inventory::accounts::{AccountDetails, AccountFilter, AccountRecord};
use crate::server::control::Answer;
use crate::server::control::listing::{Table, as_json, yes};

/// What the operator wants of the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountsRequest {
    /// A part of the list of those that are wanted.
    List {
        /// Which are wanted.
        filter: AccountFilter,
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
    /// The end of one.
    Deactivate {
        /// Its id.
        id: String,
    },
}

/// Does what the operator wants.
pub(crate) async fn answer(ra: &RegistrationAuthority, request: AccountsRequest) -> Result<Answer, KeyError> {
    Ok(match request {
        AccountsRequest::List { filter, part, json } => {
            let found = ra.account_records(&filter, &part).await?;
            Answer::Page(table().page(&found, json)?)
        }
        AccountsRequest::Show { id, json } => {
            let details = ra.account_details(&id).await?;
            Answer::Done(match json {
                true => as_json(&details)? + "\n",
                false => shown(&details),
            })
        }
        AccountsRequest::Deactivate { id } => {
            let record = ra.deactivate_by_operator(&id).await?;
            Answer::Done(format!(
                "The account {} is deactivated, for good: its client can ask for nothing any more, and its orders that are \
                 on their way end. Its certificates stay valid: acme-proxy certs list --account {} shows them, and \
                 acme-proxy certs revoke ends them.\n",
                record.id, record.id
            ))
        }
    })
}

fn table() -> Table<AccountRecord> {
    Table {
        header: format!(
            "{:<32}  {:<11}  {:<20}  {:<16}  {:<43}  CONTACT",
            "ID", "STATUS", "CREATED", "PROVISIONER", "KEY THUMBPRINT"
        ),
        line: |record| {
            let created = format!("{:.0}", record.created);
            format!(
                "{:<32}  {:<11}  {created:<20}  {:<16}  {:<43}  {}{}",
                record.id.to_string(),
                record.status,
                record.provisioner,
                record.key_thumbprint,
                record.contact.join(" "),
                match &record.foreign_id {
                    Some(foreign) => format!(" (imported as {foreign})"),
                    None => String::new(),
                }
            )
        },
        key: |record| (record.id.to_string(), record.created),
    }
}

fn shown(details: &AccountDetails) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_account(&mut text, details);
    text
}

fn write_account(out: &mut String, details: &AccountDetails) -> std::fmt::Result {
    let record = &details.record;
    writeln!(out, "{}", record.id)?;
    if let Some(foreign) = &record.foreign_id {
        writeln!(out, "  imported as: {foreign}")?;
    }
    writeln!(out, "  status: {}", record.status)?;
    writeln!(out, "  created: {:.0}", record.created)?;
    if let Some(deactivated) = record.deactivated {
        writeln!(out, "  deactivated: {deactivated:.0}")?;
    }
    writeln!(out, "  provisioner: {}", record.provisioner)?;
    writeln!(out, "  key thumbprint: {}", record.key_thumbprint)?;
    let contact = match record.contact.is_empty() {
        true => "none".to_owned(),
        false => record.contact.join(" "),
    };
    writeln!(out, "  contact: {contact}")?;
    writeln!(
        out,
        "  has agreed to the terms of service: {}",
        yes(record.terms_of_service_agreed)
    )?;
    if let Some(kid) = &record.eab_kid {
        writeln!(out, "  external account key: {kid}")?;
    }
    let counts: Vec<String> = details
        .orders
        .iter()
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    let counts = match (counts.is_empty(), details.has_more_orders) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("{}, and more", counts.join(", ")),
        (false, false) => counts.join(", "),
    };
    writeln!(out, "  orders: {counts}")
}
