//! What the CA offers, as the worker has read it in the CA's directory: written only when it has changed, so that those
//! who answer clients know it after a restart, and whichever process they run in.

use crate::acme::offers::Offers;
use crate::acme::upstream::UpstreamName;
use crate::store::{Store, StoreError, Versioned};

/// What the CA offers; nothing before it has been asked.
///
/// # Errors
///
/// The store's.
pub async fn load(store: &dyn Store, upstream: UpstreamName) -> Result<Offers, StoreError> {
    Ok(known(store, upstream).await?.value)
}

/// The same, to be replaced.
///
/// # Errors
///
/// The store's.
pub async fn known(store: &dyn Store, upstream: UpstreamName) -> Result<Versioned<Offers>, StoreError> {
    let Some(stored) = store.load(&name_of(upstream)).await? else {
        return Ok(Versioned::with(0, Offers::default()));
    };
    let offers = serde_json::from_slice(&stored.value);
    let offers = offers.map_err(|_| StoreError::Corrupt("the CA's offers can not be read".to_owned()))?;
    Ok(Versioned::with(stored.version, offers))
}

/// Writes down what the CA offers, in place of what was known before it was asked.
///
/// # Errors
///
/// The store's; `Conflict` if somebody else has written since.
pub async fn save(
    store: &dyn Store,
    upstream: UpstreamName,
    known: &Versioned<Offers>,
    offers: &Offers,
) -> Result<(), StoreError> {
    let version = known.version;
    if version != 0 && known.value == *offers {
        return Ok(());
    }
    let bytes = serde_json::to_vec(offers).map_err(|error| StoreError::Failed(error.to_string()))?;
    store
        .save(&name_of(upstream), Versioned::with(version, bytes))
        .await?;
    Ok(())
}

fn name_of(upstream: UpstreamName) -> String {
    format!("offers/{upstream}")
}
