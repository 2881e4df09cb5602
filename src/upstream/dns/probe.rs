//! A record that proves that the provider and the way to it work: written, looked for and taken back, whatever happens in
//! between. No order waits for it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;

use crate::upstream::dns::Record;
use crate::upstream::dns::Solver;
use crate::upstream::dns::propagation::Sight;
use crate::upstream::dns::provider::Action;

/// How often the record is taken back before it is left to the operator.
const WITHDRAWALS: u32 = 3;

/// The longest wait before one, whatever the provider asks for: somebody waits for the outcome.
const PAUSE_CEILING: Duration = Duration::from_secs(60);

/// The longest pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub struct Probed {
    /// Where the record was put: aliases have been followed.
    pub name: String,
    /// How far it came.
    pub came: Came,
    /// Why it is still there, if it is.
    pub left_behind: Option<String>,
}

/// How far the record came.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// All of the zone's servers that answer have it.
    Seen,
    /// It was written, and one of the zone's servers did not have it in time.
    Missing,
    /// It was written, and none of the zone's servers can be asked.
    Unclear,
    /// The provider did not write it: why.
    Refused(String),
    /// It is not known where it has to be written: why.
    Nowhere(String),
    /// Somebody wanted it to end.
    Interrupted,
}

impl Solver {
    /// Writes the record, looks for it for so long, and takes it back. An interruption ends only the looking.
    pub async fn probe(&self, wanted: &Record, patience: Duration, interrupted: impl Future) -> Probed {
        let name = match self.place_of(wanted).await {
            Ok(name) => name,
            Err(error) => {
                return Probed {
                    name: wanted.name.clone(),
                    came: Came::Nowhere(error.to_string()),
                    left_behind: None,
                };
            }
        };
        let at = Record {
            name,
            ..wanted.clone()
        };
        let came = tokio::select! {
            // Whoever interrupts is heard before there is anything to take back.
            biased;
            _ = interrupted => Came::Interrupted,
            came = self.written(&at, patience) => came,
        };
        Probed {
            left_behind: self.taken_back(&at).await.err(),
            name: at.name,
            came,
        }
    }

    async fn written(&self, at: &Record, patience: Duration) -> Came {
        if let Err(refused) = self.desk.apply(Action::Present, at).await {
            return Came::Refused(refused.detail);
        }
        let deadline = Instant::now() + patience;
        loop {
            let authorities = self.lookout.authorities(&at.name).await;
            match self.lookout.sees(at, &authorities).await {
                Sight::Seen => return Came::Seen,
                Sight::Missing if Instant::now() >= deadline => return Came::Missing,
                Sight::Unclear if Instant::now() >= deadline => return Came::Unclear,
                Sight::Missing | Sight::Unclear => {
                    sleep(self.settings.polling_interval.min(LOOK_EVERY)).await
                }
            }
        }
    }

    /// Also if it was not written as far as is known: a call that failed may have written it.
    async fn taken_back(&self, at: &Record) -> Result<(), String> {
        let mut why = String::new();
        for _ in 0..WITHDRAWALS {
            sleep(self.desk.pause().unwrap_or_default().min(PAUSE_CEILING)).await;
            match self.desk.apply(Action::Withdraw, at).await {
                Ok(()) => return Ok(()),
                Err(refused) => why = refused.detail,
            }
            sleep(Duration::from_secs(1)).await;
        }
        Err(why)
    }
}
