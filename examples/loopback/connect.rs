//! An HTTP proxy (CONNECT, RFC 9110 §9.3.6) that takes every name for this machine, and leads nowhere else.
//!
//! With `HTTPS_PROXY` set to it, certbot reaches `https://acmeproxy.demo.example.com:PORT/` without a line in
//! `/etc/hosts`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy that works until this is dropped.
pub(crate) struct Connect {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Requests,
    server: JoinHandle<()>,
}

/// The first line of every request.
type Requests = Arc<Mutex<Vec<String>>>;

impl Connect {
    /// The first line of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.clone()
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Starts to listen on a free port.
pub(crate) async fn start() -> anyhow::Result<Connect> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("the HTTPS proxy cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let requests = Requests::default();
    let seen = requests.clone();
    let server = tokio::spawn(async move {
        loop {
            if let Ok((client, _)) = listener.accept().await {
                let seen = seen.clone();
                // A tunnel that breaks is the client's affair.
                tokio::spawn(async move { tunnel(client, &seen).await.ok() });
            }
        }
    });
    Ok(Connect {
        address,
        requests,
        server,
    })
}

async fn tunnel(client: TcpStream, seen: &Requests) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let mut request = String::new();
    client.read_line(&mut request).await?;
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.trim_end().to_owned());
    let mut header = String::new();
    while client.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let Some(port) = connect_port(&request) else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client
        .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        .await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The port in `CONNECT host:port HTTP/1.1`.
fn connect_port(request: &str) -> Option<u16> {
    let target = request.strip_prefix("CONNECT ")?.split(' ').next()?;
    target.rsplit_once(':')?.1.parse().ok()
}
