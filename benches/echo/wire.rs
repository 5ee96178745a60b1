//! The client's side of the protocol: this file owns the handshake, the messages sent and the
//! parsing of what comes back. An echo may come in one frame or in several, and compressed as it was
//! sent, compressed anew, or not at all.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use socket2::{Domain, Socket, Type};

use crate::frames;

/// Longer than any server may keep a client waiting.
pub const PATIENCE: Duration = Duration::from_secs(10);
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a compressed message ends with, and does not carry (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

const RSV1: u8 = 0x40;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PONG: u8 = 10;
/// A server's ping, empty.
pub const PING: [u8; 2] = [0x89, 0];

/// Opens a connection and upgrades it.
pub fn open(address: SocketAddr) -> io::Result<TcpStream> {
    upgrade(TcpStream::connect(address)?, address, "")
}

/// The same, with compression, which the server has to agree to.
///
/// Without context takeover, so that the same frame may be sent again and again.
pub fn open_compressed(address: SocketAddr) -> io::Result<TcpStream> {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; \
                 server_no_context_takeover\r\n";
    upgrade(TcpStream::connect(address)?, address, offer)
}

/// The same, from a given address.
pub fn open_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    upgrade(socket.into(), address, "")
}

fn upgrade(mut stream: TcpStream, address: SocketAddr, offer: &str) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    );
    stream.write_all(request.as_bytes())?;

    let mut head = [0; 2048];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut head[length..])? {
            0 => return Err(wrong("no answer to the handshake")),
            more => length += more,
        }
    }
    let head = String::from_utf8_lossy(&head[..length]);
    let agreed = offer.is_empty() || head.contains("client_no_context_takeover");
    let accepted = head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    if head.starts_with("HTTP/1.1 101 ") && accepted && agreed {
        Ok(stream)
    } else {
        Err(wrong(&format!("the handshake was refused: {head:?}")))
    }
}

/// Closes a connection from [`open`] by the book: Close, Close, end of stream.
pub fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&Message::close().frame())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    if reply == [0x80 | CLOSE, 2, 0x03, 0xe8] { Ok(()) } else { Err(wrong("Close was not echoed")) }
}

/// The answer to [`PING`].
pub fn pong() -> Vec<u8> {
    Message::new(PONG, Vec::new()).frame()
}

/// A message that is sent and expected back.
pub struct Message {
    opcode: u8,
    payload: Vec<u8>,
    /// The payload as it is sent, if compressed.
    compressed: Option<Vec<u8>>,
}

impl Message {
    fn new(opcode: u8, payload: Vec<u8>) -> Self {
        Self { opcode, payload, compressed: None }
    }

    pub fn text(size: usize) -> Self {
        Self::new(TEXT, (b'a'..=b'z').cycle().take(size).collect())
    }

    /// Records as services exchange them, cut at `size`.
    pub fn json(size: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let mut payload = Vec::new();
        while payload.len() < size {
            let (sensor, value) = (random.u32(..1000), random.f64() * 40.0);
            let (second, ok) = (random.u32(..60), random.bool());
            payload.extend_from_slice(
                format!(
                    "{{\"sensor\":\"hall-{sensor}\",\"at\":\"2026-01-01T12:00:{second:02}Z\",\
                     \"celsius\":{value:.2},\"ok\":{ok}}},"
                )
                .as_bytes(),
            );
        }
        payload.truncate(size);
        Self::new(TEXT, payload)
    }

    /// The same message, sent compressed at zlib's default level, as clients do.
    pub fn compressed(self) -> Self {
        let mut deflated = Vec::with_capacity(self.payload.len() + 1024);
        Compress::new(Compression::new(6), false)
            .compress_vec(&self.payload, &mut deflated, FlushCompress::Sync)
            .expect("memory is all it takes");
        assert!(deflated.ends_with(&TAIL), "there is room for all");
        deflated.truncate(deflated.len() - TAIL.len());
        Self { compressed: Some(deflated), ..self }
    }

    /// Inflates the message once, as a server must that validates it, and no more.
    pub fn inflate(&self, inflater: &mut Decompress, scratch: &mut [u8]) {
        inflater.reset(false);
        for mut input in [self.compressed.as_deref().unwrap_or_default(), &TAIL] {
            loop {
                let (read, written) = (inflater.total_in(), inflater.total_out());
                inflater.decompress(input, scratch, FlushDecompress::None).expect("it is valid");
                let (read, written) = (inflater.total_in() - read, inflater.total_out() - written);
                input = &input[usize::try_from(read).expect("no more than there is")..];
                if input.is_empty() && written < scratch.len() as u64 {
                    break;
                }
            }
        }
    }

    pub fn binary(size: usize) -> Self {
        // The period is not a power of two, so that a lost or repeated block shows.
        Self::new(BINARY, (0..=250).cycle().take(size).collect())
    }

    fn close() -> Self {
        Self::new(CLOSE, 1000_u16.to_be_bytes().to_vec())
    }

