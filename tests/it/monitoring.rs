//! What is exported is documented, what is drawn and alerted on is exported, and there are no more series with a hundred
//! thousand certificates than with one (COMPAT 0.7, 0.10 and 5).

mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;

use acme_proxy::acme::id::OrderId;
use acme_proxy::acme::order::Order;
use acme_proxy::clock::Clock;
use acme_proxy::store::Store as _;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::documented::{quoted, root, rows};
use crate::harness::metrics::figure;
use crate::harness::process::Daemon;
use crate::harness::server::store_of;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

const DASHBOARD: &str = "deploy/monitoring/grafana-dashboard.json";
const RULES: &str = "deploy/monitoring/prometheus-rules.yml";

/// A metric of the page: its type, and the labels of its series.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

/// Lets clients do what makes every metric appear: an issuance, a problem, a request that leads nowhere.
async fn provoke(world: &Arc<World>, name: &str) {
    let ledger = Arc::new(Ledger::default());
    Client::new(world, &ledger).obtain(&[name]).await;
    assert_eq!(world.finalizes_for(&[name]), 1);
    let http = world.installation.client();
    let base = world.installation.directory_url().replace("directory", "");
    for path in [
        "new-order",
        "order/0123456789",
        "authz/x",
        "nothing/here",
        "new-account",
    ] {
        let url = format!("{base}{path}?{name}");
        http.get(&url).header("user-agent", name).send().await.unwrap();
        http.post(&url).body(name.to_owned()).send().await.unwrap();
    }
}

/// The series of a page, without their values.
fn series(page: &str) -> BTreeSet<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect()
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        families.entry(name.to_owned()).or_default().kind = kind.to_owned();
    }
    for one in series(page) {
        let (name, labels) = one.split_once('{').unwrap_or((one, ""));
        let name = family_of(name, &families);
        let labels = labels.trim_end_matches('}').split("\",");
        let labels = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let labels = labels.filter(|label| label != "le");
        families.get_mut(&name).unwrap().labels.extend(labels);
    }
    families
}

/// The family that a series belongs to: those of a histogram have endings.
fn family_of(name: &str, families: &BTreeMap<String, Family>) -> String {
    let ending = ["_bucket", "_sum", "_count"].into_iter().find_map(|ending| {
        let family = name.strip_suffix(ending)?;
        families.contains_key(family).then(|| family.to_owned())
    });
    ending.unwrap_or_else(|| name.to_owned())
}

