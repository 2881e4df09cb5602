//! Tests of what a CA's answers mean for the jobs that wait for it.

use super::*;
use crate::acme::certificate::Der;
use crate::acme::offers::Offers;
use crate::acme::order::ValidatedOrder;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::renewal::CertificateId;
use crate::acme::revocation::RevocationReason;
use crate::acme::upstream::UpstreamOrder;
use crate::clock::Clock;
use crate::upstream::{Progress, Suggestion};
use crate::worker::pause;
use crate::worker::tests::{context, sled_store};

fn ready(now: Timestamp) -> CaHealth {
    let ca = CaHealth::failing_since(now);
    ca.set_ready();
    ca
}

const UP: Result<(), Error> = Ok(());

/// A CA that is never asked.
#[derive(Default)]
pub(crate) struct Silent {
    pub(crate) publishes: bool,
}

#[async_trait::async_trait]
impl Issuer for Silent {
    fn publishes(&self) -> bool {
        self.publishes
    }

    async fn prepare(&self) -> Result<(), Error> {
        unreachable!()
    }

    async fn open(&self, _: &ValidatedOrder) -> Result<UpstreamOrder, Error> {
        unreachable!()
    }

    async fn advance(&self, _: &ValidatedOrder) -> Result<Progress, Error> {
        unreachable!()
    }

    async fn look(&self, _: &AwaitedOrder) -> Result<Progress, Error> {
        unreachable!()
    }

    async fn revoke(&self, _: &Der, _: Option<&str>, _: Option<RevocationReason>) -> Result<(), Error> {
        unreachable!()
    }

    async fn renewal(&self, _: &CertificateId) -> Result<Suggestion, Error> {
        unreachable!()
    }

    async fn probe(&self) -> Result<Offers, Error> {
        unreachable!()
    }
}

pub(crate) fn of(issuer: &Arc<dyn Issuer>) -> Upstream {
    Upstream {
        name: UpstreamName::DEFAULT,
        ca_url: "https://ca.example/directory".to_owned(),
        issuer: Arc::clone(issuer),
        failover: None,
    }
}

fn named(name: &str, issuer: &Arc<dyn Issuer>) -> Upstream {
    Upstream {
        name: name.parse().unwrap(),
        ..of(issuer)
    }
}

#[test]
fn f3_a_ca_keeps_its_state_under_another_name_and_no_two_have_the_same() {
    let now = Clock::system().now();
    let issuer: Arc<dyn Issuer> = Arc::new(Silent::default());
    let before = followed_by(&BTreeMap::new(), vec![of(&issuer)], now);
    let known = &before[&UpstreamName::DEFAULT].health;
    let _place = known.issuing.take();
    let default = UpstreamName::DEFAULT.as_str();
    for (names, heirs) in [
        (vec![default], vec![default]),
        (vec!["second"], vec!["second"]),
        (vec!["second", default], vec![default]),
        (vec!["second", "third"], vec!["second"]),
    ] {
        let configured = names.iter().map(|name| named(name, &issuer)).collect();
        let next = followed_by(&before, configured, now);
        assert_eq!(next.len(), names.len());
        let heir = |watched: &&Arc<Watched>| Arc::ptr_eq(&watched.health, known);
        let found: Vec<_> = next.values().filter(heir).map(|heir| heir.name()).collect();
        assert_eq!(
            found.iter().map(UpstreamName::as_str).collect::<Vec<_>>(),
            heirs,
            "{names:?}"
        );
        let free = |name: &str| next[&name.parse().unwrap()].health.issuing.free(64);
        assert_eq!(free(heirs[0]), 63, "a job is still under way there");
    }
    let elsewhere = Upstream {
        ca_url: "https://other.example/directory".to_owned(),
        ..of(&issuer)
    };
    let next = followed_by(&before, vec![elsewhere], now);
    assert!(
        !Arc::ptr_eq(&next[&UpstreamName::DEFAULT].health, known),
        "another CA"
    );
}

#[test]
fn f3_how_long_a_ca_has_asked_to_be_left_alone_outlives_a_reload() {
    let now = Clock::system().now();
    let issuer: Arc<dyn Issuer> = Arc::new(Silent::default());
    let before = Watched::new(of(&issuer), now);
    before.health.set_ready();
    before.health.failed(now, Some(seconds(3600)), Says::SlowDown);
    before.health.prepare_later(now, seconds(600));
    let same = before.followed_by(of(&issuer), now);
    let later = after(now, seconds(3601));
    assert_eq!(same.health.places(64, 64, now), 0);
    assert_eq!(
        same.health.places(64, 64, later),
        64,
        "its account is still there"
    );
    let other: Arc<dyn Issuer> = Arc::new(Silent::default());
    let changed = same.followed_by(of(&other), now);
    assert_eq!(changed.health.waits(now), (seconds(3600), seconds(600)));
    assert_eq!(changed.health.places(64, 64, later), 0, "is there an account?");
}

