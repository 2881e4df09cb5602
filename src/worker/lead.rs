//! Which replica solves the dns-01 challenges of all CAs: one at a time, who holds this in the store. What is known of
//! the records is in the memory of one process, and a provider changes a name's values for one at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::acme::job::Lane;
use crate::store::shared::Hold;
use crate::store::{Store, StoreError};
use crate::upstream::dns::lead;
use crate::worker::upstream::Watched;
use crate::worker::{Context, LEASE, RENEWAL};

/// What is held: one for all upstreams, for two of them may have one zone.
const WHAT: &str = "dns-01";

/// How often somebody who has not got it asks for it.
const ASK: Duration = Duration::from_secs(1);

/// How long the store may take to answer who leads.
const ANSWER: Duration = Duration::from_secs(5);

/// Whoever has led for so long, while all CAs that want dns-01 failed, lets another one try: perhaps it is the way there
/// from here that is broken.
const FRUITLESS: Duration = Duration::from_secs(60);

/// How long the others have to ask for it then.
const STANDS_BACK: Duration = Duration::from_secs(5);

/// The lead as this process knows it, whichever of its workers asks.
pub(crate) struct Lead {
    store: Arc<dyn Store>,
    held: Mutex<Option<Held>>,
    /// The token of the hold, as long as it is known to be ours.
    term: watch::Sender<Option<u64>>,
}

struct Held {
    hold: Hold,
    since: Instant,
    /// When it was last asked for with success.
    renewed: Instant,
}

impl Lead {
    /// Nothing, where nobody else works on the store.
    pub(crate) fn of(store: &Arc<dyn Store>) -> Option<Arc<Self>> {
        store.shared()?;
        Some(Arc::new(Self {
            store: Arc::clone(store),
            held: Mutex::default(),
            term: watch::Sender::new(None),
        }))
    }

    /// Asks for it, or holds it for longer. Says when to do so again.
    async fn tend(&self) -> Result<Duration, StoreError> {
        let Some(shared) = self.store.shared() else {
            return Ok(RENEWAL);
        };
        let mut held = self.held.lock().await;
        if held.is_some() {
            return Ok(match self.extend(&mut held).await {
                Some(true) => RENEWAL,
                Some(false) | None => ASK,
            });
        }
        let asked = Instant::now();
        let Ok(hold) = timeout(RENEWAL, shared.hold(WHAT, LEASE)).await else {
            return Ok(ASK);
        };
        let Some(hold) = hold? else { return Ok(ASK) };
        tracing::info!("this replica solves the dns-01 challenges of the CAs from now on");
        self.term.send_replace(Some(hold.token));
        *held = Some(Held {
            hold,
            since: asked,
            renewed: asked,
        });
        Ok(RENEWAL)
    }

    /// Whether it is still ours; `None` if the store does not say.
    async fn extend(&self, held: &mut MutexGuard<'_, Option<Held>>) -> Option<bool> {
        let (Some(shared), Some(ours)) = (self.store.shared(), held.as_mut()) else {
            return Some(false);
        };
        let asked = Instant::now();
        match timeout(ANSWER, shared.extend(&ours.hold, LEASE)).await {
            Ok(Ok(true)) => {
                ours.renewed = asked;
                self.term.send_replace(Some(ours.hold.token));
                Some(true)
            }
            Ok(Ok(false)) => {
                tracing::warn!(
                    "another replica has solved dns-01 challenges meanwhile; what this one knew of its TXT records is \
                     forgotten, and some may be left behind"
                );
                self.term.send_replace(None);
                **held = None;
                Some(false)
            }
            Ok(Err(_)) | Err(_) => {
                if ours.renewed.elapsed() + ANSWER + ASK > LEASE {
                    self.term.send_replace(None);
                }
                None
            }
        }
    }

    /// Gives it back, with all that is known.
    pub(crate) async fn give_back(&self) {
        let mut held = self.held.lock().await;
        self.term.send_replace(None);
        if let (Some(shared), Some(ours)) = (self.store.shared(), held.take())
            && !matches!(timeout(ANSWER, shared.release(ours.hold)).await, Ok(Ok(())))
        {
            tracing::warn!("no other replica can solve dns-01 challenges for half a minute");
        }
    }

