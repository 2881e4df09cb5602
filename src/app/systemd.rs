//! What systemd is told (`sd_notify(3)`): that the daemon serves, reloads its configuration, stops, and that it is
//! alive. Without `NOTIFY_SOCKET` nothing is told to anybody.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read. [`ready`] ends it.
pub(crate) fn reloading() {
    // Since systemd 253 the time must come along.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon stops: what is under way ends.
pub(crate) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("what is under way ends"),
    ]);
}

/// The daemon works.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd is to be told that the daemon works: twice in the time after which it would end it. A time of 0 is
/// that of a watchdog which is off.
pub(crate) fn heartbeat() -> Option<Duration> {
    let every = sd_notify::watchdog_enabled()? / 2;
    (!every.is_zero()).then_some(every)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd can not be told how the daemon does");
    }
}
