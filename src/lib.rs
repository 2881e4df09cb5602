//! The map of acme-proxy, an ACME registration authority (RFC 8555). A module may import only the ones above it; see
//! `docs/ARCHITECTURE.md` and `tests/it/layering.rs`.

pub mod jose;

pub mod acme;

pub mod policy;
pub mod store;
pub mod upstream;
pub mod validate;

pub mod worker;

pub mod server;

pub mod config;