    async fn led_since(&self) -> Option<Instant> {
        self.held.lock().await.as_ref().map(|ours| ours.since)
    }
}

#[async_trait]
impl lead::Lead for Lead {
    fn term(&self) -> Option<u64> {
        *self.term.borrow()
    }

    async fn lasts(&self, term: u64) -> Option<bool> {
        let mut held = self.held.lock().await;
        match held.as_ref() {
            Some(ours) if ours.hold.token == term => self.extend(&mut held).await,
            Some(_) | None => Some(false),
        }
    }

    async fn ended(&self, term: u64) {
        // It fails once this is dropped, while nobody waits.
        let _ = self.term.subscribe().wait_for(|now| *now != Some(term)).await;
    }
}

/// Lets the upstreams that solve dns-01 follow the lead.
pub(crate) fn follow(context: &Context) {
    if let Some(lead) = &context.lead {
        for upstream in context.upstreams.values() {
            upstream.issuer().follow(Arc::clone(lead) as _);
        }
    }
}

/// Whether jobs of this lane are this replica's to begin.
pub(crate) fn is_ours(context: &Context, lane: Lane) -> bool {
    let (Lane::Issue(name), Some(lead)) = (lane, &context.lead) else {
        return true;
    };
    let is_led = context
        .upstream(name)
        .is_some_and(|upstream| upstream.issuer().publishes());
    !is_led || lead::Lead::term(&**lead).is_some()
}

/// The CAs for which records are published.
fn publishing(context: &Context) -> impl Iterator<Item = &Arc<Watched>> {
    let all = context.upstreams.values();
    all.filter(|upstream| upstream.issuer().publishes())
}

/// Leads whenever it can, as long as jobs are begun, and after that until those have ended.
pub(crate) async fn run(context: &Context, stop: watch::Receiver<bool>, mut ended: watch::Receiver<bool>) {
    let is_needed = publishing(context).next().is_some();
    let Some(lead) = context.lead.as_ref().filter(|_| is_needed) else {
        return;
    };
    while !*ended.borrow() {
        let stops = *stop.borrow();
        let wait = step(context, lead, stops).await;
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = sleep(wait) => {}
        }
    }
}

/// Says when to take the next one.
async fn step(context: &Context, lead: &Lead, stops: bool) -> Duration {
    let mut publishing = publishing(context);
    match lead.led_since().await {
        None if stops => ASK,
        Some(since) if since.elapsed() > FRUITLESS && publishing.all(|one| is_failing(context, one)) => {
            tracing::warn!("no CA that wants dns-01 does what this replica asks; another one may try");
            lead.give_back().await;
            STANDS_BACK
        }
        Some(_) | None => lead.tend().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "it can not be found out which replica solves dns-01 challenges");
            ASK
        }),
    }
}

