//! Reads and judges a client's frames, RFC 6455 sections 5.2 to 5.5 and 8.1.
//!
//! Owns what the client has begun (a header, a frame, a message) and every rule that may refuse it.
//! Does not know what is sent in reply, nor what happens after a refusal.
//!
//! Whatever a header alone can decide is decided on the header, before any payload has come.

use std::borrow::Cow;
use std::ops::Range;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Echo;
use super::close::{Discard, End, Ending, MAX_EMPTY_FRAGMENTS};
use super::compression::{Compression, Terms};
use super::reply::HELD_UNDER_PRESSURE;
use crate::ws::deflate::inflate::{Inflaters, Refused};
use crate::ws::deflate::max_compressed_size;
use crate::ws::frame::{FrameHeader, MAX_CONTROL_PAYLOAD, Mask, PartialHeader, Violation};
use crate::ws::utf8::Utf8;

/// Text is unmasked and validated in blocks of this size, so that validation finds each block in
/// the fastest cache.
const TEXT_BLOCK: usize = 16 * 1024;

/// What the client has begun and not finished: all that is kept of its input between two turns.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    header: PartialHeader,
    frame: Option<Frame>,
    message: Option<Message>,
    /// The payload so far of an unfinished control frame, unmasked.
    control: Vec<u8>,
    /// Whether the rest of the window was left until there is memory.
    awaits_memory: bool,
}

#[derive(Debug)]
struct Frame {
    fin: bool,
    opcode: OpCode,
    mask: Mask,
    /// Bytes of payload that have not come yet.
    remaining: u64,
}

#[derive(Debug)]
struct Message {
    /// Text or binary.
    kind: Data,
    /// As declared so far: bytes of the reply, the prefix included, or compressed bytes.
    size: u64,
    empty_fragments: u16,
    text: Utf8,
    compression: Option<Compression>,
}

/// What the reader found next in the window.
pub(super) enum Event<'a> {
    /// Payload of a data frame.
    Data(Part),
    /// A complete control frame and its payload.
    Control(Control, Cow<'a, [u8]>),
}

/// Payload of a data frame: all of it, or as much as the window holds.
#[derive(Debug)]
pub(super) struct Part {
    /// Text or binary: the type of the message, also in its continuation frames.
    pub(super) kind: Data,
    /// Whether the message is compressed.
    pub(super) compressed: bool,
    /// Whether the frame ends its message.
    pub(super) fin: bool,
    /// Bytes of the frame that are still to come.
    pub(super) remaining: u64,
    /// Bytes at the end that belong to an unfinished character of a text, 0 to 3. Some of them may
    /// have come before this part. Always 0 in a compressed message, which has none to divide.
    pub(super) unfinished: usize,
    /// Where the payload is in the window: unmasked and valid so far.
    pub(super) payload: Range<usize>,
}

/// Reads one window.
pub(super) struct Reader<'a> {
    incoming: &'a mut Incoming,
    echo: &'a Echo,
    window: &'a mut [u8],
    /// How much of the window has been taken.
    taken: usize,
    bytes_in: &'a mut u64,
    compression: Terms<'a>,
}

impl Incoming {
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.message.is_none() && self.frame.is_none() && self.header.is_empty()
    }

    pub(super) fn at_message_boundary(&self) -> bool {
        self.message.is_none()
    }

    /// Bytes of a data frame that has begun and are still to come.
    pub(super) fn remaining(&self) -> u64 {
        let data = self.frame.as_ref().filter(|it| matches!(it.opcode, OpCode::Data(_)));
        data.map_or(0, |frame| frame.remaining)
    }

    /// The bytes of memory it takes beyond its own.
    pub(super) fn held_capacity(&self) -> usize {
        let compression = self.message.as_ref().and_then(|message| message.compression.as_ref());
        compression.map_or(0, Compression::held_capacity)
    }

    /// Whether it goes on only when there is memory again.
    pub(super) fn awaits_memory(&self) -> bool {
        self.awaits_memory
    }

    /// Where among the client's frames to look for its Close once nothing more is echoed; `None` if
    /// it has begun to come.
    pub(super) fn into_discard(self) -> Option<Discard> {
        match self.frame {
            Some(Frame { opcode: OpCode::Control(Control::Close), .. }) => None,
            Some(frame) => Some(Discard::skipping(frame.remaining)),
            None => Some(Discard::within(self.header)),
        }
    }
}

impl Message {
    fn new(kind: Data, compressed: bool, echo: &Echo) -> Self {
        let prefix = echo.prefix_of(kind).len() as u64;
        let room = echo.max_message_size.saturating_sub(prefix);
        let compression = compressed.then(|| Compression::new(room));
        let size = if compressed { 0 } else { prefix };
        Self { kind, size, empty_fragments: 0, text: Utf8::default(), compression }
    }

