//! The way to the CA: https to one origin only, deadlines, capped bodies, no redirects, no decompression (SECURITY T4,
//! UPSTREAM rule 7). instant-acme speaks through it, and so do the few requests that instant-acme can not make.
//!
//! An error status becomes a [`Fault`] here, before instant-acme would lose it. Nonces are kept here too: an answer's
//! nonce serves the next request, whoever makes it (RFC 8555 §6.5).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::DATE;
use http::header::LINK;
use http::header::LOCATION;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt as _;
use instant_acme::BodyWrapper;
use instant_acme::BytesResponse;
use instant_acme::HttpClient;
use jiff::civil::DateTime;
use serde::Deserialize;
use url::Url;

use crate::acme::offers::Offers;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::upstream::Settings;
use crate::upstream::SetupError;
use crate::upstream::fault::Fault;
use crate::upstream::fault::Refusal;

/// TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One request with its whole answer.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_JSON_BYTES: usize = 64 * 1024;
const MAX_CHAIN_BYTES: usize = 256 * 1024;

/// Unused nonces kept at most. CAs let theirs expire: a hoard would only be refused.
const MAX_NONCES: usize = 32;

const USER_AGENT: &str = concat!("acme-proxy/", env!("CARGO_PKG_VERSION"));
const REPLAY_NONCE: &str = "replay-nonce";

tokio::task_local! {
    static ADVICE: Cell<Option<Duration>>;
}

/// Runs requests so that [`advice`] tells what the CA said about waiting. instant-acme keeps that to itself.
pub async fn with_advice<T>(requests: impl Future<Output = T>) -> T {
    ADVICE.scope(Cell::new(None), requests).await
}

/// The last `Retry-After` of an answer inside [`with_advice`], clamped to 1 s .. 1 h.
pub fn advice() -> Option<Duration> {
    ADVICE.try_with(Cell::get).ok().flatten()
}

/// The client. Cheap to clone; clones share connections and nonces.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    directory: String,
    origin: url::Origin,
    nonces: Mutex<VecDeque<String>>,
}

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
    /// The body, whole.
    pub body: Bytes,
}

/// The members of the CA's directory that we look at ourselves (RFC 8555 §7.1.1).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// `newNonce`.
    pub new_nonce: String,
    /// `newAccount`.
    pub new_account: String,
    /// `newOrder`.
    pub new_order: String,
    revoke_cert: Option<String>,
    /// `keyChange`.
    pub key_change: Option<String>,
    /// `renewalInfo` (RFC 9773 §3).
    pub renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    external_account_required: bool,
    #[serde(default)]
    profiles: BTreeMap<String, String>,
}

impl Directory {
    /// Whether the CA says that it wants an External Account Binding. Some that want one do not say so.
    pub fn external_account_required(&self) -> bool {
        self.meta.external_account_required
    }

    /// What the CA offers beyond RFC 8555.
    pub fn offers(&self) -> Offers {
        Offers::of_directory(&self.meta.profiles, self.renewal_info.is_some())
    }
}

