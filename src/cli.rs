//! The command line (COMPAT section 2): `acme-proxy ca.json` serves, `acme-proxy check ca.json` only looks, `acme-proxy eab` keeps external
//! account keys, `acme-proxy upstream` the accounts at the CAs; `certs`, `orders` and `accounts` look through the store.

mod accounts;
mod audit;
mod backup;
mod certs;
mod check;
mod eab;
mod import;
mod listing;
mod manual;
mod migrate;
mod orders;
mod policy;
mod serve;
mod upstream;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app;
use crate::app::control;
use crate::app::control::{No, Operator, Request};
use crate::app::log;
use crate::cli::accounts::Accounts;
use crate::cli::audit::Audit;
use crate::cli::backup::{Backup, Restore};
use crate::cli::certs::Certs;
use crate::cli::check::Check;
use crate::cli::eab::Eab;
use crate::cli::import::Import;
use crate::cli::manual::{Completions, Man, Version};
use crate::cli::migrate::Migrate;
use crate::cli::orders::Orders;
use crate::cli::policy::Policy;
use crate::cli::serve::Serve;
use crate::cli::upstream::{Prepared, Upstream};
use crate::config::{Config, Overrides};

/// A flag that can not be understood, or a configuration that can not be read.
const EXIT_USAGE: u8 = 1;

/// Any other failure to start or to go on.
const EXIT_FAILURE: u8 = 2;

/// The answer to a question is no.
const EXIT_NO: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  acme-proxy check /etc/acme-proxy/ca.json     say what would happen, and what is wrong
  acme-proxy check --deep /etc/acme-proxy/ca.json   look at files, DNS, the CA and the account there, too
  acme-proxy /etc/acme-proxy/ca.json           serve
  acme-proxy eab add /etc/acme-proxy/ca.json   make a key that clients register with
  acme-proxy upstream show /etc/acme-proxy/ca.json   show our accounts at the CAs
  acme-proxy orders list --stuck /etc/acme-proxy/ca.json   show the orders that wait for the CA
  acme-proxy certs list --expires-within 30d /etc/acme-proxy/ca.json   show what expires soon

Exit codes: 0 stopped by a signal or done, 1 wrong flags or unreadable configuration, 2 anything else, 3 the answer to a
question is no (policy explain).
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
    /// Reads the configuration and says what the daemon would do; asks no network, spends no EAB, writes nothing. With
    /// --deep, looks at all that it stands on
    Check(Check),
    /// Keeps the keys that clients register with where requireEAB is true; works beside a running daemon, and without
    Eab(Eab),
    /// Checks the files of the audit log
    Audit(Audit),
    /// Writes all that the store holds to a file, as of now; works beside a running daemon, and without
    Backup(Backup),
    /// Makes the store out of a backup, while no daemon runs and where no store is
    Restore(Restore),
    /// Moves all records from the embedded store into a PostgreSQL, or back, while no daemon runs
    Migrate(Migrate),
    /// Takes over accounts, so that clients keep their account URLs; works beside a running daemon, and without
    Import(Import),
    /// Says which names may be ordered, and which rule decides; works beside a running daemon, and without
    Policy(Policy),
    /// Keeps our accounts at the CAs; works beside a running daemon, and without
    Upstream(Upstream),
    /// Looks through the certificates, and has them revoked; works beside a running daemon, and, but for that, without
    Certs(Certs),
    /// Looks through the orders, and says what each waits for; works beside a running daemon, and without
    Orders(Orders),
    /// Looks through the accounts, and ends them; works beside a running daemon, and without
    Accounts(Accounts),
    /// Prints the version
    Version(Version),
    /// Prints a script that completes the commands in a shell
    Completions(Completions),
    /// Prints or writes the manual pages
    Man(Man),
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
        Some(Command::Check(check)) => check::check(&check),
        Some(Command::Eab(eab)) => {
            let (config, request) = eab.into_request();
            carry_out(&config, request, print)
        }
        Some(Command::Backup(backup)) => operate(
            &backup.config,
            |config| app::backup::backup(config, backup.file),
            print,
        ),
        Some(Command::Restore(restore)) => operate(
            &restore.config,
            |config| app::backup::restore(config, restore.file),
            print,
        ),
        Some(Command::Migrate(migration)) => migrate::run(&migration),
        Some(Command::Import(import)) => {
            let (config, import) = import.into_parts();
            operate(&config, |config| app::import::step_ca(config, import), print)
        }
        Some(Command::Policy(policy)) => {
            let (config, request) = policy.into_request();
            carry_out(&config, request, print)
        }
        Some(Command::Upstream(upstream)) => run_upstream(upstream),
        Some(Command::Audit(audit)) => ended(audit::run(&audit)),
        Some(Command::Certs(certs)) => {
            let config = certs.config().to_owned();
            converse(&config, async |operator| certs.run(operator).await)
        }
        Some(Command::Orders(orders)) => {
            let config = orders.config().to_owned();
            converse(&config, async |operator| orders.run(operator).await)
        }
        Some(Command::Accounts(accounts)) => {
            let config = accounts.config().to_owned();
            converse(&config, async |operator| accounts.run(operator).await)
        }
        Some(Command::Version(version)) => ended(version.run()),
        Some(Command::Completions(completions)) => ended(completions.run()),
        Some(Command::Man(man)) => ended(man.run()),
        None => serve::serve(cli.serve),
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
        None => print(text),
    })
}

/// Asks the daemon or its store any number of things.
fn converse(path: &Path, talk: impl AsyncFnOnce(&mut Operator) -> anyhow::Result<()>) -> ExitCode {
    let talk = async |config| {
        talk(&mut Operator::new(config)).await?;
        Ok(String::new())
    };
    operate(path, talk, |_| Ok(()))
}

/// Whoever reads the standard output has heard enough.
#[derive(Debug, thiserror::Error)]
#[error("the standard output is closed")]
struct HeardEnough;

/// Writes to the standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(HeardEnough.into()),
        written => Ok(written?),
    }
}

/// How a command has ended. That nobody reads on is no failure: `acme-proxy certs list ca.json | head`.
fn ended(done: anyhow::Result<()>) -> ExitCode {
    let error = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) if error.is::<HeardEnough>() => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    match error.downcast_ref::<No>().map(|No(text)| print(text)) {
        Some(Ok(())) => ExitCode::from(EXIT_NO),
        Some(Err(closed)) => ended(Err(closed)),
        None => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
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
    if let Err(error) = log::start(&config.logger, false) {
        return fail(&format!("{error:#}"), EXIT_FAILURE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(operation(config)),
        Err(error) => Err(error.into()),
    };
    log::finish();
    ended(done.and_then(|text| hand_over(&text)))
}

fn warn(warning: &str) {
    // Nothing can be done about a closed terminal.
    let _closed = writeln!(std::io::stderr(), "acme-proxy: warning: {warning}");
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _closed = writeln!(std::io::stderr(), "acme-proxy: {error}");
    ExitCode::from(code)
}
