//! The CA's own dns-01 challenges (RFC 8555 §8.4), solved through a DNS provider: records are published, awaited at the
//! zone's authoritative servers, and taken back.
//!
//! Nothing that the CA sent reaches a provider unchecked. What has been published is kept in memory only: after a
//! restart it is published again, which is harmless.

mod acme_dns;
mod azuredns;
mod cloudflare;
mod desec;
mod digitalocean;
mod exec;
mod gcloud;
mod httpreq;
mod infoblox;
pub mod known;
mod ovh;
mod propagation;
pub mod provider;
mod rfc2136;
mod route53;
#[cfg(test)]
mod scripted;
mod sigv4;
mod tsig;
pub mod variables;
pub mod web;

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::acme::identifier::DnsName;
use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Secret;
use crate::upstream::SetupError;
use crate::upstream::dns::propagation::Lookout;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::web::Web;

/// How long one call may go on publishing: an order with many names goes on at the next call.
const PUBLISHING_BUDGET: Duration = Duration::from_secs(60);

/// One change by a provider, which may take several requests.
const PROVIDER_DEADLINE: Duration = Duration::from_secs(75);

/// Of a provider's error, for the log.
const MAX_DETAIL_CHARS: usize = 2500;

/// Shorter secrets are not looked for in what a provider says: their letters are everywhere.
const MIN_SECRET_CHARS: usize = 6;

/// Changes of different names run side by side, as far as their names fall to different locks.
const TURNS: usize = 64;

/// How dns-01 challenges of the CA are solved.
#[derive(Debug, Clone)]
pub struct Dns01 {
    /// The provider's name.
    pub name: &'static str,
    /// Who publishes the records.
    pub provider: Arc<dyn Provider>,
    /// What must not be logged.
    pub secrets: Vec<Secret>,
    /// PEM file of further roots to trust for the provider's API.
    pub roots: Option<PathBuf>,
    /// DNS servers to start from; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// The port of authoritative servers: 53, except in tests.
    pub authority_port: u16,
    /// How long a record may take to become visible.
    pub propagation_timeout: Duration,
    /// How often to look.
    pub polling_interval: Duration,
}

/// A TXT record that the CA is to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's full name, with the final dot.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The name that is validated, without a wildcard's `*.`.
    pub domain: String,
    /// The challenge's token.
    pub token: String,
    /// The challenge's key authorization.
    pub key_authorization: String,
}

impl Record {
    /// The record for a challenge of this name; `None`: the CA's token is none.
    pub fn new(domain: &DnsName, token: &str, thumbprint: &str) -> Option<Self> {
        // RFC 8555 §8.4: "It MUST NOT contain any characters outside the base64url alphabet".
        let base64url = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if !(1..=512).contains(&token.len()) || !token.bytes().all(base64url) {
            return None;
        }
        let key_authorization = format!("{token}.{thumbprint}");
        let digest = digest::digest(&digest::SHA256, key_authorization.as_bytes());
        Some(Self {
            name: format!("_acme-challenge.{domain}."),
            value: URL_SAFE_NO_PAD.encode(digest),
            domain: domain.to_string(),
            token: token.to_owned(),
            key_authorization,
        })
    }
}

/// How far the records of an order have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// All of them are visible.
    Visible,
    /// Look again after this time.
    Spreading(Duration),
}

/// Publishes records and takes them back.
pub struct Solver {
    settings: Dns01,
    web: Web,
    lookout: Lookout,
    published: Mutex<HashMap<String, Published>>,
    /// Who changes a name holds its lock: providers read and write whole sets of values, and a value that two orders
    /// share is withdrawn by the last of them.
    turns: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
}

/// What the provider has been told for one order.
#[derive(Clone)]
struct Published {
    records: Vec<PublishedRecord>,
    since: Instant,
}

