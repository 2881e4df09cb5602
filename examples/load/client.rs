//! HTTP/1.1 over TLS, one request at a time on one connection: what a single ACME client does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, USER_AGENT};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The server: where it is, and how it proves who it is.
pub(crate) struct Target {
    authority: String,
    /// Each connection goes to the next of them.
    addresses: Vec<SocketAddr>,
    connections: AtomicUsize,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// An answer, read to its end.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// How long the server asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.header("retry-after")?.parse().ok()?))
    }
}

impl Target {
    /// The server of the directory, at the address that its name has or at those that are given.
    pub(crate) async fn new(directory: &Uri, root_pem: &[u8], addresses: &[IpAddr]) -> anyhow::Result<Self> {
        ensure!(
            directory.scheme_str() == Some("https"),
            "the directory URL is not https"
        );
        let authority = directory.authority().context("the directory URL has no host")?;
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
        let mut addresses: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        if addresses.is_empty() {
            addresses.extend(tokio::net::lookup_host((host, port)).await?.next());
        }
        ensure!(!addresses.is_empty(), "{host} has no address");
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(root_pem) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // certbot is a new process each time: it has no session to resume.
        config.resumption = Resumption::disabled();
        Ok(Self {
            authority: authority.to_string(),
            addresses,
            connections: AtomicUsize::new(0),
            name: ServerName::try_from(host.to_owned())?,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// A new connection, its TLS handshake done, from this address of our own if one is given.
    pub(crate) async fn connect_raw(&self, from: Option<Ipv4Addr>) -> anyhow::Result<TlsStream<TcpStream>> {
        let turn = self.connections.fetch_add(1, Ordering::Relaxed) % self.addresses.len();
        let address = *self.addresses.get(turn).context("no address")?;
        let tcp = match from {
            None => TcpStream::connect(address).await?,
            Some(from) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((from, 0).into())?;
                socket.connect(address).await?
            }
        };
        tcp.set_nodelay(true)?;
        Ok(self.tls.connect(self.name.clone(), tcp).await?)
    }

    /// The same, ready for requests.
    pub(crate) async fn connect(&self, from: Option<Ipv4Addr>) -> anyhow::Result<Connection> {
        let tls = self.connect_raw(from).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(tls)).await?;
        // It ends when the sender is dropped; a broken connection shows at the next request.
        tokio::spawn(async move { driver.await.ok() });
        Ok(Connection {
            authority: self.authority.clone(),
            sender,
        })
    }
}

/// A connection to the server.
pub(crate) struct Connection {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Whether the server has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, and reads the answer.
    pub(crate) async fn send(&mut self, method: Method, url: &str, body: String) -> anyhow::Result<Reply> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let same_server = uri
            .authority()
            .is_some_and(|authority| authority.as_str() == self.authority);
        ensure!(same_server, "{url} leads to another server");
        let mut request = http::Request::builder()
            .method(&method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, &self.authority)
            .header(USER_AGENT, "acme-proxy-load");
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/jose+json");
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::from(body))?).await?;
        let (head, body) = response.into_parts();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}
