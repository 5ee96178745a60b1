//! The floor: the least work a single-threaded echo server on epoll can get away with. It parses,
//! unmasks in place and echoes with one write per read, copies no payload and validates nothing.
//! Whatever a server costs beyond that is the price of being correct.
//!
//! The handshake is read and answered in blocking mode, since its only client sends it in one go.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::unmasked_header;

/// The most that one read takes.
const CAPACITY: usize = 512 * 1024;
/// A payload of up to this size is echoed in one piece: a wake-up, a read and a write for each part
/// that arrives would cost more than waiting. It waits in the buffer it was read into, so nothing
/// is copied.
const LARGEST_HELD: u64 = 64 * 1024;
/// The most buffers kept while no connection needs them.
const MOST_SPARE: usize = 8;

pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, token(listener), EventFlags::IN)?;
    // Indexed by descriptor.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut spare = Vec::new();
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for epoll::Event { data, .. } in events.drain(..) {
            if data == token(listener) {
                let connection = Connection::accept(listener)?;
                let index = connection.index();
                epoll::add(
                    &epoll,
                    &connection.stream,
                    token(&connection.stream),
                    // Edge-triggered, so that the poller need not be told when a socket is full.
                    EventFlags::IN | EventFlags::OUT | EventFlags::ET,
                )?;
                if connections.len() <= index {
                    connections.resize_with(index + 1, || None);
                }
                connections[index] = Some(connection);
            } else {
                let index = usize::try_from(data.u64()).expect("a descriptor is small");
                let connection = connections[index].as_mut().expect("only open ones report");
                // A client that breaks off must not stop the others from being served.
                if !connection.turn(&mut spare).unwrap_or(false) {
                    connections[index] = None;
                }
            }
        }
    }
}

fn token(socket: &impl AsRawFd) -> EventData {
    EventData::new_u64(u64::try_from(socket.as_raw_fd()).expect("a descriptor is not negative"))
}

/// Bytes in flight: input that is not parsed yet and, in front of it, output that is not sent yet.
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
    /// How much payload of the current frame is still to come, and its key, rotated to match.
    left: u64,
    key: [u8; 4],
    closing: bool,
    /// Only while it holds an unfinished frame or unsent bytes.
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

    fn index(&self) -> usize {
        usize::try_from(self.stream.as_raw_fd()).expect("a descriptor is not negative")
    }

    /// Echoes what has arrived, and says whether the connection goes on.
    fn turn(&mut self, spare: &mut Vec<Buffer>) -> io::Result<bool> {
        let mut buffer = self.buffer.take().or_else(|| spare.pop()).unwrap_or_else(Buffer::new);
        let mut drained = false;
        while self.send(&mut buffer)? && !self.closing && !drained {
            // What remains is the beginning of a small frame: make room for the rest.
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
            // A short read has drained the socket: the poller reports what comes next.
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

    /// Turns the frames in the buffer into their echoes, in place.
    ///
    /// The first payload stays where it is, and its header goes in front of it, where the longer
    /// header of the request was; only what follows in the same read is moved up.
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

/// Written so that the compiler vectorizes it.
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
