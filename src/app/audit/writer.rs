//! The thread that writes the audit log: whoever makes an event hands it over and goes on, or waits until it is on the
//! disk. All that waits is written and synced at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::app::audit::file::LogFile;
use crate::app::log::Fields;
use crate::clock::Clock;

/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How many events are written at a time.
const BATCH: usize = 256;

/// How long the file before may take to let go of.
const REOPEN: Duration = Duration::from_secs(20);

/// How many events wait at most.
pub(crate) const MAX_WAITING: usize = 100_000;

/// The way to the thread. It ends when this is dropped, and has written by then whatever can be written.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How far the log has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many of the events are on the disk.
    kept: u64,
    /// Why no more are.
    pub(crate) fault: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Event>,
    /// How many events have been taken on, ever.
    count: u64,
    /// How many found no place.
    lost: u64,
    reopen: Vec<oneshot::Sender<anyhow::Result<()>>>,
    ends: bool,
}

#[derive(Debug)]
struct Event {
    time: Timestamp,
    name: String,
    fields: Fields,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn start(file: LogFile) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, progress) = watch::channel(Progress::default());
        let thread = Thread {
            file,
            shared: Arc::clone(&shared),
            progress: sender,
            events: VecDeque::new(),
            unsynced: 0,
        };
        let thread = thread::Builder::new()
            .name("audit log".to_owned())
            .spawn(move || thread.run())
            .context("starting the audit log's thread")?;
        Ok(Self {
            shared,
            progress,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has an event written.
    pub(crate) fn write(&self, event: &str, fields: Fields) {
        let event = Event {
            time: Clock::system().now(),
            name: event.to_owned(),
            fields,
        };
        let mut queue = self.shared.locked();
        if queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back(event);
            queue.count += 1;
        } else {
            queue.lost += 1;
        }
        self.shared.more.notify_one();
    }

    /// Returns once all events so far are on the disk, or nothing can be written at the moment.
    pub(crate) async fn kept(&self) {
        let count = self.shared.locked().count;
        let mut progress = self.progress.clone();
        // A thread that has ended is a fault, too, and `progress` says so to whoever asks.
        drop(
            progress
                .wait_for(|progress| progress.kept >= count || progress.fault.is_some())
                .await,
        );
    }

    /// Goes on in another file if another one has the name now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) async fn reopen(&self) -> anyhow::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.shared.locked().reopen.push(sender);
        self.shared.more.notify_one();
        match timeout(REOPEN, receiver).await {
            Ok(reopened) => reopened.unwrap_or_else(|_| Err(anyhow!("the audit log's thread has ended"))),
            Err(_) => Err(anyhow!(
                "the disk of the audit log does not answer within {} s",
                REOPEN.as_secs()
            )),
        }
    }

    /// How far it has come. The sender is gone if the thread has ended.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Ends the log: what waits is written, if it can be.
    pub(crate) fn finish(&self) {
        self.shared.locked().ends = true;
        self.shared.more.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // That it has panicked was logged then.
        drop(thread.map(JoinHandle::join));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Thread {
    file: LogFile,
    shared: Arc<Shared>,
    progress: watch::Sender<Progress>,
    /// What is written next.
    events: VecDeque<Event>,
    /// How many are in the file, and perhaps not on the disk.
    unsynced: u64,
}

impl Thread {
    fn run(mut self) {
        let mut ends = false;
        while !ends {
            ends = self.wait();
            // Also at the end everything, unless that fails.
            while let Some(outcome) = self.round() {
                self.report(outcome);
                if self.progress.borrow().fault.is_some() {
                    break;
                }
            }
        }
        let left = self.waiting();
        if left > 0 {
            tracing::error!(events = left, file = %self.file.path().display(), "the audit log could not be written to the end: these events are lost");
        } else if let Err(error) = self.file.say("audit log closed", &Fields::new()) {
            tracing::error!(%error, file = %self.file.path().display(), "the end of the audit log could not be written");
        }
    }

    /// How many events can not be written at the moment.
    fn waiting(&self) -> u64 {
        let queue = self.shared.locked();
        (self.events.len() + queue.waiting.len()) as u64 + queue.lost
    }

    /// Waits until there is something to do, and says whether it is the last thing.
    fn wait(&mut self) -> bool {
        let has_fault = self.progress.borrow().fault.is_some();
        let queue = self.shared.locked();
        let is_idle = |queue: &mut Queue| queue.reopen.is_empty() && !queue.ends;
        let more = &self.shared.more;
        let mut queue = match has_fault {
            true => {
                let waited = more.wait_timeout_while(queue, AGAIN, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            false => {
                let has_nothing = |queue: &mut Queue| is_idle(queue) && queue.waiting.is_empty();
                more.wait_while(queue, has_nothing)
                    .unwrap_or_else(PoisonError::into_inner)
            }
        };
        let ends = queue.ends;
        let reopen = std::mem::take(&mut queue.reopen);
        drop(queue);
        for reply in reopen {
            // Whoever has asked may have given up.
            drop(reply.send(self.file.reopen()));
        }
        ends
    }

    /// Writes some events and syncs them; nothing if there are none.
    fn round(&mut self) -> Option<std::io::Result<()>> {
        let mut queue = self.shared.locked();
        let count = BATCH.saturating_sub(self.events.len()).min(queue.waiting.len());
        self.events.extend(queue.waiting.drain(..count));
        let lost = match self.events.is_empty() {
            true => std::mem::take(&mut queue.lost),
            false => 0,
        };
        drop(queue);
        if lost > 0 {
            let fields = Fields::from([("events".to_owned(), lost.into())]);
            let said = self.file.say("events lost", &fields);
            if said.is_err() {
                self.shared.locked().lost += lost;
            }
            return Some(said);
        }
        if self.events.is_empty() && self.unsynced == 0 {
            return None;
        }
        let events = self.events.iter();
        let (written, outcome) = self
            .file
            .append(events.map(|event| (event.time, event.name.as_str(), &event.fields)));
        self.events.drain(..written);
        self.unsynced += written as u64;
        let outcome = outcome.and_then(|()| self.file.sync());
        if outcome.is_ok() {
            let kept = std::mem::take(&mut self.unsynced);
            self.progress.send_if_modified(|progress| {
                progress.kept += kept;
                kept > 0
            });
        }
        Some(outcome)
    }

    fn report(&self, outcome: std::io::Result<()>) {
        let fault = outcome.err().map(|error| {
            format!(
                "{} can not be written ({} events wait): {error}; nothing new is taken on until it can",
                self.file.path().display(),
                self.waiting()
            )
        });
        self.progress.send_if_modified(|progress| {
            let is_new = progress.fault != fault;
            progress.fault = fault;
            is_new
        });
    }
}
