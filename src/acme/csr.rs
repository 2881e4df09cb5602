//! The gate for certificate requests (RFC 8555 §7.4, CONFORMANCE K4-K10, SECURITY C9), on the DER itself.
//!
//! The CA gets the client's own CSR, byte for byte. So nothing may be in it that the order does not cover and that a
//! CA might copy: what is not known to be harmless is refused.

mod der;
mod request;

use std::collections::BTreeSet;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::FromDer as _;

use crate::acme::certificate::Der;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::acme::problem::{Problem, ProblemType, cleaned};
use crate::jose::jwk::Jwk;

/// The longest detail of a refusal, in characters: a name of 253 fits in.
const MAX_DETAIL: usize = 500;

/// A CSR that is sound in itself: signed by its own good key, asking for host names only.
#[derive(Debug)]
pub struct Csr {
    der: Der,
    names: BTreeSet<Identifier>,
    key: Jwk,
}

/// Proof that a CSR asks for exactly the names of one order, with a key that is no account's.
///
/// ```compile_fail,E0451
/// use acme_proxy::acme::csr::MatchedCsr;
/// use acme_proxy::acme::order::Order;
///
/// fn a_second_road(order: &Order, honest: MatchedCsr) -> MatchedCsr {
///     MatchedCsr { order: order.id(), ..honest }
/// }
/// ```
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
            Ok(([], csr)) => (request::requested_names(&der)?, checked_key(&csr)?),
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

    /// Every name that a request asks for; `None` if it asks for anything that is not allowed. Its signature and key
    /// are not looked at.
    pub(crate) fn names_in(der: &Der) -> Option<BTreeSet<Identifier>> {
        request::requested_names(der.as_bytes()).ok()
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

/// Whether two CSRs that were accepted ask for certificates of the same key.
pub(crate) fn have_one_key(one: &Der, other: &Der) -> bool {
    let key = |der: &Der| {
        let (_, csr) = X509CertificationRequest::from_der(der.as_bytes()).ok()?;
        Some(csr.certification_request_info.subject_pki.raw.to_vec())
    };
    key(one).is_some_and(|one| key(other).is_some_and(|other| one == other))
}

/// An object identifier in the detail is the client's, and may be as long as its request.
pub(crate) fn bad(detail: &str) -> Problem {
    Problem::new(ProblemType::BadCsr, cleaned(detail, MAX_DETAIL))
}
