//! What the tests of the whole daemon stand on: the daemon in this process over real TLS or as a child process, with a
//! CA, a DNS server and a web server of its own on loopback, and a client that can be told to lie.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod csr;
pub(crate) mod disk;
pub(crate) mod documented;
pub(crate) mod key;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod storm;
pub(crate) mod tls_responder;
pub(crate) mod web;
pub(crate) mod wire;
pub(crate) mod world;
pub(crate) mod zone;

#[expect(
    dead_code,
    reason = "not everything that can go wrong at the CA has its test yet"
)]
#[path = "../../../examples/throwaway_ca/ca.rs"]
pub(crate) mod ca;
#[path = "../../../examples/demo/check.rs"]
pub(crate) mod check;
#[path = "../../../examples/loopback/connect.rs"]
pub(crate) mod connect;
#[path = "../../../examples/loopback/dns.rs"]
pub(crate) mod dns;
#[path = "../../../examples/loopback/http01.rs"]
pub(crate) mod http01;
#[path = "../../../examples/loopback/instant.rs"]
pub(crate) mod instant;
#[path = "../../../examples/chaos/link.rs"]
pub(crate) mod link;
#[expect(dead_code, reason = "each program uses its part")]
#[path = "../../../examples/loopback/postgres.rs"]
pub(crate) mod postgres;
