//! `acme-proxy check`: what the daemon would do with a configuration; `--deep`: and what that stands on.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::app::deep::{self, Check as What, Finding, Level};
use crate::cli::serve::Network;
use crate::cli::{EXIT_FAILURE, fail};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  acme-proxy check /etc/acme-proxy/ca.json
  acme-proxy check --deep /etc/acme-proxy/ca.json
  acme-proxy check --deep --json /etc/acme-proxy/ca.json";

/// What can be said to the check.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Check {
    /// The configuration
    config: PathBuf,
    /// Looks at files, names, ports, DNS, the CA, the account there and the DNS provider, too; spends no EAB, and writes
    /// nothing but one TXT record, which it takes back
    #[arg(long)]
    deep: bool,
    /// Prints each finding as one line of JSON
    #[arg(long, requires = "deep")]
    json: bool,
    #[command(flatten)]
    network: Network,
}

/// Checks. Exits with 2 if there is a failure.
pub(crate) fn check(check: &Check) -> ExitCode {
    let config = match Config::load(&check.config, &check.network.overrides()) {
        Ok(config) => config,
        Err(error) if check.json => {
            let lines = error.to_string();
            let fix = "correct the file";
            let failure = |line| Finding::failure(What::Configuration, "", line, fix);
            let findings: Vec<Finding> = lines.lines().map(failure).collect();
            let _closed = print(&findings, true);
            return ExitCode::from(error.exit_code());
        }
        Err(error) => return fail(&error, error.exit_code()),
    };
    let done = match check.deep {
        true => diagnose(check, config),
        false => Ok(writeln!(std::io::stdout(), "{}", config.report()).is_ok()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILURE),
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}

/// Whether there is no failure.
fn diagnose(check: &Check, config: Config) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let findings = runtime.block_on(deep::diagnose(&check.config, config));
    // A look-up of the system's that hangs can not be ended, and nobody waits for it.
    runtime.shutdown_background();
    print(&findings, check.json)?;
    Ok(findings.iter().all(|finding| finding.level != Level::Failure))
}

fn print(findings: &[Finding], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for finding in findings {
        match json {
            true => writeln!(out, "{}", finding.to_json())?,
            false => writeln!(out, "{finding}")?,
        }
    }
    if json {
        return Ok(());
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    writeln!(
        out,
        "\n{} ok, {} warnings, {} failures. No External Account Binding was used.",
        count(Level::Ok),
        count(Level::Warning),
        count(Level::Failure)
    )
}
