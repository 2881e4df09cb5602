//! The public CA: an ACME client (RFC 8555) with one account, which has the clients' CSRs signed.
//!
//! [`Issuer`] is all that the worker knows of it. Only a [`ValidatedOrder`] gets in, and nothing is trusted that comes
//! out: the chain is checked by the caller before it is stored.

pub mod account;
pub mod acme;
mod chains;
pub mod dns;
pub mod fault;
pub mod http;
pub mod lookup;
mod new_order;
mod renewal;
mod transport;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::acme::certificate::Der;
use crate::acme::offers::Offers;
use crate::acme::order::ValidatedOrder;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::problem::Problem;
use crate::acme::renewal::CertificateId;
use crate::acme::renewal::RenewalInfo;
use crate::acme::revocation::RevocationReason;
use crate::acme::secret::Secret;
use crate::acme::upstream::UpstreamOrder;
use crate::upstream::dns::Dns01;
use crate::upstream::dns::lead::Lead;

/// How the CA is reached, and who we are there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the settings stand in the configuration: what is to be changed there is named by it.
    pub section: String,
    /// The CA's directory, byte for byte as configured.
    pub directory: String,
    /// PEM file of further roots to trust for the directory's host.
    pub roots: Option<PathBuf>,
    /// Contact address of the account, without `mailto:`.
    pub email: Option<String>,
    /// The External Account Binding, if the CA wants one.
    pub eab: Option<Eab>,
    /// Solves dns-01 challenges that the CA still poses.
    pub dns01: Option<Dns01>,
    /// How long certificates are to be valid, if the CA is to be asked for that.
    pub lifetime: Option<Duration>,
    /// The profile of the orders that ask for none, where the CA has it.
    pub profile: Option<String>,
}

/// External Account Binding credentials (RFC 8555 §7.3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eab {
    /// The key identifier that the CA gave out.
    pub kid: Secret,
    /// The MAC key, decoded.
    pub hmac_key: Secret<Vec<u8>>,
}

/// Why the CA did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It may work later: connection faults, 5xx, 429, badNonce, an account that is not there yet.
    #[error("{detail}")]
    Transient {
        /// For the log.
        detail: String,
        /// The CA's `Retry-After`, clamped to 1 s .. 1 h.
        retry_after: Option<Duration>,
        /// What it says about the CA.
        says: Says,
    },
    /// It will not work: what the client is told (in our words, the CA's detail cleaned and capped).
    #[error("{0}")]
    Permanent(Problem),
    /// The CA's order is dead and has issued nothing: it is `invalid` without a reason that would hold for the next
    /// one. Another one may be opened.
    #[error("the CA's order is gone: {0}")]
    OrderGone(String),
    /// Nothing of the order, or of its CSR, is to be seen at the CA. One of the CA's replicas may lag behind, or a
    /// request of ours may still be on its way: it counts if it stays so.
    #[error("the CA's order is not to be seen: {0}")]
    OrderUnseen(String),
}

/// What a fault that may pass says about the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It does not do what it is asked, whoever asks.
    Failing,
    /// It asks us to slow down (429): that holds for every request to it.
    SlowDown,
    /// It is away, and says for how long (503 with a time): that holds for every request to it, and it does nothing
    /// meanwhile.
    Away,
    /// Nothing: it is about one order or certificate alone, about an account that was before the current one, perhaps
    /// at another CA, or about something of ours.
    Nothing,
}

impl Error {
    /// It may work later, and nobody has said when. It is not held against the CA.
    pub(crate) fn transient(detail: impl Into<String>) -> Self {
        Self::Transient {
            detail: detail.into(),
            retry_after: None,
            says: Says::Nothing,
        }
    }

    /// The same, come of a request that is made for all orders alike: then the CA fails, whatever its answer is.
    pub(crate) fn of_the_ca(self) -> Self {
        match self {
            Self::Transient {
                detail,
                retry_after,
                says: Says::Nothing,
            } => Self::Transient {
                detail,
                retry_after,
                says: Says::Failing,
            },
            error => error,
        }
    }

