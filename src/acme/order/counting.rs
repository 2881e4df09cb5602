//! Which orders count against what a name may have: those that have cost something at the CA, or are about to.

use jiff::Timestamp;

use crate::acme::order::{Order, Stage};

impl Order {
    /// Since when it counts as an order for its names: it has been finalized, and has not ended without a certificate.
    /// One that is not finalized counts for nothing, or whoever opens orders could use up what is another's.
    pub fn counts_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Open | Stage::Failed { .. } => None,
            Stage::Processing { finalized, .. } | Stage::Awaited { finalized, .. } => {
                Some(self.finalized.unwrap_or(finalized))
            }
            // Orders of earlier versions do not know when they were finalized; that was within a day.
            Stage::Issued { .. } | Stage::Late { .. } => Some(self.finalized.unwrap_or(self.created)),
        }
    }

    /// The same order, whose certificate is to be valid so many days at most.
    pub fn lasting_at_most(mut self, days: Option<u32>) -> Self {
        self.wishes.at_most_days = days;
        self
    }
}
