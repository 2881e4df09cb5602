//! The time, read here and nowhere else. Everything below the use cases gets it as a parameter.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;

/// Tells the time: the system's, or one that a test moves by hand.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    by_hand: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's time.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now` until [`Self::advance`] moves it. For tests.
    pub fn by_hand(now: Timestamp) -> Self {
        Self {
            by_hand: Some(Arc::new(AtomicI64::new(now.as_millisecond()))),
        }
    }

    /// The time, to the millisecond.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where the clock is read"
    )]
    pub fn now(&self) -> Timestamp {
        let milliseconds = match &self.by_hand {
            Some(hand) => hand.load(Ordering::SeqCst),
            None => Timestamp::now().as_millisecond(),
        };
        Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
    }

    /// Moves a clock made with [`Self::by_hand`]; the system's clock stays as it is.
    pub fn advance(&self, span: std::time::Duration) {
        if let Some(hand) = &self.by_hand {
            hand.fetch_add(
                i64::try_from(span.as_millis()).unwrap_or(i64::MAX),
                Ordering::SeqCst,
            );
        }
    }

    /// A point on the monotonic clock, for durations.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where the clock is read"
    )]
    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}
