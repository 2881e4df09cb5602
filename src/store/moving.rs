//! What was moved from one backend to the other: the records of both, one by one, without what is derived from them.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::store::StoreError;
use crate::store::sled::keys::{self, Key, Kind};

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What it is, and its name: its key in the embedded store.
    pub(crate) key: Key,
    /// Its version; 0 if it has none.
    pub(crate) version: u64,
    /// The envelope of store/codec; never sealed.
    pub(crate) body: Vec<u8>,
}

/// What has been moved: how many records of each kind, and what stands for all of them, in whatever order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<&'static str, u64>,
    sum: [u8; 32],
}

impl Tally {
    /// One more.
    pub(crate) fn add(&mut self, record: &Record) {
        *self.counts.entry(name_of(&record.key)).or_default() += 1;
        let length = (record.key.len() as u64).to_be_bytes();
        let version = record.version.to_be_bytes();
        let whole = [&length, record.key.as_slice(), &version, &record.body].concat();
        // No two records have one key, so none takes another one out of the sum again.
        let hash = digest(&SHA256, &whole);
        for (sum, byte) in self.sum.iter_mut().zip(hash.as_ref()) {
            *sum ^= byte;
        }
    }
}

impl Tally {
    /// Whether what was read back is what was to be moved.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] if not.
    pub(crate) fn is_all_of(&self, given: &Self) -> Result<(), StoreError> {
        match self == given {
            true => Ok(()),
            false => Err(StoreError::Failed(format!(
                "what is read back ({self}) is not what was to be moved ({given}): do not use it, and start again where the records were"
            ))),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("nothing");
        }
        for (place, (kind, count)) in self.counts.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{kind}: {count}")?;
        }
        Ok(())
    }
}

/// Records of this one's kind, for people.
fn name_of(key: &[u8]) -> &'static str {
    match keys::kind(key) {
        Kind::Account => "accounts",
        Kind::ExternalKey => "external account keys",
        Kind::Order => "orders",
        Kind::Job => "jobs",
        Kind::Issuer => "issuers",
        Kind::Named => "values",
        Kind::Other => "others",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, version: u64, body: &str) -> Record {
        Record {
            key: keys::named(name),
            version,
            body: body.into(),
        }
    }

    fn tally(records: &[Record]) -> Tally {
        let mut tally = Tally::default();
        records.iter().for_each(|record| tally.add(record));
        tally
    }

    #[test]
    fn the_same_records_in_any_order_have_one_tally_and_any_difference_another() {
        let [a, b] = [record("a", 1, "x"), record("b", 2, "y")];
        let both = tally(&[a.clone(), b.clone()]);
        assert_eq!(tally(&[b, a.clone()]), both);
        assert_eq!(both.to_string(), "values: 2");
        for other in [
            vec![a.clone()],
            vec![a.clone(), record("b", 3, "y")],
            vec![a.clone(), record("b", 2, "z")],
            vec![a, record("c", 2, "y")],
        ] {
            assert_ne!(tally(&other), both, "{other:?}");
        }
    }
}
