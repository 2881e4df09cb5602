//! The command line (COMPAT section 2): `acme-proxy ca.json` serves, `acme-proxy check ca.json` only looks, `acme-proxy eab` keeps external
//! account keys, `acme-proxy upstream` the accounts at the CAs.

mod eab;
mod upstream;

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::app::control::Request;
use crate::app::{App, control};
use crate::cli::eab::Eab;
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

#[derive(Args)]
struct Serve {
    /// The configuration [default: $STEPPATH/config/ca.json]
    config: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
    /// Writes the process id here, and removes the file at the end
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Logs warnings and errors only
    #[arg(long, env = "STEP_CA_QUIET")]
    quiet: bool,
    #[command(flatten)]
    dead: Dead,
}

#[derive(Args)]
struct Network {
    /// DNS server for challenge look-ups, instead of validation.resolvers
    #[arg(long, value_name = "ADDRESS:PORT")]
    resolver: Option<SocketAddr>,
    /// Port on which http-01 is answered; for tests only, needs --insecure
    #[arg(long, value_name = "PORT", requires = "insecure")]
    acme_http_port: Option<u16>,
    /// Port on which tls-alpn-01 is answered; for tests only, needs --insecure
    #[arg(long, value_name = "PORT", requires = "insecure")]
    acme_tls_port: Option<u16>,
    /// Permits the flags that are for tests only
    #[arg(long)]
    insecure: bool,
}

/// Flags of the Go program that mean nothing here: accepted, so that unit files keep working, and named in a warning.
#[derive(Args)]
struct Dead {
    #[arg(long, hide = true)]
    password_file: Option<OsString>,
    #[arg(long, hide = true)]
    ssh_host_password_file: Option<OsString>,
    #[arg(long, hide = true)]
    ssh_user_password_file: Option<OsString>,
    #[arg(long, hide = true)]
    issuer_password_file: Option<OsString>,
    #[arg(long, hide = true)]
    token: Option<OsString>,
    #[arg(long, hide = true)]
    context: Option<OsString>,
    #[arg(long, hide = true)]
    acme_strict_fqdn: bool,
}

impl Dead {
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--password-file", self.password_file.is_some()),
            ("--ssh-host-password-file", self.ssh_host_password_file.is_some()),
            ("--ssh-user-password-file", self.ssh_user_password_file.is_some()),
            ("--issuer-password-file", self.issuer_password_file.is_some()),
            ("--token", self.token.is_some()),
            ("--context", self.context.is_some()),
            ("--acme-strict-fqdn (always so here)", self.acme_strict_fqdn),
        ];
        flags
            .into_iter()
            .filter(|(_, given)| *given)
            .map(|(flag, _)| flag)
            .collect()
    }
}

impl Network {
    fn overrides(&self) -> Overrides {
        Overrides {
            resolver: self.resolver,
            http_port: self.acme_http_port,
            tls_port: self.acme_tls_port,
        }
    }
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
        Some(Command::Upstream(upstream)) => run_upstream(upstream),
        None => serve(&cli.serve),
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
    let config = match Config::load(path, &Overrides::default()) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.exit_code()),
    };
    // Without a daemon, the audit events are this process's.
    start_logging(&config.logger, false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(control::carry_out(config, request)),
        Err(error) => Err(error.into()),
    };
    match done.and_then(|text| hand_over(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}

fn serve(flags: &Serve) -> ExitCode {
    let Some(path) = flags.config.clone().or_else(default_config) else {
        return fail(
            &"no configuration given; run acme-proxy /path/to/ca.json",
            EXIT_USAGE,
        );
    };
    let config = match Config::load(&path, &flags.network.overrides()) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.exit_code()),
    };
    start_logging(&config.logger, flags.quiet);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for flag in flags.dead.given() {
        tracing::warn!("{flag} has no effect here");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve_until_signal(config, flags.pidfile.as_deref())),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}

async fn serve_until_signal(config: Config, pidfile: Option<&Path>) -> anyhow::Result<()> {
    let names: Vec<String> = config.server.names.iter().map(ToString::to_string).collect();
    let app = App::build(config).await?;
    let _pidfile = pidfile.map(PidFile::write).transpose()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), address = %app.acme_address()?, names = names.join(" "),
        metrics = ?app.metrics_address(), "serving ACME"
    );
    let (stopper, stop) = watch::channel(false);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hangup.recv() => tracing::warn!("SIGHUP: the configuration is read at the start only; restart to change it"),
            }
        }
        stopper.send_replace(true);
        // Keeps the channel open until the end.
        stopper.closed().await;
    });
    app.run(stop).await
}

fn default_config() -> Option<PathBuf> {
    std::env::var_os("STEPPATH").map(|step| Path::new(&step).join("config/ca.json"))
}

fn start_logging(logger: &Logger, quiet: bool) {
    let level = if quiet { "warn" } else { "info" };
    let requests = match logger.format {
        LogFormat::Off => ",acme_proxy::server::router=off",
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

/// The process id in a file, for as long as the process runs.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let write = || {
            std::fs::write(path, format!("{}\n", std::process::id()))?;
            // The umask is for secrets; whoever watches over the daemon reads this file.
            std::fs::set_permissions(path, Permissions::from_mode(0o644))
        };
        write().with_context(|| format!("--pidfile {} can not be written", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, "the pid file can not be removed");
        }
    }
}
