//! The model: statuses that are kept and moved, event by event, as the diagrams of RFC 8555 §7.1.6 have them. It shares no
//! line with what it is held against, which derives them.

use std::collections::BTreeMap;

use acme_proxy::acme::challenge::ChallengeType;
use jiff::{SignedDuration, Timestamp};

/// How often a challenge is tried.
pub(crate) const ATTEMPTS: u32 = 3;

/// How long the CA has.
pub(crate) const DEADLINE: SignedDuration = SignedDuration::from_hours(2);

/// What may follow what; everything may stay as it is.
pub(crate) const ORDER: &[(&str, &str)] = &[
    ("pending", "ready"),
    ("pending", "invalid"),
    ("ready", "processing"),
    ("ready", "invalid"),
    ("processing", "valid"),
    ("processing", "invalid"),
];
pub(crate) const AUTHORIZATION: &[(&str, &str)] = &[
    ("pending", "valid"),
    ("pending", "invalid"),
    ("pending", "deactivated"),
    ("pending", "expired"),
    ("valid", "deactivated"),
    ("valid", "expired"),
];
pub(crate) const CHALLENGE: &[(&str, &str)] = &[
    ("pending", "processing"),
    ("processing", "valid"),
    ("processing", "invalid"),
];

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) status: &'static str,
    pub(crate) authorizations: Vec<Authorization>,
    pub(crate) expires: Timestamp,
    pub(crate) upstream: Option<String>,
    /// None, `requested`, `confirmed` or `refused`.
    pub(crate) revocation: Option<&'static str>,
    pub(crate) now: Timestamp,
}

#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    pub(crate) status: &'static str,
    pub(crate) challenges: BTreeMap<ChallengeType, Challenge>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Challenge {
    pub(crate) status: &'static str,
    pub(crate) failed_attempts: u32,
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It is under way: the work is to be repeated.
    Repeat,
    /// Nothing changes.
    Nothing,
    /// It is refused, and nothing changes.
    Refused,
}

/// What an attempt has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Proved,
    TryAgain,
    Refused,
}

impl Model {
    pub(crate) fn new(offered: &[Vec<ChallengeType>], now: Timestamp, expires: Timestamp) -> Self {
        let pending = Challenge {
            status: "pending",
            failed_attempts: 0,
        };
        let authorization = |kinds: &Vec<ChallengeType>| Authorization {
            status: "pending",
            challenges: kinds.iter().map(|kind| (*kind, pending)).collect(),
        };
        Self {
            status: "pending",
            authorizations: offered.iter().map(authorization).collect(),
            expires,
            upstream: None,
            revocation: None,
            now,
        }
    }

    pub(crate) fn time_passes(&mut self, span: SignedDuration) {
        self.now += span;
        if self.now < self.expires {
            return;
        }
        for authorization in &mut self.authorizations {
            if ["pending", "valid"].contains(&authorization.status) {
                authorization.status = "expired";
            }
        }
        self.end_without_certificate();
    }

    /// "Authorization failure", "Error", or the end of its time.
    fn end_without_certificate(&mut self) {
        if self.status != "valid" {
            self.status = "invalid";
        }
    }

    pub(crate) fn accept(&mut self, index: usize, kind: ChallengeType) -> Outcome {
        let authorization = &mut self.authorizations[index];
        let Some(challenge) = authorization.challenges.get_mut(&kind) else {
            return Outcome::Refused;
        };
        match (authorization.status, challenge.status) {
            ("pending", "pending") => {
                challenge.status = "processing";
                Outcome::Done
            }
            ("pending" | "valid", "processing" | "valid") => Outcome::Nothing,
            _ => Outcome::Refused,
        }
    }

    pub(crate) fn verdict(
        &mut self,
        index: usize,
        kind: ChallengeType,
        attempt: u32,
        finding: Finding,
    ) -> Outcome {
        let authorization = &mut self.authorizations[index];
        let Some(challenge) = authorization.challenges.get_mut(&kind) else {
            return Outcome::Nothing;
        };
        let awaited = challenge.status == "processing" && challenge.failed_attempts == attempt;
        if authorization.status != "pending" || !awaited {
            return Outcome::Nothing;
        }
        match finding {
            Finding::Proved => {
                challenge.status = "valid";
                authorization.status = "valid";
                if self.status == "pending" && self.authorizations.iter().all(|a| a.status == "valid") {
                    self.status = "ready";
                }
            }
            Finding::TryAgain if attempt + 1 < ATTEMPTS => {
                challenge.failed_attempts += 1;
                return Outcome::Repeat;
            }
            Finding::TryAgain | Finding::Refused => {
                challenge.status = "invalid";
                authorization.status = "invalid";
                self.end_without_certificate();
            }
        }
        Outcome::Done
    }

    pub(crate) fn deactivate(&mut self, index: usize) {
        let authorization = &mut self.authorizations[index];
        if ["pending", "valid"].contains(&authorization.status) {
            authorization.status = "deactivated";
            self.end_without_certificate();
        }
    }

    pub(crate) fn finalize(&mut self, matches: bool) -> Outcome {
        if self.status != "ready" || !matches {
            return Outcome::Refused;
        }
        self.status = "processing";
        self.expires = self.now + DEADLINE;
        Outcome::Done
    }

    pub(crate) fn opened(&mut self, url: &str) {
        if self.status == "processing" {
            self.upstream.get_or_insert_with(|| url.to_owned());
        }
    }

    pub(crate) fn gone(&mut self, url: &str) {
        if self.status == "processing" && self.upstream.as_deref() == Some(url) {
            self.upstream = None;
        }
    }

    pub(crate) fn issued(&mut self, ours: bool) {
        if self.status == "processing" && ours {
            self.status = "valid";
        }
    }

    pub(crate) fn failed(&mut self) {
        if self.status == "processing" {
            self.status = "invalid";
        }
    }

    pub(crate) fn revocation_requested(&mut self) -> Outcome {
        if self.status != "valid" || self.revocation == Some("confirmed") {
            return Outcome::Refused;
        }
        self.revocation = Some("requested");
        Outcome::Done
    }

    pub(crate) fn revocation_answered(&mut self, confirmed: bool) {
        if self.revocation == Some("requested") {
            self.revocation = Some(if confirmed { "confirmed" } else { "refused" });
        }
    }
}
