//! Composes replies: sent whole, cut into fragments, or held. RFC 6455 section 5.4.
//!
//! Owns what is owed to the client (held payload, a pong) and the rules for cutting. Knows neither
//! how frames are read nor how a connection ends.
//!
//! The client's frame is also the frame of the reply, except where that would cost too much:
//!
//! - A reply of up to 64 KiB goes out as one frame, once all of it has come. Many clients refuse
//!   larger frames by default, and few handle fragments well.
//! - A larger one is echoed as it comes, so that nobody can make us hold it. It becomes fragments
//!   of 16 to 64 KiB, the last one excepted: small enough that a Close or a pong can go between
//!   them soon, large enough that headers and writes cost little.
//! - If the client asked for whole frames, each of its frames is held until all of it has come, and
//!   goes out as one, however long.
//! - A cut of ours never divides a character of a text, because some clients decode each fragment
//!   by itself. Fragments of the client are echoed as they are, even if they divide one.

use std::ops::Range;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::out::{COPY_BELOW, Out};
use super::reader::Part;
use super::{Echo, Pressure};
use crate::ws::frame::{write_control, write_header};
use crate::ws::utf8::is_continuation;

/// A reply up to this size goes out as one frame, a larger one in fragments of at most this.
const MAX_FRAGMENT: usize = 64 * 1024;

/// Fragments that we cut ourselves are at least this long, except the last of a frame.
const MIN_FRAGMENT: usize = 16 * 1024;

/// What may be held when no memory is left: little enough to go uncharged.
pub(super) const HELD_UNDER_PRESSURE: usize = COPY_BELOW;

/// A cut may move past the character it would divide, by at most this many bytes.
const CHARACTER_REST: usize = 3;

/// What is owed to the client: all that is kept of the output between two turns.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Whether part of the message has been echoed, and with it the type and the prefix.
    message_begun: bool,
    /// Whether part of the client's current frame has been echoed.
    frame_begun: bool,
    /// Payload of the client's current frame that is not sent yet.
    held: Vec<u8>,
    /// The payload of the newest ping that came while output was unsent.
    pong: Option<Vec<u8>>,
}

/// The payload of one frame, in the order in which it is sent; any of it may be empty.
struct Payload<'a> {
    /// Our own bytes: the prefix of a text message, as a stored block if that is compressed.
    lead: &'a [u8],
    /// What came in earlier windows.
    held: Vec<u8>,
    /// What is in this window.
    part: Range<usize>,
}

/// Composes the replies to one window.
pub(super) struct Composer<'a> {
    outgoing: &'a mut Outgoing,
    echo: &'a Echo,
    out: &'a mut Out,
    pressure: Pressure,
    bytes_out: &'a mut u64,
}

impl Outgoing {
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        !self.message_begun && self.held.is_empty() && self.pong.is_none()
    }

    pub(super) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    #[inline]
    pub(super) fn release_pong(&mut self, out: &mut Out) {
        if let Some(payload) = self.pong.take() {
            write_control(out.copied(), Control::Pong, &payload);
        }
    }

    /// Holds `bytes`; `goal` is the most that will ever be held together with them.
    ///
    /// The memory doubles towards the goal: what a client merely declares costs nothing.
    fn hold(&mut self, bytes: &[u8], goal: usize) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let capacity = needed.max(goal.min(2 * self.held.capacity()));
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }
}

impl<'a> Composer<'a> {
    /// A pong that was kept back goes out first, if nothing is unsent any more.
    pub(super) fn new(
        outgoing: &'a mut Outgoing,
        echo: &'a Echo,
        out: &'a mut Out,
        pressure: Pressure,
        bytes_out: &'a mut u64,
    ) -> Self {
        let mut composer = Self { outgoing, echo, out, pressure, bytes_out };
        if !pressure.unsent {
            composer.release_pong();
        }
        composer
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.is_idle()
    }

