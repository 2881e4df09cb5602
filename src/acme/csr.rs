//! The gate for certificate requests (RFC 8555 §7.4, CONFORMANCE K4-K10, SECURITY C9), on the DER itself.
//!
//! The CA gets the client's own CSR, byte for byte. So nothing may be in it that the order does not cover and that a
//! CA might copy: what is not known to be harmless is refused.

use std::collections::BTreeSet;
use std::net::IpAddr;

use x509_parser::asn1_rs::{FromDer as _, Header, Oid, oid};
use x509_parser::cri_attributes::{ParsedCriAttribute, X509CriAttribute};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_X509_COMMON_NAME,
};
use x509_parser::prelude::*;

use crate::acme::certificate::Der;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::acme::problem::{Problem, ProblemType};
use crate::jose::jwk::Jwk;

/// Microsoft's own attribute for extensions: a second place for names that the CA might read.
const MICROSOFT_EXTENSIONS: Oid<'static> = oid!(1.3.6.1.4.1.311.2.1.14);

/// `emailAddress` in a subject (RFC 2985 §5.2.1): an identity that nobody has validated.
const EMAIL_ADDRESS: Oid<'static> = oid!(1.2.840.113549.1.9.1);

/// RFC 7633, "must-staple": restricts the certificate, never widens it.
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);

/// A CSR that is sound in itself: signed by its own good key, asking for host names only.
#[derive(Debug)]
pub struct Csr {
    der: Der,
    names: BTreeSet<Identifier>,
    key: Jwk,
}

/// Proof that a CSR asks for exactly the names of one order, with a key that is no account's.
#[derive(Debug)]
pub struct MatchedCsr {
    der: Der,
    order: OrderId,
}

impl MatchedCsr {
    /// The order that the CSR matches.
    pub fn order(&self) -> OrderId {
        self.order
    }

    /// The CSR, byte for byte.
    pub fn into_der(self) -> Der {
        self.der
    }
}

impl Csr {
    /// Parses and checks a CSR on its own.
    ///
    /// # Errors
    ///
    /// `badCSR` names the first thing that is wrong.
    pub fn parse(der: Vec<u8>) -> Result<Self, Problem> {
        if der.starts_with(b"-----") {
            return Err(bad("the csr is PEM; send the base64url of the DER"));
        }
        let (names, key) = match X509CertificationRequest::from_der(&der) {
            Ok(([], csr)) => (requested_names(&csr)?, checked_key(&csr)?),
            Ok(_) => return Err(bad("the csr has bytes after its end")),
            Err(_) => {
                return Err(bad(
                    "the csr is not the DER of a certification request (RFC 2986)",
                ));
            }
        };
        Ok(Self {
            der: Der::new(der),
            names,
            key,
        })
    }

    /// The key that the certificate is for.
    pub fn key(&self) -> &Jwk {
        &self.key
    }

    /// Checks the CSR against an order. `account_of_key` is the account that uses the CSR's key, if one does.
    ///
    /// # Errors
    ///
    /// `badCSR` if the names differ in either direction, or the key is an account's.
    pub fn matching(&self, order: &Order, account_of_key: Option<AccountId>) -> Result<MatchedCsr, Problem> {
        // RFC 8555 §11.1: "the server MUST NOT accept ... the account key pair ... in a certificate".
        if account_of_key.is_some() {
            return Err(bad(
                "the csr's key is an account's key; make another one for the certificate",
            ));
        }
        let ordered: BTreeSet<Identifier> = order.identifiers().cloned().collect();
        // RFC 8555 §7.4: "The CSR MUST indicate the exact same set of requested identifiers as the initial newOrder".
        if let Some(extra) = self.names.difference(&ordered).next() {
            return Err(bad(&format!("the csr names {extra}, which is not in the order")));
        }
        if let Some(missing) = ordered.difference(&self.names).next() {
            return Err(bad(&format!(
                "the csr does not name {missing}, which is in the order"
            )));
        }
        Ok(MatchedCsr {
            der: self.der.clone(),
            order: order.id(),
        })
    }
}

/// The certificate's key: long enough, of a kind that CAs certify, and the one that signed the CSR.
fn checked_key(csr: &X509CertificationRequest<'_>) -> Result<Jwk, Problem> {
    let algorithm = &csr.signature_algorithm.algorithm;
    let accepted = [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
    ];
    if !accepted.contains(algorithm) {
        return Err(bad(
            "the csr must be signed with RSA (PKCS #1 v1.5) or ECDSA and SHA-256, SHA-384 or (RSA only) SHA-512",
        ));
    }
    let key = Jwk::from_spki(&csr.certification_request_info.subject_pki)
        .map_err(|refused| bad(&format!("the csr's key is refused: {refused}")))?;
    csr.verify_signature()
        .map_err(|_| bad("the csr's signature does not verify under its own key"))?;
    Ok(key)
}

