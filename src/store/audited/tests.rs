//! When a change is reported, and to whom its end.

use super::*;

use std::pin::pin;
use std::sync::Mutex;

use tokio::sync::{Notify, Semaphore};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::store::Settings;
use crate::store::contract;
use crate::store::sled::SledStore;

/// The events of a test's thread.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>, Arc<Notify>);

impl Events {
    async fn has(&self, event: &str) {
        let seen = async {
            while !self.0.lock().unwrap().iter().any(|seen| seen == event) {
                self.1.notified().await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "no event {event:?}: {:?}", self.0.lock().unwrap());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message<'a>(&'a Events);
        impl Visit for Message<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                    self.0.1.notify_one();
                }
            }
        }
        if event.metadata().target() == TARGET {
            event.record(&mut Message(self));
        }
    }
}

/// Keeps events as soon as it is allowed to.
struct Slow {
    asked: Notify,
    allowed: Semaphore,
}

impl Slow {
    fn allowing(events: usize) -> Arc<Self> {
        Arc::new(Self {
            asked: Notify::new(),
            allowed: Semaphore::new(events),
        })
    }
}

#[async_trait]
impl Trail for Slow {
    async fn kept(&self) {
        self.asked.notify_one();
        self.allowed.acquire().await.unwrap().forget();
    }
}

fn store(place: &tempfile::TempDir, trail: Arc<Slow>) -> Arc<dyn Store> {
    let settings = Settings {
        path: place.path().join("db"),
        reserve_bytes: 0,
        cache_bytes: 4 << 20,
        gather: Duration::from_millis(3),
    };
    let store = Arc::new(SledStore::open(settings).unwrap());
    Arc::new(Audited::new(store, Box::new(|| contract::at(0)), trail))
}

/// Begins something, and gives it up as soon as it has to wait.
async fn begin_only(change: impl Future) {
    let mut change = pin!(change);
    tokio::select! {
        biased;
        _ = &mut change => panic!("nothing had to be waited for"),
        () = std::future::ready(()) => (),
    }
}

#[tokio::test]
async fn i10_a_change_is_reported_though_its_caller_does_not_wait_for_it() {
    let events = Events::default();
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(events.clone()));
    // While there is just one, tracing asks the thread that comes first to an event whether anybody listens; another
    // test's thread would say no for all.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let place = tempfile::tempdir().unwrap();
    let store = store(&place, Slow::allowing(100));
    let account = contract::account();
    begin_only(store.create_account(&account)).await;
    events.has("account created").await;
    let order = contract::order(account.id());
    begin_only(store.create_order(&order, None)).await;
    events.has("order created").await;
    let order = store.order(order.id()).await.unwrap().unwrap();
    let (answered, _) = contract::answered(order.value);
    begin_only(store.commit(Versioned::with(order.version, answered), None)).await;
    events.has("challenge answered").await;
    let account = store.account(account.id()).await.unwrap().unwrap();
    let deactivated = account.value.deactivated(contract::at(1));
    begin_only(store.update_account(Versioned::with(account.version, deactivated))).await;
    events.has("account deactivated").await;
}

#[tokio::test]
async fn i10_f39_a_change_is_over_when_its_event_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let trail = Slow::allowing(0);
    let store = store(&place, Arc::clone(&trail));
    let account = contract::account();
    let change = tokio::spawn({
        let (store, account) = (Arc::clone(&store), account.clone());
        async move { store.create_account(&account).await }
    });
    trail.asked.notified().await;
    assert!(store.account(account.id()).await.unwrap().is_some());
    tokio::task::yield_now().await;
    assert!(!change.is_finished(), "nobody may hear of it yet");
    trail.allowed.add_permits(1);
    assert!(matches!(change.await.unwrap().unwrap(), Registration::Created));
}
