//! Which of several processes changes the records, where several work for one CA: one at a time, for a term. What is known
//! of the records is known to that one, and forgotten with its term.

use async_trait::async_trait;

/// Says who it is.
#[async_trait]
pub trait Lead: Send + Sync {
    /// The term of this process, as far as it knows; `None`: it is another one's turn, or nobody's.
    fn term(&self) -> Option<u64>;

    /// Whether that term still lasts, asked of those who know; `None` if they do not answer. No other process changes
    /// anything for some time after this has said that it does.
    async fn lasts(&self, term: u64) -> Option<bool>;

    /// Returns once this process does not know any more that it is in that term.
    async fn ended(&self, term: u64);
}
