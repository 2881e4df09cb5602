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

/// Nobody waits for what is said to reach the disk.
const LISTEN: &str = "SET synchronous_commit = off; LISTEN acme_proxy_jobs";
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
    /// Begins to listen.
    pub(crate) fn new(connections: Connections) -> Self {
        let (here, elsewhere) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let task = tokio::spawn(run(connections, Arc::clone(&here), Arc::clone(&elsewhere)));
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

async fn run(connections: Connections, here: Arc<Notify>, elsewhere: Arc<Notify>) {
    loop {
        if let Ok((client, task)) = listening(&connections, &here).await {
            // Nobody listened to what came before.
            wake(&here);
            talk(client, task, &elsewhere).await;
        }
        sleep(PAUSE).await;
    }
}

async fn listening(
    connections: &Connections,
    here: &Arc<Notify>,
) -> Result<(Client, JoinHandle<()>), StoreError> {
    let here = Arc::clone(here);
    let heard = move |message| {
        if let AsyncMessage::Notification(_) = message {
            wake(&here);
        }
    };
    connections.alone(heard).await
}

/// Passes on what was added here until the connection ends.
async fn talk(client: Client, mut task: JoinHandle<()>, elsewhere: &Notify) {
    if client.batch_execute(LISTEN).await.is_err() {
        return;
    }
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
