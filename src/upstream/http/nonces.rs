//! The CA's nonces that have not been used yet: that of an answer serves the next request, whoever makes it (RFC 8555 §6.5).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use http::HeaderMap;

use crate::upstream::http::answer::text;

/// The header with a nonce.
pub(crate) const REPLAY_NONCE: &str = "replay-nonce";

/// Kept at most. CAs let theirs expire: a hoard would only be refused.
const MAX_NONCES: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Nonces(Mutex<VecDeque<String>>);

impl Nonces {
    /// The youngest: it will be good for longest.
    pub(crate) fn take(&self) -> Option<String> {
        self.all().pop_back()
    }

    /// Keeps an answer's. RFC 8555 §6.5.1: "Clients MUST ignore invalid Replay-Nonce values."
    pub(crate) fn keep(&self, headers: &HeaderMap) {
        let base64url = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let valid = |nonce: &String| (1..=256).contains(&nonce.len()) && nonce.bytes().all(base64url);
        let Some(nonce) = text(headers, REPLAY_NONCE).filter(valid) else {
            return;
        };
        let mut nonces = self.all();
        if nonces.len() >= MAX_NONCES {
            nonces.pop_front();
        }
        nonces.push_back(nonce);
    }

    /// Keeps none of them any longer.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
