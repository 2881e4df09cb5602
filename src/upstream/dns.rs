//! The CA's own dns-01 challenges (RFC 8555 §8.4), solved by an external program by the contract of lego's `exec`
//! provider: `PROGRAM present|cleanup FQDN VALUE`, exit status 0 for success.
//!
//! No shell is involved, and nothing that the CA sent reaches the program unchecked. What has been published is kept in
//! memory only: after a restart it is published again, which is harmless.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::RecordType;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::Instant;

use crate::acme::identifier::DnsName;
use crate::acme::problem::cleaned;
use crate::upstream::Dns01;
use crate::upstream::Error;
use crate::upstream::SetupError;

/// How long one call may go on starting programs: an order with many names goes on at the next call.
const PUBLISHING_BUDGET: Duration = Duration::from_secs(60);

/// One run of the program.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);

/// The program's output that is kept for the log.
const MAX_OUTPUT_BYTES: usize = 2000;

/// One question to one server.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// A delegation of `_acme-challenge` that is longer goes in circles.
const MAX_ALIASES: usize = 8;

/// Shorter values of the program's environment are not taken for secrets when its output is logged.
const MIN_SECRET_CHARS: usize = 6;

/// A TXT record that the CA is to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    name: String,
    value: String,
}

impl Record {
    /// The record for a challenge of this name.
    pub fn new(name: &DnsName, value: String) -> Self {
        Self {
            name: format!("_acme-challenge.{name}."),
            value,
        }
    }
}

/// How far the records of an order have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// All of them are visible.
    Visible,
    /// Look again after this time.
    Spreading(Duration),
}

/// Publishes records and takes them back.
pub struct Solver {
    settings: Dns01,
    resolver: TokioResolver,
    published: Mutex<HashMap<String, Published>>,
}

/// What the program has been told for one order.
struct Published {
    records: Vec<PublishedRecord>,
    since: Instant,
}

struct PublishedRecord {
    wanted: Record,
    /// Where the record was put: aliases have been followed.
    at: Record,
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Solver {
    /// A solver.
    ///
    /// # Errors
    ///
    /// [`SetupError::Dns`] if no servers are given and the system's resolver can not be read.
    pub fn new(settings: Dns01) -> Result<Self, SetupError> {
        let unusable = |e: hickory_resolver::net::NetError| SetupError::Dns(cleaned(&e.to_string(), 200));
        let mut builder = match settings.servers.as_slice() {
            [] => TokioResolver::builder_tokio().map_err(unusable)?,
            servers => TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers.iter().map(name_server).collect()),
                TokioRuntimeProvider::default(),
            ),
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = DNS_TIMEOUT;
        options.attempts = 1;
        Ok(Self {
            settings,
            resolver: builder.build().map_err(unusable)?,
            published: Mutex::default(),
        })
    }

    /// Publishes the records of an order that have not been published yet, and looks whether all of them can be seen.
    /// A wildcard and its base name have two records under one name.
    ///
    /// # Errors
    ///
    /// Transient if the program fails, or the records stay invisible for longer than configured; then they are taken
    /// back, and the next call begins anew.
    pub async fn publish(&self, order: &str, records: &[Record]) -> Result<Publication, Error> {
        let known = self.published().remove(order);
        let mut published = known.unwrap_or_else(|| Published {
            records: Vec::new(),
            since: Instant::now(),
        });
        let begun = Instant::now();
        for wanted in records {
            if published.records.iter().any(|known| known.wanted == *wanted) {
                continue;
            }
            if begun.elapsed() > PUBLISHING_BUDGET {
                self.published().insert(order.to_owned(), published);
                return Ok(Publication::Spreading(Duration::from_secs(1)));
            }
            let at = Record {
                name: self.canonical(&wanted.name).await,
                value: wanted.value.clone(),
            };
            let outcome = self.run("present", &at).await;
            // A program that has failed may have published all the same.
            published.records.push(PublishedRecord {
                wanted: wanted.clone(),
                at,
            });
            published.since = Instant::now();
            if let Err(detail) = outcome {
                self.take_back(&published).await;
                return Err(Error::transient(detail));
            }
        }
        let Some(missing) = self.missing(&published).await else {
            self.published().insert(order.to_owned(), published);
            return Ok(Publication::Visible);
        };
        if published.since.elapsed() > self.settings.propagation_timeout {
            let seconds = self.settings.propagation_timeout.as_secs();
            self.take_back(&published).await;
            return Err(Error::transient(format!(
                "the TXT record of {missing} is not visible after {seconds} s"
            )));
        }
        self.published().insert(order.to_owned(), published);
        Ok(Publication::Spreading(
            self.settings.polling_interval.max(Duration::from_secs(1)),
        ))
    }

    /// Takes back what was published for the order, as far as this process knows. Failures are logged.
    pub async fn clean_up(&self, order: &str) {
        let published = self.published().remove(order);
        if let Some(published) = published {
            self.take_back(&published).await;
        }
    }