#[derive(Clone)]
struct PublishedRecord {
    wanted: Record,
    /// Where the record was put: aliases have been followed.
    at: Record,
    authorities: Vec<SocketAddr>,
    /// Whether the provider has said so. What it has not may be there all the same.
    confirmed: bool,
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Solver {
    /// A solver. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if there are no DNS servers or no roots to trust.
    pub fn new(settings: Dns01) -> Result<Self, SetupError> {
        Ok(Self {
            web: Web::new(settings.roots.as_deref())?,
            lookout: Lookout::new(&settings.servers, settings.authority_port)?,
            settings,
            published: Mutex::default(),
            turns: std::iter::repeat_with(tokio::sync::Mutex::default)
                .take(TURNS)
                .collect(),
            hasher: RandomState::new(),
        })
    }

    /// Publishes the records of an order that have not been published yet, and looks whether all of them can be seen.
    /// A wildcard and its base name have two records under one name.
    ///
    /// # Errors
    ///
    /// Transient if the provider fails, or the records stay invisible for longer than configured; then they are taken
    /// back, and the next call begins anew.
    pub async fn publish(&self, order: &str, records: &[Record]) -> Result<Publication, Error> {
        let begun = Instant::now();
        for wanted in records {
            if self.is_confirmed(order, wanted) {
                continue;
            }
            if begun.elapsed() > PUBLISHING_BUDGET {
                return Ok(Publication::Spreading(Duration::from_secs(1)));
            }
            let at = Record {
                name: self.lookout.canonical(&wanted.name).await,
                ..wanted.clone()
            };
            let authorities = self.lookout.authorities(&at.name).await;
            // Before the provider is called: a call that fails or is cut short may have published all the same.
            self.note(order, wanted, &at, authorities);
            let _turn = self.turn(&at.name).await;
            if let Err(detail) = self.apply(Action::Present, &at).await {
                drop(_turn);
                self.clean_up(order).await;
                return Err(Error::transient(detail));
            }
            self.confirm(order, wanted);
        }
        let Some(published) = self.published().get(order).cloned() else {
            return Ok(Publication::Visible);
        };
        let Some(missing) = self.missing(&published).await else {
            return Ok(Publication::Visible);
        };
        if published.since.elapsed() > self.settings.propagation_timeout {
            let seconds = self.settings.propagation_timeout.as_secs();
            self.clean_up(order).await;
            return Err(Error::transient(format!(
                "the TXT record of {missing} is not visible after {seconds} s"
            )));
        }
        Ok(Publication::Spreading(
            self.settings.polling_interval.max(Duration::from_secs(1)),
        ))
    }

    /// Takes back what was published for the order, as far as this process knows. Failures are logged.
    pub async fn clean_up(&self, order: &str) {
        let published = self.published().remove(order);
        for PublishedRecord { at, .. } in published.into_iter().flat_map(|published| published.records) {
            let _turn = self.turn(&at.name).await;
            if self.is_wanted(&at) {
                continue;
            }
            if let Err(detail) = self.apply(Action::Withdraw, &at).await {
                tracing::warn!(name = at.name, error = detail, "a TXT record may be left behind");
            }
        }
    }

    /// One change, with the provider's words cleaned of secrets.
    async fn apply(&self, action: Action, record: &Record) -> Result<(), String> {
        let change = self.settings.provider.apply(action, record, &self.web);
        let outcome = match tokio::time::timeout(PROVIDER_DEADLINE, change).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", PROVIDER_DEADLINE.as_secs())),
        };
        let provider = self.settings.name;
        outcome.map_err(|detail| format!("{provider}: {}: {}", record.name, self.redacted(detail)))
    }

    /// Programs print their environment when they are debugged, and servers what they were sent.
    fn redacted(&self, mut detail: String) -> String {
        for secret in &self.settings.secrets {
            if secret.reveal().chars().count() >= MIN_SECRET_CHARS {
                detail = detail.replace(secret.reveal(), "[redacted]");
            }
        }
        cleaned(&detail, MAX_DETAIL_CHARS)
    }

    /// The lock of a name.
    async fn turn(&self, name: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let hash = self.hasher.hash_one(name);
        let lock = self
            .turns
            .iter()
            .cycle()
            .nth(usize::from(hash.to_le_bytes()[0]))?;
        Some(lock.lock().await)
    }

    fn published(&self) -> MutexGuard<'_, HashMap<String, Published>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_confirmed(&self, order: &str, wanted: &Record) -> bool {
        let published = self.published();
        let mut records = published.get(order).into_iter().flat_map(|order| &order.records);
        records.any(|known| known.wanted == *wanted && known.confirmed)
    }

    /// Whether an order has this value at this place. Let's Encrypt gives one authorization to two orders.
    fn is_wanted(&self, at: &Record) -> bool {
        let published = self.published();
        let mut records = published.values().flat_map(|order| &order.records);
        records.any(|known| known.at.name == at.name && known.at.value == at.value)
    }

    fn note(&self, order: &str, wanted: &Record, at: &Record, authorities: Vec<SocketAddr>) {
        let mut published = self.published();
        let order = published.entry(order.to_owned()).or_insert_with(|| Published {
            records: Vec::new(),
            since: Instant::now(),
        });
        order
            .records
            .retain(|known| known.wanted != *wanted || known.at != *at);
        order.records.push(PublishedRecord {
            wanted: wanted.clone(),
            at: at.clone(),
            authorities,
            confirmed: false,
        });
    }

    fn confirm(&self, order: &str, wanted: &Record) {
        if let Some(order) = self.published().get_mut(order) {
            order.since = Instant::now();
            let records = order.records.iter_mut();
            for known in records.filter(|known| known.wanted == *wanted) {
                known.confirmed = true;
            }
        }
    }

    /// The first name whose record can not be seen.
    async fn missing(&self, published: &Published) -> Option<String> {
        for PublishedRecord { at, authorities, .. } in &published.records {
            if !self.lookout.sees(at, authorities).await {
                return Some(at.name.clone());
            }
        }
        None
    }
}
