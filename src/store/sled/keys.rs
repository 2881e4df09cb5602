//! The keys of the one sled tree: a byte for what it is, then the name. Numbers are big-endian, so that byte order is
//! their order.

use std::fmt;

use jiff::Timestamp;

use crate::acme::certificate::Fingerprint;
use crate::acme::external_account::KeyId;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::Work;
use crate::acme::renewal::CertificateId;
use crate::acme::upstream::UpstreamName;
use crate::store::key_of;

/// A key.
pub(crate) type Key = Vec<u8>;

const ACCOUNT: u8 = b'a';
const ORDER_OF_ACCOUNT: u8 = b'b';
const CHUNK: u8 = b'c';
const DELETION: u8 = b'd';
const EXTERNAL_KEY: u8 = b'e';
const CERTIFICATE: u8 = b'f';
const CERTIFICATE_ID: u8 = b'g';
const ISSUER: u8 = b'i';
const JOB: u8 = b'j';
const ACCOUNT_BY_KEY: u8 = b'k';
const LINE: u8 = b'l';
const NAMED: u8 = b'n';
const OPEN: u8 = b'm';
const ORDER: u8 = b'o';
const REPLACED: u8 = b'p';
const LATE: u8 = b'q';
const ISSUED: u8 = b'r';
const IDENTITY: u8 = b's';
const ONE_TIME_KEY: u8 = b't';
const LATE_CERTIFICATE: u8 = b'u';
const RENEWAL: u8 = b'w';
const COMPLETE: u8 = b'x';
const COUNTED: u8 = b'y';

