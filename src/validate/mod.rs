//! Challenge validation (RFC 8555 §8, CONFORMANCE section 2): asks the network whether an account controls a name.
//!
//! Our check is the only one between a host of the network and a publicly trusted certificate. The address that was
//! checked is the one that is dialled; nothing that was fetched is ever told to the client.

mod http01;
pub mod net;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::acme::challenge::ChallengeType;
use crate::acme::identifier::DnsName;
use crate::acme::problem::Problem;

/// How validation reaches the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// DNS servers for challenge look-ups; empty: the system's.
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
