//! The sockets that the daemon listens on: its own, or those that systemd has opened for it (socket activation, see
//! `sd_listen_fds(3)`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;

use crate::server::Listener;

/// `EAFNOSUPPORT`: the host has no IPv6.
pub(crate) const NO_IPV6: i32 = 97;

/// The name in `FileDescriptorName=` of the socket for metrics. Any other name is that of the ACME socket.
const METRICS: &str = "metrics";

/// The name of the ACME socket in our own unit. systemd calls a socket whose unit names none after that unit.
const ACME: &str = "acme";

/// The sockets that the process was started with.
#[derive(Debug, Default)]
pub struct Sockets {
    acme: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Sockets {
    /// Those of the environment. To be called before there is another thread: the variables are taken out, so that no
    /// child process believes that they are for it.
    ///
    /// # Errors
    ///
    /// What is wrong with one, and what to do.
    pub fn inherited() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..given.len() {
            let name = names.next().unwrap_or_default();
            let listener = given.take_tcp_listener(index).with_context(|| {
                format!("systemd passes the socket {name:?}, which is none of TCP; write ListenStream= with a port")
            })?;
            let place = match name {
                METRICS => &mut sockets.metrics,
                _ => &mut sockets.acme,
            };
            if let Some(second) = place.replace(listener.context("systemd passes a socket twice")?) {
                let address = second.local_addr()?;
                let hint = match name {
                    ACME | METRICS => "",
                    _ => "; write FileDescriptorName=metrics where it is for metrics",
                };
                anyhow::bail!(
                    "systemd passes more than one socket for ACME or for metrics, one of them {address}{hint}"
                );
            }
        }
        Ok(sockets)
    }

    /// The ACME listener: the socket that was passed, or one of our own.
    pub(crate) async fn acme(&mut self, address: SocketAddr) -> anyhow::Result<Listener> {
        listener("address", self.acme.take(), address).await
    }

    /// The metrics listener, if there is to be one.
    pub(crate) async fn metrics(&mut self, address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
        const KEY: &str = "metricsAddress or authority.config.metrics.port";
        match (self.metrics.take(), address) {
            (passed, Some(address)) => Ok(Some(listener(KEY, passed, address).await?)),
            (Some(_), None) => {
                tracing::warn!(
                    "the socket for metrics that systemd passes is not used: ca.json has no {KEY}"
                );
                Ok(None)
            }
            (None, None) => Ok(None),
        }
    }
}

async fn listener(key: &str, passed: Option<TcpListener>, address: SocketAddr) -> anyhow::Result<Listener> {
    let Some(passed) = passed else {
        return bind(key, address).await;
    };
    let actual = passed.local_addr()?;
    // One that listens on everything has all addresses of its port.
    if actual.port() != address.port() || !(actual.ip() == address.ip() || actual.ip().is_unspecified()) {
        tracing::warn!("{key}: {address} is not used, for systemd passes a socket that listens on {actual}");
    }
    Ok(Listener::from_bound(passed)?)
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<Listener> {
    let bound = match Listener::bind(address).await {
        // ":443" means every address; on a host without IPv6 these are the IPv4 ones.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_IPV6) => {
            Listener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))).await
        }
        bound => bound,
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{key}: {address} is in use by another process; stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "{key}: {address} may not be bound by this user; give the service CAP_NET_BIND_SERVICE, or choose a port above 1023"
        ),
        _ => anyhow::anyhow!("{key}: {address} can not be bound: {error}"),
    })
}
