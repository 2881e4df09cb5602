//! RFC 8555 §7.1.6: the whole life of an order, by random events in random order, against a model of the diagrams (I1,
//! I4, H13, J8). `LIVES_CASES` says how many lives; `make lives` runs 100,000.

pub(crate) mod model;
mod names;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use acme_proxy::acme::challenge::ChallengeType;
use acme_proxy::acme::id::{AccountId, AuthorizationId, ChallengeId};
use acme_proxy::acme::order::{Accepted, Order, Settled, ValidatedOrder, Verdict};
use acme_proxy::acme::problem::{Problem, ProblemType};
use acme_proxy::acme::revocation::Revocation;
use acme_proxy::acme::upstream::UpstreamOrder;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use crate::rfc8555::s7_1_6_lives::model::{
    ATTEMPTS, AUTHORIZATION, CHALLENGE, DEADLINE, Finding, Model, ORDER, Outcome,
};
use crate::rfc8555::s7_1_6_lives::names::Names;

/// How long an order may wait for its CSR.
const LIFETIME: Duration = Duration::from_secs(3600);

/// When every order is made.
fn start() -> Timestamp {
    static START: OnceLock<Timestamp> = OnceLock::new();
    *START.get_or_init(names::today)
}

/// Something that happens to an order. An [`Index`] chooses one of the authorizations.
#[derive(Debug, Clone)]
enum Event {
    Accept(Index, ChallengeType),
    /// The attempt is the awaited one, or this many later.
    Verdict(Index, ChallengeType, u32, Finding),
    /// Accepts a challenge and proves it, for the ways beyond are long.
    Prove(Index),
    ProveAll,
    Deactivate(Index),
    TimePasses(SignedDuration),
    Finalize(Request),
    Opened(u8),
    Gone(u8),
    /// The certificate comes, the stranger's if not ours.
    Issued(bool),
    Failed,
    RequestRevocation,
    AnswerRevocation(bool),
    StoreAndRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Matching,
    /// One for other names.
    OtherNames,
    /// One that was matched with the stranger's order for the same names.
    Strangers,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = || proptest::sample::select(&ChallengeType::ALL[..]);
    let finding = prop_oneof![
        3 => Just(Finding::Proved),
        3 => Just(Finding::TryAgain),
        1 => Just(Finding::Refused),
    ];
    let seconds = prop_oneof![8 => 0..600_i64, 1 => 0..4000_i64, 1 => Just(3600_i64), 1 => Just(7200_i64)];
    let request = prop_oneof![
        6 => Just(Request::Matching),
        1 => Just(Request::OtherNames),
        1 => Just(Request::Strangers),
    ];
    let off = prop_oneof![6 => Just(0_u32), 1 => 1..3_u32];
    prop_oneof![
        4 => (any::<Index>(), kind()).prop_map(|(which, kind)| Event::Accept(which, kind)),
        6 => (any::<Index>(), kind(), off, finding)
            .prop_map(|(which, kind, off, finding)| Event::Verdict(which, kind, off, finding)),
        4 => any::<Index>().prop_map(Event::Prove),
        1 => Just(Event::ProveAll),
        1 => any::<Index>().prop_map(Event::Deactivate),
        2 => seconds.prop_map(|seconds| Event::TimePasses(SignedDuration::from_secs(seconds))),
        4 => request.prop_map(Event::Finalize),
        2 => (0..2_u8).prop_map(Event::Opened),
        1 => (0..2_u8).prop_map(Event::Gone),
        2 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Event::Issued),
        1 => Just(Event::Failed),
        4 => Just(Event::RequestRevocation),
        4 => any::<bool>().prop_map(Event::AnswerRevocation),
        1 => Just(Event::StoreAndRead),
    ]
}

/// The names' number, the challenges that each of them is offered, and what happens.
fn life() -> impl Strategy<Value = (usize, Vec<Vec<ChallengeType>>, Vec<Event>)> {
    let offered = proptest::sample::subsequence(&ChallengeType::ALL[..], 1..=3);
    (
        1..=Names::COUNT,
        proptest::collection::vec(offered, 5),
        proptest::collection::vec(event(), 0..=40),
    )
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are asked for")]
fn i1_i4_h13_no_life_of_an_order_leaves_the_rfcs_paths() {
    let cases: u32 = std::env::var("LIVES_CASES").map_or(2000, |text| text.parse().unwrap());
    let seen = Seen::default();
    let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| live(cases.div_ceil(threads), &seen));
        }
    });
    println!("lives: {cases}; {seen}");
}

