//! The daemon on a real PostgreSQL (SECURITY F40 to F46): what can be wrong with the way there, and what becomes of
//! requests while it is away.

mod faults;
mod server;
mod tls;
