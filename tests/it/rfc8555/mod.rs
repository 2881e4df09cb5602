//! RFC 8555 over the wire: one file for each section, against the daemon in this process.

mod s6_1_cors;
mod s6_2_authentication;
mod s6_5_nonces;
mod s6_6_rate_limits;
mod s6_transport;
pub(crate) mod s7_1_6_lives;
mod s7_1_directory;
mod s7_1_provisioners;
pub(crate) mod s7_3_4_external_account;
pub(crate) mod s7_3_5_key_change;
mod s7_3_accounts;
mod s7_4_2_certificate;
mod s7_4_csr;
mod s7_4_orders;
mod s7_4_wishes;
mod s7_5_2_deactivation;
mod s7_5_authorizations;
mod s7_6_revocation;
mod s8_4_dns01;
mod s8_pool;
