//! The floor: the least that a single-threaded echo server on epoll can do. This file owns that
//! server: it parses, unmasks in place and echoes, with one write for each read, copies no payload
//! and checks nothing. What a server costs beyond it is the price of being correct.
//!
//! The handshake is read and answered in blocking mode, since its only client sends it at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::unmasked_header;

/// What one read takes at most.
const CAPACITY: usize = 512 * 1024;
/// A frame up to this payload is echoed in one piece: a wake-up, a read and a write for each part
/// of it that arrives would cost more than waiting. It stays in the buffer that it was read into,
/// so nothing is copied for it.
const LARGEST_HELD: u64 = 64 * 1024;
/// Buffers that are kept while no connection needs them.
const MOST_SPARE: usize = 8;

pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, token(listener), EventFlags::IN)?;
    // A connection stands at the place of its descriptor.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut spare = Vec::new();
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for epoll::Event { data, .. } in events.drain(..) {
            if data == token(listener) {
                let connection = Connection::accept(listener)?;
                let place = connection.place();
                epoll::add(
                    &epoll,
                    &connection.stream,
                    token(&connection.stream),
                    // Edges, so that the poller need not be told when a socket is full.
                    EventFlags::IN | EventFlags::OUT | EventFlags::ET,
                )?;
                if connections.len() <= place {
                    connections.resize_with(place + 1, || None);
                }
                connections[place] = Some(connection);
            } else {
                let place = usize::try_from(data.u64()).expect("a descriptor is small");
                let connection = connections[place].as_mut().expect("only open ones report");
                // A client that breaks off is no reason to stop serving the others.
                if !connection.turn(&mut spare).unwrap_or(false) {
                    connections[place] = None;
                }
            }
        }
    }
}

fn token(socket: &impl AsRawFd) -> EventData {
    EventData::new_u64(u64::try_from(socket.as_raw_fd()).expect("a descriptor is not negative"))
}

/// Bytes on their way through: what was read and is not parsed yet, and what is finished and not
/// sent yet, which lies before it.
struct Buffer {
    bytes: Box<[u8]>,
    input: Range<usize>,
    unsent: Range<usize>,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; CAPACITY].into_boxed_slice();
        Self { bytes, input: 0..0, unsent: 0..0 }
    }
}

struct Connection {
    stream: TcpStream,
    /// The payload still to come of the frame that is being echoed, and its key, rotated.
    left: u64,
    key: [u8; 4],
    closing: bool,
    /// Only while an unfinished frame or unsent bytes are in it.
    buffer: Option<Buffer>,
}

impl Connection {
    fn accept(listener: &TcpListener) -> io::Result<Self> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut head = [0; 2048];
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut head[length..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                more => length += more,
            }
        }
        let key = std::str::from_utf8(&head[..length])
            .ok()
            .and_then(|head| head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")))
            .ok_or(ErrorKind::InvalidData)?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(answer.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, left: 0, key: [0; 4], closing: false, buffer: None })
    }

    fn place(&self) -> usize {
        usize::try_from(self.stream.as_raw_fd()).expect("a descriptor is not negative")
    }

    /// Echoes what is there, and says whether there is more to come.
    fn turn(&mut self, spare: &mut Vec<Buffer>) -> io::Result<bool> {
        let mut buffer = self.buffer.take().or_else(|| spare.pop()).unwrap_or_else(Buffer::new);
        let mut drained = false;
        while self.send(&mut buffer)? && !self.closing && !drained {
            // What remains is a small frame's beginning, which must have room for its end.
            buffer.bytes.copy_within(buffer.input.clone(), 0);
            buffer.input = 0..buffer.input.len();
            let room = &mut buffer.bytes[buffer.input.end..];
            let read = match self.stream.read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                result => result?,
            };
            if read == 0 {
                return Ok(false);
            }
            // A short read has emptied the socket: the poller reports what comes later.
            drained = read < room.len();
            buffer.input.end += read;
            self.echo(&mut buffer)?;
        }
        let blocked = !buffer.unsent.is_empty();
        if blocked || !buffer.input.is_empty() {
            self.buffer = Some(buffer);
        } else if spare.len() < MOST_SPARE {
            spare.push(buffer);
        }
        Ok(blocked || !self.closing)
    }

    /// Says whether everything has been sent.
    fn send(&mut self, buffer: &mut Buffer) -> io::Result<bool> {
        if !buffer.unsent.is_empty() {
            match self.stream.write(&buffer.bytes[buffer.unsent.clone()]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => buffer.unsent.start += result?,
            }
        }
        Ok(buffer.unsent.is_empty())
    }

    /// Turns the frames in the buffer into their echo, within the same bytes.
    ///
    /// The first payload stays where it is and gets its header before it, into the space of its
    /// longer request; only what follows in the same read is moved up.
    fn echo(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let Buffer { bytes, input, unsent } = buffer;
        *unsent = input.start..input.start;
        loop {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                if unsent.end != input.start {
                    bytes.copy_within(input.start..input.start + here, unsent.end);
                }
                unmask(&mut bytes[unsent.end..unsent.end + here], self.key);
                self.key.rotate_left(here % 4);
                self.left -= here as u64;
                input.start += here;
                unsent.end += here;
            }
            let Some(frame) = Frame::parse(&bytes[input.clone()])? else {
                return Ok(());
            };
            let here = (input.len() - frame.header) as u64;
            if here < frame.payload && frame.payload <= LARGEST_HELD {
                return Ok(());
            }
            input.start += frame.header;
            let (reply, length) = unmasked_header(frame.first, frame.payload);
            if unsent.start == unsent.end {
                *unsent = input.start - length..input.start - length;
            }
            bytes[unsent.end..unsent.end + length].copy_from_slice(&reply[..length]);
            unsent.end += length;
            self.closing |= frame.first & 0x0f == 8;
            self.left = frame.payload;
            self.key = frame.key;
        }
    }
}

struct Frame {
    first: u8,
    header: usize,
    payload: u64,
    key: [u8; 4],
}

impl Frame {
    /// The header at the start of `bytes`, or `None` when it is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        let (payload, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        Ok(rest.split_first_chunk().map(|(key, rest)| Self {
            first,
            header: bytes.len() - rest.len(),
            payload,
            key: *key,
        }))
    }
}

/// Written so that the compiler makes vector instructions of it.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let wide: [u8; 64] = std::array::from_fn(|index| key[index % 4]);
    let mut blocks = payload.chunks_exact_mut(wide.len());
    for block in &mut blocks {
        for (byte, key) in block.iter_mut().zip(wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in blocks.into_remainder().iter_mut().zip(wide) {
        *byte ^= key;
    }
}
