//! Records on their way from one backend to the other: each as it is stored, without what is derived from it.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::mpsc;

use crate::store::StoreError;
use crate::store::sled::keys::{self, Key};

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
        *self.counts.entry(keys::kind_of(&record.key)).or_default() += 1;
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
    /// Whether what was read back is what was given.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] if not.
    pub(crate) fn is_all_of(&self, given: &Self) -> Result<(), StoreError> {
        match self == given {
            true => Ok(()),
            false => Err(StoreError::Failed(format!(
                "what is read back ({self}) is not what was written ({given}); nothing of it was kept"
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

/// How many records wait to be written.
const AHEAD: usize = 256;

/// A record, or the end of all; or why there is none.
type Given = Result<Option<Record>, StoreError>;

/// Gives records away.
pub(crate) struct Giver(mpsc::Sender<Given>);

/// Records that are given, up to the end: if that does not come, not all have come.
pub struct Records(mpsc::Receiver<Given>);

/// From one backend to the other.
pub(crate) fn channel() -> (Giver, Records) {
    let (giver, records) = mpsc::channel(AHEAD);
    (Giver(giver), Records(records))
}

impl Giver {
    /// Gives all of them, or why they can not be read, as long as somebody takes them. Blocks.
    pub(crate) fn give_all(
        &self,
        records: Result<impl Iterator<Item = Result<Record, StoreError>>, &StoreError>,
    ) {
        let given: Box<dyn Iterator<Item = Given>> = match records {
            Ok(records) => Box::new(records.map(|record| record.map(Some)).chain([Ok(None)])),
            Err(error) => Box::new([Err(error.clone())].into_iter()),
        };
        for given in given {
            if self.0.blocking_send(given).is_err() {
                return;
            }
        }
    }

    /// Gives one, or the end. Gives whether somebody has taken it.
    pub(crate) async fn give(&self, given: Given) -> bool {
        self.0.send(given).await.is_ok()
    }
}

impl Records {
    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Given {
        self.0.recv().await.unwrap_or_else(broken_off)
    }

    /// The same, and blocks.
    pub(crate) fn blocking_next(&mut self) -> Given {
        self.0.blocking_recv().unwrap_or_else(broken_off)
    }

    /// All of them, which go nowhere.
    pub(crate) async fn counted(mut self) -> Result<Tally, StoreError> {
        let mut tally = Tally::default();
        while let Some(record) = self.next().await? {
            tally.add(&record);
        }
        Ok(tally)
    }
}

fn broken_off() -> Given {
    Err(StoreError::Failed(
        "the reading of the records has broken off".to_owned(),
    ))
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

    #[tokio::test]
    async fn records_that_break_off_are_not_all() {
        let (giver, mut records) = channel();
        assert!(giver.give(Ok(Some(record("a", 1, "x")))).await);
        drop(giver);
        assert_eq!(records.next().await, Ok(Some(record("a", 1, "x"))));
        assert_eq!(records.next().await, broken_off());
    }

    #[test]
    fn the_same_records_in_any_order_have_one_tally_and_any_difference_another() {
        let [a, b] = [record("a", 1, "x"), record("b", 2, "y")];
        let both = tally(&[a.clone(), b.clone()]);
        assert_eq!(tally(&[b.clone(), a.clone()]), both);
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
