//! Certificates from the CA: checked against the order and its CSR before anything else is done with them.
//!
//! [`IssuedChain::verify`] is the only way to make one (CONFORMANCE K13): the leaf's key is the CSR's, its names are
//! the order's, it is an end entity's, valid now, and signed by the certificate after it.

mod shown;
#[cfg(test)]
mod tests;

pub use shown::Leaf;

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x509_parser::prelude::*;

use crate::acme::id::OrderId;
use crate::acme::identifier::Identifier;
use crate::jose::jwk::Jwk;

/// The most certificates that a chain may have, the leaf among them.
const MAX_CHAIN: usize = 6;

/// The longest chain that is accepted, in bytes of PEM.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// The most chains that are kept for a leaf besides the first. No CA has as many.
pub const MAX_ALTERNATES: usize = 8;

/// The most that the issuers' certificates of all chains may have together, in bytes.
const MAX_ISSUERS_BYTES: usize = 36 * 1024;

/// How far the CA's clock may be ahead of ours, in seconds.
const CLOCK_SKEW: i64 = 300;

/// Bytes in the distinguished encoding rules of ASN.1. Stored as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Der(Vec<u8>);

impl Der {
    /// Takes the bytes as they are.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of the bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Der({} bytes)", self.0.len())
    }
}

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of these bytes.
    pub fn of(der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Self(hash)
    }

    /// The fingerprint of these 32 bytes, as [`Self::as_bytes`] gave them.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)?;
        let hash = bytes
            .try_into()
            .map_err(|_| serde::de::Error::custom("a fingerprint has 32 bytes"))?;
        Ok(Self(hash))
    }
}

/// A leaf that matches its order. The certificates above it are kept once for all orders, by fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    order: OrderId,
    leaf: Der,
    issuers: Vec<Fingerprint>,
    /// The certificates above the leaf in the CA's other chains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alternates: Vec<Vec<Fingerprint>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl IssuedCertificate {
    /// The order that the certificate answers.
    pub fn order(&self) -> OrderId {
        self.order
    }

    /// The end entity's certificate.
    pub fn leaf(&self) -> &Der {
        &self.leaf
    }

    /// The certificates above the leaf, nearest first.
    pub fn issuers(&self) -> &[Fingerprint] {
        &self.issuers
    }

    /// The certificates above the leaf in the CA's other chains, nearest first.
    pub fn alternates(&self) -> &[Vec<Fingerprint>] {
        &self.alternates
    }

    /// The first moment of the leaf's validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// What was ordered from the CA: what a certificate is held against.
#[derive(Debug, Clone, Copy)]
pub struct Ordered<'a> {
    /// The order.
    pub(crate) order: OrderId,
    /// The CSR that the CA got.
    pub(crate) csr: &'a Der,
    /// The names that the certificate is to have.
    pub(crate) identifiers: &'a [Identifier],
}

/// A whole chain that matches its order.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The leaf, for the order's record.
    pub certificate: IssuedCertificate,
    /// The certificates above it, nearest first, and those of its other chains.
    pub issuers: Vec<Der>,
}

/// Why a chain from the CA is not the one that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CA's certificate does not match the order: {0}")]
pub struct Mismatch(&'static str);

impl IssuedChain {
    /// Checks a chain as the CA sent it, PEM.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] names the first thing that is wrong. Such a chain must not be handed out.
    pub fn verify(pem: &str, ordered: Ordered<'_>, now: Timestamp) -> Result<Self, Mismatch> {
        let mut chain = certificates_of(pem)?;
        let leaf = leaf_of(&mut chain)?;
        let issuers = in_order(&leaf, chain)?;
        let certificate = verify_leaf(leaf, &issuers, ordered, now)?;
        Ok(Self { certificate, issuers })
    }

    /// Takes in another chain for the same leaf, checked like the first (RFC 8555 §7.4.2).
    ///
    /// # Errors
    ///
    /// [`Mismatch`]. The first chain is as good as it was.
    pub fn add_alternate(&mut self, pem: &str, ordered: Ordered<'_>, now: Timestamp) -> Result<(), Mismatch> {
        let other = Self::verify(pem, ordered, now)?;
        if other.certificate.leaf != self.certificate.leaf {
            return Err(Mismatch("it is another chain's leaf"));
        }
        let above = other.certificate.issuers;
        if above == self.certificate.issuers || self.certificate.alternates.contains(&above) {
            return Ok(());
        }
        if self.certificate.alternates.len() >= MAX_ALTERNATES {
            return Err(Mismatch("there are more chains than are kept"));
        }
        let mut issuers = self.issuers.clone();
        for issuer in other.issuers {
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        // All of them are one write.
        let bytes: usize = issuers.iter().map(|issuer| issuer.as_bytes().len()).sum();
        if bytes > MAX_ISSUERS_BYTES {
            return Err(Mismatch("its chains are too long together"));
        }
        self.issuers = issuers;
        self.certificate.alternates.push(above);
        Ok(())
    }
}

/// The certificates of a PEM chain, as they come.
fn certificates_of(pem: &str) -> Result<Vec<Der>, Mismatch> {
    if pem.len() > MAX_CHAIN_BYTES {
        return Err(Mismatch("the chain is longer than 64 KiB"));
    }
    let mut chain = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|_| Mismatch("the chain is not PEM"))?;
        if block.label != "CERTIFICATE" {
            return Err(Mismatch("the chain holds something else than certificates"));
        }
        chain.push(Der(block.contents));
    }
    if chain.len() > MAX_CHAIN {
        return Err(Mismatch("the chain has more than six certificates"));
    }
    Ok(chain)
}

