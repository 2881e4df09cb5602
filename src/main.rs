//! acme-proxy, an ACME registration authority. See `acme-proxy --help` and `README.md`.

use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

fn main() -> ExitCode {
    // Whatever is written holds keys, or what they protect.
    umask(Mode::from_raw_mode(0o077));
    // No key ends up in a core file. Both limits may always be lowered, and failing to raise one is no reason to stop.
    let _kept = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let files = getrlimit(Resource::Nofile);
    let _kept = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            ..files
        },
    );
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return ExitCode::from(2);
    }
    acme_proxy::cli::run()
}
