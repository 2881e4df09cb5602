//! A load generator for any ACME directory: each worker gets one certificate after the other, with the requests that
//! certbot makes, and answers http-01 itself.
//!
//! Keys and CSRs are made before the clock starts, so that the figures are the server's and not ours.

mod attack;
mod client;
#[path = "../loopback/dns.rs"]
mod dns;
#[path = "../loopback/http01.rs"]
mod http01;
#[expect(dead_code, reason = "each program uses its part")]
mod issuance;
mod keys;
mod report;
#[path = "../loopback/table.rs"]
mod table;
mod timing;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::attack::Attack;
use self::client::Target;
use self::issuance::Worker;
use self::keys::Request;
use self::report::{Report, Samples};

/// Loads an ACME server with certbot's requests, and says how it did.
#[derive(Parser)]
struct Arguments {
    /// The server's directory URL (https).
    #[arg(long)]
    directory: http::Uri,
    /// PEM file of the root to trust.
    #[arg(long)]
    ca_file: PathBuf,
    /// Connect to these addresses in turn, whatever the directory's host resolves to.
    #[arg(long, value_delimiter = ',')]
    resolve: Vec<IpAddr>,
    /// Clients that work at the same time.
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Certificates to get, all workers together.
    #[arg(long, default_value_t = 1000)]
    orders: usize,
    /// Names in each certificate.
    #[arg(long, default_value_t = 1)]
    names: usize,
    /// The domain that the names are made under.
    #[arg(long, default_value = "load.example.com")]
    domain: String,
    /// Open a connection for each certificate, as certbot does, instead of keeping one per worker.
    #[arg(long)]
    connection_per_issuance: bool,
    /// Make an account for each certificate, instead of one per worker.
    #[arg(long)]
    account_per_issuance: bool,
    /// The port on 127.0.0.1 to answer http-01 on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    http_port: u16,
    /// The port on 127.0.0.1 to answer DNS on: every name is 127.0.0.1.
    #[arg(long)]
    dns_port: Option<u16>,
    /// Make each worker's account before the clock starts.
    #[arg(long, conflicts_with = "account_per_issuance")]
    accounts_first: bool,
    /// Seconds within which the workers begin, one after the other.
    #[arg(long, default_value_t = 0)]
    begin_within: u64,
    /// The addresses on loopback that the workers connect from, in turn; 0 is the usual one.
    #[arg(long, default_value_t = 0)]
    sources: usize,
    /// Milliseconds before the first poll; grows by half each time, up to a second.
    #[arg(long, default_value_t = 50)]
    poll_interval: u64,
    /// Wait as long as the server says (Retry-After) between two polls, and come again after it has said 429 or 503.
    #[arg(long)]
    obey: bool,
    /// Seconds after which an issuance has failed.
    #[arg(long, default_value_t = 90)]
    patience: u64,
    /// EAB key identifier, if the server wants a binding.
    #[arg(long, requires = "eab_hmac_key")]
    eab_kid: Option<String>,
    /// EAB MAC key, base64url.
    #[arg(long, requires = "eab_kid")]
    eab_hmac_key: Option<String>,
    /// First have another account's challenges looked for at so many hosts that never answer.
    #[arg(long, default_value_t = 0)]
    silent: usize,
    /// Attack instead, until killed, with `--workers` connections or addresses.
    #[arg(long)]
    attack: Option<Attack>,
    /// Compare the times of answers that are not to be told apart, so many of each, instead.
    #[arg(long)]
    timing: Option<usize>,
    /// Write the figures to this file, too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match load(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command")]
async fn load(arguments: Arguments) -> anyhow::Result<()> {
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, raised).context("as many open files as we may have")?;
    let root = std::fs::read(&arguments.ca_file)
        .with_context(|| format!("cannot read {}", arguments.ca_file.display()))?;
    let target = Target::new(&arguments.directory, &root, &arguments.resolve).await?;
    if let Some(attack) = arguments.attack {
        return attack::run(attack, arguments.workers, target, arguments.directory.to_string()).await;
    }
    let web = http01::start((Ipv4Addr::LOCALHOST, arguments.http_port).into()).await?;
    println!("Answering http-01 on {}.", web.address);
    let dns = match arguments.dns_port {
        Some(port) => Some(dns::start((Ipv4Addr::LOCALHOST, port).into()).await?),
        None => None,
    };
    if let Some(dns) = &dns {
        println!("Answering DNS on {}.", dns.address);
    }
    let plan = Arc::new(issuance::Plan {
        directory: arguments.directory.to_string(),
        target,
        web,
        eab: arguments.eab_kid.clone().zip(arguments.eab_hmac_key.clone()),
        connection_per_issuance: arguments.connection_per_issuance,
        account_per_issuance: arguments.account_per_issuance,
        poll_interval: Duration::from_millis(arguments.poll_interval.max(1)),
        obey: arguments.obey,
        patience: Duration::from_secs(arguments.patience),
    });
    if let Some(rounds) = arguments.timing {
        println!("{}", timing::table(plan, rounds, &arguments.domain).await?);
        return Ok(());
    }
    println!("Making {} keys ...", arguments.orders);
    let requests = Arc::new(keys::requests(
        arguments.orders,
        arguments.names,
        &arguments.domain,
    )?);
    let mut workers = Vec::new();
    for index in 0..arguments.workers {
        workers.push(Worker::new(plan.clone(), arguments.source(index)?)?);
    }
    if arguments.accounts_first {
        println!("Making {} accounts ...", arguments.workers);
        workers = settled(workers).await?;
    }

