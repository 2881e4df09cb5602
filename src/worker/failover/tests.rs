//! Tests of failover where several processes work on one store.

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::acme::upstream::UpstreamName;
use crate::clock::Clock;
use crate::store::Store;
use crate::upstream::{Error, Says};
use crate::worker::tests::{context, sled_store};
use crate::worker::upstream::tests::Silent;
use crate::worker::upstream::{Failover, Upstream};

const AFTER: Duration = Duration::from_secs(300);

/// One of several processes, with an account at a CA and at the one that takes over.
fn replica(store: &Arc<dyn Store>, clock: &Clock) -> Context {
    let mut context = context(Arc::clone(store));
    context.clock = clock.clone();
    let second: UpstreamName = "second".parse().unwrap();
    let failover = Failover {
        to: second,
        after: AFTER,
    };
    for (name, failover) in [(UpstreamName::DEFAULT, Some(failover)), (second, None)] {
        let upstream = Upstream {
            name,
            ca_url: format!("https://{name}.example/directory"),
            issuer: Arc::new(Silent::default()),
            failover,
        };
        let watched = Watched::new(upstream, clock.now());
        watched.health.set_ready();
        context.upstreams.insert(name, Arc::new(watched));
    }
    context
}

fn first(context: &Context) -> &Watched {
    context.upstream(UpstreamName::DEFAULT).unwrap()
}

async fn diverts(context: &Context) -> bool {
    look(context, first(context)).await.unwrap();
    stand_in(context, first(context)).await.unwrap().is_some()
}

#[tokio::test]
async fn a_replica_that_alone_does_not_reach_the_ca_moves_no_order_while_the_ca_works_for_another_one() {
    let (_directory, store) = sled_store();
    let clock = Clock::by_hand(Timestamp::UNIX_EPOCH);
    let [alone, other] = [(); 2].map(|()| replica(&store, &clock));
    let works_at_the_other: [fn(&Watched, Timestamp); 2] = [
        |watched, _| watched.health.worked(),
        |watched, now| assert!(watched.health.probed(&Ok::<(), Error>(()), now).0),
    ];
    for works in works_at_the_other {
        first(&alone).health.failed(clock.now(), None, Says::Failing);
        clock.advance(2 * AFTER);
        works(first(&other), clock.now());
        assert!(!diverts(&other).await);
        assert!(!diverts(&alone).await, "it works for the other one");
        clock.advance(AFTER - Duration::from_secs(1));
        assert!(!diverts(&alone).await);
        clock.advance(Duration::from_secs(1));
        assert!(diverts(&alone).await, "it has worked for nobody for so long");
        first(&other).health.failed(clock.now(), None, Says::Failing);
        let fails = first(&other).health.probed(&Ok::<(), Error>(()), clock.now());
        assert_eq!(fails, (true, Duration::ZERO));
        assert!(!diverts(&other).await);
        assert!(diverts(&alone).await, "a directory alone is no work");
        for replica in [&alone, &other] {
            first(replica).health.worked();
        }
    }
}

#[tokio::test]
async fn that_a_ca_works_is_written_once_in_ten_seconds_by_all_replicas_together_and_no_clock_is_believed_that_is_far_ahead()
 {
    let (_directory, store) = sled_store();
    let clock = Clock::by_hand(Timestamp::UNIX_EPOCH);
    let replicas = [(); 3].map(|()| replica(&store, &clock));
    for _ in 0..30 {
        for replica in &replicas {
            first(replica).health.worked();
            assert!(!diverts(replica).await);
        }
        clock.advance(Duration::from_secs(1));
    }
    let record = store.load(&name_of(first(&replicas[0]))).await.unwrap().unwrap();
    assert_eq!(record.version, 3);
    let fast = Clock::by_hand(after(clock.now(), 4 * AFTER));
    let fast = replica(&store, &fast);
    first(&fast).health.worked();
    assert!(!diverts(&fast).await);
    first(&replicas[0])
        .health
        .failed(clock.now(), None, Says::Failing);
    clock.advance(AFTER);
    assert!(diverts(&replicas[0]).await);
}
