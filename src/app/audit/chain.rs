//! The lines of the audit log: JSON, each with the hash of the one before and its own, so that none can be changed, taken
//! out or put in unnoticed. What stands before `,"hash":` in a line is what its hash is of (SHA-256).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::acme::certificate::Fingerprint;
use crate::app::log::{Fields, printable};

/// What the first line of all names as the one before.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands between what is hashed and the hash.
const SEAM: &str = ",\"hash\":\"";

/// The longest line, in bytes.
pub(crate) const MAX_LINE: u64 = 1024 * 1024;

/// How far a chain has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The number of its latest line, counted from 1.
    pub(crate) seq: u64,
    /// The hash of that line.
    pub(crate) hash: String,
}

impl Link {
    /// Before the first line.
    pub(crate) fn none() -> Self {
        Self {
            seq: 0,
            hash: NOTHING.to_owned(),
        }
    }

    /// The line after this one, without its end.
    pub(crate) fn next(&self, time: Timestamp, event: &str, fields: &Fields) -> (String, Self) {
        let seq = self.seq.saturating_add(1);
        let mut line = format!(
            "{{\"seq\":{seq},\"time\":\"{time}\",\"event\":{}",
            Value::from(event)
        );
        for (name, value) in fields {
            line.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
        }
        line.push_str(&format!(",\"prev\":\"{}\"", self.hash));
        let line = printable(&line);
        let hash = Fingerprint::of(line.as_bytes()).to_string();
        (format!("{line}{SEAM}{hash}\"}}"), Self { seq, hash })
    }

    /// Reads a line, without its end: what it says that the one before was, and itself.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(line: &str) -> Result<(String, Self), String> {
        #[derive(Deserialize)]
        struct Line {
            seq: u64,
            prev: String,
        }
        let Some((hashed, rest)) = line.rsplit_once(SEAM) else {
            return Err("is no line of an audit log: it has no hash".to_owned());
        };
        let hash = Fingerprint::of(hashed.as_bytes()).to_string();
        if rest.strip_suffix("\"}") != Some(&hash) {
            return Err("was changed: its hash is not that of what it says".to_owned());
        }
        let line = serde_json::from_str(line);
        let Line { seq, prev } = line.map_err(|error| format!("is no line of an audit log: {error}"))?;
        Ok((prev, Self { seq, hash }))
    }
}

/// Checks the files of one log, the oldest first, and says what is in them.
///
/// # Errors
///
/// The first line that is not as it was written, and why.
pub fn verify(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut first = None;
    let mut latest: Option<Link> = None;
    for path in files {
        let file = File::open(path).with_context(|| format!("{} can not be read", path.display()))?;
        let mut reader = BufReader::new(file);
        for number in 1_u64.. {
            let mut bytes = Vec::new();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes);
            read.with_context(|| format!("{} can not be read", path.display()))?;
            if bytes.is_empty() {
                break;
            }
            latest = Some(checked(path, number, &bytes, latest.as_ref())?);
            first = first.or(latest.as_ref().map(|link| link.seq));
        }
    }
    let (Some(first), Some(Link { seq, hash })) = (first, latest) else {
        bail!("there is no event in the files");
    };
    let count = seq.saturating_sub(first).saturating_add(1);
    let before = match first {
        1 => String::new(),
        first => format!("Not looked at: the events before number {first}, which stand in older files.\n"),
    };
    Ok(format!(
        "ok: {count} events, number {first} to {seq}\nhash of the last one: {hash}\n{before}"
    ))
}

fn checked(path: &Path, number: u64, bytes: &[u8], before: Option<&Link>) -> anyhow::Result<Link> {
    let place = format!("{}:{number}", path.display());
    let Some(line) = bytes.strip_suffix(b"\n") else {
        bail!("{place}: the line is cut off; the daemon puts it aside when it starts");
    };
    let line = std::str::from_utf8(line).with_context(|| format!("{place}: is no text"))?;
    let (prev, link) = Link::read(line).map_err(|why| anyhow::anyhow!("{place}: the line {why}"))?;
    let none = Link::none();
    match before {
        None => ensure!(
            link.seq != 1 || prev == none.hash,
            "{place}: the first event says that there was one before"
        ),
        Some(_) if prev == none.hash => bail!(
            "{place}: another log begins here: the daemon did not find the file before when it started, or it was exchanged"
        ),
        Some(before) => {
            let expected = before.seq.saturating_add(1);
            ensure!(
                link.seq == expected && prev == before.hash,
                "{place}: the line does not follow the one before: number {} comes where {expected} should, so lines were \
                 taken out, put in or moved, or a file is missing",
                link.seq
            );
        }
    }
    Ok(link)
}