fn key(kind: u8, parts: &[&[u8]]) -> Key {
    let mut key = vec![kind];
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// An account's record.
pub(crate) fn account(id: AccountId) -> Key {
    key(ACCOUNT, &[id.as_bytes()])
}

/// What the keys of all accounts' records begin with.
pub(crate) fn accounts() -> Key {
    key(ACCOUNT, &[])
}

/// Index of accounts by provisioner and key. Hashed, because a provisioner's name has no bound.
pub(crate) fn account_by_key(provisioner: &str, thumbprint: &str) -> Key {
    let owner = Fingerprint::of(format!("{provisioner}\0{thumbprint}").as_bytes());
    key(ACCOUNT_BY_KEY, &[owner.as_bytes()])
}

/// An external account key's record. Hashed, because a provisioner's name has no bound.
pub(crate) fn external_key(provisioner: &str, kid: &KeyId) -> Key {
    key(EXTERNAL_KEY, &[of_provisioner(provisioner, kid).as_bytes()])
}

/// What the keys of all external account keys begin with.
pub(crate) fn external_keys() -> Key {
    key(EXTERNAL_KEY, &[])
}

/// Index of accounts by the one-time external account key that they were made with.
pub(crate) fn one_time_key(provisioner: &str, kid: &KeyId) -> Key {
    key(ONE_TIME_KEY, &[of_provisioner(provisioner, kid).as_bytes()])
}

fn of_provisioner(provisioner: &str, kid: &KeyId) -> Fingerprint {
    Fingerprint::of(format!("{provisioner}\0{kid}").as_bytes())
}

/// An order's record.
pub(crate) fn order(id: OrderId) -> Key {
    key(ORDER, &[id.as_bytes()])
}

/// What the keys of all orders' records begin with.
pub(crate) fn orders() -> Key {
    key(ORDER, &[])
}

/// What the keys of [`order_of_account`] begin with.
pub(crate) fn orders_of_account(account: AccountId) -> Key {
    key(ORDER_OF_ACCOUNT, &[account.as_bytes()])
}

/// Index of orders by account.
pub(crate) fn order_of_account(account: AccountId, id: OrderId) -> Key {
    key(ORDER_OF_ACCOUNT, &[account.as_bytes(), id.as_bytes()])
}

/// Index of orders by their certificate's leaf.
pub(crate) fn certificate(leaf: Fingerprint) -> Key {
    key(CERTIFICATE, &[leaf.as_bytes()])
}

/// The same of orders whose certificate came too late: another order, which gets it, may be in [`certificate`].
pub(crate) fn late_certificate(leaf: Fingerprint) -> Key {
    key(LATE_CERTIFICATE, &[leaf.as_bytes()])
}

/// What the keys of [`late`] begin with. Hashed, to be short.
pub(crate) fn all_late(account: AccountId, line: [u8; 32]) -> Key {
    let owner = Fingerprint::of(&[account.as_bytes(), line.as_slice()].concat());
    key(LATE, &[owner.as_bytes()])
}

/// Index of the orders that have ended and may hand a certificate over, by account and line.
pub(crate) fn late(account: AccountId, line: [u8; 32], id: OrderId) -> Key {
    [all_late(account, line).as_slice(), id.as_bytes()].concat()
}

/// Index of orders by their certificate as RFC 9773 names it. Hashed, because such a name has no bound.
pub(crate) fn certificate_id(id: &CertificateId) -> Key {
    key(CERTIFICATE_ID, &[hashed(id).as_bytes()])
}

/// Index of orders by the certificate that they replace.
pub(crate) fn replaced(id: &CertificateId) -> Key {
    key(REPLACED, &[hashed(id).as_bytes()])
}

fn hashed(id: &CertificateId) -> Fingerprint {
    Fingerprint::of(id.to_string().as_bytes())
}

/// What the keys of [`renewal`] begin with, for one upstream. Hashed, to be of one length.
fn renewals_at(upstream: UpstreamName) -> Key {
    key(
        RENEWAL,
        &[Fingerprint::of(upstream.as_str().as_bytes()).as_bytes()],
    )
}

/// Index of orders by when the CA is to be asked about their renewal.
pub(crate) fn renewal(upstream: UpstreamName, due: Timestamp, id: OrderId) -> Key {
    [renewals_at(upstream).as_slice(), &sortable(due), id.as_bytes()].concat()
}

/// The renewals that are due: from the first key to before the second.
pub(crate) fn renewals_until(upstream: UpstreamName, now: Timestamp) -> (Key, Key) {
    until(renewals_at(upstream), now)
}

/// What the keys of [`in_line`] begin with, for one line.
pub(crate) fn line(line: [u8; 32]) -> Key {
    key(LINE, &[&line])
}

/// Index of the orders in a line, the first one first: one that is open at the CA is before all others, whatever a clock
/// says that was set back.
pub(crate) fn in_line(line: [u8; 32], is_open: bool, since: Timestamp, id: OrderId) -> Key {
    let rank = [u8::from(!is_open)];
    key(LINE, &[&line, &rank, &sortable(since), id.as_bytes()])
}

/// Leads to the one order of a line that is open at the CA.
pub(crate) fn open(line: [u8; 32]) -> Key {
    key(OPEN, &[&line])
}

/// What the keys of [`issued_for`] begin with. Hashed, to be short.
pub(crate) fn all_issued_for(account: AccountId, names: [u8; 32]) -> Key {
    let owner = Fingerprint::of(&[account.as_bytes(), names.as_slice()].concat());
    key(ISSUED, &[owner.as_bytes()])
}

/// Index of the orders whose certificate is here, by account and names.
pub(crate) fn issued_for(account: AccountId, names: [u8; 32], id: OrderId) -> Key {
    [all_issued_for(account, names).as_slice(), id.as_bytes()].concat()
}

/// What the keys of [`counted`] begin with, for one name. Hashed and cut, for an order of 100 names has 100 of them.
pub(crate) fn counted_for(name: &Identifier) -> Key {
    let hash = Fingerprint::of(name.to_string().as_bytes());
    let (short, _) = hash.as_bytes().split_at(16);
    key(COUNTED, &[short])
}

/// Index of the orders that count for a name, by when they began to.
pub(crate) fn counted(name: &Identifier, since: Timestamp, id: OrderId) -> Key {
    [counted_for(name).as_slice(), &sortable(since), id.as_bytes()].concat()
}

/// Those of a name from a moment on: from the first key to the end of the second's range.
pub(crate) fn counted_since(name: &Identifier, since: Timestamp) -> (Key, Key) {
    let prefix = counted_for(name);
    ([prefix.as_slice(), &sortable(since)].concat(), prefix)
}

/// The time in a key of [`counted`].
pub(crate) fn counted_at(key: &[u8]) -> Option<Timestamp> {
    let (rest, _id) = key.split_last_chunk::<16>()?;
    let number = u128::from_be_bytes(*rest.last_chunk::<16>()?) ^ (1 << 127);
    Timestamp::from_nanosecond(number.cast_signed()).ok()
}

/// Up to which generation of index entries the store is complete.
pub(crate) fn complete() -> Key {
    key(COMPLETE, &[])
}

/// Index of orders by when they may be deleted.
pub(crate) fn deletion(after: Timestamp, id: OrderId) -> Key {
    key(DELETION, &[&sortable(after), id.as_bytes()])
}

/// The deletions that are due: from the first key to before the second.
pub(crate) fn deletions_until(now: Timestamp) -> (Key, Key) {
    until(key(DELETION, &[]), now)
}

fn until(prefix: Key, now: Timestamp) -> (Key, Key) {
    let first_not_due = sortable_number(now).saturating_add(1).to_be_bytes();
    let end = [prefix.as_slice(), &first_not_due].concat();
    (prefix, end)
}

/// A job's record. It begins with its order, so that an order's jobs stand together.
pub(crate) fn job(work: &Work) -> Key {
    key(JOB, &[work.order().as_bytes(), key_of(work).as_bytes()])
}

/// What the keys of an order's jobs begin with.
pub(crate) fn jobs_of(order: OrderId) -> Key {
    key(JOB, &[order.as_bytes()])
}

/// What the keys of all jobs begin with.
pub(crate) fn jobs() -> Key {
    key(JOB, &[])
}

/// An issuer's certificate.
pub(crate) fn issuer(fingerprint: Fingerprint) -> Key {
    key(ISSUER, &[fingerprint.as_bytes()])
}

/// A small named value.
pub(crate) fn named(name: &str) -> Key {
    key(NAMED, &[name.as_bytes()])
}

/// The name in the key of a small named value.
pub(crate) fn name_in(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned()
}

/// Tells this store from every other one.
pub(crate) fn identity() -> Key {
    key(IDENTITY, &[])
}

/// The continuation of a record that does not fit into one value.
pub(crate) fn chunk(record: &[u8], index: u16) -> Key {
    key(CHUNK, &[record, &index.to_be_bytes()])
}

/// The order that an order's key, or an index key which ends in an order's id, names.
pub(crate) fn order_at_end(key: &[u8]) -> Option<OrderId> {
    key.last_chunk::<16>().map(|id| OrderId::from_bytes(*id))
}

/// The account that an account's key names.
pub(crate) fn account_at_end(key: &[u8]) -> Option<AccountId> {
    key.last_chunk::<16>().map(|id| AccountId::from_bytes(*id))
}

/// What stands under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An account's record.
    Account,
    /// An order's record.
    Order,
    /// An external account key's record.
    ExternalKey,
    /// An issuer's certificate.
    Issuer,
    /// A small named value.
    Named,
    /// A job.
    Job,
    /// An index entry, a part of a record, or a mark of the store's own.
    Other,
}

