//! The programs that a test starts: daemons, which end with the test, and commands, which end by themselves or are
//! ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

/// How long a command may take. The slowest, three names with a busy machine, takes some twenty seconds.
const COMMAND_SECONDS: &str = "180";

/// How long a daemon may take to start.
const START: Duration = Duration::from_secs(60);

/// How long a daemon may take to end once it has been asked to.
const END: Duration = Duration::from_secs(40);

/// How often a daemon is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A program of a Debian package, with nothing of our own environment but the path. Daemons are where a user's path may
/// not lead.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env_clear().stdin(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// A program in the background. It is killed when this is dropped.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program of this name, which is in this package. What it says goes to a file, after what is there.
    pub(crate) fn start(name: &'static str, package: &str, command: &mut Command, log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("{}", not_installed(name, package)),
            _ => panic!("{name} can not be run: {error}"),
        });
        Self { name, child, log }
    }

    /// Waits until the answer to a question to the daemon is there.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        for _ in 0..START.as_millis() / LOOK.as_millis() {
            if let Some(answer) = ask() {
                return answer;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} has ended: {status}\n{}", self.name, self.log());
            }
            sleep(LOOK);
        }
        panic!(
            "{}: {what} is not there after a minute\n{}",
            self.name,
            self.log()
        );
    }

    /// Asks the daemon to read its configuration again, in the way of Apache.
    pub(crate) fn reload(&self) {
        kill_process(self.pid(), Signal::USR1).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// Asks the daemon to end, and waits until it has.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.stop()
    }

    /// The same, for whoever keeps it: it ends its own children, which nobody does who kills it.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        for _ in 0..END.as_millis() / LOOK.as_millis() {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(LOOK);
        }
        panic!("{} does not end\n{}", self.name, self.log());
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What a command has said, on both streams: `Ok` if it has succeeded.
pub(crate) fn run(command: &Command, package: &str) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut bounded = program("timeout");
    bounded
        .args(["--kill-after=5", COMMAND_SECONDS])
        .arg(&name)
        .args(command.get_args());
    for (variable, value) in command.get_envs() {
        bounded.envs(value.map(|value| (variable, value)));
    }
    let output = bounded.output().expect("timeout, of the package coreutils");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    match output.status.code() {
        Some(0) => Ok(said),
        Some(127) => panic!("{}", not_installed(&name, package)),
        _ => Err(format!("{name}: {}\n{said}", output.status)),
    }
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A port that nobody listens on, TCP or UDP, and that no test of this process has been given. It is below those that
/// the system gives to outgoing connections, so nobody takes it before the program for which it is has started.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() * 16 % 20_000).unwrap() + 10_000;
    for _ in 0..2_000 {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("2,000 ports are taken");
}

fn not_installed(name: &str, package: &str) -> String {
    format!("{name} is not installed; run: sudo apt-get install {package}")
}
