//! `acme-proxy ca.json`: serves until a signal says otherwise.

use std::ffi::OsString;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::app::{self, App, Reloads, Sockets, log};
use crate::cli::{EXIT_FAILURE, EXIT_USAGE, fail};
use crate::config::{Config, Overrides};

/// Variables of the Go program that mean nothing here.
const DEAD_VARIABLES: [(&str, &str); 5] = [
    ("STEP_CA_TOKEN", "there is no linked CA"),
    ("STEP_CA_CONTEXT", "write the path of ca.json on the command line"),
    (
        "STEP_LOGGER_LOG_REAL_IP",
        "headers that claim another address are not believed",
    ),
    ("STEPDEBUG", "write ACME_PROXY_LOG=debug"),
    ("STEP_PROF_ADDR", "there is no profiler"),
];

/// How long the end waits for threads that read files.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// The Go program's variable for `--quiet`.
const QUIET: &str = "STEP_CA_QUIET";

/// What can be said to the daemon.
#[derive(Args)]
pub(crate) struct Serve {
    /// The configuration [default: $STEPPATH/config/ca.json]
    config: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
    /// Writes the process id here, and removes the file at the end
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Logs warnings and errors only
    #[arg(long, help = "Logs warnings and errors only [env: STEP_CA_QUIET=]")]
    quiet: bool,
    #[command(flatten)]
    dead: Dead,
}

/// What can be said of the network to the daemon, and to `check`.
#[derive(Args)]
pub(crate) struct Network {
    /// DNS server for challenge look-ups, instead of validation.resolvers
    #[arg(long, value_name = "HOST:PORT", value_parser = app::dns_server)]
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
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            resolver: self.resolver,
            http_port: self.acme_http_port,
            tls_port: self.acme_tls_port,
        }
    }
}

/// Serves.
pub(crate) fn serve(flags: Serve) -> ExitCode {
    let Some(path) = flags.config.clone().or_else(default_config) else {
        return fail(
            &"no configuration given; run acme-proxy /path/to/ca.json",
            EXIT_USAGE,
        );
    };
    let quiet = match told_by(QUIET) {
        Ok(told) => told || flags.quiet,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    // While this is the only thread.
    let sockets = Sockets::inherited();
    let overrides = flags.network.overrides();
    let config = match Config::load(&path, &overrides) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.exit_code()),
    };
    if let Err(error) = log::start(&config.logger, quiet) {
        return fail(&format!("{error:#}"), EXIT_FAILURE);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for flag in flags.dead.given() {
        tracing::warn!("{flag} has no effect here");
    }
    for (variable, why) in DEAD_VARIABLES {
        if std::env::var_os(variable).is_some() {
            tracing::warn!("{variable} has no effect here: {why}");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = sockets.and_then(|sockets| {
        let runtime = runtime?;
        let served = serve_until_signal(config, sockets, &path, overrides, flags.pidfile.as_deref());
        let ended = runtime.block_on(served);
        // What still reads a file that hangs is left behind.
        runtime.shutdown_timeout(LEFT_BEHIND);
        ended
    });
    log::finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), EXIT_FAILURE),
    }
}

async fn serve_until_signal(
    config: Config,
    sockets: Sockets,
    path: &Path,
    overrides: Overrides,
    pidfile: Option<&Path>,
) -> anyhow::Result<()> {
    // From here on no signal ends the process at once. A SIGHUP that comes during the start is carried out after it.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let url = config.server.url();
    let roots = config.server.roots.own.iter();
    let roots: Vec<String> = roots.map(|root| root.fingerprint().to_string()).collect();
    // Half a start is what a crash leaves, too: the next one goes on from there.
    let app = tokio::select! {
        app = App::build(config, sockets) => app?,
        _ = interrupt.recv() => return not_started(),
        _ = terminate.recv() => return not_started(),
    };
    let _pidfile = pidfile.map(PidFile::write).transpose()?;
    tracing::info!(
        "Starting acme-proxy/{} ({}/{})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    tracing::info!("Config file: {}", path.display());
    tracing::info!("The primary server URL is {url}");
    if !roots.is_empty() {
        tracing::info!("Root certificates are available at {url}/roots.pem");
    }
    for fingerprint in roots {
        tracing::info!("X.509 Root Fingerprint: {fingerprint}");
    }
    if let Some(address) = app.metrics_address() {
        tracing::info!("Serving metrics on {address} ...");
    }
    tracing::info!("Serving HTTPS on {} ...", app.acme_address()?);
    let (stopper, stop) = watch::channel(false);
    let (ask, wanted) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                // If one is asked for already, it will see the latest file, too.
                _ = hangup.recv() => drop(ask.try_send(())),
            }
        }
        stopper.send_replace(true);
        // Keeps the channel open until the end.
        stopper.closed().await;
    });
    let path = path.to_owned();
    let load = Arc::new(move || Config::load(&path, &overrides));
    app.run_with(stop, Reloads { wanted, load }).await
}

fn not_started() -> anyhow::Result<()> {
    tracing::info!("told to end before the start was over");
    Ok(())
}

/// A variable that stands for a flag, in Go's spellings (`strconv.ParseBool`). Empty is false, as there.
fn told_by(variable: &str) -> Result<bool, String> {
    let value = std::env::var_os(variable).unwrap_or_default();
    match value.to_str() {
        Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(_) | None => Err(format!(
            "{variable} is neither true nor false; write {variable}=true, or take it out of the environment"
        )),
    }
}

fn default_config() -> Option<PathBuf> {
    std::env::var_os("STEPPATH").map(|step| Path::new(&step).join("config/ca.json"))
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
