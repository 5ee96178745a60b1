//! A client for the engine: feeds it frames in pieces, and reads the answers with tungstenite's
//! client, so that no test judges the engine by its own code.

use std::io::{Read, Write};
use std::sync::Arc;

use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};
use wsecho::ws::deflate::inflate::Inflaters;
use wsecho::ws::engine::{Echo, Engine, Out, Pressure};

use super::frames;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CONTINUE: u8 = 0;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frames::frame(first, payload, KEY)
}

/// The header of a client's frame.
pub fn header(first: u8, len: u64) -> Vec<u8> {
    frames::header(first, len, KEY)
}

/// A payload without a short period, so that misplaced bytes show.
pub fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Exactly `len` bytes of text, with characters of one to four bytes.
pub fn prose(len: usize) -> String {
    let mut text: String = "aé€😀 b".chars().cycle().take(len).collect();
    while text.len() > len {
        text.pop();
    }
    text.extend(std::iter::repeat_n('.', len - text.len()));
    text
}

/// A frame as it came out of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// An engine and everything it sent.
pub struct Peer {
    pub engine: Engine,
    pub out: Out,
    pub inflaters: Inflaters,
    pub pressure: Pressure,
    pub sent: Vec<u8>,
    /// The most memory the engine held between two reads, in bytes.
    pub most_held: usize,
}

impl Peer {
    pub fn new(prefix: &str, max_message_size: u64) -> Self {
        Self::with(Echo::new(prefix, max_message_size), false)
    }

    /// For an endpoint like this; `compression` says whether the handshake agreed to it.
    pub fn with(echo: Echo, compression: bool) -> Self {
        Self {
            engine: Engine::new(Arc::new(echo), compression),
            out: Out::new(),
            inflaters: Inflaters::default(),
            pressure: Pressure::default(),
            sent: Vec::new(),
            most_held: 0,
        }
    }

    /// As [`Peer::new`], after a handshake that agreed to compression.
    pub fn compressing(prefix: &str, max_message_size: u64) -> Self {
        Self::with(Echo::new(prefix, max_message_size), true)
    }

    /// An endpoint without a prefix, for messages of up to 16 MiB.
    pub fn verbatim() -> Self {
        Self::new("", 16 << 20)
    }

    /// One read of the server; there is memory for what cannot go on without.
    pub fn read(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let mut rest = &mut bytes[..];
        loop {
            self.inflaters.begin_turn();
            let mut pressure = self.pressure;
            pressure.memory_spent &= !self.engine.awaits_memory();
            let taken = self.engine.receive(rest, &mut self.out, &mut self.inflaters, pressure);
            for slice in self.out.slices(rest) {
                self.sent.extend_from_slice(slice);
            }
            self.out.clear();
            rest = &mut rest[taken..];
            if rest.is_empty() {
                break;
            }
        }
        self.most_held = self.most_held.max(self.engine.held_capacity());
    }

    pub fn read_in_pieces(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size) {
            self.read(piece);
        }
    }

    /// Has the engine say something of its own accord.
    pub fn say(&mut self, speak: impl FnOnce(&mut Engine, &mut Out)) {
        speak(&mut self.engine, &mut self.out);
        self.sent.extend(self.out.slices(&[]).flatten());
        self.out.clear();
    }

    /// The frames sent; panics unless they are whole, unmasked and minimal in their lengths.
    pub fn frames(&self) -> Vec<Sent> {
        let mut frames = Vec::new();
        let mut rest = &self.sent[..];
        while !rest.is_empty() {
            let (size, len) = match rest[1] {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().expect("eight")) as usize),
                len => (2, usize::from(len)),
            };
            assert!(rest[1] < 128, "masked");
            assert_eq!(
                size,
                if len < 126 {
                    2
                } else if len < 65_536 {
                    4
                } else {
                    10
                }
            );
            let payload = rest[size..size + len].to_vec();
            frames.push(Sent { fin: rest[0] & 0x80 != 0, opcode: rest[0] & 0x7f, payload });
            rest = &rest[size + len..];
        }
        frames
    }

    /// What a client sees of them.
    pub fn seen(&self) -> Seen {
        let mut seen = Seen::by(Role::Client, &self.sent, None);
        // tungstenite reports 1014 as 1002: trust the frame instead.
        if let Some(Sent { opcode: CLOSE, payload, .. }) = self.frames().last() {
            seen.close = Some(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
        }
        seen
    }
}

/// What one end sees in a byte stream, according to tungstenite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Messages, pings and pongs in order.
    pub events: Vec<Message>,
    /// The code of the Close that ends it, sent or received: `None` without a Close, `Some(None)`
    /// for an empty one.
    pub close: Option<Option<u16>>,
    pub reason: String,
}

impl Seen {
    pub fn by(role: Role, stream: &[u8], limit: Option<usize>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .max_message_size(limit)
            .max_frame_size(limit);
        let mut socket = WebSocket::from_raw_socket(Pipe(stream), role, Some(config));
        let mut seen = Self { events: Vec::new(), close: None, reason: String::new() };
        loop {
            seen.close = Some(Some(match socket.read() {
                Ok(Message::Close(None)) => {
                    seen.close = Some(None);
                    continue;
                }
                Ok(Message::Close(Some(frame))) => {
                    seen.reason = frame.reason.to_string();
                    seen.close = Some(Some(frame.code.into()));
                    continue;
                }
                Ok(message) => {
                    seen.events.push(message);
                    continue;
                }
                Err(
                    Error::ConnectionClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                ) => return seen,
                Err(error) if role == Role::Client => {
                    panic!("sent something no client accepts: {error}")
                }
                Err(Error::Protocol(_)) => 1002,
                Err(Error::Utf8(_)) => 1007,
                Err(Error::Capacity(_)) => 1009,
                Err(error) => panic!("the oracle failed: {error}"),
            }));
            return seen;
        }
    }

    /// The messages without pings and pongs.
    pub fn messages(&self) -> Vec<&Message> {
        self.events.iter().filter(|it| it.is_text() || it.is_binary()).collect()
    }
}

/// Reads from these bytes, and discards what is written.
struct Pipe<'a>(&'a [u8]);

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
