//! External account keys (RFC 8555 §7.3.4): what the operator gives out so that strangers can not register, and the
//! binding that an account made with one keeps.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::acme::random::random_bytes;
use crate::acme::upstream::UpstreamName;
use crate::jose::eab::Verified;

/// A MAC key's length when we make it: as long as the longest hash (RFC 7518 §3.2).
const MADE_BYTES: usize = 64;

/// Names an external account key within a provisioner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct KeyId(String);

/// The text is no key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no key id; write at most 64 letters, digits, '-', '_', '.' and '~', the first one not a '-'")]
pub struct InvalidKeyId;

impl KeyId {
    /// A new id of 128 random bits.
    pub fn random() -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(random_bytes())))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        // With a '-' in front, a client's command line takes it for a flag.
        match (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-') {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidKeyId),
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A MAC key. It is serialised for the store, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MacKey(Vec<u8>);

/// The key is shorter than 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has less than 16 bytes")]
pub struct ShortMacKey;

impl MacKey {
    /// A new key.
    pub fn random() -> Self {
        loop {
            let key = Self(random_bytes::<MADE_BYTES>().to_vec());
            // With a '-' in front, a client's command line takes it for a flag.
            if !key.encoded().starts_with('-') {
                return key;
            }
        }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key in the form that clients are given: base64url without padding.
    pub fn encoded(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.0)
    }
}

impl TryFrom<Vec<u8>> for MacKey {
    type Error = ShortMacKey;

    fn try_from(bytes: Vec<u8>) -> Result<Self, ShortMacKey> {
        match bytes.len() < 16 {
            true => Err(ShortMacKey),
            false => Ok(Self(bytes)),
        }
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for MacKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encoded())
    }
}

impl<'de> Deserialize<'de> for MacKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        // The text must not get into the error, which may be printed.
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| serde::de::Error::custom("not base64url"))?;
        bytes.try_into().map_err(serde::de::Error::custom)
    }
}

/// What the accounts of a key may order, as patterns and networks of the policy's. The default limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameLimits {
    /// A name must match one of these, if there are any.
    pub allow: Vec<String>,
    /// A name may match none of these.
    pub deny: Vec<String>,
    /// Whether wildcards may be ordered although there are patterns.
    pub wildcards: bool,
    /// Clients must call from one of these networks, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How many days a certificate may be valid at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// How many orders a name may have, and within which time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<(u32, Duration)>,
}

/// What a key is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Whether only one account can be made with it.
    pub one_time: bool,
    /// Which names its accounts may order.
    pub names: NameLimits,
    /// The upstream of its accounts' orders, whatever their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamName>,
    /// From then on no account can be made with it. Those that there are go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// A key that is kept in the store.
///
/// Which account a one-time key has been used for is not written here: that stands in the account, so that the use and
/// the account are one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccountKey {
    kid: KeyId,
    provisioner: String,
    mac_key: MacKey,
    terms: Terms,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<Timestamp>,
}

impl ExternalAccountKey {
    /// A new key of a provisioner.
    pub fn new(kid: KeyId, provisioner: String, terms: Terms, now: Timestamp) -> Self {
        Self {
            kid,
            provisioner,
            mac_key: MacKey::random(),
            terms,
            created: now,
            revoked: None,
        }
    }

    /// The key's id.
    pub fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The provisioner that accounts can be made under with it.
    pub fn provisioner(&self) -> &str {
        &self.provisioner
    }

    /// The secret.
    pub fn mac_key(&self) -> &MacKey {
        &self.mac_key
    }

    /// What it is good for.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// When it was made.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// When it was revoked, if it was.
    pub fn revoked(&self) -> Option<Timestamp> {
        self.revoked
    }

    /// The key, of no use any more to anybody.
    pub fn revoke(self, now: Timestamp) -> Self {
        Self {
            revoked: self.revoked.or(Some(now)),
            ..self
        }
    }
}

/// How an account is bound to an external account key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    kid: KeyId,
    /// Whether nobody else may ever be bound to the key.
    one_time: bool,
    /// The binding as the client sent it: JSON.
    jws: String,
}

impl Binding {
    /// A binding that has been verified under the key of this id.
    pub fn new(kid: KeyId, one_time: bool, verified: Verified) -> Self {
        Self {
            kid,
            one_time,
            jws: verified.into_json(),
        }
    }

    /// The key's id.
    pub fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// Whether the key is good for this account only.
    pub fn is_one_time(&self) -> bool {
        self.one_time
    }

    /// The binding as the client sent it, which account objects repeat (RFC 8555 §7.1.2): JSON.
    pub fn jws(&self) -> &str {
        &self.jws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c308_texts_that_are_no_key_id_are_refused() {
        let long = "a".repeat(65);
        for text in [
            "",
            "a/../b",
            "../a",
            "a b",
            "-a",
            "ä",
            "a\n",
            "a\0",
            long.as_str(),
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(InvalidKeyId), "{text:?}");
        }
        for text in ["a", "team-web_1.prod~x", "0", &"a".repeat(64)] {
            assert_eq!(text.parse::<KeyId>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_mac_key_reads_back_and_never_prints() {
        let key = MacKey::random();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<MacKey>(&json).unwrap(), key);
        assert_eq!(format!("{key:?} {key:#?}"), "[redacted] [redacted]");
        for wrong in ["\"hunter2!\"", "\"aHVudGVyMg\""] {
            let error = serde_json::from_str::<MacKey>(wrong).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("aHVud"), "{error}");
        }
    }

    #[test]
    fn what_was_written_of_a_key_before_there_were_limits_reads_back_without() {
        let before = r#"{"allow":["a.example.com"],"deny":[],"wildcards":false}"#;
        let limits: NameLimits = serde_json::from_str(before).unwrap();
        let expected = NameLimits {
            allow: vec!["a.example.com".to_owned()],
            ..NameLimits::default()
        };
        assert_eq!(limits, expected);
        assert_eq!(serde_json::to_string(&limits).unwrap(), before);
        let limits = NameLimits {
            from: vec!["10.0.0.0/8".to_owned()],
            days: Some(30),
            orders: Some((5, Duration::from_secs(3600))),
            ..expected
        };
        let written = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<NameLimits>(&written).unwrap(), limits);
    }

    #[test]
    fn a_key_stays_revoked_since_the_first_time() {
        let terms = Terms {
            one_time: false,
            names: NameLimits::default(),
            upstream: None,
            expires: None,
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = ExternalAccountKey::new(KeyId::random(), "acme".to_owned(), terms, at(1));
        assert_eq!(key.revoke(at(2)).revoke(at(3)).revoked(), Some(at(2)));
    }
}
