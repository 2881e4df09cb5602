//! Anti-replay nonces (RFC 8555 §6.5): a number under a MAC. Nothing is stored when one is handed out, so a flood of
//! new-nonce requests costs no memory and no write.
//!
//! A server that has its store to itself counts, and keeps one bit for each of the latest nonces: a flood moves that window
//! on, by as much as it asked for. The key lives as long as the process; after a restart every nonce is unknown, and the
//! client repeats its request with the one that comes with the refusal.
//!
//! Servers that share a store share the key, too, so that each knows the others' nonces: the number is the time and some
//! randomness, and those that have been used are in the store until they are too old.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use crate::acme::order::after;
use crate::acme::random::random_bytes;
use crate::ra::{Refusal, RegistrationAuthority};

/// How many nonces are outstanding at most: the oldest ones expire. One bit each, 512 KiB.
const WINDOW: u64 = 1 << 22;

/// For how long a nonce that servers share is good, and remembered once it is used.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A counter, or a time in milliseconds; and randomness where servers share them.
const NUMBER_BYTES: usize = 16;

/// 192 bits of a MAC that nobody can predict (RFC 8555 §6.5.1 asks for at least 128).
const TAG_BYTES: usize = 24;

/// Mints and redeems nonces.
pub(crate) struct Nonces {
    key: hmac::Key,
    /// `None` if what has been used is in the store.
    window: Option<Window>,
}

/// The latest nonces of this process.
struct Window {
    next: AtomicU64,
    /// One bit for each counter modulo [`WINDOW`]: whether the nonce may still be redeemed.
    outstanding: Mutex<Vec<u64>>,
}

/// A nonce that this process has minted, or one that it shares them with; it may or may not have been used since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authentic([u8; NUMBER_BYTES]);

impl Authentic {
    /// The counter, or the time.
    fn head(&self) -> u64 {
        u64::try_from(u128::from_be_bytes(self.0) >> 64).unwrap_or_default()
    }
}

impl Nonces {
    /// Nonces of the servers that have this key in common, or of this process alone.
    pub(crate) fn new(shared: Option<[u8; 32]>) -> Self {
        let random: [u8; 32] = random_bytes();
        let key = shared.unwrap_or(random);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            window: shared.is_none().then(Window::default),
        }
    }

    /// A new nonce.
    pub(crate) fn mint(&self, now: Timestamp) -> String {
        let number = match &self.window {
            Some(window) => joined(window.next(), [0; 8]),
            None => joined(milliseconds(now), random_bytes()),
        };
        let tag = hmac::sign(&self.key, &number);
        let mut bytes = number.to_vec();
        bytes.extend(tag.as_ref().iter().take(TAG_BYTES));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether the nonce is one of ours. Cheap, and before the signature is looked at.
    pub(crate) fn authenticate(&self, nonce: &str) -> Option<Authentic> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (number, tag) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
        let expected = hmac::sign(&self.key, number);
        constant_time::verify_slices_are_equal(tag, expected.as_ref().get(..TAG_BYTES)?).ok()?;
        Some(Authentic(*number))
    }

    /// Uses the nonce up. Only after the signature has been verified: else anybody could use up others' nonces.
    ///
    /// # Errors
    ///
    /// Of the store that servers share. The nonce may have been used then.
    pub(crate) async fn redeem(&self, nonce: Authentic, ra: &RegistrationAuthority) -> Result<bool, Refusal> {
        if let Some(window) = &self.window {
            return Ok(window.redeem(nonce.head()));
        }
        let minted = i64::try_from(nonce.head()).ok();
        let minted = minted.and_then(|time| Timestamp::from_millisecond(time).ok());
        match minted
            .map(|time| after(time, LIFETIME))
            .filter(|end| ra.now() < *end)
        {
            // Twice as long as it is good, for not all clocks are the same.
            Some(end) => ra.use_nonce(&nonce.0, after(end, LIFETIME)).await,
            None => Ok(false),
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            outstanding: Mutex::new(vec![0; usize::try_from(WINDOW / 64).unwrap_or_default()]),
        }
    }
}

impl Window {
    fn next(&self) -> u64 {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        self.with_bit(counter, |word, bit| *word |= bit);
        counter
    }

    fn redeem(&self, counter: u64) -> bool {
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

fn milliseconds(now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or_default()
}

fn joined(head: u64, tail: [u8; 8]) -> [u8; NUMBER_BYTES] {
    let (head, tail) = (u128::from(head), u128::from(u64::from_be_bytes(tail)));
    (head << 64 | tail).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> Nonces {
        Nonces::new(None)
    }

    fn minted(nonces: &Nonces) -> String {
        nonces.mint(Timestamp::UNIX_EPOCH)
    }

    fn window(nonces: &Nonces) -> &Window {
        nonces.window.as_ref().unwrap()
    }

    fn redeemed(nonces: &Nonces, nonce: &str) -> bool {
        nonces
            .authenticate(nonce)
            .is_some_and(|authentic| window(nonces).redeem(authentic.head()))
    }

    #[test]
    fn c5_a_nonce_is_accepted_once() {
        let nonces = alone();
        let nonce = minted(&nonces);
        assert!(redeemed(&nonces, &nonce));
        assert!(!redeemed(&nonces, &nonce));
    }

    #[test]
    fn c2_a_nonce_is_base64url_of_more_than_128_bits_and_never_repeats() {
        for nonces in [alone(), Nonces::new(Some([7; 32]))] {
            let (first, second) = (minted(&nonces), minted(&nonces));
            assert_ne!(first, second);
            let is_base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            assert!(first.len() >= 22 && first.bytes().all(is_base64url));
        }
    }

    #[test]
    fn f44_servers_with_one_key_know_each_others_nonces_and_no_others() {
        let [first, second, stranger] = [1, 1, 2].map(|key| Nonces::new(Some([key; 32])));
        let nonce = minted(&first);
        let known = second.authenticate(&nonce).unwrap();
        assert_eq!(known.head(), 0, "the time that it was minted at");
        assert!(stranger.authenticate(&nonce).is_none());
        assert!(alone().authenticate(&nonce).is_none());
    }

    #[test]
    fn c224_foreign_truncated_and_altered_nonces_are_unknown() {
        let nonces = alone();
        let nonce = minted(&nonces);
        let altered = nonce.replacen(['A', 'B'], "C", 1);
        for wrong in [
            "",
            "AAAA",
            &nonce[..nonce.len() - 4],
            &minted(&alone()),
            &altered,
            &format!("{nonce}AAAA"),
        ] {
            assert!(nonces.authenticate(wrong).is_none(), "{wrong}");
        }
        assert!(redeemed(&nonces, &nonce));
    }

    #[test]
    fn c8_c117_a_flood_of_new_nonces_costs_no_memory_and_the_oldest_expire() {
        let nonces = alone();
        let oldest = minted(&nonces);
        let size = || window(&nonces).outstanding.lock().unwrap().capacity();
        let before = size();
        window(&nonces).next.fetch_add(WINDOW - 1, Ordering::Relaxed);
        assert!(!redeemed(&nonces, &oldest));
        let newest = minted(&nonces);
        assert!(redeemed(&nonces, &newest));
        assert_eq!(size(), before);
    }
}
