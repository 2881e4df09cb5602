use super::*;
use crate::acme::certificate::Der;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::job::{Job, Work};
use crate::store::sled::SledStore;

#[test]
fn the_back_off_grows_never_falls_below_its_floor_and_never_passes_its_ceiling_by_more_than_the_jitter() {
    for faults in 0..10_000 {
        let wait = backoff(faults, BACKOFF_CEILING);
        assert!(wait >= BACKOFF_FLOOR / 2, "{faults}: {wait:?}");
        assert!(wait <= BACKOFF_CEILING.mul_f64(1.25), "{faults}: {wait:?}");
    }
    assert!(backoff(8, BACKOFF_CEILING) > backoff(1, BACKOFF_CEILING));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_worked_on_for_long_is_nobody_elses_until_it_is_given_back() {
    let (_directory, store) = sled_store();
    let lane = Lane::Issue(UpstreamName::DEFAULT);
    let job = Job::now(
        Work::Issue(OrderId::random()),
        AccountId::random(),
        UpstreamName::DEFAULT,
        now(),
    );
    let csr = Der::new(Vec::new());
    let order = Order::for_daemon(job.work.order(), Vec::new(), csr, now(), LEASE);
    store.create_order(&order, Some(job)).await.unwrap();
    let take = async || store.lease(lane, now(), LEASE, 9, 9, 9).await.unwrap();
    let held = take().await.remove(0);
    tokio::time::sleep(2 * LEASE).await;
    let held = match take().await.pop() {
        Some(taken_over) => {
            renewed(&*store, &held).await;
            taken_over
        }
        None => panic!("a lease that nobody renews holds for ever"),
    };
    tokio::select! {
        () = renewed(&*store, &held) => panic!("it was lost"),
        () = tokio::time::sleep(20 * LEASE) => {}
    }
    assert_eq!(take().await, Vec::new());
    store.settle(held.clone(), done()).await.unwrap();
    renewed(&*store, &held).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_without_a_lease_ends_unless_it_is_giving_it_back() {
    let (_directory, store) = sled_store();
    let job = Job::now(
        Work::Issue(OrderId::random()),
        AccountId::random(),
        UpstreamName::DEFAULT,
        now(),
    );
    let lease = Lease { job, token: 0 };
    for gives_back in [true, false] {
        let done = AtomicBool::new(false);
        let step = async {
            // The answer comes after the lease would have been renewed.
            tokio::time::sleep(RENEWAL + Duration::from_secs(1)).await;
            done.store(true, Ordering::SeqCst);
        };
        while_held(&*store, &lease, &AtomicBool::new(gives_back), step).await;
        assert_eq!(done.load(Ordering::SeqCst), gives_back);
    }
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

pub(crate) fn sled_store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().unwrap();
    let settings = crate::store::Settings {
        path: directory.path().join("store"),
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        gather: Duration::ZERO,
    };
    (directory, Arc::new(SledStore::open(settings).unwrap()))
}

/// What a job needs, without a CA.
pub(crate) fn context(store: Arc<dyn Store>) -> Context {
    let validation = crate::validate::Settings {
        resolvers: vec![([127, 0, 0, 1], 53).into()],
        ..crate::validate::Settings::default()
    };
    Context {
        store,
        upstreams: BTreeMap::new(),
        validator: Validator::new(validation).unwrap(),
        clock: Clock::system(),
        metrics: Arc::new(Metrics::new().unwrap()),
        slot: Arc::new(CertificateSlot::with_stand_in().unwrap()),
        settings: Settings {
            own_certificate_names: None,
            own_certificate_upstream: UpstreamName::DEFAULT,
            validations: 1,
            issuances: 1,
            validation_attempts: 1,
            issuance_deadline: Duration::from_secs(3600),
        },
        targets: Arc::default(),
        validating: Arc::default(),
        lead: None,
    }
}

#[test]
fn f20_slow_validations_of_a_few_owners_never_fill_the_pool() {
    const PLACES: usize = 256;
    for (owners, left) in [(1, 192), (4, 100), (20, 32)] {
        let mut held = vec![0_usize; owners];
        loop {
            let (limit, share) = portion(WorkKind::Validate, PLACES - held.iter().sum::<usize>());
            let mut leased = 0;
            while leased < limit
                && let Some(least) = held.iter_mut().min().filter(|least| **least < share)
            {
                *least += 1;
                leased += 1;
            }
            if leased == 0 {
                break;
            }
        }
        let free = PLACES - held.iter().sum::<usize>();
        assert!(free >= left, "{owners} owners leave {free} places");
        assert_eq!(
            portion(WorkKind::Validate, 1),
            (1, 1),
            "the last place is given, too"
        );
    }
}
