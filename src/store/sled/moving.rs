//! What `acme-proxy migrate` wants of a store that nobody else has open.

use crate::store::moving::{Record, Tally};
use crate::store::sled::SledStore;
use crate::store::sled::keys::{self, Kind};
use crate::store::sled::record::{self, View as _};
use crate::store::sled::view::failure;
use crate::store::{Entry, StoreError};

impl SledStore {
    /// All entries, each read when it is asked for.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, StoreError>> + '_ {
        self.shared.tree.iter().map(|entry| {
            let (key, value) = entry.map_err(|error| failure(&error))?;
            Ok(Entry {
                key: key.to_vec(),
                value: value.to_vec(),
            })
        })
    }

    /// What stands for all records.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] or [`StoreError::Failed`] if one can not be read.
    pub fn tally(&self) -> Result<Tally, StoreError> {
        let mut tally = Tally::default();
        for key in self.shared.tree.iter().keys() {
            let key = key.map_err(|error| failure(&error))?.to_vec();
            let view = self.shared.durable.now();
            let (version, body) = match keys::kind(&key) {
                Kind::Other => continue,
                Kind::Job => (0, view.get(&key)?.map(|body| body.to_vec())),
                Kind::Account | Kind::Order | Kind::ExternalKey | Kind::Issuer | Kind::Named => {
                    let stored = record::read(&view, &key)?;
                    (
                        stored.as_ref().map_or(0, |stored| stored.version),
                        stored.map(|stored| stored.value),
                    )
                }
            };
            let body =
                body.ok_or_else(|| StoreError::Corrupt(format!("{} has gone", keys::describe(&key))))?;
            tally.add(&Record { key, version, body });
        }
        Ok(tally)
    }
}
