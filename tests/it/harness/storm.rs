//! Trouble for the throwaway CA, at the test's command.

use std::collections::HashSet;
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
    /// The same, but that the answer leaves at once.
    Answered,
}

/// A request by what it asks for: `new-account`, `new-order`, `order`, `finalize`, `poll`, which is for an order that has
/// been finalized, `certificate`, and `key-change`.
pub(crate) type Step = &'static str;

/// The CA's load since the test began to look.
#[derive(Debug, Default)]
pub(crate) struct Load {
    under_way: usize,
    answered: usize,
    /// For each request that came: how many were under way then, itself included, and how many had been answered.
    pub(crate) arrivals: Vec<(usize, usize)>,
}

/// The trouble.
pub(crate) struct Storm {
    down: watch::Sender<bool>,
    stopped: watch::Sender<Option<(Moment, Step)>>,
    /// How many requests have been stopped.
    caught: watch::Sender<u32>,
    connections: AtomicU32,
    refused: Mutex<Option<(Step, u16, &'static str)>>,
    /// The paths of the orders that have been finalized.
    finalized: Mutex<HashSet<String>>,
    load: Mutex<Load>,
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
            finalized: Mutex::default(),
            load: Mutex::default(),
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

    /// From now on, refuses nothing.
    pub(crate) fn refuses_nothing(&self) {
        *self.refused.lock().unwrap() = None;
    }

    /// How many connections were opened to the CA.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on, looks at the load. No request may be under way.
    pub(crate) fn looks_at_the_load(&self) {
        *self.load.lock().unwrap() = Load::default();
    }

    /// The load so far.
    pub(crate) fn load(&self) -> Load {
        std::mem::take(&mut *self.load.lock().unwrap())
    }

    /// A request has come to this moment. Clients of the daemon may have moments of their own.
    pub(crate) async fn reaches(&self, moment: Moment, step: Step) {
        let here = Some((moment, step));
        let mut stopped = self.stopped.subscribe();
        if *stopped.borrow() == here {
            self.caught.send_modify(|caught| *caught += 1);
            if moment != Moment::Answered {
                stopped.wait_for(|stopped| *stopped != here).await.unwrap();
            }
        }
    }

    async fn waits(&self) {
        sleep(self.delay.mul_f64(fraction())).await;
    }

    fn step_of(&self, path: &str) -> Step {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["new-account"] => "new-account",
            ["new-order"] => "new-order",
            ["order", _] if self.finalized.lock().unwrap().contains(path) => "poll",
            ["order", _] => "order",
            ["order", _, "finalize"] => "finalize",
            ["certificate", _] => "certificate",
            ["key-change"] => "key-change",
            _ => "another",
        }
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
        {
            let mut load = self.load.lock().unwrap();
            load.under_way += 1;
            let arrival = (load.under_way, load.answered);
            load.arrivals.push(arrival);
        }
        self.waits().await;
        let step = self.step_of(path);
        self.reaches(Moment::Received, step).await;
        let refused = *self.refused.lock().unwrap();
        match refused {
            Some((refused, status, kind)) if refused == step => {
                let mut load = self.load.lock().unwrap();
                load.under_way = load.under_way.saturating_sub(1);
                Err(Problem::new(status, kind, "this throwaway CA was told to refuse"))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn after(&self, path: &str) {
        self.waits().await;
        let step = self.step_of(path);
        if let Some(order) = path.strip_suffix("/finalize") {
            self.finalized.lock().unwrap().insert(order.to_owned());
        }
        self.reaches(Moment::Done, step).await;
        self.reaches(Moment::Answered, step).await;
        let mut load = self.load.lock().unwrap();
        load.under_way = load.under_way.saturating_sub(1);
        load.answered += 1;
    }
}