/// Every name that the CSR asks for, wherever it stands.
fn requested_names(csr: &X509CertificationRequest<'_>) -> Result<BTreeSet<Identifier>, Problem> {
    let info = &csr.certification_request_info;
    let mut names = BTreeSet::new();
    let mut common_names = 0;
    for attribute in info.subject.iter_attributes() {
        if *attribute.attr_type() == EMAIL_ADDRESS {
            return Err(bad("the csr's subject has an e-mail address"));
        }
        if *attribute.attr_type() != OID_X509_COMMON_NAME {
            continue;
        }
        common_names += 1;
        let text = attribute
            .as_str()
            .map_err(|_| bad("the csr's common name must be a UTF8String, PrintableString or IA5String"))?;
        if common_names > 1 {
            return Err(bad("the csr has more than one common name"));
        }
        if !text.is_empty() {
            names.insert(name("common name", text)?);
        }
    }
    for extension in requested_extensions(info.attributes())? {
        collect_extension(extension, &mut names)?;
    }
    match names.is_empty() {
        true => Err(bad("the csr names no host")),
        false => Ok(names),
    }
}

/// The extensions asked for: from exactly one attribute, with one value, each at most once.
fn requested_extensions<'c>(
    attributes: &'c [X509CriAttribute<'c>],
) -> Result<&'c [X509Extension<'c>], Problem> {
    let mut requested: Option<&[X509Extension<'_>]> = None;
    for attribute in attributes {
        if attribute.oid == MICROSOFT_EXTENSIONS {
            return Err(bad(
                "the csr asks for extensions in a Microsoft attribute; use the standard extensionRequest",
            ));
        }
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            continue;
        };
        if requested.replace(&request.extensions).is_some() {
            return Err(bad("the csr has more than one extensionRequest attribute"));
        }
        // x509-parser stops after the first value of the set. A second one would be read by others.
        let whole = Header::from_der(attribute.value).is_ok_and(|(content, header)| {
            header
                .length()
                .definite()
                .is_ok_and(|length| length == content.len())
        });
        if !whole {
            return Err(bad(
                "the csr's extensionRequest attribute has more than one value",
            ));
        }
    }
    let extensions = requested.unwrap_or_default();
    let distinct: BTreeSet<String> = extensions.iter().map(|e| e.oid.to_id_string()).collect();
    if distinct.len() != extensions.len() {
        return Err(bad("the csr asks for the same extension twice"));
    }
    Ok(extensions)
}

fn collect_extension(extension: &X509Extension<'_>, names: &mut BTreeSet<Identifier>) -> Result<(), Problem> {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(alternative) => {
            for general_name in &alternative.general_names {
                names.insert(match general_name {
                    GeneralName::DNSName(text) => name("subject alternative name", text)?,
                    GeneralName::IPAddress(octets) => address_of(octets).ok_or_else(|| {
                        bad("the csr has an IP address of neither 4 nor 16 octets, or IPv4 inside IPv6")
                    })?,
                    _ => {
                        return Err(bad(
                            "the csr has a subject alternative name that is neither a DNS name nor an IP address",
                        ));
                    }
                });
            }
            Ok(())
        }
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => Err(bad(
            "the csr asks for a key usage of CAs (keyCertSign or cRLSign)",
        )),
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let more = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            match more {
                true => Err(bad(
                    "the csr asks for an extended key usage other than serverAuth and clientAuth",
                )),
                false => Ok(()),
            }
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err(bad("the csr asks for a CA's certificate"))
        }
        ParsedExtension::KeyUsage(_)
        | ParsedExtension::BasicConstraints(_)
        | ParsedExtension::SubjectKeyIdentifier(_) => Ok(()),
        _ if extension.oid == TLS_FEATURE => Ok(()),
        _ => Err(bad(&format!(
            "the csr asks for the extension {}, which is not allowed",
            extension.oid
        ))),
    }
}

/// RFC 5280 §4.2.1.6: 4 octets for IPv4, 16 for IPv6.
pub(crate) fn address_of(octets: &[u8]) -> Option<Identifier> {
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    (address.to_canonical() == address).then_some(Identifier::Ip(address))
}

fn name(place: &str, text: &str) -> Result<Identifier, Problem> {
    Identifier::dns(text)
        .map_err(|invalid| bad(&format!("the csr has a {place} that is no host name: {invalid}")))
}

fn bad(detail: &str) -> Problem {
    Problem::new(ProblemType::BadCsr, detail)
}
