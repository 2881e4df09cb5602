//! `exec`: an external program by the contract of lego's provider of this name: `PROGRAM present|cleanup FQDN VALUE`, or
//! `PROGRAM present|cleanup -- DOMAIN TOKEN KEYAUTH` in the mode `RAW`; exit status 0 for success. No shell is involved. It
//! runs once at a time: lego's users have written it for that.

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

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;

/// One run of the program.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program's output that is looked through for secrets before the log gets its beginning.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

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

    fn is_sequential(&self) -> bool {
        true
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::upstream::dns::desk::Desk;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::record;
    use crate::upstream::dns::scripted::withdraw;

    fn exec(script: &str, raw: bool) -> (tempfile::TempDir, Exec) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("dns.sh");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = BTreeMap::from([("DNS_TOKEN".to_owned(), Secret::new("hunter22".to_owned()))]);
        let exec = Exec {
            program,
            raw,
            environment,
        };
        (directory, exec)
    }

    #[tokio::test]
    async fn the_program_gets_its_own_environment_and_legos_arguments() {
        let (directory, exec) = exec(r#"echo "$@" >> "${0%/*}/args"; env > "${0%/*}/env""#, false);
        present(&exec).await.unwrap();
        withdraw(&exec).await.unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let name = "_acme-challenge.www.example.com.";
        assert_eq!(
            read("args"),
            format!("present {name} ours\ncleanup {name} ours\n")
        );
        let environment = read("env");
        assert!(environment.contains("DNS_TOKEN=hunter22\n") && environment.contains("PATH="));
        assert!(!environment.contains("CARGO"), "{environment}");
    }

    #[tokio::test]
    async fn in_raw_mode_the_program_gets_domain_token_and_key_authorization() {
        let (directory, exec) = exec(r#"echo "$@" > "${0%/*}/args""#, true);
        present(&exec).await.unwrap();
        let arguments = std::fs::read_to_string(directory.path().join("args")).unwrap();
        assert_eq!(arguments, "present -- www.example.com token token.thumbprint\n");
    }

    #[tokio::test]
    async fn i9_a_failing_programs_output_is_told_without_its_secrets() {
        let (_directory, exec) = exec("echo \"token $DNS_TOKEN\" >&2; exit 3", false);
        let path = exec.program.display().to_string();
        let variables = [("EXEC_PATH", path.as_str()), ("DNS_TOKEN", "hunter22")];
        let variables = variables.map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())));
        let reading = crate::upstream::dns::known::read("exec", variables.into()).unwrap();
        let desk = Desk::new(reading.settings.unwrap(), Web::new(None).unwrap());
        let error = desk.apply(Action::Present, &record()).await.unwrap_err().detail;
        assert!(
            error.contains("token [redacted]") && error.contains("3"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_talks_without_end_neither_blocks_nor_fills_memory() {
        let (_directory, exec) = exec("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", false);
        let error = present(&exec).await.unwrap_err();
        assert!(error.len() < MAX_OUTPUT_BYTES + 500);
    }
}
