//! The objects of ACME (RFC 8555 §7.1) and every transition between their states. Pure: no I/O, no clock, no logging.

pub mod account;
pub mod authorization;
pub mod certificate;
pub mod challenge;
pub mod csr;
pub mod external_account;
pub mod id;
pub mod identifier;
pub mod job;
pub mod offers;
pub mod order;
pub mod problem;
pub(crate) mod random;
pub mod renewal;
pub mod revocation;
pub mod secret;
pub mod upstream;
