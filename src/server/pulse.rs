//! What the service manager hears of a running server: its status, and the watchdog's keep-alives.
//!
//! Owns their wording and their rhythm. It does not know how they are sent.
//!
//! Source: systemd's sd_notify(3).

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::ops::systemd::{self, NotifyState};

/// Feeds the watchdog from the accept loop, when a timer fires: so it goes hungry when the workers,
/// the timers or the loop are stuck, but not while the loop waits for a permit or for descriptors.
pub(super) struct Pulse(Option<Interval>);

impl Pulse {
    pub(super) fn new() -> Self {
        Self(systemd::watchdog().map(|limit| every(limit / 3)))
    }

    /// Completes when the watchdog has been fed. Cancel safe.
    pub(super) async fn beat(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                systemd::notify(&[NotifyState::Watchdog]).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// An interval whose first tick is one period away, and which does not catch up on missed ones.
pub(super) fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset();
    interval
}

/// The `STATUS=` line, and what it said last.
pub(super) struct Status {
    addrs: String,
    pub(super) reload_failed: bool,
    last: String,
}

impl Status {
    pub(super) fn new(addrs: String) -> Self {
        Self { addrs, reload_failed: false, last: String::new() }
    }

    /// The line for so many sessions.
    pub(super) fn render(&mut self, sessions: i64) -> &str {
        let failed = if self.reload_failed { "; the last reload was refused" } else { "" };
        self.last = format!("listening on {}; {sessions} sessions{failed}", self.addrs);
        &self.last
    }

    /// The same, unless it is the last one again.
    pub(super) fn changed(&mut self, sessions: i64) -> Option<&str> {
        let before = std::mem::take(&mut self.last);
        Some(self.render(sessions)).filter(|now| *now != before)
    }
}
