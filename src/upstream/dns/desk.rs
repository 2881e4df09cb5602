//! Changes at the provider, one at a time for a name: records are made, and taken back until the provider has confirmed
//! that.

use std::hash::DefaultHasher;
use std::hash::Hash as _;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::acme::problem::cleaned;
use crate::upstream::dns::Dns01;
use crate::upstream::dns::Record;
use crate::upstream::dns::book::Book;
use crate::upstream::dns::lead::Lead;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::web::Web;

/// One change by a provider, which may take several requests.
const PROVIDER_DEADLINE: Duration = Duration::from_secs(75);

/// How long an order waits for its turn before it lets its step end.
const TURN_PATIENCE: Duration = Duration::from_secs(30);

/// Of a provider's error, for the log.
const MAX_DETAIL_CHARS: usize = 1000;

/// Shorter secrets are not looked for in what a provider says: their letters are everywhere.
const MIN_SECRET_CHARS: usize = 6;

/// How long to wait before each attempt to take records back, in polling intervals: half an hour before the last one.
const WITHDRAWALS: [u32; 5] = [0, 5, 30, 150, 900];

/// Who changes a name holds its lock: providers read and write whole sets of values, and a value that two orders share is
/// withdrawn by the last of them. The names of all upstreams fall to these, because two of them may have one zone.
static TURNS: [tokio::sync::Mutex<()>; 64] = [const { tokio::sync::Mutex::const_new(()) }; 64];

/// Where the provider is told what to do.
pub(crate) struct Desk {
    settings: Dns01,
    web: Web,
    pub(crate) book: Book,
    /// Where several processes change records.
    lead: OnceLock<Arc<dyn Lead>>,
    /// The provider has asked to be left alone until then.
    paused_until: Mutex<Option<Instant>>,
}

/// Why the provider did not do it.
#[derive(Debug)]
pub(crate) struct Refused {
    /// For the log, without secrets.
    pub(crate) detail: String,
    /// It only wants us to slow down, for so long.
    pub(crate) wait: Option<Duration>,
}

impl Desk {
    pub(crate) fn new(settings: Dns01, web: Web) -> Self {
        Self {
            settings,
            web,
            book: Book::default(),
            lead: OnceLock::new(),
            paused_until: Mutex::default(),
        }
    }

    /// From now on nothing is changed but in the terms of this process.
    pub(crate) fn led_by(&self, lead: Arc<dyn Lead>) {
        // After a reload it is said once more, by the same one.
        let _ = self.lead.set(lead);
    }

    /// The term of this process, in which what it knew in an earlier one is forgotten; `None`: it is not its turn. Who
    /// has nobody beside it has one term.
    pub(crate) fn term(&self) -> Option<u64> {
        let term = match self.lead.get() {
            Some(lead) => lead.term()?,
            None => 0,
        };
        self.book.begin(term);
        Some(term)
    }

    /// Publishes a record of an order there.
    pub(crate) async fn present(
        &self,
        term: u64,
        order: &str,
        wanted: &Record,
        at: &Record,
    ) -> Result<(), Refused> {
        if self.term() != Some(term) {
            return Err(anothers_turn(at));
        }
        // Before the provider is called: a call that fails or is cut short may have published all the same.
        self.book.note(order, wanted, at);
        let Ok(_turn) = tokio::time::timeout(TURN_PATIENCE, self.turn(&at.name)).await else {
            return Err(Refused {
                detail: format!("{}: other changes come first", at.name),
                wait: Some(Duration::from_secs(1)),
            });
        };
        self.change(term, Action::Present, at).await?;
        self.book.confirm(order, wanted);
        Ok(())
    }

    /// Takes records back that their order has no use for any more, and tries again for a while if the provider fails. With
    /// the term that ends: from then on they may be another process's.
    pub(crate) async fn withdraw(&self, term: u64, mut records: Vec<Record>) {
        for intervals in WITHDRAWALS {
            let wait = self.settings.polling_interval.saturating_mul(intervals);
            tokio::time::sleep(wait).await;
            if self.lasts(term).await == Some(false) {
                return;
            }
            let mut left = Vec::new();
            for at in records {
                tokio::time::sleep(self.pause().unwrap_or_default()).await;
                if let Err(Refused { detail, .. }) = self.take_back(term, &at).await {
                    tracing::info!(
                        name = at.name,
                        error = detail,
                        "a TXT record is not taken back yet"
                    );
                    left.push(at);
                }
            }
            records = left;
            if records.is_empty() {
                return;
            }
        }
        for at in records {
            tracing::warn!(
                name = at.name,
                value = at.value,
                "a TXT record of ours is left behind, because the DNS provider has not removed it; remove it by hand"
            );
        }
    }

    async fn take_back(&self, term: u64, at: &Record) -> Result<(), Refused> {
        let _turn = self.turn(&at.name).await;
        match self.book.is_wanted(at) {
            true => Ok(()),
            false => self.change(term, Action::Withdraw, at).await,
        }
    }

