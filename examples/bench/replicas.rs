//! Replicas on one PostgreSQL, beside the embedded store under the same load.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::database::{Counts, Server, replicas};
use crate::measure::Usage;
use crate::proxy::AcmeProxy;
use crate::{Arguments, Load, Ports, ThrowawayCa, loaded, started, table};

/// How many clients there are at a time.
const WORKERS: usize = 16;

/// How long nobody asks for anything, to see what is done all the same.
const IDLE: Duration = Duration::from_secs(10);

/// By then the daemon has told how much it has written.
const TOLD: Duration = Duration::from_secs(2);

/// One run.
struct Run {
    load: Load,
    /// What each daemon used.
    used: Vec<Usage>,
    /// What the database used, without what it does when nobody asks.
    counts: Option<Counts>,
    /// Statements a second when nobody asks.
    idle: Option<f64>,
}

/// The table.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn table(arguments: &Arguments, ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<String> {
    let mut options = vec![
        format!("--workers={WORKERS}"),
        format!("--orders={}", arguments.shared),
        format!("--names={}", arguments.names),
    ];
    if !arguments.keep {
        options.push("--connection-per-issuance".to_owned());
    }
    let headings = [
        "store",
        "issued",
        "failed",
        "per s",
        "issuance",
        "any request",
        "newOrder",
        "finalize",
        "statements",
        "commits",
        "syncs",
        "database CPU ms",
        "CPU ms",
        "RSS MB",
        "idle statements/s",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    println!(
        "The embedded store, {WORKERS} workers, {} issuances ...",
        arguments.shared
    );
    rows.push(row("sled", &embedded(&options, ports, ca).await?));
    for count in &arguments.replicas {
        println!("PostgreSQL, replicas: {count} ...");
        let run = shared(*count, &options, ports, ca).await?;
        rows.push(row(&format!("PostgreSQL, replicas: {count}"), &run));
    }
    Ok(format!(
        "\n{}{WORKERS} workers; connections go to the replicas in turn. Times: p50/p99 ms. Statements, commits that are waited for, syncs of\n\
         the log, CPU of the database's processes and of all replicas: per issuance. RSS: of the largest replica.\n",
        table::aligned(&rows)
    ))
}

async fn embedded(options: &[String], ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<Run> {
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let proxy = started(directory.path(), json!({}), None, ports, ca).await?;
    let before = Usage::of(&proxy).await?;
    let load = loaded(options, &[&proxy], ports, ca).await?;
    sleep(TOLD).await;
    let used = vec![Usage::of(&proxy).await?.since(&before)];
    proxy.stop().await?;
    Ok(Run {
        load,
        used,
        counts: None,
        idle: None,
    })
}

async fn shared(count: u8, options: &[String], ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<Run> {
    let server = Server::start().await?;
    let database = server.database().await?;
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let proxies = replicas(count, &database, directory.path(), ports, ca).await?;
    let quiet = server.counts(&database).await?;
    sleep(IDLE).await;
    let counts = server.counts(&database).await?;
    let idle = counts.since(&quiet).statements / IDLE.as_secs_f64();
    let before = usages(&proxies).await?;
    let all: Vec<&AcmeProxy> = proxies.iter().collect();
    let load = loaded(options, &all, ports, ca).await?;
    let counts = server.counts(&database).await?.since(&counts);
    sleep(TOLD).await;
    let after = usages(&proxies).await?;
    for proxy in proxies {
        proxy.stop().await?;
    }
    let used = after.iter().zip(&before);
    Ok(Run {
        load,
        used: used.map(|(after, before)| after.since(before)).collect(),
        counts: Some(counts),
        idle: Some(idle),
    })
}

async fn usages(proxies: &[AcmeProxy]) -> anyhow::Result<Vec<Usage>> {
    let mut usages = Vec::new();
    for proxy in proxies {
        usages.push(Usage::of(proxy).await?);
    }
    Ok(usages)
}

fn row(store: &str, run: &Run) -> Vec<String> {
    let load = &run.load;
    let times = |endpoint| match load.endpoints.get(endpoint) {
        Some(summary) => format!("{:.1}/{:.1}", summary.p50_ms, summary.p99_ms),
        None => "-".to_owned(),
    };
    let each = |total: Option<f64>, digits: usize| match total {
        Some(total) => format!("{:.digits$}", total / f64::from(load.issued)),
        None => "-".to_owned(),
    };
    let counts = run.counts.as_ref();
    let sum = |of: fn(&Usage) -> Option<f64>| run.used.iter().filter_map(of).reduce(|sum, of| sum + of);
    let syncs = match counts {
        Some(counts) => counts.syncs,
        None => sum(|used| used.syncs),
    };
    let rss = run.used.iter().map(|used| used.rss_mb).fold(0.0, f64::max);
    vec![
        store.to_owned(),
        load.issued.to_string(),
        load.failed.to_string(),
        format!("{:.1}", load.issuances_per_second),
        times("issuance"),
        times("any"),
        times("newOrder"),
        times("finalize"),
        each(counts.map(|counts| counts.statements), 1),
        each(sum(|used| used.commits), 2),
        each(syncs, 2),
        each(counts.map(|counts| counts.cpu_ms), 2),
        each(sum(|used| Some(used.cpu_ms)), 2),
        format!("{rss:.1}"),
        run.idle.map_or("-".to_owned(), |idle| format!("{idle:.1}")),
    ]
}
