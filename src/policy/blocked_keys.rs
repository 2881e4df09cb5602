//! Keys that others have, too: Debian's weak keys (CVE-2008-0166), and keys whose private half is published.
//!
//! The large list is a file that badkeys keeps (`blocklist.dat`, docs/BLOCKLISTFORMAT.md in its source): records of 16
//! bytes, sorted, each the first 120 bits of [`crate::jose::jwk::Jwk::number_hash`] and a number for the list that the
//! key stands in. A small one is built in. Pure: the file is read elsewhere.

mod published;

use std::fmt;
use std::sync::Arc;

use crate::policy::blocked_keys::published::PUBLISHED;

/// Length of a record.
const RECORD: usize = 16;

/// How much of a hash a record holds.
const HASH: usize = 15;

/// The built-in list, and the operator's, if there is one.
#[derive(Clone, Default)]
pub struct BlockedKeys {
    /// Some 60 MB in the file of 2026, so they are shared.
    records: Arc<Vec<[u8; RECORD]>>,
}

impl fmt::Debug for BlockedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockedKeys({} and {})", PUBLISHED.len(), self.records.len())
    }
}

/// The bytes are no `blocklist.dat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBlocklist {
    /// There is not a single record.
    #[error("is empty")]
    Empty,
    /// The end is not the end of a record.
    #[error("is not made of whole records of 16 bytes")]
    Cut,
    /// A record stands before a smaller one: keys would not be found.
    #[error("is not sorted")]
    Unsorted,
}

impl BlockedKeys {
    /// The built-in list and the records of a `blocklist.dat`.
    ///
    /// # Errors
    ///
    /// [`InvalidBlocklist`] says how the bytes are none.
    pub fn with_blocklist(bytes: &[u8]) -> Result<Self, InvalidBlocklist> {
        let (records, []) = bytes.as_chunks::<RECORD>() else {
            return Err(InvalidBlocklist::Cut);
        };
        match records {
            [] => Err(InvalidBlocklist::Empty),
            records if records.is_sorted() => Ok(Self {
                records: Arc::new(records.to_vec()),
            }),
            _ => Err(InvalidBlocklist::Unsorted),
        }
    }

    /// Where the key with this hash is known from, if it is in a list.
    pub fn source(&self, number_hash: &[u8; 32]) -> Option<&'static str> {
        let hash = number_hash.first_chunk::<HASH>()?;
        let number = hash
            .iter()
            .fold(0, |number, byte| number << 8 | u128::from(*byte));
        let published = PUBLISHED.iter().find(|(published, _)| *published == number);
        let listed = || {
            self.records
                .binary_search_by(|record| record.iter().take(HASH).cmp(hash))
        };
        match published {
            Some((_, place)) => Some(place),
            None => listed().ok().map(|_| "a list of compromised keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that begins with these bytes.
    fn hash(first: u8, last: u8) -> [u8; 32] {
        let mut hash = [0; 32];
        (hash[0], hash[HASH - 1], hash[HASH]) = (first, last, 0xff);
        hash
    }

    fn list(hashes: &[[u8; 32]]) -> Vec<u8> {
        // The last byte of a record is the list that the key stands in.
        hashes
            .iter()
            .flat_map(|hash| [&hash[..HASH], &[7]].concat())
            .collect()
    }

    #[test]
    fn c909_every_record_of_a_list_is_found_and_nothing_else() {
        let known: Vec<_> = (1..=250).map(|first| hash(first, 9)).collect();
        for count in [1, 2, 3, 249, 250] {
            let keys = BlockedKeys::with_blocklist(&list(&known[..count])).unwrap();
            for (place, hash) in known.iter().enumerate() {
                assert_eq!(keys.source(hash).is_some(), place < count, "{place} of {count}");
            }
            for first in 0..=255 {
                assert_eq!(keys.source(&hash(first, 8)), None);
                assert_eq!(keys.source(&hash(first, 10)), None);
            }
        }
        assert_eq!(BlockedKeys::default().source(&known[0]), None);
    }

    #[test]
    fn c909_the_built_in_keys_are_known_whatever_the_list() {
        let with_list = BlockedKeys::with_blocklist(&list(&[hash(1, 1)])).unwrap();
        for keys in [BlockedKeys::default(), with_list] {
            for (number, place) in PUBLISHED {
                let mut hash = [0; 32];
                hash[..HASH].copy_from_slice(&number.to_be_bytes()[1..]);
                assert_eq!(keys.source(&hash), Some(*place));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_list_are_refused() {
        let good = list(&[hash(1, 1), hash(2, 1), hash(2, 2)]);
        let error = |bytes: &[u8]| BlockedKeys::with_blocklist(bytes).err();
        assert_eq!(error(&good), None);
        assert_eq!(error(&[]), Some(InvalidBlocklist::Empty));
        assert_eq!(error(&good[1..]), Some(InvalidBlocklist::Cut));
        assert_eq!(error(&good[..good.len() - 1]), Some(InvalidBlocklist::Cut));
        assert_eq!(
            error(&list(&[hash(2, 1), hash(1, 1)])),
            Some(InvalidBlocklist::Unsorted)
        );
    }
}
