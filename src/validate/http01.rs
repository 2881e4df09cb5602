//! http-01 (RFC 8555 §8.3): the key authorization is fetched from port 80 of the name, over redirects if need be.
//!
//! hyper speaks over a connection that was dialled to a checked address: no HTTP client with its own resolver, proxy
//! settings or pool lies between. One deadline bounds the whole chain. What the client is told about a host that was
//! redirected to is one fixed sentence for each problem type, so that redirects do not explore our network for it.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

use crate::acme::challenge::Token;
use crate::acme::identifier::Identifier;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::validate::Failure;
use crate::validate::Settings;
use crate::validate::net::ConnectFailure;
use crate::validate::net::LookupFailure;
use crate::validate::net::Network;
use crate::validate::redirect::Chain;
use crate::validate::redirect::Host;
use crate::validate::redirect::Ports;
use crate::validate::redirect::RefusedRedirect;
use crate::validate::redirect::Target;
use crate::validate::tls;
use crate::validate::tls::HandshakeFailure;

/// A key authorization has at most 76 bytes here; some servers add white space.
const MAX_BODY: usize = 512;

const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// What is read of one connection at most. It also ends a flood of 1xx answers.
const MAX_ANSWER_BYTES: u64 = (MAX_HEADER_BYTES + 1024) as u64;

/// The longest part of one URL or error text in the log, in characters.
const MAX_LOGGED: usize = 300;

const USER_AGENT: &str = concat!("acme-proxy/", env!("CARGO_PKG_VERSION"));

/// The http-01 validator.
pub(crate) struct Http01 {
    ports: Ports,
    timeout: Duration,
    tls: TlsConnector,
}

impl std::fmt::Debug for Http01 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http01")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// What a target answered.
enum Answer {
    Content(Vec<u8>),
    Redirect(HeaderValue),
}

/// Why an attempt failed; its text is for the log.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("DNS: {0}")]
    Lookup(#[from] LookupFailure),
    #[error("connecting: {0}")]
    Connect(#[from] ConnectFailure),
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("no answer in time")]
    Silent,
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("not HTTP: {0}")]
    NotHttp(String),
    #[error("{0}")]
    Redirect(#[from] RefusedRedirect),
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("more than {MAX_BODY} bytes of content")]
    TooLong,
    #[error("the content did not end in time, after {0} bytes")]
    Unending(usize),
    #[error("other content, of {0} bytes")]
    Mismatch(usize),
}

impl From<HandshakeFailure> for Cause {
    fn from(failure: HandshakeFailure) -> Self {
        match failure {
            HandshakeFailure::Tls(error) => Self::Tls(error),
            HandshakeFailure::Silent => Self::Silent,
            HandshakeFailure::Lost(error) => Self::Lost(error),
        }
    }
}

