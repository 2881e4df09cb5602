//! Several upstreams in one daemon: who goes where, what one CA's trouble means for the orders of another, and failover.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::app::control::{NewKey, Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::harness::ca;
use crate::harness::client::{Client, Order, PATIENCE};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::metrics;
use crate::harness::process::free_address;
use crate::harness::server::{Daemon, Plan};
use crate::harness::storm::{Moment, Storm};
use crate::rfc8555::s7_3_4_external_account::{bound, secret_in};

/// A daemon with two CAs: the default one, and `second`, which has fewer profiles and takes no validity.
struct Pair {
    daemon: Daemon,
    /// The default CA's trouble.
    storm: Arc<Storm>,
    second: ca::Running,
    metrics: SocketAddr,
    _files: TempDir,
}

impl Pair {
    /// `change` sees `ca.json` with both CAs, and nobody sent to the second.
    async fn start(change: impl FnOnce(&mut Value)) -> Self {
        let storm = Arc::new(Storm::with_delay(Duration::ZERO));
        let options = |profiles: &[&str]| ca::Options {
            eab_once: true,
            profiles: profiles
                .iter()
                .map(|name| ((*name).to_owned(), String::new()))
                .collect(),
            ..ca::Options::default()
        };
        let second = ca::start(options(&["classic"])).await.unwrap();
        let plan = Plan {
            ca: ca::Options {
                trouble: storm.clone(),
                lifetimes: true,
                ..options(&["classic", "shortlived"])
            },
            ..Plan::default()
        };
        let files = TempDir::new().unwrap();
        let root = files.path().join("root.pem");
        std::fs::write(&root, &second.root_pem).unwrap();
        let metrics = free_address();
        let daemon = Daemon::start_with(plan).await;
        let daemon = daemon.restart_with(|file| {
            file["metricsAddress"] = metrics.to_string().into();
            file["authority"]["config"]["upstreams"] = json!([{
                "name": "second",
                "ca_url": second.directory_url,
                "ca_root": root,
                "eab_kid": second.eab.kid,
                "eab_hmac_key": second.eab.hmac_key,
            }]);
            change(file);
        });
        Self {
            daemon: daemon.await,
            storm,
            second,
            metrics,
            _files: files,
        }
    }

    /// The daemon, with what has been changed in `ca.json`.
    async fn restart_with(self, change: impl FnOnce(&mut Value)) -> Self {
        let daemon = self.daemon.restart_with(change).await;
        Self { daemon, ..self }
    }

    /// Which names each CA has been asked for, the default one first.
    fn asked(&self) -> [Vec<String>; 2] {
        [&self.daemon.ca, &self.second].map(|ca| {
            let orders = ca.stats().orders;
            let mut names: Vec<String> = orders.iter().map(|order| order.identifiers.join(" ")).collect();
            names.sort();
            names
        })
    }

    async fn page(&self, path: &str) -> String {
        metrics::page(self.metrics, path).await.unwrap()
    }

    /// What a metric of the upstream's says.
    async fn metric(&self, name: &str, upstream: &str, labels: &str) -> Option<f64> {
        // The library sorts labels.
        let mut all: Vec<String> = labels.split(',').map(str::to_owned).collect();
        all.push(format!("upstream=\"{upstream}\""));
        all.retain(|label| !label.is_empty());
        all.sort();
        let series = format!("acme_proxy_upstream_{name}{{{}}}", all.join(","));
        metrics::figure(self.metrics, &series).await
    }

    async fn until(
        &self,
        what: &str,
        name: &str,
        upstream: &str,
        labels: &str,
        enough: impl Fn(f64) -> bool,
    ) {
        let waited = timeout(PATIENCE, async {
            while !self.metric(name, upstream, labels).await.is_some_and(&enough) {
                sleep(Duration::from_millis(100)).await;
            }
        });
        let page = waited.await;
        assert!(page.is_ok(), "{what}: {}", self.page("/metrics").await);
    }
}

fn claiming(file: &mut Value, domains: &[&str]) {
    file["authority"]["config"]["upstreams"][0]["domains"] = json!(domains);
}

fn failing_over(file: &mut Value) {
    file["authority"]["config"]["failover"] = "second".into();
    file["authority"]["config"]["failover_after"] = "1s".into();
}

/// The client, without the nonce that it had before the daemon's restart.
fn again(client: &Client) -> Client {
    Client::new(&client.site, Arc::clone(&client.key), client.kid.clone())
}

