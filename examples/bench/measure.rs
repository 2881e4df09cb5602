//! What acme-proxy has used: from `/proc`, from its own metrics, and from its store on disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

use crate::proxy::AcmeProxy;

/// `/proc` counts CPU time in hundredths of a second on every Linux that Rust runs on (`USER_HZ`).
const TICK_MS: f64 = 10.0;

/// What a process has used so far.
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_ms: f64,
    /// Resident memory now.
    pub(crate) rss_mb: f64,
    /// The most that it has been.
    pub(crate) peak_mb: f64,
    /// `acme_proxy_store_syncs_total`, if there is such a metric.
    pub(crate) syncs: Option<f64>,
    /// `acme_proxy_store_commits_total`, if there is such a metric.
    pub(crate) commits: Option<f64>,
    /// What the store takes on disk.
    pub(crate) store_bytes: f64,
}

impl Usage {
    /// Looks.
    pub(crate) async fn of(proxy: &AcmeProxy) -> anyhow::Result<Self> {
        let pid = proxy.pid()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let metrics = page(proxy).await?;
        Ok(Self {
            cpu_ms: cpu_ticks(&stat).context("/proc/PID/stat")? * TICK_MS,
            rss_mb: kilobytes(&status, "VmRSS:").context("/proc/PID/status")? / 1024.0,
            peak_mb: kilobytes(&status, "VmHWM:").context("/proc/PID/status")? / 1024.0,
            syncs: metric(&metrics, "acme_proxy_store_syncs_total"),
            commits: metric(&metrics, "acme_proxy_store_commits_total"),
            store_bytes: match proxy.store.try_exists()? {
                true => disk_bytes(&proxy.store)?,
                false => 0.0,
            },
        })
    }

    /// What has been used since; memory is not a difference.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let difference = |after: Option<f64>, before: Option<f64>| Some(after? - before.unwrap_or_default());
        Self {
            cpu_ms: self.cpu_ms - before.cpu_ms,
            rss_mb: self.rss_mb,
            peak_mb: self.peak_mb,
            syncs: difference(self.syncs, before.syncs),
            commits: difference(self.commits, before.commits),
            store_bytes: self.store_bytes - before.store_bytes,
        }
    }
}

/// User and system time of a process and its children, those that have ended and been waited for among them.
pub(crate) fn family_cpu_ms(pid: &str) -> anyhow::Result<f64> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut ticks: f64 = numbers(&own, 11).context("/proc/PID/stat")?.take(4).sum();
    for entry in std::fs::read_dir("/proc")? {
        // It may have ended; then its parent has its time, or will.
        let stat = std::fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent == Some(pid) {
            ticks += cpu_ticks(&stat).context("/proc/PID/stat")?;
        }
    }
    Ok(ticks * TICK_MS)
}

/// proc(5): fields 14 and 15; the second one, in parentheses, may hold spaces.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut times = numbers(stat, 11)?;
    Some(times.next()? + times.next()?)
}

/// What comes so many fields after the second one.
fn numbers(stat: &str, skipped: usize) -> Option<impl Iterator<Item = f64>> {
    let (_, rest) = stat.rsplit_once(')')?;
    Some(
        rest.split_whitespace()
            .skip(skipped)
            .map_while(|field| field.parse().ok()),
    )
}

/// The machine, and how busy it is: no figure means anything without it.
pub(crate) fn machine() -> anyhow::Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| path.to_owned());
    let (cpus, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("CPU", |model| model.trim_start_matches(['\t', ' ', ':']));
    let count = std::thread::available_parallelism()?;
    let gigabytes = kilobytes(&memory, "MemTotal:").context("/proc/meminfo")? / 1024.0 / 1024.0;
    let (kernel, load) = (read("/proc/sys/kernel/osrelease")?, read("/proc/loadavg")?);
    let load: Vec<&str> = load.split(' ').take(3).collect();
    Ok(format!(
        "Machine: {count} x {model}, {gigabytes:.0} GB, Linux {}; load average {}",
        kernel.trim(),
        load.join(" ")
    ))
}

/// The daemon's metrics.
async fn page(proxy: &AcmeProxy) -> anyhow::Result<String> {
    let answer = proxy.client().get(&proxy.metrics_url).send().await?;
    Ok(answer.text().await?)
}

/// One series of the daemon's metrics, by name and labels; 0 if it is not there yet.
pub(crate) async fn figure(proxy: &AcmeProxy, series: &str) -> anyhow::Result<f64> {
    let page = page(proxy).await?;
    let value = page.lines().find_map(|line| line.strip_prefix(series));
    Ok(value.map_or(Ok(0.0), |value| value.trim().parse())?)
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The sum of a counter's series.
fn metric(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

/// What is allocated, not what is written at the ends of holes.
fn disk_bytes(path: &Path) -> anyhow::Result<f64> {
    let metadata =
        std::fs::symlink_metadata(path).with_context(|| format!("no store at {}", path.display()))?;
    if !metadata.is_dir() {
        let blocks = u32::try_from(metadata.blocks()).context("a store of over 2 TB")?;
        return Ok(f64::from(blocks) * 512.0);
    }
    let mut sum = 0.0;
    for entry in std::fs::read_dir(path)? {
        sum += disk_bytes(&entry?.path())?;
    }
    Ok(sum)
}