impl Http01 {
    /// Sets up the TLS side.
    pub(crate) fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        Ok(Self {
            ports: Ports::new(settings),
            timeout: settings.timeout,
            tls: TlsConnector::from(Arc::new(tls::client_config()?)),
        })
    }

    /// Makes one attempt.
    pub(crate) async fn validate(
        &self,
        network: &Network,
        name: &Identifier,
        token: &Token,
        key_authorization: &str,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let first = Target::first(name, token, self.ports)
            .map_err(|refused| first_hop_failure(&Cause::Redirect(refused), name, self.ports, None))?;
        let mut chain = Chain::new(first, self.ports);
        loop {
            let mut peer = None;
            let step = match self.fetch(network, chain.current(), &mut peer, deadline).await {
                Ok(Answer::Content(content)) => compare(&content, key_authorization),
                Ok(Answer::Redirect(location)) => match follow(&mut chain, &location) {
                    Ok(()) => continue,
                    Err(refused) => Err(Cause::Redirect(refused)),
                },
                Err(cause) => Err(cause),
            };
            return step.map_err(|cause| self.failure(&cause, name, token, &chain, peer));
        }
    }

    /// Asks one target. The peer is set once there is a connection.
    async fn fetch(
        &self,
        network: &Network,
        target: &Target,
        peer: &mut Option<IpAddr>,
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let addresses = match target.host() {
            Host::Address(address) => vec![*address],
            Host::Name(name) => timeout_at(deadline, network.addresses(name))
                .await
                .unwrap_or_else(|_| Err(LookupFailure::Unanswered("out of time".to_owned())))?,
        };
        let stream = network.connect(&addresses, target.port(), deadline).await?;
        *peer = stream.peer_addr().ok().map(|address| address.ip());
        match target.is_https() {
            false => exchange(stream, target, deadline).await,
            true => {
                let stream = self.handshake(stream, target, deadline).await?;
                exchange(stream, target, deadline).await
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        target: &Target,
        deadline: Instant,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Cause> {
        let name = match target.host() {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|error| Cause::Lost(error.to_string()))?,
        };
        Ok(tls::handshake(&self.tls, name, stream, deadline).await?)
    }

    fn failure(
        &self,
        cause: &Cause,
        name: &Identifier,
        token: &Token,
        chain: &Chain,
        peer: Option<IpAddr>,
    ) -> Failure {
        let mut failure = match chain.redirects() {
            0 => first_hop_failure(cause, name, self.ports, peer),
            _ => later_hop_failure(cause, name),
        };
        let url = chain.current().url().replace(token.as_str(), "TOKEN");
        let peer = peer.map_or_else(|| "no peer".to_owned(), |peer| peer.to_string());
        failure.detail = format!(
            "{} redirects, at {} ({peer}): {}",
            chain.redirects(),
            cleaned(&url, MAX_LOGGED),
            cleaned(&cause.to_string(), MAX_LOGGED)
        );
        failure
    }
}

/// Sends the request and reads the answer, as far as it matters.
async fn exchange<S>(stream: S, target: &Target, deadline: Instant) -> Result<Answer, Cause>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let capped = tokio::io::join(reader.take(MAX_ANSWER_BYTES), writer);
    let handshake = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(capped))
        .await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    // Dropping the set closes the connection, at whatever point this function ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = request(target)?;
    match timeout_at(deadline, sender.send_request(request)).await {
        Err(_) => Err(Cause::Silent),
        Ok(Ok(response)) => read(response, deadline).await,
        // A server that speaks first ends the connection before the request is on its way; the connection knows more.
        Ok(Err(error)) => match timeout_at(deadline, driver.join_next()).await {
            Ok(Some(Ok(Err(connection_error)))) => Err(broken(&connection_error)),
            _ => Err(broken(&error)),
        },
    }
}

/// Whether one exchange proves control; a redirect is looked at and not followed.
#[cfg(fuzzing)]
pub(crate) async fn proves<S>(stream: S, target: Target, ports: Ports, key_authorization: &str) -> bool
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    match exchange(stream, &target, Instant::now() + Duration::from_secs(5)).await {
        Ok(Answer::Content(content)) => compare(&content, key_authorization).is_ok(),
        Ok(Answer::Redirect(location)) => {
            let mut chain = Chain::new(target, ports);
            let followed = follow(&mut chain, &location).is_ok();
            assert!(!followed || matches!(chain.current().port(), 80 | 443));
            false
        }
        Err(_) => false,
    }
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, Cause> {
    Request::get(target.path_and_query())
        .header(header::HOST, target.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| Cause::Redirect(RefusedRedirect::Unreadable))
}

async fn read(response: Response<Incoming>, deadline: Instant) -> Result<Answer, Cause> {
    match (response.status(), response.headers().get(header::LOCATION)) {
        (StatusCode::OK, _) => {}
        (
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT,
            Some(location),
        ) => return Ok(Answer::Redirect(location.clone())),
        (StatusCode::SEE_OTHER, _) => return Err(RefusedRedirect::SeeOther.into()),
        (status, _) => return Err(Cause::Status(status)),
    }
    let mut body = response.into_body();
    let mut content = Vec::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(Cause::Unending(content.len())),
            Ok(None) => return Ok(Answer::Content(content)),
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => content.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
        }
        if content.len() > MAX_BODY {
            return Err(Cause::TooLong);
        }
    }
}

/// RFC 8555 §8.3: "Verify that the body of the response is a well-formed key authorization. The server SHOULD ignore
/// whitespace characters at the end of the body."
fn compare(content: &[u8], key_authorization: &str) -> Result<(), Cause> {
    match content.trim_ascii_end() == key_authorization.as_bytes() {
        true => Ok(()),
        false => Err(Cause::Mismatch(content.len())),
    }
}

