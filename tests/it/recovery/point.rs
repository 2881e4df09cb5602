//! The steps of an issuance (SECURITY 4.2) at which the daemon is killed. It is not told of that: the CA and the client
//! hold what it waits for, or let it go at the moment of the kill.

use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::process::Daemon;
use crate::harness::storm::{Moment, Step, fraction};
use crate::harness::world::World;
use crate::recovery::client::{FINALIZES, VALID};

/// How long after an answer the daemon is killed at most: about as long as it takes to read and to store it.
const READING: Duration = Duration::from_millis(12);

/// How long a request takes at most to a daemon that is frozen.
const ON_THE_WAY: Duration = Duration::from_millis(30);

/// A step.
pub(crate) struct Point {
    name: &'static str,
    pub(crate) moment: Moment,
    pub(crate) request: Step,
}

const fn at(name: &'static str, moment: Moment, request: Step) -> Point {
    Point {
        name,
        moment,
        request,
    }
}

/// All of them, in the order of an issuance.
pub(crate) const POINTS: [Point; 14] = [
    at("CSR received, before commit 1", Moment::Received, FINALIZES),
    at("after commit 1, newOrder sent", Moment::Received, "new-order"),
    at("newOrder done, before commit 2", Moment::Done, "new-order"),
    at(
        "newOrder answered, around commit 2",
        Moment::Answered,
        "new-order",
    ),
    at("after commit 2, before finalize", Moment::Received, "order"),
    at("finalize sent", Moment::Received, "finalize"),
    at("finalize done, not answered", Moment::Done, "finalize"),
    at("finalize answered, around commit 3", Moment::Answered, "finalize"),
    at("poll sent", Moment::Received, "poll"),
    at("poll done, not answered", Moment::Done, "poll"),
    at("certificate asked for", Moment::Received, "certificate"),
    at("certificate sent, not received", Moment::Done, "certificate"),
    at(
        "certificate received, around commit 4",
        Moment::Answered,
        "certificate",
    ),
    at("after commit 4, before the client has it", Moment::Done, VALID),
];

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Point {
    /// Starts the daemon, and kills it as soon as an order has come here.
    pub(crate) async fn kill(&self, world: &World) {
        world.storm.stop(self.moment, self.request);
        let daemon = world.installation.start();
        self.kill_at(world, daemon).await;
    }

    /// Kills the daemon when a request has been stopped here.
    pub(crate) async fn kill_at(&self, world: &World, daemon: Daemon) {
        world.storm.has_caught_one().await;
        match (self.moment, self.request) {
            (_, FINALIZES) => {
                daemon.freeze();
                world.storm.let_go();
                sleep(ON_THE_WAY).await;
            }
            (Moment::Answered, _) => sleep(READING.mul_f64(fraction())).await,
            (Moment::Received | Moment::Done, _) => {}
        }
        daemon.kill().await;
        world.storm.let_go();
    }
}