fn down() -> Result<(), Error> {
    Err(Error::transient("no answer").of_the_ca())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn f2_after_five_faults_one_probe_at_a_time_goes_to_the_ca() {
    let now = Clock::system().now();
    let ca = CaHealth::failing_since(now);
    let later = after(now, seconds(600));
    assert_eq!(ca.places(64, 64, now), 0, "there is no account yet");
    ca.set_ready();
    assert_eq!(ca.places(64, 64, now), 64);
    for _ in 0..BREAKER_THRESHOLD {
        assert!(!ca.breaker_is_open());
        ca.failed(now, None, Says::Failing);
    }
    assert!(ca.breaker_is_open());
    assert_eq!(ca.places(64, 64, now), 0, "paused");
    assert_eq!(ca.places(64, 64, later), 1);
    assert_eq!(ca.places(63, 64, later), 0, "the probe is under way");
    ca.worked();
    assert_eq!(ca.places(63, 64, later), 1, "the probe has worked, and goes on");
}

#[test]
fn f15_a_ca_that_is_back_gets_one_job_more_with_each_that_works_until_all_places_are_taken() {
    let now = Clock::system().now();
    let ca = ready(now);
    for _ in 0..64 {
        ca.failed(now, None, Says::Failing);
    }
    let later = after(now, seconds(600));
    let mut rounds = Vec::new();
    // All that are under way work, and then as many go out as may.
    while rounds.last() != Some(&64) {
        let under_way = ca.places(64, 64, later);
        rounds.push(under_way);
        for _ in 0..under_way {
            ca.worked();
        }
    }
    assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 64]);
    for _ in 0..BREAKER_THRESHOLD {
        ca.failed(later, None, Says::Failing);
    }
    assert_eq!(ca.places(64, 64, after(later, seconds(600))), 1, "and again");
}

#[test]
fn f3_a_429_pauses_everything_at_the_ca_for_as_long_as_it_asks() {
    let now = Clock::system().now();
    let ca = ready(now);
    ca.failed(now, Some(seconds(30)), Says::SlowDown);
    assert_eq!(ca.places(64, 64, after(now, seconds(29))), 0);
    assert_eq!(ca.places(64, 64, after(now, seconds(31))), 64);
}

#[test]
fn a_ca_fails_from_the_first_fault_on_until_it_does_what_a_job_asks() {
    let now = Clock::system().now();
    let at = |second| after(now, seconds(second));
    let ca = CaHealth::failing_since(now);
    ca.probed(&UP, at(100));
    assert!(ca.has_failed_for(seconds(300), at(300)), "no account for so long");
    assert!(!ca.has_failed_for(seconds(301), at(300)) && !ca.is_well());
    ca.set_ready();
    assert!(!ca.has_failed_for(seconds(0), at(300)) && ca.is_well());
    for second in [310, 400, 700] {
        ca.failed(at(second), None, Says::Failing);
        ca.probed(&UP, at(second + 50));
    }
    assert!(
        ca.has_failed_for(seconds(400), at(710)),
        "its directory answers, its orders do not"
    );
    ca.worked();
    assert!(ca.is_well());
}

#[test]
fn a_directory_that_answers_again_is_believed_unless_jobs_have_failed_lately() {
    let now = Clock::system().now();
    let at = |second| after(now, seconds(second));
    let ca = ready(now);
    assert_eq!(ca.probed(&down(), at(10)), (false, seconds(0)));
    ca.probed(&down(), at(40));
    assert!(ca.has_failed_for(seconds(30), at(40)));
    assert_eq!(ca.probed(&UP, at(70)), (true, seconds(0)));
    assert!(ca.is_well());
    ca.failed(at(80), None, Says::Failing);
    ca.probed(&UP, at(80 + QUIET.as_secs() - 1));
    assert!(!ca.is_well());
    ca.probed(&UP, at(80 + QUIET.as_secs()));
    assert!(ca.is_well(), "one fault long ago is forgotten");
}

#[test]
fn a_ca_that_asks_us_to_slow_down_has_not_failed() {
    let now = Clock::system().now();
    let ca = ready(now);
    for _ in 0..100 {
        ca.failed(now, Some(seconds(3600)), Says::SlowDown);
    }
    assert!(ca.is_well());
}

#[test]
fn f3_a_directory_that_asks_us_to_slow_down_is_left_alone_for_as_long_and_so_is_the_rest() {
    let now = Clock::system().now();
    for (retry_after, wait) in [(Some(seconds(45)), 45), (None, RATE_LIMIT_PAUSE.as_secs())] {
        let ca = ready(now);
        let slow: Result<(), Error> = Err(Error::Transient {
            detail: "slow down".to_owned(),
            retry_after,
            says: Says::SlowDown,
        });
        assert_eq!(ca.probed(&slow, now), (true, seconds(wait)));
        assert!(ca.is_well() && !ca.has_failed_for(seconds(0), now));
        assert_eq!(ca.places(64, 64, after(now, seconds(wait - 1))), 0);
        assert_eq!(ca.places(64, 64, after(now, seconds(wait + 1))), 64);
    }
}

#[tokio::test]
async fn f2_f3_replicas_share_what_the_ca_asks_for_and_not_what_one_of_them_makes_of_its_faults() {
    let (_directory, store) = sled_store();
    let (alone, other) = (context(store.clone()), context(store));
    let issuer: Arc<dyn Issuer> = Arc::new(Silent::default());
    let now = alone.clock.now();
    let [faulty, well] = [(); 2].map(|()| Watched::new(of(&issuer), now));
    for watched in [&faulty, &well] {
        watched.health.set_ready();
    }
    let learn = async || {
        pause::learn(&alone, &faulty).await;
        pause::learn(&other, &well).await;
    };
    for _ in 0..BREAKER_THRESHOLD {
        faulty.health.failed(now, None, Says::Failing);
    }
    learn().await;
    assert_eq!(faulty.health.places(64, 64, now), 0, "its own breaker");
    assert_eq!(well.health.places(64, 64, now), 64, "it has a way to the CA");
    for (says, wait) in [(Says::SlowDown, 3600), (Says::Away, 7200)] {
        faulty.health.failed(now, Some(seconds(wait)), says);
        learn().await;
        for watched in [&faulty, &well] {
            assert_eq!(watched.health.places(64, 64, after(now, seconds(wait - 1))), 0);
        }
        assert_eq!(well.health.places(64, 64, after(now, seconds(wait + 1))), 64);
    }
}
