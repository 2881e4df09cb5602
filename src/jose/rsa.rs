//! Which RSA keys are good enough, for accounts and for certificates alike (CONFORMANCE D12, K5; SECURITY C230-C232).
//!
//! What is refused here is what public CAs refuse too, so that a client hears it from us at once.

use num_bigint::BigUint;

/// The accepted lengths of the modulus, in bits.
pub const MODULUS_BITS: [u64; 3] = [2048, 3072, 4096];

/// The accepted public exponent.
pub const EXPONENT: u32 = 65_537;

/// How many steps of Fermat's method a modulus must withstand: finds factors that are close to each other.
const FERMAT_STEPS: u32 = 100;

/// Why an RSA key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakRsaKey {
    /// Neither too short nor too long.
    #[error("an RSA modulus must have 2048, 3072 or 4096 bits")]
    Size,
    /// Small and even exponents are dangerous, large ones are a burden.
    #[error("the RSA public exponent must be 65537")]
    Exponent,
    /// Every trial division up to 752 must leave a remainder.
    #[error("the RSA modulus has a small factor")]
    SmallFactor,
    /// CVE-2017-15361.
    #[error("the RSA key comes from a generator with a known flaw (ROCA); make a new one elsewhere")]
    Roca,
    /// The factors are too close to each other.
    #[error("the RSA modulus can be factored (its factors are too close to each other)")]
    CloseFactors,
}

/// Checks a public key, given as unsigned big-endian numbers.
///
/// # Errors
///
/// [`WeakRsaKey`] says why the key is refused.
pub fn check(modulus: &[u8], exponent: &[u8]) -> Result<(), WeakRsaKey> {
    check_size(modulus, exponent)?;
    check_factors(modulus)
}

/// The part of [`check`] that costs nothing.
///
/// # Errors
///
/// [`WeakRsaKey::Size`] or [`WeakRsaKey::Exponent`].
pub fn check_size(modulus: &[u8], exponent: &[u8]) -> Result<(), WeakRsaKey> {
    if !MODULUS_BITS.contains(&BigUint::from_bytes_be(modulus).bits()) {
        return Err(WeakRsaKey::Size);
    }
    match BigUint::from_bytes_be(exponent) == BigUint::from(EXPONENT) {
        true => Ok(()),
        false => Err(WeakRsaKey::Exponent),
    }
}

/// The part of [`check`] that takes a millisecond, many times as long as a signature: not for whoever sends a number.
///
/// # Errors
///
/// Another [`WeakRsaKey`].
pub fn check_factors(modulus: &[u8]) -> Result<(), WeakRsaKey> {
    let n = BigUint::from_bytes_be(modulus);
    if (2..=752_u32).any(|divisor| &n % divisor == BigUint::ZERO) {
        return Err(WeakRsaKey::SmallFactor);
    }
    if has_roca_fingerprint(&n) {
        return Err(WeakRsaKey::Roca);
    }
    if has_close_factors(&n) {
        return Err(WeakRsaKey::CloseFactors);
    }
    Ok(())
}

/// Whether the modulus is, modulo each of the first odd primes, a power of 65537: certain for the flawed generator,
/// next to impossible by chance.
fn has_roca_fingerprint(n: &BigUint) -> bool {
    let prime = |candidate: &u32| (2..*candidate).all(|d| !candidate.is_multiple_of(d));
    (3..=167).filter(prime).all(|p| {
        let remainder = (n % p).iter_u32_digits().next().unwrap_or(0);
        let mut power = 1;
        loop {
            if power == remainder {
                return true;
            }
            power = power * (EXPONENT % p) % p;
            if power == 1 {
                return false;
            }
        }
    })
}

