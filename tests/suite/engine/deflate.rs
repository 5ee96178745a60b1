//! The client's side of permessage-deflate, RFC 7692: compresses as zlib does, and inflates with
//! miniz_oxide, so that no test judges zlib-rs by zlib-rs.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

pub use zlib_rs::Strategy;

/// How a client compresses a message.
#[derive(Debug, Clone, Copy)]
pub struct Compressor {
    pub level: i32,
    pub strategy: Strategy,
    /// 9 to 15.
    pub window_bits: i32,
    /// Ends each part of the message but the last.
    pub flush: DeflateFlush,
    /// Ends the message with a final block.
    pub bfinal: bool,
}

impl Default for Compressor {
    fn default() -> Self {
        let (flush, strategy) = (DeflateFlush::SyncFlush, Strategy::Default);
        Self { level: 6, strategy, window_bits: 15, flush, bfinal: false }
    }
}

impl Compressor {
    /// Compresses messages, each in parts. A context is kept from one message to the next.
    pub fn messages(&self, messages: &[&[&[u8]]]) -> Vec<Vec<u8>> {
        let Self { level, strategy, window_bits, flush, bfinal } = *self;
        let window_bits = -window_bits;
        let config = DeflateConfig { level, strategy, window_bits, ..DeflateConfig::default() };
        let mut deflate = Deflate::new_with_config(config);
        let mut compressed = Vec::new();
        for parts in messages {
            let mut message = Vec::new();
            for part in &parts[..parts.len() - 1] {
                run(&mut deflate, part, flush, &mut message);
            }
            let last = parts[parts.len() - 1];
            if bfinal {
                run(&mut deflate, last, DeflateFlush::Finish, &mut message);
                message.push(0);
                deflate.reset();
            } else {
                run(&mut deflate, last, DeflateFlush::SyncFlush, &mut message);
                // Nothing comes of an empty message behind another.
                message.truncate(message.len().saturating_sub(4));
                if message.is_empty() {
                    message.push(0);
                }
            }
            compressed.push(message);
        }
        compressed
    }

    pub fn message(&self, parts: &[&[u8]]) -> Vec<u8> {
        self.messages(&[parts]).remove(0)
    }
}

/// A payload that grows when it is compressed.
pub fn random(len: usize) -> Vec<u8> {
    let mut state: u64 = 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

/// A message as most clients compress it.
pub fn compress(message: &[u8]) -> Vec<u8> {
    Compressor::default().message(&[message])
}

fn run(deflate: &mut Deflate, mut input: &[u8], flush: DeflateFlush, to: &mut Vec<u8>) {
    let mut output = vec![0; 64 * 1024];
    loop {
        let before = (deflate.total_in(), deflate.total_out());
        deflate.compress(input, &mut output, flush).expect("any bytes can be compressed");
        input = &input[(deflate.total_in() - before.0) as usize..];
        let produced = (deflate.total_out() - before.1) as usize;
        to.extend_from_slice(&output[..produced]);
        if produced < output.len() {
            return assert!(input.is_empty());
        }
    }
}

/// Why a compressed message has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    Corrupt,
    Truncated,
    /// It has more bytes than it may.
    TooBig,
}

/// What a compressed message of at most `limit` bytes means (section 7.2.2).
pub fn inflate(mut message: &[u8], limit: usize) -> Result<Vec<u8>, Bad> {
    const FLAGS: u32 = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
    let mut output = vec![0; limit + 1];
    let mut size = 0;
    if message.is_empty() {
        return Err(Bad::Truncated);
    }
    loop {
        // A stream of its own: it cannot refer to what is before it.
        let mut state = DecompressorOxide::new();
        let stream = &mut output[size..];
        let (status, used, produced) = decompress(&mut state, message, stream, 0, FLAGS);
        match status {
            TINFLStatus::Done => {
                size += produced;
                message = &message[used..];
                if size > limit {
                    return Err(Bad::TooBig);
                }
                if message.is_empty() {
                    break;
                }
            }
            TINFLStatus::NeedsMoreInput => {
                // The tail, and a final block as a probe: the one says nothing, the other ends it.
                let tail = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
                let end = decompress(&mut state, &tail, stream, produced, FLAGS);
                size += produced;
                if size > limit {
                    return Err(Bad::TooBig);
                }
                if end != (TINFLStatus::Done, tail.len(), 0) {
                    return Err(Bad::Truncated);
                }
                break;
            }
            TINFLStatus::HasMoreOutput => return Err(Bad::TooBig),
            _ => return Err(Bad::Corrupt),
        }
    }
    output.truncate(size);
    Ok(output)
}
