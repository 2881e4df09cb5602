//! What is counted on the way.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Kills,
    Cuts,
    Failovers,
    /// Of everything: both servers of the database and all replicas.
    Restarts,
    /// SIGTERM to one replica after the other.
    RollingRestarts,
    /// Replicas that had to be killed after SIGTERM, or did not end well.
    Insisted,
    /// Replicas that ended without being told to.
    EndedByThemselves,
    Requests,
    /// Requests without an answer.
    Unanswered,
    /// Answers of 429 and 5xx.
    ComeAgain,
    BadNonces,
    /// From the order's answer to the end, in seconds.
    SlowestOrder,
}

impl Figure {
    /// All of them in the order of their declaration, with what they are called.
    pub(crate) const ALL: [(Self, &str); 12] = [
        (Self::Kills, "replica kills"),
        (Self::Cuts, "cuts from the database"),
        (Self::Failovers, "failovers"),
        (Self::Restarts, "restarts of everything"),
        (Self::RollingRestarts, "rolling restarts"),
        (Self::Insisted, "replicas that did not end at SIGTERM"),
        (Self::EndedByThemselves, "replicas that ended by themselves"),
        (Self::Requests, "requests"),
        (Self::Unanswered, "requests without an answer"),
        (Self::ComeAgain, "answers of 429 and 5xx"),
        (Self::BadNonces, "answers of badNonce"),
        (Self::SlowestOrder, "seconds that the slowest order took"),
    ];
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Figures([AtomicU64; Figure::ALL.len()]);

impl Figures {
    /// So many more.
    pub(crate) fn add(&self, figure: Figure, count: u64) {
        if let Some(place) = self.0.get(figure as usize) {
            place.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// It is not less than this.
    pub(crate) fn at_least(&self, figure: Figure, value: u64) {
        if let Some(place) = self.0.get(figure as usize) {
            place.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// How many there were.
    pub(crate) fn of(&self, figure: Figure) -> u64 {
        let place = self.0.get(figure as usize);
        place.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
