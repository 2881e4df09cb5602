//! acme-proxy as a child process, with a `ca.json` made for it in a directory of its own.

#[path = "program.rs"]
mod program;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use self::program::{program, write};

/// The name that acme-proxy goes by. It resolves nowhere: clients are told its address.
pub(crate) const NAME: &str = "acmeproxy.demo.example.com";

/// What acme-proxy is to be configured with.
pub(crate) struct Settings<'a> {
    /// A fresh directory for configuration, store and log.
    pub(crate) directory: &'a Path,
    /// The CA's directory URL.
    pub(crate) ca_url: &'a str,
    /// The CA's root certificate, PEM.
    pub(crate) ca_root_pem: &'a str,
    /// The EAB key identifier.
    pub(crate) eab_kid: &'a str,
    /// The EAB MAC key, base64url.
    pub(crate) eab_hmac_key: &'a str,
    /// The DNS server for validation.
    pub(crate) resolver: SocketAddr,
    /// The port on which clients answer http-01.
    pub(crate) http_port: u16,
    /// `authority.config.limits`.
    pub(crate) limits: serde_json::Value,
    /// Its database; the embedded store if there is none.
    pub(crate) database: Option<Database<'a>>,
}

/// A database that it may share with others.
pub(crate) struct Database<'a> {
    /// `db.dataSource`.
    pub(crate) url: &'a str,
    /// Where it listens. All replicas have one port, and behind a load balancer they would have one address.
    pub(crate) address: SocketAddr,
}

/// A running acme-proxy. It is killed if this is dropped; [`AcmeProxy::stop`] is the polite way.
pub(crate) struct AcmeProxy {
    /// Its ACME listener.
    pub(crate) address: SocketAddr,
    /// Its `/metrics`.
    pub(crate) metrics_url: String,
    /// Its store, a file or a directory. It is not there if it has a database.
    pub(crate) store: PathBuf,
    log: PathBuf,
    child: Child,
    client: reqwest::Client,
}

impl AcmeProxy {
    /// Writes `ca.json`, starts the program, and waits until `/health` is answered under acme-proxy's own certificate,
    /// which the CA has issued to it by then.
    pub(crate) async fn start(settings: &Settings<'_>) -> anyhow::Result<Self> {
        let program = program()?;
        let directory = settings.directory;
        let address = match &settings.database {
            Some(database) => database.address,
            None => free_address()?,
        };
        let metrics = free_address()?;
        let store = directory.join("db");
        let root = directory.join("ca-root.pem");
        let config = directory.join("ca.json");
        let log = directory.join("acme-proxy.log");
        write(&root, settings.ca_root_pem)?;
        write(
            &config,
            &ca_json(settings, address, metrics.port(), &db(settings, &store)?, &root),
        )?;

        let output =
            std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(&program)
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut proxy = Self {
            address,
            metrics_url: format!("http://{metrics}/metrics"),
            store,
            log,
            child,
            client: client(settings.ca_root_pem, address)?,
        };
        proxy.wait_until_healthy().await?;
        Ok(proxy)
    }

    /// The directory URL that clients are given.
    pub(crate) fn directory_url(&self) -> String {
        format!("https://{NAME}:{}/acme/acme/directory", self.address.port())
    }

    /// An HTTP client that knows acme-proxy's address and trusts the CA's root only.
    pub(crate) fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("acme-proxy has ended")
    }

    async fn wait_until_healthy(&mut self) -> anyhow::Result<()> {
        let url = format!("https://{NAME}:{}/health", self.address.port());
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut last = String::new();
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "acme-proxy ended ({status}) before it was ready{}",
                    self.log_tail()
                );
            }
            match self.client.get(&url).send().await {
                Ok(response) if response.status().is_success() => {
                    let body = response.text().await.unwrap_or_default();
                    if body.contains("\"ok\"") {
                        return Ok(());
                    }
                    last = format!("/health says {body}");
                }
                Ok(response) => last = format!("/health answers {}", response.status()),
                Err(error) => last = format!("{error:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "acme-proxy was not ready after 60 seconds: {last}{}",
            self.log_tail()
        )
    }

    /// The end of the log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.reverse();
        format!("\n--- the end of acme-proxy's log ---\n{}", lines.join("\n"))
    }

    /// Asks it to stop, and insists after a minute.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        match timeout(Duration::from_secs(65), self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => bail!("acme-proxy did not end well: {:?}{}", status?, self.log_tail()),
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "acme-proxy did not end within 65 seconds of SIGTERM{}",
                    self.log_tail()
                )
            }
        }
    }
}

fn db(settings: &Settings<'_>, store: &Path) -> anyhow::Result<serde_json::Value> {
    let Some(database) = &settings.database else {
        return Ok(json!({ "type": "sled", "dataSource": store }));
    };
    let secret = settings.directory.join("secret");
    // Whoever can read it can reach the throwaway database, too.
    write(&secret, "0123456789abcdefghijklmnopqrstuvwxyz")?;
    Ok(json!({
        "type": "postgresql",
        "dataSource": database.url,
        "secret": format!("file:{}", secret.display()),
        "socket_directory": settings.directory.join("run"),
    }))
}

fn ca_json(
    settings: &Settings<'_>,
    address: SocketAddr,
    metrics: u16,
    db: &serde_json::Value,
    root: &Path,
) -> String {
    let config = json!({
        "address": address.to_string(),
        "dnsNames": [NAME],
        "commonName": NAME,
        "logger": { "format": "text" },
        "db": db,
        "authority": {
            "type": "externalcas",
            "config": {
                "ca_url": settings.ca_url,
                "ca_root": root,
                "account_email": "demo@example.com",
                "eab_kid": settings.eab_kid,
                "eab_hmac_key": settings.eab_hmac_key,
                "limits": settings.limits,
                "metrics": { "enabled": true, "port": metrics },
                "validation": {
                    "resolvers": [settings.resolver.to_string()],
                    "allow": ["127.0.0.0/8"],
                    "http_port": settings.http_port,
                },
            },
            "provisioners": [{ "type": "ACME", "name": "acme" }],
        },
    });
    format!("{config:#}\n")
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn client(root_pem: &str, address: SocketAddr) -> anyhow::Result<reqwest::Client> {
    let root = reqwest::Certificate::from_pem(root_pem.as_bytes())?;
    let builder = reqwest::Client::builder().no_proxy().resolve(NAME, address);
    Ok(builder
        .tls_certs_only([root])
        .timeout(Duration::from_secs(30))
        .build()?)
}
