//! What each address has open here, and how much of what it sent was worth nothing: bounds what one address can make us
//! work (SECURITY C101, T1).
//!
//! The address is that of the TCP peer, or the one that a load balancer of ours names before TLS: HTTP headers that claim
//! another one are not believed (SECURITY C108).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::ra::Refusal;
use crate::ra::limit::{Buckets, block_of, too_many};

/// How long an address that has sent too much is not heard at all. Without it a flood would be let in for one handshake
/// after the other.
const PENALTY: Duration = Duration::from_secs(10);

/// How much one address may do, and all of them together. Each limit is off at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Requests within a minute that can not be authenticated, and connections that bring no request.
    pub bad_requests_per_address_per_minute: u32,
    /// Connections at a time.
    pub connections_per_address: usize,
    /// Connections of all addresses at a time, and requests that are worked on.
    pub connections: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            bad_requests_per_address_per_minute: 300,
            connections_per_address: 1024,
            connections: 4096,
        }
    }
}

/// The address that a request came from. Travels with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// All addresses.
#[derive(Debug)]
pub(crate) struct Peers {
    limits: PeerLimits,
    open: Mutex<HashMap<IpAddr, usize>>,
    bad: Buckets<IpAddr>,
}

/// A connection that counts, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    peers: &'a Peers,
    block: IpAddr,
}

impl Peers {
    pub(crate) fn new(limits: PeerLimits) -> Self {
        let minute = Duration::from_secs(60);
        Self {
            limits,
            open: Mutex::default(),
            bad: Buckets::new(limits.bad_requests_per_address_per_minute, minute),
        }
    }

    /// Takes a new connection on, unless the address has too many or has done too much wrong.
    pub(crate) fn admit(&self, peer: Peer, now: Timestamp) -> Option<Counted<'_>> {
        let block = block_of(peer.0);
        if self.bad.wait(&block, now).is_some() {
            return None;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(block).or_insert(0);
        let limit = self.limits.connections_per_address;
        if limit > 0 && *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { peers: self, block })
    }

    /// The address has sent something bad.
    pub(crate) fn count_bad(&self, peer: Peer, now: Timestamp) {
        let block = block_of(peer.0);
        let was_the_last = self.bad.take(&block, now).is_ok() && self.bad.wait(&block, now).is_some();
        if was_the_last {
            self.bad.delay(&block, PENALTY);
        }
    }

    /// The answer to whatever the address asks, if it has sent too much that was bad.
    pub(crate) fn refusal(&self, peer: Peer, now: Timestamp) -> Option<Refusal> {
        let block = block_of(peer.0);
        let wait = self.bad.wait(&block, now)?;
        let limit = self.limits.bad_requests_per_address_per_minute;
        let what = format!("{limit} requests from {block} within a minute had no good signature");
        Some(too_many(&what, "bad_requests_per_address_per_minute", wait))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut open = self.peers.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.block) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c101_an_address_has_so_many_connections_and_others_have_theirs() {
        let peers = Peers::new(PeerLimits {
            connections_per_address: 2,
            ..PeerLimits::default()
        });
        let (now, peer) = (Timestamp::UNIX_EPOCH, |text: &str| Peer(text.parse().unwrap()));
        let first = peers.admit(peer("192.0.2.1"), now);
        let second = peers.admit(peer("::ffff:192.0.2.1"), now);
        assert!(first.is_some() && second.is_some());
        assert!(peers.admit(peer("192.0.2.1"), now).is_none());
        let other = peers.admit(peer("192.0.2.2"), now);
        assert!(other.is_some());
        drop(first);
        assert!(peers.admit(peer("192.0.2.1"), now).is_some());
        drop((second, other));
        assert!(
            peers.open.lock().unwrap().is_empty(),
            "nothing is kept of what is closed"
        );
    }
}
