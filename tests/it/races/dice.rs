//! Chance from a seed (`SplitMix64`), and the pauses of a busy machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Can be thrown by many at a time. The same seed gives the same throws; who gets which is the scheduler's choice.
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Starts again, from another seed.
    pub(crate) fn reseed(&self, seed: u64) {
        self.0.store(seed, Ordering::SeqCst);
    }

    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to `n`, without `n`.
    pub(crate) fn below(&self, n: u64) -> u64 {
        self.next() % n
    }

    /// One of so many times.
    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Small as often as large, up to 127.
    pub(crate) fn some(&self) -> usize {
        usize::try_from(self.below(1 << self.below(8))).unwrap_or_default()
    }

    /// Most often nothing, often a turn for somebody else, at times a millisecond or two.
    pub(crate) async fn pause(&self) {
        match self.below(16) {
            0 => tokio::time::sleep(Duration::from_micros(self.below(1500))).await,
            1..=6 => {
                for _ in 0..self.below(8) {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
    }

    /// A longer one: anything up to some milliseconds, so that the others get anywhere.
    pub(crate) async fn linger(&self) {
        if !self.one_in(3) {
            tokio::time::sleep(Duration::from_micros(self.below(8000))).await;
        }
    }
}