    if arguments.silent > 0 {
        println!("Sending the server to {} silent hosts ...", arguments.silent);
        let names = (0..arguments.silent).map(|n| format!("n{n}{}{}", http01::SILENT, arguments.domain));
        let sent = Worker::new(plan.clone(), None)?
            .send_to_silent_hosts(&names.collect::<Vec<_>>())
            .await;
        sent.map_err(|what| anyhow::anyhow!("the silent hosts: {what}"))?;
    }
    println!("{} workers start.", arguments.workers);
    let start = Instant::now();
    let within = Duration::from_secs(arguments.begin_within);
    let samples = run(workers, requests, within).await?;
    let report = Report::new(
        report::Run {
            directory: arguments.directory.to_string(),
            workers: arguments.workers,
            names: arguments.names,
            connection_per_issuance: arguments.connection_per_issuance,
            account_per_issuance: arguments.account_per_issuance,
        },
        &samples,
        start.elapsed(),
    );
    println!("\n{}", report.table());
    if let Some(path) = arguments.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    anyhow::ensure!(report.failed == 0, "{} issuances failed", report.failed);
    Ok(())
}

impl Arguments {
    /// Where this worker connects from.
    fn source(&self, index: usize) -> anyhow::Result<Option<Ipv4Addr>> {
        if self.sources == 0 {
            return Ok(None);
        }
        let host = u16::try_from(index % self.sources).context("too many addresses are needed")?;
        let [high, low] = (host + 1).to_be_bytes();
        Ok(Some(Ipv4Addr::new(127, 1, high, low)))
    }
}

/// The workers, with accounts.
async fn settled(workers: Vec<Worker>) -> anyhow::Result<Vec<Worker>> {
    let (mut settling, mut settled) = (JoinSet::new(), Vec::new());
    for mut worker in workers {
        settling.spawn(async move { worker.settle().await.map(|()| worker) });
        if settling.len() == 64 {
            settled.extend(settling.join_next().await);
        }
    }
    while let Some(worker) = settling.join_next().await {
        settled.push(worker);
    }
    let settled = settled.into_iter().map(|worker| {
        worker
            .context("a worker died")?
            .map_err(|what| anyhow::anyhow!("an account: {what}"))
    });
    settled.collect()
}

/// Lets every worker take the next request until none is left.
async fn run(workers: Vec<Worker>, requests: Arc<Vec<Request>>, within: Duration) -> anyhow::Result<Samples> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    let pause = within / u32::try_from(workers.len().max(1))?;
    for (mut worker, index) in workers.into_iter().zip(0..) {
        let (requests, next) = (requests.clone(), next.clone());
        running.spawn(async move {
            sleep(pause * index).await;
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                worker.obtain(request).await;
            }
            worker.samples
        });
    }
    let mut samples = Samples::default();
    while let Some(worker) = running.join_next().await {
        samples.add(worker.context("a worker died")?);
    }
    Ok(samples)
}
