//! The throwaway CA's keys and certificates: root, intermediate, its own TLS certificate, and the leaves.
//!
//! All keys are P-256 and live in memory; a new root is made at every start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::rand;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::jws::encode;
use super::problem::Problem;

const INTERMEDIATE: &str = "Throwaway Intermediate";

const DAY: Duration = Duration::from_secs(86_400);

/// The CA certificates and the key that signs leaves.
pub(crate) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    /// Signs leaves.
    intermediate: CertifiedIssuer<'static, KeyPair>,
    /// What stands under the leaf: the chain to the root, and those to the other roots.
    issuers: Vec<String>,
    life: Option<Duration>,
}

/// A certificate that was issued.
pub(crate) struct Leaf {
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    /// Leaf and intermediates, PEM.
    pub(crate) chain: String,
    /// The same to the other roots.
    pub(crate) alternates: Vec<String>,
    /// RFC 9773 §4.1.
    pub(crate) id: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// The notBefore and the notAfter that were asked for.
pub(crate) type Dates = (Option<Timestamp>, Option<Timestamp>);

/// How a certificate differs from what was ordered.
#[derive(Debug, Clone)]
pub(crate) enum Flaw {
    /// Its key is not the CSR's.
    OtherKey,
    /// It has these names and no others.
    Names(Vec<String>),
    /// It is a CA.
    IsCa,
    /// It was valid from then to then.
    Dates(Timestamp, Timestamp),
    /// The intermediate below it has not signed it.
    OtherIssuer,
}

impl Pki {
    /// Makes the keys and certificates: one intermediate, and no other chains.
    pub(crate) fn generate(life: Option<Duration>) -> anyhow::Result<Self> {
        Self::with_chains(life, 1, 0)
    }

    /// Makes the keys and certificates: so many intermediates, one at least, and chains to so many further roots. Leaves
    /// are valid for `life`, or as long as a public CA's.
    pub(crate) fn with_chains(
        life: Option<Duration>,
        intermediates: usize,
        alternates: usize,
    ) -> anyhow::Result<Self> {
        let root = CertifiedIssuer::self_signed(ca_params("Throwaway Root", 3650), KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let mut tops = Vec::new();
        for number in 1..=alternates {
            let params = ca_params(&format!("Throwaway Root {number}"), 3650);
            let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
            tops.push(ca_params(INTERMEDIATE, 1825).signed_by(&key, &root)?.pem());
        }
        let mut intermediate = CertifiedIssuer::signed_by(ca_params(INTERMEDIATE, 1825), key, &root)?;
        tops.insert(0, intermediate.pem());
        let mut below = String::new();
        for number in 2..=intermediates {
            let params = ca_params(&format!("{INTERMEDIATE} {number}"), 1825);
            intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate()?, &intermediate)?;
            below.insert_str(0, &intermediate.pem());
        }
        Ok(Self {
            root,
            intermediate,
            issuers: tops.iter().map(|top| format!("{below}{top}")).collect(),
            life,
        })
    }

    /// What clients must trust.
    pub(crate) fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// TLS for the CA's own listener: a certificate for the loopback names, under its own root.
    pub(crate) fn server_config(&self, expired: bool) -> anyhow::Result<rustls::ServerConfig> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        dated(&mut params, 90);
        if expired {
            params.not_after = params.not_before + Duration::from_secs(60);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.intermediate)?;
        let mut chain = vec![leaf.der().clone()];
        for issuer in CertificateDer::pem_slice_iter(self.issuers.concat().as_bytes()) {
            chain.push(issuer?);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .context("the CA's own TLS certificate")
    }

    /// Issues a leaf for the CSR's key, if the CSR is signed by that key and names exactly the order's identifiers.
    pub(crate) fn issue(&self, csr: &[u8], identifiers: &[String]) -> Result<Leaf, Problem> {
        self.issue_as(csr, identifiers, (None, None), None)
    }