    /// One change in a term of this process: whoever has slept over its end changes nothing.
    async fn change(&self, term: u64, action: Action, record: &Record) -> Result<(), Refused> {
        let Some(lead) = self.lead.get() else {
            return self.apply(action, record).await;
        };
        if lead.lasts(term).await != Some(true) {
            return Err(anothers_turn(record));
        }
        tokio::select! {
            changed = self.apply(action, record) => changed,
            () = lead.ended(term) => Err(anothers_turn(record)),
        }
    }

    async fn lasts(&self, term: u64) -> Option<bool> {
        match self.lead.get() {
            Some(lead) => lead.lasts(term).await,
            None => Some(true),
        }
    }

    /// One change, with the provider's words cleaned of secrets.
    pub(crate) async fn apply(&self, action: Action, record: &Record) -> Result<(), Refused> {
        let web = self.web.for_one_change();
        let change = self.settings.provider.apply(action, record, &web);
        let outcome = match tokio::time::timeout(PROVIDER_DEADLINE, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", PROVIDER_DEADLINE.as_secs())),
        };
        let Err(said) = outcome else {
            return Ok(());
        };
        let wait = web.told_to_wait();
        let (provider, said) = (self.settings.name, self.redacted(said, &web));
        let detail = format!("{provider}: {}: {said}", record.name);
        if let Some(wait) = wait {
            let mut paused = self.paused();
            *paused = paused.take().max(Instant::now().checked_add(wait));
            tracing::warn!(error = detail, ?wait, "the DNS provider wants us to slow down");
        }
        Err(Refused { detail, wait })
    }

    /// For how long the provider wants to be left alone.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let until = *self.paused();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero())
    }

    fn paused(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a name, or of all names.
    async fn turn(&self, name: &str) -> Option<tokio::sync::MutexGuard<'static, ()>> {
        let mut hasher = DefaultHasher::new();
        match self.settings.provider.is_sequential() {
            true => self.settings.name.hash(&mut hasher),
            false => name.hash(&mut hasher),
        }
        let [first, ..] = hasher.finish().to_le_bytes();
        Some(TURNS.get(usize::from(first) % TURNS.len())?.lock().await)
    }

    /// Programs print their environment when they are debugged, and servers what they were sent. The whole is looked
    /// through before it is cut: half a secret would not be found.
    fn redacted(&self, mut said: String, web: &Web) -> String {
        for secret in self.settings.secrets.iter().chain(&web.hidden()) {
            if secret.reveal().chars().count() >= MIN_SECRET_CHARS {
                said = said.replace(secret.reveal(), "[redacted]");
            }
        }
        cleaned(&said, MAX_DETAIL_CHARS)
    }
}

