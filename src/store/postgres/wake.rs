//! Wake-ups across processes: a connection of its own that listens, and says when a job was added here. It is said after
//! the commit, because a NOTIFY within it would let one transaction at a time commit in the whole database.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client};

use crate::store::StoreError;
use crate::store::postgres::connect::Connections;

/// Nobody waits for what is said to reach the disk. The lock keeps migrations away (`moving`).
const LISTEN: &str = "SET synchronous_commit = off; LISTEN acme_proxy_jobs; \
                      SELECT pg_advisory_lock_shared(4, hashtext('acme_proxy'))";
const SAY: &str = "NOTIFY acme_proxy_jobs";

/// How long after the connection broke it is made anew. Meanwhile workers look on their timers.
const PAUSE: Duration = Duration::from_secs(1);

/// Wakes those who wait for jobs.
#[derive(Debug)]
pub(crate) struct Wake {
    here: Arc<Notify>,
    elsewhere: Arc<Notify>,
    task: AbortHandle,
}

impl Wake {
    /// Begins to listen, on this connection for as long as it lasts.
    pub(crate) fn new(connections: Connections, first: Listening) -> Self {
        let (here, elsewhere) = (Arc::clone(&first.here), Arc::new(Notify::new()));
        let task = tokio::spawn(run(connections, first, Arc::clone(&elsewhere)));
        Self {
            here,
            elsewhere,
            task: task.abort_handle(),
        }
    }

    /// A job may have become available to this process.
    pub(crate) fn here(&self) {
        wake(&self.here);
    }

    /// The same to all processes.
    pub(crate) fn everywhere(&self) {
        self.here();
        self.elsewhere.notify_one();
    }

    /// Returns when one may have.
    pub(crate) async fn woken(&self) {
        self.here.notified().await;
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn wake(notify: &Notify) {
    notify.notify_waiters();
    // One more, for a worker that is just about to wait.
    notify.notify_one();
}

/// A connection that wakes this process.
pub(crate) struct Listening {
    pub(crate) client: Client,
    task: JoinHandle<()>,
    here: Arc<Notify>,
}

impl Listening {
    /// Connects, and hears nothing yet.
    ///
    /// # Errors
    ///
    /// As [`Connections::alone`].
    pub(crate) async fn new(connections: &Connections) -> Result<Self, StoreError> {
        Self::again(connections, Arc::new(Notify::new())).await
    }

    async fn again(connections: &Connections, here: Arc<Notify>) -> Result<Self, StoreError> {
        let heard = Arc::clone(&here);
        let heard = move |message| {
            if let AsyncMessage::Notification(_) = message {
                wake(&heard);
            }
        };
        let (client, task) = connections.alone(heard).await?;
        Ok(Self { client, task, here })
    }
}

async fn run(connections: Connections, first: Listening, elsewhere: Arc<Notify>) {
    let here = Arc::clone(&first.here);
    talk(first, &elsewhere).await;
    loop {
        sleep(PAUSE).await;
        if let Ok(next) = Listening::again(&connections, Arc::clone(&here)).await {
            talk(next, &elsewhere).await;
        }
    }
}

/// Passes on what was added here until the connection ends.
async fn talk(listening: Listening, elsewhere: &Notify) {
    let Listening {
        client,
        mut task,
        here,
    } = listening;
    if client.batch_execute(LISTEN).await.is_err() {
        return;
    }
    // Nobody listened to what came before.
    wake(&here);
    loop {
        tokio::select! {
            _ = &mut task => return,
            () = elsewhere.notified() => {
                if client.batch_execute(SAY).await.is_err() {
                    return;
                }
            }
        }
    }
}
