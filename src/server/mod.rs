//! The ACME server (RFC 8555) over HTTPS: routes, signed bodies, answers. It parses what a client sends, calls one use
//! case of `ra`, and writes what came of it. No HTTP/2: no ACME client needs it, and its class of floods is gone with it.

mod access_log;
mod account;
mod admin;
mod authorization;
mod certificate;
pub mod control;
mod directory;
mod key_change;
mod link;
mod listener;
mod nonce;
mod operations;
mod order;
mod overload;
mod peers;
pub mod proxy_header;
mod renewal;
mod respond;
mod router;
mod signed;

pub use crate::tls::Versions as TlsVersions;
pub use listener::{Listener, serve_metrics};
pub use operations::{InvalidRoot, Root, Roots};
pub use peers::PeerLimits;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use ipnet::IpNet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::acme::challenge::ChallengeType;
use crate::acme::identifier::DnsName;
use crate::acme::identifier::InvalidName;
use crate::metrics::Metrics;
use crate::ra::RegistrationAuthority;
use crate::server::nonce::Nonces;
use crate::server::overload::Requests;
use crate::server::peers::Peers;
use crate::server::proxy_header::Refused;
use crate::server::signed::VerifierCache;

/// How the server is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The names under which clients reach it; the first is the main one.
    pub names: Vec<DnsName>,
    /// The port in the links that it hands out, unless it is 443.
    pub port_in_links: Option<u16>,
    /// Where its own certificate comes from.
    pub own_certificate: OwnCertificate,
    /// Which versions of TLS it offers.
    pub tls: TlsVersions,
    /// What the directories say of each provisioner.
    pub provisioners: Vec<Meta>,
    /// The root certificates that clients of step-ca ask for.
    pub roots: Roots,
    /// Whether web pages of other origins may use the directories.
    pub cors: bool,
    /// The header that carries a request's id.
    pub trace_header: String,
    /// How much one address, and all of them together, may do.
    pub limits: PeerLimits,
    /// The load balancers: what comes from them begins with a PROXY header, which says whose it is.
    pub balancers: Vec<IpNet>,
}

impl Settings {
    /// A name for the server. One whose certificate comes from files may have any that its clients resolve.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn name(text: &str, certificate_from_files: bool) -> Result<DnsName, InvalidName> {
        match certificate_from_files {
            true => DnsName::of_own_network(text),
            false => text.parse(),
        }
    }

    /// The URL under which clients reach it.
    pub fn url(&self) -> String {
        let name = self.names.first().map(ToString::to_string).unwrap_or_default();
        let port = self.port_in_links.map(|port| format!(":{port}"));
        format!("https://{name}{}", port.unwrap_or_default())
    }

    /// Whether this is what the URLs of the provisioner's accounts begin with, under one of the server's names.
    pub fn begins_account_urls(&self, provisioner: &str, prefix: &str) -> bool {
        link::begins_account_urls(self, provisioner, prefix)
    }

    fn is_balancer(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.balancers.iter().any(|network| network.contains(&address))
    }

    fn terms_of_service(&self, provisioner: &str) -> Option<&str> {
        let meta = self.provisioners.iter().find(|meta| meta.name == provisioner)?;
        meta.terms_of_service.as_deref()
    }
}

/// Where the server's own certificate comes from.
#[derive(Debug, Clone)]
pub enum OwnCertificate {
    /// Bought from the same CA as the clients'.
    FromUpstream {
        /// The names in it.
        names: Vec<DnsName>,
        /// Its common name, if one is wanted.
        common_name: Option<String>,
    },
    /// From PEM files.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

/// A provisioner, and the `meta` of its directory (RFC 8555 §7.1.1).
#[derive(Debug, Clone)]
pub struct Meta {
    /// The provisioner's name, a segment of every URL's path.
    pub name: String,
    /// URL of the terms of service.
    pub terms_of_service: Option<String>,
    /// URL of a page about the CA.
    pub website: Option<String>,
    /// The names that CAA records may give.
    pub caa_identities: Vec<String>,
    /// Whether new accounts need an external account binding.
    pub external_account_required: bool,
    /// The challenges that are offered.
    pub challenges: Vec<ChallengeType>,
}

/// What every request needs.
pub(crate) struct Shared {
    pub(crate) ra: RegistrationAuthority,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) nonces: Arc<Nonces>,
    pub(crate) verifiers: Arc<VerifierCache>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) requests: Requests,
}

/// What the next connection and the next request are served by.
struct Current {
    shared: Arc<Shared>,
    routes: Router,
    tls: TlsAcceptor,
}

impl Current {
    fn new(shared: Shared, tls: Arc<ServerConfig>) -> Self {
        let shared = Arc::new(shared);
        Self {
            routes: shared.routes(),
            shared,
            tls: TlsAcceptor::from(tls),
        }
    }
}

/// The server, whether it listens already or not.
#[derive(Clone)]
pub struct Server {
    current: Arc<RwLock<Current>>,
}

impl Server {
    /// A server over a registration authority.
    pub fn new(
        settings: Settings,
        ra: RegistrationAuthority,
        metrics: Arc<Metrics>,
        tls: Arc<ServerConfig>,
    ) -> Self {
        for reason in Refused::ALL {
            metrics.proxy_headers_refused.with_label_values(&[reason.name()]);
        }
        let shared = Shared {
            nonces: Arc::new(Nonces::new(ra.nonce_key())),
            ra,
            peers: Arc::new(Peers::new(settings.limits)),
            requests: Requests::new(overload::at_most(settings.limits.connections)),
            settings,
            metrics,
            verifiers: Arc::default(),
        };
        Self {
            current: Arc::new(RwLock::new(Current::new(shared, tls))),
        }
    }

    /// From the next request on, also one of a connection that is open, other settings hold. What clients have in hand
    /// stays good: their nonces, and what is counted of their addresses unless its limits are others now.
    pub fn change(
        &self,
        settings: Settings,
        ra: impl FnOnce(&RegistrationAuthority) -> RegistrationAuthority,
        tls: Arc<ServerConfig>,
    ) {
        let before = self.shared();
        let shared = Shared {
            ra: ra(&before.ra),
            peers: match settings.limits == before.settings.limits {
                true => Arc::clone(&before.peers),
                false => Arc::new(Peers::new(settings.limits)),
            },
            requests: before.requests.clone(),
            settings,
            metrics: Arc::clone(&before.metrics),
            nonces: Arc::clone(&before.nonces),
            verifiers: Arc::clone(&before.verifiers),
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current::new(shared, tls);
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.shared)
    }

    pub(crate) fn routes(&self) -> Router {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.routes.clone()
    }

    pub(crate) fn tls(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.tls.clone()
    }
}
