//! permessage-deflate: RFC 7692, which nothing outside this module knows.
//!
//! Owns what the extension is called, what of a client's offers is accepted, and how what it sends is
//! inflated. It does not know the header that carries the offers, nor frames.
//!
//! An echo need not compress: without context takeover, a message that a client compressed is valid
//! in the other direction too, byte for byte. So it is sent back as it came, behind the prefix as a
//! stored block, and inflated only to be validated. Neither side may keep its context between
//! messages, and the client's window must be no larger than the one that it accepts from the server.

pub mod inflate;
pub mod offer;

/// These bytes as stored blocks, which any DEFLATE stream may follow (RFC 1951, section 3.2.4).
///
/// They end on a byte boundary, so what follows them need not be shifted.
#[must_use]
pub fn stored(bytes: &[u8]) -> Box<[u8]> {
    let blocks = bytes.chunks(usize::from(u16::MAX)).flat_map(|block| {
        let [low, high] = u16::try_from(block.len()).unwrap_or(u16::MAX).to_le_bytes();
        [0, low, high, !low, !high].into_iter().chain(block.iter().copied())
    });
    blocks.collect()
}

/// The most compressed bytes that one message may have, if its reply may have `max_message_size`.
///
/// Data that does not compress grows, and empty blocks make a message long that inflates to nothing.
#[must_use]
pub fn max_compressed_size(max_message_size: u64) -> u64 {
    max_message_size.saturating_mul(2).saturating_add(64 * 1024)
}
