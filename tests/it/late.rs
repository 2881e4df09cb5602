//! Orders that end before the CA is done (UPSTREAM rule 4, SECURITY F48): what they have bought is not lost, and nobody
//! waits for ever for what they have not.

use std::sync::Arc;
use std::time::Duration;

use acme_proxy::clock::Clock;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::harness::ca;
use crate::harness::client::{Client, Order, PATIENCE};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};
use crate::harness::storm::{Moment, Storm};

const NAME: [&str; 1] = ["www.example.com"];

/// A clock that runs twenty times as fast as the system's.
struct FastClock {
    clock: Clock,
    ticking: JoinHandle<()>,
}

impl FastClock {
    fn start() -> Self {
        let clock = Clock::by_hand(Clock::system().now());
        let hand = clock.clone();
        let ticking = tokio::spawn(async move {
            loop {
                hand.advance(Duration::from_secs(1));
                sleep(Duration::from_millis(50)).await;
            }
        });
        Self { clock, ticking }
    }
}

impl Drop for FastClock {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

/// A daemon with a fast clock, at a CA that can be stopped; a client, and the key that its certificate is for.
struct Scene {
    daemon: Daemon,
    storm: Arc<Storm>,
    time: FastClock,
    client: Client,
    key: Arc<Key>,
}

impl Scene {
    async fn start(options: ca::Options) -> Self {
        let storm = Arc::new(Storm::with_delay(Duration::ZERO));
        let time = FastClock::start();
        let plan = Plan {
            clock: time.clock.clone(),
            ca: ca::Options {
                trouble: storm.clone(),
                ..options
            },
            ..Plan::default()
        };
        let daemon = Daemon::start_with(plan).await;
        let client = daemon.account().await;
        Self {
            daemon,
            storm,
            time,
            client,
            key: Arc::new(Key::new()),
        }
    }

    /// With an order whose certificate has come after its end.
    async fn with_late_certificate() -> (Self, Order, Vec<u8>) {
        let scene = Self::start(ca::Options::default()).await;
        let order = scene.bought().await;
        scene.outlive(&order).await;
        scene.storm.let_go();
        let (scene, leaf) = scene.late(&order).await;
        (scene, order, leaf)
    }

    async fn finalized(&self, client: &Client, key: &Key) -> Order {
        let order = client.ready(&self.daemon, &NAME).await;
        client.finalize(&order, &csr::plain(key, &NAME)).await.expect(200);
        order
    }

    /// An order that the CA has issued a certificate for, and has not said so yet.
    async fn bought(&self) -> Order {
        let order = self.stopped_at(Moment::Done).await;
        assert_eq!(self.spent(), (1, 1));
        order
    }

    /// An order whose CSR is on its way to the CA, and stopped there.
    async fn stopped_at(&self, moment: Moment) -> Order {
        let order = self.client.ready(&self.daemon, &NAME).await;
        self.storm.stop(moment, "finalize");
        let csr = csr::plain(&self.key, &NAME);
        self.client.finalize(&order, &csr).await.expect(200);
        self.storm.has_caught_one().await;
        order
    }

    /// The client gives up the order's authorization.
    async fn give_up(&self, order: &Order) {
        let given_up = json!({ "status": "deactivated" });
        let authorization = &order.authorizations[0];
        self.client.post(authorization, given_up).await.expect(200);
    }

    /// The order's time ends.
    async fn outlive(&self, order: &Order) {
        self.time.clock.advance(Duration::from_hours(25));
        let ended = self.client.look(&order.url).await;
        assert_eq!(ended["status"], "invalid");
        let kind = &ended["error"]["type"];
        assert_eq!(kind, "urn:ietf:params:acme:error:serverInternal");
    }

