//! What a session does when a time has passed: pings, timeouts, the drain.
//!
//! Owns the one deadline of a session and what follows from it. It does not know sockets: what is
//! to be said goes to the engine, and the next turn sends it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::stage::Stage;
use super::{Ended, Scratch, Session};
use crate::net::stream::Transport;
use crate::ws::engine::Phase;

/// The times of a session: `[timeouts]` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A client that has been silent for this long, give or take a tenth, is pinged.
    pub ping_interval: Duration,
    /// A pinged client is dropped if nothing arrives from it for this long, and the time it may
    /// need for what it was sent before.
    pub pong: Duration,
    /// A client is dropped if it reads nothing of its unsent output for this long, and the time it
    /// may need for what it was sent before.
    pub write: Duration,
    /// How long the closing handshake may take, or the time that the client may need for what it was
    /// sent before if that is longer.
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            pong: Duration::from_secs(20),
            write: Duration::from_secs(30),
            close: Duration::from_secs(5),
        }
    }
}

/// How long a client may be silent during the closing handshake if it has little to read before our
/// Close, and before its FIN.
const CLOSE_SILENCE: Duration = Duration::from_secs(2);
/// The longest life of a session that is never pinged.
const UNPINGED_LIFE: Duration = Duration::from_secs(60 * 60);
/// How often a session that waits for memory looks for some.
const RETRY: Duration = Duration::from_millis(200);
/// A pong deadline noticed this late means that we were suspended: the client is pinged once more.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// What a session's timer is set for.
#[derive(Clone, Copy)]
pub(super) enum Due {
    /// Our side is closed, and the client has had its time to close its own.
    End,
    /// The client stopped reading.
    Write,
    /// Memory has been held for long.
    Memory,
    /// There may be memory again.
    Retry,
    /// The client has had its time to send its Close.
    Leave,
    /// Nothing arrived after a ping.
    Pong,
    /// The client was silent.
    Ping,
    /// A session without pings is an hour old.
    Age,
    /// The time has come that the script sets for the end.
    Close,
    /// The session's slot in the drain has come.
    Drain,
    /// The drain no longer waits for the end of a message.
    Cut,
}

impl<S: Transport> Session<'_, S> {
    /// What is due first if nothing happens before then, and when.
    pub(super) fn due(&self) -> (Instant, Due) {
        let Timeouts { pong, write, close, .. } = *self.timeouts;
        if let Stage::Leaving { since, .. } = self.stage {
            return (since + CLOSE_SILENCE, Due::End);
        }
        // While output is unsent we may not be reading, and so miss the pong: then the client has
        // to read on instead.
        let mut first = if !self.backlog.is_empty() {
            (self.progress + write + self.allowance(), Due::Write)
        } else if let Stage::Closing { since } = self.stage {
            let heard = self.heard.map_or(since, |heard| heard.max(since));
            let patience = |most: Duration| most.max(self.allowance());
            ((heard + patience(CLOSE_SILENCE)).min(since + patience(close)), Due::Leave)
        } else if self.unread.is_some() {
            // Nothing can be heard while we do not read.
            (self.progress + RETRY, Due::Retry)
        } else if let Some(pinged) = self.pinged {
            (pinged + pong + self.allowance(), Due::Pong)
        } else if let Some(silence) = self.plan.ping() {
            (self.heard.unwrap_or(self.began) + silence, Due::Ping)
        } else {
            (self.began + UNPINGED_LIFE, Due::Age)
        };
        if let Some((time, _)) = self.plan.close().filter(|_| self.engine.phase() == Phase::Open) {
            // Of two at the same time, the one that was asked for.
            if self.began + time <= first.0 {
                first = (self.began + time, Due::Close);
            }
        }
        let mut consider = |at: Instant, due: Due| {
            if at < first.0 {
                first = (at, due);
            }
        };
        if let Some(holding) = self.holding {
            consider(holding + write, Due::Memory);
        }
        if self.engine.phase() == Phase::Open {
            match self.stage {
                Stage::Draining { slot, .. } => consider(slot, Due::Drain),
                Stage::LastMessage { fed } => consider(self.cut(fed), Due::Cut),
                _ => {}
            }
        }
        first
    }

    /// How much longer than configured to wait for the client.
    fn allowance(&self) -> Duration {
        self.unproven.allowance(self.timeouts.write)
    }

    /// When the drain stops waiting for the end of a message: once nothing more has come of it for
    /// `timeouts.close`, and in time for the client to answer our Close.
    fn cut(&self, fed: Instant) -> Instant {
        let close = self.timeouts.close;
        let last = self.shared.drain.deadline().and_then(|deadline| deadline.checked_sub(close));
        last.map_or(fed + close, |last| last.min(fed + close))
    }

    /// Does what is due. Each case moves the deadline, or ends the session.
    pub(super) fn act(&mut self, due: Due, now: Instant, scratch: &mut Scratch) -> Option<Ended> {
        const STOPPING: &str = "wsecho: the service is stopping";
        const SPENT: &str = "wsecho: out of memory (limits.buffer_budget), try again later";
        let Scratch { out, spare, .. } = scratch;
        out.clear();
        match due {
            Due::End => return Some(self.ended()),
            Due::Write => {
                self.stream.abandon();
                return Some(Ended::WriteTimeout(self.allowance()));
            }
            Due::Memory => {
                self.holding = Some(now);
                if self.shared.budget.is_spent() {
                    // Behind unsent output, a Close would have to wait for the client.
                    if !self.backlog.is_empty() || self.engine.phase() != Phase::Open {
                        self.stream.abandon();
                        return Some(Ended::MemorySpent);
                    }
                    self.engine.close(CloseCode::Again, SPENT, out);
                }
            }
            Due::Retry => self.progress = now,
            Due::Leave => self.stage = Stage::Flushing,
            Due::Pong if now < self.due().0 + OVERSLEPT => {
                return Some(Ended::PongTimeout(self.allowance()));
            }
            Due::Pong | Due::Ping => {
                self.pinged = Some(now);
                self.unproven.pinged();
                self.engine.ping(&[], out);
            }
            Due::Age => {
                let reason = "wsecho: sessions with ping=off end after an hour";
                self.engine.close(CloseCode::Normal, reason, out);
            }
            Due::Close => {
                if let Some((_, closing)) = self.plan.close() {
                    self.engine.close_with(closing.end.clone(), out);
                }
            }
            Due::Drain => {
                if let Stage::Draining { fed, .. } = self.stage {
                    self.stage = Stage::LastMessage { fed };
                }
                self.engine.close_after_message(CloseCode::Away, STOPPING, out);
            }
            // Nothing can come while we do not read.
            Due::Cut if self.room() == 0 && now < self.cut(now) => self.stage.feed(now),
            Due::Cut => self.engine.close(CloseCode::Away, STOPPING, out),
        }
        self.owe(out, &[], 0, spare, now);
        None
    }
}
