//! Does the store keep what it has acknowledged when the power goes? (SECURITY F25)
//!
//! `powercut run` lets a program live a daemon's life on an ext4 file system, stops it at a random moment, and copies the
//! block device: what is on the copy is what a disk would hold, without the page cache, which a mere kill -9 leaves in
//! place. The copy is mounted, its journal replays, and the store on it is compared with what was acknowledged.
//!
//! ```text
//! powercut run [--cycles N] [--restarts K]   cut the power N times; each time after up to K kills and restarts
//! powercut write DIR                         live on the store in DIR, and print a journal until killed
//! powercut check DIR JOURNAL                 compare the store in DIR with the journal
//! ```

#[path = "powercut/check.rs"]
mod check;
#[path = "powercut/cut.rs"]
mod cut;
#[path = "powercut/journal.rs"]
mod journal;
#[path = "powercut/life.rs"]
mod life;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use acme_proxy::store::Settings;
use anyhow::{Result, bail};

const USAGE: &str = "usage: powercut run [--cycles N] [--restarts K] | write DIR | check DIR JOURNAL";

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::from(check::UNOPENABLE)
        }
    }
}

fn start() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", options @ ..] => cut::run(cut::Options::parse(options)?),
        ["write", directory] => life::write(settings(directory)),
        ["check", directory, journal] => check::check(settings(directory), journal.as_ref()),
        _ => bail!(USAGE),
    }
}

fn settings(directory: &str) -> Settings {
    Settings {
        path: PathBuf::from(directory),
        reserve_bytes: 0,
        cache_bytes: 16 << 20,
        gather: Duration::from_millis(3),
    }
}
