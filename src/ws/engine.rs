//! The echo engine: a client's bytes in, the server's bytes out, RFC 6455 sections 5 to 8.
//!
//! Owns everything between two reads of one WebSocket: what the client has begun, what it is owed,
//! and how it all ends. Knows no socket, no clock and no other connection, so the same bytes always
//! give the same messages.
//!
//! The engine does not assemble messages. A payload is unmasked where it was read and sent from
//! there; only what cannot be sent yet is held. Each turn leaves complete frames in [`Out`], so that
//! a control frame may always follow.

mod close;
mod compression;
mod echo;
mod out;
mod reader;
mod reply;

use std::sync::Arc;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

pub use close::{End, MAX_REASON, may_be_sent};
pub use echo::Echo;
pub use out::Out;

use crate::ws::deflate::inflate::{Inflaters, Volume};
use crate::ws::frame::{MAX_CONTROL_PAYLOAD, write_control, write_header};
use close::{Discard, Ending};
use compression::Terms;
use reader::{Event, Incoming, Reader};
use reply::{Composer, Outgoing};

/// What the engine must know about its surroundings for one turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Output of earlier turns is still unsent. Then only the newest ping is answered, before the
    /// next echoed frame or by [`Engine::release_pong`].
    pub unsent: bool,
    /// The process has no memory left for held frames. Then frames over 4 KiB are not held but
    /// echoed in smaller fragments, as they come, or [wait](Engine::awaits_memory) if they are
    /// echoed whole; and a compressed message whose end has not come is not begun, because it would
    /// keep its inflater.
    pub memory_spent: bool,
}

/// What has been echoed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Complete messages; the engine has echoed each one it received.
    pub messages: u64,
    /// Bytes of payload received in data frames, unfinished messages included.
    pub bytes_in: u64,
    /// Bytes of payload sent in data frames, prefixes included.
    pub bytes_out: u64,
    /// Of the bytes received, those of compressed messages.
    pub compressed_in: u64,
    /// What these inflated to, in bytes.
    pub inflated: u64,
}

/// How far the WebSocket is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Messages are echoed.
    Open,
    /// Our Close is in the output and the client's has not come: send it, and go on receiving until
    /// [`Phase::Closed`], the end of the input or a timeout. What comes is discarded.
    Closing,
    /// Both Close frames have passed: send what is left, then end the connection. Further input is
    /// ignored.
    Closed,
}

/// One WebSocket, from the server's side, after its handshake.
#[derive(Debug)]
pub struct Engine {
    echo: Arc<Echo>,
    counts: Counts,
    state: State,
    end: Option<Box<End>>,
}

#[derive(Debug)]
enum State {
    Open {
        unfinished: Option<Box<Unfinished>>,
        /// Whether the client may compress its messages.
        compression: bool,
    },
    Closing(Box<Discard>),
    Closed,
}

/// What is left between two turns; a connection without any of it is idle.
#[derive(Debug, Default)]
struct Unfinished {
    incoming: Incoming,
    outgoing: Outgoing,
    /// The end that the server asked for, once this message is echoed.
    close_after_message: Option<Box<End>>,
}

impl Unfinished {
    /// `close_after_message` need not be asked: it waits for a message that is unfinished.
    #[inline]
    fn is_idle(&self) -> bool {
        self.incoming.is_idle() && self.outgoing.is_idle()
    }
}

impl Engine {
    /// An engine for a connection whose handshake is done; `compression` says whether it agreed to
    /// permessage-deflate, without context takeover on either side.
    #[must_use]
    pub fn new(echo: Arc<Echo>, compression: bool) -> Self {
        let state = State::Open { unfinished: None, compression };
        Self { echo, counts: Counts::default(), state, end: None }
    }

