//! `ca.json`: the only place that knows it. It is step-ca's and the Go acme-proxy's file, read with their leniency
//! (docs/CONFIGURATION.md), and becomes the components' settings.
//!
//! Nothing is ignored in silence: every key without effect is a warning, every bad value an error with its key, its
//! value and the fix, and one run shows all of them. Reading writes nothing and asks no network.

mod claims;
mod db;
mod dns01;
#[cfg(test)]
mod documented;
mod external_account;
mod limits;
mod names;
mod place;
mod policy;
mod reader;
mod report;
mod secret;
mod server;
mod tree;
mod upstream;
mod upstreams;
mod validate;
mod value;

pub use upstreams::Upstream;
pub(crate) use value::GoDuration;
pub(crate) use value::{DnsServer, InvalidDnsServer};

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::config::place::Place;
pub use crate::config::place::Written;
pub use crate::config::place::place;
use crate::config::reader::Findings;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::Text;
use crate::config::reader::all;
use crate::config::value::ListenAddress;

/// A larger `ca.json` is a mistake: the file of a Go installation has about 1 kB.
const MAX_BYTES: u64 = 10_000_000;

/// The Go program's port for metrics, from its older README on.
const METRICS_PORT: u16 = 9123;

/// Everything that the daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which names are admitted.
    pub policy: crate::policy::Settings,
    /// Where and as whom we answer.
    pub server: crate::server::Settings,
    /// Where records are kept; or, where `database` keeps them, the directory of the control socket.
    pub store: crate::store::Settings,
    /// The database that keeps the records instead, if several replicas are to share them.
    pub database: Option<crate::store::postgres::Settings>,
    /// The CAs, the default one first.
    pub upstreams: Vec<Upstream>,
    /// How validation reaches the network.
    pub validate: crate::validate::Settings,
    /// How much is done at a time.
    pub worker: crate::worker::Settings,
    /// The request log.
    pub logger: Logger,
    /// The file of the audit log, if there is to be one.
    pub audit: Option<PathBuf>,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// How long the daemon serves on after it has been told to stop, so that load balancers notice.
    pub shutdown_delay: Duration,
    /// What the file says without effect, or at a risk: one line each, with file, line and key.
    pub warnings: Vec<String>,
    /// Whether the file itself holds secrets.
    pub holds_secrets: bool,
    /// Other files that hold secrets.
    pub secret_files: Vec<PathBuf>,
}

/// The request log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logger {
    /// How a request is logged.
    pub format: LogFormat,
    /// The header that carries a request's id.
    pub trace_header: String,
}

