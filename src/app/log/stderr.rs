//! The standard error, where the log goes: nobody waits for whoever reads it. A thread hands it over; lines that find no
//! place while nobody takes any are dropped and counted, and the log says so when it moves again.
//!
//! A file has no reader who could stand still, so it is written to at once: also the last line before a crash is in it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

/// How many bytes wait at most.
const MAX_WAITING: usize = 1024 * 1024;

/// How long the end of the program waits for the last lines to be taken.
const END: Duration = Duration::from_secs(2);

/// Makes the line that says that so many are missing.
type LineOfDropped = fn(u64) -> String;

/// The way there.
#[derive(Debug, Clone)]
pub(crate) struct Stderr(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    out: File,
    is_file: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    line_of_dropped: LineOfDropped,
    /// Counts what is dropped, once there are metrics.
    counter: OnceLock<IntCounter>,
}

#[derive(Debug, Default)]
struct Queue {
    text: Vec<u8>,
    /// Whether some of it was taken out and is being written.
    is_writing: bool,
    /// Lines that were dropped since that was said.
    dropped: u64,
}

impl Stderr {
    /// Writes here.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn start(out: impl AsFd, line_of_dropped: LineOfDropped) -> std::io::Result<Self> {
        let out = File::from(out.as_fd().try_clone_to_owned()?);
        let shared = Arc::new(Shared {
            is_file: out.metadata()?.is_file(),
            out,
            queue: Mutex::default(),
            changed: Condvar::new(),
            line_of_dropped,
            counter: OnceLock::new(),
        });
        if !shared.is_file {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name("log".to_owned());
            thread.spawn(move || shared.hand_over())?;
        }
        Ok(Self(shared))
    }

    /// Has a line written, or drops it.
    pub(crate) fn write(&self, line: &str) {
        let shared = &self.0;
        let mut queue = shared.locked();
        if queue.text.len() + line.len() > MAX_WAITING {
            return shared.count_dropped(&mut queue, 1);
        }
        queue.text.extend(line.as_bytes());
        if shared.is_file {
            let text = shared.take(&mut queue);
            let written = (&shared.out).write_all(&text);
            shared.count_failed(&mut queue, &written, &text);
        }
        shared.changed.notify_all();
    }

    /// Counts what is dropped from now on, and was dropped so far.
    pub(crate) fn count_by(&self, counter: &IntCounter) {
        let queue = self.0.locked();
        if self.0.counter.set(counter.clone()).is_ok() {
            counter.inc_by(queue.dropped);
        }
    }

    /// Waits until all is written, though not long.
    pub(crate) fn flush(&self) {
        let is_under_way = |queue: &mut Queue| queue.is_writing || !queue.text.is_empty();
        let changed = &self.0.changed;
        // What nobody takes by then is lost.
        drop(changed.wait_timeout_while(self.0.locked(), END, is_under_way));
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, queue: &mut Queue, lines: u64) {
        queue.dropped += lines;
        if let Some(counter) = self.counter.get() {
            counter.inc_by(lines);
        }
    }

    /// What can not be written is dropped, too.
    fn count_failed(&self, queue: &mut Queue, written: &std::io::Result<()>, text: &[u8]) {
        if written.is_err() {
            let lines = text.iter().filter(|byte| **byte == b'\n').count();
            self.count_dropped(queue, lines as u64);
        }
    }

    /// What waits, and how many lines would have come after it.
    fn take(&self, queue: &mut Queue) -> Vec<u8> {
        let mut text = std::mem::take(&mut queue.text);
        let dropped = std::mem::take(&mut queue.dropped);
        if dropped > 0 {
            text.extend((self.line_of_dropped)(dropped).into_bytes());
        }
        text
    }

    fn hand_over(&self) {
        let mut queue = self.locked();
        loop {
            let has_nothing = |queue: &mut Queue| queue.text.is_empty();
            let waited = self.changed.wait_while(queue, has_nothing);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
            let text = self.take(&mut queue);
            queue.is_writing = true;
            drop(queue);
            let written = (&self.out).write_all(&text);
            queue = self.locked();
            queue.is_writing = false;
            self.count_failed(&mut queue, &written, &text);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read as _;

    fn started(out: impl AsFd) -> Stderr {
        Stderr::start(out, |dropped| format!("{dropped} are missing\n")).unwrap()
    }

    #[test]
    fn f39_what_nobody_takes_is_dropped_by_whole_lines_counted_and_told_once() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stderr = started(writer);
        let line = "x".repeat(1023) + "\n";
        // More than the pipe holds: the thread is held up.
        stderr.write(&line.repeat(100));
        while !stderr.0.locked().text.is_empty() {
            thread::yield_now();
        }
        for _ in 0..1200 {
            stderr.write(&line);
        }
        let counter = IntCounter::new("dropped", "dropped").unwrap();
        stderr.count_by(&counter);
        assert_eq!(counter.get(), 176, "before there were metrics");
        stderr.write(&line);
        assert_eq!(counter.get(), 177);
        let said = "177 are missing\n";
        let mut text = vec![0; (100 + 1024) * line.len() + said.len()];
        reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, line.repeat(1124) + said);
        stderr.flush();
        stderr.write(&line);
        let mut next = vec![0; line.len()];
        reader.read_exact(&mut next).unwrap();
        assert_eq!(next, line.as_bytes());
        assert_eq!(counter.get(), 177);
    }

    #[test]
    fn f39_the_end_does_not_wait_for_a_reader_who_never_comes() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let stderr = started(writer);
        stderr.write(&"x".repeat(MAX_WAITING));
        stderr.flush();
        assert!(stderr.0.locked().is_writing);
    }

    #[test]
    fn a_file_has_each_line_at_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let stderr = started(File::create(&path).unwrap());
        for count in 1..100 {
            stderr.write("a line\n");
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), count);
        }
    }

    #[test]
    fn f39_lines_that_can_not_be_written_are_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let stderr = started(full);
        let counter = IntCounter::new("dropped", "dropped").unwrap();
        stderr.count_by(&counter);
        stderr.write("a line\n");
        stderr.flush();
        assert_eq!(counter.get(), 1);
    }
}
