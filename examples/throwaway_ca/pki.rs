//! The throwaway CA's keys and certificates: root, intermediate, its own TLS certificate, and the leaves.
//!
//! All keys are P-256 and live in memory; a new root is made at every start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::problem::Problem;

const DAY: Duration = Duration::from_secs(86_400);

/// The two CA certificates and the key that signs leaves.
pub(crate) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
    intermediate_pem: String,
    life: Option<Duration>,
}

/// A certificate that was issued.
pub(crate) struct Leaf {
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    /// Leaf and intermediate, PEM.
    pub(crate) chain: String,
}

impl Pki {
    /// Makes the keys and certificates. Leaves are valid for `life`, or as long as a public CA's.
    pub(crate) fn generate(life: Option<Duration>) -> anyhow::Result<Self> {
        let root = CertifiedIssuer::self_signed(ca_params("Throwaway Root", 3650), KeyPair::generate()?)?;
        let params = ca_params("Throwaway Intermediate", 1825);
        let intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate()?, &root)?;
        let intermediate_pem = intermediate.pem();
        Ok(Self {
            root,
            intermediate,
            intermediate_pem,
            life,
        })
    }

    /// What clients must trust.
    pub(crate) fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// TLS for the CA's own listener: a certificate for the loopback names, under its own root.
    pub(crate) fn server_config(&self) -> anyhow::Result<rustls::ServerConfig> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        dated(&mut params, 90);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.intermediate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone(), self.intermediate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .context("the CA's own TLS certificate")
    }

    /// Issues a leaf for the CSR's key, if the CSR is signed by that key and names exactly the order's identifiers.
    pub(crate) fn issue(&self, csr: &[u8], identifiers: &[String]) -> Result<Leaf, Problem> {
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

        let mut params = CertificateParams::new(identifiers).map_err(Problem::internal)?;
        match self.life {
            Some(life) => valid_from_now(&mut params, life),
            None => dated(&mut params, 90),
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        // RFC 5280 appendix A.1: ub-common-name is 64 characters. An address is no common name.
        let fits = |name: &&String| name.len() <= 64 && name.parse::<IpAddr>().is_err();
        if let Some(name) = identifiers.iter().find(fits) {
            params
                .distinguished_name
                .push(DnType::CommonName, DnValue::Utf8String(name.clone()));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let serial = random_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let leaf = params
            .signed_by(&key, &self.intermediate)
            .map_err(Problem::internal)?;
        Ok(Leaf {
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            chain: leaf.pem() + &self.intermediate_pem,
        })
    }
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