    /// The request that is stopped gets no answer, and the daemon knows that it gets none.
    async fn lose_what_is_stopped(&self) {
        let before = self.storm.connections();
        self.storm.goes_down();
        let waited = timeout(PATIENCE, async {
            while self.storm.connections() == before {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "the daemon does not try again");
        self.storm.let_go();
        self.storm.comes_up();
    }

    /// Waits until the order's certificate has come, and gives its leaf. The daemon has been started again then.
    async fn late(self, order: &Order) -> (Self, Vec<u8>) {
        let mut daemon = self.daemon;
        for _ in 0..60 {
            sleep(Duration::from_millis(500)).await;
            let stored;
            (daemon, stored) = daemon.stored(&order.url).await;
            if let Some(certificate) = stored.bought() {
                assert_eq!(stored.certificate(), None, "its client does not get it");
                let leaf = certificate.leaf().as_bytes().to_vec();
                // Its nonce was the former daemon's.
                let client = self.client.clone();
                return (
                    Self {
                        daemon,
                        client,
                        ..self
                    },
                    leaf,
                );
            }
        }
        panic!("the late certificate is not recorded");
    }

    /// Who has the certificate's key, and no account.
    fn holder(&self) -> Client {
        Client::new(&self.client.site, Arc::clone(&self.key), None)
    }

    /// Orders opened, and certificates issued, by the CA.
    fn spent(&self) -> (usize, usize) {
        let stats = self.daemon.ca.stats();
        (stats.orders_opened, stats.certificates.len())
    }

    async fn until_spent(&self, spent: (usize, usize)) {
        let waited = timeout(PATIENCE, async {
            while self.spent() != spent {
                sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:?}, not {spent:?}", self.spent());
    }
}

async fn leaf_of(client: &Client, order: &Value) -> Vec<u8> {
    csr::first_of_pem(&client.chain(order).await)
}

fn revocation(leaf: &[u8], reason: u8) -> Value {
    json!({ "certificate": b64(leaf), "reason": reason })
}

#[tokio::test]
async fn f48_what_comes_after_the_deadline_serves_the_next_order_for_the_same_names_and_key_once() {
    let (scene, first, leaf) = Scene::with_late_certificate().await;
    let client = &scene.client;
    let second = scene.finalized(client, &scene.key).await;
    let issued = client.until(&second.url, "valid").await;
    assert_eq!(leaf_of(client, &issued).await, leaf);
    assert_eq!(scene.spent(), (1, 1), "nothing was bought twice");
    assert_eq!(client.look(&first.url).await["status"], "invalid");

    // It is the second order's now: a third one is a renewal.
    let third = scene.finalized(client, &scene.key).await;
    let renewed = client.until(&third.url, "valid").await;
    assert_ne!(leaf_of(client, &renewed).await, leaf);
    assert_eq!(scene.spent(), (2, 2));
    let revoke = client.site.url("revoke-cert");
    client.post(&revoke, revocation(&leaf, 4)).await.expect(200);
    let second_time = client.post(&revoke, revocation(&leaf, 4)).await;
    second_time.problem(400, "alreadyRevoked");
    assert_eq!(scene.daemon.ca.stats().revocations.len(), 1);
}

#[tokio::test]
async fn f48_a_late_certificate_serves_no_other_key_and_no_other_account() {
    let (scene, _, leaf) = Scene::with_late_certificate().await;
    let stranger = scene.daemon.account().await;
    let cases: [(_, &Key, _); 2] = [
        (&stranger, &scene.key, (2, 2)),
        (&scene.client, &Key::new(), (3, 3)),
    ];
    for (asker, key, spent) in cases {
        let order = scene.finalized(asker, key).await;
        let issued = asker.until(&order.url, "valid").await;
        assert_ne!(leaf_of(asker, &issued).await, leaf);
        assert_eq!(scene.spent(), spent);
    }
}

#[tokio::test]
async fn f48_while_the_ca_is_at_it_the_same_key_waits_and_another_one_does_not() {
    let scene = Scene::start(ca::Options {
        processing: Duration::from_secs(25),
        ..ca::Options::default()
    })
    .await;
    let client = &scene.client;
    let first = scene.finalized(client, &scene.key).await;
    scene.until_spent((1, 1)).await;
    scene.outlive(&first).await;
    let same = scene.finalized(client, &scene.key).await;
    let other = scene.finalized(client, &Key::new()).await;
    // The one that waits stands before the other in the line of names.
    let served = client.until(&same.url, "valid").await;
    client.until(&other.url, "valid").await;
    assert_eq!(scene.spent(), (2, 2));
    assert_eq!(client.look(&first.url).await["status"], "invalid");
    let (_daemon, stored) = scene.daemon.stored(&first.url).await;
    let leaf = stored.bought().unwrap().leaf().as_bytes().to_vec();
    assert_eq!(leaf_of(&scene.client.clone(), &served).await, leaf);
}

#[tokio::test]
async fn f48_i5_an_authorization_given_up_after_the_csr_has_left_ends_the_order_and_not_the_certificate() {
    let scene = Scene::start(ca::Options::default()).await;
    let order = scene.bought().await;
    scene.give_up(&order).await;
    assert_eq!(scene.client.look(&order.url).await["status"], "invalid");
    scene.storm.let_go();
    let (scene, leaf) = scene.late(&order).await;
    let client = &scene.client;
    // M2: its key may revoke it, and then it serves nobody.
    let holder = scene.holder();
    let revoke = client.site.url("revoke-cert");
    let stranger = scene.daemon.account().await;
    let refused = stranger.post(&revoke, revocation(&leaf, 1)).await;
    refused.problem(403, "unauthorized");
    holder.post(&revoke, revocation(&leaf, 1)).await.expect(200);
    let stats = scene.daemon.ca.stats();
    assert_eq!(
        (stats.revocations.len(), stats.revocations[0].reason),
        (1, Some(1))
    );
    let next = scene.finalized(client, &scene.key).await;
    let issued = client.until(&next.url, "valid").await;
    assert_ne!(leaf_of(client, &issued).await, leaf);
    assert_eq!(scene.spent(), (2, 2));
}

#[tokio::test]
async fn f48_a_deactivated_accounts_late_certificate_is_recorded_and_its_key_can_revoke_it() {
    let scene = Scene::start(ca::Options::default()).await;
    let order = scene.bought().await;
    let deactivated = json!({ "status": "deactivated" });
    let client = &scene.client;
    client.post(client.kid(), deactivated).await.expect(200);
    // The answer to the finalize is lost, so that the daemon comes back when the account is gone.
    scene.lose_what_is_stopped().await;
    let (scene, leaf) = scene.late(&order).await;
    let stranger = scene.daemon.account().await;
    let next = scene.finalized(&stranger, &scene.key).await;
    stranger.until(&next.url, "valid").await;
    assert_eq!(scene.spent(), (2, 2), "it serves nobody");
    let revoke = stranger.site.url("revoke-cert");
    let holder = scene.holder();
    holder.post(&revoke, revocation(&leaf, 5)).await.expect(200);
    assert_eq!(scene.daemon.ca.stats().revocations.len(), 1);
}

#[tokio::test]
async fn f48_an_order_whose_csr_never_reached_the_ca_holds_up_nobody_for_long() {
    let scene = Scene::start(ca::Options::default()).await;
    let order = scene.stopped_at(Moment::Received).await;
    scene.give_up(&order).await;
    scene.lose_what_is_stopped().await;
    let next = scene.finalized(&scene.client, &scene.key).await;
    scene.client.until(&next.url, "valid").await;
    assert_eq!(scene.spent().1, 1, "the given up order has bought nothing");
    let (_, stored) = scene.daemon.stored(&order.url).await;
    assert!(stored.bought().is_none() && stored.outstanding().is_none());
}
