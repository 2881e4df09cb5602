//! The daemon on a real PostgreSQL (SECURITY F40 to F46): what can be wrong with the way there, what becomes of requests
//! while it is away, and two daemons on one database.

mod at_rest;
mod daemon;
mod dns;
mod exhausted;
mod faults;
mod haproxy;
mod migrate;
mod operator;
mod scale;
mod server;
mod silent;
mod suspended;
mod tls;
