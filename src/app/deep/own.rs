//! The daemon's own certificate, as clients are shown it, or as the next start will show it; and what a running daemon
//! says of its health.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::tls::TlsInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::acme::problem::cleaned;
use crate::app::deep::{Check, Facts, Finding};
use crate::server::OwnCertificate;

/// How long the daemon may take to answer.
const DEADLINE: Duration = Duration::from_secs(15);

/// Somebody has to replace a certificate from files; so long before its end it should be known.
const NOTICE: i64 = 14 * 86_400;

/// One from the CA is renewed at two thirds of its life at the latest. When less than this share is left, it was not.
const OVERDUE: i64 = 4;

#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    missing: BTreeMap<String, String>,
}

/// What the certificate says.
struct Leaf {
    names: Vec<String>,
    issuer: String,
    from: i64,
    until: i64,
}

impl Leaf {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        let names = leaf.subject_alternative_name().ok().flatten();
        let names = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            });
        Some(Self {
            names: names.collect(),
            issuer: cleaned(&leaf.issuer().to_string(), 100),
            from: leaf.validity().not_before.timestamp(),
            until: leaf.validity().not_after.timestamp(),
        })
    }

    fn covers(&self, wanted: &str) -> bool {
        let above = wanted.split_once('.').map(|(_, above)| format!("*.{above}"));
        self.names
            .iter()
            .any(|name| name == wanted || Some(name) == above.as_ref())
    }
}

pub(crate) async fn look(facts: &Facts) -> Vec<Finding> {
    let from_files = match &facts.config.server.own_certificate {
        OwnCertificate::Files { certificate, .. } => Some(certificate.clone()),
        OwnCertificate::FromUpstream { .. } => None,
    };
    let served = match facts.daemon_runs().await {
        true => served(facts).await.map(|(leaf, _)| leaf),
        false => None,
    };
    let der = match (served, &from_files) {
        (Some(served), _) => Some(served),
        (None, Some(file)) => {
            let chain = std::fs::read(file).ok();
            let first = chain.and_then(|pem| CertificateDer::pem_slice_iter(&pem).next()?.ok());
            first.map(|leaf| leaf.to_vec())
        }
        (None, None) => {
            let stored = facts.known().await.own_certificate.as_ref();
            stored.map(|certificate| certificate.leaf().as_bytes().to_vec())
        }
    };
    let Some(leaf) = der.as_deref().and_then(Leaf::of) else {
        return vec![absent(facts).await];
    };
    let mut findings = vec![age(&leaf, facts.clock.now(), from_files.is_some())];
    let names = facts.config.server.names.iter();
    let uncovered: Vec<String> = names
        .filter(|name| !leaf.covers(name.as_str()))
        .map(ToString::to_string)
        .collect();
    if leaf.names.is_empty() && from_files.is_none() {
        return vec![Finding::failure(
            Check::OwnCertificate,
            "",
            "the daemon serves a stand-in: there is no certificate from the CA yet, and no client trusts it",
            "look at the line daemon below, and at the daemon's log",
        )];
    }
    if !uncovered.is_empty() {
        let text = format!("it does not have {} of dnsNames", uncovered.join(", "));
        let fix = match from_files {
            Some(_) => "put one with all names in its place",
            None => "restart the daemon: it orders one with all names",
        };
        findings.push(Finding::failure(Check::OwnCertificate, "", text, fix));
    }
    findings
}

async fn absent(facts: &Facts) -> Finding {
    match (facts.daemon_runs().await, &facts.config.server.own_certificate) {
        (false, OwnCertificate::FromUpstream { .. }) => Finding::ok(
            Check::OwnCertificate,
            "",
            "there is none yet, or it can not be looked at; the daemon orders one when it starts",
        ),
        (false, OwnCertificate::Files { certificate, .. }) => Finding::failure(
            Check::OwnCertificate,
            "",
            format!("{} holds no certificate that can be read", certificate.display()),
            "write a PEM chain into it, the leaf first",
        ),
        (true, _) => Finding::failure(
            Check::OwnCertificate,
            "",
            "the daemon runs, and does not answer over TLS",
            "look at the lines about ports above, and restart it",
        ),
    }
}

fn age(leaf: &Leaf, now: Timestamp, from_files: bool) -> Finding {
    let (life, left) = (leaf.until - leaf.from, leaf.until - now.as_second());
    let days = left.div_euclid(86_400);
    let text = format!(
        "{days} days left, for {}, from {}",
        leaf.names.join(", "),
        leaf.issuer
    );
    let fix = match from_files {
        true => "put another one in the place of tls.certificate and tls.key",
        false => "look at the daemon's log: the CA does not renew it",
    };
    let check = Check::OwnCertificate;
    match left {
        left if left <= 0 => Finding::failure(check, "", format!("it has expired: {text}"), fix),
        left if from_files && left < NOTICE => Finding::warning(check, "", text, fix),
        left if !from_files && left.saturating_mul(OVERDUE) < life => {
            Finding::warning(check, "", format!("it should have been renewed: {text}"), fix)
        }
        _ if leaf.from > now.as_second() => Finding::failure(
            check,
            "",
            format!("it is not valid yet: {text}"),
            "look at the clock of this host",
        ),
        _ => Finding::ok(check, "", text),
    }
}

/// The leaf that the running daemon shows to clients, and what it says of its health.
async fn served(facts: &Facts) -> Option<(Vec<u8>, Health)> {
    let listening = facts.config.server.address;
    let here = match listening.ip() {
        address if address == Ipv6Addr::UNSPECIFIED || address == Ipv4Addr::UNSPECIFIED => {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }
        address => address,
    };
    let url = format!("https://{}/health", SocketAddr::new(here, listening.port()));
    // Whether clients trust it is told by what is in it: this is a look, and nothing that is read is believed.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_info(true)
        .tls_danger_accept_invalid_certs(true)
        .timeout(DEADLINE)
        .build()
        .ok()?;
    let answer = client.get(url).send().await.ok()?;
    let info: &TlsInfo = answer.extensions().get()?;
    let leaf = info.peer_certificate()?.to_vec();
    let health = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    Some((leaf, health))
}

pub(crate) async fn daemon(facts: &Facts) -> Vec<Finding> {
    let path = facts.config.store.path.display();
    if !facts.daemon_runs().await {
        return vec![Finding::ok(
            Check::Daemon,
            "",
            format!("none runs with the store {path}"),
        )];
    }
    let Some((_, health)) = served(facts).await else {
        return vec![Finding::failure(
            Check::Daemon,
            "",
            format!("one has the store {path} open, and does not say how it is"),
            "restart it",
        )];
    };
    if health.missing.is_empty() {
        return vec![Finding::ok(Check::Daemon, "", "it runs, and misses nothing")];
    }
    let missing = health.missing.into_iter();
    let finding = |(part, what): (String, String)| {
        Finding::failure(
            Check::Daemon,
            cleaned(&part, 100),
            cleaned(&what, 500),
            "see Health in docs/OPERATIONS.md",
        )
    };
    missing.map(finding).collect()
}
