//! Serves acme-proxy's directory where Pebble's clients look for one: `GET /dir`, at the configured address, under the
//! configured certificate.

use std::convert::Infallible;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::settings::Settings;

/// acme-proxy's directory.
#[derive(Clone)]
pub(crate) struct Directory {
    client: reqwest::Client,
    url: String,
    tls: Arc<rustls::ServerConfig>,
}

impl Directory {
    /// The directory of the acme-proxy with these settings.
    pub(crate) fn of(settings: &Settings<'_>, client: reqwest::Client) -> anyhow::Result<Self> {
        let told = &settings.options.pebble;
        Ok(Self {
            client,
            url: settings.directory_url(),
            tls: server_config(&told.certificate, &told.private_key)?,
        })
    }

    /// The directory's JSON, if acme-proxy answers with one.
    pub(crate) async fn fetch(&self) -> Option<Bytes> {
        let answer = self.client.get(&self.url).send().await.ok()?;
        answer.error_for_status().ok()?.bytes().await.ok()
    }

    /// Serves it without end.
    pub(crate) async fn serve(&self, listener: TcpListener) -> anyhow::Result<()> {
        let acceptor = TlsAcceptor::from(self.tls.clone());
        loop {
            let (stream, _) = listener.accept().await?;
            let (directory, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                // Those who only look whether somebody listens do not shake hands.
                let stream = acceptor.accept(stream).await.ok()?;
                let service = service_fn(|request| directory.answer(request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connection.await.ok()
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body) = match (request.uri().path(), self.fetch().await) {
            ("/dir", Some(directory)) => (StatusCode::OK, directory),
            ("/dir", None) => (StatusCode::BAD_GATEWAY, Bytes::new()),
            _ => (StatusCode::NOT_FOUND, Bytes::new()),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Ok(response)
    }
}

fn server_config(certificate: &Path, key: &Path) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let mut pem = BufReader::new(File::open(certificate)?);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(&mut pem).collect();
    let key = PrivateKeyDer::from_pem_file(key).context("the configured key")?;
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    Ok(Arc::new(config.with_single_cert(chain?, key)?))
}
