//! What stands in the store is not believed: a finalized order with an authorization that is not valid, or not its own,
//! never gets to the CA, and the operator hears of it (SECURITY C913, I1).

use std::time::Duration;

use acme_proxy::acme::id::OrderId;
use acme_proxy::acme::order::Order;
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{Settings, Store as _, Versioned};
use instant_acme::{Account, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::harness::instant::InstantHttp;
use crate::harness::world::{Request, World};

/// How long all that is under way may take to end once the CA is back.
const END: Duration = Duration::from_secs(120);

pub(crate) async fn account(world: &World) -> Account {
    account_by(world.installation.client(), world.installation.directory_url()).await
}

pub(crate) async fn account_by(http: reqwest::Client, directory_url: String) -> Account {
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let created =
        Account::builder_with_http(Box::new(InstantHttp(http))).create(&newcomer, directory_url, None);
    created.await.unwrap().0
}

pub(crate) async fn comes_to(
    account: &Account,
    url: &str,
    status: OrderStatus,
) -> Option<instant_acme::Problem> {
    let there = async {
        loop {
            let mut order = account.order(url.to_owned()).await.unwrap();
            let state = order.refresh().await.unwrap();
            if state.status == status {
                return state.error.clone();
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = timeout(END, there).await;
    waited.unwrap_or_else(|_| panic!("{url} does not become {status:?}"))
}

/// An order with all of its names proved, and finalized.
pub(crate) async fn finalized(world: &World, account: &Account, names: &[&str]) -> String {
    let identifiers: Vec<_> = names
        .iter()
        .map(|name| Identifier::Dns((*name).to_owned()))
        .collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
    let url = order.url().to_owned();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.unwrap();
        let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
        let answer = challenge.key_authorization();
        world.web.publish(&challenge.token, answer.as_str());
        challenge.set_ready().await.unwrap();
    }
    comes_to(account, &url, OrderStatus::Ready).await;
    let mut order = account.order(url.clone()).await.unwrap();
    order.finalize_csr(&Request::for_names(names).csr).await.unwrap();
    assert_eq!(order.state().status, OrderStatus::Processing);
    url
}

fn id_of(url: &str) -> OrderId {
    url.rsplit('/').next().unwrap().parse().unwrap()
}

/// Changes an order's record behind the daemon's back.
async fn tamper(store: &SledStore, url: &str, change: impl FnOnce(&mut Value)) {
    let Versioned { value, version } = store.order(id_of(url)).await.unwrap().unwrap();
    let mut record = serde_json::to_value(&value).unwrap();
    change(&mut record);
    let changed: Order = serde_json::from_value(record).unwrap();
    assert_ne!(changed, value);
    store
        .commit(Versioned::with(version, changed), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c913_an_authorization_that_was_swapped_or_taken_back_in_the_store_ends_the_order_before_the_ca_hears_of_it()
 {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let (owner, stranger) = (account(&world).await, account(&world).await);
    // Every order waits for the CA.
    world.storm.goes_down();
    let hundred: Vec<String> = (0..100).map(|n| format!("n{n:02}.test.example.com")).collect();
    let hundred: Vec<&str> = hundred.iter().map(String::as_str).collect();
    let swapped = finalized(&world, &owner, &hundred).await;
    let strangers = finalized(&world, &stranger, &hundred[57..58]).await;
    let taken_back = finalized(&world, &owner, &["back.test.example.com"]).await;
    let renamed = finalized(&world, &owner, &["renamed.test.example.com"]).await;
    daemon.stop().await;

    let store = SledStore::open(Settings {
        path: world.installation.store(),
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        gather: Duration::ZERO,
    });
    let store = store.unwrap();
    let others = store.order(id_of(&strangers)).await.unwrap().unwrap();
    let others = serde_json::to_value(&others.value).unwrap()["authorizations"][0].clone();
    tamper(&store, &swapped, |order| {
        order["authorizations"][57] = others.clone()
    })
    .await;
    tamper(&store, &taken_back, |order| {
        order["authorizations"][0]["challenges"][0]["state"] = "pending".into();
    })
    .await;
    tamper(&store, &renamed, |order| {
        order["authorizations"][0]["identifier"] = others["identifier"].clone();
    })
    .await;
    drop(store);

    world.storm.comes_up();
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    for url in [&swapped, &taken_back, &renamed] {
        let problem = comes_to(&owner, url, OrderStatus::Invalid).await.unwrap();
        let kind = problem.r#type.unwrap();
        assert!(kind.ends_with(":serverInternal"), "{kind}");
        let id = id_of(url).to_string();
        let log = world.installation.log();
        let alert = log.lines().find(|line| {
            line.contains("level=error") && line.contains(&id) && line.contains("does not go to the CA")
        });
        assert!(alert.is_some(), "the operator does not hear of {url}\n{log}");
    }
    comes_to(&stranger, &strangers, OrderStatus::Valid).await;
    // The daemon's own and the one that nobody touched.
    assert_eq!(world.ca.stats().orders_opened, 2);
    assert_eq!(world.orders_for(&hundred[57..58]), 1);
    daemon.stop().await;
}
