//! The driver: one disk after another, each cut off from power while a writer is at work.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use acme_proxy::acme::id::OrderId;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::check;
use crate::journal;

/// Where the disks are: in memory, so that the cut is the only thing that can happen to them.
const BASE: &str = "/dev/shm";
const DISK_BYTES: u64 = 768 << 20;

/// How the power is cut.
pub(crate) struct Options {
    cycles: u64,
    restarts: u64,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            cycles: 20,
            restarts: 2,
        };
        for pair in words.chunks(2) {
            match pair {
                ["--cycles", number] => options.cycles = number.parse().context("--cycles takes a number")?,
                ["--restarts", number] => {
                    options.restarts = number.parse().context("--restarts takes a number")?
                }
                _ => bail!(crate::USAGE),
            }
        }
        Ok(options)
    }
}

/// Cuts the power as often as told.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    require_means()?;
    let base = Base(PathBuf::from(BASE).join(format!("powercut.{}", std::process::id())));
    fs::create_dir(&base.0).with_context(|| format!("making {}", base.0.display()))?;
    let (mut acknowledged, mut lost, mut unopenable) = (0, 0, 0);
    for cycle in 1..=options.cycles {
        let told = live_and_cut(&base.0, options.restarts)?;
        acknowledged += journal::read(&told).acknowledged;
        fs::write(base.0.join("journal"), &told)?;
        let checked = check_copy(&base.0)?;
        match checked.status.code() {
            Some(0) => continue,
            Some(code) if code == i32::from(check::LOST) => lost += 1,
            _ => unopenable += 1,
        }
        let why = String::from_utf8_lossy(&checked.stderr).into_owned();
        let why: Vec<&str> = why.lines().rev().take(5).collect();
        say(&format!("cycle {cycle}: {}: {}", checked.status, why.join(" | ")))?;
    }
    say(&format!(
        "power cuts: {}, acknowledged: {acknowledged}, lost: {lost}, unopenable: {unopenable}",
        options.cycles
    ))?;
    Ok(match lost + unopenable == 0 && acknowledged > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("writing to standard output")
}

fn require_means() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "mounting a file system takes root: run this as root"
    );
    ensure!(
        Path::new("/dev/loop-control").exists(),
        "there are no loop devices here (no /dev/loop-control)"
    );
    ensure!(Path::new(BASE).is_dir(), "there is no {BASE}");
    command("mkfs.ext4", &["-V"]).context("mkfs.ext4 is needed (package e2fsprogs)")?;
    command("mount", &["--version"]).context("mount is needed")?;
    Ok(())
}

/// The directory of all files, which goes when the run ends.
struct Base(PathBuf);

impl Drop for Base {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A mounted image, unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        command(
            "mount",
            &["-o", "loop", &image.to_string_lossy(), &at.to_string_lossy()],
        )?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = command("umount", &[&self.0.to_string_lossy()]) {
            eprintln!("powercut: {error:#}");
        }
    }
}

/// Lets writers live on a new disk, the last of them until the cut. Gives the journal; the copy of the disk is in
/// `base`.
fn live_and_cut(base: &Path, restarts: u64) -> Result<String> {
    let (image, copy) = (base.join("disk"), base.join("copy"));
    // Another process's mount namespace may still hold the latest ones, and with them their files.
    drop(fs::remove_file(&image));
    drop(fs::remove_file(&copy));
    File::create(&image)?.set_len(DISK_BYTES)?;
    command("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
    let disk = Mounted::new(&image, &base.join("before"))?;
    let mut told = String::new();
    for _ in 0..random_below(restarts + 1) {
        let mut writer = Writer::start(&disk.0.join("db"))?;
        thread::sleep(Duration::from_millis(200 + random_below(800)));
        told.push_str(&writer.kill()?);
    }
    let mut writer = Writer::start(&disk.0.join("db"))?;
    thread::sleep(Duration::from_millis(700 + random_below(2000)));
    writer.stop()?;
    command(
        "cp",
        &[
            "--sparse=always",
            &image.to_string_lossy(),
            &copy.to_string_lossy(),
        ],
    )?;
    told.push_str(&writer.kill()?);
    Ok(told)
}

fn check_copy(base: &Path) -> Result<std::process::Output> {
    let disk = Mounted::new(&base.join("copy"), &base.join("after"))?;
    let mut check = Command::new(std::env::current_exe()?);
    let check = check
        .arg("check")
        .arg(disk.0.join("db"))
        .arg(base.join("journal"));
    check.output().context("running the checker")
}

/// A running writer. Killed when it is dropped.
struct Writer {
    child: Child,
    journal: Option<JoinHandle<std::io::Result<String>>>,
}

impl Writer {
    fn start(directory: &Path) -> Result<Self> {
        let mut write = Command::new(std::env::current_exe()?);
        let write = write.arg("write").arg(directory).stdout(Stdio::piped());
        let mut child = write.spawn().context("starting the writer")?;
        let mut pipe = child.stdout.take().context("the writer has a pipe")?;
        let journal = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        Ok(Self {
            child,
            journal: Some(journal),
        })
    }

    /// Stops it where it is. Returns when none of its threads runs any more.
    fn stop(&mut self) -> Result<()> {
        if let Some(ended) = self.child.try_wait()? {
            bail!("the writer has ended by itself: {ended}");
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        for _ in 0..2000 {
            if self.is_stopped()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("the writer does not stop")
    }

    fn is_stopped(&self) -> Result<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            if !state.starts_with(['T', 't']) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends it, and gives all that it has said.
    fn kill(&mut self) -> Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        let journal = self.journal.take().context("a writer is killed once")?;
        match journal.join() {
            Ok(text) => Ok(text?),
            Err(_) => bail!("the journal's reader panicked"),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}

fn random_below(bound: u64) -> u64 {
    let id = OrderId::random();
    let (half, _) = id.as_bytes().split_at(8);
    half.iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
        % bound.max(1)
}
