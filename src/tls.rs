//! TLS of the ACME listener: rustls' settings, and the certificate that can be swapped while connections are open.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

/// What is wrong with a certificate or key for the listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// Which versions of TLS are offered (RFC 8446, RFC 5246); older ones never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

/// A certificate of files, with its key.
pub struct OfFiles(CertifiedKey);

impl OfFiles {
    /// The chain and key in these PEM texts.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if one can not be read or they do not belong together.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| TlsError(format!("tls.certificate is no PEM chain: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError(format!("tls.key is no PEM private key: {error}")))?;
        Ok(Self(certified_key(chain, key)?))
    }
}

/// The daemon's own certificate. New handshakes get the latest one; open connections keep theirs.
pub struct CertificateSlot {
    current: RwLock<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    /// Then one that was bought does not take its place.
    is_of_files: bool,
}

impl fmt::Debug for CertificateSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateSlot")
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.key))
    }
}

impl CertificateSlot {
    /// A slot with a self-signed stand-in, so that the listener can say over TLS that it has no certificate yet. No
    /// client trusts it, and it is never stored.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if no key can be made.
    pub fn with_stand_in() -> Result<Self, TlsError> {
        let failed = |error: rcgen::Error| TlsError(format!("no stand-in certificate can be made: {error}"));
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "acme-proxy has no certificate yet");
        let certificate = params.self_signed(&key).map_err(failed)?;
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = Arc::new(certified_key(chain, key)?);
        Ok(Self {
            current: RwLock::new(Current {
                key,
                is_of_files: false,
            }),
        })
    }

    /// Serves this chain, which was bought, from the next handshake on, unless one of files is wanted by now.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if the key does not belong to the chain's leaf; the slot stays as it was.
    pub fn install(&self, chain: Vec<Vec<u8>>, pkcs8_key: Vec<u8>) -> Result<(), TlsError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8_key));
        let key = Arc::new(certified_key(chain, key)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !current.is_of_files {
            current.key = key;
        }
        Ok(())
    }

    /// From the next handshake on serves what the files have, or, if there are none, what is going to be bought: until
    /// then it is what was served before.
    pub fn serve(&self, files: Option<OfFiles>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.is_of_files = files.is_some();
        if let Some(OfFiles(key)) = files {
            current.key = Arc::new(key);
        }
    }

    /// The leaf that new handshakes get, DER.
    pub fn leaf(&self) -> Option<Vec<u8>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.key.cert.first().map(|leaf| leaf.to_vec())
    }

    /// Whether this is the leaf that new handshakes get.
    pub fn serves(&self, leaf: &[u8]) -> bool {
        self.leaf().is_some_and(|served| served == leaf)
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    if chain.is_empty() {
        return Err(TlsError("the certificate chain is empty".to_owned()));
    }
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| TlsError(format!("the certificate and its key can not be used: {error}")))
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The listener's configuration: HTTP/1.1 only, no client certificates, and the slot's certificate.
///
/// # Errors
///
/// [`TlsError`] if no version of TLS is left.
pub fn server_config(slot: Arc<CertificateSlot>, versions: Versions) -> Result<ServerConfig, TlsError> {
    let mut offered: Vec<&SupportedProtocolVersion> = Vec::new();
    if versions.tls13 {
        offered.push(&rustls::version::TLS13);
    }
    if versions.tls12 {
        offered.push(&rustls::version::TLS12);
    }
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&offered)
        .map_err(|error| {
            TlsError(format!(
                "tls.minVersion and tls.maxVersion leave nothing to offer: {error}"
            ))
        })?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(slot);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
