//! How long a CA wants to be left alone, kept in the store: it outlasts a restart, and where several processes work on one
//! store, it holds for all of them once one has been told. What one of them makes of its own faults stays with it: the others
//! may have a way to the CA.

use std::time::Duration;

use crate::acme::certificate::Fingerprint;
use crate::store::StoreError;
use crate::worker::upstream::Watched;
use crate::worker::{Context, moment};

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
    let (store, name, now) = (&*context.store, name_of(upstream), context.clock.now());
    let stored = moment::load(store, &name, now, LONGEST).await?;
    let ours = upstream.health.asked_until();
    if let Some(until) = stored.value.filter(|until| Some(*until) > ours) {
        upstream.health.asks_until(until);
    } else if let Some(ours) = ours.filter(|ours| Some(*ours) > stored.value && *ours > now) {
        moment::save(store, &name, stored.version, ours).await?;
    }
    Ok(())
}

/// By the CA, whatever it is called in the configuration.
fn name_of(upstream: &Watched) -> String {
    format!("pause/{}", Fingerprint::of(upstream.upstream.ca_url.as_bytes()))
}
