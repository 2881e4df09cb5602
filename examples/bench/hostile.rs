//! What an honest client notices of others: of slow hosts that another account has validated, of slow connections, and
//! of a flood of bad signatures.

use anyhow::Context;

use crate::{Ports, Run, Summary, ThrowawayCa, table};

/// Slow hosts, slow connections, and addresses that flood.
const SILENT_HOSTS: usize = 1000;
const SLOW_CONNECTIONS: usize = 2000;
const FLOODING_ADDRESSES: usize = 16;

/// The tables.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn tables(orders: usize, ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<String> {
    let options = [
        "--workers=4".to_owned(),
        format!("--orders={orders}"),
        "--poll-interval=5".to_owned(),
        "--connection-per-issuance".to_owned(),
    ];
    let mut slow_hosts = options.to_vec();
    slow_hosts.push(format!("--silent={SILENT_HOSTS}"));

    println!("An honest client alone ...");
    let alone = Run::new(&options, None, ports, ca).await?;
    println!("Beside {SILENT_HOSTS} slow hosts of another account ...");
    let hosts = Run::new(&slow_hosts, None, ports, ca).await?;
    println!("Beside {SLOW_CONNECTIONS} slow connections ...");
    let slow = Some(("slow-connections", SLOW_CONNECTIONS));
    let connections = Run::new(&options, slow, ports, ca).await?;
    println!("Beside a flood of bad signatures from {FLOODING_ADDRESSES} addresses ...");
    let flood = Some(("bad-signatures", FLOODING_ADDRESSES));
    let signatures = Run::new(&options, flood, ports, ca).await?;

    let alone_validation = figure(&alone, "validation")?;
    let mut rows = vec![headings([
        "validation",
        "count",
        "p50 ms",
        "p99 ms",
        "p50 x",
        "p99 x",
    ])];
    rows.push(row("alone", alone_validation, alone_validation));
    let name = format!("beside {SILENT_HOSTS} slow hosts of another account");
    rows.push(row(&name, figure(&hosts, "validation")?, alone_validation));
    let validation = table::aligned(&rows);

    let alone_any = figure(&alone, "any")?;
    let mut rows = vec![headings([
        "any request",
        "count",
        "p50 ms",
        "p99 ms",
        "p50 x",
        "p99 x",
        "RSS MB before",
        "after",
        "CPU s",
    ])];
    let slow = format!("beside {SLOW_CONNECTIONS} slow connections");
    let flood = format!("beside bad signatures from {FLOODING_ADDRESSES} addresses");
    for (name, run) in [
        ("alone", &alone),
        (slow.as_str(), &connections),
        (flood.as_str(), &signatures),
    ] {
        let mut row = row(name, figure(run, "any")?, alone_any);
        row.push(format!("{:.1}", run.before.rss_mb));
        row.push(format!("{:.1}", run.after.rss_mb));
        row.push(format!("{:.1}", run.after.since(&run.before).cpu_ms / 1000.0));
        rows.push(row);
    }
    Ok(format!("{validation}\n{}", table::aligned(&rows)))
}

fn headings<const N: usize>(headings: [&str; N]) -> Vec<String> {
    headings.map(str::to_owned).to_vec()
}

fn figure<'a>(run: &'a Run, name: &str) -> anyhow::Result<&'a Summary> {
    let endpoints = &run.load.endpoints;
    endpoints
        .get(name)
        .with_context(|| format!("there is no figure for {name}"))
}

fn row(name: &str, of: &Summary, alone: &Summary) -> Vec<String> {
    vec![
        name.to_owned(),
        of.count.to_string(),
        format!("{:.1}", of.p50_ms),
        format!("{:.1}", of.p99_ms),
        format!("{:.2}", of.p50_ms / alone.p50_ms),
        format!("{:.2}", of.p99_ms / alone.p99_ms),
    ]
}