    /// The same with these dates; the flaw, if there is one, comes after everything has been looked at.
    pub(crate) fn issue_as(
        &self,
        csr: &[u8],
        identifiers: &[String],
        (not_before, not_after): Dates,
        flaw: Option<&Flaw>,
    ) -> Result<Leaf, Problem> {
        let (rest, csr) =
            X509CertificationRequest::from_der(csr).map_err(|_| Problem::bad_csr("the CSR is not DER"))?;
        if !rest.is_empty() {
            return Err(Problem::bad_csr("there are bytes after the CSR"));
        }
        csr.verify_signature()
            .map_err(|_| Problem::bad_csr("the CSR's signature does not verify"))?;
        let ordered: BTreeSet<String> = identifiers.iter().cloned().collect();
        if csr_names(&csr)? != ordered {
            return Err(Problem::bad_csr(
                "the CSR does not name exactly the order's identifiers",
            ));
        }
        let key = SubjectKey::read(&csr)?;
        let names = match flaw {
            Some(Flaw::Names(names)) => names,
            _ => identifiers,
        };
        let dates = match flaw {
            Some(Flaw::Dates(from, until)) => (Some(*from), Some(*until)),
            _ => (not_before, not_after),
        };
        let mut params = self.leaf_params(names, dates)?;
        if matches!(flaw, Some(Flaw::IsCa)) {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let serial = random_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let (not_before, not_after) = (
            stamp(params.not_before.unix_timestamp())?,
            stamp(params.not_after.unix_timestamp())?,
        );
        let leaf = match flaw {
            Some(Flaw::OtherKey) => {
                let other = KeyPair::generate().map_err(Problem::internal)?;
                params.signed_by(&other, &self.intermediate)
            }
            Some(Flaw::OtherIssuer) => {
                // The same name, so that only the signature tells.
                let key_of_other = KeyPair::generate().map_err(Problem::internal)?;
                let other = rcgen::Issuer::new(ca_params(INTERMEDIATE, 1825), key_of_other);
                params.signed_by(&key, &other)
            }
            _ => params.signed_by(&key, &self.intermediate),
        };
        let leaf = leaf.map_err(Problem::internal)?;
        let mut chains = self.issuers.iter().map(|issuers| leaf.pem() + issuers);
        Ok(Leaf {
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            chain: chains.next().unwrap_or_default(),
            alternates: chains.collect(),
            id: format!("{}.{}", key_identifier(leaf.der())?, encode(serial)),
            not_before,
            not_after,
        })
    }

    fn leaf_params(
        &self,
        names: &[String],
        (not_before, not_after): Dates,
    ) -> Result<CertificateParams, Problem> {
        let mut params = CertificateParams::new(names).map_err(Problem::internal)?;
        match self.life {
            Some(life) => valid_from_now(&mut params, life),
            None => dated(&mut params, 90),
        }
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let date = |stamp: Timestamp| epoch + Duration::from_secs(stamp.as_second().unsigned_abs());
        params.not_before = not_before.map_or(params.not_before, date);
        params.not_after = not_after.map_or(params.not_after, date);
        params.distinguished_name = rcgen::DistinguishedName::new();
        // RFC 5280 appendix A.1: ub-common-name is 64 characters. An address is no common name.
        let fits = |name: &&String| name.len() <= 64 && name.parse::<IpAddr>().is_err();
        if let Some(name) = names.iter().find(fits) {
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::Utf8String(name.clone()));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn stamp(seconds: i64) -> Result<Timestamp, Problem> {
    Timestamp::from_second(seconds).map_err(Problem::internal)
}

/// The first half of a certificate's identifier (RFC 9773 §4.1).
fn key_identifier(der: &[u8]) -> Result<String, Problem> {
    let (_, leaf) = X509Certificate::from_der(der).map_err(Problem::internal)?;
    let identifiers = leaf
        .iter_extensions()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
            _ => None,
        });
    let identifier = identifiers.last();
    let identifier =
        identifier.ok_or_else(|| Problem::internal("a leaf without an authority key identifier"))?;
    Ok(encode(identifier.0))
}

fn ca_params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    dated(&mut params, days);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Valid from an hour ago, as public CAs do, so that a clock that is a little slow does not refuse it.
fn dated(params: &mut CertificateParams, days: u32) {
    valid_from_now(params, DAY * days);
    params.not_before -= Duration::from_secs(3600);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a CA stands for the outside world, which has its own clock"
)]
fn valid_from_now(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_after = params.not_before + life;
}

/// Sixteen random bytes that are a positive integer in DER without a leading zero (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<[u8; 16], Problem> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(Problem::internal)?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(serial)
}

/// DNS names, addresses and common name of the CSR, one spelling each.
fn csr_names(csr: &X509CertificationRequest<'_>) -> Result<BTreeSet<String>, Problem> {
    let mut names = BTreeSet::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else {
            continue;
        };
        for name in &san.general_names {
            names.insert(match name {
                GeneralName::DNSName(name) => name.to_ascii_lowercase(),
                GeneralName::IPAddress(octets) => address(octets)?.to_string(),
                _ => return Err(Problem::bad_csr("the CSR names something other than hosts")),
            });
        }
    }
    for name in csr.certification_request_info.subject.iter_common_name() {
        let name = name
            .as_str()
            .map_err(|_| Problem::bad_csr("the common name is not text"))?;
        names.insert(name.to_ascii_lowercase());
    }
    Ok(names)
}

fn address(octets: &[u8]) -> Result<IpAddr, Problem> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(octets)
        .map(IpAddr::from)
        .map_err(|_| Problem::bad_csr("an address in the CSR has a wrong length"))
}

/// The CSR's public key, in the form that rcgen can put into a certificate.
struct SubjectKey {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl SubjectKey {
    fn read(csr: &X509CertificationRequest<'_>) -> Result<Self, Problem> {
        let spki = &csr.certification_request_info.subject_pki;
        let algorithm = match spki.parsed() {
            Ok(PublicKey::RSA(_)) => &rcgen::PKCS_RSA_SHA256,
            Ok(PublicKey::EC(point)) if point.key_size() == 256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Ok(PublicKey::EC(point)) if point.key_size() == 384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ => return Err(Problem::bad_csr("keys here are RSA, P-256 or P-384")),
        };
        Ok(Self {
            bits: spki.subject_public_key.data.to_vec(),
            algorithm,
        })
    }
}

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
