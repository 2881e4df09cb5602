//! Pebble and acme-proxy, as child processes that end when this program does, even when it is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::sleep;

use crate::settings::Settings;

/// How often the children are looked at while all is well.
const LOOK: Duration = Duration::from_secs(1);

/// The children, with their logs.
#[derive(Default)]
pub(crate) struct Children(Vec<(Child, PathBuf)>);

impl Children {
    /// Starts Pebble.
    pub(crate) fn start_pebble(&mut self, settings: &Settings<'_>) -> anyhow::Result<()> {
        let config = settings.write("pebble.json", &settings.for_pebble())?;
        let mut command = ending_with_us(Path::new("pebble"));
        command.arg("-config").arg(config);
        command.args(["-dnsserver", &settings.dns.address.to_string()]);
        command.args(settings.options.strict.then_some("-strict"));
        // A CA that takes as proved what was proved once, which here is whatever it is told.
        let believing = [("PEBBLE_VA_ALWAYS_VALID", "1"), ("PEBBLE_AUTHZREUSE", "100")];
        command.env("PEBBLE_VA_NOSLEEP", "1").envs(believing);
        self.start(command, settings.directory.join("pebble.log"))
    }

    /// Starts acme-proxy, the one that cargo has put beside the examples' directory.
    pub(crate) fn start_acme_proxy(&mut self, settings: &Settings<'_>, ca_json: &Path) -> anyhow::Result<()> {
        let own = std::env::current_exe()?;
        let target = own.parent().and_then(Path::parent);
        let program = target.context("cargo's target directory")?.join("acme-proxy");
        let mut command = ending_with_us(&program);
        command.arg(ca_json);
        self.start(command, settings.directory.join("acme-proxy.log"))
    }

    fn start(&mut self, mut command: Command, log: PathBuf) -> anyhow::Result<()> {
        let output = std::fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("setpriv, of the package util-linux")?;
        self.0.push((child, log));
        Ok(())
    }

    /// An error as soon as one of them has ended.
    pub(crate) fn all_run(&mut self) -> anyhow::Result<()> {
        for (child, log) in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("{}: {status}\n{}", log.display(), std::fs::read_to_string(&log)?);
            }
        }
        Ok(())
    }

    /// Waits until one of them has ended.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        loop {
            self.all_run()?;
            sleep(LOOK).await;
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // It may have ended already.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }
}

/// The tests kill this program, which then can not end anything by itself: the kernel does.
fn ending_with_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
