//! The way to the CA: https to one origin only, deadlines, capped bodies, no redirects, no decompression (SECURITY T4,
//! UPSTREAM rule 7). instant-acme speaks through it, and so do the few requests that instant-acme can not make.
//!
//! An error status becomes a [`Fault`] here, before instant-acme would lose it. Every request is made in one place, which
//! keeps the nonce of the answer and tells the [`Meter`] what came of it.

pub(crate) mod answer;
mod directory;
mod nonces;
pub mod outcome;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use http::header::LOCATION;
use http_body_util::BodyExt as _;
use instant_acme::BodyWrapper;
use instant_acme::BytesResponse;
use instant_acme::HttpClient;
use url::Url;

use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::upstream::Settings;
use crate::upstream::SetupError;
use crate::upstream::fault::Fault;
use crate::upstream::fault::Refusal;
use crate::upstream::http::answer::alternates;
use crate::upstream::http::answer::asked_to_wait;
use crate::upstream::http::answer::clamped;
use crate::upstream::http::answer::date;
use crate::upstream::http::answer::document;
use crate::upstream::http::answer::text;
use crate::upstream::http::nonces::Nonces;
use crate::upstream::http::nonces::REPLAY_NONCE;
use crate::upstream::http::nonces::nonce_in;
use crate::upstream::http::outcome::Meter;
use crate::upstream::http::outcome::Outcome;
use crate::upstream::transport;
use crate::upstream::transport::Unread;
use crate::upstream::transport::chain;

pub use crate::upstream::http::answer::Answer;
pub use crate::upstream::http::directory::Directory;

const MAX_JSON_BYTES: usize = 64 * 1024;
const MAX_CHAIN_BYTES: usize = 256 * 1024;

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
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    directory: String,
    origin: url::Origin,
    nonces: Nonces,
    meter: OnceLock<Meter>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.directory)
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
        Ok(Self(Arc::new(Inner {
            http: transport::client(settings.roots.as_deref(), true)?,
            directory: settings.directory.clone(),
            origin: directory.origin(),
            nonces: Nonces::default(),
            meter: OnceLock::new(),
        })))
    }

    /// From now on, tells this one what comes of each request. There is one for a client: a second one hears nothing.
    pub fn count_by(&self, meter: Meter) {
        self.0.meter.get_or_init(|| meter);
    }

    /// A nonce that has not been used: one from an earlier answer, or a new one.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn nonce(&self, new_nonce: &str) -> Result<String, Fault> {
        if let Some(nonce) = self.0.nonces.take() {
            return Ok(nonce);
        }
        let answer = self.send(Method::HEAD, new_nonce, None).await?;
        answer
            .nonce
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
        let answer = self.exchange(method, self.permitted(url)?, body).await;
        if let Some(count) = self.0.meter.get() {
            count(Outcome::of(&answer));
        }
        answer
    }

    async fn exchange(&self, method: Method, url: Url, body: Option<Bytes>) -> Result<Answer, Fault> {
        let asks_for_nonce = method == Method::HEAD;
        let mut request = self.0.http.request(method, url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/jose+json").body(body);
        }
        let response = request.send().await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let limit = match text(&headers, CONTENT_TYPE.as_str()) {
            Some(kind) if kind.starts_with("application/pem-certificate-chain") => MAX_CHAIN_BYTES,
            Some(_) | None => MAX_JSON_BYTES,
        };
        let body = transport::body(response, limit).await;
        let body = body.map_err(|unread| match unread {
            Unread::Broken(error) => lost(error),
            Unread::TooLong => Fault::Nonsense(format!("status {status} with more than {limit} bytes")),
        })?;
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
            self.0.nonces.clear();
        }
        let mut nonce = nonce_in(&headers);
        if !asks_for_nonce {
            self.0.nonces.keep(nonce.take());
        }
        match refusal {
            Some(refusal) => Err(Fault::Refused(refusal)),
            None => Ok(Answer {
                status,
                location: text(&headers, LOCATION.as_str()),
                alternates: alternates(&headers),
                retry_after: told_to_wait,
                date: date(&headers),
                nonce,
                body: body.into(),
            }),
        }
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

fn lost(error: reqwest::Error) -> Fault {
    let in_time = !error.is_timeout();
    let text = chain(&error.without_url());
    match in_time {
        true => Fault::Unreachable(text),
        false => Fault::TimedOut(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t4_only_https_urls_of_the_directorys_own_origin_are_permitted() {
        let settings = Settings {
            section: "authority.config".to_owned(),
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
}
