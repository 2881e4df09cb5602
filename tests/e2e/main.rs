//! Clients as Debian has them, and the latest certbot, get certificates from acme-proxy, which gets them from Debian's
//! Pebble, a strict ACME CA: everything as in the field, but for its being on loopback.
//!
//! A program that is not installed fails the tests, and says which package it is in.

#[cfg(test)]
mod account;
#[cfg(test)]
mod acme_proxy;
#[cfg(test)]
mod acme_tiny;
#[cfg(test)]
mod alpn;
#[cfg(test)]
mod caddy;
#[cfg(test)]
mod certbot;
#[cfg(test)]
mod certificate;
#[cfg(test)]
#[path = "../../examples/loopback/challenge_dns.rs"]
mod challenge_dns;
#[cfg(test)]
#[expect(dead_code, reason = "only a test asks what the proxy has seen")]
#[path = "../../examples/loopback/connect.rs"]
mod connect;
#[cfg(test)]
mod dehydrated;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod environment;
#[cfg(test)]
#[path = "../../examples/loopback/knot.rs"]
mod knot;
#[cfg(test)]
mod lego;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod mod_md;
#[cfg(test)]
mod pebble;
#[cfg(test)]
mod process;
#[cfg(test)]
mod uacme;
#[cfg(test)]
mod web;
#[cfg(test)]
mod webroot;