    /// Whether the output should be sent before more is added.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full()
    }

    #[inline]
    pub(super) fn release_pong(&mut self) {
        self.outgoing.release_pong(self.out);
    }

    /// Answers a ping, now or once earlier output is sent: then the newest ping alone counts.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if self.pressure.unsent {
            let newest = self.outgoing.pong.get_or_insert_default();
            newest.clear();
            newest.extend_from_slice(payload);
        } else {
            write_control(self.out.copied(), Control::Pong, payload);
        }
    }

    /// Echoes a message that came in one short frame, when nothing else is owed.
    #[inline]
    pub(super) fn short_message(&mut self, kind: Data, payload: &[u8]) {
        let prefix = self.echo.prefix_of(kind);
        let size = prefix.len() + payload.len();
        let copied = self.out.copied();
        write_header(copied, true, false, OpCode::Data(kind), size);
        copied.extend_from_slice(prefix);
        copied.extend_from_slice(payload);
        *self.bytes_out += size as u64;
    }

    /// Echoes a part of a data frame, or holds what cannot be echoed yet.
    #[inline]
    pub(super) fn echo(&mut self, part: &Part, window: &[u8]) {
        if part.remaining > 0 {
            self.echo_some(part, window);
            return;
        }
        self.echo_rest(part, window);
        self.outgoing.frame_begun = false;
        if part.fin {
            self.outgoing.message_begun = false;
        }
    }

    /// Echoes the end of a frame, or all of it.
    #[inline]
    fn echo_rest(&mut self, part: &Part, window: &[u8]) {
        let Range { mut start, end } = part.payload;
        loop {
            let cut = self.cut(part, start..end, window);
            let last = cut == end;
            self.fragment(part.fin && last, part, start..cut, window);
            if last {
                return;
            }
            start = cut;
        }
    }

    /// Echoes what may be echoed of a frame that continues in a later window, and holds the rest.
    ///
    /// The frame is held while its reply may still go out whole, that is until it is complete or
    /// memory runs out. If it is too large for that, only what would make too short a fragment is
    /// held.
    fn echo_some(&mut self, part: &Part, window: &[u8]) {
        let (whole_to, part_from) = if self.echo.whole_frames {
            (usize::MAX, usize::MAX)
        } else if self.pressure.memory_spent {
            (HELD_UNDER_PRESSURE, HELD_UNDER_PRESSURE)
        } else {
            (MAX_FRAGMENT, MIN_FRAGMENT)
        };
        // A character that has only begun is held, so that our own cuts do not divide it. If all
        // of this part belongs to one, some of it may be held already, and there is no place to cut.
        let Part { remaining, unfinished, payload: Range { mut start, end }, .. } = *part;
        loop {
            let at_hand = self.before(part) + (end - start);
            let all = (at_hand as u64).saturating_add(remaining);
            let whole = !self.outgoing.frame_begun && all <= whole_to as u64;
            if whole || unfinished > end - start || at_hand - unfinished < part_from {
                let most = if whole { whole_to } else { part_from };
                let goal = usize::try_from(all).map_or(most, |all| all.min(most));
                self.outgoing.hold(&window[start..end], goal);
                return;
            }
            let cut = self.cut(part, start..end - unfinished, window);
            self.fragment(false, part, start..cut, window);
            self.outgoing.frame_begun = true;
            start = cut;
        }
    }

    /// What goes before the client's payload in the next fragment.
    #[inline]
    fn lead(&self, message: &Part) -> &'a [u8] {
        if self.outgoing.message_begun {
            b""
        } else if message.compressed {
            self.echo.stored_prefix_of(message.kind)
        } else {
            self.echo.prefix_of(message.kind)
        }
    }

    /// The bytes that the next fragment carries before any of the window.
    #[inline]
    fn before(&self, message: &Part) -> usize {
        self.lead(message).len() + self.outgoing.held.len()
    }

    /// Where in the window the next fragment ends, if all of `part` is to be sent: fragments of
    /// about equal size, so that none is too short, none over the maximum, no character divided.
    #[inline]
    fn cut(&self, message: &Part, part: Range<usize>, window: &[u8]) -> usize {
        let before = self.before(message);
        let size = before + part.len();
        if size <= MAX_FRAGMENT || self.echo.whole_frames {
            return part.end;
        }
        // Each fragment leaves room for the bytes by which its end may move.
        let fragments = size.div_ceil(MAX_FRAGMENT - CHARACTER_REST);
        let mut cut = part.start + size.div_ceil(fragments).saturating_sub(before);
        if message.kind == Data::Text && !message.compressed {
            while cut < part.end && is_continuation(window[cut]) {
                cut += 1;
            }
        }
        cut
    }

    /// Appends one frame: what is owed from before, then the given part of the window.
    #[inline]
    fn fragment(&mut self, fin: bool, message: &Part, part: Range<usize>, window: &[u8]) {
        let held = std::mem::take(&mut self.outgoing.held);
        let payload = Payload { lead: self.lead(message), held, part };
        let first = !self.outgoing.message_begun;
        let kind = if first { message.kind } else { Data::Continue };
        self.release_pong();
        self.frame(fin, first && message.compressed, kind, payload, window);
        self.outgoing.message_begun = true;
    }

    #[inline]
    fn frame(&mut self, fin: bool, rsv1: bool, kind: Data, payload: Payload<'_>, window: &[u8]) {
        let Payload { lead, held, part } = payload;
        let len = lead.len() + held.len() + part.len();
        write_header(self.out.copied(), fin, rsv1, OpCode::Data(kind), len);
        self.out.copied().extend_from_slice(lead);
        if !held.is_empty() {
            self.out.held(held);
        }
        self.out.window(window, part);
        *self.bytes_out += len as u64;
    }
}
