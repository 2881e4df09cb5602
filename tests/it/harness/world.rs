//! Everything around the daemon: the CA, DNS, an applicant's web server; and the daemon's installation.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};

use crate::harness::ca::{self, Options};
use crate::harness::dns::{self, Dns};
use crate::harness::http01::{self, Http01};
use crate::harness::process::Installation;
use crate::harness::storm::Storm;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The world, until this is dropped.
pub(crate) struct World {
    /// The CA, which hears nothing of what happens to the daemon.
    pub(crate) ca: ca::Running,
    /// The CA's trouble.
    pub(crate) storm: Arc<Storm>,
    /// Answers http-01.
    pub(crate) web: Http01,
    /// The daemon's.
    pub(crate) installation: Installation,
    dns: Dns,
}

impl World {
    /// A CA whose EAB makes one account only, and in which all is well.
    pub(crate) async fn new() -> Self {
        Self::with(Duration::ZERO, |_| {}).await
    }

    /// The same, with delays up to this in every request to the CA, and with other options.
    pub(crate) async fn with(delay: Duration, change: impl FnOnce(&mut Options)) -> Self {
        let storm = Arc::new(Storm::with_delay(delay));
        let mut options = Options {
            eab_once: true,
            trouble: storm.clone(),
            ..Options::default()
        };
        change(&mut options);
        let ca = ca::start(options).await.unwrap();
        let dns = dns::start(ANY_PORT).await.unwrap();
        let web = http01::start(ANY_PORT).await.unwrap();
        let installation = Installation::new(&ca, dns.address, web.address.port());
        Self {
            ca,
            storm,
            web,
            installation,
            dns,
        }
    }

    /// Another installation in the same world.
    pub(crate) fn another(&self) -> Installation {
        Installation::new(&self.ca, self.dns.address, self.web.address.port())
    }

    /// How often the CA was asked for an order for these names.
    pub(crate) fn orders_for(&self, names: &[&str]) -> usize {
        let stats = self.ca.stats();
        stats
            .orders
            .iter()
            .filter(|order| order.identifiers == names)
            .count()
    }

    /// How often the CA has taken a CSR for these names.
    pub(crate) fn finalizes_for(&self, names: &[&str]) -> u64 {
        let stats = self.ca.stats();
        let orders = stats.orders.iter().filter(|order| order.identifiers == names);
        orders.map(|order| order.finalizes).sum()
    }
}

/// A certificate request.
pub(crate) struct Request {
    /// DER.
    pub(crate) csr: Vec<u8>,
    /// The key that it is for, as a DER `SubjectPublicKeyInfo`.
    pub(crate) public_key: Vec<u8>,
}

impl Request {
    /// For these names, with a fresh key.
    pub(crate) fn for_names(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        Self {
            csr: params.serialize_request(&key).unwrap().der().to_vec(),
            public_key: key.subject_public_key_info(),
        }
    }
}
