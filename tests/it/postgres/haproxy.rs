//! Three replicas on one database behind a real HAProxy with deploy/haproxy/haproxy.cfg: no stickiness, TLS passed through,
//! the client's address in the log, and a rolling restart that no client notices (SECURITY C108, F27, F43, F44).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::documented::root;
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{Daemon, Installation, NAME, PATIENCE, text};
use crate::harness::world::World;
use crate::postgres::daemon::keep_in;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;

/// Where clients come from. HAProxy itself comes from 127.0.0.1.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));

/// How many clients ask for a nonce at a time, all the time, and how many get one certificate after the other.
const ASKING: usize = 4;
const ORDERING: usize = 3;

/// What the first ones ask for. The others ask with HEAD.
const PATH: &str = "/acme/acme/new-nonce";

/// HAProxy where clients look for the daemon, killed when this is dropped.
struct Balancer<'a> {
    site: &'a Installation,
    _child: Child,
}

impl<'a> Balancer<'a> {
    /// The shipped configuration, with the addresses of these replicas.
    async fn start(site: &'a Installation, replicas: &[Installation]) -> Self {
        let shipped = std::fs::read_to_string(root().join("deploy/haproxy/haproxy.cfg")).unwrap();
        let mut changes = vec![("bind :443".to_owned(), format!("bind {}", site.address))];
        for (number, replica) in (1..).zip(replicas) {
            changes.push((
                format!("acme-proxy-{number}:443 check port 9123"),
                format!("{} check port {}", replica.address, replica.metrics.port()),
            ));
        }
        let mut config = shipped;
        for (from, to) in &changes {
            assert_eq!(config.matches(from).count(), 1, "{from}");
            config = config.replace(from, to);
        }
        let file = site.path("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let checked = haproxy().arg("-c").arg("-f").arg(&file).output().await.unwrap();
        let said = text(&checked.stderr);
        assert!(checked.status.success() && !said.contains("WARNING"), "{said}");
        let output = std::fs::File::create(site.path("haproxy.log")).unwrap();
        let mut command = haproxy();
        command
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true);
        Self {
            site,
            _child: command.spawn().unwrap(),
        }
    }

    /// Waits until its log has these words so often.
    async fn says(&self, words: &str, times: usize) {
        let said = timeout(PATIENCE, async {
            while self.log().matches(words).count() < times {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let said = said.await;
        assert!(said.is_ok(), "{words:?} is not {times} times in:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.site.path("haproxy.log")).unwrap()
    }
}

fn haproxy() -> Command {
    let mut command = Command::new("haproxy");
    // Debian's place is not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin"));
    command
}

/// A client that makes a new connection for each request, from an address of its own.
fn asking(site: &Installation) -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().resolve(NAME, site.address);
    builder
        .local_address(CLIENT)
        .pool_max_idle_per_host(0)
        .tls_danger_accept_invalid_certs(true)
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

async fn ask(client: &reqwest::Client, port: u16) -> Result<(), String> {
    match client.get(format!("https://{NAME}:{port}{PATH}")).send().await {
        Ok(answer) if answer.status() == 204 => Ok(()),
        Ok(answer) => Err(answer.status().to_string()),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// From which addresses a replica has been asked, and how often.
fn asked(replica: &Installation) -> (BTreeSet<String>, usize) {
    let log = replica.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["path"] == PATH && line["method"] == "GET");
    let addresses: Vec<_> = lines
        .map(|line| line["remote-address"].as_str().unwrap().to_owned())
        .collect();
    let count = addresses.len();
    (addresses.into_iter().collect(), count)
}

/// Waits until each of the replicas has been asked once more.
async fn all_are_asked(replicas: &[Installation]) {
    for replica in replicas {
        let before = asked(replica).1;
        let asked = timeout(PATIENCE, async {
            while asked(replica).1 == before {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(asked.await.is_ok(), "{} gets no requests", replica.address);
    }
}

/// A replica that goes by the same URL as all of them, as behind a load balancer.
fn replica(world: &World, number: u8, database: &str) -> Installation {
    let mut replica = world.another();
    let port = world.installation.address.port();
    replica.address = (Ipv4Addr::new(127, 0, 0, number), port).into();
    replica.metrics.set_ip(replica.address.ip());
    replica.edit(|config| {
        config["address"] = replica.address.to_string().into();
        config["metricsAddress"] = replica.metrics.to_string().into();
        config["logger"] = json!({"format": "json"});
        config["authority"]["config"]["proxy_protocol"] = json!({"from": ["127.0.0.1"]});
        config["authority"]["config"]["shutdown_delay"] = json!("10s");
    });
    keep_in(&replica, database);
    replica
}

async fn start(replica: &Installation) -> Daemon {
    let mut daemon = replica.start();
    daemon.is_well().await;
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_f43_behind_haproxy_replicas_hear_the_clients_address_and_restart_one_after_the_other_unnoticed()
{
    let world = Arc::new(World::new().await);
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let replicas = [2, 3, 4].map(|number| replica(&world, number, &database));
    let mut daemons = Vec::new();
    for replica in &replicas {
        daemons.push(start(replica).await);
    }
    let site = &world.installation;
    let balancer = Balancer::start(site, &replicas).await;
    let (client, port) = (asking(site), site.address.port());
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask(&client, port).await {
        assert!(Instant::now() < deadline, "{error}\n{}", balancer.log());
        sleep(Duration::from_millis(20)).await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..ASKING {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                ask(&client, port).await.unwrap();
                answered += 1;
                sleep(Duration::from_millis(5)).await;
            }
            answered
        });
    }
    let ledger = Arc::new(Ledger::default());
    let mut orders = JoinSet::new();
    for number in 0..ORDERING {
        let (mut client, stop) = (Client::new(&world, &ledger), Arc::clone(&stop));
        orders.spawn(async move {
            let mut certificates = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("h{certificates}.c{number}.test.example.com");
                client.obtain(&[&name]).await;
                certificates += 1;
            }
            certificates
        });
    }
    all_are_asked(&replicas).await;

    let mut restarted = Vec::new();
    for (number, daemon) in (1..).zip(daemons) {
        let replica = &replicas[number - 1];
        let server = format!("Server replicas/acme-proxy-{number} is");
        daemon.terminate();
        let noticed = format!("{server} DOWN, reason: Layer7 wrong status, code: 503");
        balancer.says(&noticed, 1).await;
        assert!(
            !replica.log().contains("shutting down"),
            "it stops before HAProxy has noticed"
        );
        assert!(daemon.ended().await.success());
        restarted.push(start(replica).await);
        balancer.says(&format!("{server} UP"), 1).await;
        all_are_asked(&replicas).await;
    }
    stop.store(true, Ordering::Relaxed);
    let certificates: usize = orders.join_all().await.into_iter().sum();
    assert!(certificates > 3 * ORDERING, "only {certificates} certificates");
    let answered: usize = clients.join_all().await.into_iter().sum();
    let total: usize = replicas.iter().map(|replica| asked(replica).1).sum();
    assert!(total >= answered, "{total} of {answered} are in the logs");
    for replica in &replicas {
        assert_eq!(asked(replica).0, BTreeSet::from([CLIENT.to_string()]));
    }
    ledger.audit(&world).await.assert_clean();
    eprintln!("{answered} nonces and {certificates} certificates while three replicas were restarted");
}
