//! What was measured: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::table;

/// What a figure is about, in the order of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Endpoint {
    /// TCP and TLS, up to the end of the handshake.
    Connect,
    Directory,
    NewNonce,
    NewAccount,
    NewOrder,
    /// The first look at an authorization.
    Authz,
    Challenge,
    AuthzPoll,
    /// From the first look at an authorization until all are valid, waits included.
    Validation,
    Finalize,
    OrderPoll,
    Certificate,
    /// Every request, with the connecting if it came before it.
    Any,
    /// All of it, waits included.
    Issuance,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Directory => "directory",
            Self::NewNonce => "newNonce",
            Self::NewAccount => "newAccount",
            Self::NewOrder => "newOrder",
            Self::Authz => "authz",
            Self::Challenge => "challenge",
            Self::AuthzPoll => "authzPoll",
            Self::Validation => "validation",
            Self::Finalize => "finalize",
            Self::OrderPoll => "orderPoll",
            Self::Certificate => "certificate",
            Self::Any => "any",
            Self::Issuance => "issuance",
        })
    }
}

/// Raw measurements.
#[derive(Default)]
pub(crate) struct Samples {
    times: BTreeMap<Endpoint, Vec<Duration>>,
    errors: BTreeMap<String, u64>,
    /// Issuances that did not end with a certificate.
    pub(crate) failed: u64,
    /// How often the server said to come again later, and the client did.
    pub(crate) turned_away: u64,
}

impl Samples {
    /// One answer.
    pub(crate) fn record(&mut self, endpoint: Endpoint, time: Duration) {
        self.times.entry(endpoint).or_default().push(time);
    }

    /// One error.
    pub(crate) fn error(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    /// Another worker's measurements.
    pub(crate) fn add(&mut self, other: Self) {
        for (endpoint, times) in other.times {
            self.times.entry(endpoint).or_default().extend(times);
        }
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        self.failed += other.failed;
        self.turned_away += other.turned_away;
    }
}

/// What was asked for.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) directory: String,
    pub(crate) workers: usize,
    pub(crate) names: usize,
    pub(crate) connection_per_issuance: bool,
    pub(crate) account_per_issuance: bool,
}

/// The figures.
#[derive(Serialize)]
pub(crate) struct Report {
    run: Run,
    seconds: f64,
    issued: usize,
    pub(crate) failed: u64,
    turned_away: u64,
    issuances_per_second: f64,
    /// Milliseconds.
    endpoints: BTreeMap<Endpoint, Summary>,
    errors: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Summary {
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Summary {
    fn of(times: &[Duration]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        // The nearest rank: the smallest value that at least this share of all values do not exceed.
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Self {
            count: times.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

impl Report {
    /// Sums up.
    pub(crate) fn new(run: Run, samples: &Samples, elapsed: Duration) -> Self {
        let issued = samples.times.get(&Endpoint::Issuance).map_or(0, Vec::len);
        let seconds = elapsed.as_secs_f64();
        let summary = |(endpoint, times): (&Endpoint, &Vec<Duration>)| (*endpoint, Summary::of(times));
        Self {
            run,
            seconds,
            issued,
            failed: samples.failed,
            turned_away: samples.turned_away,
            issuances_per_second: f64::from(u32::try_from(issued).unwrap_or(u32::MAX)) / seconds,
            endpoints: samples.times.iter().map(summary).collect(),
            errors: samples.errors.clone(),
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![
            ["endpoint", "count", "p50 ms", "p99 ms", "max ms"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (endpoint, summary) in &self.endpoints {
            rows.push(vec![
                endpoint.to_string(),
                summary.count.to_string(),
                format!("{:.2}", summary.p50_ms),
                format!("{:.2}", summary.p99_ms),
                format!("{:.2}", summary.max_ms),
            ]);
        }
        let mut text = table::aligned(&rows);
        text.push_str(&format!(
            "\n{} issued, {} failed, {} times turned away, in {:.1} s: {:.1} issuances/s\n",
            self.issued, self.failed, self.turned_away, self.seconds, self.issuances_per_second
        ));
        for (what, count) in &self.errors {
            text.push_str(&format!("{count:>8} x {what}\n"));
        }
        text
    }
}