    /// The message in one frame.
    pub fn frame(&self) -> Vec<u8> {
        match &self.compressed {
            None => frames::frame(0x80 | self.opcode, &self.payload, KEY),
            Some(deflated) => frames::frame(0x80 | RSV1 | self.opcode, deflated, KEY),
        }
    }

    /// Whether the message is this one, sent compressed.
    fn is_inflated_from(&self, deflated: &[u8]) -> bool {
        let mut inflated = Vec::with_capacity(self.payload.len() + 1);
        let input = [deflated, &TAIL].concat();
        Decompress::new(false)
            .decompress_vec(&input, &mut inflated, FlushDecompress::Sync)
            .is_ok_and(|_| inflated == self.payload)
    }
}

/// Parses the server's frames, however they are split.
#[derive(Default)]
pub struct Reply {
    header: [u8; 10],
    /// How many bytes of the header have come.
    known: usize,
    /// How much payload of the current frame is still to come.
    left: usize,
    in_payload: bool,
    /// How much payload of the message has come, and whether the message has begun at all.
    message: usize,
    begun: bool,
    /// Whether this message comes compressed, and its payload so far, if all of it is compared.
    compressed: bool,
    deflated: Vec<u8>,
}

impl Reply {
    /// Takes what a read returned, compares the first `sample` bytes of each run of payload with
    /// `expected`, and returns how many messages were completed. A compressed message is compared
    /// only if all of its bytes are.
    pub fn take(&mut self, mut input: &[u8], expected: &Message, sample: usize) -> io::Result<u64> {
        let mut done = 0;
        loop {
            if !self.in_payload {
                input = self.take_header(input, expected)?;
            }
            if !self.in_payload {
                return Ok(done);
            }
            let (payload, rest) = input.split_at(self.left.min(input.len()));
            input = rest;
            self.left -= payload.len();
            if self.is_compressed() {
                if sample == usize::MAX {
                    self.deflated.extend_from_slice(payload);
                }
            } else if !self.is_control() {
                let compared = payload.len().min(sample);
                let due = expected.payload.get(self.message..self.message + payload.len());
                if due.is_none_or(|due| due[..compared] != payload[..compared]) {
                    return Err(wrong("an echo differs from the message"));
                }
                self.message += payload.len();
            }
            if self.left > 0 {
                return Ok(done);
            }
            self.in_payload = false;
            self.known = 0;
            if !self.is_control() && self.header[0] & 0x80 != 0 {
                self.finish(expected, sample)?;
                done += 1;
            }
        }
    }

    fn finish(&mut self, expected: &Message, sample: usize) -> io::Result<()> {
        if self.compressed {
            if sample == usize::MAX && !expected.is_inflated_from(&self.deflated) {
                return Err(wrong("a compressed echo differs from the message"));
            }
            self.deflated.clear();
        } else if self.message != expected.payload.len() {
            return Err(wrong("an echo is shorter than the message"));
        }
        self.message = 0;
        self.begun = false;
        Ok(())
    }

    /// Consumes header bytes, and checks the header once it is complete.
    fn take_header<'b>(&mut self, input: &'b [u8], expected: &Message) -> io::Result<&'b [u8]> {
        let mut rest = input;
        while self.known < self.header_length() {
            let missing = self.header_length() - self.known;
            let (bytes, after) = rest.split_at(missing.min(rest.len()));
            self.header[self.known..self.known + bytes.len()].copy_from_slice(bytes);
            self.known += bytes.len();
            rest = after;
            if bytes.len() < missing {
                return Ok(rest);
            }
        }
        let length = match self.header[1] {
            short @ 0..126 => u64::from(short),
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
            _ => return Err(wrong("the server masks its frames")),
        };
        self.left = usize::try_from(length).map_err(io::Error::other)?;
        self.in_payload = true;
        let opcode = self.header[0] & 0x7f;
        if opcode == CLOSE {
            return Err(wrong("the server sent Close"));
        }
        if !self.is_control() {
            let due = if self.begun { 0 } else { expected.opcode };
            let may_be_compressed = expected.compressed.is_some() && !self.begun;
            if opcode != due && !(may_be_compressed && opcode == due | RSV1) {
                return Err(wrong(&format!("unexpected opcode {opcode}")));
            }
            if !self.begun {
                self.compressed = opcode & RSV1 != 0;
            }
            self.begun = true;
        }
        Ok(rest)
    }

    /// The length of the header, as far as it can be told.
    fn header_length(&self) -> usize {
        match (self.known, self.header[1]) {
            (0 | 1, _) => 2,
            (_, 126) => 4,
            (_, 127) => 10,
            _ => 2,
        }
    }

    fn is_compressed(&self) -> bool {
        self.compressed && !self.is_control()
    }

    /// Pings are not answered: no run is long enough for that to matter.
    fn is_control(&self) -> bool {
        self.header[0] & 0x08 != 0
    }
}

pub fn wrong(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}