/// The records are another process's now, as far as this one knows.
fn anothers_turn(at: &Record) -> Refused {
    Refused {
        detail: format!("{}: another process may be changing the records", at.name),
        wait: Some(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use async_trait::async_trait;
    use tokio::sync::watch;

    use super::*;
    use crate::acme::secret::Secret;
    use crate::upstream::dns::provider::Provider;
    use crate::upstream::dns::scripted::record;

    /// Fails the first times.
    #[derive(Debug, Default)]
    struct Stubborn {
        refusals: usize,
        asked: AtomicUsize,
        said: String,
        is_sequential: bool,
        under_way: AtomicUsize,
        most: AtomicUsize,
        hangs: bool,
    }

    #[async_trait]
    impl Provider for Stubborn {
        async fn apply(&self, _: Action, _: &Record, web: &Web) -> Result<(), String> {
            web.hide("fetched-token".to_owned());
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(under_way, Ordering::SeqCst);
            match self.hangs {
                true => std::future::pending().await,
                false => tokio::task::yield_now().await,
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            match self.asked.fetch_add(1, Ordering::SeqCst) < self.refusals {
                true => Err(self.said.clone()),
                false => Ok(()),
            }
        }

        fn is_sequential(&self) -> bool {
            self.is_sequential
        }
    }

    fn desk(refusals: usize, said: &str) -> (Arc<Stubborn>, Desk) {
        let provider = Arc::new(Stubborn {
            refusals,
            said: said.to_owned(),
            ..Stubborn::default()
        });
        (provider.clone(), desk_of(provider))
    }

    fn desk_of(provider: Arc<Stubborn>) -> Desk {
        let settings = Dns01 {
            name: "stubborn",
            provider,
            values: std::collections::BTreeMap::new(),
            secrets: vec![Secret::new("hunter22".to_owned())],
            roots: None,
            servers: Vec::new(),
            authority_port: 53,
            propagation_timeout: Duration::ZERO,
            polling_interval: Duration::from_micros(10),
            follow_aliases: true,
        };
        Desk::new(settings, Web::new(None).unwrap())
    }

    #[tokio::test]
    async fn a_name_is_changed_by_one_upstream_at_a_time_and_a_program_runs_alone() {
        let named = |name: &str| Record {
            name: name.to_owned(),
            ..record()
        };
        let one = named("_acme-challenge.one.example.com.");
        for (is_sequential, other, most) in [
            (false, one.clone(), 1),
            (false, named("_acme-challenge.two.example.com."), 2),
            (true, named("_acme-challenge.two.example.com."), 1),
        ] {
            let provider = Arc::new(Stubborn {
                is_sequential,
                ..Stubborn::default()
            });
            let (here, there) = (desk_of(provider.clone()), desk_of(provider.clone()));
            let (first, second) = tokio::join!(
                here.present(0, "order", &one, &one),
                there.present(0, "order", &other, &other),
            );
            first.and(second).unwrap();
            assert_eq!(provider.most.load(Ordering::SeqCst), most, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_record_is_taken_back_until_the_provider_has_confirmed_it_and_not_for_ever() {
        for (refusals, asked) in [(0, 1), (3, 4), (100, WITHDRAWALS.len())] {
            let (provider, desk) = desk(refusals, "no");
            desk.withdraw(0, vec![record()]).await;
            assert_eq!(provider.asked.load(Ordering::SeqCst), asked, "{refusals}");
        }
    }

    #[tokio::test]
    async fn a_record_that_another_order_wants_is_not_taken_back() {
        let (provider, desk) = desk(0, "no");
        desk.present(0, "second", &record(), &record()).await.unwrap();
        desk.withdraw(0, vec![record()]).await;
        assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn i9_a_secret_that_stands_where_the_text_is_cut_is_not_told_in_part() {
        let said = format!("{}hunter22 fetched-token", "x".repeat(MAX_DETAIL_CHARS - 4));
        let (_, desk) = desk(1, &said);
        let detail = desk.apply(Action::Present, &record()).await.unwrap_err().detail;
        assert!(!detail.contains("hunt") && detail.ends_with("[red…"), "{detail}");
        let (_, desk) = self::desk(1, "no: fetched-token");
        let detail = desk.apply(Action::Present, &record()).await.unwrap_err().detail;
        assert!(detail.ends_with("no: [redacted]"), "{detail}");
    }

    /// A lead that is passed on by hand.
    #[derive(Default)]
    struct ByHand {
        known: watch::Sender<Option<u64>>,
        /// Which this process may not have heard of.
        is_anothers: AtomicBool,
    }

    #[async_trait]
    impl Lead for ByHand {
        fn term(&self) -> Option<u64> {
            *self.known.borrow()
        }

        async fn lasts(&self, term: u64) -> Option<bool> {
            Some(self.term() == Some(term) && !self.is_anothers.load(Ordering::SeqCst))
        }

        async fn ended(&self, term: u64) {
            self.known
                .subscribe()
                .wait_for(|now| *now != Some(term))
                .await
                .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f43_who_has_lost_the_lead_publishes_nothing_takes_nothing_back_and_knows_nothing() {
        let (provider, desk) = desk(1, "no");
        let lead = Arc::new(ByHand::default());
        desk.led_by(lead.clone());
        let asked = || provider.asked.load(Ordering::SeqCst);
        assert_eq!(desk.term(), None);
        desk.present(1, "order", &record(), &record()).await.unwrap_err();
        assert_eq!(asked(), 0, "it is another one's turn");
        lead.known.send_replace(Some(1));
        desk.present(1, "first", &record(), &record()).await.unwrap_err();
        desk.present(1, "first", &record(), &record()).await.unwrap();
        assert_eq!((asked(), desk.book.is_confirmed("first", &record())), (2, true));
        lead.known.send_replace(None);
        assert!(
            desk.book.is_confirmed("first", &record()),
            "it may be ours once more, and nobody else's meanwhile"
        );
        desk.withdraw(1, vec![record()]).await;
        lead.known.send_replace(Some(2));
        assert_eq!(desk.term(), Some(2));
        assert!(!desk.book.is_confirmed("first", &record()));
        desk.withdraw(1, vec![record()]).await;
        let refused = desk.present(1, "first", &record(), &record()).await.unwrap_err();
        assert!(refused.wait.is_some() && !desk.book.knows("first", &record()));
        assert_eq!(asked(), 2);
        desk.withdraw(2, vec![record()]).await;
        assert_eq!(asked(), 3);
        lead.is_anothers.store(true, Ordering::SeqCst);
        desk.present(2, "first", &record(), &record()).await.unwrap_err();
        desk.withdraw(2, vec![record()]).await;
        desk.take_back(2, &record()).await.unwrap();
        desk.book.take("first");
        desk.take_back(2, &record()).await.unwrap_err();
        assert_eq!(asked(), 3, "it has slept over its end");
    }

    #[tokio::test]
    async fn f43_a_change_that_is_under_way_when_the_lead_is_lost_is_given_up() {
        let desk = desk_of(Arc::new(Stubborn {
            hangs: true,
            ..Stubborn::default()
        }));
        let lead = Arc::new(ByHand::default());
        lead.known.send_replace(Some(1));
        desk.led_by(lead.clone());
        let record = record();
        let (changed, ()) = tokio::join!(desk.present(1, "order", &record, &record), async {
            tokio::task::yield_now().await;
            lead.known.send_replace(None);
        });
        assert!(changed.unwrap_err().detail.contains("another process"));
        assert!(!desk.book.is_confirmed("order", &record));
    }
}