    /// The same, where the certificate may have been issued already: no refusal ends the order then.
    pub(crate) fn not_the_end(self) -> Self {
        match self {
            Self::Permanent(problem) => Self::transient(problem.to_string()),
            error => error,
        }
    }

    /// The same, not to be held against the CA.
    pub(crate) fn of_nobody_here(self) -> Self {
        match self {
            Self::Transient {
                detail, retry_after, ..
            } => Self::Transient {
                detail,
                retry_after,
                says: Says::Nothing,
            },
            error => error,
        }
    }
}

/// Settings that nothing can be done with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The directory is no https URL.
    #[error("ca_url: {0} is not an https URL")]
    Directory(String),
    /// The file of further roots can not be used.
    #[error("ca_root: {}: {why}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to trust, most often.
    #[error(
        "TLS towards the CA can not be set up: {0} (install the ca-certificates package, or set ca_root)"
    )]
    Tls(String),
    /// The system's resolver can not be read.
    #[error("DNS for dns01_txt can not be set up: {0}")]
    Dns(String),
}

/// How far an order at the CA has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to do but wait.
    Waiting {
        /// How long at least: the CA's `Retry-After`, clamped to 1 s .. 1 h, or our own choice.
        retry_after: Duration,
    },
    /// The certificate is there.
    Issued(Chains),
}

/// The chains of a certificate as the CA sent them, PEM, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// The one that the CA prefers.
    pub first: String,
    /// Others (RFC 8555 §7.4.2), as many as could be had.
    pub others: Vec<String>,
}

impl From<String> for Chains {
    fn from(first: String) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

/// What the CA says about a certificate's renewal (RFC 9773 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// When to renew.
    pub info: RenewalInfo,
    /// How long that holds: the CA's `Retry-After`, clamped to 1 min .. 1 day as RFC 9773 §4.3.2 has it.
    pub good_for: Duration,
}

/// Where certificates come from.
#[async_trait]
pub trait Issuer: Send + Sync + 'static {
    /// Makes sure that there is an account at the CA: finds the stored one, or registers, spending the EAB. Called
    /// until it succeeds; cheap once it has.
    async fn prepare(&self) -> Result<(), Error>;

    /// Returns once something has become of the account: the operator has done something about it, or the CA does not
    /// know it any more. Then it is to be prepared again. Where nothing can, never.
    async fn account_changed(&self) {
        std::future::pending().await
    }

    /// The URL of the account that orders are opened with now, as far as it is known.
    fn account(&self) -> Option<String> {
        None
    }

    /// Whether it publishes records for the CA's challenges.
    fn publishes(&self) -> bool {
        false
    }

    /// From now on it changes records in this process's terms only.
    fn follow(&self, _lead: Arc<dyn Lead>) {}

    /// Opens an order at the CA. Nothing else: the caller stores what it is given before it goes on.
    async fn open(&self, order: &ValidatedOrder) -> Result<UpstreamOrder, Error>;

    /// Does the next things for the order that was opened under [`ValidatedOrder::upstream`], as far as it goes
    /// without waiting: solves challenges, finalizes with the order's CSR once, fetches the chain. Safe to repeat from
    /// the start at any time.
    async fn advance(&self, order: &ValidatedOrder) -> Result<Progress, Error>;

    /// Looks how far the order has come at the CA that was opened for one that has ended, and fetches its chain. Nothing
    /// is done for it. [`Error::OrderGone`] if it is invalid: then it issues nothing. [`Error::OrderUnseen`] if it has
    /// not had the CSR, which may be on its way.
    async fn look(&self, order: &AwaitedOrder) -> Result<Progress, Error>;

    /// Revokes a certificate, signed by the account that has bought it, if that is known.
    async fn revoke(
        &self,
        certificate: &Der,
        bought_by: Option<&str>,
        reason: Option<RevocationReason>,
    ) -> Result<(), Error>;

    /// When the CA wants this certificate of its own to be renewed (RFC 9773 §4). Asked only where it offers that.
    async fn renewal(&self, certificate: &CertificateId) -> Result<Suggestion, Error>;

    /// Whether the CA's directory answers, and what it offers.
    async fn probe(&self) -> Result<Offers, Error>;
}
