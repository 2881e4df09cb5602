//! What the writer says about each write, one line each: before it hands it to the store, and after the answer.
//!
//! The lines go through a pipe to another process, so they survive the cut whatever the disk does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use acme_proxy::acme::certificate::Fingerprint;
use anyhow::{Context as _, Result};
use serde::Serialize;

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Journal {
    next: AtomicU64,
}

/// A write whose outcome is not known yet.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Intent(u64);

impl Journal {
    pub(crate) fn new() -> Self {
        // Several writers in a row share one journal: the process tells their numbers apart.
        let first = u64::from(std::process::id()) << 32;
        Self {
            next: AtomicU64::new(first),
        }
    }

    /// Somebody is about to write this version of a record.
    pub(crate) fn intend<T: Serialize>(&self, record: &str, version: u64, content: &T) -> Result<Intent> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        say(&format!("I {number} {record} {version} {}", digest(content)?))?;
        Ok(Intent(number))
    }

    /// The store has acknowledged the write.
    pub(crate) fn acknowledged(&self, intent: Intent) -> Result<()> {
        say(&format!("A {}", intent.0))
    }

    /// The store has refused the write.
    pub(crate) fn refused(&self, intent: Intent) -> Result<()> {
        say(&format!("X {}", intent.0))
    }

    /// From now on the record may be gone.
    pub(crate) fn may_go(&self, record: &str) -> Result<()> {
        say(&format!("G {record}"))
    }

    /// The record is gone, and must not come back.
    pub(crate) fn gone(&self, record: &str) -> Result<()> {
        say(&format!("D {record}"))
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").context("writing the journal")
}

/// What a record is compared by.
pub(crate) fn digest<T: Serialize>(content: &T) -> Result<String> {
    Ok(Fingerprint::of(&serde_json::to_vec(content)?).to_string())
}

/// What the journal says about one record.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// The highest version that was acknowledged.
    pub(crate) acknowledged: u64,
    /// The contents that each version may have.
    pub(crate) versions: BTreeMap<u64, HashSet<String>>,
    /// Whether it may be gone.
    pub(crate) may_be_gone: bool,
    /// Whether it was seen to be gone.
    pub(crate) gone: bool,
}

/// A journal as it was read.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By record.
    pub(crate) records: HashMap<String, Expected>,
    /// How many writes were acknowledged.
    pub(crate) acknowledged: u64,
}

/// Reads a journal, whose last line may be torn.
pub(crate) fn read(text: &str) -> Told {
    let mut told = Told::default();
    let mut intents: HashMap<&str, (&str, u64, &str)> = HashMap::new();
    let mut refused = HashSet::new();
    let mut acknowledged = Vec::new();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["I", number, record, version, digest] => {
                if let Ok(version) = version.parse() {
                    intents.insert(number, (record, version, digest));
                }
            }
            ["A", number] => acknowledged.push(*number),
            ["X", number] => drop(refused.insert(*number)),
            ["G", record] => told.records.entry((*record).to_owned()).or_default().may_be_gone = true,
            ["D", record] => {
                told.records.entry((*record).to_owned()).or_default().gone = true;
                told.acknowledged += 1;
            }
            _ => {}
        }
    }
    for (number, (record, version, digest)) in &intents {
        if !refused.contains(number) {
            let expected = told.records.entry((*record).to_owned()).or_default();
            expected
                .versions
                .entry(*version)
                .or_default()
                .insert((*digest).to_owned());
        }
    }
    for number in acknowledged {
        if let Some((record, version, _)) = intents.get(number) {
            let expected = told.records.entry((*record).to_owned()).or_default();
            expected.acknowledged = expected.acknowledged.max(*version);
            told.acknowledged += 1;
        }
    }
    told
}
