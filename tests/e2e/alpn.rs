//! A TLS server on a client's host, which shows the certificates that the client leaves in a directory (tls-alpn-01).

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::environment::Host;

/// A TLS server that answers until this is dropped.
pub(crate) struct Alpn {
    /// Where `NAME.crt.pem` and `NAME.key.pem` are to be.
    pub(crate) certificates: PathBuf,
    server: JoinHandle<()>,
}

impl Alpn {
    /// Starts it on the host's address.
    pub(crate) fn on(host: &Host<'_>) -> Self {
        let certificates = host.directory.join("alpn");
        std::fs::create_dir(&certificates).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::new(Certificates(certificates.clone())));
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = &host.environment.runtime;
        let address = (host.address, host.tls_port());
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let server = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The handshake says everything.
                let _shaken = acceptor.accept(stream).await;
            }
        });
        Self { certificates, server }
    }
}

impl Drop for Alpn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
struct Certificates(PathBuf);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let file = |kind| Some(self.0.join(format!("{}.{kind}.pem", hello.server_name()?)));
        let certificate = CertificateDer::from_pem_file(file("crt")?).ok()?;
        let key = PrivateKeyDer::from_pem_file(file("key")?).ok()?;
        let key = any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(vec![certificate], key)))
    }
}
