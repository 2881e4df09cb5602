//! What the tests of the whole daemon stand on: the daemon in this process over real TLS, with a CA, a DNS server and a
//! web server of its own on loopback, and a client that can be told to lie.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod csr;
pub(crate) mod key;
pub(crate) mod server;
pub(crate) mod web;
pub(crate) mod wire;

#[path = "../../../examples/throwaway_ca/ca.rs"]
pub(crate) mod ca;
#[path = "../../../examples/loopback/dns.rs"]
pub(crate) mod dns;
