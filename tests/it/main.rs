//! Integration tests, one binary: each file is a section of an RFC or a part of the daemon.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can not go on fails, and says where"
)]

mod audit;
mod backup;
mod balanced;
mod canary;
mod compat;
mod config;
mod deep;
mod documentation;
mod eab_cli;
mod gate;
mod harness;
mod health;
mod import;
mod late;
mod layering;
mod logs;
mod monitoring;
mod overload;
mod own_certificate;
mod policy;
mod postgres;
mod races;
mod records;
mod recovery;
mod reload;
mod requirements;
mod rfc8555;
mod rfc8737;
mod rfc8738;
mod rfc9773;
mod start;
mod systemd;
mod tampered_store;
mod upstream;
mod upstream_cli;
mod upstreams;