fn is_failing(context: &Context, upstream: &Watched) -> bool {
    upstream.health.has_failed_for(FRUITLESS, context.clock.now())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::acme::upstream::UpstreamName;
    use crate::store::postgres::tests::two_stores;
    use crate::upstream::dns::lead::Lead as _;
    use crate::worker::lane;
    use crate::worker::tests::{context, sled_store};
    use crate::worker::upstream::tests::{Silent, of};

    /// Two replicas.
    async fn two() -> ([Arc<Lead>; 2], tokio_postgres::Client) {
        let (one, other, client) = two_stores().await;
        let stores: [Arc<dyn Store>; 2] = [Arc::new(one), Arc::new(other)];
        (stores.map(|store| Lead::of(&store).unwrap()), client)
    }

    async fn time_passes(client: &tokio_postgres::Client) {
        let over = "UPDATE acme_proxy.holds SET until = '-infinity'";
        client.batch_execute(over).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn f43_one_replica_leads_until_it_gives_the_lead_back_or_is_gone_for_too_long() {
        let ([one, other], client) = two().await;
        assert_eq!(one.tend().await, Ok(RENEWAL));
        assert_eq!(other.tend().await, Ok(ASK));
        let first = one.term().unwrap();
        assert_eq!((other.term(), one.lasts(first).await), (None, Some(true)));
        one.give_back().await;
        assert_eq!((one.term(), one.lasts(first).await), (None, Some(false)));
        assert_eq!(other.tend().await, Ok(RENEWAL));
        let second = other.term().unwrap();
        time_passes(&client).await;
        assert_eq!(other.lasts(second).await, Some(true), "nobody has had it since");
        time_passes(&client).await;
        one.tend().await.unwrap();
        assert_eq!(other.term(), Some(second), "it has not heard of it");
        assert_eq!((other.lasts(second).await, other.term()), (Some(false), None));
        other.ended(second).await;
        other.give_back().await;
        assert_eq!(other.tend().await, Ok(ASK), "it was not its own any more");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn f43_while_the_database_is_away_nobody_leads_for_longer_than_the_hold_lasts() {
        let ([one, _], client) = two().await;
        one.tend().await.unwrap();
        let term = one.term().unwrap();
        let rename = async |from: &str, to: &str| {
            let sql = format!("ALTER TABLE acme_proxy.{from} RENAME TO {to}");
            client.batch_execute(&sql).await.unwrap();
        };
        rename("holds", "gone").await;
        assert_eq!((one.tend().await, one.term()), (Ok(ASK), Some(term)));
        one.held.lock().await.as_mut().unwrap().renewed -= LEASE;
        assert_eq!((one.lasts(term).await, one.term()), (None, None));
        rename("gone", "holds").await;
        assert_eq!(one.tend().await, Ok(RENEWAL));
        assert_eq!(one.term(), Some(term), "nobody else has had it");
    }

    #[test]
    fn f43_a_store_of_ones_own_needs_nobody_to_lead() {
        let (_directory, store) = sled_store();
        assert!(Lead::of(&store).is_none());
    }

    /// What a replica has that solves dns-01 at one CA.
    fn solving(lead: &Arc<Lead>, now: jiff::Timestamp) -> Context {
        let upstream = Watched::new(of(&(Arc::new(Silent { publishes: true }) as _)), now);
        let mut context = context(Arc::clone(&lead.store));
        context.lead = Some(Arc::clone(lead));
        context.upstreams = BTreeMap::from([(upstream.name(), Arc::new(upstream))]);
        follow(&context);
        context
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn f43_jobs_that_may_want_dns_01_are_begun_by_the_leader_alone() {
        let ([one, other], _client) = two().await;
        let now = crate::clock::Clock::system().now();
        let [leading, waiting] = [solving(&one, now), solving(&other, now)];
        assert_eq!(step(&leading, &one, false).await, RENEWAL);
        assert_eq!(step(&waiting, &other, false).await, ASK);
        let (issue, revoke) = (
            Lane::Issue(UpstreamName::DEFAULT),
            Lane::Revoke(UpstreamName::DEFAULT),
        );
        for (context, lane, free) in [
            (&leading, issue, 7),
            (&waiting, issue, 0),
            (&waiting, revoke, 7),
            (&waiting, Lane::Validate, 7),
        ] {
            context.upstreams[&UpstreamName::DEFAULT].health.set_ready();
            assert_eq!(lane::free(context, lane, 7, 7), free, "{lane:?}");
        }
        one.give_back().await;
        assert_eq!(step(&leading, &one, true).await, ASK);
        assert_eq!(one.term(), None, "who stops asks for it no more");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn f43_a_leader_whom_no_ca_answers_lets_another_one_try() {
        let ([one, other], _client) = two().await;
        let now = crate::clock::Clock::system().now();
        let cut_off = solving(&one, now - 2 * FRUITLESS);
        assert_eq!(step(&cut_off, &one, false).await, RENEWAL);
        assert_eq!(step(&cut_off, &one, false).await, RENEWAL, "it has only begun");
        one.held.lock().await.as_mut().unwrap().since -= 2 * FRUITLESS;
        assert_eq!(step(&cut_off, &one, false).await, STANDS_BACK);
        assert_eq!(step(&solving(&other, now), &other, false).await, RENEWAL);
        assert_eq!(step(&cut_off, &one, false).await, ASK);
    }
}
