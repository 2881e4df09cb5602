//! Anti-replay nonces (RFC 8555 §6.5): a counter under a MAC, and one bit for each of the latest ones.
//!
//! Nothing is stored when a nonce is handed out, so a flood of new-nonce requests costs no memory: it only moves the
//! window on, by as much as it asked for. The key lives as long as the process; after a restart every nonce is unknown,
//! and the client repeats its request with the one that comes with the refusal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How many nonces are outstanding at most: the oldest ones expire. One bit each, 512 KiB.
const WINDOW: u64 = 1 << 22;

const COUNTER_BYTES: usize = 8;

/// 192 bits of a MAC that nobody can predict (RFC 8555 §6.5.1 asks for at least 128).
const TAG_BYTES: usize = 24;

/// Mints and redeems nonces.
pub(crate) struct Nonces {
    key: hmac::Key,
    next: AtomicU64,
    /// One bit for each counter modulo [`WINDOW`]: whether the nonce may still be redeemed.
    outstanding: Mutex<Vec<u64>>,
}

/// A nonce that this process has minted, and may or may not have been used since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authentic(u64);

impl Default for Nonces {
    #[expect(
        clippy::expect_used,
        reason = "without entropy there is no safe way on; the process must stop"
    )]
    fn default() -> Self {
        let random = rand::SystemRandom::new();
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system's random source works"),
            next: AtomicU64::new(0),
            outstanding: Mutex::new(vec![0; usize::try_from(WINDOW / 64).unwrap_or_default()]),
        }
    }
}

impl Nonces {
    /// A new nonce.
    pub(crate) fn mint(&self) -> String {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        self.with_bit(counter, |word, bit| *word |= bit);
        let mut bytes = [0; COUNTER_BYTES + TAG_BYTES];
        let (head, tail) = bytes.split_at_mut(COUNTER_BYTES);
        head.copy_from_slice(&counter.to_be_bytes());
        let tag = hmac::sign(&self.key, &counter.to_be_bytes());
        tail.iter_mut()
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether this process has minted the nonce. Cheap, and before the signature is looked at.
    pub(crate) fn authenticate(&self, nonce: &str) -> Option<Authentic> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (counter, tag) = bytes.split_first_chunk::<COUNTER_BYTES>()?;
        let expected = hmac::sign(&self.key, counter);
        constant_time::verify_slices_are_equal(tag, expected.as_ref().get(..TAG_BYTES)?).ok()?;
        Some(Authentic(u64::from_be_bytes(*counter)))
    }

    /// Uses the nonce up. Only after the signature has been verified: else anybody could use up others' nonces.
    pub(crate) fn redeem(&self, Authentic(counter): Authentic) -> bool {
        if counter.saturating_add(WINDOW) <= self.next.load(Ordering::Relaxed) {
            return false;
        }
        self.with_bit(counter, |word, bit| {
            let outstanding = *word & bit != 0;
            *word &= !bit;
            outstanding
        })
        .unwrap_or(false)
    }

    fn with_bit<T>(&self, counter: u64, act: impl FnOnce(&mut u64, u64) -> T) -> Option<T> {
        let position = counter % WINDOW;
        let mut words = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        let word = words.get_mut(usize::try_from(position / 64).ok()?)?;
        Some(act(word, 1 << (position % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redeemed(nonces: &Nonces, nonce: &str) -> bool {
        nonces
            .authenticate(nonce)
            .is_some_and(|authentic| nonces.redeem(authentic))
    }

    #[test]
    fn c5_a_nonce_is_accepted_once() {
        let nonces = Nonces::default();
        let nonce = nonces.mint();
        assert!(redeemed(&nonces, &nonce));
        assert!(!redeemed(&nonces, &nonce));
    }

    #[test]
    fn c2_a_nonce_is_base64url_of_more_than_128_bits_and_never_repeats() {
        let nonces = Nonces::default();
        let (first, second) = (nonces.mint(), nonces.mint());
        assert_ne!(first, second);
        assert!(
            first.len() >= 22
                && first
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
    }

    #[test]
    fn c224_foreign_truncated_and_altered_nonces_are_unknown() {
        let nonces = Nonces::default();
        let nonce = nonces.mint();
        let altered = nonce.replacen(['A', 'B'], "C", 1);
        for wrong in [
            "",
            "AAAA",
            &nonce[..nonce.len() - 4],
            &Nonces::default().mint(),
            &altered,
            &format!("{nonce}AAAA"),
        ] {
            assert!(nonces.authenticate(wrong).is_none(), "{wrong}");
        }
        assert!(redeemed(&nonces, &nonce));
    }

    #[test]
    fn c8_c117_a_flood_of_new_nonces_costs_no_memory_and_the_oldest_expire() {
        let nonces = Nonces::default();
        let oldest = nonces.mint();
        let size = nonces.outstanding.lock().unwrap().capacity();
        nonces.next.fetch_add(WINDOW - 1, Ordering::Relaxed);
        assert!(!redeemed(&nonces, &oldest));
        let newest = nonces.mint();
        assert!(redeemed(&nonces, &newest));
        assert_eq!(nonces.outstanding.lock().unwrap().capacity(), size);
    }
}
