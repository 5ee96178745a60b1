//! How an endpoint echoes.
//!
//! Owns the prefix, plain and as a stored block (RFC 1951, section 3.2.4). It does not know when it is
//! sent.

use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

use super::End;
use crate::ws::deflate::stored;

/// How an endpoint echoes; shared by its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    pub(super) prefix: Box<str>,
    /// The prefix as it goes before compressed text.
    pub(super) stored_prefix: Box<[u8]>,
    /// The largest reply in bytes: the payload of all fragments of a message, inflated, and for
    /// text the prefix; headers do not count.
    pub max_message_size: u64,
    /// Whether each frame is answered by one frame, however long; it is held until all of it has
    /// come.
    pub whole_frames: bool,
    /// How many messages are echoed before the server ends the WebSocket by itself, and how; at least
    /// one.
    pub last: Option<Box<(u64, End)>>,
}

impl Echo {
    /// Echoes with `prefix` before each text message, empty ones too, and never before a binary
    /// one.
    ///
    /// It is part of the message's first fragment: keep it well under 64 KiB.
    #[must_use]
    pub fn new(prefix: &str, max_message_size: u64) -> Self {
        let stored_prefix = stored(prefix.as_bytes());
        let (whole_frames, last) = (false, None);
        Self { prefix: prefix.into(), stored_prefix, max_message_size, whole_frames, last }
    }

    /// What goes before a compressed message of this type.
    #[inline]
    pub(super) fn stored_prefix_of(&self, kind: Data) -> &[u8] {
        if kind == Data::Text { &self.stored_prefix } else { b"" }
    }

    /// What goes before a message of this type.
    #[inline]
    pub(super) fn prefix_of(&self, kind: Data) -> &[u8] {
        if kind == Data::Text { self.prefix.as_bytes() } else { b"" }
    }
}

impl Default for Echo {
    fn default() -> Self {
        Self::new("", 1 << 20)
    }
}
