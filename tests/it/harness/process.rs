//! The daemon as a child process, with a `ca.json` and a store in a directory of its own, on fixed ports: it can be
//! killed and started again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::ca;
use crate::harness::metrics;

/// The name that the daemon goes by. It resolves nowhere: clients are told its address.
pub(crate) const NAME: &str = "acmeproxy.test.example.com";

/// How long anything that must happen may take. Only a daemon that is stuck takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A `ca.json`, and the directory that it stands in.
pub(crate) struct Installation {
    /// Where it serves ACME.
    pub(crate) address: SocketAddr,
    /// Where it serves metrics.
    pub(crate) metrics: SocketAddr,
    directory: tempfile::TempDir,
    root_pem: String,
}

impl Installation {
    /// For a CA, and for applicants who are found by this DNS server and answer http-01 on this port.
    pub(crate) fn new(ca: &ca::Running, resolver: SocketAddr, http_port: u16) -> Self {
        let installation = Self {
            address: free_address(),
            metrics: free_address(),
            directory: tempfile::Builder::new()
                .prefix("acme-proxy-it-")
                .tempdir()
                .unwrap(),
            root_pem: ca.root_pem.clone(),
        };
        let root = installation.path("root.pem");
        std::fs::write(&root, &ca.root_pem).unwrap();
        let config = json!({
            "address": installation.address.to_string(),
            "metricsAddress": installation.metrics.to_string(),
            "dnsNames": [NAME],
            "commonName": NAME,
            "db": { "type": "sled", "dataSource": installation.store() },
            "authority": {
                "type": "externalcas",
                "config": {
                    "ca_url": ca.directory_url,
                    "ca_root": root,
                    "account_email": "test@example.com",
                    "eab_kid": ca.eab.kid,
                    "eab_hmac_key": ca.eab.hmac_key,
                    "validation": {
                        "resolvers": [resolver.to_string()],
                        "allow": ["127.0.0.0/8"],
                        "http_port": http_port,
                    },
                },
                "provisioners": [{ "type": "ACME", "name": "acme", "challenges": ["http-01"] }],
            },
        });
        installation.write_config(config.to_string().as_bytes());
        installation
    }

