//! What only those with the secret of the configuration can make or read: keys that replicas share, and records that hold
//! secrets. A backup of the database, or a look into it, gives away none of them.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

use crate::acme::random::random_bytes;
use crate::acme::secret::Secret;
use crate::store::StoreError;

/// Keys of one secret.
pub(crate) struct Keys {
    secret: Prk,
    seal: LessSafeKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Keys {
    /// The keys of this secret (RFC 5869).
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] if the cryptographic library fails.
    pub(crate) fn of(secret: &Secret<Vec<u8>>) -> Result<Self, StoreError> {
        let secret = Salt::new(HKDF_SHA256, b"acme-proxy").extract(secret.reveal());
        let seal = expand(&secret, "seal").and_then(|key| UnboundKey::new(&AES_256_GCM, &key));
        Ok(Self {
            seal: LessSafeKey::new(seal.map_err(failed)?),
            secret,
        })
    }

    /// A key for this purpose.
    pub(crate) fn key(&self, purpose: &str) -> [u8; 32] {
        // It fails for keys that are longer than this one alone.
        expand(&self.secret, &format!("share {purpose}")).unwrap_or_default()
    }

    /// What shows that somebody has the same secret, and nothing else about it.
    pub(crate) fn proof(&self) -> [u8; 32] {
        self.key("proof")
    }

    /// A record that can be read back under this name only.
    pub(crate) fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, StoreError> {
        let nonce: [u8; NONCE_LEN] = random_bytes();
        let mut sealed = record.to_vec();
        let as_name = Aad::from(name.as_bytes());
        self.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), as_name, &mut sealed)
            .map_err(failed)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// The record that was sealed under this name.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = sealed.split_first_chunk::<NONCE_LEN>().and_then(|(nonce, rest)| {
            let mut rest = rest.to_vec();
            let as_name = Aad::from(name.as_bytes());
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = self.seal.open_in_place(nonce, as_name, &mut rest).ok()?;
            Some(opened.to_vec())
        });
        opened.ok_or_else(|| StoreError::Corrupt(format!("{name} was not sealed under this name and secret")))
    }
}

fn expand(secret: &Prk, purpose: &str) -> Result<[u8; 32], Unspecified> {
    let mut key = [0; 32];
    secret
        .expand(&[purpose.as_bytes()], HKDF_SHA256)?
        .fill(&mut key)?;
    Ok(key)
}

fn failed(_: Unspecified) -> StoreError {
    StoreError::Failed("the cryptographic library fails".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_name_and_secret_only() {
        let keys = |secret: &[u8]| Keys::of(&Secret::new(secret.to_vec())).unwrap();
        let ours = keys(b"ours");
        let sealed = ours.seal("value a", b"hunter2").unwrap();
        assert_eq!(ours.open("value a", &sealed).unwrap(), b"hunter2");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_ne!(ours.seal("value a", b"hunter2").unwrap(), sealed);
        let mut other = sealed.clone();
        *other.last_mut().unwrap() ^= 1;
        for refused in [
            ours.open("value b", &sealed),
            keys(b"theirs").open("value a", &sealed),
            ours.open("value a", &other),
            ours.open("value a", b"short"),
        ] {
            assert!(matches!(refused, Err(StoreError::Corrupt(_))));
        }
        assert_eq!(ours.key("nonces"), keys(b"ours").key("nonces"));
        assert_ne!(ours.key("nonces"), keys(b"theirs").key("nonces"));
        assert_ne!(ours.key("nonces"), ours.proof());
    }
}
