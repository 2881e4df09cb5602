//! The daemon's own upkeep: its account at the CA, its certificate, the deletion of what is over, and the figures that
//! operators see.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::acme::job::WorkKind;
use crate::metrics::raise_to;
use crate::store::offers;
use crate::upstream;
use crate::worker::issuance::timed;
use crate::worker::{Context, backoff, own_certificate, renewal};

/// How often deletable orders are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How many orders one deletion takes.
const SWEEP_BATCH: usize = 200;

/// How often the figures are brought up to date.
const CENSUS_EVERY: Duration = Duration::from_secs(1);

/// How often the CA's directory is looked at.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// How often the daemon's own certificate is looked at.
const OWN_CERTIFICATE_EVERY: Duration = Duration::from_secs(1);

/// The longest wait for the CA before an account is asked for again.
const PREPARE_CEILING: Duration = Duration::from_secs(60);

/// The wait after the CA has refused the account for good: somebody must do something first (SECURITY F10).
const PREPARE_REFUSED: Duration = Duration::from_secs(3600);

const UPSTREAM_ACCOUNT: &str = "upstream account";
const OWN_CERTIFICATE: &str = "own certificate";
const STORE: &str = "store";

/// Says what is missing before anything has been looked at: nobody is told that all is well before it is.
pub(crate) fn report_unknown(context: &Context) {
    let health = &context.metrics.health;
    let account = "the account at the CA has not been looked up yet".to_owned();
    health.report(UPSTREAM_ACCOUNT, Err(account));
    if context.settings.own_certificate_names.is_some() {
        let certificate = "the own certificate has not been looked up yet".to_owned();
        health.report(OWN_CERTIFICATE, Err(certificate));
    }
}

/// Runs all of it until told to stop.
pub(crate) async fn run(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    let work = async {
        tokio::join!(
            prepare(&context),
            probe(&context),
            renewal::run(&context),
            own(&context),
            sweep(&context),
            census(&context)
        );
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Asks for the account at the CA until there is one. Only then are orders worked on.
async fn prepare(context: &Context) {
    let health = &context.metrics.health;
    let mut faults = 0_u32;
    loop {
        match timed(context, "register", context.issuer.prepare()).await {
            Ok(()) => break,
            Err(error) => {
                faults = faults.saturating_add(1);
                tracing::error!(%error, faults, "there is no account at the CA yet");
                health.report(
                    UPSTREAM_ACCOUNT,
                    Err(format!("there is no account at the CA: {error}")),
                );
                let wait = match error {
                    upstream::Error::Permanent(_) => PREPARE_REFUSED,
                    upstream::Error::Transient { retry_after, .. } => retry_after
                        .unwrap_or(Duration::ZERO)
                        .max(backoff(faults, PREPARE_CEILING)),
                    upstream::Error::OrderGone(_) => backoff(faults, PREPARE_CEILING),
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
    tracing::info!("the account at the CA is ready");
    health.report(UPSTREAM_ACCOUNT, Ok(()));
    context.ca.set_ready();
}

async fn probe(context: &Context) {
    loop {
        let up = context.issuer.probe().await;
        match &up {
            Ok(offered) => {
                if let Err(error) = offers::save(&*context.store, offered).await {
                    tracing::error!(%error, "what the CA offers can not be stored");
                }
            }
            Err(error) => tracing::warn!(%error, "the CA's directory does not answer"),
        }
        let gauge = context
            .metrics
            .external_ca_up
            .with_label_values(&[&context.settings.ca_url]);
        gauge.set(i64::from(up.is_ok()));
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

async fn own(context: &Context) {
    let Some(names) = &context.settings.own_certificate_names else {
        return;
    };
    loop {
        let state = own_certificate::look(context, names).await;
        let report = match state {
            Ok(own_certificate::State::Good) => Ok(()),
            Ok(own_certificate::State::Missing(what)) => Err(what),
            Err(error) => {
                tracing::error!(%error, "the own certificate can not be looked after");
                Err(error.to_string())
            }
        };
        context.metrics.health.report(OWN_CERTIFICATE, report);
        tokio::time::sleep(OWN_CERTIFICATE_EVERY).await;
    }
}

async fn sweep(context: &Context) {
    loop {
        match context.store.sweep(context.clock.now(), SWEEP_BATCH).await {
            Ok(swept) if swept >= SWEEP_BATCH => continue,
            Ok(0) => {}
            Ok(swept) => tracing::debug!(swept, "orders deleted whose time is over"),
            Err(error) => tracing::error!(%error, "the store can not be swept"),
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn census(context: &Context) {
    let metrics = &context.metrics;
    loop {
        match context.store.census().await {
            Ok(census) => {
                for kind in WorkKind::ALL {
                    let waiting = census.jobs.get(&kind).copied().unwrap_or(0);
                    metrics
                        .jobs_waiting
                        .with_label_values(&[kind.name()])
                        .set(whole(waiting));
                }
                raise_to(&metrics.store_commits, census.commits);
                raise_to(&metrics.store_syncs, census.syncs);
                metrics.store_bytes.set(whole(census.bytes_on_disk));
            }
            Err(error) => tracing::error!(%error, "the store can not be counted"),
        }
        let room = context
            .store
            .check_room()
            .await
            .map_err(|error| error.to_string());
        metrics.health.report(STORE, room);
        tokio::time::sleep(CENSUS_EVERY).await;
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
