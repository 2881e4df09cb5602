//! The store in PostgreSQL.

pub mod connect;
pub mod fault;
mod tls;
pub mod url;
