//! tls-alpn-01 (RFC 8737, RFC 8738 §6): the key authorization's digest is shown in a certificate on port 443 of the name.
//!
//! The connection is made for its handshake alone: one protocol is offered, nothing is sent, and the certificate is
//! checked byte for byte, so that no host answers for a name by chance or with a default certificate. Whether it has
//! expired, and what comes after it in the chain, proves nothing either way.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::InvalidMessage;
use rustls::PeerMisbehaved;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use x509_parser::asn1_rs::Any;
use x509_parser::asn1_rs::Class;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::asn1_rs::Oid;
use x509_parser::asn1_rs::Tag;
use x509_parser::asn1_rs::oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;

use crate::acme::identifier::Identifier;
use crate::acme::problem::ProblemType;
use crate::validate::Failure;
use crate::validate::Settings;
use crate::validate::net::ConnectFailure;
use crate::validate::net::LookupFailure;
use crate::validate::net::Network;
use crate::validate::tls;
use crate::validate::tls::HandshakeFailure;

/// RFC 8737 §6.2.
const PROTOCOL: &[u8] = b"acme-tls/1";

/// RFC 8737 §6.1: `id-pe-acmeIdentifier`. Drafts of that RFC had 1.3.6.1.5.5.7.1.30.1, which is not accepted: a public CA
/// that still did so in January 2022 had to revoke two million certificates.
const ACME_IDENTIFIER: Oid<'static> = oid!(1.3.6.1.5.5.7.1.31);

/// What is wrong with a certificate that was shown for tls-alpn-01. The texts are fixed: they go to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// No X.509 certificate, or bytes after it, or not in the one encoding that DER has.
    #[error("is not in DER")]
    Unreadable,
    /// RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular extension."
    #[error("has an extension twice")]
    RepeatedExtension,
    /// Another issuer than subject. RFC 8737 §3 has clients construct a self-signed certificate; insisting on it, as
    /// Boulder does, keeps every certificate that a CA has issued from being taken for an answer.
    #[error("is not self-signed")]
    NotSelfSigned,
    /// The signature is not by the certificate's own key.
    #[error("is not signed by its own key")]
    Signature,
    /// We can not tell whose signature it is.
    #[error(
        "is signed with an unknown algorithm; use ECDSA with P-256 or P-384, RSA with 2048 to 8192 bits, or Ed25519"
    )]
    Algorithm,
    /// A common name is not enough.
    #[error("has no subject alternative name")]
    NoName,
    /// Others, more, or none of the identifier's kind.
    #[error("does not have the identifier as its one subject alternative name")]
    OtherName,
    /// It may have a draft's.
    #[error("has no acmeIdentifier extension (1.3.6.1.5.5.7.1.31)")]
    NoDigest,
    /// RFC 8737 §3: "The acmeIdentifier extension MUST be critical".
    #[error("has an acmeIdentifier extension that is not critical")]
    NotCritical,
    /// Not an OCTET STRING of 32 bytes.
    #[error("has an acmeIdentifier extension that is no SHA-256 digest")]
    NoSha256,
    /// Of another token or account key.
    #[error("has the digest of another key authorization in its acmeIdentifier extension")]
    OtherDigest,
}

/// Checks the certificate that a host showed for the identifier (RFC 8737 §3).
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn check_certificate(
    leaf: &[u8],
    identifier: &Identifier,
    key_authorization: &str,
) -> Result<(), BadCertificate> {
    let Ok(([], certificate)) = X509Certificate::from_der(leaf) else {
        return Err(BadCertificate::Unreadable);
    };
    if !is_der(leaf) {
        return Err(BadCertificate::Unreadable);
    }
    let extensions = certificate.extensions();
    let mut seen = HashSet::new();
    if !extensions.iter().all(|extension| seen.insert(&extension.oid)) {
        return Err(BadCertificate::RepeatedExtension);
    }
    if certificate.issuer().as_raw() != certificate.subject().as_raw() {
        return Err(BadCertificate::NotSelfSigned);
    }
    let with = |oid: Oid<'_>| extensions.iter().find(|extension| extension.oid == oid);
    let names = with(OID_X509_EXT_SUBJECT_ALT_NAME).ok_or(BadCertificate::NoName)?;
    if !names_only(names.value, identifier) {
        return Err(BadCertificate::OtherName);
    }
    check_digest(
        with(ACME_IDENTIFIER).ok_or(BadCertificate::NoDigest)?,
        key_authorization,
    )?;
    certificate.verify_signature(None).map_err(|error| match error {
        X509Error::SignatureUnsupportedAlgorithm => BadCertificate::Algorithm,
        _ => BadCertificate::Signature,
    })
}

