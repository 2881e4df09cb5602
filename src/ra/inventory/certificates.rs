//! Certificates as operators see them, and what they may do with them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::certificate;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::order::{Order, after};
use crate::acme::problem::Problem;
use crate::acme::revocation::{Revocation, RevocationReason};
use crate::acme::upstream::UpstreamName;
use crate::ra::RegistrationAuthority;
use crate::ra::certificate::Revoker;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::{Found, Part, account_named, has_name, name_to_find, parsed};

/// Which certificates are wanted: those for which all of it is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFilter {
    /// The one with this id, which is its order's.
    #[serde(default)]
    pub id: Option<String>,
    /// Those for this name, or for names that end so (`*.example.com`).
    #[serde(default)]
    pub name: Option<String>,
    /// Those of this account.
    #[serde(default)]
    pub account: Option<String>,
    /// Those with this serial number, in hexadecimal.
    #[serde(default)]
    pub serial: Option<String>,
    /// Valid ones that expire within this time.
    #[serde(default)]
    pub expires_within: Option<Duration>,
    /// Those that have expired.
    #[serde(default)]
    pub expired: bool,
    /// Those that the CA has revoked.
    #[serde(default)]
    pub revoked: bool,
}

/// A certificate.
#[derive(Debug, Serialize)]
pub struct CertificateRecord {
    /// Its order's id.
    pub id: OrderId,
    /// `valid`, `expired` or `revoked`.
    pub status: &'static str,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: String,
    /// Who has signed it.
    pub issuer: String,
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last moment of its validity.
    pub not_after: Timestamp,
    /// When it came from the CA, if that was in time.
    pub issued: Option<Timestamp>,
    /// It came after the end of its order, so that its client does not get it.
    pub late: bool,
    /// Its client has fetched it.
    pub fetched: bool,
    /// Whose it is.
    pub account: AccountId,
    /// The account's provisioner.
    pub provisioner: String,
    /// Where it was bought.
    pub upstream: UpstreamName,
    /// The order at the CA.
    pub ca_order: Option<String>,
    /// What has become of its revocation, if one was asked for.
    pub revocation: Option<RevocationRecord>,
}

/// How far a revocation has come.
#[derive(Debug, Serialize)]
pub struct RevocationRecord {
    /// `requested`, `confirmed` or `refused`.
    pub state: &'static str,
    /// Since when.
    pub at: Timestamp,
    /// Why it was asked for.
    pub reason: Option<RevocationReason>,
    /// Why the CA has refused it.
    pub problem: Option<Problem>,
}

impl From<&Revocation> for RevocationRecord {
    fn from(revocation: &Revocation) -> Self {
        let (state, at, reason, problem) = match revocation {
            Revocation::Requested { reason, at } => ("requested", at, *reason, None),
            Revocation::Confirmed { reason, at } => ("confirmed", at, *reason, None),
            Revocation::Refused { problem, at } => ("refused", at, None, Some(problem.clone())),
        };
        Self {
            state,
            at: *at,
            reason,
            problem,
        }
    }
}

impl RegistrationAuthority {
    /// A part of the certificates that are wanted.
    ///
    /// # Errors
    ///
    /// What is wrong with the filter; the store's.
    pub async fn certificates(
        &self,
        filter: &CertificateFilter,
        part: &Part,
    ) -> Result<Found<CertificateRecord>, KeyError> {
        let account = filter.account.as_deref().map(account_named).transpose()?;
        let account = account.map(|name| name.id());
        let serial = filter.serial.as_deref().map(serial_number).transpose()?;
        let name = filter.name.as_deref().map(name_to_find).transpose()?;
        let now = self.clock.now();
        let found = match &filter.id {
            Some(id) => {
                let order = self.store.order(parsed(id)?).await?.map(|order| order.value);
                Found {
                    records: order.into_iter().collect(),
                    next: None,
                }
            }
            None => {
                let wanted = |order: &Order| {
                    name.is_none_or(|name| has_name(order.identifiers(), name))
                        && is_of_time(order, filter, now)
                        && serial.as_ref().is_none_or(|serial| has_serial(order, serial))
                };
                self.look_through_orders(account, part, wanted).await?
            }
        };
        let mut records = Vec::new();
        for order in found.records {
            records.extend(self.record_of(&order, now).await?);
        }
        Ok(Found {
            records,
            next: found.next,
        })
    }

    /// The certificate of this id.
    ///
    /// # Errors
    ///
    /// There is none; the store's.
    pub async fn certificate_record(&self, id: &str) -> Result<CertificateRecord, KeyError> {
        let order = self.order_with_certificate(id).await?;
        let record = self.record_of(&order, self.clock.now()).await?;
        record.ok_or_else(|| {
            KeyError::Refused(format!(
                "the certificate of order {id} was handed over to a later order for the same names; look it up by its serial \
                 number or name"
            ))
        })
    }

