//! The way to a DNS provider's API: deadlines, capped bodies, no redirects, no decompression.

use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::ETAG;
use jiff::Timestamp;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::acme::secret::Secret;
use crate::clock::Clock;
use crate::upstream::SetupError;
use crate::upstream::http::answer::asked_to_wait;
use crate::upstream::http::answer::clamped;
use crate::upstream::transport;
use crate::upstream::transport::Unread;
use crate::upstream::transport::chain;

/// Lists of zones are the longest answers.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long to leave a server alone that is asked too much and does not say.
const BREATH: Duration = Duration::from_secs(10);

/// What says so where the status does not: Route 53 with 400, Google with 403.
const THROTTLED: [&[u8]; 3] = [
    b"<Code>Throttling",
    b"<Code>PriorRequestNotComplete",
    b"ateLimitExceeded\"",
];

/// The client, and the time for what is signed with it. One is for one change: it remembers what was said meanwhile.
#[derive(Debug)]
pub struct Web {
    client: reqwest::Client,
    clock: Clock,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// A server wants us to slow down.
    wait: Option<Duration>,
    /// What was fetched and must not be logged.
    secrets: Vec<Secret>,
}

/// An answer of any status.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// `ETag`.
    pub etag: Option<String>,
    body: Vec<u8>,
    host: String,
}

impl Web {
    /// A client that trusts the system's roots, and those of the file.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if there are none, or the file can not be used.
    pub fn new(roots: Option<&Path>) -> Result<Self, SetupError> {
        Ok(Self {
            client: transport::client(roots, false)?,
            clock: Clock::system(),
            heard: Mutex::default(),
        })
    }

    /// The same client, which has heard nothing yet.
    pub(crate) fn for_one_change(&self) -> Self {
        Self {
            client: self.client.clone(),
            clock: self.clock.clone(),
            heard: Mutex::default(),
        }
    }

    /// How long a server has asked us to wait.
    pub(crate) fn told_to_wait(&self) -> Option<Duration> {
        self.heard().wait
    }

    /// Remembers that this must not be logged, and gives it back.
    pub(crate) fn hide(&self, secret: String) -> String {
        self.heard().secrets.push(Secret::new(secret.clone()));
        secret
    }

    /// What must not be logged.
    pub(crate) fn hidden(&self) -> Vec<Secret> {
        self.heard().secrets.clone()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A request.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// What went wrong on the way. The URL is not in it.
    pub async fn send(&self, request: RequestBuilder) -> Result<Reply, String> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| chain(&error.without_url()))?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        let unreachable = |error: reqwest::Error| format!("{host}: {}", chain(&error.without_url()));
        let response = client.execute(request).await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let etag = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
        let etag = etag.map(str::to_owned);
        let body = transport::body(response, MAX_BODY_BYTES).await;
        let body = body.map_err(|unread| match unread {
            Unread::Broken(error) => unreachable(error),
            Unread::TooLong => format!("{host} answers with more than {MAX_BODY_BYTES} bytes"),
        })?;
        if let Some(wait) = throttled(status, &headers, &body) {
            self.heard().wait = Some(wait);
        }
        Ok(Reply {
            status,
            etag,
            body,
            host,
        })
    }
}

impl Reply {
    /// The answer, if its status is one of success.
    ///
    /// # Errors
    ///
    /// The status, and what the server says to it.
    pub fn success(self) -> Result<Self, String> {
        match self.status.is_success() {
            true => Ok(self),
            false => Err(self.refusal()),
        }
    }

    /// The status and what the server says to it, whole: it is cut when it is clean of secrets.
    pub fn refusal(&self) -> String {
        format!("{} answers {}: {}", self.host, self.status, self.text().trim())
    }

    /// The body as a text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of an answer of success as JSON.
    ///
    /// # Errors
    ///
    /// The refusal, or what is wrong with the JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, String> {
        let reply = self.success()?;
        serde_json::from_slice(&reply.body).map_err(|error| format!("{} answers {error}", reply.host))
    }
}

/// How long to wait, if that is all that the server asks for.
fn throttled(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Duration> {
    let asked = asked_to_wait(headers).map(clamped);
    let said = || {
        let says = |code: &&[u8]| body.windows(code.len()).any(|part| part == *code);
        THROTTLED.iter().any(says)
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(asked.unwrap_or(BREATH)),
        StatusCode::SERVICE_UNAVAILABLE => asked,
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN if said() => Some(asked.unwrap_or(BREATH)),
        _ => None,
    }
}

/// The request with a JSON body.
pub fn with_json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string())
}

/// The request with a form.
pub fn with_form(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    request
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.extend_pairs(fields).finish())
}

/// The URL with a query.
///
/// # Errors
///
/// If it is no URL.
pub fn with_query(url: &str, pairs: &[(&str, &str)]) -> Result<String, String> {
    match url::Url::parse_with_params(url, pairs) {
        Ok(url) => Ok(url.into()),
        Err(error) => Err(error.to_string()),
    }
}