fn follow(chain: &mut Chain, location: &HeaderValue) -> Result<(), RefusedRedirect> {
    let location = location.to_str().map_err(|_| RefusedRedirect::Unreadable)?;
    chain.follow(location)
}

/// Tells a connection that broke, which may pass, from a peer that speaks something else.
fn broken(error: &hyper::Error) -> Cause {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(io) => Cause::Lost(io.to_string()),
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            Cause::Lost(error.to_string())
        }
        None => Cause::NotHttp(error.to_string()),
    }
}

impl Cause {
    fn problem_type(&self) -> ProblemType {
        match self {
            Self::Lookup(_) => ProblemType::Dns,
            Self::Tls(_) => ProblemType::Tls,
            Self::Connect(_) | Self::Silent | Self::Lost(_) | Self::NotHttp(_) | Self::Redirect(_) => {
                ProblemType::Connection
            }
            Self::Status(_) | Self::TooLong | Self::Unending(_) | Self::Mismatch(_) => {
                ProblemType::IncorrectResponse
            }
        }
    }

    /// Whether another attempt may go better (CONFORMANCE J6). What a host answers on purpose is final.
    fn is_transient(&self) -> bool {
        match self {
            Self::Lookup(failure) => failure.is_transient(),
            Self::Connect(failure) => failure.is_transient(),
            Self::Silent | Self::Lost(_) => true,
            Self::Tls(_) | Self::NotHttp(_) | Self::Redirect(_) => false,
            Self::Status(_) | Self::TooLong | Self::Unending(_) | Self::Mismatch(_) => false,
        }
    }
}

/// What the client is told about the host that it named itself.
fn first_hop_failure(cause: &Cause, name: &Identifier, ports: Ports, peer: Option<IpAddr>) -> Failure {
    let port = ports.http();
    let at = peer.map_or_else(|| format!("port {port}"), |peer| format!("{peer} port {port}"));
    let what = match cause {
        Cause::Lookup(failure) => failure.advice().to_owned(),
        Cause::Connect(failure) => failure.advice(port),
        Cause::Tls(_) => format!("the TLS handshake with {at} failed"),
        Cause::Silent => format!("{at} took the connection and gave no answer in time; check the web server"),
        Cause::Lost(_) => format!("{at} broke the connection before it had answered; check the web server"),
        Cause::NotHttp(_) => format!("{at} does not answer in HTTP; a web server must listen there"),
        Cause::Redirect(refused) => format!("{at} answered with {refused}"),
        Cause::Status(status) => format!(
            "{at} answered with status {} instead of 200; serve the key authorization below /.well-known/acme-challenge/",
            status.as_u16()
        ),
        Cause::TooLong | Cause::Unending(_) | Cause::Mismatch(_) => format!(
            "{at} answered with other content than the key authorization; check that this host serves the ACME client's \
             files"
        ),
    };
    Failure::new(
        cause.problem_type(),
        format!("http-01 of {name}: {what}"),
        cause.is_transient(),
        &cause.to_string(),
    )
}

/// What the client is told about a host that was redirected to: nothing that tells two hosts of one kind apart.
fn later_hop_failure(cause: &Cause, name: &Identifier) -> Failure {
    let what = match (cause, cause.problem_type()) {
        // A rule that the redirecting host breaks, in a fixed text.
        (Cause::Redirect(refused), _) => format!("the redirects lead to {refused}"),
        (_, ProblemType::Dns) => {
            "a host that it redirects to could not be found in DNS; check the redirect".to_owned()
        }
        (_, ProblemType::Tls) => {
            "the TLS handshake with a host that it redirects to failed; check that host's TLS settings"
                .to_owned()
        }
        (_, ProblemType::IncorrectResponse) => {
            "a host that it redirects to did not answer with the key authorization; check the redirect"
                .to_owned()
        }
        _ => "a host that it redirects to can not be reached by validation; check the redirect".to_owned(),
    };
    Failure::new(
        cause.problem_type(),
        format!("http-01 of {name}: {what}"),
        cause.is_transient(),
        &cause.to_string(),
    )
}

#[cfg(test)]
mod tests;
