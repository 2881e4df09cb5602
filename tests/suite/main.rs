//! Suites of server tests that others have written, run against acme-proxy in front of Pebble.

#[cfg(test)]
mod instant_acme;