    /// Takes the next bytes from the client and appends the reply to `out`.
    ///
    /// Returns how many bytes of `window` it took: all of them, unless `out` became so large that
    /// it should be sent first; then clear it and call again with the rest. It also stops when
    /// `inflaters` have done enough for one turn, and where it [waits for memory]; what is left of
    /// `window` is then as it came. `out` refers to `window`, whose payloads are unmasked in place,
    /// and must have been cleared since the last call. [`Engine::phase`] says afterwards whether
    /// the end has begun.
    ///
    /// [waits for memory]: Engine::awaits_memory
    pub fn receive(
        &mut self,
        window: &mut [u8],
        out: &mut Out,
        inflaters: &mut Inflaters,
        pressure: Pressure,
    ) -> usize {
        match &mut self.state {
            State::Open { unfinished: kept, compression: agreed } => {
                // Between messages there is nothing to keep: then this stays on the stack.
                let mut fresh = Unfinished::default();
                let unfinished = kept.as_deref_mut().unwrap_or(&mut fresh);
                let Unfinished { incoming, outgoing, close_after_message } = unfinished;
                let Counts { messages, bytes_in, bytes_out, .. } = &mut self.counts;
                let Pressure { memory_spent, .. } = pressure;
                let terms = Terms { agreed: *agreed, inflaters, memory_spent };
                let mut reader = Reader::new(incoming, &self.echo, window, bytes_in, terms);
                let mut composer = Composer::new(outgoing, &self.echo, out, pressure, bytes_out);
                let last = self.echo.last.as_deref();
                let stopped = turn(&mut reader, &mut composer, messages, close_after_message, last);
                let taken = reader.taken();
                if *agreed {
                    let Volume { compressed, inflated } = inflaters.take_volume();
                    self.counts.compressed_in += compressed;
                    self.counts.inflated += inflated;
                }
                if let Err(ending) = stopped {
                    self.finish(ending, &window[taken..], out);
                } else {
                    if unfinished.is_idle() {
                        *kept = None;
                    } else if kept.is_none() {
                        *kept = Some(Box::new(fresh));
                    }
                    return taken;
                }
            }
            State::Closing(discard) => {
                if discard.saw_close(window) {
                    self.state = State::Closed;
                }
            }
            State::Closed => {}
        }
        window.len()
    }

    /// Sends our Close and looks for the client's in `rest`, which came after what caused the end.
    fn finish(&mut self, Ending { end, awaited }: Ending, rest: &[u8], out: &mut Out) {
        end.write(out.copied());
        self.end = Some(Box::new(end));
        let waiting = awaited.map(Box::new).and_then(|mut discard| {
            let seen = discard.saw_close(rest);
            (!seen).then_some(discard)
        });
        self.state = waiting.map_or(State::Closed, State::Closing);
    }

    /// Appends the pong that was kept back while output was unsent, if there is one.
    ///
    /// Call it when everything has been sent and no input is at hand.
    pub fn release_pong(&mut self, out: &mut Out) {
        if let State::Open { unfinished: kept, .. } = &mut self.state
            && let Some(unfinished) = kept
        {
            unfinished.outgoing.release_pong(out);
            if unfinished.is_idle() {
                *kept = None;
            }
        }
    }

    /// Appends a ping with the first 125 bytes of `payload`; does nothing once the end has begun.
    pub fn ping(&mut self, payload: &[u8], out: &mut Out) {
        if let State::Open { .. } = self.state {
            let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
            write_control(out.copied(), Control::Ping, payload);
        }
    }

    /// Appends a Close now, between two frames; an unfinished message stays unfinished.
    ///
    /// The first 123 bytes of `reason` are sent. Does nothing once the end has begun.
    pub fn close(&mut self, code: CloseCode, reason: &str, out: &mut Out) {
        self.close_with(End::Server { code, reason: reason.into() }, out);
    }

    /// As [`Engine::close`], for whatever reason.
    pub fn close_with(&mut self, end: End, out: &mut Out) {
        if let State::Open { unfinished, .. } = &mut self.state {
            let incoming = unfinished.take().map(|it| it.incoming).unwrap_or_default();
            self.finish(Ending { end, awaited: incoming.into_discard() }, &[], out);
        }
    }

    /// As [`Engine::close`], but at the next message boundary: now, or as soon as the unfinished
    /// message is echoed, even if the same window holds more.
    pub fn close_after_message(&mut self, code: CloseCode, reason: &str, out: &mut Out) {
        match &mut self.state {
            State::Open { unfinished: Some(unfinished), .. }
                if !unfinished.incoming.at_message_boundary() =>
            {
                let end = End::Server { code, reason: reason.into() };
                unfinished.close_after_message = Some(Box::new(end));
            }
            _ => self.close(code, reason, out),
        }
    }

    /// Appends a text message that answers none; does nothing once anything has been received.
    ///
    /// It is not counted: the counts are those of echoes.
    pub fn greet(&mut self, text: &str, out: &mut Out) {
        if let State::Open { unfinished: None, .. } = self.state {
            write_header(out.copied(), true, false, OpCode::Data(Data::Text), text.len());
            out.copied().extend_from_slice(text.as_bytes());
        }
    }

