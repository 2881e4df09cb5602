//! The CA's own dns-01 challenges (RFC 8555 §8.4), solved through a DNS provider: records are published, awaited at the
//! zone's authoritative servers, and taken back.
//!
//! Nothing that the CA sent reaches a provider unchecked. What has been published is kept in memory only: after a
//! restart it is published again, which is harmless. So one process at a time does this ([`lead`]). No fault here is held
//! against the CA.

mod acme_dns;
mod azuredns;
mod book;
mod cloudflare;
mod desec;
mod desk;
mod digitalocean;
mod exec;
mod gcloud;
mod httpreq;
mod infoblox;
pub mod known;
pub mod lead;
mod ovh;
pub mod probe;
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

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::acme::identifier::DnsName;
use crate::acme::secret::Secret;
use crate::upstream::Error;
use crate::upstream::SetupError;
use crate::upstream::dns::desk::Desk;
use crate::upstream::dns::desk::Refused;
use crate::upstream::dns::lead::Lead;
use crate::upstream::dns::propagation::Lookout;
use crate::upstream::dns::propagation::Sight;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::web::Web;

/// How long one call may go on publishing: an order with many names goes on at the next call.
const PUBLISHING_BUDGET: Duration = Duration::from_secs(30);

/// How long one call may look for records: the next one looks for those that have not been seen.
const LOOKING_BUDGET: Duration = Duration::from_secs(30);

/// Names that are looked for side by side.
const LOOKS_AT_A_TIME: usize = 32;

/// Most records are gone at once. For the others nobody waits.
const CLEAN_UP_PATIENCE: Duration = Duration::from_secs(5);

/// How long an order waits for the process that changes the records, if it is not this one.
const ANOTHERS_TURN: Publication = Publication::Spreading(Duration::from_secs(1));

/// A challenge is answered again if the CA has not looked for so long: its first answer may have been lost.
const ANSWER_AGAIN: Duration = Duration::from_secs(60);

/// How dns-01 challenges of the CA are solved.
#[derive(Debug, Clone)]
pub struct Dns01 {
    /// The provider's name.
    pub name: &'static str,
    /// Who publishes the records.
    pub provider: Arc<dyn Provider>,
    /// What the provider was made of: the variables' values.
    pub values: BTreeMap<String, Secret>,
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
    /// Whether a record is put where a CNAME of its name leads.
    pub follow_aliases: bool,
}

