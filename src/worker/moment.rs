//! A moment that is kept in the store, for all processes that work on it.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::order::after;
use crate::store::{Store, StoreError, Versioned};

/// The moment of this name, if there is one, with the version of its record. One that is later than so long from now was
/// written by another clock, and is not believed.
pub(crate) async fn load(
    store: &dyn Store,
    name: &str,
    now: Timestamp,
    ahead: Duration,
) -> Result<Versioned<Option<Timestamp>>, StoreError> {
    let Some(stored) = store.load(name).await? else {
        return Ok(Versioned::with(0, None));
    };
    let moment = std::str::from_utf8(&stored.value)
        .ok()
        .and_then(|text| text.parse().ok());
    let believed = moment.filter(|moment| *moment <= after(now, ahead));
    Ok(Versioned::with(stored.version, believed))
}

/// Writes it, unless somebody else has done so since.
pub(crate) async fn save(
    store: &dyn Store,
    name: &str,
    version: u64,
    moment: Timestamp,
) -> Result<(), StoreError> {
    let text = moment.to_string().into_bytes();
    store.save(name, Versioned::with(version, text)).await.map(drop)
}