#[tokio::test]
async fn names_lead_to_their_ca_and_revocations_to_the_one_that_issued() {
    let pair = Pair::start(|file| claiming(file, &["example.org"])).await;
    let client = pair.daemon.account().await;
    client.issue(&pair.daemon, &["www.example.com"]).await;
    let there = client
        .issue(&pair.daemon, &["example.org", "a.b.example.org"])
        .await;
    assert_eq!(
        pair.asked(),
        [
            vec!["www.example.com".to_owned()],
            vec!["example.org a.b.example.org".to_owned()]
        ]
    );
    let refused = client.ask_order(&["www.example.com", "www.example.org"]).await;
    let problem = refused.problem(400, "rejectedIdentifier");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("www.example.com and www.example.org are for different CAs"),
        "{detail}"
    );

    // What was bought at the second is the second's, wherever its names lead later.
    let pair = pair.restart_with(|file| claiming(file, &["example.net"])).await;
    let client = again(&client);
    let payload = json!({ "certificate": b64(&there.leaf) });
    client
        .post(&client.site.url("revoke-cert"), payload)
        .await
        .expect(200);
    let revoked = [&pair.daemon.ca, &pair.second].map(|ca| ca.stats().revocations.len());
    assert_eq!(revoked, [0, 1]);
    client.issue(&pair.daemon, &["www.example.org"]).await;
    assert_eq!(pair.asked().map(|names| names.len()), [2, 1]);
    for ca in [&pair.daemon.ca, &pair.second] {
        let stats = ca.stats();
        assert_eq!((stats.accounts, stats.eab_uses), (1, 1), "one account at each CA");
    }
}

#[tokio::test]
async fn a_provisioner_and_before_it_a_clients_key_choose_whatever_the_names_are() {
    let pair = Pair::start(|file| {
        claiming(file, &["example.org"]);
        let provisioner = &mut file["authority"]["provisioners"][0];
        provisioner["upstream"] = "second".into();
        provisioner["eabKeys"] = json!([
            { "kid": "home", "hmacKey": b64([7; 32]), "upstream": "default" },
            { "kid": "any", "hmacKey": b64([8; 32]) },
        ]);
    })
    .await;
    let stored = pair.daemon.control(Request::AddKey(NewKey {
        kid: Some("stored".to_owned()),
        provisioner: Some("acme".to_owned()),
        upstream: Some("default".to_owned()),
        ..NewKey::default()
    }));
    let stored = secret_in(&stored.await.unwrap());
    let unknown = pair.daemon.control(Request::AddKey(NewKey {
        provisioner: Some("acme".to_owned()),
        upstream: Some("third".to_owned()),
        ..NewKey::default()
    }));
    let refusal = unknown.await.unwrap_err().to_string();
    assert_eq!(
        refusal,
        "there is no upstream \"third\"; there are: default, second"
    );
    let listed = pair.daemon.control(Request::ListKeys).await.unwrap();
    assert_eq!(listed.matches("upstream: default").count(), 2, "{listed}");

    let without = pair.daemon.account().await;
    let any = bound(&pair.daemon, "any", &[8; 32]).await;
    let home = bound(&pair.daemon, "home", &[7; 32]).await;
    let made = bound(&pair.daemon, "stored", &stored).await;
    for (client, name) in [
        (&without, "a.example.com"),
        (&any, "b.example.com"),
        (&home, "c.example.org"),
        (&made, "d.example.org"),
    ] {
        client.issue(&pair.daemon, &[name]).await;
    }
    assert_eq!(
        pair.asked(),
        [
            ["c.example.org", "d.example.org"],
            ["a.example.com", "b.example.com"]
        ]
        .map(|names| names.map(str::to_owned).to_vec())
    );
    // An upstream that is gone takes no orders, and nobody else gets them.
    let order = without.ready(&pair.daemon, &["e.example.com"]).await;
    let pair = pair
        .restart_with(|file| {
            file["authority"]["provisioners"][0]["upstream"] = Value::Null;
            file["authority"]["config"]["upstreams"] = json!([]);
        })
        .await;
    let csr = csr::plain(&Key::new(), &["e.example.com"]);
    let payload = json!({ "csr": b64(csr) });
    let answer = again(&without).try_post(&order.finalize, payload).await;
    let problem = answer.problem(500, "serverInternal");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("second, is not configured"),
        "{problem}"
    );
    assert_eq!(pair.asked().map(|names| names.len()), [2, 2]);
}

#[tokio::test]
async fn f3_a_429_of_one_ca_holds_up_no_order_of_the_other() {
    const ORDERS: usize = 10;
    let pair = Pair::start(|file| claiming(file, &["example.org"])).await;
    let client = pair.daemon.account().await;
    pair.storm.refuse("new-order", 429, "rateLimited");
    let mut waiting = Vec::new();
    for number in 0..ORDERS {
        let name = format!("h{number}.example.com");
        waiting.push(client.finalized(&pair.daemon, &[&name]).await);
    }
    pair.until("a 429", "rate_limited_total", "default", "", |count| count > 0.0)
        .await;
    let refused = pair.metric("rate_limited_total", "default", "").await;
    for number in 0..ORDERS {
        let name = format!("h{number}.example.org");
        client.issue(&pair.daemon, &[&name]).await;
    }
    for order in &waiting {
        assert_eq!(client.look(&order.url).await["status"], "processing");
    }
    let [first, second] = pair.asked().map(|names| names.len());
    assert_eq!((first, second), (0, ORDERS));
    // Those that were under way when the first 429 came have had one, too; then nobody asks.
    assert!(refused.unwrap() <= 10.0, "{refused:?}");
    assert_eq!(pair.metric("rate_limited_total", "default", "").await, refused);
    assert_eq!(pair.metric("rate_limited_total", "second", "").await, Some(0.0));
    let limited = async |upstream| {
        let outcome = "outcome=\"rate_limited\"";
        pair.metric("http_requests_total", upstream, outcome).await
    };
    assert_eq!(limited("default").await, refused);
    assert_eq!(limited("second").await, Some(0.0));
    let labels = |outcome| format!("operation=\"open\",outcome=\"{outcome}\"");
    assert_eq!(
        pair.metric("requests_total", "default", &labels("rate_limited"))
            .await,
        refused
    );
    assert_eq!(
        pair.metric("requests_total", "second", &labels("done")).await,
        Some(10.0)
    );
    pair.until("all wait", "jobs_waiting", "default", "kind=\"issue\"", |jobs| {
        jobs == 10.0
    })
    .await;
    pair.until("none waits", "jobs_waiting", "second", "kind=\"issue\"", |jobs| {
        jobs == 0.0
    })
    .await;
    let oldest = pair
        .metric("oldest_job_seconds", "default", "kind=\"issue\"")
        .await;
    assert!(oldest.unwrap() > 0.0);
}

