//! A client's side of an open WebSocket: whole messages out and in.
//!
//! Owns framing on the stream, fragments and inflating. It answers pings; it does not know what is
//! sent, or what should come back.
//!
//! Sources: RFC 6455, section 5; RFC 7692, section 7.2.

use std::pin::pin;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use zlib_rs::{Inflate, InflateFlush, Status};

use super::wire::{End, Stream};
use crate::ws::deflate::stored;
use crate::ws::frame::{FrameHeader, write_masked};

/// The longest message that is taken, in bytes, unless a longer one is asked for.
const MAX_MESSAGE: usize = 16 << 20;

/// Beyond so many unsent bytes pings are not answered: the server does not read.
const MAX_PENDING: usize = 1 << 20;

/// What comes from the server.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Message),
    Pong(Vec<u8>),
    /// A Close frame with its code, if any, and its reason.
    Close(Option<u16>, Vec<u8>),
    /// The connection ended.
    Ended(End),
    /// What came breaks RFC 6455 or 7692.
    Broken(String),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub is_text: bool,
    /// Whether it came, or is to be sent, compressed.
    pub compressed: bool,
    pub payload: Vec<u8>,
    /// In how many frames.
    pub frames: usize,
}

/// An open WebSocket.
pub(super) struct Socket {
    reader: Reader,
    writer: Writer,
}

impl Socket {
    /// `compression` says whether permessage-deflate was agreed.
    pub(super) fn new(stream: Stream, compression: bool) -> Self {
        let (read, write) = split(stream);
        let inflater = compression.then(Inflater::new);
        Self {
            reader: Reader {
                stream: read,
                bytes: BytesMut::new(),
                inflater,
                partial: None,
                most: MAX_MESSAGE,
            },
            writer: Writer { stream: write, pending: Vec::new(), written: 0, broken: None },
        }
    }

    /// Has messages of at least so many bytes taken.
    pub(super) fn allow(&mut self, bytes: usize) {
        self.reader.most = self.reader.most.max(bytes);
    }

    /// Queues a message; [`Socket::next`] sends it while it waits.
    pub(super) fn send(&mut self, message: &Message) {
        let out = &mut self.writer.pending;
        let kind = if message.is_text { Data::Text } else { Data::Binary };
        let stored = message.compressed.then(|| uncompressed(&message.payload));
        let payload = stored.as_deref().unwrap_or(&message.payload);
        let frames = message.frames.max(1);
        let size = payload.len().div_ceil(frames).max(1);
        for index in 0..frames {
            let piece = &payload
                [(index * size).min(payload.len())..((index + 1) * size).min(payload.len())];
            let opcode = OpCode::Data(if index == 0 { kind } else { Data::Continue });
            let marks = (index + 1 == frames, message.compressed && index == 0);
            write_masked(out, marks, opcode, mask(), piece);
        }
    }

    /// Queues a ping of at most 125 bytes.
    pub(super) fn ping(&mut self, payload: &[u8]) {
        self.writer.control(Control::Ping, payload);
    }

    /// Queues a Close frame.
    pub(super) fn close(&mut self, code: u16) {
        self.writer.control(Control::Close, &code.to_be_bytes());
    }

    /// Sends what is queued and waits for what comes next.
    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.next_or_ping().await {
                return incoming;
            }
        }
    }

    /// The same, but also returns once a ping has come: `None`. Its pong is queued.
    pub(super) async fn next_or_ping(&mut self) -> Option<Incoming> {
        let Self { reader, writer } = self;
        let read = {
            let mut reading = pin!(reader.next());
            let mut writing = pin!(writer.drain());
            tokio::select! {
                read = &mut reading => read,
                // Whether that failed shows in what is read, after what the peer still sent.
                () = &mut writing => reading.await,
            }
        };
        match read {
            Read::Ping(payload) => {
                if writer.pending.len() < MAX_PENDING {
                    writer.control(Control::Pong, &payload);
                }
                None
            }
            Read::Incoming(Incoming::Ended(end)) => {
                // A reset may have been told to the writer only.
                Some(Incoming::Ended(writer.broken.take().unwrap_or(end)))
            }
            Read::Incoming(incoming) => Some(incoming),
        }
    }

    /// Closes our direction.
    pub(super) async fn shutdown(&mut self) {
        // The peer may be gone already.
        let _ = self.writer.stream.shutdown().await;
    }
}

fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

/// A payload as stored blocks and an empty one without its last four bytes (RFC 7692, sections 7.2.1
/// and 7.2.3.3): any receiver can inflate it, and no compressor is needed.
fn uncompressed(payload: &[u8]) -> Vec<u8> {
    [&*stored(payload), &[0]].concat()
}

struct Writer {
    stream: WriteHalf<Stream>,
    pending: Vec<u8>,
    written: usize,
    broken: Option<End>,
}

impl Writer {
    fn control(&mut self, kind: Control, payload: &[u8]) {
        write_masked(&mut self.pending, (true, false), OpCode::Control(kind), mask(), payload);
    }

    /// Writes what is pending. It may be dropped and called again.
    async fn drain(&mut self) {
        while self.broken.is_none() && self.written < self.pending.len() {
            match self.stream.write(&self.pending[self.written..]).await {
                Ok(written) => self.written += written,
                Err(error) => self.broken = Some((&error).into()),
            }
        }
        if let Err(error) = self.stream.flush().await {
            self.broken.get_or_insert((&error).into());
        }
        self.pending.clear();
        self.written = 0;
    }
}

