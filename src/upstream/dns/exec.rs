//! `exec`: an external program by the contract of lego's provider of this name: `PROGRAM present|cleanup FQDN VALUE`, or
//! `PROGRAM present|cleanup -- DOMAIN TOKEN KEYAUTH` in the mode `RAW`; exit status 0 for success. No shell is involved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::process::Command;

use crate::upstream::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;

/// One run of the program.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program's output that is kept for the log.
const MAX_OUTPUT_BYTES: usize = 2000;

#[derive(Debug)]
struct Exec {
    program: PathBuf,
    raw: bool,
    environment: BTreeMap<String, Secret>,
}

/// Reads the variables. What is not lego's is the program's environment.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    let path = variables.required("PATH", "the full path of the program that sets the TXT record");
    let raw = match variables.text("MODE").as_deref() {
        None => Ok(false),
        Some("RAW") => Ok(true),
        Some(_) => Err(variables.wrong("MODE", "is no mode; write \"RAW\" or nothing")),
    };
    variables.ignored(&["SEQUENCE_INTERVAL"]);
    let program = PathBuf::from(path?);
    if !program.is_absolute() || !program.is_file() {
        return Err(variables.wrong(
            "PATH",
            "is not the full path of a file; write e.g. \"/opt/acme-proxy/dns.sh\"",
        ));
    }
    Ok(Arc::new(Exec {
        program,
        raw: raw?,
        environment: variables.rest(),
    }))
}

#[async_trait]
impl Provider for Exec {
    /// Runs the program, with the configured environment and `PATH` and nothing else of ours.
    async fn apply(&self, action: Action, record: &Record, _: &Web) -> Result<(), String> {
        let program = self.program.display();
        let action = match action {
            Action::Present => "present",
            Action::Withdraw => "cleanup",
        };
        let environment = self
            .environment
            .iter()
            .map(|(name, value)| (name, value.reveal()));
        let arguments = match self.raw {
            false => vec![&record.name, &record.value],
            true => vec![&record.domain, &record.token, &record.key_authorization],
        };
        let child = Command::new(&self.program)
            .arg(action)
            // A token may begin with a dash.
            .args(self.raw.then_some("--"))
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|e| format!("{program} can not be run: {e}"))?;
        let group = child.id();
        let finished = tokio::time::timeout(DEADLINE, finish(&mut child)).await;
        let Ok(finished) = finished else {
            kill_group(group);
            let seconds = DEADLINE.as_secs();
            return Err(format!("{program} {action} was killed after {seconds} s"));
        };
        let (status, output) = finished.map_err(|e| format!("{program} {action}: {e}"))?;
        match status.success() {
            true => Ok(()),
            false => {
                let output = String::from_utf8_lossy(&output);
                Err(format!("{program} {action}: {status}: {}", output.trim()))
            }
        }
    }
}

async fn finish(child: &mut Child) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (status, stdout, stderr) = tokio::join!(child.wait(), beginning_of(stdout), beginning_of(stderr));
    Ok((status?, [stdout, stderr].concat()))
}

/// Reads to the end, so that the program never blocks on a full pipe, and keeps the beginning.
async fn beginning_of(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let mut buffer = Vec::with_capacity(MAX_OUTPUT_BYTES);
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend(buffer.drain(..).take(room));
    }
    kept
}

/// The program may be a script that waits for another one.
fn kill_group(leader: Option<u32>) {
    let leader = leader
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(leader) = leader {
        // It may have ended by itself in the meantime.
        let _ = rustix::process::kill_process_group(leader, Signal::KILL);
    }
}
