//! One acme-proxy daemon, its way to the database, and what can be done to both.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::ca;
use crate::cluster::DATABASE;
use crate::link::{Gate, Link, Seat};
use crate::program::{program, write};

/// The name that all replicas go by.
pub(crate) const NAME: &str = "acmeproxy.chaos.example.com";

/// What is the same for all replicas.
pub(crate) struct Settings<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) ca: &'a ca::Running,
    pub(crate) resolver: SocketAddr,
    pub(crate) http_port: u16,
    pub(crate) seats: [Seat; 2],
}

/// A daemon, which may be running or not.
pub(crate) struct Replica {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    ready_url: String,
    links: Vec<Link>,
    child: Option<Child>,
}

impl Replica {
    /// Configures a daemon that will listen here. It does not run yet.
    pub(crate) async fn new(settings: &Settings<'_>, address: SocketAddr) -> anyhow::Result<Self> {
        let directory = settings.directory.join(address.ip().to_string());
        std::fs::create_dir(&directory)?;
        let mut links = Vec::new();
        for seat in &settings.seats {
            links.push(Link::to(seat.clone()).await?);
        }
        let hosts: Vec<String> = links.iter().map(|link| link.address.to_string()).collect();
        let metrics = std::net::TcpListener::bind((address.ip(), 0))?
            .local_addr()?
            .port();
        let (root, secret) = (directory.join("root.pem"), directory.join("secret"));
        write(&root, &settings.ca.root_pem)?;
        // Whoever can read it can reach the throwaway database, too.
        write(&secret, "0123456789abcdefghijklmnopqrstuvwxyz")?;
        let config = json!({
            "address": address.to_string(),
            "dnsNames": [NAME],
            "commonName": NAME,
            "logger": { "format": "text" },
            "db": {
                "type": "postgresql",
                "dataSource": format!(
                    "postgresql://postgres@{}/{DATABASE}?sslmode=disable&target_session_attrs=read-write",
                    hosts.join(",")
                ),
                "secret": format!("file:{}", secret.display()),
                "pool": 8,
                "socket_directory": directory.join("run"),
            },
            "authority": {
                "type": "externalcas",
                "config": {
                    "ca_url": settings.ca.directory_url,
                    "ca_root": root,
                    "account_email": "chaos@example.com",
                    "eab_kid": settings.ca.eab.kid,
                    "eab_hmac_key": settings.ca.eab.hmac_key,
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
        let path = directory.join("ca.json");
        write(&path, &format!("{config:#}\n"))?;
        Ok(Self {
            program: program()?,
            config: path,
            log: directory.join("log"),
            ready_url: format!("http://127.0.0.1:{metrics}/readyz"),
            links,
            child: None,
        })
    }

    /// Starts it, if it does not run.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.runs()? {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Whether it was started and has ended without being told to.
    pub(crate) fn has_ended_by_itself(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.is_some() && !self.runs()?)
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("a replica can not be killed")?;
        }
        Ok(())
    }

    /// SIGTERM; false if it has to be killed after a minute, or does not end well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<bool> {
        let Some(mut child) = self.child.take() else {
            return Ok(true);
        };
        let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return Ok(true);
        };
        kill_process(pid, Signal::TERM)?;
        match timeout(Duration::from_secs(60), child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => {
                child.kill().await?;
                Ok(false)
            }
        }
    }

    /// What its network does from now on.
    pub(crate) fn network(&self, gate: Gate) {
        for link in &self.links {
            link.set(gate);
        }
    }

    /// Whether it says that it serves, before this time is over.
    pub(crate) async fn is_ready_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let Ok(client) = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
        else {
            return false;
        };
        while Instant::now() < deadline {
            let answer = client.get(&self.ready_url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// The end of its log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default()
            .join("\n")
    }
}
