//! The map of acme-proxy, an ACME registration authority (RFC 8555). A module may import only modules above it; see
//! `docs/ARCHITECTURE.md` and `tests/it/layering.rs`.

/// The time.
pub mod clock;
/// Signed requests and keys.
pub mod jose;
/// What operators see.
pub mod metrics;
/// The listener's TLS, and its certificate.
pub mod tls;

/// The protocol's objects and every transition between their states; pure.
pub mod acme;

/// Which names are admitted; pure.
pub mod policy;
/// Persistence.
pub mod store;
/// The public CA.
pub mod upstream;
/// The three ways to ask the network who controls a name.
pub mod validate;

/// The registration authority's use cases.
pub mod ra;
/// The ACME server.
pub mod server;
/// The queue's worker, and upkeep.
pub mod worker;

/// `ca.json`.
pub mod config;

/// The daemon, put together.
pub mod app;

/// The command line.
pub mod cli;
