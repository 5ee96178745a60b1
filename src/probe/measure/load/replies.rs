//! What a server sends under load, checked as it arrives: every byte of every echo.
//!
//! Owns the judgement of frames, however they are split. It does not know connections or time.
//!
//! Source: RFC 6455, sections 5.2 to 5.5.

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::probe::failure::{Failed, Failure};
use crate::probe::socket::Incoming;
use crate::ws::frame::{FrameHeader, PartialHeader, write_masked};

/// Why a connection cannot go on.
pub(super) enum Stop {
    /// It ended, or what came breaks the protocol.
    Ended(Incoming),
    /// What came is no echo.
    Altered(Failed),
}

/// The payloads of all messages, of one length.
pub(super) struct Payloads {
    bytes: Vec<u8>,
    length: usize,
    pub count: usize,
}

impl Payloads {
    /// Random ones: a lost, doubled or foreign echo is not taken for another.
    pub(super) fn new(length: usize, count: usize) -> Self {
        Self { bytes: (0..length * count).map(|_| fastrand::u8(..)).collect(), length, count }
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.length..][..self.length]
    }
}

/// The frames of one connection.
#[derive(Default)]
pub(super) struct Replies {
    header: PartialHeader,
    /// The frame whose payload is still to come.
    frame: Option<FrameHeader>,
    /// How much of its payload has come.
    had: u64,
    /// Which of the payloads is due, how much of it has come, and whether its message has begun.
    due: usize,
    echo: usize,
    begun: bool,
    /// Whether a text may come first, which is no echo, and whether it has begun.
    greeting: bool,
    greeted: bool,
    /// The payload of a control frame.
    control: Vec<u8>,
    /// Pongs that are to be sent.
    pub pongs: Vec<u8>,
}

impl Replies {
    /// `greeting` says whether the server sends a message before it is sent one.
    pub(super) fn new(greeting: bool) -> Self {
        Self { greeting, ..Self::default() }
    }

    /// Takes what a read returned, and adds the echoes that it completes to `done`, also where it stops
    /// behind them. Echoes are due in the order of the payloads, over and over.
    pub(super) fn take(
        &mut self,
        mut input: &[u8],
        payloads: &Payloads,
        done: &mut u64,
    ) -> Result<(), Stop> {
        loop {
            let payload = payloads.get(self.due);
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.header.parse(input) {
                    None => return Ok(()),
                    Some((frame, used)) => {
                        input = &input[used..];
                        self.begin(&frame)?;
                        frame
                    }
                },
            };
            let left = usize::try_from(frame.len - self.had).unwrap_or(usize::MAX);
            let (part, rest) = input.split_at(left.min(input.len()));
            input = rest;
            self.had += part.len() as u64;
            match frame.opcode {
                OpCode::Control(_) => self.control.extend_from_slice(part),
                OpCode::Data(_) if self.greeted => {}
                OpCode::Data(_) => self.compare(part, payload)?,
            }
            if self.had < frame.len {
                self.frame = Some(frame);
                return Ok(());
            }
            (self.frame, self.had) = (None, 0);
            match frame.opcode {
                OpCode::Control(kind) => self.heed(kind)?,
                OpCode::Data(_) if !frame.fin => {}
                OpCode::Data(_) if self.greeted => (self.begun, self.greeted) = (false, false),
                OpCode::Data(_) if self.echo < payload.len() => {
                    let (came, sent) = (self.echo, payload.len());
                    return Err(altered(&format!("{came} bytes came back instead of {sent}")));
                }
                OpCode::Data(_) => {
                    (self.begun, self.echo) = (false, 0);
                    self.due = (self.due + 1) % payloads.count;
                    *done += 1;
                }
            }
        }
    }

    /// Judges a header.
    fn begin(&mut self, frame: &FrameHeader) -> Result<(), Stop> {
        let broken = |text: String| Err(Stop::Ended(Incoming::Broken(text)));
        if let Err(violation) = frame.check_from_server(false) {
            return broken(violation.to_string());
        }
        if frame.mask.is_some() {
            return broken("a frame of the server is masked".to_owned());
        }
        match (frame.opcode, self.begun) {
            (OpCode::Control(_), _) | (OpCode::Data(Data::Continue), true) => {}
            (OpCode::Data(Data::Continue), false) => {
                return broken("a continuation frame outside a message".to_owned());
            }
            (OpCode::Data(_), true) => {
                return broken("a new message before the previous one ended".to_owned());
            }
            (OpCode::Data(kind), false) => {
                let is_text = kind == Data::Text;
                self.greeted = is_text && std::mem::take(&mut self.greeting);
                if is_text && !self.greeted {
                    return Err(altered("a text came back for a binary message"));
                }
                self.begun = true;
            }
        }
        Ok(())
    }

    /// Compares the next bytes of an echo.
    fn compare(&mut self, part: &[u8], payload: &[u8]) -> Result<(), Stop> {
        match payload.get(self.echo..self.echo + part.len()) {
            Some(expected) if expected == part => {
                self.echo += part.len();
                Ok(())
            }
            Some(expected) => {
                let differs = expected.iter().zip(part).position(|(one, other)| one != other);
                let at = self.echo + differs.unwrap_or_default();
                Err(altered(&format!("byte {at} of {} differs", payload.len())))
            }
            None => Err(altered(&format!("more than {} bytes came back", payload.len()))),
        }
    }

    /// Acts on a control frame that is complete.
    fn heed(&mut self, kind: Control) -> Result<(), Stop> {
        let payload = std::mem::take(&mut self.control);
        match kind {
            Control::Ping => {
                let pong = OpCode::Control(Control::Pong);
                write_masked(&mut self.pongs, (true, false), pong, [0; 4], &payload);
                Ok(())
            }
            Control::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = payload.get(2..).unwrap_or_default().to_vec();
                Err(Stop::Ended(Incoming::Close(code, reason)))
            }
            Control::Pong | Control::Reserved(_) => Ok(()),
        }
    }
}

pub(super) fn altered(what: &str) -> Stop {
    Stop::Altered(Failed::new(
        Failure::LoadAltered,
        format!("An echo is not what was sent: {what}."),
    ))
}
