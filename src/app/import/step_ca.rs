//! The accounts in a step-ca's database, as its ACME server writes them (github.com/smallstep/certificates,
//! acme/db/nosql: bucket `acme_accounts`, JSON under the account's id): from versions of 2019 on, whose records know
//! neither URL nor provisioner, to 0.30.

use std::collections::HashMap;
use std::io::{Read, Seek};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::acme::account::{Account, Contact, Foreign};
use crate::acme::id::ForeignId;
use crate::acme::problem::cleaned;
use crate::app::import::bolt::{Bolt, BoltError};
use crate::jose::jwk::{Jwk, RawJwk};

/// Where a step-ca keeps its ACME accounts.
const ACCOUNTS: &[u8] = b"acme_accounts";

/// A longer record is no account's: the largest key and ten contacts take 4 kB.
const LONGEST: usize = 64 * 1024;

/// How much is shown of what a record says, in characters.
const LONGEST_TEXT: usize = 300;

/// The accounts of a database.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// How many records there are.
    pub(crate) records: usize,
    /// Those that can go on here.
    pub(crate) taken: Vec<Taken>,
    /// The ids of the others, and why not.
    pub(crate) refused: Vec<(String, String)>,
    /// How many contacts are left out.
    pub(crate) contacts_left_out: usize,
}

/// An account that can go on here.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) account: Account,
    /// What its URL begins with there, if that is written down.
    pub(crate) url_prefix: Option<String>,
}

/// To which provisioner accounts belong.
pub(crate) trait Provisioners {
    /// The one for an account of this one there, if it is written down; otherwise why there is none.
    fn of(&self, recorded: Option<&str>) -> Result<String, String>;
    /// Why no account may have this key.
    fn objection(&self, key: &Jwk) -> Option<String>;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    id: String,
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(default)]
    contact: Option<Vec<String>>,
    status: String,
    #[serde(default)]
    location_prefix: String,
    #[serde(default)]
    provisioner_name: String,
    #[serde(alias = "created")]
    created_at: Timestamp,
    #[serde(default, alias = "deactivated")]
    deactivated_at: Option<Timestamp>,
}

/// Reads all accounts.
///
/// # Errors
///
/// What is wrong with the file; `None` if it has no place for accounts.
pub(crate) fn read<F: Read + Seek>(
    file: F,
    provisioners: &impl Provisioners,
) -> Result<Option<Accounts>, BoltError> {
    let mut accounts = Accounts::default();
    let mut keys = HashMap::new();
    let found = Bolt::open(file)?.entries(ACCOUNTS, |id, record| {
        accounts.records += 1;
        let taken = parse(id, record, provisioners, &mut accounts.contacts_left_out);
        let taken = taken.and_then(|taken| {
            let account = &taken.account;
            let key = (account.provisioner().to_owned(), account.key().thumbprint());
            match keys.insert(key, account.name()) {
                None => Ok(taken),
                Some(other) => Err(format!("account {other} of the same database has its key")),
            }
        });
        match taken {
            Ok(taken) => accounts.taken.push(taken),
            Err(why) => accounts.refused.push((shown(id), why)),
        }
    })?;
    Ok(found.then_some(accounts))
}

fn parse(
    id: &[u8],
    record: &[u8],
    provisioners: &impl Provisioners,
    contacts_left_out: &mut usize,
) -> Result<Taken, String> {
    let taken = taken(id, record, provisioners, contacts_left_out);
    // Much of what is wrong with a record is said in its own words.
    taken.map_err(|why| cleaned(&why, LONGEST_TEXT))
}

fn taken(
    id: &[u8],
    record: &[u8],
    provisioners: &impl Provisioners,
    contacts_left_out: &mut usize,
) -> Result<Taken, String> {
    if record.len() > LONGEST {
        return Err("its record is longer than 64 KiB".to_owned());
    }
    let record: Record<'_> =
        serde_json::from_slice(record).map_err(|error| format!("its record can not be read: {error}"))?;
    if record.id.as_bytes() != id {
        return Err("its record is another account's".to_owned());
    }
    let id: ForeignId = record
        .id
        .parse()
        .map_err(|_| "its id is not one that step-ca gives, of 32 letters and digits".to_owned())?;
    let deactivated = match record.status.as_str() {
        "valid" => None,
        // Go writes the time that there is none as the beginning of the year 1.
        "deactivated" => Some(
            record
                .deactivated_at
                .map_or(record.created_at, |at| at.max(record.created_at)),
        ),
        other => return Err(format!("its status is {other:?}")),
    };
    let key = key(record.key).map_err(|why| format!("its key can not be used here: {why}"))?;
    if let Some(objection) = provisioners.objection(&key) {
        return Err(objection);
    }
    let recorded = Some(record.provisioner_name).filter(|name| !name.is_empty());
    let provisioner = provisioners.of(recorded.as_deref())?;
    let contacts = record.contact.unwrap_or_default();
    let contact: Vec<Contact> = contacts
        .iter()
        .filter_map(|url| url.parse().ok())
        .take(Contact::MAX)
        .collect();
    *contacts_left_out += contacts.len() - contact.len();
    let account = Account::from(Foreign {
        id,
        provisioner,
        key,
        contact,
        created: record.created_at,
        deactivated,
    });
    let url_prefix = Some(cleaned(&record.location_prefix, LONGEST_TEXT)).filter(|prefix| !prefix.is_empty());
    Ok(Taken { account, url_prefix })
}

/// Looked at as closely as that of a new account.
fn key(jwk: &RawValue) -> Result<Jwk, String> {
    let raw: RawJwk = serde_json::from_str(jwk.get()).map_err(|_| "it is no JWK".to_owned())?;
    let key = Jwk::try_from(raw).map_err(|error| error.to_string())?;
    key.examined().map_err(|error| error.to_string())?;
    Ok(key)
}

/// An id for people: only step-ca's own are known to have nothing in them that a terminal obeys.
fn shown(id: &[u8]) -> String {
    // A damaged one may be of any length.
    let id = id.get(..64).unwrap_or(id);
    match id.iter().all(u8::is_ascii_alphanumeric) {
        true => String::from_utf8_lossy(id).into_owned(),
        false => format!("{:?}", String::from_utf8_lossy(id)),
    }
}

#[cfg(test)]
mod tests;
