//! How a record lies in sled: a head with the record's version, its index keys and the first part of its body, then
//! the rest of the body in chunks.
//!
//! No value passes 8 kB: sled puts large nodes into blob files, which a power cut leaves torn. The index keys stand in
//! the head so that replacing or deleting a record needs no look into its body.

use std::collections::BTreeMap;

use sled::IVec;

use crate::store::sled::keys::{self, Key};
use crate::store::{StoreError, Versioned};

/// The longest part of a body in one value.
pub(crate) const PART: usize = 4096;

/// How long the index keys in a head may be together before they take room from the body's first part.
const ROOM_FOR_INDEXES: usize = 2048;

/// Something that values are read from.
pub(crate) trait View {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError>;
}

/// Values to be written; `None` deletes.
pub(crate) type Writes = BTreeMap<Key, Option<IVec>>;

/// An index entry that a record owns: it comes and goes with the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    /// Where.
    pub(crate) key: Key,
    /// What it leads to; may be empty.
    pub(crate) value: Vec<u8>,
}

/// What stands before a body's first part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The record's version.
    pub(crate) version: u64,
    /// How many chunks follow.
    pub(crate) chunks: u16,
    /// The keys of the record's index entries.
    pub(crate) indexes: Vec<Key>,
    body: Vec<u8>,
}

impl Head {
    /// The head of a record that nothing is known of but which version comes after it.
    pub(crate) fn before(version: u64) -> Self {
        Self {
            version: version.saturating_sub(1),
            chunks: 0,
            indexes: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The head of the record under this key, if there is a record.
    pub(crate) fn read(view: &impl View, key: &[u8]) -> Result<Option<Self>, StoreError> {
        let Some(value) = view.get(key)? else {
            return Ok(None);
        };
        let mut rest = &value[..];
        let head = Self::parse(&mut rest);
        head.map(Some).ok_or_else(|| {
            StoreError::Corrupt(format!("the head of {} can not be read", keys::describe(key)))
        })
    }

    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let version = u64::from_be_bytes(take(rest)?);
        let chunks = u16::from_be_bytes(take(rest)?);
        let count = u16::from_be_bytes(take(rest)?);
        let mut indexes = Vec::new();
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes(take(rest)?));
            let (index, tail) = rest.split_at_checked(length)?;
            indexes.push(index.to_vec());
            *rest = tail;
        }
        Some(Self {
            version,
            chunks,
            indexes,
            body: rest.to_vec(),
        })
    }

    fn to_value(&self) -> Result<IVec, StoreError> {
        let mut value = Vec::with_capacity(self.body.len() + 256);
        value.extend_from_slice(&self.version.to_be_bytes());
        value.extend_from_slice(&self.chunks.to_be_bytes());
        value.extend_from_slice(&length(self.indexes.len())?.to_be_bytes());
        for index in &self.indexes {
            value.extend_from_slice(&length(index.len())?.to_be_bytes());
            value.extend_from_slice(index);
        }
        value.extend_from_slice(&self.body);
        Ok(value.into())
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*bytes)
}

fn length(length: usize) -> Result<u16, StoreError> {
    u16::try_from(length).map_err(|_| StoreError::Failed("a record is too large to be stored".to_owned()))
}

/// The whole body of the record under this key, if there is a record.
pub(crate) fn read(view: &impl View, key: &[u8]) -> Result<Option<Versioned<Vec<u8>>>, StoreError> {
    let Some(head) = Head::read(view, key)? else {
        return Ok(None);
    };
    let mut body = head.body;
    for index in 0..head.chunks {
        let chunk = view.get(&keys::chunk(key, index))?.ok_or_else(|| {
            StoreError::Corrupt(format!("part {index} of {} is missing", keys::describe(key)))
        })?;
        body.extend_from_slice(&chunk);
    }
    Ok(Some(Versioned {
        value: body,
        version: head.version,
    }))
}

