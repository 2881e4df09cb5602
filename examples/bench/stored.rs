//! Many orders in the database, beside an empty one: what clients notice of it, what the daemon's memory does, and by
//! what way each statement finds what it is asked for.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};
use tokio_postgres::Config;

use crate::database::{Server, replicas};
use crate::fill::Owner;
use crate::measure::{Usage, figure};
use crate::postgres::client;
use crate::proxy::AcmeProxy;
use crate::{Arguments, Load, Ports, ThrowawayCa, loaded, plans, table};

/// How many clients there are at a time, and what they get in one round.
const WORKERS: usize = 4;
const ORDERS: usize = 500;

/// How often a figure may be what it is in the empty store.
const BOUND: f64 = 1.2;

/// By then the daemon has counted its certificates.
const COUNTED: Duration = Duration::from_secs(600);

/// What one round has shown.
struct Round {
    load: Load,
    after: Usage,
    /// Of the database, per issuance.
    cpu_ms: f64,
}

/// The tables.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn tables(arguments: &Arguments, ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<String> {
    let stored = arguments.stored;
    let server = Server::start().await?;
    let (empty, full) = (server.database().await?, server.database().await?);
    println!("{stored} orders are stored ...");
    let begun = Instant::now();
    {
        let (_directory, proxy) = alone(&full, ports, ca).await?;
        let mut owner = Owner::new(&proxy, ports, ca).await?;
        owner.copy(&full, stored).await?;
        owner.read(stored).await?;
        proxy.stop().await?;
    }
    println!("They are there after {:.0} s.", begun.elapsed().as_secs_f64());
    let (mut of_empty, mut of_full) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        println!("Round {round} of {} ...", arguments.rounds);
        of_empty.push(measured(&server, &empty, 0, ports, ca).await?);
        of_full.push(measured(&server, &full, stored, ports, ca).await?);
    }
    println!("A tenth of them are over ...");
    let (sweeping, all_swept) = swept(&server, &full, stored, ports, ca).await?;
    let plans = explained(&server, &full, ports, ca).await?;
    let text = format!(
        "\n{}{WORKERS} workers, {ORDERS} issuances in each of {} rounds, in turn; medians of the rounds.\n\
         Sweeping: once, with a tenth of the orders to delete, which took {:.0} s.\n\n\
         What each statement of such issuances reads, with {stored} orders stored:\n{plans}",
        table::aligned(&rows(stored, &of_empty, &of_full, &sweeping)?),
        arguments.rounds,
        all_swept.as_secs_f64(),
    );
    Ok(text)
}

