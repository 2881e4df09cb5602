//! How long a CA wants to be left alone, kept in the store: it outlasts a restart, and where several processes work on one
//! store, it holds for all of them once one has been told. What one of them makes of its own faults stays with it: the others
//! may have a way to the CA.

use std::time::Duration;

use jiff::Timestamp;

use crate::acme::certificate::Fingerprint;
use crate::acme::order::after;
use crate::store::{StoreError, Versioned};
use crate::worker::Context;
use crate::worker::upstream::Watched;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The longest pause that is believed.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Learns of pauses and tells of them, for ever.
pub(crate) async fn share(context: &Context, upstream: &Watched) {
    loop {
        learn(context, upstream).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// The same once.
pub(crate) async fn learn(context: &Context, upstream: &Watched) {
    match latest(context, upstream).await {
        // Somebody else has written one: it is looked at next time.
        Ok(()) | Err(StoreError::Conflict) => {}
        Err(error) => {
            tracing::warn!(upstream = %upstream.name(), %error, "how long the CA wants to be left alone can not be shared");
        }
    }
}

/// Takes the later end, ours or the stored one.
async fn latest(context: &Context, upstream: &Watched) -> Result<(), StoreError> {
    let name = name_of(upstream);
    let stored = context.store.load(&name).await?;
    let version = stored.as_ref().map_or(0, |stored| stored.version);
    // No pause is that long: it was written by another clock.
    let believable = |until: &Timestamp| *until <= after(context.clock.now(), LONGEST);
    let until = stored.and_then(|stored| parsed(&stored.value)).filter(believable);
    let ours = upstream.health.asked_until();
    if let Some(until) = until.filter(|until| Some(*until) > ours) {
        upstream.health.asks_until(until);
    } else if let Some(ours) = ours.filter(|ours| Some(*ours) > until && *ours > context.clock.now()) {
        let text = ours.to_string().into_bytes();
        context.store.save(&name, Versioned::with(version, text)).await?;
    }
    Ok(())
}

/// By the CA, whatever it is called in the configuration.
fn name_of(upstream: &Watched) -> String {
    format!("pause/{}", Fingerprint::of(upstream.upstream.ca_url.as_bytes()))
}

fn parsed(value: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