fn live(cases: u32, seen: &Seen) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&life(), |(number, offered, events)| {
        let mut subject = Subject::new(Names::of(number), &offered);
        for event in &events {
            subject.meet(event);
            subject.check();
        }
        seen.add(&subject, events.len());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// An order, and what the model says of it.
struct Subject {
    names: &'static Names,
    order: Order,
    model: Model,
    /// As it was when it was made.
    first: Order,
    /// The proof that it went to the CA with, kept by a worker who may come back late.
    held: Option<ValidatedOrder>,
    /// As it was before the latest event, and when.
    before: (Order, Timestamp),
}

impl Subject {
    fn new(names: &'static Names, offered: &[Vec<ChallengeType>]) -> Self {
        let offered = &offered[..names.identifiers.len()];
        let identifiers = names.identifiers.iter().cloned().zip(offered.iter().cloned());
        let owner = AccountId::random();
        let order = Order::new(owner, "acme".to_owned(), identifiers.collect(), start(), LIFETIME);
        let subject = Self {
            names,
            model: Model::new(offered, start(), order.expires()),
            first: order.clone(),
            before: (order.clone(), start()),
            held: None,
            order,
        };
        subject.compare();
        subject
    }

    fn meet(&mut self, event: &Event) {
        let now = self.model.now;
        let order = self.order.clone();
        match event {
            Event::Accept(which, kind) => self.accept(self.index(which), *kind),
            Event::Verdict(which, kind, off, finding) => {
                let index = self.index(which);
                let known = self.model.authorizations[index].challenges.get(kind);
                let attempt = known.map_or(0, |challenge| challenge.failed_attempts) + off;
                self.verdict(index, *kind, attempt, *finding);
            }
            Event::Prove(which) => self.prove(self.index(which)),
            Event::ProveAll => (0..self.model.authorizations.len()).for_each(|index| self.prove(index)),
            Event::Deactivate(which) => {
                let index = self.index(which);
                self.model.deactivate(index);
                let id = self.id(index, ChallengeType::Http01).authorization;
                self.order = order.deactivate_authorization(id, now).unwrap();
            }
            Event::TimePasses(span) => self.model.time_passes(*span),
            Event::Finalize(request) => self.finalize(*request),
            Event::Opened(url) => {
                self.model.opened(&url.to_string());
                self.order =
                    order.opened_upstream(UpstreamOrder::new(url.to_string(), "https://ca.test/account"));
            }
            Event::Gone(url) => {
                self.model.gone(&url.to_string());
                self.order = order.upstream_is_gone(&url.to_string());
            }
            Event::Issued(true) => {
                if let Some(held) = &self.held {
                    self.model.issued(true);
                    self.order = order.issued(self.names.certificate(held), now);
                }
            }
            Event::Issued(false) => {
                self.model.issued(false);
                self.order = order.issued(self.names.strangers_certificate.clone(), now);
            }
            Event::Failed => {
                self.model.failed();
                self.order = order.failed(problem(), now);
            }
            Event::RequestRevocation => self.request_revocation(),
            Event::AnswerRevocation(confirmed) => {
                self.model.revocation_answered(*confirmed);
                let answer = if *confirmed { Ok(()) } else { Err(problem()) };
                self.order = order.settle_revocation(answer, now);
            }
            Event::StoreAndRead => {
                let stored = serde_json::to_vec(&order).unwrap();
                self.order = serde_json::from_slice(&stored).unwrap();
                assert_eq!(self.order, order);
            }
        }
    }

    fn index(&self, which: &Index) -> usize {
        which.index(self.model.authorizations.len())
    }

    fn id(&self, index: usize, kind: ChallengeType) -> ChallengeId {
        ChallengeId {
            authorization: AuthorizationId {
                order: self.order.id(),
                index: u16::try_from(index).unwrap(),
            },
            kind,
        }
    }

    fn accept(&mut self, index: usize, kind: ChallengeType) {
        let expected = self.model.accept(index, kind);
        let id = self.id(index, kind);
        let outcome = match self.order.clone().accept_challenge(id, self.model.now) {
            Ok(Accepted::Started(order, _)) => {
                self.order = order;
                Outcome::Done
            }
            Ok(Accepted::Unchanged(order)) => {
                assert_eq!(order, self.order);
                Outcome::Nothing
            }
            Err(problem) => {
                assert_eq!(problem.kind, ProblemType::Malformed);
                Outcome::Refused
            }
        };
        assert_eq!(outcome, expected, "accepting {kind} of {index}");
    }

    fn verdict(&mut self, index: usize, kind: ChallengeType, attempt: u32, finding: Finding) {
        let expected = self.model.verdict(index, kind, attempt, finding);
        let verdict = match finding {
            Finding::Proved => Verdict::Proved,
            Finding::TryAgain => Verdict::TryAgain(problem()),
            Finding::Refused => Verdict::Refused(problem()),
        };
        let (id, now) = (self.id(index, kind), self.model.now);
        let settled = self
            .order
            .clone()
            .settle_validation(id, attempt, verdict, ATTEMPTS, now);
        let outcome = match settled {
            Settled::Finished(order) => {
                self.order = order;
                Outcome::Done
            }
            Settled::Repeat(order) => {
                self.order = order;
                Outcome::Repeat
            }
            Settled::Stale => Outcome::Nothing,
        };
        assert_eq!(outcome, expected, "{finding:?} for {kind} of {index}");
    }

    fn prove(&mut self, index: usize) {
        let challenges = &self.model.authorizations[index].challenges;
        let (kind, challenge) = challenges.first_key_value().unwrap();
        let (kind, attempt) = (*kind, challenge.failed_attempts);
        self.accept(index, kind);
        self.check();
        self.verdict(index, kind, attempt, Finding::Proved);
        self.check();
    }

    fn finalize(&mut self, request: Request) {
        let matched = match request {
            Request::Matching => self.names.csr.matching(&self.order, None),
            Request::Strangers => self.names.csr.matching(&self.names.stranger, None),
            Request::OtherNames => {
                let fewer = self.names.identifiers.len() == 1;
                let other = Names::of(if fewer { Names::COUNT } else { 1 });
                let refused = other.csr.matching(&self.order, None).unwrap_err();
                assert_eq!(refused.kind, ProblemType::BadCsr);
                return;
            }
        };
        let expected = self.model.finalize(request == Request::Matching);
        let deadline = DEADLINE.unsigned_abs();
        match self
            .order
            .clone()
            .finalize(matched.unwrap(), self.model.now, deadline)
        {
            Ok((order, _)) => {
                assert_eq!(expected, Outcome::Done);
                self.order = order;
            }
            Err(problem) => {
                assert_eq!(expected, Outcome::Refused, "{problem}");
                let ready = self.model.status == "ready";
                assert_eq!(ready, problem.kind != ProblemType::OrderNotReady, "{problem}");
            }
        }
    }

    fn request_revocation(&mut self) {
        let expected = self.model.revocation_requested();
        match self.order.clone().request_revocation(None, self.model.now) {
            Ok((order, _)) => {
                assert_eq!(expected, Outcome::Done);
                self.order = order;
            }
            Err(problem) => assert_eq!(expected, Outcome::Refused, "{problem}"),
        }
    }

    /// The order is what the model says, and has come there by a way that there is.
    fn check(&mut self) {
        self.compare();
        let ((before, then), now) = (&self.before, self.model.now);
        edge(ORDER, before.status(*then), self.order.status(now));
        let both = before.authorizations().iter().zip(self.order.authorizations());
        for (old, new) in both {
            let (was, is) = (
                old.status(before.expires(), *then),
                new.status(self.order.expires(), now),
            );
            edge(AUTHORIZATION, was, is);
            for kind in ChallengeType::ALL {
                match (old.challenge(kind), new.challenge(kind)) {
                    (Some(old), Some(new)) => edge(CHALLENGE, old.status(), new.status()),
                    (old, new) => assert_eq!(old, new, "H13"),
                }
            }
        }
        assert!(
            before.expires() <= self.order.expires(),
            "an order does not end earlier"
        );
        if let Some(proof) = self.order.validated(now) {
            self.held = Some(proof);
        }
        self.before = (self.order.clone(), now);
    }

    fn compare(&self) {
        let (order, model, now) = (&self.order, &self.model, self.model.now);
        assert_eq!(order.status(now).to_string(), model.status);
        assert_eq!(order.expires(), model.expires);
        self.compare_authorizations();
        let all_valid = model.authorizations.iter().all(|a| a.status == "valid");
        let proof = order.validated(now);
        assert_eq!(proof.is_some(), model.status == "processing" && all_valid, "I1");
        if let Some(proof) = proof {
            assert_eq!(proof.identifiers(), self.names.identifiers, "I1");
            let opened = proof.upstream().map(|opened| opened.url.as_str());
            assert_eq!(opened, model.upstream.as_deref());
            assert_eq!(proof.expires(), model.expires);
        }
        assert_eq!(order.problem(now).is_some(), model.status == "invalid");
        assert_eq!(order.certificate().is_some(), model.status == "valid");
        let revocation = order.revocation().map(|revocation| match revocation {
            Revocation::Requested { .. } => "requested",
            Revocation::Confirmed { .. } => "confirmed",
            Revocation::Refused { .. } => "refused",
        });
        assert_eq!(revocation, model.revocation);
        match model.status {
            "processing" => assert!(order.in_line_since().is_some()),
            "invalid" => {}
            _ => assert_eq!(order.in_line_since(), None),
        }
        if model.status != "invalid" {
            assert!(order.delete_after() > now, "it is deleted while it lives");
        }
    }

    fn compare_authorizations(&self) {
        let (order, model, now) = (&self.order, &self.model, self.model.now);
        assert!(order.identifiers().eq(&self.names.identifiers), "H13");
        let first = self.first.authorizations().iter().map(|a| a.token());
        assert!(order.authorizations().iter().map(|a| a.token()).eq(first), "H13");
        assert_eq!(
            (order.id(), order.account(), order.created()),
            (self.first.id(), self.first.account(), self.first.created())
        );
        for (index, expected) in model.authorizations.iter().enumerate() {
            let authorization = &order.authorizations()[index];
            assert_eq!(
                authorization.status(order.expires(), now).to_string(),
                expected.status
            );
            for (kind, challenge) in &expected.challenges {
                let stored = authorization.challenge(*kind).expect("H13");
                assert_eq!(stored.status(), challenge.status, "{kind} of {index}");
                let looked_for = expected.status == "pending" && challenge.status == "processing";
                assert_eq!(
                    order.attempt(self.id(index, *kind), now),
                    looked_for.then_some(challenge.failed_attempts)
                );
            }
            // RFC 8555 §7.1.4: once it is settled, only the challenge that settled it is shown.
            let is_settled = |status: &str| ["valid", "invalid"].contains(&status);
            let settled = expected.challenges.values().any(|c| is_settled(c.status));
            for shown in authorization.challenges() {
                assert!(!settled || is_settled(shown.status()));
            }
        }
    }
}

fn edge(edges: &[(&str, &str)], from: impl ToString, to: impl ToString) {
    let (from, to) = (from.to_string(), to.to_string());
    let legal = from == to || edges.contains(&(from.as_str(), to.as_str()));
    assert!(legal, "I4: from {from} to {to}");
}

fn problem() -> Problem {
    Problem::new(ProblemType::Dns, "no answer")
}

/// How far the lives went, so that nobody thinks they all end in the nursery.
#[derive(Debug, Default)]
struct Seen {
    events: AtomicU64,
    ended: [AtomicU64; 5],
    finalized: AtomicU64,
    revoked: AtomicU64,
}

const STATUSES: [&str; 5] = ["pending", "ready", "processing", "valid", "invalid"];

impl Seen {
    fn add(&self, subject: &Subject, events: usize) {
        let count = |counter: &AtomicU64, so_many: usize| {
            counter.fetch_add(so_many.try_into().unwrap(), Ordering::Relaxed);
        };
        count(&self.events, events);
        for (counter, status) in self.ended.iter().zip(STATUSES) {
            count(counter, usize::from(subject.model.status == status));
        }
        count(&self.finalized, usize::from(subject.held.is_some()));
        count(
            &self.revoked,
            usize::from(subject.model.revocation == Some("confirmed")),
        );
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(f, "events {}", of(&self.events))?;
        for (counter, status) in self.ended.iter().zip(STATUSES) {
            write!(f, ", {status} {}", of(counter))?;
        }
        let (finalized, revoked) = (of(&self.finalized), of(&self.revoked));
        write!(f, " at their end; finalized {finalized}, revoked {revoked}")
    }
}