enum Read {
    Incoming(Incoming),
    Ping(Vec<u8>),
}

/// A message of which fragments have come.
struct Partial {
    is_text: bool,
    compressed: bool,
    payload: Vec<u8>,
    frames: usize,
}

struct Reader {
    stream: ReadHalf<Stream>,
    bytes: BytesMut,
    inflater: Option<Inflater>,
    partial: Option<Partial>,
    /// The longest message that is taken, in bytes.
    most: usize,
}

impl Reader {
    /// The next message or control frame. It may be dropped and called again.
    async fn next(&mut self) -> Read {
        loop {
            let (header, payload) = match self.frame().await {
                Ok(frame) => frame,
                Err(incoming) => return Read::Incoming(incoming),
            };
            let broken = |text: String| Read::Incoming(Incoming::Broken(text));
            if let Err(violation) = header.check_from_server(self.inflater.is_some()) {
                return broken(format!("{violation}"));
            }
            if header.mask.is_some() {
                return broken("a frame of the server is masked".to_owned());
            }
            let starts = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
            if header.rsv1 && !starts {
                return broken("RSV1 is set on a frame that begins no message".to_owned());
            }
            match header.opcode {
                OpCode::Control(Control::Ping) => return Read::Ping(payload),
                OpCode::Control(Control::Pong) => return Read::Incoming(Incoming::Pong(payload)),
                OpCode::Control(_) => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    let reason = payload.get(2..).unwrap_or_default().to_vec();
                    return Read::Incoming(Incoming::Close(code, reason));
                }
                OpCode::Data(kind) => match self.data(kind, header, payload) {
                    Ok(None) => {}
                    Ok(Some(message)) => return Read::Incoming(Incoming::Message(message)),
                    Err(text) => return broken(text),
                },
            }
        }
    }

    /// A data frame. Returns the message that it completes.
    fn data(
        &mut self,
        kind: Data,
        header: FrameHeader,
        payload: Vec<u8>,
    ) -> Result<Option<Message>, String> {
        let partial = match (kind, self.partial.take()) {
            (Data::Continue, None) => return Err("a continuation frame outside a message".into()),
            (Data::Continue, Some(mut partial)) => {
                partial.payload.extend_from_slice(&payload);
                partial.frames += 1;
                partial
            }
            (_, Some(_)) => return Err("a new message before the previous one ended".into()),
            (kind, None) => {
                let is_text = kind == Data::Text;
                Partial { is_text, compressed: header.rsv1, payload, frames: 1 }
            }
        };
        if partial.payload.len() > self.most {
            return Err(format!("a message of more than {} bytes", self.most));
        }
        if !header.fin {
            self.partial = Some(partial);
            return Ok(None);
        }
        let Partial { is_text, compressed, mut payload, frames } = partial;
        if let (true, Some(inflater)) = (compressed, &mut self.inflater) {
            payload = inflater.inflate(&payload, self.most)?;
        }
        if is_text && std::str::from_utf8(&payload).is_err() {
            return Err("text that is not UTF-8".into());
        }
        Ok(Some(Message { is_text, compressed, payload, frames }))
    }

    /// The next frame.
    async fn frame(&mut self) -> Result<(FrameHeader, Vec<u8>), Incoming> {
        loop {
            if let Some((header, start)) = FrameHeader::parse(&self.bytes) {
                let length = usize::try_from(header.len).unwrap_or(usize::MAX);
                if length > self.most {
                    return Err(Incoming::Broken(format!("a frame of {} bytes", header.len)));
                }
                if self.bytes.len() >= start + length {
                    self.bytes.advance(start);
                    return Ok((header, self.bytes.split_to(length).to_vec()));
                }
            }
            self.bytes.reserve(16 * 1024);
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Err(Incoming::Ended(End::Fin)),
                Ok(_) => {}
                Err(error) => return Err(Incoming::Ended((&error).into())),
            }
        }
    }
}

/// Inflates messages, whether or not the server keeps its window between them: a window that is not
/// referred to does no harm.
struct Inflater(Inflate);

impl Inflater {
    fn new() -> Self {
        Self(Inflate::new(false, 15))
    }

    /// Inflates a message of at most so many bytes.
    fn inflate(&mut self, payload: &[u8], most: usize) -> Result<Vec<u8>, String> {
        const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
        let input = [payload, &TAIL].concat();
        let (mut rest, mut chunk, mut out) = (&input[..], vec![0; 64 * 1024], Vec::new());
        loop {
            let before = (self.0.total_in(), self.0.total_out());
            let status = self
                .0
                .decompress(rest, &mut chunk, InflateFlush::SyncFlush)
                .map_err(|error| format!("a message that cannot be inflated ({error:?})"))?;
            let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let produced = moved(self.0.total_out(), before.1);
            rest = &rest[moved(self.0.total_in(), before.0)..];
            out.extend_from_slice(&chunk[..produced]);
            if out.len() > most {
                return Err(format!("a message that inflates to over {most} bytes"));
            }
            match status {
                // A final block ends the stream, and with it the message (section 7.2.3.4).
                Status::StreamEnd => {
                    self.0.reset(false);
                    return Ok(out);
                }
                _ if produced == chunk.len() => {}
                _ if rest.is_empty() => return Ok(out),
                _ => return Err("a compressed message that ends in the middle".to_owned()),
            }
        }
    }
}
