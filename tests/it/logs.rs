//! The log, as programs read it that were written for the Go program (COMPAT section 2), and as people search it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::harness::metrics::figure;
use crate::harness::process::{Daemon, NAME, PATIENCE};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

/// What the Go program says of every request, and what it says of a request that gets a certificate besides.
const OF_EACH: [&str; 17] = [
    "duration",
    "duration-ns",
    "fields.time",
    "level",
    "method",
    "msg",
    "name",
    "path",
    "protocol",
    "referer",
    "remote-address",
    "request-id",
    "size",
    "status",
    "time",
    "user-agent",
    "user-id",
];
const OF_DOWNLOADS: [&str; 7] = [
    "issuer",
    "provisioner",
    "sans",
    "serial",
    "subject",
    "valid-from",
    "valid-to",
];

async fn start(world: &World, format: &str) -> Daemon {
    world
        .installation
        .edit(|config| config["logger"] = json!({ "format": format }));
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon
}

/// The lines of the log that are JSON.
fn lines(world: &World) -> Vec<Value> {
    let log = world.installation.log();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    lines.collect()
}

fn request<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    let found = lines
        .iter()
        .find(|line| line["path"].as_str().is_some_and(|seen| seen.contains(path)));
    found.unwrap_or_else(|| panic!("no request for {path}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_the_go_programs_fields_and_one_request_id_through_an_orders_life() {
    let world = Arc::new(World::new().await);
    let audit = world.installation.path("audit.log");
    world
        .installation
        .edit(|config| config["authority"]["config"]["audit"] = json!({ "file": audit }));
    let daemon = start(&world, "json").await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    daemon.stop().await;
    let lines = lines(&world);
    let new_order = request(&lines, "/new-order");
    for name in OF_EACH {
        assert!(!new_order[name].is_null(), "{name} is not in {new_order}");
    }
    for (name, value) in [
        ("level", json!("info")),
        ("name", json!("ca")),
        ("method", json!("POST")),
        ("protocol", json!("HTTP/1.1")),
        ("remote-address", json!("127.0.0.1")),
        ("status", json!(201)),
    ] {
        assert_eq!(new_order[name], value, "{new_order}");
    }
    assert!(
        new_order["duration-ns"].is_u64() && new_order["size"].as_u64() > Some(100),
        "{new_order}"
    );
    let download = request(&lines, "/certificate/");
    for name in OF_DOWNLOADS {
        assert!(!download[name].is_null(), "{name} is not in {download}");
    }
    assert_eq!(download["sans"], json!(["www.test.example.com"]));
    assert_eq!(download["provisioner"], "acme");
    let id = new_order["request-id"].as_str().unwrap();
    let has = |line: &&Value, name: &str| line[name] == id;
    // The worker's lines are of the request that has made the order, and so is what its client asks for later.
    for message in [
        "identifier validated",
        "order opened at the CA",
        "certificate issued",
    ] {
        let mut of_order = lines
            .iter()
            .filter(|line| line["msg"] == message && has(line, "request.id"));
        assert!(of_order.next().is_some(), "{message}");
    }
    for path in ["/finalize", "/certificate/"] {
        assert!(has(&request(&lines, path), "order.request.id"), "{path}");
    }
    let audit = std::fs::read_to_string(audit).unwrap();
    assert!(audit.matches(id).count() >= 7, "{audit}");
}

#[tokio::test]
async fn c1201_the_text_format_is_logrus_and_nothing_that_a_client_sends_makes_a_line_of_its_own() {
    let world = World::new().await;
    let root = world.installation.path("root.pem");
    world.installation.edit(|config| config["root"] = json!(root));
    let daemon = start(&world, "text").await;
    let answer = world.installation.client();
    let answer = answer
        .get(format!("{}?x=%0a\"y", world.installation.directory_url()))
        .header("user-agent", "evil\tlevel=error msg=\"hacked\" \u{9b}31m")
        .header("referer", "r".repeat(5000))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let log = world.installation.log();
    let line = log.lines().find(|line| line.contains("evil")).unwrap();
    for part in [
        "time=\"20",
        " level=info duration=",
        " method=GET name=ca path=",
        " protocol=HTTP/1.1 ",
        " remote-address=127.0.0.1 ",
        " status=200 ",
        " user-id=",
        r#"level=error msg=\"hacked\" "#,
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert!(line.len() < 1500, "{line}");
    assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log}");
    let url = format!("https://{NAME}:{}", world.installation.address.port());
    let (_, root) = x509_parser::pem::parse_x509_pem(&std::fs::read(root).unwrap()).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &root.contents);
    let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut rest = log.as_str();
    for banner in [
        "Starting acme-proxy/",
        &format!("Config file: {}", world.installation.config().display()),
        &format!("The primary server URL is {url}"),
        &format!("Root certificates are available at {url}/roots.pem"),
        &format!("X.509 Root Fingerprint: {fingerprint}"),
        &format!("Serving HTTPS on {} ...", world.installation.address),
    ] {
        let found = rest.split_once(banner);
        (_, rest) = found.unwrap_or_else(|| panic!("{banner:?} is not, in this order, in {log}"));
    }
    let served = world.installation.client().get(format!("{url}/roots.pem"));
    assert_eq!(served.send().await.unwrap().status(), 200);
    daemon.stop().await;
    assert!(world.installation.log().contains("msg=\"shutting down ...\""));
}