fn has_close_factors(n: &BigUint) -> bool {
    let floor = n.sqrt();
    if floor.pow(2) == *n {
        return true;
    }
    let root = floor + 1_u32;
    (0..FERMAT_STEPS).any(|step| {
        let a = &root + step;
        let difference = &a * &a - n;
        // Most numbers are no squares by their last six bits already; the root is the costly part.
        let low = difference.iter_u32_digits().next().unwrap_or(0) % 64;
        let may_be_square = (0..64_u32).any(|root| root * root % 64 == low);
        may_be_square && difference.sqrt().pow(2) == difference
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: [u8; 3] = [1, 0, 1];

    fn good_modulus() -> BigUint {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let (_, spki) =
            <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(
                &spki,
            )
            .unwrap();
        match spki.parsed().unwrap() {
            x509_parser::public_key::PublicKey::RSA(rsa) => BigUint::from_bytes_be(rsa.modulus),
            _ => unreachable!("an RSA key was generated"),
        }
    }

    /// A modulus that the flawed generator made: `mod03` of those who found the flaw (crocs-muni/roca).
    const ROCA: &str = concat!(
        "9dcd7420e420c270a68060eb8b5aa7457a9f6648f86fafed2775cc1f79ae962f1e63f1b9e51c55f9ea6fdc7332e9b005",
        "8c9ff2eb1fc89855029cf6aafe21e689feb38ac9ffb12f1ce371bb5d0e9aae64161abce74b4244bf68f1edb4411f756a",
        "097c8929c14740245ea355f8332d1aa36bb50c7dcb4505da8de02e4e53d38f8df06097da7524df0df93db48eac8cc4af",
        "2d3a16257eb2b2adca6ba464e5974fa92550d31b1babf161e7692d00b86e3dd886ecab4abfbe1a8f8cc263ff4af55cdb",
        "45f4249a5193925f5e983d762f0b6800943eb0267b08f42ed311ce1f5c86eacbc8ce4d3cb7a2fee1ef5641423a1cf411",
        "4e5ecf50034a60a412523af9e6f4aa11",
    );

    fn next_prime(mut n: BigUint) -> BigUint {
        let two = BigUint::from(2_u32);
        n |= BigUint::from(1_u32);
        while (3..2000_u32).any(|d| &n % d == BigUint::ZERO)
            || two.modpow(&(&n - 1_u32), &n) != BigUint::from(1_u32)
        {
            n += 2_u32;
        }
        n
    }

    #[test]
    fn a_freshly_generated_key_is_accepted() {
        assert_eq!(check(&good_modulus().to_bytes_be(), &E), Ok(()));
    }

    #[test]
    fn c230_c231_sizes_and_exponents_outside_the_list_are_refused() {
        let n = good_modulus();
        for bits in [512_u32, 1024, 1030, 2047, 8192, 16_384] {
            let other = (BigUint::from(1_u32) << (bits - 1)) + 1_u32;
            assert_eq!(check(&other.to_bytes_be(), &E), Err(WeakRsaKey::Size), "{bits}");
        }
        for e in [
            &[1_u8][..],
            &[2],
            &[3],
            &[1, 0, 2],
            &[1, 0xff, 0xff, 0xff, 0xff],
            &[],
        ] {
            assert_eq!(check(&n.to_bytes_be(), e), Err(WeakRsaKey::Exponent), "{e:?}");
        }
    }

    #[test]
    fn c232_moduli_that_can_be_factored_are_refused() {
        let even = good_modulus() + 1_u32;
        assert_eq!(check(&even.to_bytes_be(), &E), Err(WeakRsaKey::SmallFactor));
        let p = next_prime((BigUint::from(3_u32) << 1022) + 12_345_u32);
        let q = next_prime(&p + (BigUint::from(1_u32) << 400));
        assert_eq!(check(&(&p * &q).to_bytes_be(), &E), Err(WeakRsaKey::CloseFactors));
        assert_eq!(check(&p.pow(2).to_bytes_be(), &E), Err(WeakRsaKey::CloseFactors));
        let published = BigUint::parse_bytes(ROCA.as_bytes(), 16).unwrap();
        assert_eq!(check(&published.to_bytes_be(), &E), Err(WeakRsaKey::Roca));
        // A number that is a power of 65537 modulo every small prime, as the flawed generator's moduli are.
        let primorial = (3..=701_u32)
            .filter(|n| (2..*n).all(|d| n % d != 0))
            .fold(BigUint::from(1_u32), |product, p| product * p);
        let mut k: BigUint = (BigUint::from(1_u32) << 2047) / &primorial + 1_u32;
        let roca = loop {
            let n = &k * &primorial + EXPONENT;
            if &n % 2_u32 == BigUint::from(1_u32) && (2..=752_u32).all(|d| &n % d != BigUint::ZERO) {
                break n;
            }
            k += 1_u32;
        };
        assert_eq!(check(&roca.to_bytes_be(), &E), Err(WeakRsaKey::Roca));
    }
}