#[tokio::test]
async fn a_ca_that_is_away_is_seen_and_its_new_orders_go_to_the_one_that_stands_in_for_it() {
    let pair = Pair::start(failing_over).await;
    pair.storm.goes_down();
    let pair = pair
        .restart_with(|file| file["authority"]["config"]["eab_kid"] = "another".into())
        .await;
    let client = pair.daemon.account().await;
    let issued = client.issue(&pair.daemon, &["www.example.com"]).await;
    assert_eq!(pair.asked(), [vec![], vec!["www.example.com".to_owned()]]);
    let health: Value = serde_json::from_str(&pair.page("/health").await).unwrap();
    assert_eq!(health["status"], "degraded");
    let missing = health["missing"].as_object().unwrap();
    assert!(
        missing.contains_key("upstream account") && !missing.contains_key("upstream account second"),
        "{health}"
    );
    assert_eq!(pair.metric("failovers_total", "default", "").await, Some(1.0));
    assert_eq!(pair.metric("up", "default", "").await, Some(0.0));
    assert_eq!(pair.metric("up", "second", "").await, Some(1.0));
    assert_eq!(pair.metric("ready", "default", "").await, Some(0.0));
    assert_eq!(pair.metric("ready", "second", "").await, Some(1.0));
    // It is the second's now, for good.
    let payload = json!({ "certificate": b64(&issued.leaf) });
    client
        .post(&client.site.url("revoke-cert"), payload)
        .await
        .expect(200);
    assert_eq!(pair.second.stats().revocations.len(), 1);
}

#[tokio::test]
async fn f1_an_order_that_was_opened_at_the_first_ca_stays_there() {
    let pair = Pair::start(failing_over).await;
    let client = pair.daemon.account().await;
    pair.storm.stop(Moment::Received, "finalize");
    let opened = client.finalized(&pair.daemon, &["opened.example.com"]).await;
    pair.storm.has_caught_one().await;
    pair.storm.goes_down();
    pair.storm.let_go();
    client.issue(&pair.daemon, &["later.example.com"]).await;
    assert_eq!(client.look(&opened.url).await["status"], "processing");
    pair.storm.comes_up();
    client.until(&opened.url, "valid").await;
    assert_eq!(
        pair.asked(),
        [["opened.example.com"], ["later.example.com"]].map(|names| names.map(str::to_owned).to_vec())
    );
    assert_eq!(pair.daemon.ca.stats().certificates.len(), 1);
}

#[tokio::test]
async fn an_order_that_wishes_for_what_the_other_ca_does_not_have_waits_for_its_own() {
    let pair = Pair::start(|file| {
        failing_over(file);
        file["authority"]["config"]["client_validity"] = true.into();
    })
    .await;
    let client = pair.daemon.account().await;
    for upstream in ["default", "second"] {
        let what = "its offers are known";
        pair.until(what, "up", upstream, "", |up| up > 0.0).await;
    }
    pair.storm.goes_down();
    let mut orders = Vec::new();
    for (name, wishes) in [
        ("short.example.com", json!({ "profile": "shortlived" })),
        ("dated.example.com", json!({ "notAfter": "2100-01-01T00:00:00Z" })),
        ("classic.example.com", json!({ "profile": "classic" })),
    ] {
        let made = client.ask_order_wishing(&[name], wishes).await.expect(201);
        let order = Order::of(&made);
        client.prove(&pair.daemon, &order).await;
        let csr = csr::plain(&Key::new(), &[name]);
        client.finalize(&order, &csr).await.expect(200);
        orders.push(order);
    }
    let movable = orders.pop().unwrap();
    client.until(&movable.url, "valid").await;
    for order in &orders {
        assert_eq!(client.look(&order.url).await["status"], "processing");
    }
    pair.storm.comes_up();
    for order in &orders {
        client.until(&order.url, "valid").await;
    }
    let [first, second] = pair.asked();
    assert_eq!(first, ["dated.example.com", "short.example.com"]);
    assert_eq!(second, ["classic.example.com"]);
}
