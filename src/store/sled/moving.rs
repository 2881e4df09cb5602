//! A store's records one by one, and what a record is stored as: for moving them to another backend and back.

use sled::IVec;

use crate::acme::account::Account;
use crate::acme::order::Order;
use crate::store::moving::Record;
use crate::store::sled::SledStore;
use crate::store::sled::keys::{self, Kind};
use crate::store::sled::put::{account_put, order_put};
use crate::store::sled::record::{self, Head, View, Writes};
use crate::store::sled::view::failure;
use crate::store::{StoreError, codec};

impl SledStore {
    /// All records, each read when it is asked for.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<Record, StoreError>> + '_ {
        let keys = Kind::ALL
            .into_iter()
            .flat_map(|kind| self.shared.tree.scan_prefix(kind.prefix()).keys());
        keys.map(|key| {
            let key = key.map_err(|error| failure(&error))?.to_vec();
            let view = self.shared.durable.now();
            let missing = || StoreError::Corrupt(format!("{} has gone", keys::describe(&key)));
            if Kind::of(&key) == Some(Kind::Job) {
                let body = view.get(&key)?.ok_or_else(missing)?.to_vec();
                return Ok(Record {
                    key,
                    version: 0,
                    body,
                });
            }
            let stored = record::read(&view, &key)?.ok_or_else(missing)?;
            drop(view);
            Ok(Record {
                key,
                version: stored.version,
                body: stored.value,
            })
        })
    }
}

/// What a new store has of a record: its parts, and the index entries that lead to it.
pub(crate) fn entries(record: &Record, writes: &mut Writes) -> Result<(), StoreError> {
    let Record { key, version, body } = record;
    let indexes = match Kind::of(key) {
        Some(Kind::Account) => {
            let account: Account = codec::decode(keys::describe(key), body)?;
            let put = account_put(&account, *version)?;
            [put.indexes, put.unique].concat()
        }
        Some(Kind::Order) => {
            let order: Order = codec::decode(keys::describe(key), body)?;
            let put = order_put(&order, *version)?;
            [put.indexes, put.unique].concat()
        }
        Some(Kind::Job) => {
            writes.insert(key.clone(), Some(body.as_slice().into()));
            return Ok(());
        }
        Some(Kind::Issuer | Kind::Value | Kind::ExternalKey) | None => Vec::new(),
    };
    record::replace(
        &Nothing,
        key,
        Some(&Head::before(*version)),
        body,
        &indexes,
        writes,
    )
}

/// There is nothing there before.
struct Nothing;

impl View for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<IVec>, StoreError> {
        Ok(None)
    }
}
