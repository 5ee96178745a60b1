//! One turn of the engine: the frames of one window, and what stays unfinished after them.
//!
//! Owns the rules of messages and fragments (RFC 6455 section 5.4) and the choice between
//! sending, holding and cutting a payload. Knows nothing of what happens after an end.

use std::ops::Range;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::{Discard, End, MAX_EMPTY_FRAGMENTS};
use super::out::{COPY_BELOW, Out};
use super::unfinished::{Frame, Message, Unfinished};
use super::{Counts, Echo, Pressure};
use crate::ws::frame::{
    FrameHeader, MAX_CONTROL_PAYLOAD, MAX_FRAME_HEADER, Mask, Violation, write_control,
    write_header,
};
use crate::ws::utf8::is_continuation;

/// A reply up to this size goes out as one frame, a larger one in fragments of at most this.
const MAX_FRAGMENT: usize = 64 * 1024;

/// Fragments that we cut ourselves are at least this long, but for the last of a frame.
const MIN_FRAGMENT: usize = 16 * 1024;

/// What may be held when there is no memory left; so small that nobody counts it.
const HELD_UNDER_PRESSURE: usize = COPY_BELOW;

/// A cut may move behind the character that it would divide, by at most this many bytes.
const CHARACTER_REST: usize = 3;

/// Unmasking and validation go over a text in blocks of this size, so that the second finds it in
/// the fastest cache.
const TEXT_BLOCK: usize = 16 * 1024;

/// Why a turn stopped for good.
pub(super) struct Ending {
    pub(super) end: End,
    /// Where to go on reading for the peer's Close; `None` if that has come.
    pub(super) awaited: Option<Discard>,
}

