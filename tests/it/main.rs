//! Integration tests, one binary: each file is a section of an RFC or a part of the daemon.

mod config;