    /// The chain of the certificate of this id as its client gets it, PEM.
    ///
    /// # Errors
    ///
    /// There is none; the store's.
    pub async fn exported_chain(&self, id: &str) -> Result<String, KeyError> {
        let order = self.order_with_certificate(id).await?;
        let bought = order.bought().ok_or_else(|| no_certificate(id))?;
        let issuers = self.store.issuers(bought.issuers()).await?;
        Ok(certificate::to_pem(
            std::iter::once(bought.leaf()).chain(&issuers),
        ))
    }

    /// Has the CA revoke the certificate of this id, and waits a while for its answer.
    ///
    /// # Errors
    ///
    /// Why it is not revoked, or not yet.
    pub async fn revoke_by_operator(&self, id: &str, reason: Option<i64>) -> Result<(), KeyError> {
        let reason = reason.map(RevocationReason::from_code).transpose();
        let reason = reason.map_err(|problem| KeyError::Refused(problem.detail))?;
        let order = self.order_with_certificate(id).await?;
        let bought = order.bought().ok_or_else(|| no_certificate(id))?;
        if let Some(Revocation::Confirmed { at, .. }) = order.revocation() {
            return Err(KeyError::Refused(format!(
                "the certificate {id} is revoked already, since {at:.0}"
            )));
        }
        tracing::info!(
            target: "acme_proxy::operator", audit = true, account.id = %order.account(), order.id = %order.id(), ?reason,
            certificate.sha256 = %bought.leaf().fingerprint(), "revocation asked for by the operator"
        );
        let leaf = bought.leaf().as_bytes().to_vec();
        let revoked = self.revoke(&Revoker::Operator, leaf, reason).await;
        Ok(revoked?)
    }

    async fn order_with_certificate(&self, id: &str) -> Result<Order, KeyError> {
        let order = self.store.order(parsed(id)?).await?;
        let order = order.filter(|order| order.value.bought().is_some());
        order.map(|order| order.value).ok_or_else(|| no_certificate(id))
    }

    /// The order's certificate, unless it has become another order's.
    async fn record_of(&self, order: &Order, now: Timestamp) -> Result<Option<CertificateRecord>, KeyError> {
        let Some(bought) = order.bought() else {
            return Ok(None);
        };
        let fingerprint = bought.leaf().fingerprint();
        if self.store.order_of_certificate(fingerprint).await? != Some(order.id()) {
            return Ok(None);
        }
        let leaf = bought.shown();
        Ok(Some(CertificateRecord {
            id: order.id(),
            status: status(order, bought.not_after(), now),
            names: order.identifiers().map(ToString::to_string).collect(),
            serial: leaf
                .as_ref()
                .map_or_else(String::new, |leaf| leaf.serial_hex.clone()),
            sha256: fingerprint.to_string(),
            issuer: leaf.map_or_else(String::new, |leaf| leaf.issuer_name),
            not_before: bought.not_before(),
            not_after: bought.not_after(),
            issued: order.issued_at(),
            late: order.certificate().is_none(),
            fetched: order.is_fetched(),
            account: order.account(),
            provisioner: order.provisioner().to_owned(),
            upstream: order.upstream_name(),
            ca_order: order.url_at_ca().map(str::to_owned),
            revocation: order.revocation().map(RevocationRecord::from),
        }))
    }
}

fn no_certificate(id: &str) -> KeyError {
    KeyError::Refused(format!("there is no certificate with the id {id}"))
}

fn status(order: &Order, not_after: Timestamp, now: Timestamp) -> &'static str {
    match order.revocation() {
        Some(Revocation::Confirmed { .. }) => "revoked",
        Some(Revocation::Requested { .. } | Revocation::Refused { .. }) | None if not_after <= now => {
            "expired"
        }
        Some(Revocation::Requested { .. } | Revocation::Refused { .. }) | None => "valid",
    }
}

fn is_of_time(order: &Order, filter: &CertificateFilter, now: Timestamp) -> bool {
    let Some(bought) = order.bought() else {
        return false;
    };
    let status = status(order, bought.not_after(), now);
    let soon = |within| status == "valid" && bought.not_after() <= after(now, within);
    (!filter.expired || bought.not_after() <= now)
        && (!filter.revoked || status == "revoked")
        && filter.expires_within.is_none_or(soon)
}

fn has_serial(order: &Order, serial: &str) -> bool {
    let leaf = order.bought().and_then(|bought| bought.shown());
    leaf.is_some_and(|leaf| leaf.serial_hex.trim_start_matches('0') == serial)
}

/// A serial number as a person has written it, without what it may or may not begin with.
fn serial_number(text: &str) -> Result<String, KeyError> {
    let mut digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    digits.make_ascii_lowercase();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    match !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(digits.trim_start_matches('0').to_owned()),
        false => Err(KeyError::Refused(format!(
            "{text:?} is no serial number: write hexadecimal digits, with or without colons"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_in_each_of_its_spellings() {
        for text in ["00:AB:CD", "abcd", "0xABCD", "AB CD", "00abcd"] {
            assert_eq!(serial_number(text).unwrap(), "abcd", "{text}");
        }
        for text in ["", ":", "0x", "abcg", "www.example.com"] {
            assert!(serial_number(text).is_err(), "{text}");
        }
    }
}
