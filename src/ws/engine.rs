//! The echo engine: a client's bytes in, the server's bytes out, RFC 6455 sections 5 to 8.
//!
//! Owns everything between two reads of one WebSocket: the unfinished frame, what is held of it,
//! the message it belongs to, and how it all ends. Knows no socket, no clock and no other
//! connection, so that the same bytes always give the same messages.
//!
//! The engine does not assemble messages. A payload is unmasked where it was read and sent from
//! there; only what cannot be sent yet is held. Each turn leaves whole frames in [`Out`], so that a
//! control frame may always follow.

mod close;
mod out;
mod turn;
mod unfinished;

use std::sync::Arc;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control};

pub use close::End;
pub use out::Out;

use crate::ws::frame::{MAX_CONTROL_PAYLOAD, write_control};
use close::Discard;
use turn::{Ending, Turn};
use unfinished::Unfinished;

/// What the echo of an endpoint looks like; shared by its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Goes before each text message, empty ones too; never before a binary one.
    ///
    /// It is sent in the message's first fragment, which grows by it: keep it well under 64 KiB.
    pub prefix: Box<str>,
    /// The largest reply in bytes: the payload of a message, all fragments added up, and for a
    /// text message the prefix; headers do not count.
    pub max_message_size: u64,
}

impl Default for Echo {
    fn default() -> Self {
        Self { prefix: "".into(), max_message_size: 1 << 20 }
    }
}

/// What the engine must know about the world around it for one turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Output of earlier turns has not been sent yet. Then pings are answered by the newest pong
    /// alone, before the next echoed frame or in [`Engine::release_pong`].
    pub unsent: bool,
    /// The process has no memory left for held frames. Then nothing over 4 KiB is held: such
    /// frames are echoed in smaller fragments, as they come.
    pub memory_spent: bool,
}

/// What has been echoed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Complete messages; the engine has echoed each one it received.
    pub messages: u64,
    /// Bytes of payload in data frames received, unfinished messages included.
    pub bytes_in: u64,
    /// Bytes of payload in data frames echoed, prefixes included.
    pub bytes_out: u64,
}

/// How far the WebSocket is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Messages are echoed.
    Open,
    /// Our Close is in the output and the peer's has not come: send, and go on receiving until
    /// [`Phase::Closed`], the end of the input or the end of patience. What comes is discarded.
    Closing,
    /// Both Close frames have passed: send, then end the connection. More input means nothing.
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
    Open(Option<Box<Unfinished>>),
    Closing(Box<Discard>),
    Closed,
}

impl Engine {
    /// An engine for a connection whose handshake is done.
    #[must_use]
    pub fn new(echo: Arc<Echo>) -> Self {
        Self { echo, counts: Counts::default(), state: State::Open(None), end: None }
    }

    /// Takes the next bytes from the peer and appends the reply to `out`.
    ///
    /// Returns how many bytes of `window` it took: all of them, unless `out` became so large that
    /// it should be sent first; then clear it and call again with the rest. `out` refers to
    /// `window`, whose payloads are unmasked in place, and must have been cleared since the last
    /// call. [`Engine::phase`] says afterwards whether there is an end in sight.
    pub fn receive(&mut self, window: &mut [u8], out: &mut Out, pressure: Pressure) -> usize {
        match &mut self.state {
            State::Open(unfinished) => {
                let unfinished = unfinished.take().map_or_else(Unfinished::default, |it| *it);
                let (echo, counts) = (&self.echo, &mut self.counts);
                let mut turn = Turn::new(echo, counts, unfinished, window, out, pressure);
                let stopped = turn.run();
                let (unfinished, taken) = turn.into_parts();
                if let Err(stop) = stopped {
                    self.stop(stop, &window[taken..], out);
                } else {
                    self.state = State::Open(unfinished.into_box());
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

    /// Sends our Close and looks for the peer's in `rest`, which came behind the reason.
    fn stop(&mut self, Ending { end, awaited }: Ending, rest: &[u8], out: &mut Out) {
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
    /// To be called when everything has been sent and no input is at hand.
    pub fn release_pong(&mut self, out: &mut Out) {
        if let State::Open(unfinished) = &mut self.state {
            if let Some(mut it) = unfinished.take() {
                it.release_pong(out);
                *unfinished = it.into_box();
            }
        }
    }

    /// Appends a ping with the first 125 bytes of `payload`; nothing once the end has begun.
    pub fn ping(&mut self, payload: &[u8], out: &mut Out) {
        if let State::Open(_) = self.state {
            let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
            write_control(out.copied(), Control::Ping, payload);
        }
    }

    /// Appends a Close now, between two frames; an unfinished message stays unfinished.
    ///
    /// The first 123 bytes of `reason` are sent. Does nothing once the end has begun.
    pub fn close(&mut self, code: CloseCode, reason: &str, out: &mut Out) {
        if let State::Open(unfinished) = &mut self.state {
            let awaited = unfinished.take().map_or_else(Discard::default, |it| it.into_discard());
            let end = End::Server { code, reason: reason.into() };
            self.stop(Ending { end, awaited: Some(awaited) }, &[], out);
        }
    }

    /// As [`Engine::close`], but at the next message boundary: now, or as soon as the message that
    /// has begun is echoed, even if the same window holds more.
    pub fn close_after_message(&mut self, code: CloseCode, reason: &str, out: &mut Out) {
        match &mut self.state {
            State::Open(Some(unfinished)) if !unfinished.at_message_boundary() => {
                let end = End::Server { code, reason: reason.into() };
                unfinished.close_after_message = Some(Box::new(end));
            }
            _ => self.close(code, reason, out),
        }
    }

    /// The bytes of memory that unfinished frames take, by capacity.
    ///
    /// At most 64 KiB, whatever lengths the peer declares; 0 when no frame is unfinished.
    #[must_use]
    pub fn held_capacity(&self) -> usize {
        match &self.state {
            State::Open(Some(unfinished)) => unfinished.held.capacity(),
            _ => 0,
        }
    }

    /// The largest reply it sends, in bytes: [`Echo::max_message_size`].
    #[must_use]
    pub fn max_message_size(&self) -> u64 {
        self.echo.max_message_size
    }

    /// How far the WebSocket is from its end.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Open(_) => Phase::Open,
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