    /// Changes `ca.json`.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut config = serde_json::from_slice(&std::fs::read(self.config()).unwrap()).unwrap();
        change(&mut config);
        self.write_config(config.to_string().as_bytes());
    }

    /// Writes `ca.json`, which only its owner may read: it holds the EAB.
    pub(crate) fn write_config(&self, bytes: &[u8]) {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(self.config()).unwrap().write_all(bytes).unwrap();
    }

    /// A file in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("ca.json")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("db")
    }

    /// All that the daemon has written to its standard output and error, over all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the log has these words so often.
    pub(crate) async fn says(&self, words: &str, times: usize) {
        let said = timeout(PATIENCE, async {
            while self.log().matches(words).count() < times {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let said = said.await;
        assert!(said.is_ok(), "{words:?} is not {times} times in:\n{}", self.log());
    }

    /// The program, in an environment that says nothing to it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acme-proxy"));
        for variable in [
            "STEPPATH",
            "STEP_CA_QUIET",
            "ACME_PROXY_LOG",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "HTTPS_PROXY",
            "https_proxy",
        ] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Starts the daemon.
    pub(crate) fn start(&self) -> Daemon {
        self.start_with(|_| {})
    }

    /// Starts the daemon with more flags or variables.
    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = self.command();
        command.arg(self.config());
        change(&mut command);
        self.spawned(command)
    }

    /// Starts the daemon through another program, which becomes it.
    pub(crate) fn start_by(&self, launcher: impl FnOnce(&str) -> Command) -> Daemon {
        let mut command = launcher(env!("CARGO_BIN_EXE_acme-proxy"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        self.spawned(command)
    }

    /// Starts the daemon with a pipe as its standard error, which is read by the caller, or by nobody.
    pub(crate) fn start_with_pipe(&self) -> (Daemon, ChildStderr) {
        let mut command = self.command();
        command
            .arg(self.config())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pipe = child.stderr.take().unwrap();
        let (metrics, log) = (self.metrics, self.path("log"));
        (Daemon { child, metrics, log }, pipe)
    }

    fn spawned(&self, mut command: Command) -> Daemon {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let log: File = log.unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Daemon {
            child: command.spawn().unwrap(),
            metrics: self.metrics,
            log: self.path("log"),
        }
    }

    /// Runs the program to its end, which must come by itself.
    pub(crate) async fn run(&self, change: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.command();
        change(&mut command);
        ended(command).await
    }

    /// One of the operator's commands, such as `eab` or `upstream`.
    pub(crate) fn operator(&self, command: &str, arguments: &[&str]) -> Command {
        let mut program = self.command();
        program.arg(command).args(arguments).arg(self.config());
        program
    }

    /// What an operator's command prints, which must succeed.
    pub(crate) async fn prints(&self, command: &str, arguments: &[&str]) -> String {
        let output = ended(self.operator(command, arguments)).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What an operator's command says on its standard error, which must fail.
    pub(crate) async fn complains(&self, command: &str, arguments: &[&str]) -> String {
        let output = ended(self.operator(command, arguments)).await;
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        assert_eq!(text(&output.stdout), "");
        text(&output.stderr)
    }

    /// The URL that clients are given.
    pub(crate) fn directory_url(&self) -> String {
        format!("https://{NAME}:{}/acme/acme/directory", self.address.port())
    }

    /// A client that knows the daemon's address, and trusts the CA's root.
    pub(crate) fn client(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.root_pem.as_bytes()).unwrap();
        self.client_builder().tls_certs_only([root]).build().unwrap()
    }

    /// A client that takes any certificate, as `curl --insecure` does.
    pub(crate) fn trusting_client(&self) -> reqwest::Client {
        self.client_builder()
            .tls_danger_accept_invalid_certs(true)
            .build()
            .unwrap()
    }

    /// A connection, under a certificate that leads to the CA's root.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.root_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(NAME.try_into().unwrap(), stream).await.unwrap()
    }

    fn client_builder(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .tls_info(true)
            .resolve(NAME, self.address);
        builder.timeout(Duration::from_secs(30))
    }
}

/// A running daemon, killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    metrics: SocketAddr,
    log: PathBuf,
}

impl Daemon {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("the daemon has ended")
    }

    /// How many files and connections it has open.
    pub(crate) fn open_files(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.unwrap().count()
    }

    /// Whether the process is there.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        assert!(self.runs(), "it ended by itself:\n{}", self.log_tail());
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// From now on it does nothing; what is sent to it waits in its sockets. Its threads stop one by one.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.pid());
        let goes_on = || {
            let mut threads = std::fs::read_dir(&threads).unwrap();
            threads.any(|thread| {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
                // A thread that has ended in the meantime does nothing, too.
                stat.is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") T"))
            })
        };
        while goes_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// After [`Self::freeze`] it goes on.
    pub(crate) fn wake(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it ends, which must come by itself.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the daemon goes on:\n{}", self.log_tail()),
        }
    }

    /// SIGTERM, and its end, which must be a good one.
    pub(crate) async fn stop(self) {
        self.terminate();
        let log = self.log.clone();
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", tail(&log));
    }

    /// Waits until it serves requests.
    pub(crate) async fn serves(&mut self) {
        self.wait_for("it serves", |_| true).await;
    }

    /// Waits until it has all that it needs.
    pub(crate) async fn is_well(&mut self) {
        self.wait_for("health is ok", |health| health["status"] == "ok")
            .await;
    }

    /// A page of the metrics listener.
    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        metrics::page(self.metrics, path).await
    }

    /// What the metrics listener says about its health.
    pub(crate) async fn health(&self) -> Option<Value> {
        serde_json::from_str(&self.page("/health").await?).ok()
    }

    async fn wait_for(&mut self, what: &str, enough: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            assert!(self.runs(), "it ended before {what}:\n{}", self.log_tail());
            last = self.health().await;
            if last.as_ref().is_some_and(&enough) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "waited for long that {what}; it says {last:?}\n{}",
            self.log_tail()
        );
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// Runs a program to its end, which must come by itself.
async fn ended(mut program: Command) -> Output {
    let ended = timeout(PATIENCE, program.output()).await;
    ended.expect("the program goes on").unwrap()
}

/// What a program writes.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn tail(log: &PathBuf) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// An address that stays free while nobody listens on it: below the ports that the system gives out by itself, so that
/// no connection takes it while the daemon is down.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    // Test runs at the same time start in different places.
    let start = u16::try_from(std::process::id() * 37 % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().unwrap();
        }
    }
    panic!("no port is free");
}