/// What stands under this key.
pub(crate) fn kind(key: &[u8]) -> Kind {
    match key.first() {
        Some(&ACCOUNT) => Kind::Account,
        Some(&ORDER) => Kind::Order,
        Some(&EXTERNAL_KEY) => Kind::ExternalKey,
        Some(&ISSUER) => Kind::Issuer,
        Some(&NAMED) => Kind::Named,
        Some(&JOB) => Kind::Job,
        _ => Kind::Other,
    }
}

/// A key for people: what it is, and its name. Costs nothing until it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described<'a>(&'a [u8]);

/// The key for people.
pub(crate) fn describe(key: &[u8]) -> Described<'_> {
    Described(key)
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((kind, name)) = self.0.split_first() else {
            return f.write_str("the empty key");
        };
        let what = match *kind {
            ACCOUNT => "account",
            ORDER => "order",
            JOB => "job",
            ISSUER => "issuer",
            EXTERNAL_KEY => "external account key",
            IDENTITY => "identity",
            NAMED => return write!(f, "value {}", String::from_utf8_lossy(name)),
            CHUNK => return write!(f, "a part of {}", describe(name)),
            other => return write!(f, "index {}", char::from(other)),
        };
        write!(f, "{what} ")?;
        name.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn sortable(time: Timestamp) -> [u8; 16] {
    sortable_number(time).to_be_bytes()
}

/// Nanoseconds, shifted so that no time is negative.
fn sortable_number(time: Timestamp) -> u128 {
    time.as_nanosecond().cast_unsigned() ^ (1 << 127)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_times_do() {
        let id = OrderId::random();
        let times = [
            "-000100-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999999Z",
            "1970-01-01T00:00:00Z",
        ];
        let keys = times.map(|time| deletion(time.parse().unwrap(), id));
        assert!(keys.is_sorted());
        let (from, to) = deletions_until(times[1].parse().unwrap());
        assert!(from < keys[0] && keys[1] < to && to <= keys[2]);
        assert_eq!(order_at_end(&keys[0]), Some(id));
        let name = Identifier::dns("www.example.com").unwrap();
        for time in times {
            let time = time.parse().unwrap();
            assert_eq!(counted_at(&counted(&name, time, id)), Some(time));
        }
    }
}
