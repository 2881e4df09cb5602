//! A DNS server for tests, on UDP and TCP: every name has the address 127.0.0.1 and nothing else.
//!
//! With it in `validation.resolvers`, acme-proxy finds the clients of the demo and of the load generator, whatever they
//! call themselves.

#[path = "dns_server.rs"]
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};

pub(crate) use self::server::Dns;

/// Starts to listen; port 0 takes one that is free for both UDP and TCP.
pub(crate) async fn start(listen: SocketAddr) -> anyhow::Result<Dns> {
    server::start(
        listen,
        Arc::new(|_, kind| match kind {
            RecordType::A => vec![RData::A(A(Ipv4Addr::LOCALHOST))],
            _ => Vec::new(),
        }),
    )
    .await
}
