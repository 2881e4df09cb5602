//! The benchmark: acme-proxy between the throwaway CA and the load generator, each a process of its own, so that what
//! is charged to acme-proxy is acme-proxy's.
//!
//! Build with `--release` before believing a figure.

mod ca;
#[path = "../load/client.rs"]
mod client;
mod database;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../loopback/dns.rs"]
mod dns;
#[path = "../loopback/plans.rs"]
mod explained;
mod fill;
mod hostile;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../loopback/http01.rs"]
mod http01;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../load/issuance.rs"]
mod issuance;
#[path = "../load/keys.rs"]
mod keys;
mod measure;
mod plans;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../loopback/postgres.rs"]
mod postgres;
#[path = "../loopback/proxy.rs"]
mod proxy;
mod replicas;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../load/report.rs"]
mod report;
mod rush;
mod stored;
#[path = "../loopback/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use self::ca::{ThrowawayCa, beside};
use self::measure::Usage;
use self::proxy::{AcmeProxy, Database, Settings};

const EAB_KID: &str = "bench";
const EAB_HMAC_KEY: &str = "YmVuY2htYXJrLWJlbmNobWFyay1iZW5jaG1hcms";

/// Measures acme-proxy: issuances per second, latency, CPU, memory, fsyncs and store bytes per issuance.
#[derive(Parser)]
struct Arguments {
    /// What to measure; all if left out.
    #[arg(long, env = "BENCH", value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// The numbers of workers to measure with.
    #[arg(long, env = "BENCH_WORKERS", value_delimiter = ',', default_values_t = [1, 16, 64])]
    workers: Vec<usize>,
    /// How many certificates each of them gets, in the same order; the last counts for any further.
    #[arg(long, env = "BENCH_ORDERS", value_delimiter = ',', default_values_t = [300, 3000, 10_000])]
    orders: Vec<usize>,
    /// Names in each certificate.
    #[arg(long, env = "BENCH_NAMES", default_value_t = 1)]
    names: usize,
    /// Keep one connection per worker. Without it each issuance opens its own, as certbot does.
    #[arg(long, env = "BENCH_KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
    /// How many certificates the honest client gets beside attackers; 0 leaves that out.
    #[arg(long, env = "BENCH_HONEST", default_value_t = 400)]
    honest: usize,
    /// How often each of two answers is timed that are not to be told apart; 0 leaves that out.
    #[arg(long, env = "BENCH_TIMING", default_value_t = 5000)]
    timing: usize,
    /// How many clients renew at once; 0 leaves them out.
    #[arg(long, env = "BENCH_HERD", default_value_t = 10_000)]
    herd: usize,
    /// Within how many seconds they begin: a run for each.
    #[arg(long, env = "BENCH_HERD_WITHIN", value_delimiter = ',', default_values_t = [60, 0])]
    herd_within: Vec<u64>,
    /// How many orders wait for a CA that is down; 0 leaves them out.
    #[arg(long, env = "BENCH_WAITING", default_value_t = 500)]
    waiting: usize,
    /// For how many seconds the CA is down, or longer, until all of them wait.
    #[arg(long, env = "BENCH_OUTAGE", default_value_t = 120)]
    outage: u64,
    /// How many replicas share one PostgreSQL: a run for each number.
    #[arg(long, env = "BENCH_REPLICAS", value_delimiter = ',', default_values_t = [1, 2, 3])]
    replicas: Vec<u8>,
    /// How many certificates each number of replicas issues, and the embedded store beside them.
    #[arg(long, env = "BENCH_SHARED", default_value_t = 3000)]
    shared: usize,
    /// How many orders are in the store that is compared with an empty one.
    #[arg(long, env = "BENCH_STORED", default_value_t = 1_000_000)]
    stored: u32,
    /// How often the two are measured, in turn.
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 5)]
    rounds: usize,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The embedded store.
    Sled,
    /// Replicas on PostgreSQL, beside the embedded store.
    Postgresql,
    /// PostgreSQL with many orders in it, beside an empty one, and how it finds what it is asked for.
    Stored,
}