impl Dns01 {
    /// Whether the other one is made of the same. What a file of roots has in it may still be another thing.
    pub fn is_made_like(&self, other: &Self) -> bool {
        self.name == other.name && self.values == other.values && self.servers == other.servers
    }
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
    desk: Arc<Desk>,
    lookout: Lookout,
    settings: Dns01,
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
        let web = Web::new(settings.roots.as_deref())?;
        Ok(Self {
            desk: Arc::new(Desk::new(settings.clone(), web)),
            lookout: Lookout::new(&settings.servers, settings.authority_port)?,
            settings,
        })
    }

    /// From now on nothing is changed but in this process's terms. The first to say so counts.
    pub fn led_by(&self, lead: Arc<dyn Lead>) {
        self.desk.led_by(lead);
    }

    /// Publishes the records of an order that have not been published yet, and looks whether all of them can be seen.
    /// A wildcard and its base name have two records under one name.
    ///
    /// # Errors
    ///
    /// Transient if the provider fails, or the records stay invisible for longer than configured; then they are taken
    /// back, and the next call begins anew. Transient, too, if it can not be found out where a record belongs.
    pub async fn publish(&self, order: &str, records: &[Record]) -> Result<Publication, Error> {
        let Some(term) = self.desk.term() else {
            return Ok(ANOTHERS_TURN);
        };
        let begun = Instant::now();
        for wanted in records {
            if self.desk.book.is_confirmed(order, wanted) {
                continue;
            }
            if let Some(pause) = self.desk.pause() {
                return Ok(Publication::Spreading(pause));
            }
            if begun.elapsed() > PUBLISHING_BUDGET {
                return Ok(Publication::Spreading(Duration::from_secs(1)));
            }
            let at = Record {
                name: self.place_of(wanted).await?,
                ..wanted.clone()
            };
            match self.desk.present(term, order, wanted, &at).await {
                Ok(()) => {}
                Err(Refused { wait: Some(wait), .. }) => return Ok(Publication::Spreading(wait)),
                Err(Refused { detail, wait: None }) => {
                    self.clean_up(order).await;
                    return Err(fault(detail));
                }
            }
        }
        let publication = self.look(order).await?;
        Ok(match self.desk.term() == Some(term) {
            true => publication,
            // What it has found out is about records that are not known any more.
            false => ANOTHERS_TURN,
        })
    }

    /// Remembers records that the CA is looking for already, so that they are taken back at the order's end: they were
    /// published before this process began. Nothing is changed while the CA is at it.
    pub async fn remember(&self, order: &str, records: &[Record]) {
        if self.desk.term().is_none() {
            return;
        }
        for wanted in records {
            if self.desk.book.knows(order, wanted) {
                continue;
            }
            if let Ok(name) = self.place_of(wanted).await {
                let at = Record {
                    name,
                    ..wanted.clone()
                };
                self.desk.book.note(order, wanted, &at);
            }
        }
    }

    /// Where the record has to be.
    async fn place_of(&self, wanted: &Record) -> Result<String, Error> {
        match self.settings.follow_aliases {
            true => self.lookout.canonical(&wanted.name).await.map_err(fault),
            false => Ok(wanted.name.clone()),
        }
    }

    /// Looks for the records that have not been seen yet.
    async fn look(&self, order: &str) -> Result<Publication, Error> {
        let polling_interval = self.settings.polling_interval.max(Duration::from_secs(1));
        let unseen = self.desk.book.unseen(order);
        let mut open = unseen.len();
        let places = Arc::new(Semaphore::new(LOOKS_AT_A_TIME));
        let mut looks = JoinSet::new();
        for entry in unseen {
            let (lookout, places) = (self.lookout.clone(), Arc::clone(&places));
            looks.spawn(async move {
                let _place = places.acquire().await;
                let authorities = match entry.authorities.is_empty() {
                    true => lookout.authorities(&entry.at.name).await,
                    false => entry.authorities.clone(),
                };
                let sight = lookout.sees(&entry.at, &authorities).await;
                (entry, authorities, sight)
            });
        }
        let deadline = Instant::now() + LOOKING_BUDGET;
        let (mut missing, mut unclear) = (None, Vec::new());
        while let Ok(Some(Ok((entry, authorities, sight)))) =
            tokio::time::timeout_at(deadline, looks.join_next()).await
        {
            let book = &self.desk.book;
            book.looked(order, &entry, &authorities, sight == Sight::Seen);
            match sight {
                Sight::Seen => open = open.saturating_sub(1),
                Sight::Missing => missing = Some(entry.at.name),
                Sight::Unclear => unclear.push(entry),
            }
        }
        let timeout = self.settings.propagation_timeout;
        let since = self.desk.book.complete_since(order);
        let is_late = since.is_some_and(|since| since.elapsed() > timeout);
        let seconds = timeout.as_secs();
        match missing {
            _ if open == 0 => Ok(Publication::Visible),
            Some(missing) if is_late => {
                self.clean_up(order).await;
                Err(fault(format!(
                    "the TXT record of {missing} is not visible after {seconds} s"
                )))
            }
            None if is_late && unclear.len() == open => {
                for entry in unclear {
                    tracing::warn!(
                        name = entry.at.name,
                        seconds,
                        "no authoritative server can be asked for a TXT record; going on without having seen it"
                    );
                    self.desk.book.looked(order, &entry, &[], true);
                }
                Ok(Publication::Visible)
            }
            Some(_) | None => Ok(Publication::Spreading(polling_interval)),
        }
    }

    /// Whether the CA has been told of this record, not long ago. Each further answer makes some CAs look again.
    pub fn is_answered(&self, order: &str, wanted: &Record) -> bool {
        let answered = self.desk.book.answered(order, wanted);
        answered.is_some_and(|answered| answered.elapsed() < ANSWER_AGAIN)
    }

    /// The CA has been told of this record.
    pub fn answered(&self, order: &str, wanted: &Record) {
        self.desk.book.answer(order, wanted);
    }

    /// Takes back what was published for the order, as far as this process knows. What the provider does not remove soon
    /// is removed later, while nobody waits; failures are logged.
    pub async fn clean_up(&self, order: &str) {
        let Some(term) = self.desk.term() else { return };
        let records = self.desk.book.take(order);
        if records.is_empty() {
            return;
        }
        let desk = Arc::clone(&self.desk);
        let withdrawal = tokio::spawn(async move { desk.withdraw(term, records).await });
        // It goes on without us.
        let _ = tokio::time::timeout(CLEAN_UP_PATIENCE, withdrawal).await;
    }
}

/// A fault of DNS or of its provider, which the CA has no part in.
fn fault(detail: String) -> Error {
    Error::transient(detail).of_nobody_here()
}
