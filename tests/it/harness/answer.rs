//! HTTP answers, and what must hold of every one of them.

use std::str::FromStr as _;

use acme_proxy::acme::problem::ProblemType;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

/// An answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The answer's head: status line and headers, without the empty line.
    pub(crate) fn head(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (
                HeaderName::from_str(name).unwrap(),
                HeaderValue::from_str(value.trim()).unwrap(),
            )
        });
        Self {
            status,
            headers: headers.collect(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn location(&self) -> String {
        self.header("location")
            .unwrap_or_else(|| panic!("no Location: {self:?}"))
            .to_owned()
    }

    /// The fresh nonce, which must be long, and spelled as RFC 8555 §6.5.1 wants it.
    #[track_caller]
    pub(crate) fn nonce(&self) -> String {
        let nonce = self
            .header("replay-nonce")
            .unwrap_or_else(|| panic!("no nonce: {self:?}"));
        let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        assert!(nonce.len() >= 22 && nonce.bytes().all(base64url), "C2: {nonce}");
        nonce.to_owned()
    }

    /// The target of the one link of this relation.
    pub(crate) fn link(&self, relation: &str) -> Option<String> {
        let end = format!(">;rel=\"{relation}\"");
        let links = self
            .headers
            .get_all("link")
            .iter()
            .map(|link| link.to_str().unwrap());
        let mut targets = links.filter_map(|link| link.strip_prefix('<')?.strip_suffix(&end));
        let target = targets.next().map(str::to_owned);
        assert!(
            targets.next().is_none(),
            "two links of relation {relation}: {self:?}"
        );
        target
    }

    /// The answer, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", self.shown(), self.headers);
        self
    }

    /// The problem document, after a look at everything that must hold of one (CONFORMANCE A6 to A8).
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.shown());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(
            problem["type"],
            format!("urn:ietf:params:acme:error:{kind}"),
            "{problem}"
        );
        let urn = problem["type"].as_str().unwrap();
        assert!(ProblemType::from_str(urn).is_ok(), "A7: {urn} is not registered");
        assert_eq!(problem["status"], status, "A7: {problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "A7: {problem}"
        );
        assert!(problem.get("identifier").is_none(), "A8: {problem}");
        problem
    }

    /// What an ACME answer to a POST must have, whatever it says (CONFORMANCE A6, C3).
    #[track_caller]
    pub(crate) fn acme(&self) -> &Self {
        assert!(self.status < 500, "{}", self.shown());
        assert!(
            self.link("index")
                .is_some_and(|index| index.ends_with("/directory")),
            "A6: {self:?}"
        );
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        self.nonce();
        self
    }

    pub(crate) fn shown(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}