/// Whether lengths, truth values and strings are in the one form that DER has (X.690 §10, §11.1), on which x509-parser
/// does not insist. The values of extensions are not looked into.
fn is_der(certificate: &[u8]) -> bool {
    let mut unread = vec![certificate];
    while let Some(bytes) = unread.pop() {
        if bytes.is_empty() {
            continue;
        }
        let Ok((rest, value)) = Any::from_der(bytes) else {
            return false;
        };
        let length_octets = match value.data.len() {
            0..=0x7f => 1,
            0x80..=0xff => 2,
            0x100..=0xffff => 3,
            _ => 4,
        };
        let sound = match (value.class(), value.tag()) {
            (Class::Universal, Tag::Sequence | Tag::Set) => value.header.is_constructed(),
            (Class::Universal, _) if value.header.is_constructed() => false,
            (Class::Universal, Tag::Boolean) => matches!(value.data, [0 | 0xff]),
            // Keys and signatures: they are whole octets.
            (Class::Universal, Tag::BitString) => value.data.starts_with(&[0]),
            _ => true,
        };
        // No tag in a certificate takes more than one octet.
        if !sound || bytes.len() != 1 + length_octets + value.data.len() + rest.len() {
            return false;
        }
        unread.push(rest);
        if value.header.is_constructed() {
            unread.push(value.data);
        }
    }
    true
}

/// Whether the value of a subject alternative name is the encoding of just this identifier (RFC 5280 §4.2.1.6).
fn names_only(value: &[u8], identifier: &Identifier) -> bool {
    let content = |tag: u8, length: usize| {
        let general_name = head(tag, length);
        let names = head(0x30, general_name.len() + length);
        value.strip_prefix([names, general_name].concat().as_slice())
    };
    match identifier {
        Identifier::Dns(name) => {
            let name = name.as_str().as_bytes();
            content(0x82, name.len()).is_some_and(|content| content.eq_ignore_ascii_case(name))
        }
        Identifier::Ip(IpAddr::V4(address)) => content(0x87, 4) == Some(&address.octets()),
        Identifier::Ip(IpAddr::V6(address)) => content(0x87, 16) == Some(&address.octets()),
        Identifier::Wildcard(_) => false,
    }
}

/// Tag and length in DER, of a value that is no longer than two names.
fn head(tag: u8, length: usize) -> Vec<u8> {
    match length.to_be_bytes() {
        [.., 0, low @ 0..=0x7f] => vec![tag, low],
        [.., 0, low] => vec![tag, 0x81, low],
        [.., high, low] => vec![tag, 0x82, high, low],
    }
}

/// RFC 8737 §3: "Authorization ::= OCTET STRING (SIZE (32))", of which the value is a DER encoding.
fn check_digest(extension: &X509Extension<'_>, key_authorization: &str) -> Result<(), BadCertificate> {
    if !extension.critical {
        return Err(BadCertificate::NotCritical);
    }
    match extension.value {
        [0x04, 0x20, found @ ..] if found.len() == 32 => {
            match found == digest::digest(&digest::SHA256, key_authorization.as_bytes()).as_ref() {
                true => Ok(()),
                false => Err(BadCertificate::OtherDigest),
            }
        }
        _ => Err(BadCertificate::NoSha256),
    }
}

/// The tls-alpn-01 validator.
pub(crate) struct TlsAlpn01 {
    port: u16,
    timeout: Duration,
    tls: TlsConnector,
}

