//! More clients at a time than the daemon takes on: who has begun is served to the end, who has not is told when to come
//! again, each at another time, and nothing is lost or bought twice (SECURITY F50).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::answer::Answer;
use crate::harness::check;
use crate::harness::client::{Client, GET, Order};
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::server::{Daemon, Plan};
use crate::harness::wire::Connection;

/// How many connections the daemon of the crowd has places for; the last quarter is its reserve.
const PLACES: usize = 96;

/// How many clients come at once, and how many accounts they share.
const CLIENTS: usize = 300;
const ACCOUNTS: usize = 10;

/// How many times each of them renews the certificate for its name, after it has got the first one.
const RENEWALS: usize = 1;

/// How long who was turned away stays away if nobody else leaves.
const AWAY: Duration = Duration::from_secs(20);

/// How long the crowd waits between two looks at an order.
const LOOK: Duration = Duration::from_millis(500);

async fn daemon_with(connections: usize) -> Daemon {
    let limits = json!({
        "connections": connections,
        "bad_requests_per_address_per_minute": 0,
    });
    Daemon::start_with(Plan {
        limits: Some(limits),
        ..Plan::default()
    })
    .await
}

/// The answer is 503 and the last one on its connection; how many seconds the client is to stay away.
#[track_caller]
fn turned_away(answer: &Answer) -> u64 {
    answer.problem(503, "serverInternal");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.link("index").is_some());
    answer.nonce();
    let wait = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&wait), "{wait}");
    wait
}

/// Opens a connection, and says enough on it to keep it for ten seconds.
async fn held(daemon: &Daemon) -> Connection {
    let mut connection = daemon.site.connect().await;
    connection
        .write(&daemon.site.head("GET", "/acme/acme/directory", &[], None))
        .await;
    let answer = connection.answer("GET").await.unwrap().expect(200);
    assert_eq!(answer.header("connection"), None);
    connection
}

#[tokio::test]
async fn f50_when_places_are_scarce_nothing_begins_and_what_has_begun_goes_on() {
    let daemon = daemon_with(8).await;
    let client = daemon.account().await;
    let names = ["www.example.com"];
    let order = client.ready(&daemon, &names).await;
    // The client above has one of the six places that are not the reserve.
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(held(&daemon).await);
    }
    let url = daemon.site.url("new-order");
    let more = json!({ "identifiers": [{ "type": "dns", "value": "more.example.com" }] });
    let late = client.clone();
    turned_away(&late.try_post(&url, more.clone()).await);
    turned_away(&late.try_post(&url, more.clone()).await);
    let stranger = Client::stranger(&daemon.site);
    turned_away(
        &stranger
            .try_post(&daemon.site.url("new-account"), json!({}))
            .await,
    );

    drop(held(&daemon).await);
    let key = Key::new();
    let answer = late.finalize(&order, &csr::plain(&key, &names)).await.expect(200);
    assert_eq!(
        answer.header("connection"),
        Some("close"),
        "the reserve is for many"
    );
    late.until(&order.url, "valid").await;
    let other = client.ask_order(&["other.example.com"]).await.expect(201);
    assert_eq!(
        other.header("connection"),
        None,
        "who came when there was room is not in a hurry"
    );

    others.clear();
    let mut answer = late.try_post(&url, more.clone()).await;
    while answer.status == 503 {
        turned_away(&answer);
        sleep(Duration::from_millis(20)).await;
        answer = late.try_post(&url, more.clone()).await;
    }
    answer.expect(201);
}

/// One of the crowd.
struct Host {
    client: Client,
    name: String,
    turnstile: Arc<Turnstile>,
}

/// Where the crowd waits. It does not wait as long as it is told, for then the test would.
struct Turnstile {
    /// The waits that anybody was told.
    told: Mutex<Vec<u64>>,
    /// One for each who has left.
    left: Semaphore,
}

