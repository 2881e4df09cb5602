//! Challenge validation (RFC 8555 §8, CONFORMANCE section 2): asks the network whether an account controls a name.
//!
//! Our check is the only one between a host of the network and a publicly trusted certificate. The address that was
//! checked is the one that is dialled; nothing that was fetched is ever told to the client. One call is one attempt:
//! whether there is another one is the worker's decision, who is told only whether the cause may pass.

mod dns01;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod http01;
pub mod inspection;
mod net;
mod redirect;
#[cfg(test)]
mod testing;
mod tls;
pub mod tlsalpn01;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::acme::challenge::ChallengeType;
use crate::acme::challenge::Token;
use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::validate::http01::Http01;
use crate::validate::net::Network;
use crate::validate::tlsalpn01::TlsAlpn01;

/// The longest detail that goes to the log, in characters.
const DETAIL_LIMIT: usize = 1000;

/// How validation reaches the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// DNS servers for challenge look-ups, asked in this order; empty: those of the system's `resolv.conf`, as it is when
    /// the daemon starts. The system's hosts file and search list are never used.
    pub resolvers: Vec<SocketAddr>,
    /// Networks that may be connected to although they are refused by default (loopback, link-local, ...).
    pub allow: Vec<IpNet>,
    /// Networks that may not be connected to. Wins over `allow`.
    pub deny: Vec<IpNet>,
    /// Our own listeners, refused unless an `allow` entry names their address as a single host.
    pub own_listeners: Vec<SocketAddr>,
    /// Where http-01 is answered: 80, another port only in tests.
    pub http_port: u16,
    /// Where https redirects and tls-alpn-01 are answered: 443, another port only in tests.
    pub tls_port: u16,
    /// The budget of one attempt, all redirects included.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            own_listeners: Vec::new(),
            http_port: 80,
            tls_port: 443,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why an attempt did not prove control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the client is told: a fixed sentence for each cause, never anything that was fetched.
    pub problem: Problem,
    /// Whether the cause may pass (network, DNS), so that another attempt is worth it.
    pub transient: bool,
    /// For the log, cleaned and capped.
    pub detail: String,
}

impl Failure {
    fn new(kind: ProblemType, sentence: impl Into<String>, transient: bool, detail: &str) -> Self {
        Self {
            problem: Problem::new(kind, sentence),
            transient,
            detail: cleaned(detail, DETAIL_LIMIT),
        }
    }
}

/// Why validation can not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No resolvers are configured, and the system's can not be read.
    #[error("no DNS server for validation: {0}; name some in `validation.resolvers`")]
    NoResolver(String),
    /// The DNS client can not be made.
    #[error("the DNS client for validation can not be set up: {0}")]
    Resolver(String),
    /// The TLS client can not be made.
    #[error("the TLS client for validation can not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Makes one validation attempt after the other, any number at a time.
#[derive(Debug)]
pub struct Validator {
    network: Network,
    http01: Http01,
    tlsalpn01: TlsAlpn01,
}

impl Validator {
    /// Sets up DNS, the address guard and TLS. Asks nothing of the network yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] when there is no DNS server to ask, or TLS can not be set up.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        Ok(Self {
            http01: Http01::new(&settings)?,
            tlsalpn01: TlsAlpn01::new(&settings)?,
            network: Network::new(&settings)?,
        })
    }

    /// Makes one attempt to prove, by the challenge, that the holder of the account key controls the identifier.
    ///
    /// # Errors
    ///
    /// [`Failure`] says what the client may know, what the log should say, and whether another attempt is worth it.
    pub async fn validate(
        &self,
        kind: ChallengeType,
        identifier: &Identifier,
        token: &Token,
        key_authorization: &str,
    ) -> Result<(), Failure> {
        match kind {
            ChallengeType::Http01 => {
                self.http01
                    .validate(&self.network, identifier, token, key_authorization)
                    .await
            }
            ChallengeType::Dns01 => dns01::validate(&self.network, identifier, key_authorization).await,
            ChallengeType::TlsAlpn01 => {
                self.tlsalpn01
                    .validate(&self.network, identifier, key_authorization)
                    .await
            }
        }
    }

    /// Whether any of the DNS servers answers anything at all, be it an error: for the health check.
    pub async fn resolver_answers(&self) -> bool {
        self.network.resolver_answers().await
    }
}

#[cfg(test)]
mod tests;
