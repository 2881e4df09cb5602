//! Everybody at once: clients that all renew in the same minute (SECURITY F50), and orders that have waited for a CA which
//! was down (F15).

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::measure::{Usage, figure};
use crate::proxy::AcmeProxy;
use crate::{Ports, Run, ThrowawayCa, answering, started, table};

/// In how many seconds all are to be done, or drained.
const TARGET: u32 = 120;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// The longest that the queue of those who wait for the CA takes to fill.
const FILL: Duration = Duration::from_secs(600);

/// What all clients of a rush do.
fn options(clients: usize) -> Vec<String> {
    let mut options = vec![format!("--workers={clients}"), format!("--orders={clients}")];
    let others = [
        "--accounts-first",
        "--obey",
        "--poll-interval=1000",
        "--patience=1800",
    ];
    options.extend(others.map(str::to_owned));
    options.push(format!("--sources={clients}"));
    options
}

/// Clients with an account and an address each, that begin within so many seconds: a line for each such time.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn herds(
    clients: usize,
    begin_within: &[u64],
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<String> {
    let headings = [
        "begin within",
        "issued",
        "failed",
        "turned away",
        "all done after",
        "per s",
        "p50 s",
        "p99 s",
        "longest answer s",
        "CPU ms",
        "RSS MB",
        "at most",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for seconds in begin_within {
        println!("{clients} clients that begin within {seconds} s ...");
        let mut options = options(clients);
        options.push(format!("--begin-within={seconds}"));
        let Run { load, before, after } = Run::new(&options, None, ports, ca).await?;
        let issuance = load.endpoints.get("issuance").context("no issuance was timed")?;
        let any = load.endpoints.get("any").context("no request was timed")?;
        let cpu = after.since(&before).cpu_ms / f64::from(load.issued);
        rows.push(vec![
            format!("{seconds} s"),
            load.issued.to_string(),
            load.failed.to_string(),
            load.turned_away.to_string(),
            format!("{:.1} s", load.seconds),
            format!("{:.1}", load.issuances_per_second),
            format!("{:.1}", issuance.p50_ms / 1000.0),
            format!("{:.1}", issuance.p99_ms / 1000.0),
            format!("{:.1}", any.max_ms / 1000.0),
            format!("{cpu:.2}"),
            format!("{:.1}", after.rss_mb),
            format!("{:.1}", after.peak_mb),
        ]);
    }
    Ok(format!(
        "{clients} renewals at once; the target is {TARGET} s. p50, p99: from a client's first request to its certificate,\n\
         with the times that it was told to stay away.\n{}",
        table::aligned(&rows)
    ))
}

/// Orders that are finalized while the CA is down for so long, and what comes of them when it is back.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn drain(
    orders: usize,
    outage: Duration,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<String> {
    println!("{orders} orders wait for a CA that is down ...");
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let proxy = started(directory.path(), json!({}), None, ports, ca).await?;
    let before = issued(&proxy).await?;
    ca.switch()?;
    let end = Instant::now() + outage;
    let mut load = answering(&[&proxy], ports, ca)?;
    let mut load = load.args(options(orders)).stdout(Stdio::null()).spawn()?;
    let count = f64::from(u32::try_from(orders)?);
    let deadline = Instant::now() + FILL;
    while waiting(&proxy).await? < count {
        ensure!(
            Instant::now() < deadline,
            "not all orders were finalized{}",
            proxy.log_tail()
        );
        ensure!(
            load.try_wait()?.is_none(),
            "the load generator has ended{}",
            proxy.log_tail()
        );
        sleep(LOOK).await;
    }
    sleep_until(end).await;
    let down = (Instant::now() - end + outage).as_secs_f64();
    ca.switch()?;
    let back = Instant::now();
    let mut first = None;
    loop {
        let done = issued(&proxy).await? - before;
        if done > 0.0 && first.is_none() {
            first = Some(back.elapsed().as_secs_f64());
        }
        if done >= count {
            break;
        }
        ensure!(
            load.try_wait()?.is_none(),
            "the load generator has ended{}",
            proxy.log_tail()
        );
        sleep(LOOK).await;
    }
    let last = back.elapsed().as_secs_f64();
    let usage = Usage::of(&proxy).await?;
    ensure!(
        load.wait().await?.success(),
        "not all got their certificates{}",
        proxy.log_tail()
    );
    proxy.stop().await?;
    Ok(format!(
        "{orders} orders waited for a CA that was down for {down:.0} s. After its return the first certificate was issued in\n\
         {:.1} s, the last in {last:.1} s; the target is {TARGET} s. RSS at most {:.1} MB.\n",
        first.unwrap_or(last),
        usage.peak_mb,
    ))
}

/// How many certificates have been issued.
async fn issued(proxy: &AcmeProxy) -> anyhow::Result<f64> {
    let name = r#"externalcas_certificates_issued_total{status="success"}"#;
    figure(proxy, name).await
}

/// How many orders wait for the CA.
async fn waiting(proxy: &AcmeProxy) -> anyhow::Result<f64> {
    figure(proxy, r#"acme_proxy_jobs_waiting{kind="issue"}"#).await
}
