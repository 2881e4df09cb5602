//! Three replicas behind a real HAProxy with deploy/haproxy/haproxy.cfg: no stickiness, TLS passed through, the client's
//! address in the log, and a rolling restart that no client notices (SECURITY C108, F27).
//!
//! They do not share a store here, so clients ask for what needs none.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::documented::root;
use crate::harness::process::{Daemon, Installation, NAME, PATIENCE, free_address, text};
use crate::harness::world::World;

/// Where clients come from. HAProxy itself comes from 127.0.0.1.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));

/// How many clients ask at a time, all the time.
const CLIENTS: usize = 4;

/// HAProxy, killed when this is dropped.
struct Balancer {
    address: SocketAddr,
    log: PathBuf,
    _child: Child,
}

impl Balancer {
    /// The shipped configuration, with the addresses of these replicas.
    async fn start(replicas: &[&Installation]) -> Self {
        let address = free_address();
        let shipped = std::fs::read_to_string(root().join("deploy/haproxy/haproxy.cfg")).unwrap();
        let mut changes = vec![("bind :443".to_owned(), format!("bind {address}"))];
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
        let file = replicas[0].path("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let checked = haproxy().arg("-c").arg("-f").arg(&file).output().await.unwrap();
        let said = text(&checked.stderr);
        assert!(checked.status.success() && !said.contains("WARNING"), "{said}");
        let log = replicas[0].path("haproxy.log");
        let output = std::fs::File::create(&log).unwrap();
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
            address,
            log,
            _child: command.spawn().unwrap(),
        }
    }

    /// A client that makes a new connection for each request.
    fn client(&self) -> reqwest::Client {
        let builder = reqwest::Client::builder().no_proxy().resolve(NAME, self.address);
        builder
            .local_address(CLIENT)
            .pool_max_idle_per_host(0)
            .tls_danger_accept_invalid_certs(true)
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    async fn get(&self, client: &reqwest::Client) -> Result<(), String> {
        let url = format!("https://{NAME}:{}/acme/acme/directory", self.address.port());
        match client.get(url).send().await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(format!("{error:?}")),
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
        std::fs::read_to_string(&self.log).unwrap()
    }
}

fn haproxy() -> Command {
    let mut command = Command::new("haproxy");
    // Debian's place is not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin"));
    command
}

/// The addresses from which a replica has been asked for its directory, and how often.
fn asked(replica: &Installation) -> (BTreeSet<String>, usize) {
    let log = replica.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["path"] == "/acme/acme/directory");
    let addresses: Vec<_> = lines
        .map(|line| line["remote-address"].as_str().unwrap().to_owned())
        .collect();
    let count = addresses.len();
    (addresses.into_iter().collect(), count)
}

/// Waits until each of the replicas has been asked once more.
async fn all_are_asked(replicas: &[&Installation]) {
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

/// Starts a replica whose certificate is the one that all of them have.
async fn start(replica: &Installation, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Daemon {
    std::fs::write(replica.path("own.pem"), certificate.cert.pem()).unwrap();
    std::fs::write(replica.path("own.key"), certificate.signing_key.serialize_pem()).unwrap();
    replica.edit(|config| {
        config["logger"] = json!({"format": "json"});
        config["tls"] = json!({"certificate": replica.path("own.pem"), "key": replica.path("own.key")});
        config["authority"]["config"]["proxy_protocol"] = json!({"from": ["127.0.0.1"]});
        config["authority"]["config"]["shutdown_delay"] = json!("10s");
    });
    let mut daemon = replica.start();
    daemon.is_well().await;
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_behind_haproxy_each_replica_hears_the_clients_address_and_one_after_the_other_restarts_unnoticed()
 {
    let world = World::with(Duration::ZERO, |options| options.eab_once = false).await;
    let others = [world.another(), world.another()];
    let replicas = [&world.installation, &others[0], &others[1]];
    let certificate = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let mut daemons = Vec::new();
    for replica in replicas {
        daemons.push(start(replica, &certificate).await);
    }
    let balancer = Arc::new(Balancer::start(&replicas).await);
    let client = balancer.client();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = balancer.get(&client).await {
        assert!(Instant::now() < deadline, "{error}\n{}", balancer.log());
        sleep(Duration::from_millis(20)).await;
    }

    let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (balancer, stop) = (Arc::clone(&balancer), Arc::clone(&stop));
        let (client, failures) = (client.clone(), Arc::clone(&failures));
        clients.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                match balancer.get(&client).await {
                    Ok(()) => answered += 1,
                    Err(error) => {
                        failures.fetch_add(1, Ordering::Relaxed);
                        eprintln!("{error}");
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            answered
        });
    }
    all_are_asked(&replicas).await;

    let mut restarted = Vec::new();
    for (number, daemon) in (1..).zip(daemons) {
        let replica = replicas[number - 1];
        let server = format!("Server replicas/acme-proxy-{number} is");
        daemon.terminate();
        balancer
            .says(
                &format!("{server} DOWN, reason: Layer7 wrong status, code: 503"),
                1,
            )
            .await;
        assert!(
            !replica.log().contains("shutting down"),
            "it stops before HAProxy has noticed"
        );
        assert!(daemon.ended().await.success());
        let daemon = start(replica, &certificate).await;
        balancer.says(&format!("{server} UP"), 1).await;
        all_are_asked(&replicas).await;
        restarted.push(daemon);
    }
    stop.store(true, Ordering::Relaxed);
    let answered: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(
        failures.load(Ordering::Relaxed),
        0,
        "of {answered} requests and more"
    );
    let total: usize = replicas.iter().map(|replica| asked(replica).1).sum();
    assert!(total >= answered, "{total} of {answered} are in the logs");
    for replica in replicas {
        assert_eq!(asked(replica).0, BTreeSet::from([CLIENT.to_string()]));
    }
}