impl Client {
    /// A client for the configured CA. Proxies are taken from the environment, as the Go acme-proxy did.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the directory is no https URL, or there are no roots to trust.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let directory = Url::parse(&settings.directory)
            .ok()
            .filter(|url| url.scheme() == "https");
        let Some(directory) = directory.filter(Url::has_host) else {
            return Err(SetupError::Directory(cleaned(&settings.directory, 200)));
        };
        let roots = match &settings.roots {
            Some(path) => roots_in(path)?,
            None => Vec::new(),
        };
        let http = reqwest::Client::builder()
            .tls_certs_merge(roots)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| SetupError::Tls(chain(&error)))?;
        Ok(Self(Arc::new(Inner {
            http,
            directory: settings.directory.clone(),
            origin: directory.origin(),
            nonces: Mutex::default(),
        })))
    }

    /// Fetches the CA's directory and checks that every URL in it is the CA's own.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn directory(&self) -> Result<Directory, Fault> {
        let answer = self.send(Method::GET, &self.0.directory, None).await?;
        let directory: Directory = serde_json::from_slice(&answer.body)
            .map_err(|e| Fault::Nonsense(format!("its directory: {e}")))?;
        self.permitted(&directory.new_nonce)?;
        self.permitted(&directory.new_account)?;
        self.permitted(&directory.new_order)?;
        for url in [
            &directory.revoke_cert,
            &directory.key_change,
            &directory.renewal_info,
        ]
        .into_iter()
        .flatten()
        {
            self.permitted(url)?;
        }
        Ok(directory)
    }

    /// A nonce that has not been used: one from an earlier answer, or a new one.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn nonce(&self, new_nonce: &str) -> Result<String, Fault> {
        if let Some(nonce) = self.kept_nonce() {
            return Ok(nonce);
        }
        self.send(Method::HEAD, new_nonce, None).await?;
        self.kept_nonce()
            .ok_or_else(|| Fault::Nonsense("newNonce without a nonce".to_owned()))
    }

    /// Gets what takes no signature.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn get(&self, url: &str) -> Result<Answer, Fault> {
        self.send(Method::GET, url, None).await
    }

    /// Posts a signed body.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn post(&self, url: &str, body: Vec<u8>) -> Result<Answer, Fault> {
        self.send(Method::POST, url, Some(body.into())).await
    }

    /// Whether a URL that the CA sent may be used: https, and the directory's own origin.
    ///
    /// # Errors
    ///
    /// [`Fault::Foreign`].
    pub fn permitted(&self, url: &str) -> Result<Url, Fault> {
        let own = |parsed: &Url| {
            parsed.scheme() == "https"
                && parsed.origin() == self.0.origin
                && parsed.username().is_empty()
                && parsed.password().is_none()
        };
        let parsed = Url::parse(url).ok().filter(own);
        parsed.ok_or_else(|| Fault::Foreign(cleaned(url, 200)))
    }

    async fn send(&self, method: Method, url: &str, body: Option<Bytes>) -> Result<Answer, Fault> {
        let mut request = self.0.http.request(method, self.permitted(url)?);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/jose+json").body(body);
        }
        let unreachable = |error: reqwest::Error| Fault::Unreachable(chain(&error.without_url()));
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let limit = match text(&headers, CONTENT_TYPE.as_str()) {
            Some(kind) if kind.starts_with("application/pem-certificate-chain") => MAX_CHAIN_BYTES,
            Some(_) | None => MAX_JSON_BYTES,
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len().saturating_add(chunk.len()) > limit {
                return Err(Fault::Nonsense(format!(
                    "status {status} with more than {limit} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        let told_to_wait = asked_to_wait(&headers);
        let retry_after = told_to_wait.map(clamped);
        if let Some(delay) = retry_after {
            // Outside of `with_advice` nobody asks.
            let _ = ADVICE.try_with(|advice| advice.set(Some(delay)));
        }
        let refusal = (!status.is_success()).then(|| Refusal {
            status: status.as_u16(),
            retry_after,
            document: document(&body),
        });
        if refusal.as_ref().and_then(Refusal::kind) == Some(ProblemType::BadNonce) {
            // The CA has forgotten its older ones, most likely: each would cost a request of its own to find out.
            self.nonces().clear();
        }
        self.keep_nonce(&headers);
        match refusal {
            Some(refusal) => Err(Fault::Refused(refusal)),
            None => Ok(Answer {
                status,
                location: text(&headers, LOCATION.as_str()),
                alternates: alternates(&headers),
                retry_after: told_to_wait,
                body: body.into(),
            }),
        }
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.0.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The youngest: it will be good for longest.
    fn kept_nonce(&self) -> Option<String> {
        self.nonces().pop_back()
    }

    /// RFC 8555 §6.5.1: "Clients MUST ignore invalid Replay-Nonce values."
    fn keep_nonce(&self, headers: &HeaderMap) {
        let base64url = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let valid = |nonce: &String| (1..=256).contains(&nonce.len()) && nonce.bytes().all(base64url);
        let Some(nonce) = text(headers, REPLAY_NONCE).filter(valid) else {
            return;
        };
        let mut nonces = self.nonces();
        if nonces.len() >= MAX_NONCES {
            nonces.pop_front();
        }
        nonces.push_back(nonce);
    }

    async fn relay(&self, request: http::Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Fault> {
        let garbled = |e: http::Error| Fault::Nonsense(cleaned(&e.to_string(), 200));
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        if parts.method == Method::HEAD {
            // instant-acme asks for a nonce: the only thing that it uses HEAD for.
            let nonce = self.nonce(&url).await?;
            let response = http::Response::builder().header(REPLAY_NONCE, nonce);
            return Ok(response.body(BodyWrapper::default()).map_err(garbled)?.into());
        }
        let body = match parts.method {
            Method::POST => body.collect().await.ok().map(http_body_util::Collected::to_bytes),
            _ => None,
        };
        let answer = self.send(parts.method, &url, body).await?;
        // Neither `Retry-After`, on whose absurd values instant-acme panics, nor the nonce, which is kept here.
        let mut response = http::Response::builder().status(answer.status);
        if let Some(location) = answer.location {
            response = response.header(LOCATION, location);
        }
        Ok(response
            .body(BodyWrapper::from(answer.body.to_vec()))
            .map_err(garbled)?
            .into())
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let answer = client.relay(request).await;
            answer.map_err(|fault| instant_acme::Error::Other(Box::new(fault)))
        })
    }
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
fn alternates(headers: &HeaderMap) -> Vec<String> {
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

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim().to_owned())
}

/// The body as a problem document (RFC 7807), if it is one. A part that instant-acme does not know costs the
/// subproblems, not the document.
fn document(body: &[u8]) -> Option<instant_acme::Problem> {
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

/// Every certificate of a PEM file.
pub(crate) fn roots_in(path: &Path) -> Result<Vec<reqwest::Certificate>, SetupError> {
    let unusable = |why: String| SetupError::Roots {
        path: path.to_owned(),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| unusable(chain(&e)))?;
    match roots.is_empty() {
        true => Err(unusable("there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

/// An error with its causes: reqwest's own words do not say that a certificate was refused, its cause does.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    cleaned(&text, 300)
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
    fn t4_only_https_urls_of_the_directorys_own_origin_are_permitted() {
        let settings = Settings {
            directory: "https://ca.example:14000/dir?action=enroll".to_owned(),
            roots: None,
            email: None,
            eab: None,
            dns01: None,
            lifetime: None,
            profile: None,
        };
        let client = Client::new(&settings).unwrap();
        assert!(client.permitted("https://ca.example:14000/acct/1").is_ok());
        for foreign in [
            "http://ca.example:14000/acct/1",
            "https://ca.example/acct/1",
            "https://evil.example:14000/",
            "https://ca.example:14000@evil.example/",
            "https://user@ca.example:14000/",
            "//ca.example:14000/",
            "/acct/1",
            "",
        ] {
            assert!(client.permitted(foreign).is_err(), "{foreign}");
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
