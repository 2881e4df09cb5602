//! Records as rows: what stands beside their bodies, as JSON that `schema.sql` turns into columns. All of it is taken
//! from the record, and could be taken from it again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::acme::account::Account;
use crate::acme::certificate::Fingerprint;
use crate::acme::external_account::KeyId;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, WorkKind};
use crate::acme::order::Order;
use crate::acme::renewal::CertificateId;
use crate::store::sled::keys;
use crate::store::{StoreError, key_of, line_of, names_of};

/// Bytes as JSON that PostgreSQL reads as `bytea`.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 + 2 * self.0.len());
        text.push_str("\\x");
        self.0.iter().for_each(|byte| {
            use std::fmt::Write as _;
            // To a string nothing fails to be written.
            let _ = write!(text, "{byte:02x}");
        });
        serializer.serialize_str(&text)
    }
}

#[derive(Serialize)]
struct OrderRow<'a> {
    id: Bytes,
    account: Bytes,
    upstream: &'a str,
    names: Bytes,
    line: Bytes,
    line_rank: Option<u8>,
    line_since: Option<i64>,
    certificate: Option<Bytes>,
    certificate_id: Option<Bytes>,
    late_certificate: Option<Bytes>,
    hands_over: bool,
    renewal_due: Option<i64>,
    replaces: Option<Bytes>,
    counts_since: Option<i64>,
    valid_until: Option<i64>,
    delete_after: i64,
}

#[derive(Serialize)]
struct JobRow {
    work: String,
    order_id: Bytes,
    lane: String,
    owner: Bytes,
    since: i64,
    due: i64,
}

/// An order's row.
pub(crate) fn order(order: &Order) -> Result<String, StoreError> {
    let upstream = order.upstream_name();
    let place = order.in_line_since().filter(|_| !order.has_left_line());
    let certificate = order.certificate();
    let late = order.bought().filter(|_| certificate.is_none());
    let is_in_use = order.account() != AccountId::DAEMON && order.revocation().is_none();
    json(&OrderRow {
        id: id(order.id()),
        account: Bytes(order.account().as_bytes().to_vec()),
        upstream: upstream.as_str(),
        names: Bytes(names_of(order).to_vec()),
        line: Bytes(line_of(order).to_vec()),
        line_rank: place.map(|_| u8::from(!order.is_opened_upstream())),
        line_since: place.map(nanoseconds),
        certificate: certificate.map(|it| Bytes(it.leaf().fingerprint().as_bytes().to_vec())),
        certificate_id: certificate
            .and_then(|it| CertificateId::of(it.leaf()))
            .map(|id| Bytes(keys::certificate_id(&id))),
        late_certificate: late.map(|it| Bytes(it.leaf().fingerprint().as_bytes().to_vec())),
        hands_over: order.may_hand_over(),
        renewal_due: order.renewal_due().map(nanoseconds),
        replaces: order.holds_replaced().map(|id| Bytes(keys::certificate_id(id))),
        counts_since: order.counts_since().map(nanoseconds),
        valid_until: certificate
            .filter(|_| is_in_use)
            .map(|it| nanoseconds(it.not_after())),
        delete_after: nanoseconds(order.delete_after()),
    })
}

/// The names that an order counts for, if it does.
pub(crate) fn counted(order: &Order) -> Vec<Vec<u8>> {
    match order.counts_since() {
        Some(_) => order.identifiers().map(name).collect(),
        None => Vec::new(),
    }
}

/// Stands for a name.
pub(crate) fn name(name: &Identifier) -> Vec<u8> {
    keys::counted_for(name)
}

/// A job's row.
pub(crate) fn job(job: &Job) -> Result<String, StoreError> {
    json(&JobRow {
        work: key_of(&job.work),
        order_id: id(job.work.order()),
        lane: lane(job.lane()),
        owner: Bytes(job.owner.as_bytes().to_vec()),
        since: nanoseconds(job.since),
        due: nanoseconds(job.due),
    })
}

