//! Daemons on one database, and a CA that wants dns-01: one of them at a time changes the zone, and none leaves anything
//! in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::harness::client::{Client, Order};
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::{Daemon, Installation, PATIENCE};
use crate::harness::world::World;
use crate::harness::zone::Zone;
use crate::postgres::daemon::{finalized, keep_in};

/// What the order is for that one replica begins.
const NAME: &str = "halfway.example.com";

/// How long the provider takes between its reading of a name's values and its writing.
const TAKES: Duration = Duration::from_millis(30);

/// A provider as many are: it reads all that a name has, and writes all of it anew a moment later.
#[derive(Clone)]
struct Provider {
    url: String,
    zone: Arc<Zone>,
    kept: Arc<Mutex<Kept>>,
}

/// What the provider knows.
#[derive(Default)]
struct Kept {
    values: BTreeMap<String, Vec<String>>,
    /// Who has done what to which name.
    changes: Vec<(String, String, String)>,
    /// Whose changes are under way.
    under_way: Vec<String>,
    /// Who has changed something while another one did.
    mixed: Vec<String>,
    /// Whether the zone's server has not heard of it yet.
    is_late: bool,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            zone: Arc::new(Zone::start().await),
            kept: Arc::default(),
        };
        let router = Router::new()
            .route("/{action}", post(change))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    /// Has the installation solve dns-01 with it, under this name.
    fn solves(&self, installation: &Installation, name: &str) {
        installation.edit(|config| {
            config["authority"]["config"]["dns01_txt"] = json!({
                "provider": "httpreq",
                "env_vars": {
                    "HTTPREQ_ENDPOINT": self.url,
                    "HTTPREQ_USERNAME": name,
                    "HTTPREQ_PASSWORD": "password",
                    "HTTPREQ_POLLING_INTERVAL": "1",
                    "HTTPREQ_PROPAGATION_TIMEOUT": "300",
                },
                "dns_servers": [self.zone.address.to_string()],
            });
        });
    }

    /// From now on the zone's server is so much behind, or has heard of all of it.
    fn is_late(&self, is_late: bool) {
        let mut kept = self.kept.lock().unwrap();
        kept.is_late = is_late;
        self.show(&kept);
    }

    fn show(&self, kept: &Kept) {
        for (name, values) in kept.values.iter().filter(|_| !kept.is_late) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            self.zone.set_txt(name.trim_end_matches('.'), &values);
        }
    }

    /// Who has done this to a name of this kind, in turn.
    fn who(&self, action: &str, name: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        let those = kept
            .changes
            .iter()
            .filter(|(_, done, at)| done == action && at.contains(name));
        those.map(|(who, ..)| who.clone()).collect()
    }

    /// Waits until a record of this name is there.
    async fn has(&self, name: &str) {
        let there = timeout(PATIENCE, async {
            while self.who("present", name).is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(there.await.is_ok(), "nobody has published {name}");
    }

    /// Nothing is left, and nobody has changed anything together with another one.
    async fn is_tidy(&self) {
        let left = || {
            let mut left = self.kept.lock().unwrap().values.clone();
            left.retain(|_, values| !values.is_empty());
            left
        };
        let empty = timeout(Duration::from_secs(10), async {
            while !left().is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let is_empty = empty.await.is_ok();
        let left = left();
        let kept = self.kept.lock().unwrap();
        assert!(is_empty, "left behind: {left:?}\n{:?}", kept.changes);
        assert!(kept.mixed.is_empty(), "{:?}", kept.mixed);
    }
}

/// What has come is done, whether or not anybody still waits for the answer.
async fn change(
    State(provider): State<Provider>,
    Path(action): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) {
    let change = provider.change(action, headers, body);
    tokio::spawn(change).await.unwrap();
}

impl Provider {
    async fn change(self, action: String, headers: HeaderMap, body: Bytes) {
        let credentials = headers[AUTHORIZATION]
            .to_str()
            .unwrap()
            .trim_start_matches("Basic ");
        let credentials = String::from_utf8(STANDARD.decode(credentials).unwrap()).unwrap();
        let who = credentials.split_once(':').unwrap().0.to_owned();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let [name, value] = ["fqdn", "value"].map(|key| body[key].as_str().unwrap().to_owned());
        let kept = || self.kept.lock().unwrap();
        let mut values = {
            let mut kept = kept();
            let others = kept.under_way.iter().any(|other| *other != who);
            if others {
                kept.mixed.push(format!("{who}: {action} {name}"));
            }
            kept.under_way.push(who.clone());
            kept.values.get(&name).cloned().unwrap_or_default()
        };
        sleep(TAKES).await;
        values.retain(|known| *known != value);
        if action == "present" {
            values.push(value);
        }
        let mut kept = kept();
        let ours = kept.under_way.iter().position(|known| *known == who).unwrap();
        kept.under_way.remove(ours);
        kept.changes.push((who, action, name.clone()));
        kept.values.insert(name, values);
        self.show(&kept);
    }
}

/// A world whose CA wants to see a record for each name.
async fn world() -> (World, Provider) {
    let world = World::with(Duration::ZERO, |options| {
        options.prevalidated = false;
        options.challenges = vec!["dns-01".to_owned()];
    });
    (world.await, Provider::start().await)
}

/// What is leased or held runs out, as it does some time after its holder's end.
async fn time_passes(database: &tokio_postgres::Client) {
    let over = "UPDATE acme_proxy.holds SET until = '-infinity';
                UPDATE acme_proxy.jobs SET until = '-infinity' WHERE token IS NOT NULL";
    database.batch_execute(over).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_of_three_replicas_one_at_a_time_changes_the_zone_and_nothing_is_left_in_it() {
    let (world, provider) = world().await;
    let database = postgres::url_of(&Postgres::fresh_database().await.unwrap());
    let others = [world.another(), world.another()];
    let mut daemons = Vec::new();
    for (installation, name) in others.iter().chain([&world.installation]).zip(["a", "b", "c"]) {
        keep_in(installation, &database);
        provider.solves(installation, name);
        daemons.push(installation.start());
    }
    for daemon in &mut daemons {
        daemon.is_well().await;
    }
    let mut orders = Vec::new();
    for number in 0..8 {
        let own = format!("own-{number}.example.com");
        orders.push(finalized(&world, &["www.example.com", &own]).await);
    }
    for (client, order) in &orders {
        client.until(&order.url, "valid").await;
    }
    provider.is_tidy().await;
    for daemon in daemons {
        daemon.stop().await;
    }
}

/// An order whose record the first of two replicas has published, where nobody sees it yet.
struct Halfway {
    world: World,
    provider: Provider,
    database: tokio_postgres::Client,
    leader: Installation,
    client: Client,
    order: Order,
}

impl Halfway {
    /// With the leader and the other one.
    async fn begin() -> (Self, Daemon, Daemon) {
        let (world, provider) = world().await;
        let database = Postgres::fresh_database().await.unwrap();
        let leader = world.another();
        for (installation, name) in [(&leader, "leader"), (&world.installation, "other")] {
            keep_in(installation, &postgres::url_of(&database));
            provider.solves(installation, name);
        }
        let mut first = leader.start();
        first.is_well().await;
        let mut second = world.installation.start();
        second.is_well().await;
        provider.is_late(true);
        let (client, order) = finalized(&world, &[NAME]).await;
        provider.has(NAME).await;
        assert_eq!(provider.who("present", NAME), ["leader"]);
        let halfway = Self {
            world,
            provider,
            database: postgres::client(&database).await.unwrap(),
            leader,
            client,
            order,
        };
        (halfway, first, second)
    }

    /// The other replica ends the order, and nothing is left of it.
    async fn is_ended_by_the_other(&self) {
        self.provider.is_late(false);
        self.client.until(&self.order.url, "valid").await;
        self.provider.is_tidy().await;
        let (orders, finalizes) = (self.world.orders_for(&[NAME]), self.world.finalizes_for(&[NAME]));
        assert_eq!((orders, finalizes), (1, 1));
        for (action, who) in [("present", &["leader", "other"][..]), ("cleanup", &["other"])] {
            assert_eq!(self.provider.who(action, NAME), who, "{action}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_when_the_replica_that_changes_the_zone_is_killed_another_one_publishes_again_and_takes_all_back()
{
    let (halfway, leader, other) = Halfway::begin().await;
    leader.kill().await;
    time_passes(&halfway.database).await;
    halfway.is_ended_by_the_other().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_replica_that_stops_leaves_the_zone_to_another_one_at_once() {
    let (halfway, leader, other) = Halfway::begin().await;
    leader.stop().await;
    halfway.is_ended_by_the_other().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_replica_that_has_slept_over_the_end_of_its_lead_changes_nothing_any_more() {
    let (halfway, leader, other) = Halfway::begin().await;
    leader.freeze();
    time_passes(&halfway.database).await;
    halfway.is_ended_by_the_other().await;
    halfway.provider.is_late(true);
    let (client, order) = finalized(&halfway.world, &["second.example.com"]).await;
    halfway.provider.has("second.example.com").await;
    leader.wake();
    halfway
        .leader
        .says("another replica has solved dns-01 challenges meanwhile", 1)
        .await;
    halfway.provider.is_late(false);
    client.until(&order.url, "valid").await;
    halfway.provider.is_tidy().await;
    for action in ["present", "cleanup"] {
        assert_eq!(halfway.provider.who(action, "second"), ["other"], "{action}");
    }
    for daemon in [leader, other] {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_reload_takes_the_zone_from_nobody() {
    let (halfway, leader, other) = Halfway::begin().await;
    halfway.provider.solves(&halfway.leader, "reloaded");
    leader.hang_up();
    halfway.leader.says("configuration reloaded", 1).await;
    halfway.provider.is_late(false);
    halfway.client.until(&halfway.order.url, "valid").await;
    halfway.provider.is_tidy().await;
    assert!(
        halfway
            .provider
            .who("present", "")
            .iter()
            .all(|who| who != "other")
    );
    for daemon in [leader, other] {
        daemon.stop().await;
    }
}
