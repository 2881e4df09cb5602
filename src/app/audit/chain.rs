//! The lines of the audit log: JSON, each with the hash of the one before and its own, so that none can be changed, taken
//! out or put in unnoticed. What stands before `,"hash":` in a line is what its hash is of (SHA-256).
//!
//! A file that can only be appended to keeps a line that a crash or a full disk has cut off. The next line then names it by
//! its hash ([`CUT_OFF`]), so that it is as much a part of the chain as any other.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;

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

/// The event that says that what stands before it was cut off.
pub(crate) const CUT_OFF: &str = "line cut off";

/// The field of that event with the hash of what is left.
pub(crate) const REST: &str = "rest.sha256";

/// How a line begins.
const BEGIN: &[u8] = b"{\"seq\":";

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

    /// Reads a line, without its end.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(line: &[u8]) -> Result<Line, String> {
        let foreign = |why: &dyn std::fmt::Display| format!("is no line of an audit log: {why}");
        let text = std::str::from_utf8(line).map_err(|error| foreign(&error))?;
        let Some((hashed, rest)) = text.rsplit_once(SEAM) else {
            return Err(foreign(&"it has no hash"));
        };
        let hash = Fingerprint::of(hashed.as_bytes()).to_string();
        if rest.strip_suffix("\"}") != Some(&hash) {
            return Err("was changed: its hash is not that of what it says".to_owned());
        }
        let said: Said = serde_json::from_str(text).map_err(|error| foreign(&error))?;
        Ok(Line {
            prev: said.prev,
            link: Self { seq: said.seq, hash },
            cut_off: said.rest.filter(|_| said.event == CUT_OFF),
        })
    }
}

/// A line as it was written.
#[derive(Debug)]
pub(crate) struct Line {
    /// The hash of the one before.
    pub(crate) prev: String,
    pub(crate) link: Link,
    /// The hash of what stands before it and was cut off.
    cut_off: Option<String>,
}

impl Line {
    /// Whether it comes next.
    pub(crate) fn follows(&self, before: &Link) -> bool {
        before.seq.checked_add(1) == Some(self.link.seq) && self.prev == before.hash
    }
}

/// The fields that the chain is made of.
#[derive(Deserialize)]
struct Said {
    seq: u64,
    event: String,
    prev: String,
    #[serde(rename = "rest.sha256")]
    rest: Option<String>,
}

/// Whether that could be a line of which the end is missing: a line that has an end was changed.
pub(crate) fn may_be_cut_off(line: &[u8]) -> bool {
    let begins = line.starts_with(BEGIN) || BEGIN.starts_with(line);
    begins && !has_end(line)
}

fn has_end(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let hash = text
        .rsplit_once(SEAM)
        .and_then(|(_, rest)| rest.strip_suffix("\"}"));
    hash.is_some_and(|hash| hash.len() == NOTHING.len())
}

/// What was found in the files of one log.
#[derive(Debug, Default)]
pub(crate) struct Found {
    first: Option<u64>,
    latest: Option<Link>,
    /// What is no line, and where it begins: the next line must name it.
    rest: Vec<u8>,
    rest_begins: String,
    why: String,
    /// Where something was cut off.
    cut_off: Vec<String>,
}

/// Checks the files of one log, the oldest first, and says what is in them.
///
/// # Errors
///
/// The first line that is not as it was written, and why.
pub fn verify(files: &[PathBuf]) -> anyhow::Result<String> {
    let found = follow(files, |_| Ok(()))?;
    let (Some(first), Some(Link { seq, hash })) = (found.first, found.latest) else {
        bail!("there is no event in the files");
    };
    let count = seq.saturating_sub(first).saturating_add(1);
    let mut text = format!("ok: {count} events, number {first} to {seq}\nhash of the last one: {hash}\n");
    for place in found.cut_off {
        text +=
            &format!("{place}: a line was cut off here by a crash or a full disk, as the next one says\n");
    }
    if first > 1 {
        text += &format!("Not looked at: the events before number {first}, which stand in older files.\n");
    }
    Ok(text)
}

/// Visits each line of one log's files, the oldest first, as long as they are as they were written.
pub(crate) fn follow(
    files: &[PathBuf],
    mut visit: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
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
            found.take(&format!("{}:{number}", path.display()), &bytes)?;
            if found.rest.is_empty() {
                visit(&bytes)?;
            }
        }
        found.has_no_rest()?;
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, place: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let ended = bytes.strip_suffix(b"\n");
        let line = match (Link::read(ended.unwrap_or(bytes)), ended) {
            (Ok(line), _) => line,
            (Err(_), None) => {
                bail!("{place}: the line is cut off; the daemon says so in the next one when it goes on")
            }
            (Err(why), Some(ended)) => {
                // What was cut off is short: the daemon looks for it in as much.
                let is_too_long = self.rest.len() as u64 > MAX_LINE;
                ensure!(!has_end(ended) && !is_too_long, "{place}: the line {why}");
                if self.rest.is_empty() {
                    self.rest_begins = place.to_owned();
                    self.why = why;
                }
                self.rest.extend(bytes);
                return Ok(());
            }
        };
        if !self.rest.is_empty() {
            let rest = self.rest.strip_suffix(b"\n").unwrap_or(&self.rest);
            if line.cut_off != Some(Fingerprint::of(rest).to_string()) {
                return self.has_no_rest();
            }
            self.rest.clear();
            self.cut_off.push(std::mem::take(&mut self.rest_begins));
        }
        let none = Link::none();
        match &self.latest {
            None => ensure!(
                line.link.seq != 1 || line.prev == none.hash,
                "{place}: the first event says that there was one before"
            ),
            Some(_) if line.prev == none.hash => bail!(
                "{place}: another log begins here: the daemon did not find the file before when it started, or it was exchanged"
            ),
            Some(before) => ensure!(
                line.follows(before),
                "{place}: the line does not follow the one before: number {} comes where {} should, so lines were taken out, \
                 put in or moved, or a file is missing",
                line.link.seq,
                before.seq.saturating_add(1)
            ),
        }
        self.first = self.first.or(Some(line.link.seq));
        self.latest = Some(line.link);
        Ok(())
    }

    /// Nothing may stand there that is no line, and that none names.
    fn has_no_rest(&self) -> anyhow::Result<()> {
        ensure!(
            self.rest.is_empty(),
            "{}: the line {}",
            self.rest_begins,
            self.why
        );
        Ok(())
    }
}
