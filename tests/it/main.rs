//! Integration tests, one binary: each file is a section of an RFC or a part of the daemon.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can not go on fails, and says where"
)]

#[path = "../../examples/throwaway_ca/ca.rs"]
mod ca;
#[path = "../../examples/demo/check.rs"]
mod check;
#[path = "../../examples/loopback/dns.rs"]
mod dns;
#[path = "../../examples/loopback/http01.rs"]
mod http01;
#[path = "../../examples/loopback/instant.rs"]
mod instant;
#[path = "harness/process.rs"]
mod process;
#[path = "harness/storm.rs"]
mod storm;
#[path = "harness/world.rs"]
mod world;

mod config;
mod own_certificate;
mod recovery;
mod start;
mod upstream;