/// The window, what came before it and where its echo goes.
pub(super) struct Turn<'a> {
    echo: &'a Echo,
    counts: &'a mut Counts,
    unfinished: Unfinished,
    window: &'a mut [u8],
    /// How much of the window has been taken.
    taken: usize,
    out: &'a mut Out,
    pressure: Pressure,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        echo: &'a Echo,
        counts: &'a mut Counts,
        unfinished: Unfinished,
        window: &'a mut [u8],
        out: &'a mut Out,
        pressure: Pressure,
    ) -> Self {
        Self { echo, counts, unfinished, window, taken: 0, out, pressure }
    }

    /// What is left, and how much of the window was taken.
    pub(super) fn into_parts(self) -> (Unfinished, usize) {
        (self.unfinished, self.taken)
    }

    /// Takes frames until the window ends, the output is full or there is a reason to stop.
    pub(super) fn run(&mut self) -> Result<(), Ending> {
        if !self.pressure.unsent {
            self.unfinished.release_pong(self.out);
        }
        loop {
            if self.unfinished.is_idle() {
                self.short_messages();
            }
            let mut frame = match self.unfinished.frame.take() {
                Some(frame) => frame,
                None => match self.header()? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            let rest = self.window.len() - self.taken;
            let here = usize::try_from(frame.remaining).map_or(rest, |n| n.min(rest));
            let payload = self.taken..self.taken + here;
            self.taken += here;
            frame.remaining -= here as u64;
            match frame.opcode {
                OpCode::Data(_) => self.data(frame, payload)?,
                OpCode::Control(kind) => self.control(kind, frame, payload)?,
            }
            if self.unfinished.frame.is_some() {
                return Ok(());
            }
        }
    }

    /// Echoes the whole messages at hand that came as one short frame each: the most common case by
    /// far, at a third of the cost. Whatever is not plainly in order is left as it came, for the
    /// rules to judge.
    #[inline]
    fn short_messages(&mut self) {
        let Self { echo, counts, window, taken, out, .. } = self;
        let mut rest = &mut window[*taken..];
        while let [first @ (0x81 | 0x82), masked, k0, k1, k2, k3, tail @ ..] = rest {
            let (kind, prefix) = match first {
                0x81 => (Data::Text, echo.prefix.as_bytes()),
                _ => (Data::Binary, &b""[..]),
            };
            // Longer lengths have another form, and those of unmasked frames become larger still.
            let len = usize::from(masked.wrapping_sub(0x80));
            let size = prefix.len() + len;
            let fits = len <= MAX_CONTROL_PAYLOAD && len <= tail.len() && !out.is_full();
            if !fits || size as u64 > echo.max_message_size {
                return;
            }
            let mask = Mask::new([*k0, *k1, *k2, *k3]);
            let (payload, next) = tail.split_at_mut(len);
            { mask }.apply(payload);
            if kind == Data::Text && !payload.is_ascii() && std::str::from_utf8(payload).is_err() {
                { mask }.apply(payload);
                return;
            }
            write_header(out.copied(), true, OpCode::Data(kind), size);
            out.copied().extend_from_slice(prefix);
            out.copied().extend_from_slice(payload);
            counts.messages += 1;
            counts.bytes_in += len as u64;
            counts.bytes_out += size as u64;
            *taken += 6 + len;
            rest = next;
        }
    }

    /// Reads and judges the next header; `None` if it is not all there, or not to be taken yet.
    #[inline]
    fn header(&mut self) -> Result<Option<Frame>, Ending> {
        if self.out.is_full() {
            return Ok(None);
        }
        let Self { unfinished, window, taken, .. } = self;
        let rest = &window[*taken..];
        let had = unfinished.held.len();
        let header = if had == 0 {
            FrameHeader::parse(rest)
        } else {
            unfinished.hold(&rest[..rest.len().min(MAX_FRAME_HEADER - had)], MAX_FRAME_HEADER);
            FrameHeader::parse(&unfinished.held)
        };
        let Some((header, used)) = header else {
            if had == 0 {
                unfinished.hold(rest, MAX_FRAME_HEADER);
            }
            *taken = window.len();
            return Ok(None);
        };
        *taken += used - had;
        unfinished.held = Vec::new();
        match self.admit(&header) {
            Ok(frame) => Ok(Some(frame)),
            Err(end) => {
                // However broken, it was the peer's Close: no other will come.
                let closed = header.opcode == OpCode::Control(Control::Close);
                Err(Ending { end, awaited: (!closed).then(|| Discard::new(header.len, &[])) })
            }
        }
    }

    /// Judges a header by itself, by the message it belongs to and by the limits.
    #[inline]
    fn admit(&mut self, header: &FrameHeader) -> Result<Frame, End> {
        let mask = header.check().map_err(End::Protocol)?;
        if let OpCode::Data(kind) = header.opcode {
            let message = &mut self.unfinished.message;
            match (kind, message.kind) {
                (Data::Continue, Some(_)) => {}
                (Data::Continue, None) => {
                    return Err(End::Protocol(Violation::StrayContinuation));
                }
                (_, Some(_)) => return Err(End::Protocol(Violation::InterleavedMessage)),
                (_, None) => {
                    message.kind = Some(kind);
                    if message.owes_prefix() {
                        message.size = self.echo.prefix.len() as u64;
                    }
                }
            }
            let limit = self.echo.max_message_size;
            message.size = message.size.saturating_add(header.len);
            if message.size > limit {
                return Err(End::TooBig(limit));
            }
            if header.len == 0 && !(header.fin && kind != Data::Continue) {
                message.empty_fragments += 1;
                if message.empty_fragments > MAX_EMPTY_FRAGMENTS {
                    return Err(End::EmptyFragments);
                }
            }
        }
        let FrameHeader { fin, opcode, len, .. } = *header;
        Ok(Frame { fin, opcode, mask, remaining: len, begun: false })
    }

    fn control(
        &mut self,
        kind: Control,
        mut frame: Frame,
        payload: Range<usize>,
    ) -> Result<(), Ending> {
        let payload = &mut self.window[payload];
        frame.mask.apply(payload);
        let held = &mut self.unfinished.held;
        if frame.remaining > 0 || !held.is_empty() {
            held.extend_from_slice(payload);
        }
        if frame.remaining > 0 {
            self.unfinished.frame = Some(frame);
            return Ok(());
        }
        let whole = std::mem::take(held);
        let payload = if whole.is_empty() { &*payload } else { &whole };
        match kind {
            Control::Close => {
                self.unfinished.release_pong(self.out);
                return Err(Ending { end: End::from_peer(payload), awaited: None });
            }
            Control::Ping if self.pressure.unsent => {
                let newest = self.unfinished.pong.get_or_insert_default();
                newest.clear();
                newest.extend_from_slice(payload);
            }
            Control::Ping => write_control(self.out.copied(), Control::Pong, payload),
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(())
    }

    #[inline]
    fn data(&mut self, mut frame: Frame, payload: Range<usize>) -> Result<(), Ending> {
        self.counts.bytes_in += payload.len() as u64;
        let Self { unfinished: Unfinished { message, .. }, window, .. } = self;
        let invalid = |frame: &Frame| Ending {
            end: End::InvalidText,
            awaited: Some(Discard::new(frame.remaining, &[])),
        };
        if message.kind == Some(Data::Text) {
            for block in window[payload.clone()].chunks_mut(TEXT_BLOCK) {
                frame.mask.apply(block);
                message.text.push(block).map_err(|_| invalid(&frame))?;
            }
        } else {
            frame.mask.apply(&mut window[payload.clone()]);
        }
        if frame.remaining > 0 {
            self.echo_part(&mut frame, payload);
            self.unfinished.frame = Some(frame);
            return Ok(());
        }
        if frame.fin && message.text.unfinished() > 0 {
            return Err(invalid(&frame));
        }
        self.echo_all(frame.fin, payload);
        if !frame.fin {
            return Ok(());
        }
        self.unfinished.message = Message::default();
        self.counts.messages += 1;
        match self.unfinished.close_after_message.take() {
            None => Ok(()),
            Some(end) => Err(Ending { end: *end, awaited: Some(Discard::default()) }),
        }
    }

    /// Echoes what is at hand of a frame that has all come.
    #[inline]
    fn echo_all(&mut self, fin: bool, mut payload: Range<usize>) {
        loop {
            let cut = self.cut(&payload, 0);
            let last = cut == payload.end;
            self.fragment(fin && last, payload.start..cut);
            if last {
                return;
            }
            payload.start = cut;
        }
    }

    /// Echoes what may be echoed of a frame that goes on in a later window, and holds the rest.
    fn echo_part(&mut self, frame: &mut Frame, mut payload: Range<usize>) {
        let (whole_to, part_from) = if self.pressure.memory_spent {
            (HELD_UNDER_PRESSURE, HELD_UNDER_PRESSURE)
        } else {
            (MAX_FRAGMENT, MIN_FRAGMENT)
        };
        // A character that has only begun is held, so that our own cuts do not divide it.
        let begun = self.unfinished.message.text.unfinished();
        loop {
            let at_hand = self.before() + payload.len();
            let all = (at_hand as u64).saturating_add(frame.remaining);
            let whole = !frame.begun && all <= whole_to as u64;
            if whole || begun > payload.len() || at_hand - begun < part_from {
                let goal = if whole { whole_to } else { part_from };
                self.unfinished.hold(&self.window[payload], goal);
                return;
            }
            let cut = self.cut(&payload, begun);
            self.fragment(false, payload.start..cut);
            frame.begun = true;
            payload.start = cut;
        }
    }

    /// Bytes that the next fragment carries before any of the window: the prefix and what is held.
    #[inline]
    fn before(&self) -> usize {
        let prefix = if self.unfinished.message.owes_prefix() { self.echo.prefix.len() } else { 0 };
        prefix + self.unfinished.held.len()
    }

    /// Where the next fragment ends in the window, if all of `payload` but its last `kept` bytes is
    /// to be sent: fragments of about equal size, none over the maximum, no character divided.
    #[inline]
    fn cut(&self, payload: &Range<usize>, kept: usize) -> usize {
        let before = self.before();
        let end = payload.end - kept;
        let size = before + (end - payload.start);
        if size <= MAX_FRAGMENT {
            return end;
        }
        let fragments = size.div_ceil(MAX_FRAGMENT - CHARACTER_REST);
        let mut cut = payload.start + size.div_ceil(fragments).saturating_sub(before);
        if self.unfinished.message.kind == Some(Data::Text) {
            while cut < end && is_continuation(self.window[cut]) {
                cut += 1;
            }
        }
        cut
    }

    /// Appends one frame: what is owed from before, then the given part of the window.
    #[inline]
    fn fragment(&mut self, fin: bool, part: Range<usize>) {
        let len = self.before() + part.len();
        self.unfinished.release_pong(self.out);
        let message = &mut self.unfinished.message;
        let kind = match message.kind {
            Some(kind) if !message.begun => kind,
            _ => Data::Continue,
        };
        write_header(self.out.copied(), fin, OpCode::Data(kind), len);
        if message.owes_prefix() {
            self.out.copied().extend_from_slice(self.echo.prefix.as_bytes());
        }
        if !self.unfinished.held.is_empty() {
            self.out.held(std::mem::take(&mut self.unfinished.held));
        }
        self.out.window(self.window, part);
        message.begun = true;
        self.counts.bytes_out += len as u64;
    }
}