    /// Whether it is open and nothing is unfinished: no message, no frame.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Open { unfinished: None, .. })
    }

    /// The bytes of memory that an unfinished message takes, by capacity.
    ///
    /// At most 64 KiB, whatever lengths the client declares, or with [`Echo::whole_frames`] twice
    /// what has come of the frame; and for a compressed message another 48 KiB. 0 when no message is
    /// unfinished.
    #[must_use]
    pub fn held_capacity(&self) -> usize {
        self.unfinished().map_or(0, |it| it.incoming.held_capacity() + it.outgoing.held_capacity())
    }

    /// Whether a message waits until the process has memory again: until then, no more of the input
    /// is taken.
    #[must_use]
    pub fn awaits_memory(&self) -> bool {
        self.unfinished().is_some_and(|it| it.incoming.awaits_memory())
    }

    fn unfinished(&self) -> Option<&Unfinished> {
        match &self.state {
            State::Open { unfinished, .. } => unfinished.as_deref(),
            _ => None,
        }
    }

    /// How much to receive for a reply of about `output` bytes at most; 0 only for no output.
    ///
    /// Only a prefix makes a reply longer than what it answers: an empty text costs a client 6 bytes.
    #[must_use]
    pub fn input_for(&self, output: usize) -> usize {
        const EMPTY_TEXT: usize = 6;
        const HEADER: usize = 4;
        let State::Open { unfinished, compression } = &self.state else { return output };
        // A frame that has begun gets no other prefix, however long it is.
        let begun = unfinished.as_ref().map_or(0, |it| it.incoming.remaining());
        let begun = usize::try_from(begun).unwrap_or(usize::MAX).min(output);
        let Echo { prefix, stored_prefix, .. } = &*self.echo;
        let prefix = if *compression { stored_prefix.len() } else { prefix.len() };
        let answer = (HEADER + prefix).max(EMPTY_TEXT);
        (begun + (output - begun) * EMPTY_TEXT / answer).max(output.min(1))
    }

    /// The largest reply it sends, in bytes, inflated.
    #[must_use]
    pub fn max_message_size(&self) -> u64 {
        self.echo.max_message_size
    }

    /// How far the WebSocket is from its end.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Open { .. } => Phase::Open,
            State::Closing(_) => Phase::Closing,
            State::Closed => Phase::Closed,
        }
    }

    /// Who ended it and why; `None` while it is open.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_deref()
    }

    /// What has been echoed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// Echoes one window, until it ends, the output is full or there is a reason to stop for good.
fn turn(
    reader: &mut Reader<'_>,
    composer: &mut Composer<'_>,
    messages: &mut u64,
    close_after_message: &mut Option<Box<End>>,
    last: Option<&(u64, End)>,
) -> Result<(), Ending> {
    let ending = |messages: u64| {
        let (_, end) = last.filter(|(last, _)| *last == messages)?;
        Some(Ending { end: end.clone(), awaited: Some(Discard::default()) })
    };
    while !reader.is_done() && !composer.is_full() {
        if reader.is_idle() && composer.is_idle() {
            while let Some((kind, payload)) = reader.short_message() {
                composer.short_message(kind, payload);
                *messages += 1;
                if let Some(ending) = ending(*messages) {
                    return Err(ending);
                }
                if composer.is_full() {
                    return Ok(());
                }
            }
        }
        match reader.next()? {
            None => return Ok(()),
            Some(Event::Data(part)) => {
                composer.echo(&part, reader.window());
                if part.remaining > 0 {
                    return Ok(());
                }
                if part.fin {
                    *messages += 1;
                    if let Some(ending) = ending(*messages) {
                        return Err(ending);
                    }
                    if let Some(end) = close_after_message.take() {
                        return Err(Ending { end: *end, awaited: Some(Discard::default()) });
                    }
                }
            }
            Some(Event::Control(Control::Close, payload)) => {
                composer.release_pong();
                return Err(Ending { end: End::from_peer(&payload), awaited: None });
            }
            Some(Event::Control(Control::Ping, payload)) => composer.pong(&payload),
            Some(Event::Control(Control::Pong | Control::Reserved(_), _)) => {}
        }
    }
    Ok(())
}
