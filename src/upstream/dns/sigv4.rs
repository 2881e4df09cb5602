//! Signatures of requests to AWS (Signature Version 4).

use std::fmt::Write as _;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use jiff::Timestamp;

use crate::acme::secret::Secret;

/// Whose signature it is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// `AWS_ACCESS_KEY_ID`.
    pub(crate) access_key: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub(crate) secret_key: Secret,
    /// `AWS_SESSION_TOKEN`.
    pub(crate) session_token: Option<Secret>,
}

/// What is signed.
pub(crate) struct Call<'c> {
    pub(crate) method: &'c str,
    pub(crate) host: &'c str,
    /// Its characters need no escapes.
    pub(crate) path: &'c str,
    /// Sorted by name, not escaped.
    pub(crate) query: &'c [(&'c str, &'c str)],
    pub(crate) body: &'c str,
    pub(crate) region: &'c str,
    pub(crate) service: &'c str,
}

impl Call<'_> {
    /// The query as it is signed, and has to be sent.
    pub(crate) fn query_string(&self) -> String {
        let pairs = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The headers to send besides `Host`.
    pub(crate) fn headers(&self, identity: &Identity, now: Timestamp) -> Vec<(&'static str, String)> {
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = now.strftime("%Y%m%d").to_string();
        let mut headers = vec![("x-amz-date", time.clone())];
        if let Some(token) = &identity.session_token {
            headers.push(("x-amz-security-token", token.reveal().clone()));
        }
        let mut canonical = format!("host:{}\n", self.host);
        let mut names = "host".to_owned();
        for (name, value) in &headers {
            canonical.push_str(&format!("{name}:{value}\n"));
            names.push_str(&format!(";{name}"));
        }
        let request = format!(
            "{}\n{}\n{}\n{canonical}\n{names}\n{}",
            self.method,
            self.path,
            self.query_string(),
            sha256(self.body)
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&request));
        let first = format!("AWS4{}", identity.secret_key.reveal());
        let parts = [day.as_str(), self.region, self.service, "aws4_request", &text];
        let signature = parts
            .into_iter()
            .fold(first.into_bytes(), |key, part| mac(&key, part));
        headers.push((
            "authorization",
            format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
                identity.access_key,
                hex(&signature)
            ),
        ));
        headers
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Bytes in lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string can not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// RFC 3986 §2.1: all but unreserved characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From AWS's test suite of this signature.
    fn identity() -> Identity {
        Identity {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        }
    }

    fn signature(query: &[(&str, &str)]) -> String {
        let call = Call {
            method: "GET",
            host: "example.amazonaws.com",
            path: "/",
            query,
            body: "",
            region: "us-east-1",
            service: "service",
        };
        let headers = call.headers(&identity(), "2015-08-30T12:36:00Z".parse().unwrap());
        let (_, value) = headers.last().unwrap();
        value.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn the_signatures_of_awss_test_suite_come_out() {
        assert_eq!(
            signature(&[]),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            "get-vanilla"
        );
        assert_eq!(
            signature(&[("Param1", "value1"), ("Param2", "value2")]),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            "get-vanilla-query-order-key-case"
        );
    }
}
