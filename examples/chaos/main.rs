//! Three replicas on one PostgreSQL with a synchronous standby, under load, while at random, from a seed, replicas are
//! killed, cut off and restarted, and the database fails over. In the end the history of all answers is checked: nothing
//! that was acknowledged is lost, nothing is issued twice, statuses went forward only, every order has ended.

#[expect(dead_code, reason = "each program uses its part")]
#[path = "../throwaway_ca/ca.rs"]
mod ca;
#[path = "../demo/check.rs"]
mod check;
mod checker;
mod client;
mod cluster;
mod dice;
#[path = "../loopback/dns.rs"]
mod dns;
mod faults;
mod figures;
mod history;
#[path = "../loopback/http01.rs"]
mod http01;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../load/keys.rs"]
mod keys;
mod last_look;
mod link;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../loopback/postgres.rs"]
mod postgres;
#[path = "../loopback/program.rs"]
mod program;
mod replica;
#[path = "../loopback/table.rs"]
mod table;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../load/client.rs"]
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep, timeout};

use self::checker::{Books, Kind, Sale, Violation};
use self::client::{Client, World};
use self::cluster::Cluster;
use self::dice::Dice;
use self::faults::{Victims, say};
use self::figures::{Figure, Figures};
use self::history::{History, Record, Said, Status};
use self::replica::{NAME, Replica, Settings};
use self::wire::Target;

/// How many replicas there are, each on an address of its own, all on one port: behind a load balancer they have one URL.
const REPLICAS: u8 = 3;

/// How long the orders that were begun may take to end, when everything works again: orders for the same names wait for
/// each other, and after faults the CA is left alone for a while.
const LAST_ORDERS: Duration = Duration::from_secs(300);

/// How many violations are shown of each kind; all are counted.
const SHOWN: usize = 20;

/// Breaks three replicas and their database for a while, and checks what clients were told.
#[derive(Parser)]
enum Command {
    /// Begins.
    Run(Arguments),
}

#[derive(clap::Args)]
struct Arguments {
    /// For how many minutes things go wrong.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// How many replicas have to be killed, however long that takes.
    #[arg(long, default_value_t = 0)]
    kills: u64,
    /// What chance is made from; random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients there are.
    #[arg(long, default_value_t = 10)]
    clients: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Run(arguments) = Command::parse();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that runs, until this is dropped.
struct Scene {
    ca: ca::Running,
    cluster: Mutex<Cluster>,
    replicas: Vec<Mutex<Replica>>,
    world: Arc<World>,
    _dns: dns::Dns,
}

/// Whether every word was kept.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => u64::from(rand_u32()?),
    };
    say(format_args!("seed {seed}"));
    let directory = tempfile::Builder::new().prefix("chaos").tempdir()?;
    let scene = Scene::new(directory.path()).await?;
    say("three replicas serve");
    let begun = Instant::now();
    let clients = scene.suffer(arguments, seed).await?;
    let seconds = begun.elapsed().as_secs();
    say("everything works again; now comes the last look");
    scene.look(clients).await?;
    for replica in &scene.replicas {
        replica.lock().await.stop().await?;
    }
    let (record, books) = (scene.world.history.take(), scene.books());
    let violations = checker::violations(&record, &books);
    report(seconds, &scene.world.figures, &record, &violations);
    if !violations.is_empty() {
        let kept = directory.keep();
        say(format_args!("the logs are in {}; seed {seed}", kept.display()));
    }
    block_in_place(|| drop(scene));
    Ok(violations.is_empty())
}

