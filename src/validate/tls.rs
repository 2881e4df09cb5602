//! TLS towards hosts under validation: TLS 1.2 or 1.3, any certificate (RFC 8555 §8.3, RFC 8737 §3).
//!
//! What a host shows here proves nothing by its issuer. The handshake's signature is still checked against the key in
//! the certificate; with the raw key, as rustls' own check refuses each certificate that has a critical extension which
//! it does not know.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::asn1_rs::Any;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A client configuration that accepts any certificate.
pub(crate) fn client_config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = AnyCertificate {
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // Each attempt is to see the host as it is now.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Why there is no TLS session.
#[derive(Debug)]
pub(crate) enum HandshakeFailure {
    /// The peer breaks the protocol's rules, or refuses us by them.
    Tls(Error),
    /// The deadline passed.
    Silent,
    /// The connection broke.
    Lost(String),
}

/// Makes the connection one of TLS, by the deadline.
pub(crate) async fn handshake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    let handshake = timeout_at(deadline, connector.connect(name, stream)).await;
    handshake.map_err(|_| HandshakeFailure::Silent)?.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(inner) => HandshakeFailure::Tls(Error::clone(inner)),
            None => HandshakeFailure::Lost(error.to_string()),
        }
    })
}

#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

/// The raw key of the certificate: `SubjectPublicKeyInfo` in DER.
fn key_info<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfo<'a>, Error> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, certificate) = parsed.map_err(|_| Error::from(CertificateError::BadEncoding))?;
    Ok(certificate.tbs_certificate.subject_pki)
}

/// The content of the `AlgorithmIdentifier` in a DER-encoded `SubjectPublicKeyInfo` (RFC 5280 §4.1).
fn algorithm_identifier(key_info: &[u8]) -> Option<&[u8]> {
    let (_, outer) = Any::from_der(key_info).ok()?;
    let (_, inner) = Any::from_der(outer.data).ok()?;
    Some(inner.data)
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key_info = key_info(certificate)?;
        let algorithm = algorithm_identifier(key_info.raw).ok_or(CertificateError::BadEncoding)?;
        let schemes = self.provider.signature_verification_algorithms.mapping;
        // RFC 5246 §7.4.1.4.1: an ECDSA scheme of TLS 1.2 leaves the curve open; the key decides.
        schemes
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, candidates)| *candidates)
            .find(|candidate| candidate.public_key_alg_id().as_ref() == algorithm)
            .ok_or(CertificateError::BadSignature)?
            .verify_signature(&key_info.subject_public_key.data, message, signed.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key_info(certificate)?.raw);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
