//! A DNS server for tests, on UDP and TCP, which answers whatever its zone says.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A server that answers until this is dropped.
pub(crate) struct Dns {
    /// Where it listens, UDP and TCP.
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

/// What there is of a type at a name.
pub(crate) type Zone = Arc<dyn Fn(&Name, RecordType) -> Vec<RData> + Send + Sync>;

/// How often a port is looked for that is free for both UDP and TCP.
const ATTEMPTS: usize = 50;

/// Starts to listen; port 0 takes one that is free for both UDP and TCP.
pub(crate) async fn start(listen: SocketAddr, zone: Zone) -> anyhow::Result<Dns> {
    let mut bound = bind(listen).await;
    for _ in 1..ATTEMPTS {
        if bound.is_ok() || listen.port() != 0 {
            break;
        }
        bound = bind(listen).await;
    }
    let (udp, tcp, address) = bound?;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_udp(udp, zone.clone()));
    tasks.spawn(serve_tcp(tcp, zone));
    Ok(Dns {
        address,
        _tasks: tasks,
    })
}

async fn bind(listen: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let udp = UdpSocket::bind(listen)
        .await
        .with_context(|| format!("the DNS server cannot listen on {listen}, UDP"))?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address)
        .await
        .with_context(|| format!("the DNS server cannot listen on {address}, TCP"))?;
    Ok((udp, tcp, address))
}

async fn serve_udp(socket: UdpSocket, zone: Zone) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(reply) = buffer.get(..length).and_then(|query| answer(query, &zone)) {
            // A resolver that is gone does not miss the answer.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve_stream(stream, zone.clone()));
        }
    }
}

/// RFC 1035 §4.2.2: each message behind its length in two octets.
async fn serve_stream(mut stream: TcpStream, zone: Zone) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let Some(reply) = answer(&query, &zone) else {
            return;
        };
        let length = u16::try_from(reply.len()).unwrap_or_default().to_be_bytes();
        if stream
            .write_all(&[&length, reply.as_slice()].concat())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// What the zone has, which may be an empty answer; nothing for what is no query.
fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    for question in &query.queries {
        for data in zone(question.name(), question.query_type()) {
            reply.add_answer(Record::from_rdata(question.name().clone(), 1, data));
        }
    }
    reply.add_queries(query.queries);
    if query.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    reply.to_vec().ok()
}
