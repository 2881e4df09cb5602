//! An answer of the CA's, and how its headers and problem documents are read: whatever is absurd there is ignored, and
//! panics nobody.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header::DATE;
use http::header::LINK;
use http::header::RETRY_AFTER;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

/// An answer with a status of success.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `Location`.
    pub location: Option<String>,
    /// The targets of `Link` headers with the relation `alternate`, as they came.
    pub alternates: Vec<String>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<Duration>,
    /// When the CA, or a cache before it, says that it answered.
    pub date: Option<Timestamp>,
    /// The nonce, if the request was for one: nobody else gets it.
    pub nonce: Option<String>,
    /// The body, whole.
    pub body: Bytes,
}

/// `Retry-After` in either form (RFC 9110 §10.2.3); what is neither is ignored. A date is measured against the answer's own
/// `Date`, so that neither clock needs to be right.
pub(crate) fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER.as_str())?;
    let seconds = match value.bytes().all(|c| c.is_ascii_digit()) && !value.is_empty() {
        // More digits than a u64 holds are a long time, too.
        true => value.parse().unwrap_or(u64::MAX),
        false => {
            let until = http_date(&value)?;
            let now = http_date(&text(headers, DATE.as_str())?)?;
            u64::try_from(until.duration_since(now).as_secs()).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds))
}

/// To 1 s .. 1 h.
pub(crate) fn clamped(wait: Duration) -> Duration {
    wait.clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

/// The targets of the links `alternate` (RFC 8288 §3). A target with a comma in it is not found: no CA has one.
pub(crate) fn alternates(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(LINK).iter();
    let links = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    links.filter_map(alternate).map(str::to_owned).collect()
}

fn alternate(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_alternate = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("alternate")
    };
    parameters.split(';').any(is_alternate).then_some(target)
}

/// RFC 9110 §5.6.7, the one form that may be sent.
fn http_date(text: &str) -> Option<DateTime> {
    DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()
}

/// `Date`.
pub(crate) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = http_date(&text(headers, DATE.as_str())?)?;
    TimeZone::UTC.to_timestamp(date).ok()
}

pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim().to_owned())
}

/// The body as a problem document (RFC 7807), if it is one. A part that instant-acme does not know costs the
/// subproblems, not the document.
pub(crate) fn document(body: &[u8]) -> Option<instant_acme::Problem> {
    #[derive(Deserialize)]
    struct Bare {
        r#type: Option<String>,
        detail: Option<String>,
    }
    if let Ok(document) = serde_json::from_slice::<instant_acme::Problem>(body) {
        return document.r#type.is_some().then_some(document);
    }
    let bare: Bare = serde_json::from_slice(body).ok()?;
    Some(instant_acme::Problem {
        r#type: Some(bare.r#type?),
        detail: bare.detail,
        status: None,
        subproblems: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(retry_after_value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after_value.parse().unwrap());
        headers.insert(DATE, "Sun, 22 Nov 2026 00:00:00 GMT".parse().unwrap());
        asked_to_wait(&headers).map(|delay| clamped(delay).as_secs())
    }

    #[test]
    fn c1104_retry_after_is_read_in_both_forms_and_clamped() {
        assert_eq!(waited("15"), Some(15));
        assert_eq!(waited("0"), Some(1));
        assert_eq!(waited("1000000000"), Some(3600));
        assert_eq!(waited("18446744073709551615"), Some(3600));
        assert_eq!(waited("99999999999999999999999999"), Some(3600));
        assert_eq!(waited("Sun, 22 Nov 2026 00:01:30 GMT"), Some(90));
        assert_eq!(waited("Thu, 01 Jan 1970 00:00:00 GMT"), Some(1));
        assert_eq!(waited("Fri, 31 Dec 9999 23:59:59 GMT"), Some(3600));
    }

    #[test]
    fn c1104_a_retry_after_that_is_neither_is_ignored() {
        for absurd in ["-1", "soon", "", "1.5", "0x10", "Sun, 99 Foo 2026 00:00:00 GMT"] {
            assert_eq!(waited(absurd), None, "{absurd}");
        }
    }

    #[test]
    fn l2_links_to_alternates_are_read_in_every_spelling_and_no_others() {
        let mut headers = HeaderMap::new();
        for link in [
            r#"<https://ca.example/dir>;rel="index""#,
            r#"<https://ca.example/c/1/1>;rel="alternate", <https://ca.example/c/1/2> ; title=x; REL=Alternate"#,
            "<relative>;rel=alternate",
            "https://ca.example/c/1/3;rel=alternate",
            "<https://ca.example/c/1/4>",
            "<https://ca.example/c/1/5",
        ] {
            headers.append(LINK, link.parse().unwrap());
        }
        let found = alternates(&headers);
        assert_eq!(
            found,
            ["https://ca.example/c/1/1", "https://ca.example/c/1/2", "relative"]
        );
    }

    #[test]
    fn a_problem_document_with_an_unknown_part_keeps_its_type() {
        let body = br#"{"type":"urn:ietf:params:acme:error:caa","detail":"x",
            "subproblems":[{"identifier":{"type":"onion-v9","value":[]}}]}"#;
        assert_eq!(document(body).unwrap().detail.as_deref(), Some("x"));
        assert!(document(b"<html>502</html>").is_none());
        assert!(document(br#"{"error":"not a problem document"}"#).is_none());
    }
}