impl std::fmt::Debug for TlsAlpn01 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsAlpn01")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Why an attempt failed; its text is for the log.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the identifier is no host")]
    NoHost,
    #[error("DNS: {0}")]
    Lookup(#[from] LookupFailure),
    #[error("connecting: {0}")]
    Connect(#[from] ConnectFailure),
    #[error("no TLS handshake in time")]
    Silent,
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("acme-tls/1 was not selected")]
    OtherProtocol,
    #[error("the certificate {0}")]
    Certificate(#[from] BadCertificate),
}

impl TlsAlpn01 {
    /// Sets up TLS.
    pub(crate) fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        let mut config = tls::client_config()?;
        // RFC 8737 §3: "The ACME server MUST provide an ALPN extension with the single protocol name "acme-tls/1"".
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self {
            port: settings.tls_port,
            timeout: settings.timeout,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Makes one attempt.
    pub(crate) async fn validate(
        &self,
        network: &Network,
        identifier: &Identifier,
        key_authorization: &str,
    ) -> Result<(), Failure> {
        let mut peer = None;
        let proof = self
            .prove(network, identifier, key_authorization, &mut peer)
            .await;
        proof.map_err(|cause| self.failure(&cause, identifier, peer))
    }

    /// The peer is set once there is a connection.
    async fn prove(
        &self,
        network: &Network,
        identifier: &Identifier,
        key_authorization: &str,
        peer: &mut Option<IpAddr>,
    ) -> Result<(), Cause> {
        let deadline = Instant::now() + self.timeout;
        let server_name = server_name(identifier).ok_or(Cause::NoHost)?;
        let addresses = match identifier {
            Identifier::Ip(address) => vec![*address],
            Identifier::Dns(name) => timeout_at(deadline, network.addresses(name))
                .await
                .unwrap_or_else(|_| Err(LookupFailure::Unanswered("out of time".to_owned())))?,
            Identifier::Wildcard(_) => return Err(Cause::NoHost),
        };
        let stream = network.connect(&addresses, self.port, deadline).await?;
        *peer = stream.peer_addr().ok().map(|address| address.ip());
        let stream = tls::handshake(&self.tls, server_name, stream, deadline).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(PROTOCOL) {
            return Err(Cause::OtherProtocol);
        }
        let leaf = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .ok_or(BadCertificate::Unreadable)?;
        // RFC 8737 §4: "the client MUST NOT exchange any further data with the server and MUST immediately close the
        // connection"; dropping it does.
        Ok(check_certificate(leaf, identifier, key_authorization)?)
    }

    /// What the client is told: a fixed sentence for each cause.
    fn failure(&self, cause: &Cause, identifier: &Identifier, peer: Option<IpAddr>) -> Failure {
        let port = self.port;
        let at = peer.map_or_else(|| format!("port {port}"), |peer| format!("{peer} port {port}"));
        let what = match cause {
            Cause::NoHost => "only one host can be proved in this way; use dns-01".to_owned(),
            Cause::Lookup(failure) => failure.advice().to_owned(),
            Cause::Connect(failure) => failure.advice(port),
            Cause::Silent => format!("{at} did not finish the TLS handshake in time; check the server"),
            Cause::Lost(_) => format!("{at} broke the connection in the TLS handshake; check the server"),
            Cause::Tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                format!("{at} does not speak TLS; the ACME client must answer there, in TLS 1.2 or 1.3")
            }
            Cause::Tls(
                rustls::Error::PeerIncompatible(_)
                | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
            ) => format!("{at} does not speak TLS as it must; at least TLS 1.2 is needed"),
            Cause::Tls(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
            | Cause::OtherProtocol => format!(
                "{at} does not speak the protocol acme-tls/1; check that its TLS connections reach the ACME client"
            ),
            Cause::Tls(_) => format!("the TLS handshake with {at} failed"),
            Cause::Certificate(bad) => {
                format!("the certificate of {at} {bad}; check that its TLS connections reach the ACME client")
            }
        };
        Failure::new(
            cause.problem_type(),
            format!("tls-alpn-01 of {identifier}: {what}"),
            cause.is_transient(),
            &format!("at {at}: {cause}"),
        )
    }
}

impl From<HandshakeFailure> for Cause {
    fn from(failure: HandshakeFailure) -> Self {
        match failure {
            HandshakeFailure::Silent => Self::Silent,
            HandshakeFailure::Lost(error) => Self::Lost(error),
            HandshakeFailure::Tls(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)) => {
                Self::Certificate(BadCertificate::Unreadable)
            }
            HandshakeFailure::Tls(rustls::Error::PeerMisbehaved(
                PeerMisbehaved::SelectedUnofferedApplicationProtocol,
            )) => Self::OtherProtocol,
            HandshakeFailure::Tls(error) => Self::Tls(error),
        }
    }
}

impl Cause {
    fn problem_type(&self) -> ProblemType {
        match self {
            Self::NoHost => ProblemType::Malformed,
            Self::Lookup(_) => ProblemType::Dns,
            Self::Connect(_) | Self::Silent | Self::Lost(_) => ProblemType::Connection,
            Self::Tls(_) => ProblemType::Tls,
            Self::OtherProtocol | Self::Certificate(_) => ProblemType::IncorrectResponse,
        }
    }

    /// Whether another attempt may go better (CONFORMANCE J6).
    fn is_transient(&self) -> bool {
        match self {
            Self::Lookup(failure) => failure.is_transient(),
            Self::Connect(failure) => failure.is_transient(),
            Self::Silent | Self::Lost(_) => true,
            Self::NoHost | Self::Tls(_) | Self::OtherProtocol | Self::Certificate(_) => false,
        }
    }
}

/// The name that the server is asked for: RFC 8738 §6 has the reverse name of an address (RFC 1034 §5.2.1, RFC 3596
/// §2.5), because SNI has no addresses.
fn server_name(identifier: &Identifier) -> Option<ServerName<'static>> {
    let name = match identifier {
        Identifier::Dns(name) => name.to_string(),
        Identifier::Ip(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Identifier::Ip(IpAddr::V6(address)) => {
            let digits = format!("{:032x}", address.to_bits());
            let nibbles: String = digits.chars().rev().flat_map(|digit| [digit, '.']).collect();
            format!("{nibbles}ip6.arpa")
        }
        Identifier::Wildcard(_) => return None,
    };
    ServerName::try_from(name).ok()
}

#[cfg(test)]
mod tests;