/// A lane's name.
pub(crate) fn lane(lane: Lane) -> String {
    let kind = lane.kind().name();
    match lane.upstream() {
        Some(upstream) => format!("{kind}/{upstream}"),
        None => kind.to_owned(),
    }
}

/// The lane of that name; `None` if it is of a kind that this version does not know.
pub(crate) fn lane_named(name: &str) -> Option<Lane> {
    let (kind, upstream) = name.split_once('/').unwrap_or((name, ""));
    let kind = WorkKind::ALL.into_iter().find(|known| known.name() == kind)?;
    match kind {
        WorkKind::Validate => Some(Lane::Validate),
        WorkKind::Issue | WorkKind::Revoke => Some(Lane::of(kind, upstream.parse().ok()?)),
    }
}

/// The kinds of jobs that this version knows.
pub(crate) fn kinds() -> Vec<&'static str> {
    WorkKind::ALL.iter().map(|kind| kind.name()).collect()
}

/// What an account's key leads to it by, and its one-time external account key.
pub(crate) fn keys_of(account: &Account) -> (Vec<u8>, Option<Vec<u8>>) {
    let provisioner = account.provisioner();
    let one_time = account.binding().filter(|binding| binding.is_one_time());
    (
        keys::account_by_key(provisioner, &account.key().thumbprint()),
        one_time.map(|binding| keys::one_time_key(provisioner, binding.kid())),
    )
}

/// The names of all external account keys begin with this.
pub(crate) const EXTERNAL_KEYS: &str = "external account key ";

/// The names of all named values begin with this.
pub(crate) const VALUES: &str = "value ";

/// What an external account key is sealed as.
pub(crate) fn external_key(provisioner: &str, kid: &KeyId) -> String {
    keys::describe(&keys::external_key(provisioner, kid)).to_string()
}

/// What a named value is sealed as.
pub(crate) fn value(name: &str) -> String {
    format!("{VALUES}{name}")
}

/// Where the names begin and end that begin with this: no name has the last of all characters in it.
pub(crate) fn beginning_with(prefix: &str) -> (String, String) {
    (prefix.to_owned(), format!("{prefix}{}", char::MAX))
}

/// Nanoseconds since 1970; the years before 1677 and after 2262 are as one.
pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    let bound = if time < Timestamp::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    };
    i64::try_from(time.as_nanosecond()).unwrap_or(bound)
}

/// The time of that many nanoseconds.
pub(crate) fn time(nanoseconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_nanosecond(nanoseconds.into())
        .map_err(|_| StoreError::Corrupt("a time in the database can not be read".to_owned()))
}

/// A number for the database, which has none as large as the largest of ours.
pub(crate) fn number(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A span for the database, in seconds.
pub(crate) fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

/// A column of a row.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, StoreError> {
    row.try_get(place)
        .map_err(|error| StoreError::Corrupt(format!("a column of the database can not be read: {error}")))
}

/// An id that was read.
pub(crate) fn order_id(bytes: &[u8]) -> Result<OrderId, StoreError> {
    bytes
        .try_into()
        .map(OrderId::from_bytes)
        .map_err(|_| unreadable())
}

/// An id that was read.
pub(crate) fn account_id(bytes: &[u8]) -> Result<AccountId, StoreError> {
    bytes
        .try_into()
        .map(AccountId::from_bytes)
        .map_err(|_| unreadable())
}

/// A fingerprint that was read.
pub(crate) fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, StoreError> {
    bytes
        .try_into()
        .map(Fingerprint::from_bytes)
        .map_err(|_| unreadable())
}

/// What stands for names, as it was read.
pub(crate) fn names(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| unreadable())
}

fn unreadable() -> StoreError {
    StoreError::Corrupt("an id in the database can not be read".to_owned())
}

fn id(id: OrderId) -> Bytes {
    Bytes(id.as_bytes().to_vec())
}

fn json(row: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(row)
        .map_err(|error| StoreError::Failed(format!("a row can not be written as JSON: {error}")))
}