impl Arguments {
    fn measures(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// What the load generator wrote.
#[derive(Deserialize)]
struct Load {
    issued: u32,
    failed: u32,
    turned_away: u32,
    seconds: f64,
    issuances_per_second: f64,
    endpoints: BTreeMap<String, Summary>,
    errors: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    count: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command")]
async fn bench(arguments: Arguments) -> anyhow::Result<()> {
    let machine = measure::machine()?;
    println!("{machine}");
    let ports = Ports::free()?;
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let ca = ThrowawayCa::start(directory.path(), ports.ca).await?;
    if arguments.measures(Part::Sled) {
        embedded(&arguments, &machine, &ports, &ca).await?;
    }
    if arguments.measures(Part::Postgresql) {
        println!("{}", replicas::table(&arguments, &ports, &ca).await?);
        println!("{machine}, when the command began.\n");
    }
    if arguments.measures(Part::Stored) {
        println!("{}", stored::tables(&arguments, &ports, &ca).await?);
        println!("{machine}, when the command began.\n");
    }
    ca.nothing_issued_twice().await
}

/// All that is measured of the embedded store.
#[expect(clippy::print_stdout, reason = "this is a command")]
async fn embedded(
    arguments: &Arguments,
    machine: &str,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<()> {
    let mut rows = vec![headings()];
    for (index, workers) in arguments.workers.iter().enumerate() {
        let orders = arguments.orders.get(index).or(arguments.orders.last());
        let orders = *orders.context("--orders is empty")?;
        println!("{workers} workers, {orders} issuances ...");
        rows.push(measure_once(arguments, *workers, orders, ports, ca).await?);
    }
    let beside_others = match arguments.honest {
        0 => String::new(),
        honest => hostile::tables(honest, ports, ca).await?,
    };
    let mut rushes = Vec::new();
    if arguments.herd > 0 {
        rushes.push(rush::herds(arguments.herd, &arguments.herd_within, ports, ca).await?);
    }
    if arguments.waiting > 0 {
        let outage = Duration::from_secs(arguments.outage);
        rushes.push(rush::drain(arguments.waiting, outage, ports, ca).await?);
    }
    ca.nothing_issued_twice().await?;
    let connections = match arguments.keep {
        true => "a connection kept per worker",
        false => "a connection for each issuance",
    };
    println!("\n{}", table::aligned(&rows));
    println!(
        "newOrder and finalize: p50/p99 ms. Requests, CPU, fsyncs, commits and bytes: acme-proxy's own, per issuance."
    );
    println!("{} name(s) in each certificate; {connections}.", arguments.names);
    for others in [vec![beside_others], rushes].concat() {
        println!("\n{others}");
    }
    println!("{machine}, when the command began.\n");
    match arguments.timing {
        0 => Ok(()),
        rounds => timing(rounds, ports, ca).await,
    }
}

fn headings() -> Vec<String> {
    let headings = [
        "workers", "issued", "failed", "per s", "newOrder", "finalize", "requests", "CPU ms", "RSS MB",
        "fsyncs", "commits", "bytes",
    ];
    headings.map(str::to_owned).to_vec()
}

/// One run of the load generator against a fresh acme-proxy.
struct Run {
    load: Load,
    before: Usage,
    after: Usage,
}

impl Run {
    /// Loads it with these options, while others attack it, if they do.
    async fn new(
        options: &[String],
        attack: Option<(&str, usize)>,
        ports: &Ports,
        ca: &ThrowawayCa,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
        let proxy = started(directory.path(), json!({}), None, ports, ca).await?;
        let before = Usage::of(&proxy).await?;
        let attackers = match attack {
            Some((attack, count)) => {
                // Their work would be done on other machines than ours.
                let mut command = Command::new("nice");
                command.args(["-n", "19"]).arg(beside("load")?);
                Some(attackers(aimed(command, &[&proxy], ca), attack, count).await?)
            }
            None => None,
        };
        let load = loaded(options, &[&proxy], ports, ca).await?;
        let after = Usage::of(&proxy).await?;
        drop(attackers);
        proxy.stop().await?;
        Ok(Self { load, before, after })
    }
}

/// What the load generator says that has loaded these with these options.
async fn loaded(
    options: &[String],
    proxies: &[&AcmeProxy],
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<Load> {
    let log = || proxies.first().map_or(String::new(), |proxy| proxy.log_tail());
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let json = directory.path().join("load.json");
    let mut command = answering(proxies, ports, ca)?;
    command.args(options).arg("--json").arg(&json);
    // It fails if a single issuance does; the figures tell more.
    command.status().await.context("cannot run the load generator")?;
    let text = std::fs::read(&json).with_context(|| format!("no figures came{}", log()))?;
    let load: Load = serde_json::from_slice(&text)?;
    for (what, count) in &load.errors {
        eprintln!("{count:>8} x {what}");
    }
    ensure!(load.issued > 0, "not one certificate was issued{}", log());
    Ok(load)
}

/// A fresh acme-proxy.
async fn started(
    directory: &Path,
    limits: serde_json::Value,
    database: Option<Database<'_>>,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<AcmeProxy> {
    AcmeProxy::start(&Settings {
        directory,
        ca_url: &ca.directory_url,
        ca_root_pem: &ca.root_pem,
        eab_kid: EAB_KID,
        eab_hmac_key: EAB_HMAC_KEY,
        resolver: (Ipv4Addr::LOCALHOST, ports.dns).into(),
        http_port: ports.http,
        limits,
        database,
    })
    .await
}

/// The load generator, told where the acme-proxy are: all of one name and port.
fn aimed(mut command: Command, proxies: &[&AcmeProxy], ca: &ThrowawayCa) -> Command {
    let addresses = proxies.iter().map(|proxy| proxy.address.ip().to_string());
    let addresses: Vec<String> = addresses.collect();
    if let Some(proxy) = proxies.first() {
        command.args(["--directory", &proxy.directory_url()]);
    }
    command
        .args(["--resolve", &addresses.join(",")])
        .arg("--ca-file")
        .arg(&ca.root)
        .kill_on_drop(true);
    command
}

/// The load generator where acme-proxy looks for challenges.
fn answering(proxies: &[&AcmeProxy], ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<Command> {
    let mut command = aimed(Command::new(beside("load")?), proxies, ca);
    command
        .args(["--http-port", &ports.http.to_string()])
        .args(["--dns-port", &ports.dns.to_string()])
        .stdout(Stdio::inherit());
    Ok(command)
}

/// Has the load generator print what the times of answers tell.
#[expect(clippy::print_stdout, reason = "this is a command")]
async fn timing(rounds: usize, ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<()> {
    println!("What the time of an answer tells ...");
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    // All come from one address, and half of those with a foreign kid have a bad signature.
    let limits = json!({ "bad_requests_per_address_per_minute": 0 });
    let proxy = started(directory.path(), limits, None, ports, ca).await?;
    let mut command = answering(&[&proxy], ports, ca)?;
    let status = command.args(["--timing", &rounds.to_string()]).status().await?;
    ensure!(status.success(), "no times came{}", proxy.log_tail());
    proxy.stop().await
}

/// The load generator as an attacker, until it is dropped.
async fn attackers(mut command: Command, attack: &str, count: usize) -> anyhow::Result<Child> {
    command
        .args(["--attack", attack, "--workers", &count.to_string()])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run the load generator")?;
    let output = child.stdout.take().context("the attackers' output")?;
    let mut lines = BufReader::new(output).lines();
    let line = timeout(Duration::from_secs(120), lines.next_line()).await;
    ensure!(
        matches!(&line, Ok(Ok(Some(line))) if line == "In position."),
        "the attackers did not get into position: {line:?}"
    );
    Ok(child)
}

/// One row: a fresh acme-proxy, loaded once.
async fn measure_once(
    arguments: &Arguments,
    workers: usize,
    orders: usize,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<Vec<String>> {
    let mut options = vec![
        format!("--workers={workers}"),
        format!("--orders={orders}"),
        format!("--names={}", arguments.names),
    ];
    if !arguments.keep {
        options.push("--connection-per-issuance".to_owned());
    }
    let Run { load, before, after } = Run::new(&options, None, ports, ca).await?;

    let times = |endpoint| match load.endpoints.get(endpoint) {
        Some(summary) => format!("{:.1}/{:.1}", summary.p50_ms, summary.p99_ms),
        None => "-".to_owned(),
    };
    let each = |total: Option<f64>, digits: usize| match total {
        Some(total) => format!("{:.digits$}", total / f64::from(load.issued)),
        None => "-".to_owned(),
    };
    let used = after.since(&before);
    Ok(vec![
        workers.to_string(),
        load.issued.to_string(),
        load.failed.to_string(),
        format!("{:.1}", load.issuances_per_second),
        times("newOrder"),
        times("finalize"),
        each(load.endpoints.get("any").map(|any| f64::from(any.count)), 1),
        each(Some(used.cpu_ms), 2),
        format!("{:.1}", used.rss_mb),
        each(used.syncs, 2),
        each(used.commits, 2),
        each(Some(used.store_bytes), 0),
    ])
}

/// Ports that were free a moment ago.
struct Ports {
    ca: u16,
    http: u16,
    dns: u16,
}

impl Ports {
    fn free() -> anyhow::Result<Self> {
        // All are held until all are known, so that no two are the same.
        let bind = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (ca, http, dns) = (bind()?, bind()?, bind()?);
        Ok(Self {
            ca: ca.local_addr()?.port(),
            http: http.local_addr()?.port(),
            dns: dns.local_addr()?.port(),
        })
    }
}
