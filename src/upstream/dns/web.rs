//! The way to a DNS provider's API: deadlines, capped bodies, no redirects, no decompression.

use std::path::Path;

use http::Method;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::ETAG;
use jiff::Timestamp;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::acme::problem::cleaned;
use crate::clock::Clock;
use crate::upstream::SetupError;
use crate::upstream::transport;
use crate::upstream::transport::Unread;
use crate::upstream::transport::chain;

/// Lists of zones are the longest answers.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Of an error's body, for the log.
const MAX_DETAIL_CHARS: usize = 300;

/// The client, and the time for what is signed with it.
#[derive(Debug)]
pub struct Web {
    client: reqwest::Client,
    clock: Clock,
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
        })
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
        let status = response.status();
        let etag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
        let etag = etag.map(str::to_owned);
        let body = transport::body(response, MAX_BODY_BYTES).await;
        let body = body.map_err(|unread| match unread {
            Unread::Broken(error) => unreachable(error),
            Unread::TooLong => format!("{host} answers with more than {MAX_BODY_BYTES} bytes"),
        })?;
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

    /// The status and what the server says to it.
    pub fn refusal(&self) -> String {
        let detail = cleaned(self.text().trim(), MAX_DETAIL_CHARS);
        format!("{} answers {}: {detail}", self.host, self.status)
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
