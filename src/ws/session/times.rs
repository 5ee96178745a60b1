//! What a session does when its time has come: pings, the ends of patience, the drain.
//!
//! Owns the one deadline of a session and what follows from it. It does not know sockets: what it
//! wants said it gives to the engine, and leaves the sending to the next turn.

use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{Asked, Ended, Scratch, Session, Timeouts};
use crate::net::listen::Transport;
use crate::ws::engine::Phase;

/// How long a client may be silent during the closing handshake, and after it.
const CLOSE_SILENCE: Duration = Duration::from_secs(2);
/// The longest life of a session that is never pinged.
const UNPINGED_LIFE: Duration = Duration::from_secs(60 * 60);
/// A deadline noticed later than this was slept over: the client gets another chance.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// What a session's timer is set for.
#[derive(Clone, Copy)]
pub(super) enum Due {
    /// Our side is closed, and the client has had its time to close its own.
    End,
    /// Nothing of the backlog was taken for too long.
    Write,
    /// Memory has been held for long.
    Memory,
    /// The client's Close is not waited for any longer.
    Leave,
    /// No byte came after a ping.
    Pong,
    /// The client was silent.
    Ping,
    /// A session without pings is an hour old.
    Age,
    /// The drain has come to this session.
    Drain,
    /// The drain waits no longer for the end of a message.
    Cut,
}

impl<S: Transport> Session<'_, S> {
    /// What will be due first if nothing happens before, and when.
    pub(super) fn due(&self) -> (Instant, Due) {
        let Timeouts { pong, write, close, .. } = *self.timeouts;
        if let Some(left) = self.left {
            return (left + CLOSE_SILENCE, Due::End);
        }
        // While output waits, a pong would wait behind it: then writing is what has to go on.
        let mut first = if !self.backlog.is_empty() {
            (self.progress + write, Due::Write)
        } else if let Some(closing) = self.closing {
            let silence = self.heard.max(closing) + CLOSE_SILENCE;
            (silence.min(closing + close), Due::Leave)
        } else if let Some(pinged) = self.pinged {
            (pinged + pong, Due::Pong)
        } else if let Some(interval) = self.interval {
            (self.heard + interval, Due::Ping)
        } else {
            (self.began + UNPINGED_LIFE, Due::Age)
        };
        let mut consider = |at: Instant, due: Due| {
            if at < first.0 {
                first = (at, due);
            }
        };
        if let Some(holding) = self.holding {
            consider(holding + write, Due::Memory);
        }
        if let (Some(slot), Phase::Open) = (self.slot, self.engine.phase()) {
            if self.asked.is_none() {
                consider(slot.due, Due::Drain);
            } else {
                consider(slot.deadline.checked_sub(close).unwrap_or(slot.due), Due::Cut);
            }
        }
        first
    }

    /// Does what is due. Each case moves the deadline, or ends the session.
    pub(super) fn act(&mut self, due: Due, now: Instant, scratch: &mut Scratch) -> Option<Ended> {
        const STOPPING: &str = "wsecho: the service is stopping";
        let Scratch { out, spare, .. } = scratch;
        out.clear();
        match due {
            Due::End => return Some(self.ended()),
            Due::Write => return Some(Ended::WriteTimeout),
            Due::Memory if self.shared.budget.is_spent() => return Some(Ended::MemorySpent),
            Due::Memory => self.holding = Some(now),
            Due::Leave => self.eof = true,
            Due::Pong if now < self.due().0 + OVERSLEPT => return Some(Ended::PongTimeout),
            Due::Pong | Due::Ping => {
                self.pinged = Some(now);
                self.engine.ping(&[], out);
            }
            Due::Age => {
                self.asked = Some(Asked::TooOld);
                let reason = "wsecho: a session with ping=off ends after an hour";
                self.engine.close(CloseCode::Normal, reason, out);
            }
            Due::Drain => {
                self.asked = Some(Asked::Draining);
                self.engine.close_after_message(CloseCode::Away, STOPPING, out);
            }
            Due::Cut => self.engine.close(CloseCode::Away, STOPPING, out),
        }
        self.owe(out, &[], 0, spare, now);
        None
    }
}
