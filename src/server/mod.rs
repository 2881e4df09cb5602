//! The ACME server: `https` in front of clients (RFC 8555 §6, §7).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::acme::identifier::DnsName;

/// Where and as whom we answer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// The names that clients know us by; the first is the main one.
    pub names: Vec<DnsName>,
    /// The port in the links that we hand out, if it is not 443.
    pub port_in_links: Option<u16>,
    /// Where our own certificate comes from.
    pub own_certificate: OwnCertificate,
    /// The TLS versions that we speak.
    pub tls: TlsVersions,
    /// What each directory says about its provisioner.
    pub provisioners: Vec<Meta>,
    /// The header that carries a request's id.
    pub trace_header: String,
}

/// Where our own certificate comes from.
#[derive(Debug, Clone)]
pub enum OwnCertificate {
    /// The CA issues it at start.
    FromUpstream {
        /// Its subject alternative names.
        names: Vec<DnsName>,
        /// Its common name, one of the names, unless it would be longer than X.520 allows.
        common_name: Option<String>,
    },
    /// The operator keeps it up to date.
    Files {
        /// PEM, the leaf first.
        certificate: PathBuf,
        /// PEM.
        key: PathBuf,
    },
}

/// The TLS versions that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsVersions {
    /// RFC 5246.
    pub tls12: bool,
    /// RFC 8446.
    pub tls13: bool,
}

/// A directory's `meta` (RFC 8555 §7.1.1).
#[derive(Debug, Clone)]
pub struct Meta {
    /// The provisioner, as it stands in the path.
    pub name: String,
    /// `termsOfService`.
    pub terms_of_service: Option<String>,
    /// `website`.
    pub website: Option<String>,
    /// `caaIdentities`.
    pub caa_identities: Vec<String>,
}
