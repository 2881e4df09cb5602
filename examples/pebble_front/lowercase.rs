//! A DNS relay that hands questions on in small letters.
//!
//! acme-proxy writes names in small and capital letters at random, so that answers are harder to forge. To every other
//! DNS server that makes no difference (RFC 4343), but to pebble-challtestsrv it does.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

/// Starts a relay to the server, and says where it listens.
pub(crate) async fn start(server: SocketAddr) -> std::io::Result<SocketAddr> {
    let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    let address = front.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, asker)) = front.recv_from(&mut buffer).await {
            let question = buffer.get(..length).unwrap_or_default().to_vec();
            let front = front.clone();
            tokio::spawn(async move {
                // Who gets no answer asks again.
                if let Ok(answer) = ask(question, server).await {
                    let _ = front.send_to(&answer, asker).await;
                }
            });
        }
    });
    Ok(address)
}

/// Asks with small letters, and has the answer repeat the question as it was.
async fn ask(mut question: Vec<u8>, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    // RFC 1035 §4.1: behind twelve octets stands the name, and behind the name a zero. No label is so long that its
    // length could be taken for a letter.
    let length = question.iter().skip(12).take_while(|octet| **octet != 0).count();
    let name = 12..12 + length;
    let as_asked = question.get(name.clone()).unwrap_or_default().to_vec();
    if let Some(name) = question.get_mut(name.clone()) {
        name.make_ascii_lowercase();
    }
    let back = match server.is_ipv4() {
        true => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        false => UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await?,
    };
    back.send_to(&question, server).await?;
    let mut answer = vec![0; 4096];
    let length = back.recv(&mut answer).await?;
    answer.truncate(length);
    if let Some(name) = answer.get_mut(name).filter(|name| name.len() == as_asked.len()) {
        name.copy_from_slice(&as_asked);
    }
    Ok(answer)
}
