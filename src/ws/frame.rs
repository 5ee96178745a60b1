//! One frame's header and its mask, RFC 6455 sections 5.2, 5.3 and 5.5.
//!
//! Owns how a header is read, judged and written, and how a payload is unmasked. Knows neither
//! messages nor connections: whether a frame may come *now* is for the engine to judge.

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest payload of a control frame, in bytes (section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// The longest header of a client's frame, in bytes: two, a 64-bit length and a mask.
pub const MAX_FRAME_HEADER: usize = 14;

/// How a peer broke the framing rules. Each one ends the connection with 1002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit is set although no extension was negotiated (section 5.2).
    ReservedBit,
    /// With compression negotiated, the bit that marks a compressed message is set elsewhere than in
    /// the first frame of a message (RFC 7692, section 6.1).
    MisplacedBit,
    /// An opcode without a defined meaning (section 5.2).
    ReservedOpcode,
    /// A client's frame without a mask (section 5.1).
    Unmasked,
    /// A control frame that is not final (section 5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (section 5.5).
    OversizedControl,
    /// A length that would have fit a shorter form (section 5.2).
    NonMinimalLength,
    /// A 64-bit length with its top bit set (section 5.2).
    LengthOverflow,
    /// A continuation frame while no message is open (section 5.4).
    StrayContinuation,
    /// A text or binary frame while another message is open (section 5.4).
    InterleavedMessage,
    /// A Close frame with half a code (section 5.5.1).
    OneByteClose,
    /// A close code that must not be sent in a frame (section 7.4).
    CloseCode(u16),
}

impl Violation {
    /// The stable label in metrics and access logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::ReservedBit | Self::MisplacedBit => "reserved_bit",
            Self::ReservedOpcode => "reserved_opcode",
            Self::Unmasked => "unmasked",
            Self::FragmentedControl => "fragmented_control",
            Self::OversizedControl => "oversized_control",
            Self::NonMinimalLength => "non_minimal_length",
            Self::LengthOverflow => "length_overflow",
            Self::StrayContinuation => "stray_continuation",
            Self::InterleavedMessage => "interleaved_message",
            Self::OneByteClose => "one_byte_close",
            Self::CloseCode(_) => "close_code",
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ReservedBit => "reserved bit set without a negotiated extension",
            Self::MisplacedBit => "RSV1 set outside the first frame of a message",
            Self::ReservedOpcode => "reserved opcode",
            Self::Unmasked => "unmasked frame from the client",
            Self::FragmentedControl => "fragmented control frame",
            Self::OversizedControl => "control frame over 125 bytes",
            Self::NonMinimalLength => "frame length not in its shortest form",
            Self::LengthOverflow => "frame length over 63 bits",
            Self::StrayContinuation => "continuation frame outside a message",
            Self::InterleavedMessage => "new message before the previous one ended",
            Self::OneByteClose => "one-byte close payload",
            Self::CloseCode(code) => return write!(f, "close code {code} must not be sent"),
        })
    }
}

