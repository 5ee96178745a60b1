//! Writes WebSocket frames, RFC 6455, section 5.2. Hand-written on purpose: nothing may judge the
//! engine by the engine's own code.
//!
//! The suite, the fuzzer and both benchmarks share this file, by `#[path]` where they are crates of
//! their own. It knows nothing of opcodes or rules, and writes broken frames just as well.

/// The header of a frame of `len` bytes without a mask, and how many of its bytes count.
pub fn unmasked_header(first: u8, len: u64) -> ([u8; 10], usize) {
    let bytes = len.to_be_bytes();
    let mut header = [0; 10];
    header[0] = first;
    match len {
        0..126 => {
            header[1] = bytes[7];
            (header, 2)
        }
        126..65_536 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&bytes[6..]);
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&bytes);
            (header, 10)
        }
    }
}

/// The header of a frame that is masked with `key`.
pub fn header(first: u8, len: u64, key: [u8; 4]) -> Vec<u8> {
    let (mut header, size) = unmasked_header(first, len);
    header[1] |= 0x80;
    [&header[..size], &key].concat()
}

/// A whole frame, masked with `key`.
pub fn frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}
