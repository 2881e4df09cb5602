//! Parts of lists on their way to the command line, and what the records of all lists have in common.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::id::AccountId;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::Found;

/// How many names a table shows of a record.
const NAMES: usize = 3;

/// A part of a list, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What stands above the list; empty if nothing does.
    pub header: String,
    /// The records; there may be none although some follow.
    pub rows: Vec<Row>,
    /// Where the list goes on, if it does.
    pub next: Option<String>,
}

/// A record of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Since when there is what it is about.
    pub since: Timestamp,
    /// What is printed.
    pub line: String,
}

/// How a part of a list is printed.
pub(crate) struct Table<T> {
    /// What stands above it.
    pub(crate) header: String,
    /// A record as a line.
    pub(crate) line: fn(&T) -> String,
    /// A record's id and since when it is.
    pub(crate) key: fn(&T) -> (String, Timestamp),
}

impl<T: Serialize> Table<T> {
    /// The part, as a table or as one JSON object a line.
    pub(crate) fn page(&self, found: &Found<T>, json: bool) -> Result<Page, KeyError> {
        let mut rows = Vec::new();
        for record in &found.records {
            let (id, since) = (self.key)(record);
            let line = match json {
                true => as_json(record)?,
                false => (self.line)(record).trim_end().to_owned(),
            };
            rows.push(Row { id, since, line });
        }
        let header = match json {
            true => String::new(),
            false => self.header.clone(),
        };
        Ok(Page {
            header,
            rows,
            next: found.next.clone(),
        })
    }
}

/// A record as JSON, in one line.
pub(crate) fn as_json<T: Serialize>(record: &T) -> Result<String, KeyError> {
    serde_json::to_string(record)
        .map_err(|error| KeyError::Refused(format!("the record can not be written as JSON: {error}")))
}

/// The first of a record's names, and how many there are besides.
pub(crate) fn few(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(NAMES)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    let others = names.len().saturating_sub(NAMES);
    if others > 0 {
        text.push_str(&format!(" and {others} more"));
    }
    text
}

/// Whose a record is, for a table.
pub(crate) fn owner(account: AccountId) -> String {
    match account == AccountId::DAEMON {
        true => "the daemon".to_owned(),
        false => account.to_string(),
    }
}

/// The same for a record by itself.
pub(crate) fn owner_of(account: AccountId, provisioner: &str) -> String {
    match account == AccountId::DAEMON {
        true => "none, it is the daemon's own".to_owned(),
        false => format!("{account} (provisioner {provisioner})"),
    }
}

/// `yes` or `no`.
pub(crate) fn yes(is_so: bool) -> &'static str {
    match is_so {
        true => "yes",
        false => "no",
    }
}
