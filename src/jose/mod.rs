//! Signed requests: JWS (RFC 7515) in the flattened form that RFC 8555 §6.2 prescribes, and JWK (RFC 7517). Pure.

pub mod eab;
pub mod jwk;
pub mod jws;
pub mod key_change;
pub mod rsa;