#[tokio::test]
async fn the_common_format_has_eleven_words_and_the_format_is_exchanged_by_sighup() {
    let world = World::new().await;
    let daemon = start(&world, "common").await;
    let get = async |path: &str| {
        let url = world
            .installation
            .directory_url()
            .replace("/acme/acme/directory", path);
        let answer = world
            .installation
            .client()
            .get(url)
            .header("x-smallstep-id", "mine-1")
            .send()
            .await
            .unwrap();
        answer.status().as_u16()
    };
    assert_eq!(get("/acme/acme/directory").await, 200);
    let log = world.installation.log();
    let line = log.lines().find(|line| line.starts_with("mine-1 ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words.len(), 11, "{line}");
    assert_eq!(words[1..4], ["127.0.0.1", "ca", "-"], "{line}");
    assert!(
        words[4].ends_with('Z') && words[5].parse::<u64>().is_ok(),
        "{line}"
    );
    assert_eq!(
        words[6..10],
        ["\"GET", "/acme/acme/directory", "HTTP/1.1\"", "200"],
        "{line}"
    );
    assert!(words[10].parse::<u64>().unwrap() > 100, "{line}");
    world
        .installation
        .edit(|config| config["logger"] = json!({ "format": "json" }));
    daemon.hang_up();
    world.installation.says("configuration reloaded", 1).await;
    assert_eq!(get("/nowhere").await, 404);
    let log = world.installation.log();
    let refused = log.lines().find(|line| line.contains("/nowhere")).unwrap();
    let refused: Value = serde_json::from_str(refused).unwrap();
    assert_eq!(refused["level"], "warning", "{refused}");
    assert_eq!(refused["error"], "there is no such resource");
    world
        .installation
        .edit(|config| drop(config.as_object_mut().unwrap().remove("logger")));
    daemon.hang_up();
    world.installation.says("configuration reloaded", 2).await;
    assert_eq!(get("/still/nowhere").await, 404);
    daemon.stop().await;
    assert!(!world.installation.log().contains("/still/nowhere"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f39_a_log_that_nobody_reads_holds_nothing_up_and_says_later_what_it_lacks() {
    const DROPPED: &str = "acme_proxy_log_lines_dropped_total";
    let world = World::new().await;
    world
        .installation
        .edit(|config| config["logger"] = json!({ "format": "text" }));
    let (mut daemon, mut log) = world.installation.start_with_pipe();
    daemon.is_well().await;
    assert_eq!(figure(world.installation.metrics, DROPPED).await, Some(0.0));
    let client = world.installation.client();
    let url = format!("{}?{}", world.installation.directory_url(), "x".repeat(1500));
    let ask = async || {
        for _ in 0..50 {
            let answer = client
                .get(&url)
                .header("user-agent", "u".repeat(1500))
                .send()
                .await;
            assert_eq!(answer.unwrap().status(), 200);
        }
        figure(world.installation.metrics, DROPPED).await.unwrap()
    };
    let mut asked = 0;
    while ask().await == 0.0 {
        asked += 50;
        assert!(asked < 50_000, "all of it finds a place?");
    }
    let before = figure(world.installation.metrics, DROPPED).await.unwrap();
    let after = ask().await;
    assert!(after >= before + 50.0, "{before} to {after}");
    // Somebody reads again.
    let mut seen = Vec::new();
    let said = async {
        let mut piece = vec![0; 65_536];
        loop {
            let count = log.read(&mut piece).await.unwrap();
            seen.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&seen);
            if let Some((_, said)) = text.split_once("because nobody took them in time\" lines=") {
                break said.split('\n').next().unwrap().to_owned();
            }
        }
    };
    let said = timeout(PATIENCE, said).await.expect("it does not say so");
    let said: f64 = said.parse().unwrap();
    assert!(said >= after, "{said}, and {after}");
    tokio::spawn(async move { drop(tokio::io::copy(&mut log, &mut tokio::io::sink()).await) });
    ask().await;
    assert_eq!(
        figure(world.installation.metrics, DROPPED).await,
        Some(said),
        "it is read again"
    );
    daemon.stop().await;
}