/// How a request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs.
    Text,
    /// One JSON object a line.
    Json,
    /// The Common Log Format as step-ca writes it.
    Common,
    /// Requests are not logged.
    Off,
}

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--resolver`: the DNS server for challenge look-ups.
    pub resolver: Option<SocketAddr>,
    /// `--acme-http-port`.
    pub http_port: Option<u16>,
    /// `--acme-tls-port`.
    pub tls_port: Option<u16>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The file was read, and can not be used.
    #[error("{}", lines.join("\n"))]
    Invalid {
        /// One line for each fault: file, line, key, value, fix.
        lines: Vec<String>,
    },
}

impl ConfigError {
    /// The exit code, the same as the Go program's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 1,
            Self::Invalid { .. } => 2,
        }
    }
}

impl Config {
    /// Reads `ca.json`, and the files that it refers secrets to.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, not only the first.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let (bytes, mode) = read_capped(path).map_err(|reason| ConfigError::Unreadable {
            file: file.clone(),
            reason,
        })?;
        let findings = Findings::default();
        let text = String::from_utf8_lossy(&bytes);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            findings.warn_line(
                None,
                "is not UTF-8; each byte that is not was replaced".to_owned(),
            );
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let document = tree::parse(text).map_err(|error| ConfigError::Invalid {
            lines: vec![format!("{file}:{}: {error}", error.line)],
        })?;
        if document.trailing_line.is_some() {
            let text = "everything from here on is ignored: the configuration ends before".to_owned();
            findings.warn_line(document.trailing_line, text);
        }
        let read = Section::read_root(document.root.as_ref(), &findings, |root| {
            read(root, overrides, mode)
        });
        let secrets = findings.take_secrets();
        let (errors, warnings) = findings.into_lines(&file);
        match read {
            Ok(config) if errors.is_empty() => Ok(Self {
                warnings,
                holds_secrets: secrets.contains(&None),
                secret_files: secrets.into_iter().flatten().collect(),
                ..config
            }),
            Ok(_) | Err(Reported) => Err(ConfigError::Invalid { lines: errors }),
        }
    }
}

fn read_capped(path: &Path) -> Result<(Vec<u8>, u32), String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file; give the path of your ca.json".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            "may not be read by this user; give the service's group read access (chmod 640)".to_owned()
        }
        _ => format!("can not be read: {error}"),
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err("is a directory; give the path of the ca.json inside".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err("is larger than 10 MB; give the path of your ca.json".to_owned()),
        false => Ok((bytes, metadata.permissions().mode())),
    }
}

/// Each part is read before any error is looked at, so that all errors are found.
fn read(root: &Section<'_>, overrides: &Overrides, mode: u32) -> Result<Config, Reported> {
    let logger = server::logger(root);
    let trace_header = logger
        .as_ref()
        .map(|logger| logger.trace_header.clone())
        .unwrap_or_default();
    let server = server::read(root, trace_header);
    let store = root.section("db", |db| db::read(root, db));
    let metrics_address = metrics_address(root);
    let ignored = [
        ("insecureAddress", "it is for SCEP and CRLs, which are not served"),
        (
            "crt",
            "nothing is signed here; for the daemon's own certificate write tls.certificate",
        ),
        (
            "key",
            "nothing is signed here; for the daemon's own key write tls.key",
        ),
        ("password", "no key here has a password; remove it from this file"),
        ("kms", "nothing is signed here"),
        ("ssh", "no SSH certificates are issued"),
        ("templates", "no SSH certificates are issued"),
    ];
    for (key, reason) in ignored {
        root.ignore(key, reason);
    }
    let monitoring = root.section("monitoring", monitoring);
    let crl = root.section("crl", crl);
    let authority = root.section("authority", |authority| {
        let mut names: Option<Vec<_>> = None;
        let of_config = authority.section("config", |config| {
            let upstreams = upstreams::read(config, mode);
            let all = upstreams.as_ref().ok().map(|upstreams| &upstreams.all);
            names = all.map(|all| all.iter().map(|upstream| upstream.name).collect());
            let validate = config.section("validation", |section| validate::read(section, overrides));
            let deadline = config.section("issuance", policy::issuance_deadline);
            let metrics = config.section("metrics", |section| metrics(section, metrics_address));
            let limits = config.section("limits", limits::read);
            let audit = config.section("audit", |section| {
                section.text("file")?.map(|file| absolute(&file)).transpose()
            });
            let cors = config.flag("cors");
            let balancers = config.section("proxy_protocol", server::balancers);
            let shutdown_delay = server::shutdown_delay(config);
            let blocked_keys = policy::blocked_keys(config);
            Ok((
                upstreams?,
                validate?,
                deadline?,
                metrics?,
                limits?,
                audit?,
                cors?,
                balancers?,
                shutdown_delay?,
                blocked_keys?,
            ))
        });
        let policy = policy::read(authority, names.as_deref(), mode);
        Ok((policy?, of_config?))
    });
    monitoring?;
    crl?;
    let (logger, mut server, (store, database)) = (logger?, server?, store?);
    let (mut policy, of_config) = authority?;
    let (
        upstreams,
        mut validate,
        deadline,
        metrics,
        limits,
        audit,
        cors,
        balancers,
        shutdown_delay,
        blocked_keys,
    ) = of_config;
    policy.issuance_deadline = deadline;
    policy.routes = upstreams.routes;
    let wishes = upstreams.all.iter();
    policy.wishes = wishes
        .map(|upstream| (upstream.name, upstream.wishes.clone()))
        .collect();
    policy.blocked_keys = blocked_keys;
    (policy.limits, server.limits) = limits;
    server.cors = cors.unwrap_or(false);
    server.balancers = balancers;
    let meta = |provisioner: &crate::policy::Provisioner| crate::server::Meta {
        name: provisioner.name.clone(),
        terms_of_service: provisioner.terms_of_service.clone(),
        website: provisioner.website.clone(),
        caa_identities: provisioner.caa_identities.clone(),
        external_account_required: provisioner.external_accounts.required,
        challenges: provisioner.challenges.clone(),
    };
    server.provisioners = policy.provisioners.iter().map(meta).collect();
    validate.own_listeners = [Some(server.address), metrics].into_iter().flatten().collect();
    if metrics.is_some_and(|metrics| metrics.port() == server.address.port()) {
        let place = root.place("address");
        return Err(place.error("has the port that metrics are served on; give metrics another one"));
    }
    let own_certificate_names = match &server.own_certificate {
        crate::server::OwnCertificate::FromUpstream { names, common_name } => {
            let mut names = names.clone();
            names.sort_by_key(|name| Some(name.as_str()) != common_name.as_deref());
            Some(names)
        }
        crate::server::OwnCertificate::Files { .. } => None,
    };
    let own_certificate_upstream = policy
        .routes
        .of_hosts(own_certificate_names.as_deref().unwrap_or_default())
        .map_err(|split| {
            root.place("dnsNames").error(format_args!(
                "{split} (authority.config.upstreams), and the daemon's own certificate comes from one; write \
                 tls.certificate and tls.key, or names of one"
            ))
        })?;
    let worker = crate::worker::Settings {
        own_certificate_names,
        own_certificate_upstream,
        validations: 256,
        issuances: 64,
        validation_attempts: 4,
        issuance_deadline: deadline,
    };
    Ok(Config {
        policy,
        server,
        store,
        database,
        upstreams: upstreams.all,
        validate,
        worker,
        logger,
        audit,
        metrics,
        shutdown_delay,
        warnings: Vec::new(),
        holds_secrets: false,
        secret_files: Vec::new(),
    })
}

/// `monitoring`: step-ca knows New Relic only, and refuses anything else.
fn monitoring(monitoring: &Section<'_>) -> Result<(), Reported> {
    const SEE: &str = "metrics are served to Prometheus, see authority.config.metrics";
    monitoring.ignore_all();
    match monitoring.text("type")? {
        Some(text) if !text.value.eq_ignore_ascii_case("newrelic") => {
            Err(text.wrong(format_args!("is no monitoring that is served; remove it: {SEE}")))
        }
        Some(_) | None => {
            monitoring.warn(format_args!("has no effect here: {SEE}"));
            Ok(())
        }
    }
}

fn crl(crl: &Section<'_>) -> Result<(), Reported> {
    const REASON: &str = "the CA publishes its CRL itself";
    let enabled = crl.flag("enabled");
    for key in ["generateOnRevoke", "idpURL"] {
        crl.ignore(key, REASON);
    }
    let durations = all(["cacheDuration", "renewPeriod"].into_iter().map(|key| {
        let written = crl.parsed::<GoDuration>(key)?;
        if written.is_some() {
            crl.place(key).warn(format_args!("has no effect here: {REASON}"));
        }
        Ok(())
    }));
    if enabled? == Some(true) {
        let place = crl.place("enabled");
        return Err(place.error(format_args!("true: {REASON}; write false")));
    }
    durations.map(drop)
}

/// A path as the operating system finds it. A relative one counts from the working directory, as for the Go program,
/// and that is seldom what was meant.
fn absolute(text: &Text<'_>) -> Result<PathBuf, Reported> {
    let path = Path::new(text.value);
    let absolute =
        std::path::absolute(path).map_err(|error| text.wrong(format_args!("is no path: {error}")))?;
    if path.is_relative() {
        text.place.warn(format_args!(
            "is a relative path, taken as {}; write it in full",
            absolute.display()
        ));
    }
    Ok(absolute)
}

/// Step-ca's own key for metrics, which says where to listen.
fn metrics_address<'a>(root: &Section<'a>) -> Result<Option<(SocketAddr, Text<'a>)>, Reported> {
    let Some(text) = root.text("metricsAddress")? else {
        return Ok(None);
    };
    let ListenAddress(address) = text.parsed()?;
    Ok(Some((address, text)))
}

fn metrics(
    section: &Section<'_>,
    address: Result<Option<(SocketAddr, Text<'_>)>, Reported>,
) -> Result<Option<SocketAddr>, Reported> {
    let source = section.text("dataSource");
    let enabled = section.flag("enabled");
    let port = section.number::<u16>("port", "a port between 1 and 65535");
    let (address, source, enabled, port) = (address?, source?, enabled?, port?);
    if let Some(source) = &source {
        source
            .place
            .warn("has no effect here: the inventory of certificates is in the store");
    }
    // Go leaves 0 in a port that is not configured.
    let port = port.filter(|(port, _)| *port != 0);
    let wanted = source.is_some() || port.is_some() || address.is_some();
    match (enabled.unwrap_or(wanted), address) {
        (false, Some((_, text))) => {
            text.place
                .warn("has no effect here: authority.config.metrics.enabled is false");
            Ok(None)
        }
        (false, None) => Ok(None),
        (true, Some((address, _))) => {
            if let Some((_, place)) = port.filter(|(port, _)| *port != address.port()) {
                place.warn(format_args!("has no effect here: metricsAddress says {address}"));
            }
            Ok(Some(address))
        }
        (true, None) => {
            let port = port.map_or(METRICS_PORT, |(port, _)| port);
            section.place("port").warn(format_args!(
                "metrics are served on 127.0.0.1:{port} only, where the Go program listened on every address; \
                 for other hosts write \"metricsAddress\": \":{port}\" at the top level"
            ));
            Ok(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
        }
    }
}