/// The header of a frame as it stands on the wire, not yet judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "these are the bits of the wire format")]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// The first reserved bit.
    pub rsv1: bool,
    /// The second reserved bit.
    pub rsv2: bool,
    /// The third reserved bit.
    pub rsv3: bool,
    /// The kind of frame.
    pub opcode: OpCode,
    /// The mask of its payload, if it has one.
    pub mask: Option<Mask>,
    /// The declared length of the payload in bytes, legal or not.
    pub len: u64,
    /// Whether the length is encoded in its shortest form.
    pub minimal: bool,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes` and says how many bytes it takes (2 to 14).
    ///
    /// `None` means that more bytes are needed. Any bytes parse; [`FrameHeader::check`] says
    /// whether the header is legal.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (len, minimal, extended) = match second & 0x7f {
            126 => {
                let len = u64::from(u16::from_be_bytes(*rest.first_chunk()?));
                (len, len > 125, 2)
            }
            127 => {
                let len = u64::from_be_bytes(*rest.first_chunk()?);
                (len, len > 0xffff, 8)
            }
            len => (u64::from(len), true, 0),
        };
        let (mask, keyed) = if second & 0x80 == 0 {
            (None, 0)
        } else {
            (Some(Mask::new(*rest[extended..].first_chunk()?)), 4)
        };
        let header = Self {
            fin: first & 0x80 != 0,
            rsv1: first & 0x40 != 0,
            rsv2: first & 0x20 != 0,
            rsv3: first & 0x10 != 0,
            opcode: OpCode::from(first & 0x0f),
            mask,
            len,
            minimal,
        };
        Some((header, 2 + extended + keyed))
    }

    /// Checks that a client may send a frame with this header, and returns its mask.
    ///
    /// With `compression` negotiated, the first frame of a message may have RSV1 set.
    ///
    /// # Errors
    ///
    /// The first rule of sections 5.1, 5.2 and 5.5 that the header breaks.
    #[inline]
    pub fn check(&self, compression: bool) -> Result<Mask, Violation> {
        if self.rsv1 || self.rsv2 || self.rsv3 {
            if self.rsv2 || self.rsv3 || !compression {
                return Err(Violation::ReservedBit);
            }
            if !matches!(self.opcode, OpCode::Data(Data::Text | Data::Binary)) {
                return Err(Violation::MisplacedBit);
            }
        }
        match self.opcode {
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Violation::ReservedOpcode);
            }
            OpCode::Control(_) if !self.fin => return Err(Violation::FragmentedControl),
            OpCode::Control(_) if self.len > MAX_CONTROL_PAYLOAD as u64 => {
                return Err(Violation::OversizedControl);
            }
            OpCode::Data(_) | OpCode::Control(_) => {}
        }
        if self.len > i64::MAX as u64 {
            return Err(Violation::LengthOverflow);
        }
        if !self.minimal {
            return Err(Violation::NonMinimalLength);
        }
        self.mask.ok_or(Violation::Unmasked)
    }

    /// Checks that a server may send a frame with this header; with `compression` agreed, RSV1 may be
    /// set on it (RFC 7692, section 6).
    ///
    /// # Errors
    /// As [`FrameHeader::check`]. Whether it is masked, which it must not be, is not judged.
    pub fn check_from_server(&self, compression: bool) -> Result<(), Violation> {
        Self { mask: Some(Mask(0)), ..*self }.check(compression).map(drop)
    }
}

/// A header that may arrive in several reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct PartialHeader {
    bytes: [u8; MAX_FRAME_HEADER],
    len: usize,
}

impl PartialHeader {
    /// Whether no byte of a header has been kept.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads on at the start of `bytes` and says how many of them complete the header.
    ///
    /// `None` means that all of `bytes` were kept and more are needed.
    #[inline]
    pub fn parse(&mut self, bytes: &[u8]) -> Option<(FrameHeader, usize)> {
        if self.is_empty()
            && let Some(parsed) = FrameHeader::parse(bytes)
        {
            return Some(parsed);
        }
        self.complete(bytes)
    }

    /// The rare case, kept out of the fast path.
    #[cold]
    fn complete(&mut self, bytes: &[u8]) -> Option<(FrameHeader, usize)> {
        let kept = self.len;
        let more = bytes.len().min(MAX_FRAME_HEADER - kept);
        self.len += more;
        self.bytes[kept..self.len].copy_from_slice(&bytes[..more]);
        let (header, used) = FrameHeader::parse(&self.bytes[..self.len])?;
        self.len = 0;
        Some((header, used - kept))
    }
}

/// Appends the header of an unmasked frame with a payload of `len` bytes to `out`; `rsv1` is its
/// first reserved bit.
#[inline]
pub fn write_header(out: &mut Vec<u8>, fin: bool, rsv1: bool, opcode: OpCode, len: usize) {
    let first = u8::from(fin) << 7 | u8::from(rsv1) << 6 | u8::from(opcode);
    if let (Ok(len), true) = (u8::try_from(len), len < 126) {
        out.extend_from_slice(&[first, len]);
    } else if let Ok(len) = u16::try_from(len) {
        let [high, low] = len.to_be_bytes();
        out.extend_from_slice(&[first, 126, high, low]);
    } else {
        out.extend_from_slice(&[first, 127]);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

/// Appends a complete control frame; `payload` must not exceed [`MAX_CONTROL_PAYLOAD`].
pub fn write_control(out: &mut Vec<u8>, kind: Control, payload: &[u8]) {
    write_header(out, true, false, OpCode::Control(kind), payload.len());
    out.extend_from_slice(payload);
}

/// Appends a client's frame: `rsv1` marks the first of a compressed message (RFC 7692, section 6).
pub fn write_masked(
    out: &mut Vec<u8>,
    (fin, rsv1): (bool, bool),
    opcode: OpCode,
    key: [u8; 4],
    payload: &[u8],
) {
    let start = out.len();
    write_header(out, fin, rsv1, opcode, payload.len());
    out[start + 1] |= 0x80;
    out.extend_from_slice(&key);
    let masked = out.len();
    out.extend_from_slice(payload);
    Mask::new(key).apply(&mut out[masked..]);
}

/// The mask of one frame, rotated to the next byte of its payload (section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(u32);

impl Mask {
    /// A mask as it stands in the header, before the first byte of the payload.
    #[inline]
    #[must_use]
    pub fn new(key: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(key))
    }

    /// Masks or unmasks the next bytes of the payload in place.
    ///
    /// The payload may come in pieces of any size: the mask continues where the last one ended.
    #[inline]
    pub fn apply(&mut self, payload: &mut [u8]) {
        const WORD: usize = size_of::<u64>();
        let key = u64::from(self.0) << 32 | u64::from(self.0);
        // The compiler vectorizes this loop.
        let mut words = payload.chunks_exact_mut(WORD);
        for word in &mut words {
            if let Some(bytes) = word.first_chunk_mut::<WORD>() {
                *bytes = (u64::from_le_bytes(*bytes) ^ key).to_le_bytes();
            }
        }
        let rest = words.into_remainder();
        for (byte, key) in rest.iter_mut().zip(key.to_le_bytes()) {
            *byte ^= key;
        }
        self.skip(rest.len());
    }

    /// Goes on past this many bytes of the payload, and leaves them as they are.
    #[inline]
    pub fn skip(&mut self, bytes: usize) {
        for _ in 0..bytes % 4 {
            self.0 = self.0.rotate_right(8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    #[test]
    fn headers_are_read_in_all_three_length_forms() {
        let table: [(&[u8], u64, usize); 6] = [
            (&[0x82, 0x80, 1, 2, 3, 4], 0, 6),
            (&[0x82, 0xfd, 1, 2, 3, 4], 125, 6),
            (&[0x82, 0xfe, 0, 126, 1, 2, 3, 4], 126, 8),
            (&[0x82, 0xfe, 255, 255, 1, 2, 3, 4], 65_535, 8),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], 65_536, 14),
            (
                &[0x82, 0xff, 127, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4],
                i64::MAX as u64,
                14,
            ),
        ];
        for (bytes, len, size) in table {
            let (header, used) = FrameHeader::parse(bytes).expect("a complete header");
            assert_eq!((header.len, used), (len, size), "{bytes:02x?}");
            assert_eq!(header.check(false), Ok(Mask::new(KEY)), "{bytes:02x?}");
            for cut in 0..size {
                assert_eq!(FrameHeader::parse(&bytes[..cut]), None, "{bytes:02x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn illegal_headers_are_named() {
        let table: [(&[u8], Violation); 13] = [
            (&[0xc2, 0x80, 1, 2, 3, 4], Violation::ReservedBit),
            (&[0xa2, 0x80, 1, 2, 3, 4], Violation::ReservedBit),
            (&[0x92, 0x80, 1, 2, 3, 4], Violation::ReservedBit),
            (&[0x83, 0x80, 1, 2, 3, 4], Violation::ReservedOpcode),
            (&[0x8b, 0x80, 1, 2, 3, 4], Violation::ReservedOpcode),
            (&[0x82, 0x00], Violation::Unmasked),
            (&[0x09, 0x80, 1, 2, 3, 4], Violation::FragmentedControl),
            (&[0x89, 0xfe, 0, 126, 1, 2, 3, 4], Violation::OversizedControl),
            (&[0x88, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], Violation::OversizedControl),
            (&[0x82, 0xfe, 0, 125, 1, 2, 3, 4], Violation::NonMinimalLength),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4], Violation::NonMinimalLength),
            (&[0x89, 0xfe, 0, 5, 1, 2, 3, 4], Violation::NonMinimalLength),
            (&[0x82, 0xff, 128, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], Violation::LengthOverflow),
        ];
        for (bytes, violation) in table {
            let (header, used) = FrameHeader::parse(bytes).expect("a complete header");
            assert_eq!(header.check(false), Err(violation), "{bytes:02x?}");
            assert_eq!(used, bytes.len(), "{bytes:02x?}");
        }
    }

    #[test]
    fn written_headers_take_the_shortest_form() {
        let text = OpCode::Data(Data::Text);
        let table: [(usize, &[u8]); 6] = [
            (0, &[0x81, 0]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (255, &[0x81, 126, 0, 255]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (len, expected) in table {
            let mut out = Vec::new();
            write_header(&mut out, true, false, text, len);
            assert_eq!(out, expected);
            let (header, used) = FrameHeader::parse(&out).expect("a complete header");
            assert_eq!((header.len, used, header.opcode), (len as u64, out.len(), text));
            assert!(header.minimal && header.mask.is_none());
        }
        let mut out = Vec::new();
        write_header(&mut out, false, false, OpCode::Control(Control::Pong), 0);
        assert_eq!(out, [0x0a, 0]);
    }

    #[test]
    fn a_clients_frame_is_read_back() {
        let mut out = b"before".to_vec();
        let payload = [7; 300];
        write_masked(&mut out, (false, true), OpCode::Data(Data::Binary), KEY, &payload);
        let (header, used) = FrameHeader::parse(&out[6..]).expect("a complete header");
        assert!(!header.fin && header.rsv1 && !header.rsv2 && header.len == 300);
        assert_eq!(header.mask, Some(Mask::new(KEY)));
        Mask::new(KEY).apply(&mut out[6 + used..]);
        assert_eq!(out[6 + used..], payload);
    }

    #[test]
    fn a_server_may_set_rsv1_only_where_compression_was_agreed() {
        let (header, _) = FrameHeader::parse(&[0xc2, 5]).expect("a complete header");
        assert_eq!(header.check_from_server(true), Ok(()));
        assert_eq!(header.check_from_server(false), Err(Violation::ReservedBit));
        let (header, _) = FrameHeader::parse(&[0xa2, 5]).expect("a complete header");
        assert_eq!(header.check_from_server(true), Err(Violation::ReservedBit));
    }

    #[test]
    fn a_mask_continues_where_it_stopped() {
        let plain: Vec<u8> = (0..=255).collect();
        let masked: Vec<u8> = plain.iter().zip(KEY.iter().cycle()).map(|(b, k)| b ^ k).collect();
        for first in 0..100 {
            for second in [0, 1, 2, 3, 31, 32, 33, 100] {
                let mut bytes = masked.clone();
                let mut mask = Mask::new(KEY);
                mask.apply(&mut bytes[..first]);
                mask.apply(&mut bytes[first..first + second]);
                mask.apply(&mut bytes[first + second..]);
                assert_eq!(bytes, plain, "cut at {first} and after {second}");
            }
        }
    }
}