    fn published(&self) -> std::sync::MutexGuard<'_, HashMap<String, Published>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_back(&self, published: &Published) {
        for PublishedRecord { at: record, .. } in &published.records {
            if let Err(detail) = self.run("cleanup", record).await {
                tracing::warn!(
                    name = record.name,
                    error = detail,
                    "a TXT record may be left behind"
                );
            }
        }
    }

    /// Where the record has to be: `_acme-challenge` is often delegated by CNAME, and lego gives its programs the
    /// target. A target that is no host name is left alone.
    async fn canonical(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for _ in 0..MAX_ALIASES {
            let Ok(answer) = self.resolver.lookup(name.as_str(), RecordType::CNAME).await else {
                break;
            };
            let alias = answer.answers().iter().find_map(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.to_ascii().to_ascii_lowercase()),
                _ => None,
            });
            match alias.filter(|alias| is_plain(alias)) {
                Some(alias) => name = alias,
                None => break,
            }
        }
        name
    }

    /// The first name whose record can not be seen.
    async fn missing(&self, published: &Published) -> Option<String> {
        for PublishedRecord { at: record, .. } in &published.records {
            if !self.is_visible(record).await {
                return Some(record.name.clone());
            }
        }
        None
    }

    async fn is_visible(&self, record: &Record) -> bool {
        let Ok(answer) = self.resolver.lookup(record.name.as_str(), RecordType::TXT).await else {
            return false;
        };
        answer.answers().iter().any(|found| match &found.data {
            RData::TXT(txt) => txt.txt_data.concat() == record.value.as_bytes(),
            _ => false,
        })
    }

    /// Runs the program, with the configured environment and `PATH` and nothing else of ours.
    async fn run(&self, action: &str, record: &Record) -> Result<(), String> {
        let program = self.settings.program.display();
        let environment = self
            .settings
            .environment
            .iter()
            .map(|(name, value)| (name, value.reveal()));
        let child = Command::new(&self.settings.program)
            .args([action, &record.name, &record.value])
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
        let finished = tokio::time::timeout(PROGRAM_DEADLINE, finish(&mut child)).await;
        let Ok(finished) = finished else {
            kill_group(group);
            let seconds = PROGRAM_DEADLINE.as_secs();
            return Err(format!("{program} {action} was killed after {seconds} s"));
        };
        let (status, output) = finished.map_err(|e| format!("{program} {action}: {e}"))?;
        let output = self.redacted(&output);
        tracing::debug!(action, name = record.name, %status, output, "the dns01_txt program has run");
        match status.success() {
            true => Ok(()),
            false => Err(format!("{program} {action} {}: {status}: {output}", record.name)),
        }
    }

    /// Programs print their environment when they are debugged.
    fn redacted(&self, output: &[u8]) -> String {
        let mut output = String::from_utf8_lossy(output).into_owned();
        for secret in self.settings.environment.values() {
            if secret.reveal().chars().count() >= MIN_SECRET_CHARS {
                output = output.replace(secret.reveal(), "[redacted]");
            }
        }
        cleaned(output.trim(), MAX_OUTPUT_BYTES)
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut udp = ConnectionConfig::udp();
    udp.port = address.port();
    let mut tcp = ConnectionConfig::tcp();
    tcp.port = address.port();
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

/// Whether a name is safe as a program's argument, even if the program hands it to a shell.
fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    name.len() > 1 && name.len() <= 254 && !name.starts_with('-') && name.bytes().all(plain)
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
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::upstream::Secret;

    fn solver(script: &str) -> (tempfile::TempDir, Solver) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("dns.sh");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = BTreeMap::from([("DNS_TOKEN".to_owned(), Secret::new("hunter22".to_owned()))]);
        let settings = Dns01 {
            program,
            environment,
            servers: vec!["127.0.0.1:9".parse().unwrap()],
            propagation_timeout: Duration::ZERO,
            polling_interval: Duration::from_secs(1),
        };
        (directory, Solver::new(settings).unwrap())
    }

    fn record() -> Record {
        Record::new(&"www.example.com".parse().unwrap(), "value".to_owned())
    }

    #[tokio::test]
    async fn the_program_gets_its_own_environment_and_legos_arguments() {
        let (directory, solver) = solver(r#"echo "$@" > "${0%/*}/args"; env > "${0%/*}/env""#);
        solver.run("present", &record()).await.unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("args"), "present _acme-challenge.www.example.com. value\n");
        let environment = read("env");
        assert!(environment.contains("DNS_TOKEN=hunter22\n") && environment.contains("PATH="));
        assert!(!environment.contains("CARGO"), "{environment}");
    }

    #[tokio::test]
    async fn i9_a_failing_programs_output_is_told_without_its_secrets() {
        let (_directory, solver) = solver("echo \"token $DNS_TOKEN\" >&2; exit 3");
        let error = solver.run("present", &record()).await.unwrap_err();
        assert!(
            error.contains("token [redacted]") && error.contains("3"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_talks_without_end_neither_blocks_nor_fills_memory() {
        let (_directory, solver) = solver("head -c 1000000 /dev/zero | tr '\\0' x; exit 1");
        let error = solver.run("present", &record()).await.unwrap_err();
        assert!(error.len() < MAX_OUTPUT_BYTES + 500);
    }

    #[tokio::test]
    async fn records_that_stay_invisible_are_taken_back() {
        let (directory, solver) = solver(r#"echo "$1" >> "${0%/*}/actions""#);
        let outcome = solver.publish("order", &[record()]).await;
        assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
        let actions = std::fs::read_to_string(directory.path().join("actions")).unwrap();
        assert_eq!(actions, "present\ncleanup\n");
    }

    #[test]
    fn t4_an_alias_that_a_shell_would_act_on_is_not_plain() {
        assert!(is_plain("_acme-challenge.www.example.net."));
        for odd in ["$(reboot).example.", "a b.", "-rf.", "a;b.", "", "."] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
