//! How a session ended.
//!
//! Owns the labels and sentences of logs and metrics. It does not know how it came to that.

use std::fmt;
use std::io;

use crate::ops::metrics::Label;
use crate::ws::engine::End;

/// How a session ended. It knows its label and its sentence.
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
    /// The connection broke.
    Broken(io::ErrorKind),
    /// No byte came after a ping.
    PongTimeout,
    /// No byte was taken of what the client is owed.
    WriteTimeout,
    /// It held memory for too long while the process had none left.
    MemorySpent,
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
            Self::TooOld => f.write_str("closed with 1000, an hour without pings is over"),
            Self::Eof => {
                f.write_str("the client or the path closed the connection without a Close frame")
            }
            Self::Broken(kind) => write!(f, "the connection broke: {kind}"),
            Self::PongTimeout => f.write_str("no byte came within timeouts.pong after a ping"),
            Self::WriteTimeout => f.write_str("no byte was taken within timeouts.write"),
            Self::MemorySpent => {
                f.write_str("unsent output was held too long while limits.buffer_budget was spent")
            }
        }
    }
}
