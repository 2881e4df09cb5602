//! The audit log's file: what is found in it, and lines at its end. It may be one that can only be appended to (`chattr +a`):
//! then a line that was cut off stays where it is, and the next one names it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use crate::acme::certificate::Fingerprint;
use crate::app::audit::chain::{CUT_OFF, Link, MAX_LINE, REST, may_be_cut_off};
use crate::app::log::Fields;
use crate::clock::Clock;

/// The file, at its end.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    latest: Link,
    /// What stands after the latest line. If that is nothing, what is missing is its end.
    rest: Option<Vec<u8>>,
}

impl LogFile {
    /// Opens it, or makes it, and says so in it.
    ///
    /// # Errors
    ///
    /// Why it can not be used.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let unusable = |what: &str| format!("authority.config.audit.file: {} {what}", path.display());
        let mut file = locked(path)?;
        let found = end_of(&mut file).with_context(|| unusable("can not be read"))?;
        let mut fields = Fields::new();
        let (latest, rest) = match found {
            Some(found) => found,
            None if !has_line(&file).with_context(|| unusable("can not be read"))? => bail!(unusable(
                "is no audit log, and is left as it is; name another file"
            )),
            None => {
                let aside = aside(path);
                std::fs::rename(path, &aside)
                    .with_context(|| unusable("is damaged and can not be put aside"))?;
                file = locked(path)?;
                tracing::error!(
                    file = %path.display(), aside = %aside.display(),
                    "the audit log ends with a line that is not as it was written; a new one begins, and this one is put aside"
                );
                fields.insert("damaged".to_owned(), aside.display().to_string().into());
                (Link::none(), None)
            }
        };
        let path = path.to_owned();
        let mut log = Self {
            path,
            file,
            latest,
            rest,
        };
        log.say("audit log opened", &fields)
            .with_context(|| unusable("can not be written"))?;
        Ok(log)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on in another file if another one has the name now, as after a rotation.
    pub(crate) fn reopen(&mut self) -> anyhow::Result<()> {
        let is_same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let before = self.file.metadata()?;
        if std::fs::metadata(&self.path).is_ok_and(|now| is_same(&now, &before)) {
            return Ok(());
        }
        let file = locked(&self.path)?;
        if file.metadata()?.len() > 0 {
            bail!(
                "authority.config.audit.file: {} is another log; take it away",
                self.path.display()
            );
        }
        // What is to be said about its end must stand in the same file.
        self.end_rest()?;
        self.file.sync_data()?;
        self.file = file;
        self.say("audit log opened", &Fields::new())?;
        Ok(())
    }

    /// Writes an event of the log's own, and syncs.
    pub(crate) fn say(&mut self, event: &str, fields: &Fields) -> io::Result<()> {
        let now = Clock::system().now();
        self.append([(now, event, fields)].into_iter()).1?;
        self.file.sync_data()
    }

    /// Writes events, and gives how many of them are in the file.
    pub(crate) fn append<'a>(
        &mut self,
        events: impl Iterator<Item = (Timestamp, &'a str, &'a Fields)>,
    ) -> (usize, io::Result<()>) {
        if let Err(error) = self.end_rest() {
            return (0, Err(error));
        }
        let mut text = Vec::new();
        let mut latest = self.latest.clone();
        // Where each line ends.
        let mut ends = Vec::new();
        for (time, event, fields) in events {
            let (line, link) = latest.next(time, event, fields);
            text.extend(line.as_bytes());
            ends.push((text.len(), link.clone()));
            text.push(b'\n');
            latest = link;
        }
        let (written, outcome) = self.write(&text);
        let whole = ends.partition_point(|(end, _)| *end <= written);
        let Some((end, link)) = whole.checked_sub(1).and_then(|last| ends.get(last)) else {
            self.fell_short(text.get(..written).unwrap_or_default());
            return (0, outcome);
        };
        self.latest = link.clone();
        match text.get(end.saturating_add(1)..written) {
            Some(rest) => self.fell_short(rest),
            None => self.rest = Some(Vec::new()),
        }
        (whole, outcome)
    }

    /// Waits until what was written is on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the latest line its end, or says what comes after it.
    fn end_rest(&mut self) -> io::Result<()> {
        let Some(rest) = self.rest.take() else {
            return Ok(());
        };
        let mut text = b"\n".to_vec();
        let mut latest = self.latest.clone();
        if !rest.is_empty() {
            let hash = Fingerprint::of(&rest).to_string();
            let fields = Fields::from([(REST.to_owned(), hash.into())]);
            let (line, link) = latest.next(Clock::system().now(), CUT_OFF, &fields);
            text.extend(line.as_bytes());
            text.push(b'\n');
            latest = link;
        }
        let (written, outcome) = self.write(&text);
        match outcome {
            Ok(()) => self.latest = latest,
            Err(_) => {
                let written = text.get(..written).unwrap_or_default();
                self.rest = Some([rest.as_slice(), written].concat());
            }
        }
        outcome
    }

    /// Writes as much as is taken, and gives how much that was.
    fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while let Some(left) = text.get(written..).filter(|left| !left.is_empty()) {
            match self.file.write(left) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Half a line is in the file: it is taken back if the file permits that.
    fn fell_short(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let length = self.file.metadata().map(|metadata| metadata.len());
        let cut = length.and_then(|length| self.file.set_len(length.saturating_sub(rest.len() as u64)));
        if cut.is_err() {
            self.rest = Some(rest.to_vec());
        }
    }
}

/// How often to try to have the file alone, and how long to wait between two attempts.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// Opens it for this process alone.
fn locked(path: &Path) -> anyhow::Result<File> {
    let unusable = |what: &str| format!("authority.config.audit.file: {} {what}", path.display());
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let file = options
        .open(path)
        .with_context(|| unusable("can not be opened; give the service's user access to it"))?;
    // A program that is being started holds the files of whoever starts it, for a moment.
    let is_free = || {
        let is_free = file.try_lock().is_ok();
        if !is_free {
            std::thread::sleep(PAUSE);
        }
        is_free
    };
    if !(0..ATTEMPTS).any(|_| is_free()) {
        bail!(unusable("is written by another process"));
    }
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        bail!(unusable("is no regular file"));
    }
    Ok(file)
}

/// Whether any of its lines is one of an audit log.
fn has_line(mut file: &File) -> io::Result<bool> {
    file.rewind()?;
    for line in BufReader::new(file).split(b'\n') {
        if Link::read(&line?).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", Clock::system().now().as_second()));
    PathBuf::from(name)
}

/// The latest line of a file, and what comes after it; nothing if that can not come from a crash.
fn end_of(file: &mut File) -> io::Result<Option<(Link, Option<Vec<u8>>)>> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut before = bytes.as_slice();
    let rest = |begin: usize| bytes.get(begin..).unwrap_or_default().to_vec();
    while !before.is_empty() {
        let text = before.strip_suffix(b"\n").unwrap_or(before);
        let begin = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let (earlier, line) = before.split_at(begin);
        let text = line.strip_suffix(b"\n");
        if let Ok(found) = Link::read(text.unwrap_or(line)) {
            let is_whole = text.is_some() && before.len() == bytes.len();
            return Ok(Some((found.link, (!is_whole).then(|| rest(before.len())))));
        }
        // A power cut may leave anything at the very end.
        let is_end = text.is_none() && begin > 0;
        if !is_end && !may_be_cut_off(text.unwrap_or(line)) {
            return Ok(None);
        }
        before = earlier;
    }
    let rest = (!bytes.is_empty()).then_some(bytes);
    Ok((from == 0).then(|| (Link::none(), rest)))
}
