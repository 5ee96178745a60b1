//! How far a session has come, and its way out: Close, FIN, the client's FIN (RFC 6455, 7.1.1).
//!
//! Owns the stages and when the connection is closed. It does not know when a stage has lasted too
//! long: that is for `times`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::{Ended, Session};
use crate::net::stream::Transport;
use crate::ws::engine::Phase;

/// A session that ends this soon without a byte has probably failed in front of us: a client that
/// changed its mind closes with a Close frame.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How far a session has come. It never goes back.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// Messages are echoed.
    Open {
        /// Whether the drain will wake us when it begins.
        registered: bool,
    },
    /// The service is stopping: messages are echoed until this session's slot.
    Draining {
        slot: Instant,
        /// When payload last came; at first, when the drain began.
        fed: Instant,
    },
    /// The slot has come: the session closes once the unfinished message is echoed.
    LastMessage { fed: Instant },
    /// The socket took our Close, and the client's has not come.
    Closing {
        /// When the socket took it.
        since: Instant,
    },
    /// The client has nothing more to say, or no more time to say it: what it is owed is sent.
    Flushing,
    /// Everything is sent: our side of the connection is closed, then the client's.
    Leaving {
        since: Instant,
        /// Whether our FIN is sent.
        shut: bool,
        /// Whether the client's FIN has come, or is no longer waited for.
        eof: bool,
    },
}

impl Stage {
    /// Whether anything from the client is still of interest.
    pub(super) fn reads(self) -> bool {
        !matches!(self, Self::Flushing | Self::Leaving { eof: true, .. })
    }

    /// The stage after the client's side of the connection has ended.
    pub(super) fn after_eof(self) -> Self {
        match self {
            Self::Leaving { since, shut, .. } => Self::Leaving { since, shut, eof: true },
            _ => Self::Flushing,
        }
    }

    /// The stage after the socket has taken our Close, if the client's has not come.
    pub(super) fn after_our_close(self, now: Instant) -> Self {
        match self {
            Self::Open { .. } | Self::Draining { .. } | Self::LastMessage { .. } => {
                Self::Closing { since: now }
            }
            later => later,
        }
    }

    /// Notes that payload came, or might have come if we had read.
    pub(super) fn feed(&mut self, now: Instant) {
        if let Self::Draining { fed, .. } | Self::LastMessage { fed } = self {
            *fed = now;
        }
    }
}

impl<S: Transport> Session<'_, S> {
    /// Whether nothing remains but to send what is owed and to close the connection.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Flushing | Stage::Leaving { .. })
            || self.engine.phase() == Phase::Closed
    }

    /// Closes our side of the connection. After both Close frames, waits for the client to close
    /// its own: a connection that is closed while bytes are in flight is reset, and a reset can
    /// overtake our Close.
    pub(super) fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let (since, mut shut, eof) = match self.stage {
            Stage::Leaving { since, shut, eof } => (since, shut, eof),
            stage => (Instant::now(), false, !stage.reads()),
        };
        if !shut {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Pending => {}
            }
        }
        self.stage = Stage::Leaving { since, shut, eof };
        if shut && eof { Poll::Ready(self.ended()) } else { Poll::Pending }
    }

    /// How the session ended, if it ends now.
    pub(super) fn ended(&self) -> Ended {
        let eof = || if self.was_never_used() { Ended::NeverUsed(None) } else { Ended::Eof };
        self.engine.end().map_or_else(eof, Ended::by)
    }

    /// How the session ended, if the connection breaks now: an end by Close frames stands.
    pub(super) fn broken(&self, error: &io::Error) -> Ended {
        let kind = error.kind();
        let broken = || {
            if self.was_never_used() { Ended::NeverUsed(Some(kind)) } else { Ended::Broken(kind) }
        };
        self.engine.end().map_or_else(broken, Ended::by)
    }

    /// Whether the connection ended at once without a byte from the client.
    fn was_never_used(&self) -> bool {
        self.heard.is_none() && self.began.elapsed() < AT_ONCE
    }
}
