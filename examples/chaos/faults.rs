//! What goes wrong, by chance from the seed: one hand is on the replicas and their network, another one on the database,
//! and a third one starts again what has ended by itself, as systemd does.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::figures::{Figure, Figures};
use crate::link::Gate;
use crate::replica::Replica;

/// How long a replica may take until it serves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What is broken. Whoever needs several replicas at once takes them in their order.
pub(crate) struct Victims<'a> {
    pub(crate) replicas: &'a [Mutex<Replica>],
    pub(crate) cluster: &'a Mutex<Cluster>,
    pub(crate) figures: &'a Figures,
}

/// What can happen to the replicas.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Kill,
    Cut(Gate),
    RollingRestart,
}

/// A deck, so that each of them comes in its share, however short the run is.
const BLOWS: [Blow; 13] = [
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Kill,
    Blow::Cut(Gate::Closed),
    Blow::Cut(Gate::Closed),
    Blow::Cut(Gate::Silent),
    Blow::Cut(Gate::Silent),
    Blow::RollingRestart,
];

/// What can happen to the database.
#[derive(Debug, Clone, Copy)]
enum Disaster {
    Failover,
    RestartOfEverything,
}

const DISASTERS: [Disaster; 3] = [
    Disaster::Failover,
    Disaster::Failover,
    Disaster::RestartOfEverything,
];

impl Victims<'_> {
    /// Beats the replicas until it is told to stop.
    pub(crate) async fn blows(&self, mut dice: Dice, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut deck = Vec::new();
        while !*stop.borrow() {
            if deck.is_empty() {
                deck.extend(BLOWS);
                dice.shuffle(&mut deck);
            }
            let Some(blow) = deck.pop() else {
                continue;
            };
            let victim = dice.below(self.replicas.len());
            let lasts = dice.millis(200, 4000);
            say(format_args!("{blow:?} at replica {victim} for {lasts:?}"));
            match (blow, self.replicas.get(victim)) {
                (Blow::Kill, Some(replica)) => {
                    self.figures.add(Figure::Kills, 1);
                    replica.lock().await.kill().await?;
                    sleep(lasts).await;
                    replica.lock().await.start()?;
                }
                (Blow::Cut(gate), Some(replica)) => {
                    self.figures.add(Figure::Cuts, 1);
                    replica.lock().await.network(gate);
                    sleep(lasts * 3).await;
                    replica.lock().await.network(Gate::Open);
                }
                (Blow::RollingRestart, _) => self.rolling_restart().await?,
                (_, None) => {}
            }
            sleep(dice.millis(500, 5000)).await;
        }
        Ok(())
    }

    /// SIGTERM to one after the other; each has to serve, or a while to pass, before the next one goes.
    async fn rolling_restart(&self) -> anyhow::Result<()> {
        self.figures.add(Figure::RollingRestarts, 1);
        for (number, replica) in self.replicas.iter().enumerate() {
            let mut replica = replica.lock().await;
            if !replica.stop().await? {
                self.figures.add(Figure::Insisted, 1);
                say(format_args!(
                    "replica {number} has not ended well:\n{}",
                    replica.log_tail()
                ));
            }
            replica.start()?;
            replica.is_ready_within(Duration::from_secs(15)).await;
        }
        Ok(())
    }

    /// Strikes the database until it is told to stop.
    pub(crate) async fn disasters(&self, mut dice: Dice, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut deck = Vec::new();
        loop {
            let mut stopped = stop.clone();
            let pause = dice.millis(10_000, 40_000);
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            }
            if deck.is_empty() {
                deck.extend(DISASTERS);
                dice.shuffle(&mut deck);
            }
            let Some(disaster) = deck.pop() else {
                continue;
            };
            say(format_args!("{disaster:?}"));
            match disaster {
                Disaster::Failover => {
                    self.figures.add(Figure::Failovers, 1);
                    self.cluster.lock().await.fail_over().await?;
                }
                Disaster::RestartOfEverything => self.restart_everything().await?,
            }
            say("the database has its standby again");
        }
    }

    async fn restart_everything(&self) -> anyhow::Result<()> {
        self.figures.add(Figure::Restarts, 1);
        for replica in self.replicas {
            replica.lock().await.kill().await?;
        }
        let crashed = self.cluster.lock().await.crash().await;
        for replica in self.replicas {
            replica.lock().await.start()?;
        }
        crashed
    }

    /// Starts what has ended by itself, until it is told to stop.
    pub(crate) async fn restarts(&self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        while !*stop.borrow() {
            for (number, replica) in self.replicas.iter().enumerate() {
                // Whoever holds it does something to it.
                let Ok(mut replica) = replica.try_lock() else {
                    continue;
                };
                if replica.has_ended_by_itself()? {
                    self.figures.add(Figure::EndedByThemselves, 1);
                    say(format_args!(
                        "replica {number} has ended:\n{}",
                        replica.log_tail()
                    ));
                    replica.start()?;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// Everything works again.
    pub(crate) async fn calm(&self) -> anyhow::Result<()> {
        for (number, replica) in self.replicas.iter().enumerate() {
            let mut replica = replica.lock().await;
            replica.network(Gate::Open);
            replica.start()?;
            anyhow::ensure!(
                replica.is_ready_within(PATIENCE).await,
                "replica {number} does not serve:\n{}\n{}",
                replica.log_tail(),
                self.cluster.lock().await.log_tail()
            );
        }
        Ok(())
    }
}

/// One line, with the time of day.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) fn say(what: impl std::fmt::Display) {
    let now = jiff::Zoned::now().strftime("%H:%M:%S");
    println!("{now} {what}");
}