/// Takes the leaf out: the first certificate that is no CA's, or the first of all. RFC 8555 §7.4.2 puts it first; a chain
/// that is turned round is as good.
fn leaf_of(chain: &mut Vec<Der>) -> Result<Der, Mismatch> {
    if chain.is_empty() {
        return Err(Mismatch("the chain is empty"));
    }
    let mut leaf = 0;
    for (index, candidate) in chain.iter().enumerate() {
        if !parsed(candidate)?.is_ca() {
            leaf = index;
            break;
        }
    }
    Ok(chain.remove(leaf))
}

/// The issuers with each one certifying the one before it, or an error if they do not form one line above the leaf.
fn in_order(leaf: &Der, mut unsorted: Vec<Der>) -> Result<Vec<Der>, Mismatch> {
    let mut sorted: Vec<Der> = Vec::with_capacity(unsorted.len());
    while !unsorted.is_empty() {
        let below = parsed(sorted.last().unwrap_or(leaf))?;
        let mut next = None;
        for (index, candidate) in unsorted.iter().enumerate() {
            let above = parsed(candidate)?;
            if above.subject().as_raw() == below.issuer().as_raw()
                && below.verify_signature(Some(above.public_key())).is_ok()
            {
                next = Some(index);
                break;
            }
        }
        let next = next.ok_or(Mismatch("the chain's certificates do not certify each other"))?;
        sorted.push(unsorted.remove(next));
    }
    Ok(sorted)
}

fn verify_leaf(
    leaf: Der,
    issuers: &[Der],
    ordered: Ordered<'_>,
    now: Timestamp,
) -> Result<IssuedCertificate, Mismatch> {
    let (not_before, not_after) = {
        let parsed_leaf = parsed(&leaf)?;
        let (_, csr) = X509CertificationRequest::from_der(ordered.csr.as_bytes())
            .map_err(|_| Mismatch("the stored CSR can not be read"))?;
        if parsed_leaf.public_key().raw != csr.certification_request_info.subject_pki.raw {
            return Err(Mismatch("it certifies another key than the CSR's"));
        }
        if names_of(&parsed_leaf)? != ordered.identifiers.iter().cloned().collect() {
            return Err(Mismatch("its names are not the order's"));
        }
        let usage = parsed_leaf
            .key_usage()
            .map_err(|_| Mismatch("its key usage can not be read"))?;
        if parsed_leaf.is_ca() || usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(Mismatch("it is a CA's certificate"));
        }
        let validity = parsed_leaf.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    };
    if issuers.is_empty() {
        return Err(Mismatch("it comes without its issuer's certificate"));
    }
    if not_after <= now.as_second() {
        return Err(Mismatch("it has expired"));
    }
    if not_before > now.as_second().saturating_add(CLOCK_SKEW) {
        return Err(Mismatch("it is not valid yet"));
    }
    let time =
        |seconds| Timestamp::from_second(seconds).map_err(|_| Mismatch("its validity is out of range"));
    Ok(IssuedCertificate {
        order: ordered.order,
        leaf,
        issuers: issuers.iter().map(Der::fingerprint).collect(),
        alternates: Vec::new(),
        not_before: time(not_before)?,
        not_after: time(not_after)?,
    })
}

fn parsed(der: &Der) -> Result<X509Certificate<'_>, Mismatch> {
    match X509Certificate::from_der(der.as_bytes()) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Mismatch("a certificate of the chain can not be read")),
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Result<BTreeSet<Identifier>, Mismatch> {
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|_| Mismatch("it has two lists of names"))?
        .ok_or(Mismatch("it has no names"))?;
    let mut names = BTreeSet::new();
    for name in &alternative.value.general_names {
        let identifier = match name {
            GeneralName::DNSName(text) => Identifier::dns(text).ok(),
            GeneralName::IPAddress(octets) => Identifier::from_octets(octets),
            _ => None,
        };
        names.insert(identifier.ok_or(Mismatch(
            "it has a name that is neither a host name nor an address",
        ))?);
    }
    for attribute in certificate.subject().iter_common_name() {
        let text = attribute.as_str().unwrap_or_default();
        let identifier = Identifier::dns(text).ok().or_else(|| Identifier::ip(text).ok());
        if !identifier.is_some_and(|identifier| names.contains(&identifier)) {
            return Err(Mismatch("its common name is none of its names"));
        }
    }
    Ok(names)
}

/// The certificate that a PEM chain is for, whosever it is.
pub fn leaf_of_pem(pem: &str) -> Option<Der> {
    leaf_of(&mut certificates_of(pem).ok()?).ok()
}

/// The key of a certificate, if it is one that is accepted here.
pub fn key_of(certificate: &Der) -> Option<Jwk> {
    Jwk::from_spki(parsed(certificate).ok()?.public_key()).ok()
}

/// The last moment of a certificate's validity.
pub fn end_of(certificate: &Der) -> Option<Timestamp> {
    let end = parsed(certificate).ok()?.validity().not_after.timestamp();
    Timestamp::from_second(end).ok()
}

/// The chain as `application/pem-certificate-chain` (RFC 8555 §9.1): leaf first, LF line ends.
pub fn to_pem<'a>(chain: impl IntoIterator<Item = &'a Der>) -> String {
    let mut pem = String::new();
    for der in chain {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der.as_bytes());
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, remainder) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = remainder;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}