async fn busy() -> (Arc<World>, Daemon, String) {
    let world = Arc::new(World::new().await);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    provoke(&world, "www.test.example.com").await;
    let deadline = Instant::now() + crate::harness::process::PATIENCE;
    loop {
        let page = daemon.page("/metrics").await.unwrap();
        // The count of the certificates comes last.
        if page.contains("acme_proxy_certificates_expiring") && page.contains("acme_proxy_jobs_waiting") {
            return (world, daemon, page);
        }
        assert!(Instant::now() < deadline, "{page}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The metrics of an expression of Prometheus, each with the labels that it is selected and grouped by there.
fn used(expression: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let from = &rest[start..];
        let end = from.find(|c| !is_word(c)).unwrap_or(from.len());
        let (word, behind) = from.split_at(end);
        rest = behind;
        if !["acme_proxy_", "externalcas_", "process_", "go_"]
            .iter()
            .any(|begin| word.starts_with(begin))
        {
            continue;
        }
        let labels = used.entry(word.to_owned()).or_default();
        if let Some((selector, behind)) = behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            rest = behind;
            let pairs = selector.split("\",").filter_map(|pair| pair.split_once('='));
            labels.extend(pairs.map(|(label, _)| label.trim().trim_end_matches('!').to_owned()));
        }
    }
    used
}

/// What expressions use of metrics and labels that the daemon does not export.
fn unknown<'a>(
    expressions: impl IntoIterator<Item = &'a str>,
    families: &BTreeMap<String, Family>,
) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut found = 0;
    for expression in expressions {
        for (name, labels) in used(expression) {
            found += 1;
            let Some(family) = families.get(&family_of(&name, families)) else {
                unknown.push(name);
                continue;
            };
            // Prometheus itself adds this one.
            let labels = labels.into_iter().filter(|label| label != "instance");
            let labels = labels.filter(|label| !family.labels.contains(label));
            unknown.extend(labels.map(|label| format!("{name}{{{label}}}")));
        }
    }
    assert!(found > 0);
    unknown
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if name == "expr" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_exported_is_documented_and_every_one_that_is_used_is_exported() {
    let (_world, daemon, page) = busy().await;
    let families = families(&page);
    let is_metric = |id: &str| {
        ["`acme_proxy_", "`externalcas_", "`process_"]
            .iter()
            .any(|begin| id.starts_with(begin))
    };
    let mut documented = BTreeMap::new();
    for row in rows("docs/OPERATIONS.md", is_metric) {
        let family = Family {
            kind: row[1].clone(),
            labels: quoted(&row[2]).map(str::to_owned).collect(),
        };
        let name = row[0].trim_matches('`').to_owned();
        assert!(!row[3].is_empty());
        assert!(documented.insert(name.clone(), family).is_none(), "{name} twice");
    }
    let table: Vec<String> = families
        .iter()
        .map(|(name, family)| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let help = page
                .lines()
                .find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
            format!(
                "| `{name}` | {} | {} | {} |",
                family.kind,
                labels.join(", "),
                help.unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(
        documented,
        families,
        "docs/OPERATIONS.md needs:\n{}",
        table.join("\n")
    );

    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut drawn = Vec::new();
    expressions(&dashboard, &mut drawn);
    assert_eq!(
        unknown(drawn.iter().map(String::as_str), &families),
        Vec::<String>::new()
    );
    let rules = read(RULES);
    let alerts = rules
        .split("expr: >-")
        .skip(1)
        .map(|rule| rule.trim_start().lines().next().unwrap());
    assert_eq!(unknown(alerts, &families), Vec::<String>::new());
    daemon.stop().await;
}

/// The queries of esnet's dashboard (contrib/develop/grafana-dashboard.json of v0.7.1), by what they find here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_programs_dashboard_finds_its_series_but_for_those_of_each_certificate_and_of_go() {
    let (_world, daemon, page) = busy().await;
    let families = families(&page);
    let found = [
        "externalcas_external_ca_up",
        r#"externalcas_certificates_issued_total{status="success"}"#,
        r#"externalcas_certificates_issued_total{status="failure"}"#,
        r#"externalcas_certificates_revoked_total{status="success"}"#,
        "externalcas_last_successful_certificate_timestamp_seconds",
        r#"externalcas_certificate_request_duration_seconds_bucket{operation="issue"}"#,
        r#"externalcas_acme_roundtrip_duration_seconds_bucket{acme_operation="obtain"}"#,
        "process_cpu_seconds_total",
        "process_open_fds",
    ];
    assert_eq!(unknown(found, &families), Vec::<String>::new());
    let not_found = [
        "externalcas_certificate_expiry_timestamp_seconds",
        "externalcas_certificate_info",
        "go_goroutines",
        "go_memstats_heap_inuse_bytes",
        "go_gc_duration_seconds_bucket",
    ];
    assert_eq!(unknown(not_found, &families).len(), not_found.len());
    daemon.stop().await;
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules_and_every_alert_fires_when_it_should() {
    for (verb, file) in [
        ("check", RULES),
        ("test", "deploy/monitoring/prometheus-rules.test.yml"),
    ] {
        let run = Command::new("promtool")
            .args([verb, "rules"])
            .arg(root().join(file))
            .output();
        let output = run.expect("promtool is missing: make needs-test");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
}

/// `CERTIFICATES=100000` puts so many into the store.
#[expect(
    clippy::print_stdout,
    reason = "with many certificates, the figures are what it is run for"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_series_with_many_certificates_than_with_one() {
    let many: usize = std::env::var("CERTIFICATES").map_or(500, |many| many.parse().unwrap());
    let (world, daemon, page) = busy().await;
    let before: BTreeSet<String> = series(&page).into_iter().map(str::to_owned).collect();
    daemon.stop().await;
    let store = Arc::new(store_of(&world.installation.config()).await);
    let issued = issued(&store).await;
    let template = serde_json::to_string(&issued).unwrap();
    let begun = Instant::now();
    let mut writing = JoinSet::new();
    for number in 0..many {
        let (store, copy) = (Arc::clone(&store), copied(&template, &issued, number));
        writing.spawn(async move { store.create_order(&copy, None).await.unwrap() });
        while writing.len() > 256 {
            writing.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(written) = writing.join_next().await {
        written.unwrap();
    }
    println!("{many} certificates stored in {:?}", begun.elapsed());
    drop(store);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let begun = Instant::now();
    let address = world.installation.metrics;
    let all = f64::from(u32::try_from(many + 1).unwrap());
    while figure(address, "acme_proxy_certificates_valid").await != Some(all) {
        assert!(
            begun.elapsed().as_secs() < 600,
            "the certificates are not counted"
        );
        sleep(std::time::Duration::from_millis(100)).await;
    }
    println!("counted in {:?}", begun.elapsed());
    let expiring = figure(address, r#"acme_proxy_certificates_expiring{days="7"}"#)
        .await
        .unwrap();
    assert!(expiring > 0.0 && expiring < all, "{expiring}");
    provoke(&world, "later.test.example.com").await;
    let page = daemon.page("/metrics").await.unwrap();
    let after: BTreeSet<String> = series(&page).into_iter().map(str::to_owned).collect();
    println!(
        "{} series before, {} after, page of {} bytes",
        before.len(),
        after.len(),
        page.len()
    );
    let new: Vec<&String> = after.difference(&before).collect();
    // What two runs of the same requests differ in: a poll more or less, a nonce that was taken.
    assert!(new.len() <= 20, "{new:#?}");
    for word in ["test.example.com", "serial"] {
        assert!(!page.contains(word), "{word} is in the page");
    }
    daemon.stop().await;
}

/// The client's order that has its certificate.
async fn issued(store: &acme_proxy::store::sled::SledStore) -> Order {
    for id in store.all_orders(None, 100).await.unwrap() {
        let order = store.order(id).await.unwrap().unwrap().value;
        let is_clients = order
            .identifiers()
            .any(|name| name.to_string().contains("www.test"));
        if is_clients && order.certificate().is_some() {
            return order;
        }
    }
    panic!("no order has a certificate");
}

/// The same for another name, with another end: each day of the next ninety has as many.
fn copied(template: &str, issued: &Order, number: usize) -> Order {
    let end = issued.certificate().unwrap().not_after();
    let days = i64::try_from(number % 90).unwrap();
    let other_end = Clock::system().now() + jiff::SignedDuration::from_hours(24 * days + 12);
    let text = template
        .replace(&issued.id().to_string(), &OrderId::random().to_string())
        .replace("www.test.example.com", &format!("host-{number}.test.example.com"))
        .replace(&end.to_string(), &other_end.to_string());
    serde_json::from_str(&text).unwrap()
}
