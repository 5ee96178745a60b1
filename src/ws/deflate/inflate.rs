//! Inflating in order to validate, RFC 7692 sections 7.2.2 and 7.2.3.
//!
//! Owns the inflaters of a worker, the way of one message through one of them, and what that may
//! cost in one turn. Knows neither frames nor echoing; the output is judged and overwritten.

use std::fmt;

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::ws::utf8::Utf8;

/// The memory of an inflater in bytes, its window of 32 KiB included.
pub const INFLATER: usize = 48 * 1024;

/// What may be done in one turn, in units of about what it costs to inflate a byte.
const TURN: usize = 512 * 1024;
/// What a byte of input costs, whatever it inflates to: a dozen bytes can define two tables.
const INPUT_BYTE: usize = 4;
/// What a message costs, however short.
const MESSAGE: usize = 256;

/// How much is inflated at a time: what fits a core's own cache, and at least the 32 KiB that are
/// copied to the inflater's window each time.
const OUTPUT: usize = 64 * 1024;
/// Inflaters that a worker keeps for the messages to come.
const MOST_IDLE: usize = 4;

/// What is taken off the end of each message (section 7.2.1), and then an empty final block. Only
/// where a block may begin do they make an inflater report the end of its stream.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// How a client compressed a message so that nobody can inflate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not DEFLATE data.
    Corrupt,
    /// It refers to data before its beginning.
    ContextKept,
    /// It ends within a block, or without the beginning of the last one.
    Truncated,
}

impl Fault {
    /// The stable label in metrics and access logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Corrupt => "compression_corrupt",
            Self::ContextKept => "compression_context",
            Self::Truncated => "compression_truncated",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corrupt => "compressed message is not DEFLATE data",
            Self::ContextKept => {
                "compressed message refers to an earlier one: the client ignores client_no_context_takeover"
            }
            Self::Truncated => "compressed message is truncated",
        })
    }
}

/// Why a message is refused while it is inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It cannot be inflated.
    Fault(Fault),
    /// The text that it inflates to is not UTF-8.
    NotText,
    /// It inflates to more than it may.
    TooBig,
}

/// What a worker thread needs to inflate; it allocates on its first use.
#[derive(Default)]
pub struct Inflaters {
    idle: Vec<Inflater>,
    output: Vec<u8>,
    /// What was done in this turn.
    work: usize,
    volume: Volume,
}

struct Inflater(Box<Inflate>);

/// How much was inflated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes that went in.
    pub compressed: u64,
    /// Bytes that came out.
    pub inflated: u64,
}

impl Inflaters {
    /// Begins a turn, in which as much may be done as in any other.
    pub fn begin_turn(&mut self) {
        self.work = 0;
    }

    /// Whether enough was done for one turn.
    #[must_use]
    pub fn are_spent(&self) -> bool {
        self.work >= TURN
    }

    /// How much was inflated since the last call.
    pub fn take_volume(&mut self) -> Volume {
        std::mem::take(&mut self.volume)
    }

    /// An inflater at the beginning of a stream. The size of its window is never the client's to
    /// choose: it is the largest, which suits all.
    fn lend(&mut self) -> Inflater {
        self.idle.pop().unwrap_or_else(|| Inflater(Box::new(Inflate::new(false, 15))))
    }

    fn take_back(&mut self, Inflater(mut stream): Inflater) {
        if self.idle.len() < MOST_IDLE {
            stream.reset(false);
            self.idle.push(Inflater(stream));
        }
    }
}

impl fmt::Debug for Inflaters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflaters").field("work", &self.work).finish_non_exhaustive()
    }
}

/// One message on its way through an inflater, which it has from its first byte to its last.
pub struct Inflation {
    inflater: Option<Inflater>,
    /// Bytes that may still come out.
    room: u64,
    /// Whether the input so far ends with a final block.
    ended: bool,
}

impl Inflation {
    /// A message that may inflate to `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { inflater: None, room: most, ended: false }
    }

    /// Whether it has an inflater, and with it [`INFLATER`] bytes of memory.
    #[must_use]
    pub fn has_inflater(&self) -> bool {
        self.inflater.is_some()
    }

    /// Inflates the next bytes of the message, and says how many of them.
    ///
    /// These are all, or as many as this turn has work left for; if it is `unbounded`, a message that
    /// this turn begins is not left for another. Nothing is inflated beyond what the message may
    /// inflate to, but for the byte that shows it.
    ///
    /// # Errors
    ///
    /// What is wrong with the message, as soon as it shows; `text` is given if it has to be UTF-8.
    pub fn push(
        &mut self,
        input: &[u8],
        mut text: Option<&mut Utf8>,
        unbounded: bool,
        lent: &mut Inflaters,
    ) -> Result<usize, Refused> {
        if self.inflater.is_none() && lent.are_spent() {
            return Ok(0);
        }
        lent.output.resize(OUTPUT, 0);
        let Inflater(stream) = self.inflater.get_or_insert_with(|| lent.lend());
        let mut taken = 0;
        let mut full = false;
        // Some output may be left when all input is taken, but never much.
        while full || taken < input.len() {
            if lent.are_spent() && !unbounded && taken < input.len() {
                break;
            }
            let space = self.room.saturating_add(1).min(OUTPUT as u64);
            let space = size(space);
            let output = &mut lent.output[..space];
            let before = (stream.total_in(), stream.total_out());
            let status = stream.decompress(&input[taken..], output, InflateFlush::NoFlush);
            let compressed = stream.total_in() - before.0;
            let inflated = stream.total_out() - before.1;
            lent.volume.compressed += compressed;
            lent.volume.inflated += inflated;
            self.room = self.room.checked_sub(inflated).ok_or(Refused::TooBig)?;
            let (used, produced) = (size(compressed), size(inflated));
            if let Some(text) = &mut text {
                text.push(&output[..produced]).map_err(|_| Refused::NotText)?;
            }
            lent.work += produced + INPUT_BYTE * used;
            taken += used;
            full = produced == space;
            self.ended = match status {
                Ok(Status::StreamEnd) => {
                    stream.reset(false);
                    full = false;
                    true
                }
                Ok(_) => self.ended && used == 0,
                Err(_) if stream.error_message() == Some("invalid distance too far back") => {
                    return Err(Refused::Fault(Fault::ContextKept));
                }
                Err(_) => return Err(Refused::Fault(Fault::Corrupt)),
            };
        }
        Ok(taken)
    }

    /// Ends the message.
    ///
    /// # Errors
    ///
    /// [`Fault::Truncated`], unless it ends where RFC 7692 has it end or with a final block.
    pub fn finish(self, lent: &mut Inflaters) -> Result<(), Refused> {
        lent.work += MESSAGE;
        // Not one byte: even the empty message has one.
        let truncated = Refused::Fault(Fault::Truncated);
        let Inflater(mut stream) = self.inflater.ok_or(truncated)?;
        if !self.ended {
            let before = (stream.total_in(), stream.total_out());
            let status = stream.decompress(&TAIL, &mut [0], InflateFlush::NoFlush);
            let after = (before.0 + TAIL.len() as u64, before.1);
            if status != Ok(Status::StreamEnd) || (stream.total_in(), stream.total_out()) != after {
                return Err(truncated);
            }
        }
        lent.take_back(Inflater(stream));
        Ok(())
    }
}

/// What one call moved, which is no more than it was given.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it fits a slice")
}

impl fmt::Debug for Inflation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflation").field("room", &self.room).finish_non_exhaustive()
    }
}
