//! The payload of one compressed message, RFC 7692 section 6.2.
//!
//! Owns how a message gets its inflater, and that what a turn does not get to stays as it came.
//! Does not know frames, nor what is sent in reply.

use crate::ws::deflate::inflate::{INFLATER, Inflaters, Inflation, Refused};
use crate::ws::frame::Mask;
use crate::ws::utf8::Utf8;

/// Payload is unmasked and inflated in blocks of this size: what is not inflated in this turn has to
/// be masked again.
const BLOCK: usize = 16 * 1024;

/// On what terms compressed messages are read in one turn.
pub(super) struct Terms<'a> {
    /// Whether the client may send any.
    pub(super) agreed: bool,
    /// What inflates them.
    pub(super) inflaters: &'a mut Inflaters,
    /// Nothing more may be held beyond this turn, inflaters included.
    pub(super) memory_spent: bool,
}

/// A compressed message.
#[derive(Debug)]
pub(super) struct Compression {
    inflation: Inflation,
}

impl Compression {
    /// A message that may inflate to `room` bytes.
    pub(super) fn new(room: u64) -> Self {
        Self { inflation: Inflation::new(room) }
    }

    /// Whether its inflater is already kept from one turn to the next.
    pub(super) fn has_inflater(&self) -> bool {
        self.inflation.has_inflater()
    }

    /// The bytes of memory it takes beyond its own.
    pub(super) fn held_capacity(&self) -> usize {
        if self.has_inflater() { INFLATER } else { 0 }
    }

    /// Unmasks and inflates payload, as much of it as this turn has work left for, and says how much
    /// that was. `ends` if the message ends with it; `text` is given if it has to be UTF-8.
    pub(super) fn read(
        &mut self,
        payload: &mut [u8],
        ends: bool,
        mask: &mut Mask,
        mut text: Option<&mut Utf8>,
        Terms { inflaters, memory_spent, .. }: &mut Terms<'_>,
    ) -> Result<usize, Refused> {
        let unbounded = *memory_spent && ends;
        let mut read = 0;
        for block in payload.chunks_mut(BLOCK) {
            { *mask }.apply(block);
            let taken = self.inflation.push(block, text.as_deref_mut(), unbounded, inflaters)?;
            read += taken;
            mask.skip(taken);
            if taken < block.len() {
                { *mask }.apply(&mut block[taken..]);
                break;
            }
        }
        Ok(read)
    }

    /// Ends the message.
    pub(super) fn finish(self, inflaters: &mut Inflaters) -> Result<(), Refused> {
        self.inflation.finish(inflaters)
    }
}
