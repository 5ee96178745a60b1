//! What the engine keeps of a WebSocket between two turns.
//!
//! Owns the state of the unfinished message, its unfinished frame and the bytes held of it, and
//! how that memory grows. Knows no rules.

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::{Discard, End};
use super::out::Out;
use crate::ws::frame::{Mask, write_control};
use crate::ws::utf8::Utf8;

/// What is left between two turns; a connection without any of it is idle.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    pub(super) message: Message,
    pub(super) frame: Option<Frame>,
    /// What came of the current frame and was not sent: a part of a header, of a control frame's
    /// payload or, unmasked, of a data frame's. Empty between frames.
    pub(super) held: Vec<u8>,
    /// The payload of the newest ping that came while output was unsent.
    pub(super) pong: Option<Vec<u8>>,
    /// The end that the server asked for, once this message is echoed.
    pub(super) close_after_message: Option<Box<End>>,
}

/// The message that the peer has begun, if there is one.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Text or binary; `None` between messages.
    pub(super) kind: Option<Data>,
    /// Bytes of the reply that are declared so far, the prefix included.
    pub(super) size: u64,
    pub(super) empty_fragments: u16,
    pub(super) text: Utf8,
    /// Whether a part of it has been echoed.
    pub(super) begun: bool,
}

/// The frame that the peer has begun.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    pub(super) mask: Mask,
    /// Bytes of payload that have not come yet.
    pub(super) remaining: u64,
    /// Whether a part of it has been echoed.
    pub(super) begun: bool,
}

impl Unfinished {
    /// What to keep: nothing, if the connection is idle.
    pub(super) fn into_box(self) -> Option<Box<Self>> {
        (!self.is_idle()).then(|| Box::new(self))
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.at_message_boundary()
            && self.frame.is_none()
            && self.held.is_empty()
            && self.pong.is_none()
            && self.close_after_message.is_none()
    }

    /// Where in the peer's frames to go on reading when nothing more is echoed.
    pub(super) fn into_discard(self) -> Discard {
        match self.frame {
            Some(frame) => Discard::new(frame.remaining, &[]),
            None => Discard::new(0, &self.held),
        }
    }

    pub(super) fn at_message_boundary(&self) -> bool {
        self.message.kind.is_none()
    }

    #[inline]
    pub(super) fn release_pong(&mut self, out: &mut Out) {
        if let Some(payload) = self.pong.take() {
            write_control(out.copied(), Control::Pong, &payload);
        }
    }

    /// Holds `bytes`; `goal` is the most that will ever be held together with them.
    ///
    /// The memory doubles towards the goal, and the goal is at most one fragment: what a peer
    /// merely declares costs nothing.
    pub(super) fn hold(&mut self, bytes: &[u8], goal: usize) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let capacity = needed.max(goal.min(2 * self.held.capacity()));
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }
}

impl Message {
    pub(super) fn owes_prefix(&self) -> bool {
        self.kind == Some(Data::Text) && !self.begun
    }
}
