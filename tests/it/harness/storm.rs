//! Trouble for the throwaway CA, at the test's command.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::harness::ca::problem::Problem;
use crate::harness::ca::trouble::Trouble;
use crate::harness::process::PATIENCE;

/// Where a request is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The CA has received it, and does nothing about it yet.
    Received,
    /// The CA has done what was asked for, and does not say so yet.
    Done,
}

/// A request by what it asks for: `new-account`, `new-order`, `order`, `finalize`, `certificate`, `key-change`.
type Step = &'static str;

/// The trouble.
pub(crate) struct Storm {
    down: watch::Sender<bool>,
    stopped: watch::Sender<Option<(Moment, Step)>>,
    /// How many requests have been stopped.
    caught: watch::Sender<u32>,
    connections: AtomicU32,
    refused: Mutex<Option<(Step, u16, &'static str)>>,
    /// Every request waits up to this long when it is received, and again when it is done.
    delay: Duration,
}

impl Storm {
    /// No trouble yet, but for delays up to this.
    pub(crate) fn with_delay(delay: Duration) -> Self {
        Self {
            down: watch::Sender::new(false),
            stopped: watch::Sender::new(None),
            caught: watch::Sender::new(0),
            connections: AtomicU32::new(0),
            refused: Mutex::new(None),
            delay,
        }
    }

    /// The CA is gone, and its connections with it.
    pub(crate) fn goes_down(&self) {
        self.down.send_replace(true);
    }

    /// The CA is back.
    pub(crate) fn comes_up(&self) {
        self.down.send_replace(false);
    }

    /// From now on, stops requests for this step.
    pub(crate) fn stop(&self, moment: Moment, step: Step) {
        self.caught.send_replace(0);
        self.stopped.send_replace(Some((moment, step)));
    }

    /// Waits until a request has been stopped.
    pub(crate) async fn has_caught_one(&self) {
        let mut caught = self.caught.subscribe();
        let waited = timeout(PATIENCE, caught.wait_for(|caught| *caught > 0)).await;
        waited.expect("no such request comes").unwrap();
    }

    /// Lets the requests go that are stopped.
    pub(crate) fn let_go(&self) {
        self.stopped.send_replace(None);
    }

    /// From now on, refuses requests for this step.
    pub(crate) fn refuse(&self, step: Step, status: u16, kind: &'static str) {
        *self.refused.lock().unwrap() = Some((step, status, kind));
    }

    /// How many connections were opened to the CA.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    async fn blow(&self, moment: Moment, path: &str) {
        sleep(self.delay.mul_f64(fraction())).await;
        let here = Some((moment, step_of(path)));
        let mut stopped = self.stopped.subscribe();
        if *stopped.borrow() == here {
            self.caught.send_modify(|caught| *caught += 1);
            stopped.wait_for(|stopped| *stopped != here).await.unwrap();
        }
    }
}

fn step_of(path: &str) -> Step {
    match path
        .trim_start_matches('/')
        .split('/')
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["new-account"] => "new-account",
        ["new-order"] => "new-order",
        ["order", _] => "order",
        ["order", _, "finalize"] => "finalize",
        ["certificate", _] => "certificate",
        ["key-change"] => "key-change",
        _ => "another",
    }
}

/// Something between 0 and 1.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[async_trait]
impl Trouble for Storm {
    fn is_down(&self) -> bool {
        // Asked once for each connection.
        self.connections.fetch_add(1, Ordering::Relaxed);
        *self.down.borrow()
    }

    async fn going_down(&self) {
        self.down.subscribe().wait_for(|down| *down).await.unwrap();
    }

    async fn before(&self, path: &str) -> Result<(), Problem> {
        self.blow(Moment::Received, path).await;
        let refused = *self.refused.lock().unwrap();
        match refused {
            Some((step, status, kind)) if step == step_of(path) => {
                Err(Problem::new(status, kind, "this throwaway CA was told to refuse"))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn after(&self, path: &str) {
        self.blow(Moment::Done, path).await;
    }
}
