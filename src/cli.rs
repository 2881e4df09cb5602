//! The command line (COMPAT section 2): `acme-proxy ca.json` serves, `acme-proxy check ca.json` only looks, `acme-proxy eab` keeps external
//! account keys, `acme-proxy upstream` the accounts at the CAs.

mod eab;
mod import;
mod serve;
mod upstream;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::app::control;
use crate::app::control::Request;
use crate::cli::eab::Eab;
use crate::cli::import::Import;
use crate::cli::serve::{Network, Serve};
use crate::cli::upstream::{Prepared, Upstream};
use crate::config::{Config, LogFormat, Logger, Overrides};

/// A flag that can not be understood, or a configuration that can not be read.
const EXIT_USAGE: u8 = 1;

/// Any other failure to start or to go on.
const EXIT_FAILURE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  acme-proxy check /etc/acme-proxy/ca.json     say what would happen, and what is wrong
  acme-proxy /etc/acme-proxy/ca.json           serve
  acme-proxy eab add /etc/acme-proxy/ca.json   make a key that clients register with
  acme-proxy upstream show /etc/acme-proxy/ca.json   show our accounts at the CAs

Exit codes: 0 stopped by a signal, 1 wrong flags or unreadable configuration, 2 anything else.
Log level: ACME_PROXY_LOG, e.g. ACME_PROXY_LOG=debug.";

#[derive(Parser)]
#[command(version, about = "An ACME registration authority: validates names, and has a public CA sign", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the configuration and says what the daemon would do; asks no network, spends no EAB, writes nothing
    Check(Check),
    /// Keeps the keys that clients register with where requireEAB is true; works beside a running daemon, and without
    Eab(Eab),
    /// Takes over accounts, so that clients keep their account URLs; works beside a running daemon, and without
    Import(Import),
    /// Keeps our accounts at the CAs; works beside a running daemon, and without
    Upstream(Upstream),
}

#[derive(Args)]
struct Check {
    /// The configuration
    config: PathBuf,
    #[command(flatten)]
    network: Network,
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nothing can be done about a closed terminal.
            let _closed = error.print();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Some(Command::Check(check)) => run_check(&check),
        Some(Command::Eab(eab)) => {
            let (config, request) = eab.into_request();
            carry_out(&config, request, |text| Ok(write!(std::io::stdout(), "{text}")?))
        }
        Some(Command::Import(import)) => {
            let (config, import) = import.into_parts();
            operate(
                &config,
                |config| app::import::step_ca(config, import),
                |text| Ok(write!(std::io::stdout(), "{text}")?),
            )
        }
        Some(Command::Upstream(upstream)) => run_upstream(upstream),
        None => serve::serve(cli.serve),
    }
}

fn run_check(check: &Check) -> ExitCode {
    match Config::load(&check.config, &check.network.overrides()) {
        Ok(config) => match writeln!(std::io::stdout(), "{}", config.report()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(EXIT_FAILURE),
        },
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn run_upstream(upstream: Upstream) -> ExitCode {
    let Prepared {
        config,
        request,
        file,
    } = match upstream.prepared() {
        Ok(prepared) => prepared,
        Err(error) => return fail(&format!("{error:#}"), EXIT_FAILURE),
    };
    carry_out(&config, request, |text| match &file {
        Some(file) => upstream::write_secret(file, text),
        None => Ok(write!(std::io::stdout(), "{text}")?),
    })
}

/// Carries out a command on the daemon or its store, and hands over what comes of it.
fn carry_out(path: &Path, request: Request, hand_over: impl FnOnce(&str) -> anyhow::Result<()>) -> ExitCode {
    operate(path, |config| control::carry_out(config, request), hand_over)
}

/// Does something on the daemon or its store, and hands over what comes of it.
fn operate<D>(
    path: &Path,
    operation: impl FnOnce(Config) -> D,
    hand_over: impl FnOnce(&str) -> anyhow::Result<()>,
) -> ExitCode
where
    D: Future<Output = anyhow::Result<String>>,
{
    let config = match Config::load(path, &Overrides::default()) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.exit_code()),
    };
    // Without a daemon, the audit events are this process's.
    start_logging(&config.logger, false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(operation(config)),
        Err(error) => Err(error.into()),
    };
    match done.and_then(|text| hand_over(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}

fn start_logging(logger: &Logger, quiet: bool) {
    let level = if quiet { "warn" } else { "info" };
    let requests = match logger.format {
        LogFormat::Off => ",acme_proxy::server::access_log=off",
        LogFormat::Text | LogFormat::Json | LogFormat::Common => "",
    };
    // sled says at `warn` and above what we report as errors of our own.
    let default = format!("{level}{requests}");
    let filter = EnvFilter::try_from_env("ACME_PROXY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match logger.format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text | LogFormat::Common | LogFormat::Off => subscriber.init(),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _closed = writeln!(std::io::stderr(), "acme-proxy: {error}");
    ExitCode::from(code)
}