/// The writes that replace the record under this key, `old` being its head if it exists.
pub(crate) fn replace(
    view: &impl View,
    key: &Key,
    old: Option<&Head>,
    body: &[u8],
    indexes: &[Index],
    writes: &mut Writes,
) -> Result<(), StoreError> {
    let keys: usize = indexes.iter().map(|index| index.key.len() + 2).sum();
    let room = PART.saturating_sub(keys.saturating_sub(ROOM_FOR_INDEXES));
    let (first, rest) = body.split_at(body.len().min(room));
    let parts: Vec<&[u8]> = rest.chunks(PART).collect();
    let head = Head {
        version: old.map_or(0, |head| head.version).saturating_add(1),
        chunks: length(parts.len())?,
        indexes: indexes.iter().map(|index| index.key.clone()).collect(),
        body: first.to_vec(),
    };
    if let Some(old) = old {
        delete_parts(key, old, head.chunks, writes);
    }
    for (index, part) in (0..).zip(parts) {
        let chunk = keys::chunk(key, index);
        // A long record changes little from one version to the next, and mostly near its end.
        if view.get(&chunk)?.as_deref() != Some(part) {
            writes.insert(chunk, Some(part.into()));
        }
    }
    for index in indexes {
        let kept = old.is_some_and(|old| old.indexes.contains(&index.key));
        match kept {
            true => writes.remove(&index.key),
            false => writes.insert(index.key.clone(), Some(index.value.as_slice().into())),
        };
    }
    writes.insert(key.clone(), Some(head.to_value()?));
    Ok(())
}

/// The writes that delete the record under this key.
pub(crate) fn delete(key: &Key, old: &Head, writes: &mut Writes) {
    delete_parts(key, old, 0, writes);
    writes.insert(key.clone(), None);
}

fn delete_parts(key: &Key, old: &Head, keep: u16, writes: &mut Writes) {
    for index in &old.indexes {
        writes.insert(index.clone(), None);
    }
    for index in keep..old.chunks {
        writes.insert(keys::chunk(key, index), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl View for Writes {
        fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
            Ok(Self::get(self, key).cloned().flatten())
        }
    }

    fn apply(view: &mut Writes, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => view.insert(key, Some(value)),
                None => view.remove(&key),
            };
        }
    }

    fn indexes(names: &[&str]) -> Vec<Index> {
        let index = |name: &&str| Index {
            key: name.as_bytes().to_vec(),
            value: b"x".to_vec(),
        };
        names.iter().map(index).collect()
    }

    #[test]
    fn a_record_of_any_size_is_replaced_without_leaving_parts_or_indexes_behind() {
        let mut view = Writes::new();
        let key = b"o1".to_vec();
        let rounds = [
            (0_usize, &["a"][..]),
            (30_000, &["a", "b"]),
            (4096, &["b"]),
            (4097, &[]),
            (12_288, &["c"]),
            (100, &["c"]),
        ];
        for (round, (size, names)) in (1..).zip(rounds) {
            let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let old = Head::read(&view, &key).unwrap();
            let mut writes = Writes::new();
            replace(&view, &key, old.as_ref(), &body, &indexes(names), &mut writes).unwrap();
            apply(&mut view, writes);
            let read = read(&view, &key).unwrap().unwrap();
            assert_eq!((read.version, read.value), (round, body));
            let chunks = size.saturating_sub(1) / PART;
            assert_eq!(view.len(), 1 + chunks + names.len());
            assert!(view.values().flatten().all(|value| value.len() < 8000));
        }
        let old = Head::read(&view, &key).unwrap().unwrap();
        let mut writes = Writes::new();
        delete(&key, &old, &mut writes);
        apply(&mut view, writes);
        assert!(view.is_empty());
    }

    #[test]
    fn the_index_keys_of_100_names_leave_no_value_too_large() {
        let mut view = Writes::new();
        let key = b"o1".to_vec();
        let names: Vec<String> = (0..100).map(|n| format!("{n:049}")).collect();
        let few: Vec<&str> = names.iter().take(9).map(String::as_str).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        for indexed in [&few, &all, &few] {
            let body = [7; 30_000];
            let old = Head::read(&view, &key).unwrap();
            let mut writes = Writes::new();
            replace(&view, &key, old.as_ref(), &body, &indexes(indexed), &mut writes).unwrap();
            apply(&mut view, writes);
            assert_eq!(read(&view, &key).unwrap().unwrap().value, body);
            assert!(view.values().flatten().all(|value| value.len() < 8000));
        }
    }

    #[test]
    fn f23_a_torn_record_is_corrupt_and_named() {
        let mut view = Writes::new();
        let key = b"o1".to_vec();
        let mut writes = Writes::new();
        replace(&view, &key, None, &[7; 9000], &[], &mut writes).unwrap();
        apply(&mut view, writes);
        view.remove(&keys::chunk(&key, 1));
        let missing = read(&view, &key).unwrap_err();
        assert_eq!(
            missing,
            StoreError::Corrupt("part 1 of order 31 is missing".to_owned())
        );
        view.insert(key.clone(), Some(b"short".into()));
        let torn = read(&view, &key).unwrap_err();
        assert_eq!(
            torn,
            StoreError::Corrupt("the head of order 31 can not be read".to_owned())
        );
    }
}
