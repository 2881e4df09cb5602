//! When a certificate is to be renewed (RFC 9773): what names the certificate, and the window that is suggested for it.
//!
//! The window is the CA's own. Where the CA has none, or has not been asked yet, it is computed from the certificate.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x509_parser::prelude::*;

use crate::acme::certificate::{Der, IssuedCertificate};
use crate::acme::revocation::Revocation;

/// Certificates that live shorter than this are renewed in the middle of their life.
const SHORT_LIFE: i64 = 10 * 24 * 3600;

/// A revoked certificate's window, by what it begins and ends before the revocation: at once, whatever the client's
/// clock says.
const REVOKED_WINDOW: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(1800));

/// RFC 9773 §4.1: the issuer's key and the serial number, which together name a certificate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateId {
    key_identifier: Vec<u8>,
    serial: Vec<u8>,
}

/// The text names no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a certificate is named by its issuer's key identifier and its serial number, both base64url without padding, and a dot between them"
)]
pub struct InvalidCertificateId;

impl CertificateId {
    /// What names this certificate; `None` if it does not say whose key has signed it.
    pub fn of(certificate: &Der) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate.as_bytes()).ok()?;
        let key_identifier = parsed
            .iter_extensions()
            .find_map(|ext| match ext.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(issuer) => issuer.key_identifier.as_ref(),
                _ => None,
            })?;
        Some(Self {
            key_identifier: key_identifier.0.to_vec(),
            serial: parsed.raw_serial().to_vec(),
        })
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key_identifier, serial) = (&self.key_identifier, &self.serial);
        let encoded = |part| URL_SAFE_NO_PAD.encode(part);
        write!(f, "{}.{}", encoded(key_identifier), encoded(serial))
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CertificateId {
    type Err = InvalidCertificateId;

    fn from_str(text: &str) -> Result<Self, InvalidCertificateId> {
        let decoded = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok();
            bytes
                .filter(|bytes| !bytes.is_empty())
                .ok_or(InvalidCertificateId)
        };
        let (key_identifier, serial) = text.split_once('.').ok_or(InvalidCertificateId)?;
        Ok(Self {
            key_identifier: decoded(key_identifier)?,
            serial: decoded(serial)?,
        })
    }
}

impl Serialize for CertificateId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CertificateId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// RFC 9773 §4.2: when to renew, and where that is explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalInfo {
    start: Timestamp,
    end: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    explanation: Option<String>,
}

impl RenewalInfo {
    /// A window that ends after it starts: RFC 9773 §4.2: "Servers MUST NOT serve such a response" otherwise.
    pub fn new(start: Timestamp, end: Timestamp, explanation: Option<String>) -> Option<Self> {
        (start < end).then_some(Self {
            start,
            end,
            explanation,
        })
    }

    /// The window's start.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// The window's end.
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// The URL of a page that explains the window.
    pub fn explanation(&self) -> Option<&str> {
        self.explanation.as_deref()
    }

    /// The window of a certificate of which the CA says nothing, as Boulder computes it: around the last third of its
    /// life, or the middle of a short one, a fiftieth of it wide. Its place differs by another fiftieth either way from
    /// one certificate to the next, so that those of one day do not come back on one day.
    pub fn computed(certificate: &IssuedCertificate) -> Self {
        let (from, to) = (
            certificate.not_before().as_second(),
            certificate.not_after().as_second(),
        );
        let life = to.saturating_sub(from).max(100);
        let left = if life < SHORT_LIFE { life / 2 } else { life / 3 };
        let [first, ..] = *certificate.leaf().fingerprint().as_bytes();
        let shift = life / 50 * (i64::from(first) - 128) / 128;
        let centre = to.saturating_sub(left).saturating_add(shift);
        let time = |seconds| Timestamp::from_second(seconds).unwrap_or(certificate.not_after());
        Self {
            start: time(centre.saturating_sub(life / 100)),
            end: time(centre.saturating_add(life / 100)),
            explanation: None,
        }
    }

    /// When in the window to renew this certificate. RFC 9773 §4.2: "Select a uniform random time within the suggested
    /// window"; for one certificate it is always the same.
    pub(crate) fn moment_for(&self, certificate: &IssuedCertificate) -> Timestamp {
        let [first, ..] = *certificate.leaf().fingerprint().as_bytes();
        let width = self.end.as_second().saturating_sub(self.start.as_second());
        let into = width.saturating_mul(i64::from(first)) / 256;
        Timestamp::from_second(self.start.as_second().saturating_add(into)).unwrap_or(self.end)
    }

    /// The window of a certificate that was revoked then: it is over.
    fn revoked(at: Timestamp) -> Self {
        let before = |span| at.checked_sub(span).unwrap_or(at);
        Self {
            start: before(REVOKED_WINDOW.0),
            end: before(REVOKED_WINDOW.1),
            explanation: None,
        }
    }
}

/// What the CA has said about a certificate's renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// Its window, if it has given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) info: Option<RenewalInfo>,
    /// Not before this time is it asked again.
    pub(crate) ask_again: Timestamp,
}

impl Advice {
    /// What the CA has said now, or what it had said before if it has not answered; it is asked again after a while.
    pub fn heard(info: Option<RenewalInfo>, earlier: Option<&Self>, now: Timestamp, wait: Duration) -> Self {
        Self {
            info: info.or_else(|| earlier.and_then(|advice| advice.info.clone())),
            ask_again: now.checked_add(wait).unwrap_or(Timestamp::MAX),
        }
    }
}

/// The window to serve for a certificate.
pub(crate) fn window(
    certificate: &IssuedCertificate,
    revocation: Option<&Revocation>,
    advice: Option<&Advice>,
) -> RenewalInfo {
    if let Some(Revocation::Confirmed { at, .. }) = revocation {
        return RenewalInfo::revoked(*at);
    }
    let of_ca = advice.and_then(|advice| advice.info.clone());
    of_ca.unwrap_or_else(|| RenewalInfo::computed(certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9773 §4.1.
    const EXAMPLE: &str = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";

    #[test]
    fn n2_the_example_of_rfc_9773_reads_back_as_it_is() {
        let id: CertificateId = EXAMPLE.parse().unwrap();
        assert_eq!(id.to_string(), EXAMPLE);
        assert_eq!(id.serial, [0x00, 0x87, 0x65, 0x43, 0x21]);
        assert_eq!(id.key_identifier[..4], [0x69, 0x88, 0x5B, 0x6B]);
    }

    #[test]
    fn n2_what_names_no_certificate_is_refused() {
        for wrong in [
            "",
            ".",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.",
            ".AIdlQyE",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE=",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE.AA",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyF",
            "a+hba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE",
        ] {
            assert_eq!(
                wrong.parse::<CertificateId>(),
                Err(InvalidCertificateId),
                "{wrong}"
            );
        }
    }

    #[test]
    fn n5_a_window_that_does_not_end_after_its_start_is_none() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        assert!(RenewalInfo::new(early, late, None).is_some());
        assert_eq!(RenewalInfo::new(late, early, None), None);
        assert_eq!(RenewalInfo::new(early, early, None), None);
    }
}
