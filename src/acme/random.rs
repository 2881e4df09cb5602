//! Randomness for ids, tokens and jitter.

/// `N` bytes from the operating system's random source.
#[expect(
    clippy::expect_used,
    reason = "without entropy there is no safe way on; the process must stop"
)]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// A random number from 0 to 1, for jitter.
pub(crate) fn random_fraction() -> f64 {
    f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX)
}
