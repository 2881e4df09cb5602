//! A PostgreSQL of its own (Debian's package `postgresql`), in a fresh directory, on a Unix socket only: never the
//! machine's cluster.
//!
//! A shell runs it, and waits for the end of its input, which this process holds open: however this process ends, the
//! server is stopped and its directory is removed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

/// Runs a server (`$@`), and ends it as a crash does: what it has acknowledged is on the disk. A line of input ends it as
/// an operator does, the next one starts it again.
const RUN: &str = r#"directory=$1; shift
while "$@" & server=$!; read -r line && kill -INT $server && wait $server; read -r line; do :; done
kill -QUIT $server 2>/dev/null; wait; rm -rf "$directory""#;

/// The program refuses to run as root.
const USER: &str = "postgres";

/// A running server. It ends when this is dropped.
pub(crate) struct Postgres {
    directory: PathBuf,
    input: Option<ChildStdin>,
    shell: Child,
}

impl Postgres {
    /// Makes a cluster and starts it, with these settings (`name=value`) beside the program's own.
    pub(crate) fn start(settings: &[&str]) -> anyhow::Result<Self> {
        Self::run(initdb, settings)
    }

    /// The same with its WAL, in small files, in a directory that this makes first.
    pub(crate) fn start_with_wal(
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let make = |data: &Path| {
            let directory = data.with_file_name("wal");
            prepare(&directory)?;
            give(&directory)?;
            let mut initdb = initdb(data)?;
            initdb.arg("--waldir").arg(directory).arg("--wal-segsize=1");
            Ok(initdb)
        };
        Self::run(make, settings)
    }

    /// Starts a standby of this one, with these settings beside those that lead it to this one.
    pub(crate) fn standby(&self, settings: &[&str]) -> anyhow::Result<Self> {
        let copy = |data: &Path| {
            let mut copy = program("pg_basebackup")?;
            copy.arg("--pgdata").arg(data).arg("--host").arg(&self.directory);
            copy.args([
                "--username",
                USER,
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ]);
            Ok(copy)
        };
        Self::run(copy, settings)
    }

    fn run(make: impl FnOnce(&Path) -> anyhow::Result<Command>, settings: &[&str]) -> anyhow::Result<Self> {
        let made = tempfile::Builder::new().prefix("pg").tempdir()?;
        let directory = made.path().to_owned();
        give(&directory)?;
        let data = directory.join("data");
        let output = make(&data)?
            .current_dir("/")
            .output()
            .context("PostgreSQL's programs can not be run")?;
        let why = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "there is no cluster: {why}");
        let mut server = program("postgres")?;
        server
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&directory)
            .args(["-c", "listen_addresses=", "-c", "max_connections=300"])
            .args(["-c", "shared_buffers=32MB"]);
        for setting in settings {
            server.args(["-c", setting]);
        }
        let log = fs::File::create(directory.join("log"))?;
        let mut shell = Command::new("sh")
            .args(["-c", RUN, "sh"])
            .arg(&directory)
            .arg(server.get_program())
            .args(server.get_args())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // What interrupts us ends the server by the end of its input, and not half of it before.
            .process_group(0)
            .spawn()
            .context("a shell can not be run")?;
        // From here on the shell removes it.
        let _ = made.keep();
        let started = Self {
            input: shell.stdin.take(),
            directory,
            shell,
        };
        started.becomes(true)?;
        Ok(started)
    }

    /// Stops it as an operator does who has no time: every connection is ended.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.tell()?;
        self.becomes(false)
    }

    /// Ends it at once, as a crash does; what it has acknowledged is on the disk.
    pub(crate) fn crash(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::QUIT);
        self.stop()
    }

    /// Starts it again.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        self.tell()?;
        self.becomes(true)
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("its shell has no input")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Waits until it lets people in, or does not.
    fn becomes(&self, ready: bool) -> anyhow::Result<()> {
        for _ in 0..600 {
            let mut asked = program("pg_isready")?;
            asked.arg("--quiet").arg("--host").arg(&self.directory);
            if asked.status()?.success() == ready {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("PostgreSQL does not start or stop: {}", self.log())
    }

    /// How to reach the one server that all tests of this process share.
    pub(crate) fn shared() -> anyhow::Result<Config> {
        static SHARED: Mutex<Option<Postgres>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match &*shared {
            Some(server) => server.config(USER),
            None => shared.insert(Self::start(&[])?).config(USER),
        })
    }

    /// A new, empty database on it.
    pub(crate) async fn fresh_database() -> anyhow::Result<Config> {
        new_database(&Self::shared()?).await
    }

    /// A new, empty database on this server.
    pub(crate) async fn database(&self) -> anyhow::Result<Config> {
        new_database(&self.config(USER)).await
    }

    /// How to reach a database of it.
    pub(crate) fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.directory).user(USER).dbname(database);
        config
    }

    /// Where its socket is: the `host` of a connection URL.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Tells it to stop as soon as nobody is connected any more; from now on nobody is let in.
    pub(crate) fn stop_softly(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid
            .lines()
            .next()
            .and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        // Without a server nothing is to be told.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.input = None;
        // It ends in any case.
        let _ = self.shell.wait();
    }
}

/// A client of this database.
pub(crate) async fn client(config: &Config) -> anyhow::Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// The URL of a database behind a socket, as `db.dataSource` has it.
pub(crate) fn url_of(config: &Config) -> String {
    let directories = config.get_hosts().iter().map(|host| match host {
        Host::Unix(path) => path.display().to_string().replace('/', "%2F"),
        Host::Tcp(name) => name.clone(),
    });
    let hosts: Vec<String> = directories.collect();
    let (user, database) = (config.get_user(), config.get_dbname());
    format!(
        "postgresql://{}@{}/{}",
        user.unwrap_or_default(),
        hosts.join(","),
        database.unwrap_or_default()
    )
}

async fn new_database(server: &Config) -> anyhow::Result<Config> {
    let name = format!("test_{:032x}", u128::from_ne_bytes(random()?));
    let made = client(server).await?;
    made.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let mut config = server.clone();
    config.dbname(&name);
    Ok(config)
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// Lets the server write to a directory.
pub(crate) fn give(directory: &Path) -> anyhow::Result<()> {
    if let Some((user, group)) = other_user()? {
        chown(directory, Some(user), Some(group))?;
    }
    Ok(())
}

fn initdb(data: &Path) -> anyhow::Result<Command> {
    let mut initdb = program("initdb")?;
    initdb
        .arg("--pgdata")
        .arg(data)
        .args(["--username", USER, "--auth=trust", "--encoding=UTF8"])
        .args(["--locale=C.UTF-8", "--no-sync", "--no-instructions"]);
    Ok(initdb)
}

/// The ids of the user and the group that the server runs as, if they are not ours.
fn other_user() -> anyhow::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |which| -> anyhow::Result<u32> {
        let id = Command::new("id").args([which, USER]).output()?;
        let id = String::from_utf8_lossy(&id.stdout).trim().parse();
        id.context("there is no user postgres: install Debian's package postgresql")
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

/// One of PostgreSQL's programs of the newest version that is installed, as a user that it agrees to.
fn program(name: &str) -> anyhow::Result<Command> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    let path = found
        .pop()
        .with_context(|| format!("{name} is missing: install Debian's package postgresql"))?;
    let Some((user, group)) = other_user()? else {
        return Ok(Command::new(path));
    };
    let mut command = Command::new("setpriv");
    command
        .args([
            &format!("--reuid={user}"),
            &format!("--regid={group}"),
            "--clear-groups",
        ])
        .arg(path);
    Ok(command)
}