/// A fresh acme-proxy on this database, and where it is.
async fn alone(
    database: &Config,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<(tempfile::TempDir, AcmeProxy)> {
    let directory = tempfile::Builder::new().prefix("acme-proxy-bench-").tempdir()?;
    let mut started = replicas(1, database, directory.path(), ports, ca).await?;
    Ok((directory, started.pop().context("a replica")?))
}

fn options(orders: usize) -> Vec<String> {
    vec![
        format!("--workers={WORKERS}"),
        format!("--orders={orders}"),
        "--poll-interval=5".to_owned(),
        "--connection-per-issuance".to_owned(),
    ]
}

async fn measured(
    server: &Server,
    database: &Config,
    stored: u32,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<Round> {
    let (_directory, proxy) = alone(database, ports, ca).await?;
    let mut round = load(server, database, &proxy, ports, ca).await?;
    let begun = Instant::now();
    while figure(&proxy, "acme_proxy_certificates_valid ").await? < f64::from(stored) {
        ensure!(
            begun.elapsed() < COUNTED,
            "the certificates were not counted{}",
            proxy.log_tail()
        );
        sleep(Duration::from_millis(200)).await;
    }
    round.after = Usage::of(&proxy).await?;
    proxy.stop().await?;
    Ok(round)
}

async fn load(
    server: &Server,
    database: &Config,
    proxy: &AcmeProxy,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<Round> {
    let before = server.counts(database).await?;
    let load = loaded(&options(ORDERS), &[proxy], ports, ca).await?;
    let used = server.counts(database).await?.since(&before);
    Ok(Round {
        cpu_ms: used.cpu_ms / f64::from(load.issued),
        load,
        after: Usage::of(proxy).await?,
    })
}

/// Some issuances with all plans logged.
async fn explained(
    server: &Server,
    database: &Config,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<String> {
    let from = server.log().len();
    plans::log(database, true).await?;
    let (_directory, proxy) = alone(database, ports, ca).await?;
    // From the sixth time on, plans are made for any values.
    loaded(&options(50), &[&proxy], ports, ca).await?;
    proxy.stop().await?;
    plans::log(database, false).await?;
    plans::table(server, from, database).await
}

/// A round while a tenth of the orders are deleted, and how long that takes.
async fn swept(
    server: &Server,
    database: &Config,
    stored: u32,
    ports: &Ports,
    ca: &ThrowawayCa,
) -> anyhow::Result<(Round, Duration)> {
    let client = client(database).await?;
    let over = format!(
        "UPDATE acme_proxy.orders SET delete_after = 0, valid_until = NULL \
         WHERE id IN (SELECT id FROM acme_proxy.orders LIMIT {})",
        stored / 10
    );
    client.batch_execute(&over).await?;
    client.batch_execute("VACUUM ANALYZE acme_proxy.orders").await?;
    let begun = Instant::now();
    let sweeping = async {
        let left = "SELECT count(*) FROM acme_proxy.orders WHERE delete_after = 0";
        while client.query_one(left, &[]).await?.try_get::<_, i64>(0)? > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(begun.elapsed())
    };
    let loading = async {
        let (directory, proxy) = alone(database, ports, ca).await?;
        let round = load(server, database, &proxy, ports, ca).await?;
        anyhow::Ok((directory, proxy, round))
    };
    let (took, loaded) = tokio::join!(sweeping, loading);
    let (_directory, proxy, round) = loaded?;
    proxy.stop().await?;
    Ok((round, took?))
}

fn rows(stored: u32, empty: &[Round], full: &[Round], sweeping: &Round) -> anyhow::Result<Vec<Vec<String>>> {
    let headings = [
        "".to_owned(),
        "empty".to_owned(),
        format!("{stored} orders"),
        "x".to_owned(),
        "sweeping".to_owned(),
    ];
    let mut rows = vec![headings.to_vec()];
    let time = |name: &'static str, percent: usize| {
        move |round: &Round| {
            let of = round.load.endpoints.get(name);
            of.map_or(f64::NAN, |of| if percent == 99 { of.p99_ms } else { of.p50_ms })
        }
    };
    type Figure = Box<dyn Fn(&Round) -> f64>;
    let figures: [(&str, Figure); 10] = [
        ("any request p50 ms", Box::new(time("any", 50))),
        ("any request p99 ms", Box::new(time("any", 99))),
        ("newOrder p50 ms", Box::new(time("newOrder", 50))),
        ("newOrder p99 ms", Box::new(time("newOrder", 99))),
        ("finalize p99 ms", Box::new(time("finalize", 99))),
        ("issuance p50 ms", Box::new(time("issuance", 50))),
        ("issuance p99 ms", Box::new(time("issuance", 99))),
        ("RSS MB", Box::new(|round| round.after.rss_mb)),
        ("RSS MB at most", Box::new(|round| round.after.peak_mb)),
        ("database CPU ms per issuance", Box::new(|round| round.cpu_ms)),
    ];
    for (name, figure) in figures {
        let (one, other) = (median(empty, &figure)?, median(full, &figure)?);
        let ratio = other / one;
        let is_bounded = name.contains("p99") || name.starts_with("RSS");
        let over = if is_bounded && ratio > BOUND { " !" } else { "" };
        rows.push(vec![
            name.to_owned(),
            format!("{one:.1}"),
            format!("{other:.1}"),
            format!("{ratio:.2}{over}"),
            format!("{:.1}", figure(sweeping)),
        ]);
    }
    Ok(rows)
}

fn median(rounds: &[Round], figure: &dyn Fn(&Round) -> f64) -> anyhow::Result<f64> {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().context("no rounds")
}
