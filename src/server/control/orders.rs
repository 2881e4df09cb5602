//! The operator's commands on orders: why is this one stuck?

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::acme::order::history::Step;
use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::Part;
use crate::ra::inventory::orders::{OrderDetails, OrderFilter, OrderRecord};
use crate::server::control::listing::{Table, as_json, few, owner, owner_of};
use crate::server::control::{Answer, UpstreamAccounts};

/// What the operator wants of the orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrdersRequest {
    /// A part of the list of those that are wanted.
    List {
        /// Which are wanted.
        filter: OrderFilter,
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
}

/// An order, and how its upstream is.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    details: OrderDetails,
    upstream_health: String,
}

/// Does what the operator wants.
pub(crate) async fn answer(
    ra: &RegistrationAuthority,
    upstreams: &dyn UpstreamAccounts,
    request: OrdersRequest,
) -> Result<Answer, KeyError> {
    Ok(match request {
        OrdersRequest::List { filter, part, json } => {
            let found = ra.order_records(&filter, &part).await?;
            Answer::Page(table().page(&found, json)?)
        }
        OrdersRequest::Show { id, json } => {
            let details = ra.order_details(&id).await?;
            let upstream_health = upstreams.health(details.record.upstream.as_str()).await;
            let shown = Shown {
                details,
                upstream_health,
            };
            Answer::Done(match json {
                true => as_json(&shown)? + "\n",
                false => text_of(&shown),
            })
        }
    })
}

fn table() -> Table<OrderRecord> {
    Table {
        header: format!(
            "{:<32}  {:<10}  {:<20}  {:<32}  NAMES",
            "ID", "STATUS", "CREATED", "ACCOUNT"
        ),
        line: |record| {
            let created = format!("{:.0}", record.created);
            format!(
                "{:<32}  {:<10}  {created:<20}  {:<32}  {}",
                record.id.to_string(),
                record.status,
                owner(record.account),
                few(&record.names)
            )
        },
        key: |record| (record.id.to_string(), record.created),
    }
}

fn text_of(shown: &Shown) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_order(&mut text, &shown.details, &shown.upstream_health);
    text
}

fn write_order(out: &mut String, details: &OrderDetails, health: &str) -> std::fmt::Result {
    let record = &details.record;
    writeln!(out, "{}", record.id)?;
    writeln!(out, "  status: {}", record.status)?;
    if let Some(error) = &record.error {
        writeln!(out, "  error: {error}")?;
    }
    for waits_for in &details.waits_for {
        writeln!(out, "  waits for: {waits_for}")?;
    }
    writeln!(out, "  names: {}", record.names.join(" "))?;
    writeln!(
        out,
        "  account: {}",
        owner_of(record.account, &record.provisioner)
    )?;
    writeln!(out, "  upstream: {} ({health})", record.upstream)?;
    if let Some(url) = &details.ca_order {
        writeln!(out, "  order at the CA: {url}")?;
    }
    writeln!(out, "  expires: {:.0}", record.expires)?;
    writeln!(out, "  authorizations:")?;
    for authorization in &details.authorizations {
        write!(out, "    {}: {}", authorization.name, authorization.status)?;
        for challenge in &authorization.challenges {
            write!(out, "; {} {}", challenge.kind, challenge.status)?;
            if let Some(error) = &challenge.error {
                write!(out, " ({error})")?;
            }
        }
        writeln!(out)?;
    }
    writeln!(out, "  steps:")?;
    writeln!(out, "    {:.0}  created", record.created)?;
    match details.forgotten_steps {
        0 => {}
        1 => writeln!(out, "    1 earlier step is not kept")?,
        number => writeln!(out, "    {number} earlier steps are not kept")?,
    }
    for step in &details.steps {
        write_step(out, step)?;
    }
    Ok(())
}

fn write_step(out: &mut String, step: &Step) -> std::fmt::Result {
    write!(out, "    {:.0}  {}", step.at, step.kind)?;
    if !step.about.is_empty() {
        write!(out, ": {}", step.about)?;
    }
    if let Some(last) = step.last {
        write!(out, " ({} times, the latest at {last:.0})", step.times)?;
    }
    writeln!(out)
}
