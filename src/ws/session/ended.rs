//! How a session ended.
//!
//! Owns the labels and sentences for logs and metrics. It does not know what led to the end.

use std::fmt;
use std::io;
use std::time::Duration;

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
    /// As one of these two, but at once, and without a byte from the client.
    NeverUsed(Option<io::ErrorKind>),
    /// No byte came after a ping, for `timeouts.pong` and this much longer.
    PongTimeout(Duration),
    /// The client stopped reading, for `timeouts.write` and this much longer.
    WriteTimeout(Duration),
    /// It held memory for too long while the process had none left: 1013, unless output was unsent.
    MemorySpent,
    /// The service stopped before the session ended.
    Aborted,
    /// A bug.
    Panicked,
}

impl Ended {
    /// The end of a session whose engine stopped for this reason.
    ///
    /// On its own account the server closes for three reasons only, each with a code of its own.
    pub(super) fn by(end: &End) -> Self {
        match end {
            End::Server { code: CloseCode::Away, .. } => Self::Draining,
            End::Server { code: CloseCode::Again, .. } => Self::MemorySpent,
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
            Self::Eof | Self::NeverUsed(None) => "eof",
            Self::Broken(_) | Self::NeverUsed(Some(_)) => "broken",
            Self::PongTimeout(_) => "pong_timeout",
            Self::WriteTimeout(_) => "write_timeout",
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
            Self::Closed(End::Requested { code, .. }) => {
                write!(f, "closed with {}, as the client's URL asked", u16::from(*code))
            }
            Self::Closed(End::Told) => f.write_str("closed with 1000, all was said"),
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
            Self::NeverUsed(kind) => {
                f.write_str(
                    "the client never sent a byte, a proxy in front may not carry WebSockets through",
                )?;
                kind.map_or(Ok(()), |kind| write!(f, ": {kind}"))
            }
            Self::PongTimeout(more) => {
                write!(f, "nothing arrived within timeouts.pong{} after a ping", Plus(*more))
            }
            Self::WriteTimeout(more) => {
                write!(f, "the client read nothing within timeouts.write{}", Plus(*more))
            }
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

/// The time that a client was given to read what it had been sent.
struct Plus(Duration);

impl fmt::Display for Plus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            0.0..0.05 => Ok(()),
            more => write!(f, " + {more:.1} s to read what it was sent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_the_time_that_was_given() {
        let sentence = |millis| Ended::WriteTimeout(Duration::from_millis(millis)).to_string();
        assert_eq!(sentence(4), "the client read nothing within timeouts.write");
        let more =
            "the client read nothing within timeouts.write + 87.5 s to read what it was sent";
        assert_eq!(sentence(87_500), more);
    }

    #[test]
    fn a_session_that_was_never_used_keeps_the_label_of_its_end() {
        let reset = Ended::NeverUsed(Some(io::ErrorKind::ConnectionReset));
        assert_eq!((Ended::NeverUsed(None).label(), reset.label()), ("eof", "broken"));
        assert_eq!(
            reset.to_string(),
            "the client never sent a byte, a proxy in front may not carry WebSockets through: \
             connection reset"
        );
    }
}
