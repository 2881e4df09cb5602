//! The daemon's own upkeep: its account at the CA, its certificate, the deletion of what is over, and the figures that
//! operators see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use prometheus::core::Collector as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::acme::job::{Lane, WorkKind};
use crate::acme::upstream::UpstreamName;
use crate::metrics::health::{ACCOUNT, RESOLVER, STORE};
use crate::metrics::{Metrics, raise_to};
use crate::store::{StoreError, Waiting, offers};
use crate::upstream::Error;
use crate::worker::database::DatabaseWatch;
use crate::worker::own_certificate::OwnCertificateError;
use crate::worker::upstream::{Operation, Watched};
use crate::worker::{Context, backoff, failover, inventory, own_certificate, pause, renewal};

/// How often deletable orders are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How many orders one deletion takes.
const SWEEP_BATCH: usize = 200;

/// How often the figures are brought up to date.
const CENSUS_EVERY: Duration = Duration::from_secs(1);

/// What waits is counted job by job. After a count that took its time the next one waits so many times as long, so that a
/// database with a million jobs has little to do for it, and at most so long.
const CENSUS_SHARE: u32 = 20;
const CENSUS_CEILING: Duration = Duration::from_secs(10);

/// How long the store may take to answer: nothing else may wait for a database that hangs.
const STORE_ANSWERS: Duration = Duration::from_secs(10);

/// How often the CA's directory is looked at.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// How often the daemon's own certificate is looked at.
const OWN_CERTIFICATE_EVERY: Duration = Duration::from_secs(1);

/// The longest wait for the CA before an account is asked for again.
const PREPARE_CEILING: Duration = Duration::from_secs(60);

/// The wait after the CA has refused the account for good: somebody must do something first (SECURITY F10).
const PREPARE_REFUSED: Duration = Duration::from_secs(3600);

/// How often the DNS servers for challenge look-ups are asked something.
const RESOLVER_EVERY: Duration = Duration::from_secs(30);

/// So often in a row they must be silent to count as away: one lost packet is none of anybody's business.
const RESOLVER_SILENT: u32 = 2;

const OWN_CERTIFICATE: &str = "own certificate";

/// What the loop of the figures is called.
const UPKEEP: &str = "upkeep";

/// Says what is missing before anything has been looked at: nobody is told that all is well before it is.
pub(crate) fn report_unknown(context: &Context) {
    let health = &context.metrics.health;
    for name in context.upstreams.keys() {
        report_unknown_account(&context.metrics, *name);
    }
    for part in [STORE, RESOLVER] {
        health.report(part, Err(format!("the {part} has not been looked at yet")));
    }
    if context.settings.own_certificate_names.is_some() {
        let certificate = "the own certificate has not been looked up yet".to_owned();
        health.report(OWN_CERTIFICATE, Err(certificate));
    }
}

/// The same of one account.
pub(crate) fn report_unknown_account(metrics: &Metrics, name: UpstreamName) {
    let account = "the account at the CA has not been looked up yet".to_owned();
    metrics.health.report(&account_at(name), Err(account));
    metrics.upstream.show(name.as_str());
}

/// Says nothing more of upstreams that a worker before had, and this one has not.
pub(crate) fn forget_others(context: &Context) {
    let metrics = &context.metrics;
    for name in labels_of(&metrics.upstream.up) {
        if !context.upstreams.keys().any(|known| known.as_str() == name) {
            metrics.upstream.forget(&name);
            if let Ok(name) = name.parse() {
                metrics.health.forget(&account_at(name));
            }
        }
    }
    for url in labels_of(&metrics.external_ca_up) {
        let mut known = context.upstreams.values();
        if !known.any(|upstream| upstream.upstream.ca_url == url) {
            // It is there, or has just gone.
            drop(metrics.external_ca_up.remove_label_values(&[&url]));
        }
    }
}

/// What the only label of these gauges says.
fn labels_of(gauges: &IntGaugeVec) -> Vec<String> {
    let families = gauges.collect();
    let series = families.iter().flat_map(|family| family.get_metric());
    let labels = series.flat_map(|series| series.get_label());
    labels.map(|label| label.value().to_owned()).collect()
}

/// What the account at the CA is called in the state of health.
pub(crate) fn account_at(name: UpstreamName) -> String {
    match name.is_default() {
        true => ACCOUNT.to_owned(),
        false => format!("{ACCOUNT} {name}"),
    }
}