impl Turnstile {
    async fn wait(&self, told: u64) {
        self.told.lock().unwrap().push(told);
        if let Ok(place) = timeout(AWAY, self.left.acquire()).await {
            place.unwrap().forget();
        }
    }
}

impl Host {
    /// Asks for an order until it is acknowledged.
    async fn order(&self) -> Order {
        let url = self.client.site.url("new-order");
        let identifiers = json!({ "identifiers": [{ "type": "dns", "value": self.name }] });
        loop {
            let answer = self.client.try_post(&url, identifiers.clone()).await;
            if answer.status == 201 {
                let object = answer.json();
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                return Order {
                    url: answer.location(),
                    finalize: text(&object["finalize"]),
                    authorizations: vec![text(&object["authorizations"][0])],
                };
            }
            self.turnstile.wait(turned_away(&answer)).await;
        }
    }

    async fn until(&self, url: &str, status: &str) -> Value {
        loop {
            let object = self.client.look(url).await;
            if object["status"] == status {
                return object;
            }
            let is_moving = matches!(object["status"].as_str(), Some("pending" | "processing"));
            assert!(is_moving, "waiting for {status}: {object}");
            sleep(LOOK).await;
        }
    }

    /// Gets a certificate. Once the order is acknowledged, nothing is refused any more.
    async fn renew(&self, daemon: &Daemon) {
        let order = self.order().await;
        let (url, token) = self.client.challenge(&order.authorizations[0]).await;
        daemon.web.publish(&token, &self.client.key_authorization(&token));
        self.client.post(&url, json!({})).await.expect(200);
        self.until(&order.url, "ready").await;
        let (key, names) = (Key::new(), [self.name.as_str()]);
        self.client
            .finalize(&order, &csr::plain(&key, &names))
            .await
            .expect(200);
        let url = self.until(&order.url, "valid").await["certificate"].clone();
        let chain = self.client.post(url.as_str().unwrap(), GET).await;
        let (chain, key) = (chain.expect(200).text(), key.pair.subject_public_key_info());
        check::check(&chain, &key, &names, &daemon.ca.root_pem).unwrap();
    }
}

#[tokio::test]
async fn f50_of_a_crowd_everybody_gets_each_certificate_once_and_who_is_turned_away_is_told_when_to_come_again()
 {
    let daemon = Arc::new(daemon_with(PLACES).await);
    let turnstile = Arc::new(Turnstile {
        told: Mutex::default(),
        left: Semaphore::new(0),
    });
    let mut accounts = Vec::new();
    for _ in 0..ACCOUNTS {
        let account = daemon.account().await;
        // Without the connection that it has.
        accounts.push(account.clone());
    }
    let mut crowd = JoinSet::new();
    for (number, account) in (0..CLIENTS).zip(accounts.iter().cycle()) {
        let host = Host {
            client: account.clone(),
            name: format!("h{number}.example.com"),
            turnstile: Arc::clone(&turnstile),
        };
        let daemon = Arc::clone(&daemon);
        crowd.spawn(async move {
            for _ in 0..=RENEWALS {
                host.renew(&daemon).await;
            }
            host.turnstile.left.add_permits(1);
        });
    }
    crowd.join_all().await;

    let told = turnstile.told.lock().unwrap();
    assert!(
        told.len() > CLIENTS / 2,
        "{} were turned away: that is no crowd",
        told.len()
    );
    let times: HashSet<u64> = told.iter().copied().collect();
    assert!(times.len() > 10, "they come back at {times:?}");

    let stats = daemon.ca.stats();
    assert_eq!(stats.orders_opened, CLIENTS * (1 + RENEWALS));
    assert_eq!(stats.issued.len(), CLIENTS);
    assert!(stats.issued.values().all(|count| *count == 1 + RENEWALS as u64));
    for order in &stats.orders {
        let figures = (order.finalizes, order.issued, order.csrs.len());
        assert_eq!(figures, (1, 1, 1), "{:?}", order.identifiers);
    }
}