impl Scene {
    async fn new(directory: &std::path::Path) -> anyhow::Result<Self> {
        let ca = ca::start(ca::Options {
            processing: Duration::from_millis(500),
            ..ca::Options::default()
        })
        .await?;
        let dns = dns::start((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let web = http01::start((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let cluster = Cluster::start().await?;
        let settings = Settings {
            directory,
            ca: &ca,
            resolver: dns.address,
            http_port: web.address.port(),
            seats: cluster.seats(),
        };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let base = format!("https://{NAME}:{port}");
        let directory_url = format!("{base}/acme/acme/directory").parse()?;
        let (mut replicas, mut targets) = (Vec::new(), Vec::new());
        for number in 1..=REPLICAS {
            let address = Ipv4Addr::new(127, 0, 0, number);
            let mut replica = Replica::new(&settings, SocketAddr::from((address, port))).await?;
            replica.start()?;
            replicas.push(Mutex::new(replica));
            targets.push(Target::new(&directory_url, ca.root_pem.as_bytes(), &[address.into()]).await?);
        }
        let world = World {
            base,
            targets,
            web,
            history: History::default(),
            figures: Figures::default(),
        };
        let scene = Self {
            ca,
            cluster: Mutex::new(cluster),
            replicas,
            world: Arc::new(world),
            _dns: dns,
        };
        scene.victims().calm().await?;
        Ok(scene)
    }

    fn victims(&self) -> Victims<'_> {
        Victims {
            replicas: &self.replicas,
            cluster: &self.cluster,
            figures: &self.world.figures,
        }
    }

    /// Load and faults, until there were enough of them, and every client has ended what it began. Gives the clients.
    async fn suffer(&self, arguments: &Arguments, seed: u64) -> anyhow::Result<Vec<Client>> {
        let (faults, clients) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut working = JoinSet::new();
        for number in 0..arguments.clients {
            let dice = Dice::new(seed, 100 + u64::try_from(number)?);
            let mut client = Client::new(&self.world, number, dice);
            let stop = clients.subscribe();
            working.spawn(async move { client.work(&stop).await.map(|()| client) });
        }
        let victims = self.victims();
        let until = Instant::now() + Duration::from_secs(60 * arguments.minutes);
        let enough = async {
            while Instant::now() < until || self.world.figures.of(Figure::Kills) < arguments.kills {
                sleep(Duration::from_secs(1)).await;
            }
            faults.send_replace(true);
            Ok(())
        };
        tokio::try_join!(
            victims.blows(Dice::new(seed, 1), faults.subscribe()),
            victims.disasters(Dice::new(seed, 2), faults.subscribe()),
            victims.restarts(faults.subscribe()),
            enough,
        )?;
        say("nothing goes wrong any more");
        victims.calm().await?;
        clients.send_replace(true);
        let mut ended = Vec::new();
        let ending = async {
            while let Some(client) = working.join_next().await {
                ended.push(client.context("a client died")??);
            }
            anyhow::Ok(())
        };
        let all_ended = timeout(LAST_ORDERS, ending).await;
        anyhow::ensure!(
            all_ended.map(|ended| ended.is_ok()) == Ok(true),
            "{} clients wait for orders that do not end:\n{}",
            arguments.clients - ended.len(),
            self.unended()
        );
        Ok(ended)
    }

    /// The orders that were not seen to end.
    fn unended(&self) -> String {
        let record = self.world.history.take();
        let mut latest = std::collections::BTreeMap::new();
        for answer in &record.answers {
            if let Said::Order(status) = answer.said {
                latest.insert(answer.url.as_str(), status);
            }
        }
        latest.retain(|_, status| ![Status::Valid, Status::Invalid].contains(status));
        format!("{latest:#?}")
    }

    async fn look(&self, clients: Vec<Client>) -> anyhow::Result<()> {
        self.world.history.last_look();
        let mut looking = JoinSet::new();
        for mut client in clients {
            looking.spawn(async move { client.look_at_everything().await });
        }
        while let Some(looked) = looking.join_next().await {
            looked.context("a client died")?;
        }
        Ok(())
    }

    fn books(&self) -> Books {
        let stats = self.ca.stats();
        let sales = stats.orders.into_iter().map(|order| Sale {
            names: order.identifiers,
            finalizes: order.finalizes,
            issued: order.issued,
        });
        Books {
            accounts: stats.accounts,
            eab_uses: stats.eab_uses,
            sales: sales.collect(),
            root_pem: self.ca.root_pem.clone(),
            own_names: vec![NAME.to_owned()],
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command")]
fn report(seconds: u64, figures: &Figures, record: &Record, violations: &[Violation]) {
    for (kind, _) in Kind::ALL {
        for violation in violations.iter().filter(|found| found.kind == kind).take(SHOWN) {
            println!("{kind:?}: {}", violation.what);
        }
    }
    let mut rows = vec![vec!["seconds".to_owned(), seconds.to_string()]];
    for (figure, name) in Figure::ALL {
        rows.push(vec![name.to_owned(), figures.of(figure).to_string()]);
    }
    let urls: std::collections::HashSet<&str> =
        record.answers.iter().map(|answer| answer.url.as_str()).collect();
    rows.push(vec!["orders".to_owned(), record.wishes.len().to_string()]);
    rows.push(vec!["acknowledged objects".to_owned(), urls.len().to_string()]);
    rows.push(vec![
        "answers checked".to_owned(),
        record.answers.len().to_string(),
    ]);
    for (kind, name) in Kind::ALL {
        let count = violations.iter().filter(|found| found.kind == kind).count();
        rows.push(vec![name.to_owned(), count.to_string()]);
    }
    println!("\n{}", table::aligned(&rows));
}

fn rand_u32() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}
