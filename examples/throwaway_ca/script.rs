//! What the throwaway CA is told to do wrong, and what it has been asked: the one place where a test scripts it.
//!
//! A rule is a [`Step`], how often ([`Times`]) and what happens then ([`Twist`]):
//! `ca.will(Step::Finalize, Times::Next(2), Twist::Refuse(Problem::new(503, "serverInternal", "later")))`.
//! How the CA is when it does nothing wrong is said by [`Options`](super::Options).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use super::pki::Flaw;
use super::problem::Problem;
use super::state::lock;
use super::wire::Raw;

/// What the CA can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Step {
    Directory,
    NewNonce,
    NewAccount,
    Account,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RevokeCert,
    KeyChange,
    RenewalInfo,
}

impl Step {
    /// What a path asks for.
    pub(crate) fn of(path: &[&str]) -> Option<Self> {
        Some(match path {
            ["directory", ..] => Self::Directory,
            ["new-nonce"] => Self::NewNonce,
            ["new-account"] => Self::NewAccount,
            ["account", _] => Self::Account,
            ["new-order"] => Self::NewOrder,
            ["order", _] => Self::Order,
            ["order", _, "finalize"] => Self::Finalize,
            ["authz", _, _] => Self::Authorization,
            ["challenge", _, _, _] => Self::Challenge,
            ["certificate", ..] => Self::Certificate,
            ["revoke-cert"] => Self::RevokeCert,
            ["key-change"] => Self::KeyChange,
            ["renewal-info", _] => Self::RenewalInfo,
            _ => return None,
        })
    }
}

/// How often a rule holds, from the moment that it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// Every time.
    Always,
    /// The next so many times.
    Next(usize),
    /// Once, at the time with this number; the next one is 1.
    Nth(usize),
    /// So many times in a hundred, by chance.
    Percent(u8),
}

impl Times {
    /// Whether it holds now; the next question is about the next time.
    fn holds(&mut self) -> bool {
        match self {
            Self::Always => true,
            Self::Next(left) => {
                let now = *left > 0;
                *left = left.saturating_sub(1);
                now
            }
            Self::Nth(left) => {
                let now = *left == 1;
                *left = left.saturating_sub(1);
                now
            }
            Self::Percent(share) => {
                let mut byte = [0];
                let limit = u16::from(*share) * 256 / 100;
                rand::fill(&mut byte).is_ok() && byte.iter().all(|byte| u16::from(*byte) < limit)
            }
        }
    }
}

/// What happens instead of what should.
#[derive(Clone)]
pub(crate) enum Twist {
    /// Nothing is done, and this is the answer; a nonce goes with it.
    Refuse(Problem),
    /// Nothing is done, and this is all of the answer.
    Instead(Answer),
    /// It is done, and then the answer is changed.
    Edit(Arc<dyn Fn(&mut Answer) + Send + Sync>),
    /// It is done, and then these bytes leave instead of the answer.
    Raw(Raw),
    /// It is done, and never answered; the connection stays.
    Silence,
    /// At [`Step::Finalize`]: the certificate is not what was ordered.
    Flaw(Flaw),
}

impl Twist {
    /// It is done, and the answer is changed by this.
    pub(crate) fn edit(change: impl Fn(&mut Answer) + Send + Sync + 'static) -> Self {
        Self::Edit(Arc::new(change))
    }

    /// It is done, and the JSON of the answer is changed by this.
    pub(crate) fn json(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::edit(move |answer| {
            let mut body = serde_json::from_slice(&answer.body).unwrap_or_default();
            change(&mut body);
            answer.body = body.to_string().into_bytes();
        })
    }

    /// It is done, and the text of the answer, most often a chain, is changed by this.
    pub(crate) fn text(change: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::edit(move |answer| {
            let text = change(&String::from_utf8_lossy(&answer.body));
            answer.body = text.into_bytes();
        })
    }

    /// It is done, and the answer gets this header in place of its own.
    pub(crate) fn header(name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self::edit(move |answer| answer.set(name, &value))
    }
}

/// The rules, and the counts.
#[derive(Default)]
pub(crate) struct Script {
    asked: Mutex<BTreeMap<Step, usize>>,
    rules: Mutex<Vec<(Step, Times, Twist)>>,
}

impl Script {
    /// Adds a rule. Where several hold, the one that was made first does.
    pub(crate) fn add(&self, at: Step, times: Times, what: Twist) {
        lock(&self.rules).push((at, times, what));
    }

    /// Forgets all rules.
    pub(crate) fn clear(&self) {
        lock(&self.rules).clear();
    }

    /// Counts a request, and tells what goes wrong with it.
    pub(crate) fn begin(&self, step: Step) -> Option<Twist> {
        *lock(&self.asked).entry(step).or_default() += 1;
        let mut rules = lock(&self.rules);
        let mut of_step = rules.iter_mut().filter(|(at, ..)| *at == step);
        of_step.find_map(|(_, times, what)| times.holds().then(|| what.clone()))
    }

    /// How often each step was asked for.
    pub(crate) fn asked(&self) -> BTreeMap<Step, usize> {
        lock(&self.asked).clone()
    }
}
