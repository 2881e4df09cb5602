//! A real Prometheus that scrapes the daemon: what Grafana would draw, and what the alerts ask.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::harness::documented::root;
use crate::harness::process::{PATIENCE, free_address};
use crate::monitoring::{DASHBOARD, RULES, busy, expressions, read};

/// What a healthy daemon that has issued one certificate has nothing to draw for.
const EMPTY: [&str; 0] = [];

struct Prometheus {
    address: SocketAddr,
    client: reqwest::Client,
    _process: Child,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// One with our rules, which scrapes this address five times a second.
    fn start(daemon: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 500ms}}\nrule_files: [{}]\n\
             scrape_configs:\n- job_name: acme-proxy\n  static_configs:\n  - targets: [\"{daemon}\"]\n",
            root().join(RULES).display()
        );
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let address = free_address();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Self {
            address,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            _process: process.expect("prometheus is missing: make needs-test"),
            _directory: directory,
        }
    }

    /// Nothing as long as it is about to start.
    async fn ask(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}{path}", self.address);
        let answer = self.client.get(url).send().await.ok()?;
        if answer.status() == 503 {
            return None;
        }
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// The series that an expression has now.
    async fn series(&self, expression: &str) -> Option<Vec<Value>> {
        let query = [("query", expression)];
        let url = Url::parse_with_params("http://prometheus/api/v1/query", query).unwrap();
        let path = format!("{}?{}", url.path(), url.query().unwrap());
        let data = self.ask(&path).await?;
        Some(data["result"].as_array().unwrap().clone())
    }

    /// Waits until the daemon was scraped so often that there are rates.
    async fn has_scraped(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scraped = self.series("count_over_time(up[1m]) > 4 and up == 1").await;
            if scraped.is_some_and(|series| !series.is_empty()) {
                return;
            }
            assert!(Instant::now() < deadline, "Prometheus does not scrape the daemon");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_that_scrapes_the_daemon_answers_all_that_the_dashboard_and_the_alerts_ask() {
    let (world, daemon, _) = busy().await;
    let prometheus = Prometheus::start(world.installation.metrics);
    prometheus.has_scraped().await;

    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut drawn = Vec::new();
    expressions(&dashboard, &mut drawn);
    assert!(drawn.len() > 30, "{drawn:?}");
    let mut empty = Vec::new();
    for expression in drawn {
        // As Grafana fills in what is chosen above the panels.
        let filled = expression
            .replace("$instance", ".*")
            .replace("$__rate_interval", "1m");
        assert!(!filled.contains('$'), "{filled}");
        if prometheus.series(&filled).await.unwrap().is_empty() {
            empty.push(expression);
        }
    }
    assert_eq!(empty, EMPTY);

    let deadline = Instant::now() + PATIENCE;
    loop {
        let data = prometheus.ask("/api/v1/rules").await.unwrap();
        let groups = data["groups"].as_array().unwrap().iter();
        let rules: Vec<_> = groups
            .flat_map(|group| group["rules"].as_array().unwrap())
            .collect();
        assert!(rules.len() > 15, "{data}");
        if rules.iter().all(|rule| rule["health"] == "ok") {
            break;
        }
        let failed = rules.iter().find(|rule| rule["health"] == "err");
        assert!(failed.is_none() && Instant::now() < deadline, "{data}");
        sleep(Duration::from_millis(100)).await;
    }
    daemon.stop().await;
}
