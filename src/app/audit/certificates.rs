//! The certificates that an audit log tells of, for a comparison with Certificate Transparency: whatever a log server has
//! for our domains, and this list has not, was got without us.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use crate::app::audit::chain::follow;

/// The events with which a certificate comes.
const COMES: [&str; 2] = ["certificate issued", "late certificate"];

/// The first line of the list. The serial number stands first: a log server often has the precertificate, whose hash is
/// another one.
const COLUMNS: &str = "serial,sha256,not_after,logged,order,account,names\n";

#[derive(Deserialize)]
struct Event {
    time: String,
    event: String,
    #[serde(rename = "order.id", default)]
    order: String,
    #[serde(rename = "account.id", default)]
    account: String,
    #[serde(default)]
    identifiers: String,
    #[serde(rename = "certificate.serial", default)]
    serial: String,
    #[serde(rename = "certificate.sha256", default)]
    sha256: String,
    #[serde(rename = "certificate.not_after", default)]
    not_after: String,
}

/// Lists the certificates as CSV, each once, the oldest first, if the log's files are as they were written.
///
/// # Errors
///
/// The first line that is not.
pub fn export(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut list = COLUMNS.to_owned();
    let mut known = BTreeSet::new();
    follow(files, |line| {
        let event: Event = serde_json::from_slice(line).context("an event can not be read")?;
        if COMES.contains(&event.event.as_str()) && known.insert(event.sha256.clone()) {
            let Event {
                time,
                order,
                account,
                identifiers,
                serial,
                sha256,
                not_after,
                ..
            } = event;
            // No name holds a comma or a quote.
            list += &format!("{serial},{sha256},{not_after},{time},{order},{account},{identifiers}\n");
        }
        Ok(())
    })?;
    Ok(list)
}
