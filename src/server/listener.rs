//! The accept loops: TLS and HTTP/1.1 with a deadline on everything that a peer could drag out.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::server::overload::{Places, Room, at_most};
use crate::server::peers::Peer;
use crate::server::proxy_header::{self, Refused, Source};
use crate::server::{Server, admin};

/// How many connections of those who look at metrics are open at a time.
const METRICS_CONNECTIONS: usize = 256;

/// How long a TLS handshake may take, and a load balancer's header before it.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a request's head may take to arrive, and how long a connection may idle between two requests.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// How long one connection may live: a client that reads its answers too slowly is cut off in the end.
const CONNECTION_AGE: Duration = Duration::from_secs(300);

/// How long open requests may take to end at a shutdown, and at the end of a connection's life.
const DRAIN: Duration = Duration::from_secs(30);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The most header fields in a request.
const MAX_HEADERS: usize = 100;

/// How long the loop pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that the server will listen on.
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// The system's, e.g. that the address is in use.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// A socket that somebody else has bound, and listens on.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn from_bound(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { listener })
    }

    /// The same socket once more.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn again(&self) -> io::Result<Self> {
        Self::from_bound(rustix::io::dup(&self.listener)?.into())
    }

    /// The bound address, with the port that the system chose if it was 0.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves ACME over TLS until told to stop, then lets open requests end.
    pub async fn serve_acme(self, server: Server, stop: watch::Receiver<bool>) {
        let places = Places::new(at_most(server.shared().settings.limits.connections));
        accept(self.listener, places, stop, move |mut stream, peer, room, stop| {
            let server = server.clone();
            async move {
                let shared = server.shared();
                let is_balancer = shared.settings.is_balancer(peer.0);
                let source = match is_balancer {
                    true => source_of(&mut stream, peer, &shared.metrics).await,
                    false => Some(Source::Client(peer.0)),
                };
                let (peer, is_check) = match source {
                    Some(Source::Client(address)) => (Peer(address), false),
                    Some(Source::Balancer) => (peer, true),
                    None => return,
                };
                let Some(_counted) = shared.peers.admit(peer, shared.ra.clock().now()) else {
                    return tracing::debug!(peer = %peer.0, "a connection of an address over its limits is closed");
                };
                shared.metrics.connections.inc();
                let brought_a_request =
                    match tokio::time::timeout(HANDSHAKE_DEADLINE, server.tls().accept(stream)).await {
                        Ok(Ok(stream)) => {
                            serve_connection(stream, peer, room, || server.routes(), stop).await
                        }
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "TLS handshake failed");
                            false
                        }
                        Err(_) => {
                            tracing::debug!("TLS handshake took too long");
                            false
                        }
                    };
                // A balancer that looks whether somebody listens has done nothing wrong.
                if !brought_a_request && !is_check {
                    shared.peers.count_bad(peer, shared.ra.clock().now());
                }
                shared.metrics.connections.dec();
            }
        })
        .await;
    }
}

/// On whose behalf a load balancer has opened the connection; `None` if it does not say so as it should.
async fn source_of(stream: &mut TcpStream, balancer: Peer, metrics: &Metrics) -> Option<Source> {
    let read = tokio::time::timeout(HANDSHAKE_DEADLINE, proxy_header::read(stream));
    let refused = match read.await.unwrap_or(Err(Refused::Incomplete)) {
        Ok(source) => return Some(source),
        Err(refused) => refused,
    };
    metrics
        .proxy_headers_refused
        .with_label_values(&[refused.name()])
        .inc();
    let from = balancer.0.to_canonical();
    match refused {
        Refused::Incomplete => tracing::debug!(%from, "a connection is closed: {refused}"),
        Refused::Version1 | Refused::Malformed | Refused::TooLong | Refused::NoAddress => {
            tracing::warn!(%from, "a connection is closed: {refused}");
        }
    }
    None
}

/// Serves `/metrics`, `/health`, `/livez` and `/readyz` over plain HTTP until told to stop.
pub async fn serve_metrics(listener: Listener, metrics: Arc<Metrics>, stop: watch::Receiver<bool>) {
    let routes = admin::metrics_routes(metrics);
    let places = Places::new(at_most(METRICS_CONNECTIONS));
    accept(
        listener.listener,
        places,
        stop,
        move |stream, peer, room, stop| {
            let routes = routes.clone();
            async move {
                serve_connection(stream, peer, room, || routes.clone(), stop).await;
            }
        },
    )
    .await;
}

async fn accept<F>(
    listener: TcpListener,
    places: Places,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, Peer, Room, watch::Receiver<bool>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = async {
                let place = places.take().await;
                (place, listener.accept().await)
            } => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            (Ok(place), Ok((stream, peer))) => {
                // Answers are single small writes; waiting for more to send would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY can not be set");
                }
                let connection = serve(stream, Peer(peer.ip()), places.room(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Err(_), Ok(_)) => break,
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("connections were still open at the end of the shutdown's time");
    }
}

/// Serves a connection until it ends. Tells whether a request came.
async fn serve_connection<S>(
    stream: S,
    peer: Peer,
    room: Room,
    routes: impl Fn() -> Router,
    mut stop: watch::Receiver<bool>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let requests = AtomicUsize::new(0);
    let service = service_fn(|mut request: Request<Incoming>| {
        requests.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(room);
        TowerToHyperService::new(routes()).call(request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
        () = tokio::time::sleep(CONNECTION_AGE) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::debug!("a connection was cut off");
                    return requests.load(Ordering::Relaxed) > 0;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    requests.load(Ordering::Relaxed) > 0
}