/// Runs all of it until told to stop.
pub(crate) async fn run(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    forget_others(&context);
    let mut upstreams = JoinSet::new();
    for upstream in context.upstreams.values() {
        let (context, upstream) = (Arc::clone(&context), Arc::clone(upstream));
        let (of_prepare, of_failover, mut stop) = (stop.clone(), stop.clone(), stop.clone());
        upstreams.spawn(async move {
            let looks = async {
                let looks = async {
                    tokio::join!(
                        probe(&context, &upstream),
                        renewal::run(&context, &upstream),
                        pause::share(&context, &upstream)
                    )
                };
                tokio::select! {
                    _ = looks => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            };
            tokio::join!(
                prepare(&context, &upstream, of_prepare),
                failover::watch(&context, &upstream, of_failover),
                looks
            )
        });
    }
    let work = async {
        tokio::join!(
            own(&context),
            sweep(&context),
            census(&context),
            resolver(&context),
            inventory::run(&context),
            store_failure(&context)
        )
    };
    tokio::select! {
        _ = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    context.metrics.health.ends(UPKEEP);
    // None is cut off: an answer that is lost may be one that names the account, and the EAB is spent.
    while upstreams.join_next().await.is_some() {}
}

/// Asks for the account at the CA until there is one, and again whenever something has become of it. Only while there is
/// one are orders worked on (SECURITY F9). Ends between two requests.
async fn prepare(context: &Context, upstream: &Watched, mut stop: watch::Receiver<bool>) {
    let (name, part) = (upstream.name(), account_at(upstream.name()));
    let metrics = &context.metrics;
    let ready = metrics.upstream.ready.with_label_values(&[name.as_str()]);
    let mut faults = 0_u32;
    // A worker before this one may have been told to wait, or one of another process.
    pause::learn(context, upstream).await;
    let (paused, unasked) = upstream.health.waits(context.clock.now());
    let mut wait = Some(paused.max(unasked));
    while waited(upstream, wait, &mut stop).await {
        let request = upstream.issuer().prepare();
        let outcome = upstream.asked(context, Operation::Register, request).await;
        if *stop.borrow() {
            // After a reload another one asks, and knows better.
            return;
        }
        wait = match outcome {
            Ok(()) => {
                faults = 0;
                tracing::info!(upstream = %name, "the account at the CA is ready");
                metrics.health.report(&part, Ok(()));
                upstream.health.set_ready();
                ready.set(1);
                None
            }
            Err(error) => {
                faults = faults.saturating_add(1);
                upstream.health.set_unready(context.clock.now());
                ready.set(0);
                upstream.will_retry(context);
                tracing::error!(upstream = %name, %error, faults, "there is no account at the CA");
                let missing = format!("there is no account at the CA: {error}");
                metrics.health.report(&part, Err(missing));
                Some(match error {
                    Error::Permanent(_) => PREPARE_REFUSED,
                    Error::Transient { retry_after, .. } => {
                        let asked = retry_after.unwrap_or(Duration::ZERO);
                        upstream.health.prepare_later(context.clock.now(), asked);
                        asked.max(backoff(faults, PREPARE_CEILING))
                    }
                    Error::OrderGone(_) | Error::OrderUnseen(_) => backoff(faults, PREPARE_CEILING),
                })
            }
        };
    }
}

/// Waits for so long, or for ever, but not after the account has changed. Says whether to go on: not if it is time to stop.
async fn waited(upstream: &Watched, wait: Option<Duration>, stop: &mut watch::Receiver<bool>) -> bool {
    let over = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => false,
        () = upstream.issuer().account_changed() => true,
        () = over => true,
    }
}

async fn probe(context: &Context, upstream: &Watched) {
    let (wait, _) = upstream.health.waits(context.clock.now());
    tokio::time::sleep(wait).await;
    loop {
        let known = offers::known(&*context.store, upstream.name()).await;
        let request = upstream.issuer().probe();
        let up = upstream.asked(context, Operation::Probe, request).await;
        match &up {
            Ok(offered) => {
                let saved = match known {
                    Ok(known) => offers::save(&*context.store, upstream.name(), &known, offered).await,
                    Err(error) => Err(error),
                };
                match saved {
                    // Another replica has asked at the same time.
                    Ok(()) | Err(StoreError::Conflict) => {}
                    Err(error) => {
                        tracing::error!(upstream = %upstream.name(), %error, "what the CA offers can not be stored");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(upstream = %upstream.name(), %error, "the CA's directory does not answer");
            }
        }
        let (is_up, asked) = upstream.health.probed(&up, context.clock.now());
        let (metrics, up) = (&context.metrics, i64::from(is_up));
        metrics
            .external_ca_up
            .with_label_values(&[&upstream.upstream.ca_url])
            .set(up);
        metrics
            .upstream
            .up
            .with_label_values(&[upstream.name().as_str()])
            .set(up);
        tokio::time::sleep(PROBE_EVERY.max(asked)).await;
    }
}

async fn own(context: &Context) {
    loop {
        let state = match &context.settings.own_certificate_names {
            Some(names) => own_certificate::look(context, names).await,
            None => Ok(own_certificate::look_at_files(context)),
        };
        let report = match state {
            Ok(own_certificate::State::Good) => Some(Ok(())),
            Ok(own_certificate::State::Missing(what)) => Some(Err(what)),
            // Another replica was at it at the same time; what it has done shows at the next look.
            Err(OwnCertificateError::Store(StoreError::Conflict)) => None,
            Err(error) => {
                tracing::error!(%error, "the own certificate can not be looked after");
                Some(Err(error.to_string()))
            }
        };
        if let Some(report) = report {
            context.metrics.health.report(OWN_CERTIFICATE, report);
        }
        tokio::time::sleep(OWN_CERTIFICATE_EVERY).await;
    }
}

async fn resolver(context: &Context) {
    // If nobody has heard of them yet, the first silence counts.
    let mut silent = match context.metrics.health.lacks(RESOLVER) {
        true => RESOLVER_SILENT,
        false => 0,
    };
    loop {
        silent = match context.validator.resolver_answers().await {
            true => 0,
            false => silent.saturating_add(1),
        };
        let state = match silent {
            0 => Ok(()),
            _ => Err(
                "no DNS server for challenge look-ups answers; challenges can not be validated".to_owned(),
            ),
        };
        if silent == 0 || silent >= RESOLVER_SILENT {
            context.metrics.health.report(RESOLVER, state);
        }
        tokio::time::sleep(RESOLVER_EVERY).await;
    }
}

async fn store_failure(context: &Context) {
    let failure = context.store.failed().await;
    context.metrics.health.store_has_failed(failure.to_string());
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
    let mut unconfigured = BTreeSet::new();
    let mut database = DatabaseWatch::default();
    let mut next_count = Instant::now();
    loop {
        metrics.health.turns(UPKEEP);
        if Instant::now() >= next_count {
            let begun = Instant::now();
            count(context, &mut unconfigured).await;
            next_count = begun + pause_after(begun.elapsed());
        }
        let room = timeout(STORE_ANSWERS, context.store.check_room()).await;
        let room = room.unwrap_or_else(|_| Err(silent()));
        metrics
            .health
            .report(STORE, room.map_err(|error| error.to_string()));
        database.look(context).await;
        tokio::time::sleep(CENSUS_EVERY).await;
    }
}

/// Counts what is stored. Upstreams that have jobs and are not configured are told of once.
async fn count(context: &Context, unconfigured: &mut BTreeSet<UpstreamName>) {
    let metrics = &context.metrics;
    let counted = timeout(STORE_ANSWERS, context.store.census()).await;
    let census = match counted.unwrap_or_else(|_| Err(silent())) {
        Ok(census) => census,
        Err(error) => {
            tracing::error!(%error, "the store can not be counted");
            return;
        }
    };
    for name in census.lanes.keys().filter_map(|lane| lane.upstream()) {
        if context.upstream(name).is_none() && unconfigured.insert(name) {
            tracing::error!(
                upstream = %name,
                "there are jobs for an upstream that is not configured any more; they wait until it is again"
            );
        }
    }
    let names = context.upstreams.keys().chain(&*unconfigured);
    report_lanes(context, &census.lanes, names.copied());
    raise_to(&metrics.store_commits, census.commits);
    raise_to(&metrics.store_syncs, census.syncs);
    metrics.store_bytes.set(whole(census.bytes_on_disk));
    if let Some(free) = census.bytes_free {
        let none: [&str; 0] = [];
        metrics.store_free_bytes.with_label_values(&none).set(whole(free));
    }
}

/// From the beginning of a count that took so long to the next.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(CENSUS_SHARE).min(CENSUS_CEILING)
}

fn silent() -> StoreError {
    StoreError::Unavailable(format!(
        "the store has not answered within {} s",
        STORE_ANSWERS.as_secs()
    ))
}

/// What waits for whom, and for how long.
fn report_lanes(
    context: &Context,
    lanes: &BTreeMap<Lane, Waiting>,
    names: impl Iterator<Item = UpstreamName>,
) {
    let metrics = &context.metrics;
    for kind in WorkKind::ALL {
        let of_kind = lanes.iter().filter(|(lane, _)| lane.kind() == kind);
        let jobs: u64 = of_kind.map(|(_, waiting)| waiting.jobs).sum();
        metrics
            .jobs_waiting
            .with_label_values(&[kind.name()])
            .set(whole(jobs));
    }
    let now = context.clock.now();
    for name in names {
        for kind in [WorkKind::Issue, WorkKind::Revoke] {
            let waiting = lanes.get(&Lane::of(kind, name));
            let labels = [name.as_str(), kind.name()];
            let upstream = &metrics.upstream;
            let jobs = upstream.jobs_waiting.with_label_values(&labels);
            jobs.set(whole(waiting.map_or(0, |waiting| waiting.jobs)));
            let age = waiting.map_or(0.0, |waiting| now.duration_since(waiting.since).as_secs_f64());
            upstream.oldest_job.with_label_values(&labels).set(age.max(0.0));
        }
        if let Some(upstream) = context.upstream(name) {
            let open = i64::from(upstream.health.breaker_is_open());
            let breaker = &metrics.upstream.breaker_open;
            breaker.with_label_values(&[name.as_str()]).set(open);
        }
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_takes_a_twentieth_of_the_time_at_most_unless_nobody_would_hear_of_it() {
        assert!(
            pause_after(Duration::from_millis(40)) < CENSUS_EVERY,
            "as often as ever"
        );
        for millis in [60, 200, 400] {
            let took = Duration::from_millis(millis);
            assert!(pause_after(took) >= took * 20, "{took:?}");
        }
        assert_eq!(pause_after(STORE_ANSWERS), CENSUS_CEILING);
    }
}
