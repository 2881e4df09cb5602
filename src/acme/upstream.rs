//! Upstreams: the CAs that orders are placed at, each as its own account holder.
//!
//! A name is stored with the order and with its jobs. Records of before there were several have none, and are of the
//! default one; so the default's name is never written.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An order that was opened at a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct UpstreamOrder {
    /// Its URL.
    pub url: String,
    /// The URL of the account that has opened it. To no other does the CA show it, or revoke what it has issued. Empty if
    /// nobody wrote it down: then it is taken to be the one of now.
    pub account: String,
    /// When it was opened, if that was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// What may be stored of it: records of before the account counted have the URL alone, later ones also the time.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Url(String),
    Order {
        url: String,
        account: String,
        since: Option<Timestamp>,
    },
}

impl From<Stored> for UpstreamOrder {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Url(url) => Self::new(url, ""),
            Stored::Order { url, account, since } => Self { url, account, since },
        }
    }
}

impl UpstreamOrder {
    /// The order under this URL, opened by this account.
    pub fn new(url: impl Into<String>, account: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            account: account.into(),
            since: None,
        }
    }

    /// The same, opened then.
    pub fn opened(self, since: Timestamp) -> Self {
        Self {
            since: Some(since),
            ..self
        }
    }
}

/// The longest name.
const MAX_LENGTH: usize = 32;

/// Names an upstream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamName {
    /// The name, with zeros behind it.
    bytes: [u8; MAX_LENGTH],
}

/// The text is no upstream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no name of an upstream; write 1 to 32 lower-case letters, digits and '-', e.g. \"letsencrypt\"")]
pub struct InvalidUpstreamName;

impl UpstreamName {
    /// The upstream that `authority.config` itself describes.
    pub const DEFAULT: Self = Self {
        bytes: *b"default\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    };

    /// Whether it is [`Self::DEFAULT`].
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        // Nothing but ASCII gets in.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl Default for UpstreamName {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for UpstreamName {
    type Err = InvalidUpstreamName;

    fn from_str(text: &str) -> Result<Self, InvalidUpstreamName> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let mut bytes = [0; MAX_LENGTH];
        match bytes.get_mut(..text.len()) {
            Some(name) if !name.is_empty() && text.bytes().all(plain) => {
                name.copy_from_slice(text.as_bytes())
            }
            Some(_) | None => return Err(InvalidUpstreamName),
        }
        Ok(Self { bytes })
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for UpstreamName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for UpstreamName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_32_plain_characters_and_is_written_as_it_was_read() {
        let longest = "a".repeat(MAX_LENGTH);
        for text in ["a", "letsencrypt", "zero-ssl-2", "-", &longest, "default"] {
            let name: UpstreamName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<UpstreamName>(&json).unwrap(), name);
            assert_eq!(name.is_default(), text == "default");
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for text in ["", "A", "a b", "a.b", "a\0", "\0", "ä", &too_long] {
            assert_eq!(text.parse::<UpstreamName>(), Err(InvalidUpstreamName), "{text:?}");
        }
    }
}
