//! How a session ended.
//!
//! Owns the labels and sentences for logs and metrics. It does not know what led to the end.

use std::fmt;
use std::io;

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::ops::metrics::Label;
use crate::ws::engine::End;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a Close frame: the client's, or ours for something the client did.
    Closed(End),
    /// The service was stopping: 1001.
    Draining,
    /// A session without pings has reached its age limit: 1000.
    TooOld,
    /// The client's side of the connection ended without a Close frame.
    Eof,
    /// The connection failed.
    Broken(io::ErrorKind),
    /// No byte came after a ping.
    PongTimeout,
    /// The client stopped reading.
    WriteTimeout,
    /// It held memory for too long while the process had none left.
    MemorySpent,
    /// The service stopped before the session ended.
    Aborted,
    /// A bug.
    Panicked,
}

impl Ended {
    /// The end of a session whose engine stopped for this reason.
    ///
    /// On its own account the server closes for two reasons only, each with a code of its own.
    pub(super) fn by(end: &End) -> Self {
        match end {
            End::Server { code: CloseCode::Away, .. } => Self::Draining,
            End::Server { .. } => Self::TooOld,
            end => Self::Closed(end.clone()),
        }
    }
}

impl Label for Ended {
    fn label(&self) -> &'static str {
        match self {
            Self::Closed(end) => end.label(),
            Self::Draining => "draining",
            Self::TooOld => "too_old",
            Self::Eof => "eof",
            Self::Broken(_) => "broken",
            Self::PongTimeout => "pong_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::MemorySpent => "memory_spent",
            Self::Aborted => "aborted",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(End::Peer { code: Some(code), .. }) => {
                write!(f, "closed by the client with {}", u16::from(*code))
            }
            Self::Closed(End::Peer { code: None, .. }) => f.write_str("closed by the client"),
            Self::Closed(end) => {
                let code = end.code().map_or(0, u16::from);
                write!(f, "closed with {code}, {}", end.reason())
            }
            Self::Draining => f.write_str("closed with 1001, the service is stopping"),
            Self::TooOld => {
                f.write_str("closed with 1000, sessions with ping=off end after an hour")
            }
            Self::Eof => {
                f.write_str("the client or a proxy closed the connection without a Close frame")
            }
            Self::Broken(kind) => write!(f, "the connection failed: {kind}"),
            Self::PongTimeout => f.write_str("nothing arrived within timeouts.pong after a ping"),
            Self::WriteTimeout => f.write_str("the client read nothing within timeouts.write"),
            Self::MemorySpent => f.write_str(
                "its buffers were held too long while limits.buffer_budget was exhausted",
            ),
            Self::Aborted => {
                f.write_str("aborted, the service stopped before the session had ended")
            }
            Self::Panicked => f.write_str("by a panic, which is logged above"),
        }
    }
}
