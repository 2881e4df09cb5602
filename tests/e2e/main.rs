//! Debian's certbot and lego get certificates from acme-proxy, which gets them from Debian's Pebble, a strict ACME CA:
//! everything as in the field, but for its being on loopback.
//!
//! A program that is not installed fails the tests, and says which package it is in.

#[cfg(test)]
mod account;
#[cfg(test)]
mod acme_proxy;
#[cfg(test)]
mod certbot;
#[cfg(test)]
mod certificate;
#[cfg(test)]
#[path = "../../examples/loopback/connect.rs"]
mod connect;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod environment;
#[cfg(test)]
mod lego;
#[cfg(test)]
mod pebble;
#[cfg(test)]
mod process;
#[cfg(test)]
mod web;
