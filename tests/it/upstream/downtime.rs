//! Hundreds of orders that wait for a CA which is down, or which refuses every second nonce: each is issued once, and
//! the CA that has just come back is not run over (SECURITY F4, F15; UPSTREAM rules 4 and 5).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::Step;
use crate::harness::ca::script::Times;
use crate::harness::ca::script::Twist;
use crate::harness::client::Client;
use crate::harness::client::GET;
use crate::harness::client::Order;
use crate::harness::csr;
use crate::harness::key::Key;
use crate::harness::storm::Storm;
use crate::upstream::scene::Scene;
use crate::upstream::scene::assert_is_for;

/// How many accounts there are, and how many orders each of them has.
const ACCOUNTS: usize = 10;
const ORDERS_OF_EACH: usize = 50;

/// How far the clock is moved at a time while the CA is down.
const STEP: Duration = Duration::from_secs(20);

/// An order that its client has handed the CSR in for.
struct Waiting {
    client: Client,
    order: Order,
    name: String,
    key: Key,
}

impl Waiting {
    /// An order of a name of its own, finalized, which is answered with `processing` whatever the CA does.
    async fn begin(scene: &Scene, client: &Client, name: String) -> Self {
        let order = client.ready(&scene.daemon, &[&name]).await;
        let key = Key::new();
        let answer = client.finalize(&order, &csr::plain(&key, &[&name])).await;
        let answer = answer.expect(200);
        assert_eq!(answer.json()["status"], "processing");
        assert!(answer.header("retry-after").is_some());
        Self {
            client: client.clone(),
            order,
            name,
            key,
        }
    }

    /// It is valid, and its certificate is its own.
    async fn assert_issued(&self, scene: &Scene) {
        let order = self.client.look(&self.order.url).await;
        assert_eq!(order["status"], "valid", "{order}");
        let chain = self.client.chain(&order).await;
        assert_is_for(&chain, &self.key, &[&self.name], &scene.daemon.ca.root_pem);
    }
}

/// 500 orders of ten accounts, all finalized.
async fn five_hundred(scene: &Arc<Scene>) -> Vec<Waiting> {
    let mut accounts = JoinSet::new();
    for account in 0..ACCOUNTS {
        let scene = scene.clone();
        accounts.spawn(async move {
            let client = scene.daemon.account().await;
            let mut orders = Vec::new();
            for number in 0..ORDERS_OF_EACH {
                let name = format!("n{number}.a{account}.example.com");
                orders.push(Waiting::begin(&scene, &client, name).await);
            }
            orders
        });
    }
    accounts.join_all().await.into_iter().flatten().collect()
}

/// Time passes until all have their certificates, which the CA has issued for one order each.
async fn all_are_issued(scene: &Scene, orders: &[Waiting]) {
    for order in orders {
        scene
            .until("an order is issued", async || {
                order.client.look(&order.order.url).await["status"] != "processing"
            })
            .await;
        order.assert_issued(scene).await;
    }
    let stats = scene.daemon.ca.stats();
    assert_eq!(stats.accounts, 1);
    assert_eq!(stats.orders_opened, orders.len(), "one order at the CA for each");
    assert_eq!(stats.issued.len(), orders.len());
    for at_ca in &stats.orders {
        let figures = (at_ca.finalizes, at_ca.issued, at_ca.csrs.len());
        assert_eq!(figures, (1, 1, 1), "{:?}", at_ca.identifiers);
    }
}

/// So much time passes, with one request of the queue at a time.
async fn stays_down(scene: &Scene, storm: &Storm, span: Duration) {
    const FAILED: &str =
        r#"acme_proxy_upstream_requests_total{operation="open",outcome="retry",upstream="default"}"#;
    for _ in 0..span.as_secs() / STEP.as_secs() {
        let (connections, failed) = (storm.connections(), scene.metric(FAILED).await);
        scene.pass(STEP).await;
        let tried = scene.metric(FAILED).await - failed;
        assert!(tried <= 1.0, "{tried} orders at a time go to a CA that is down");
        let connections = storm.connections() - connections;
        assert!(connections <= 8, "{connections} connections for one probe");
    }
}

#[tokio::test]
async fn f15_five_hundred_orders_wait_while_the_ca_is_down_for_ten_minutes_and_each_is_issued_once() {
    let storm = Arc::new(Storm::with_delay(Duration::from_millis(10)));
    let scene = Scene::with(|ca| ca.trouble = storm.clone()).await;
    scene.ready().await;
    let scene = Arc::new(scene);
    storm.goes_down();
    let orders = five_hundred(&scene).await;
    assert_eq!(orders.len(), 500);
    // What had gone out before the first faults came back.
    scene.pass(Duration::ZERO).await;

    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    stays_down(&scene, &storm, minutes(4)).await;
    scene.will(Step::NewOrder, Times::Always, Twist::Instead(Answer::page(503)));
    storm.comes_up();
    stays_down(&scene, &storm, minutes(3)).await;
    scene.daemon.ca.behaves();
    let busy = Problem::new(503, "serverInternal", "busy").after("30");
    scene.will(Step::NewOrder, Times::Always, Twist::Refuse(busy));
    stays_down(&scene, &storm, minutes(3)).await;
    for order in &orders {
        let answer = order.client.post(&order.order.url, GET).await.expect(200);
        assert_eq!(answer.json()["status"], "processing");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(scene.daemon.ca.stats().orders_opened, 0);

    storm.looks_at_the_load();
    scene.daemon.ca.behaves();
    all_are_issued(&scene, &orders).await;
    let arrivals = storm.load().arrivals;
    for (under_way, answered) in &arrivals {
        assert!(
            *under_way <= 1 + answered,
            "{under_way} requests at a time, and {answered} have been answered since the CA came back"
        );
    }
    let most = arrivals.iter().map(|(under_way, _)| *under_way).max();
    assert!(most > Some(8), "{most:?} at a time, and no more");
}

#[tokio::test]
async fn f4_with_half_of_all_nonces_refused_five_hundred_orders_of_five_hundred_are_issued_once() {
    let scene = Arc::new(Scene::with(|ca| ca.bad_nonces = 50).await);
    let orders = five_hundred(&scene).await;
    all_are_issued(&scene, &orders).await;
}