    /// Adds the declared length of a frame; `limit` is that of the reply.
    #[inline]
    fn declare(&mut self, len: u64, limit: u64) -> Result<(), End> {
        self.size = self.size.saturating_add(len);
        if self.compression.is_none() {
            return if self.size > limit { Err(End::TooBig(limit)) } else { Ok(()) };
        }
        let limit = max_compressed_size(limit);
        if self.size > limit { Err(End::TooMuchCompressed(limit)) } else { Ok(()) }
    }

    /// Ends a compressed message.
    fn finish(self, inflaters: &mut Inflaters) -> Result<(), Refused> {
        if let Some(compression) = self.compression {
            compression.finish(inflaters)?;
        }
        if self.text.unfinished() > 0 { Err(Refused::NotText) } else { Ok(()) }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        incoming: &'a mut Incoming,
        echo: &'a Echo,
        window: &'a mut [u8],
        bytes_in: &'a mut u64,
        compression: Terms<'a>,
    ) -> Self {
        incoming.awaits_memory = false;
        Self { incoming, echo, window, taken: 0, bytes_in, compression }
    }

    /// How much of the window was taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether all of the window was taken.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.taken == self.window.len()
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.incoming.is_idle()
    }

    #[inline]
    pub(super) fn window(&self) -> &[u8] {
        self.window
    }

    /// The next message, if it is there completely, in one short frame: the most common case by
    /// far, at a third of the cost. To be called between messages only.
    ///
    /// Whatever is not plainly in order is left as it came, for [`Reader::next`] to judge.
    #[inline]
    pub(super) fn short_message(&mut self) -> Option<(Data, &[u8])> {
        let [first @ (0x81 | 0x82), masked, k0, k1, k2, k3, tail @ ..] =
            &mut self.window[self.taken..]
        else {
            return None;
        };
        let kind = if *first == 0x81 { Data::Text } else { Data::Binary };
        // Without the mask bit this wraps around to more than a short frame may hold, as do the
        // two values that announce a longer form of the length.
        let len = usize::from(masked.wrapping_sub(0x80));
        let size = self.echo.prefix_of(kind).len() + len;
        let fits = len <= MAX_CONTROL_PAYLOAD && len <= tail.len();
        if !fits || size as u64 > self.echo.max_message_size {
            return None;
        }
        let mask = Mask::new([*k0, *k1, *k2, *k3]);
        let payload = &mut tail[..len];
        { mask }.apply(payload);
        if kind == Data::Text && !payload.is_ascii() && std::str::from_utf8(payload).is_err() {
            { mask }.apply(payload);
            return None;
        }
        self.taken += 6 + len;
        *self.bytes_in += len as u64;
        Some((kind, payload))
    }

    /// The next thing to act on; `None` if more input is needed.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Event<'_>>, Ending> {
        let mut frame = match self.incoming.frame.take() {
            Some(frame) => frame,
            None => match self.frame()? {
                Some(frame) => frame,
                None => return Ok(None),
            },
        };
        let rest = self.window.len() - self.taken;
        let here = usize::try_from(frame.remaining).map_or(rest, |n| n.min(rest));
        let payload = self.taken..self.taken + here;
        self.taken += here;
        frame.remaining -= here as u64;
        match frame.opcode {
            OpCode::Data(_) if self.compression.memory_spent && self.must_wait(&frame, here) => {
                self.taken -= here;
                frame.remaining += here as u64;
                self.incoming.frame = Some(frame);
                self.incoming.awaits_memory = true;
                Ok(None)
            }
            OpCode::Data(_) => self.data(frame, payload).map(|part| Some(Event::Data(part))),
            OpCode::Control(kind) => {
                Ok(self.control(frame, payload).map(|payload| Event::Control(kind, payload)))
            }
        }
    }

    /// Whether a data frame has to wait with the part that is `here`, because something would have
    /// to be kept beyond this turn although no memory is left: the inflater of a message that does
    /// not end here, or a frame that is echoed whole. The last 4 KiB of one never wait: that little
    /// goes uncharged, and lets the frame be sent.
    fn must_wait(&self, frame: &Frame, here: usize) -> bool {
        let ends = frame.remaining == 0;
        let lacks_inflater = |message: &Message| {
            let compression = message.compression.as_ref();
            compression.is_some_and(|it| !it.has_inflater()) && !(ends && frame.fin)
        };
        let to_come = here as u64 + frame.remaining;
        let is_held = self.echo.whole_frames && !ends && to_come > HELD_UNDER_PRESSURE as u64;
        here > 0 && (is_held || self.incoming.message.as_ref().is_some_and(lacks_inflater))
    }

    /// Reads and judges the next header; `None` if it is not complete.
    #[inline]
    fn frame(&mut self) -> Result<Option<Frame>, Ending> {
        let Some((header, used)) = self.incoming.header.parse(&self.window[self.taken..]) else {
            self.taken = self.window.len();
            return Ok(None);
        };
        self.taken += used;
        match self.admit(&header) {
            Ok(frame) => Ok(Some(frame)),
            Err(end) => {
                // However malformed, it was the client's Close: no other will follow.
                let closed = header.opcode == OpCode::Control(Control::Close);
                Err(Ending { end, awaited: (!closed).then(|| Discard::skipping(header.len)) })
            }
        }
    }

    /// Judges a header by itself, by the message it belongs to and by the limits.
    #[inline]
    fn admit(&mut self, header: &FrameHeader) -> Result<Frame, End> {
        let mask = header.check(self.compression.agreed).map_err(End::Protocol)?;
        if let OpCode::Data(kind) = header.opcode {
            let message = match (kind, &mut self.incoming.message) {
                (Data::Continue, Some(message)) => message,
                (Data::Continue, None) => return Err(End::Protocol(Violation::StrayContinuation)),
                (_, Some(_)) => return Err(End::Protocol(Violation::InterleavedMessage)),
                (_, none) => none.insert(Message::new(kind, header.rsv1, self.echo)),
            };
            message.declare(header.len, self.echo.max_message_size)?;
            if header.len == 0 && !(header.fin && kind != Data::Continue) {
                message.empty_fragments += 1;
                if message.empty_fragments > MAX_EMPTY_FRAGMENTS {
                    return Err(End::EmptyFragments);
                }
            }
        }
        let FrameHeader { fin, opcode, len, .. } = *header;
        Ok(Frame { fin, opcode, mask, remaining: len })
    }

    /// Unmasks and validates payload of a data frame.
    #[inline]
    fn data(&mut self, mut frame: Frame, payload: Range<usize>) -> Result<Part, Ending> {
        let message = self.incoming.message.as_mut().expect("a data frame belongs to a message");
        if message.compression.is_some() {
            return self.compressed(frame, payload);
        }
        *self.bytes_in += payload.len() as u64;
        let invalid = |frame: &Frame| Ending {
            end: End::InvalidText,
            awaited: Some(Discard::skipping(frame.remaining)),
        };
        if message.kind == Data::Text {
            for block in self.window[payload.clone()].chunks_mut(TEXT_BLOCK) {
                frame.mask.apply(block);
                message.text.push(block).map_err(|_| invalid(&frame))?;
            }
        } else {
            frame.mask.apply(&mut self.window[payload.clone()]);
        }
        let Frame { fin, remaining, .. } = frame;
        let (kind, unfinished) = (message.kind, message.text.unfinished());
        if remaining > 0 {
            self.incoming.frame = Some(frame);
        } else if fin {
            if unfinished > 0 {
                return Err(invalid(&frame));
            }
            self.incoming.message = None;
        }
        Ok(Part { kind, compressed: false, fin, remaining, unfinished, payload })
    }

    /// Unmasks and inflates payload of a compressed message, as much of it as this turn may.
    fn compressed(&mut self, mut frame: Frame, mut payload: Range<usize>) -> Result<Part, Ending> {
        let message = self.incoming.message.as_mut().expect("a data frame belongs to a message");
        let Message { kind, text, compression, .. } = message;
        let compression = compression.as_mut().expect("it is");
        let end = payload.end;
        let ends = frame.fin && frame.remaining == 0;
        let text = (*kind == Data::Text).then_some(text);
        let bytes = &mut self.window[payload.clone()];
        let read = compression.read(bytes, ends, &mut frame.mask, text, &mut self.compression);
        let limit = self.echo.max_message_size;
        let refused = |refused, frame: &Frame| Ending {
            end: End::refusing(refused, limit),
            awaited: Some(Discard::skipping(frame.remaining)),
        };
        *self.bytes_in += *read.as_ref().unwrap_or(&payload.len()) as u64;
        payload.end = payload.start + read.map_err(|it| refused(it, &frame))?;
        self.taken = payload.end;
        frame.remaining += (end - payload.end) as u64;
        let (kind, fin, remaining) = (*kind, frame.fin, frame.remaining);
        if remaining > 0 {
            self.incoming.frame = Some(frame);
        } else if fin {
            let message = self.incoming.message.take().expect("it was there");
            message.finish(self.compression.inflaters).map_err(|it| refused(it, &frame))?;
        }
        Ok(Part { kind, compressed: true, fin, remaining, unfinished: 0, payload })
    }

    /// Unmasks payload of a control frame; `None` until all of it has come.
    fn control(&mut self, mut frame: Frame, payload: Range<usize>) -> Option<Cow<'_, [u8]>> {
        let payload = &mut self.window[payload];
        frame.mask.apply(payload);
        let earlier = &mut self.incoming.control;
        if frame.remaining == 0 && earlier.is_empty() {
            return Some(Cow::Borrowed(payload));
        }
        earlier.extend_from_slice(payload);
        if frame.remaining == 0 {
            return Some(Cow::Owned(std::mem::take(earlier)));
        }
        self.incoming.frame = Some(frame);
        None
    }
}
