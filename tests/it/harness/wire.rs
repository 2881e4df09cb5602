//! Requests and answers as bytes on one TLS connection, so that a test can send what no HTTP client would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::answer::Answer;

/// The daemon's names. They resolve nowhere: the client is told the address.
pub(crate) const NAMES: [&str; 2] = ["acmeproxy.test.example.com", "ra.test.example.com"];

/// Where the daemon is, and how to know it.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) root: CertificateDer<'static>,
    /// The address that connections come from, if not the usual one.
    pub(crate) from: Option<Ipv4Addr>,
    /// What a load balancer sends before the first byte of TLS.
    pub(crate) header: Vec<u8>,
}

impl Site {
    /// Host and port, as in its URLs.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", NAMES[0], self.address.port())
    }

    /// The URL of an ACME resource.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}/acme/acme/{path}", self.authority())
    }

    /// Path and query of one of its URLs.
    #[track_caller]
    pub(crate) fn path_of<'a>(&self, url: &'a str) -> &'a str {
        let prefix = format!("https://{}", self.authority());
        url.strip_prefix(&prefix)
            .unwrap_or_else(|| panic!("A1: {url} does not start with {prefix}"))
    }

    /// A TLS client that trusts the daemon's certificate only, and offers these protocols.
    pub(crate) fn tls(&self, alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Connection {
        self.connect_with(self.tls(&["http/1.1"])).await.unwrap()
    }

    /// A new connection with this TLS client.
    pub(crate) async fn connect_with(&self, config: ClientConfig) -> io::Result<Connection> {
        let name = ServerName::try_from(NAMES[0]).unwrap();
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let mut tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&self.header).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let (reader, writer) = split(stream);
        Ok(Connection {
            reader: Answers {
                stream: reader,
                buffer: Vec::new(),
            },
            writer,
            alpn,
        })
    }

    /// One request on a connection of its own. `Host` is the daemon's unless the headers have one.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut connection = self.connect().await;
        connection
            .write(&self.head(method, path, headers, Some(body.len())))
            .await;
        connection.write(body).await;
        connection.answer(method).await.unwrap()
    }

    /// A GET on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").await
    }

    /// The bytes of a request's head.
    pub(crate) fn head(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: Option<usize>,
    ) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.authority()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length.filter(|length| *length > 0 || method == "POST") {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// An open connection.
pub(crate) struct Connection {
    pub(crate) reader: Answers,
    pub(crate) writer: WriteHalf<TlsStream<TcpStream>>,
    pub(crate) alpn: Option<Vec<u8>>,
}

/// The answers that come on a connection.
pub(crate) struct Answers {
    stream: ReadHalf<TlsStream<TcpStream>>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends bytes. What the daemon has closed meanwhile shows when the answer is read.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok()
    }

    /// The next answer; `None` once the connection is closed.
    pub(crate) async fn answer(&mut self, to_method: &str) -> Option<Answer> {
        self.reader.next(to_method).await
    }

    /// Waits for the end of the connection, and tells whether nothing more came before it.
    pub(crate) async fn ends(&mut self) -> bool {
        self.reader.buffer.is_empty() && !self.reader.more().await
    }
}

impl Answers {
    /// The next answer; `None` once the connection is closed.
    pub(crate) async fn next(&mut self, to_method: &str) -> Option<Answer> {
        let end = loop {
            match self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end,
                None if self.more().await => {}
                None => return None,
            }
        };
        let mut answer = Answer::head(std::str::from_utf8(&self.buffer[..end]).unwrap());
        self.buffer.drain(..end + 4);
        assert!(
            answer.header("transfer-encoding").is_none(),
            "answers are sent in one piece: {answer:?}"
        );
        let bodiless = to_method == "HEAD" || matches!(answer.status, 100 | 204);
        let length = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let length = if bodiless { 0 } else { length };
        while self.buffer.len() < length {
            assert!(self.more().await, "an answer broke off: {answer:?}");
        }
        answer.body = self.buffer.drain(..length).collect();
        Some(answer)
    }

    async fn more(&mut self) -> bool {
        let mut chunk = vec![0; 16_384];
        // A connection that is reset is as closed as one that is ended.
        let read = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..read]);
        read > 0
    }
}
