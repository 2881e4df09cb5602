//! The DNS provider for a CA's challenges: a record is written and taken back.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use tokio::signal::unix::{SignalKind, signal};

use crate::acme::random::random_fraction;
use crate::app::deep::{Check, Facts, Finding, Level};
use crate::upstream::dns::probe::{Came, Probed};
use crate::upstream::dns::{Record, Solver};

/// How long to look for the record. A slower provider is told from a broken one by the order's own, longer wait.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn look(facts: &Facts, place: usize) -> Vec<Finding> {
    let upstream = facts.config.upstreams.get(place);
    let solving = upstream.and_then(|upstream| Some((upstream, upstream.settings.dns01.clone()?)));
    let Some((upstream, dns01)) = solving else {
        return Vec::new();
    };
    let subject = format!("{} {}", upstream.name, dns01.name);
    // Providers are often permitted nothing but the names of challenges.
    let token = URL_SAFE_NO_PAD.encode(random_fraction().to_be_bytes());
    let name = facts.config.server.names.first();
    let Some(record) = name.and_then(|name| Record::new(name, &token, "acme-proxy-check")) else {
        return Vec::new();
    };
    let patience = dns01.propagation_timeout.min(PATIENCE);
    let solver = match Solver::new(dns01) {
        Ok(solver) => solver,
        Err(error) => {
            let fix = "name DNS servers in dns_servers of dns01_txt";
            return vec![Finding::failure(
                Check::DnsProvider,
                subject,
                error.to_string(),
                fix,
            )];
        }
    };
    let probed = solver.probe(&record, patience, told_to_end()).await;
    findings(&subject, &record, patience, probed)
}

/// Until somebody wants this program to end.
async fn told_to_end() {
    let of = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = of(SignalKind::interrupt()) => {}
        () = of(SignalKind::terminate()) => {}
        () = of(SignalKind::hangup()) => {}
    }
}

fn findings(subject: &str, record: &Record, patience: Duration, probed: Probed) -> Vec<Finding> {
    let Probed {
        name,
        came,
        left_behind,
    } = probed;
    let check = Check::DnsProvider;
    let seconds = patience.as_secs();
    let came = match came {
        Came::Seen => Finding::ok(
            check,
            subject,
            format!("a TXT record of {name} was written, and seen at the zone's servers"),
        ),
        Came::Missing => Finding::warning(
            check,
            subject,
            format!(
                "a TXT record of {name} was written, and is not seen at all of the zone's servers after {seconds} s"
            ),
            "look whether the provider writes into the zone that these servers serve; if it is only slow, nothing is to be done",
        ),
        Came::Unclear => Finding::warning(
            check,
            subject,
            format!("a TXT record of {name} was written, and no server of the zone can be asked for it"),
            "open port 53 to the zone's servers, or name servers that may be asked in dns_servers",
        ),
        Came::Refused(why) => Finding::failure(
            check,
            subject,
            format!("no TXT record of {name} can be written: {why}"),
            "look at env_vars of dns01_txt, and at what the provider permits this key",
        ),
        Came::Nowhere(why) => Finding::failure(
            check,
            subject,
            why,
            "look at dns_servers of dns01_txt, and at the firewall (port 53, UDP and TCP)",
        ),
        Came::Interrupted => Finding::warning(
            check,
            subject,
            "the look at the record was interrupted",
            "try again",
        ),
    };
    let left_behind = left_behind.filter(|_| came.level != Level::Failure);
    let left_behind = left_behind.map(|why| {
        Finding::failure(
            check,
            subject,
            format!("the record was written, and can not be taken back: {why}"),
            format!("remove the TXT record {:?} of {name} by hand", record.value),
        )
    });
    [came].into_iter().chain(left_behind).collect()
}
