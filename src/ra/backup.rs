//! A backup: everything that the store holds at one moment, as lines of JSON. The first says what it is, the last how much
//! there was and its SHA-256; between them stands an entry of the store on each.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ra::RegistrationAuthority;
use crate::store::{Entry, Snapshot, StoreError};

/// What the first line calls itself.
const FORMAT: &str = "acme-proxy backup";

/// The form that is written and read.
const VERSION: u32 = 1;

/// The longest line: two values of the largest kind are shorter.
const LONGEST_LINE: usize = 64 * 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    /// The version of acme-proxy that has made it.
    pub program: String,
    /// When it was made.
    pub made: Timestamp,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    entries: u64,
    /// Of all lines before, hexadecimal.
    sha256: String,
}

/// A line between.
#[derive(Serialize, Deserialize)]
struct Line(String, String);

/// A backup that is being made.
pub struct Backup {
    snapshot: Box<dyn Snapshot>,
    digest: Context,
    entries: u64,
    header: Option<Header>,
    is_done: bool,
}

/// Why a file is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BadBackup {
    /// It is something else.
    #[error("is no backup of acme-proxy")]
    Foreign,
    /// It is of a form that this version does not know.
    #[error(
        "is a backup of form {found}, made by acme-proxy {program}; this version reads form {VERSION}: restore it with that one"
    )]
    Newer {
        /// The form.
        found: u32,
        /// The version that has made it.
        program: String,
    },
    /// Its end is missing.
    #[error("is cut off: the last line, with the checksum, is missing")]
    CutOff,
    /// It has changed since it was made.
    #[error("is damaged: {0}")]
    Damaged(String),
}

impl RegistrationAuthority {
    /// Begins a backup of the store as it is now.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        Ok(Backup {
            snapshot: self.store.snapshot().await?,
            digest: Context::new(&SHA256),
            entries: 0,
            header: Some(Header {
                format: FORMAT.to_owned(),
                version: VERSION,
                program: env!("CARGO_PKG_VERSION").to_owned(),
                made: self.clock.now(),
            }),
            is_done: false,
        })
    }
}

impl Backup {
    /// The next lines; none at the end.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let mut lines = Vec::new();
        if let Some(header) = self.header.take() {
            write_line(&mut lines, &header)?;
        }
        let entries = self.snapshot.next().await?;
        self.is_done = entries.is_empty();
        self.entries += entries.len() as u64;
        for Entry { key, value } in &entries {
            write_line(&mut lines, &Line(STANDARD.encode(key), STANDARD.encode(value)))?;
        }
        self.digest.update(&lines);
        if self.is_done {
            let trailer = Trailer {
                entries: self.entries,
                sha256: hex(self.digest.clone()),
            };
            write_line(&mut lines, &trailer)?;
        }
        Ok(Some(lines))
    }
}

/// Whoever has made it, for whomever: what was read is out.
impl Drop for Backup {
    fn drop(&mut self) {
        let entries = self.entries;
        if self.is_done {
            tracing::info!(target: "acme_proxy::operator", audit = true, store.entries = entries, "backup made");
        } else if entries > 0 {
            tracing::info!(target: "acme_proxy::operator", audit = true, store.entries = entries, "backup broken off");
        }
    }
}

fn write_line(lines: &mut Vec<u8>, line: &impl Serialize) -> Result<(), StoreError> {
    serde_json::to_writer(&mut *lines, line).map_err(|error| StoreError::Failed(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

fn hex(digest: Context) -> String {
    let bytes = digest.finish();
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A backup that is being read, line by line. Its entries may be believed only once [`Reading::end`] has said so.
pub struct Reading {
    header: Option<Header>,
    digest: Context,
    entries: u64,
    trailer: Option<Trailer>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            header: None,
            digest: Context::new(&SHA256),
            entries: 0,
            trailer: None,
        }
    }
}

impl Reading {
    /// How much of a file to read for one line.
    pub const LONGEST_LINE: usize = LONGEST_LINE;

    /// Takes the next line, with its end, and gives the entry in it, if it has one.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Entry>, BadBackup> {
        let number = self.entries + 1 + u64::from(self.header.is_some());
        let damaged = |what: &str| BadBackup::Damaged(format!("line {number} {what}"));
        let Some(json) = line.strip_suffix(b"\n") else {
            return Err(match (&self.header, line.len() < LONGEST_LINE) {
                (None, _) => BadBackup::Foreign,
                (Some(_), true) => BadBackup::CutOff,
                (Some(_), false) => damaged("is too long"),
            });
        };
        if self.trailer.is_some() {
            return Err(damaged("stands behind the last one"));
        }
        if self.header.is_none() {
            self.header = Some(header(json)?);
            self.digest.update(line);
            return Ok(None);
        }
        if let Ok(trailer) = serde_json::from_slice(json) {
            self.trailer = Some(trailer);
            return Ok(None);
        }
        self.digest.update(line);
        let Line(key, value) = serde_json::from_slice(json).map_err(|_| damaged("is no entry"))?;
        let decoded = |text: String| STANDARD.decode(text).map_err(|_| damaged("is no entry"));
        let entry = Entry {
            key: decoded(key)?,
            value: decoded(value)?,
        };
        self.entries += 1;
        Ok(Some(entry))
    }

    /// Says when it was made, and how many entries it has, once the file has ended.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn end(self) -> Result<(Header, u64), BadBackup> {
        let header = self.header.ok_or(BadBackup::Foreign)?;
        let trailer = self.trailer.ok_or(BadBackup::CutOff)?;
        if trailer.entries != self.entries {
            let what = format!("it has {} entries, and had {}", self.entries, trailer.entries);
            return Err(BadBackup::Damaged(what));
        }
        match trailer.sha256 == hex(self.digest) {
            true => Ok((header, self.entries)),
            false => Err(BadBackup::Damaged("its checksum does not match".to_owned())),
        }
    }
}

fn header(json: &[u8]) -> Result<Header, BadBackup> {
    #[derive(Deserialize)]
    struct Any {
        format: String,
        version: u32,
        #[serde(default)]
        program: String,
    }
    let any: Any = serde_json::from_slice(json).map_err(|_| BadBackup::Foreign)?;
    match (any.format.as_str(), any.version) {
        (FORMAT, VERSION) => serde_json::from_slice(json).map_err(|_| BadBackup::Foreign),
        (FORMAT, found) => Err(BadBackup::Newer {
            found,
            program: crate::acme::problem::cleaned(&any.program, 40),
        }),
        _ => Err(BadBackup::Foreign),
    }
}
