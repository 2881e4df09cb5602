//! The worker: runs the queue of jobs.

use crate::acme::identifier::DnsName;

/// How much the worker does at a time.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The names of our own certificate; `None` when it comes from files.
    pub own_certificate_names: Option<Vec<DnsName>>,
    /// Validations at a time.
    pub validations: usize,
    /// Issuances at a time.
    pub issuances: usize,
    /// Attempts at a validation before it fails.
    pub validation_attempts: u32,
    /// The label of the metric `externalcas_external_ca_up`.
    pub ca_url: String,
}
