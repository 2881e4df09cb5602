//! What may go wrong at the CA and on the way to it. Tests bring trouble of their own; otherwise there is none.

use async_trait::async_trait;

use super::problem::Problem;

/// Trouble for one CA.
#[async_trait]
pub(crate) trait Trouble: Send + Sync {
    /// Whether the CA is down: then a connection is closed as soon as it is opened. The port stays bound, so that
    /// nobody else takes it meanwhile.
    fn is_down(&self) -> bool {
        false
    }

    /// Returns when the CA goes down: open connections break then, whatever they are at.
    async fn going_down(&self) {
        std::future::pending().await
    }

    /// Before a signed request is looked at. A problem is the answer, and nothing is done.
    async fn before(&self, _path: &str) -> Result<(), Problem> {
        Ok(())
    }

    /// After a signed request has been done, and before it is answered.
    async fn after(&self, _path: &str) {}
}

/// None at all.
pub(crate) struct NoTrouble;

impl Trouble for NoTrouble {}
