//! How a WebSocket ends, RFC 6455 sections 5.5.1, 7.1 and 7.4.
//!
//! Owns the reasons for an end with their codes and words, the reading of the peer's Close, and
//! the waiting for it after ours. Knows nothing of echoing, nor of how long to wait.

use std::borrow::Cow;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use crate::ws::frame::{FrameHeader, MAX_FRAME_HEADER, Violation, write_control};

/// The longest reason of a Close frame, in bytes.
const MAX_REASON: usize = 123;

/// More than this many empty fragments in one message end the connection, because they cost work
/// and memory at the peer's pleasure and carry nothing.
pub(super) const MAX_EMPTY_FRAGMENTS: u16 = 1023;

/// Who ended the WebSocket, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The peer sent a Close frame first; its code and reason were sent back.
    Peer {
        /// The peer's code; `None` if its Close was empty.
        code: Option<CloseCode>,
        /// The peer's reason, at most 123 bytes of text from the network.
        reason: Box<str>,
    },
    /// The server asked for it.
    Server {
        /// The code that was sent.
        code: CloseCode,
        /// The reason that was sent.
        reason: Box<str>,
    },
    /// The peer broke the framing rules: 1002.
    Protocol(Violation),
    /// A text message is not UTF-8: 1007.
    InvalidText,
    /// The reason in the peer's Close is not UTF-8: 1007.
    InvalidCloseReason,
    /// The reply to a message would be larger than this limit in bytes: 1009.
    TooBig(u64),
    /// A message came in 1,024 empty fragments: 1008.
    EmptyFragments,
}

impl End {
    /// The code of the Close frame that was sent; `None` for the answer to an empty one.
    #[must_use]
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            Self::Peer { code, .. } => *code,
            Self::Server { code, .. } => Some(*code),
            Self::Protocol(_) => Some(CloseCode::Protocol),
            Self::InvalidText | Self::InvalidCloseReason => Some(CloseCode::Invalid),
            Self::TooBig(_) => Some(CloseCode::Size),
            Self::EmptyFragments => Some(CloseCode::Policy),
        }
    }

    /// The stable label of metrics and access logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Peer { .. } => "peer",
            Self::Server { .. } => "server",
            Self::Protocol(violation) => violation.label(),
            Self::InvalidText => "invalid_text",
            Self::InvalidCloseReason => "invalid_close_reason",
            Self::TooBig(_) => "too_big",
            Self::EmptyFragments => "empty_fragments",
        }
    }

    /// The reason of the Close frame that was sent, at most 123 bytes.
    #[must_use]
    pub fn reason(&self) -> Cow<'_, str> {
        match self {
            Self::Peer { reason, .. } => Cow::Borrowed(reason),
            Self::Server { reason, .. } => Cow::Borrowed(shortened(reason)),
            Self::Protocol(violation) => format!("wsecho: {violation} (RFC 6455)").into(),
            Self::InvalidText => "wsecho: text message is not UTF-8".into(),
            Self::InvalidCloseReason => "wsecho: close reason is not UTF-8".into(),
            Self::TooBig(limit) => {
                format!("wsecho: message over {} (limits.max_message_size)", Size(*limit)).into()
            }
            Self::EmptyFragments => "wsecho: 1024 empty fragments in one message".into(),
        }
    }

    /// Reads the payload of the peer's Close: an [`End::Peer`], or what is wrong with it.
    pub(super) fn from_peer(payload: &[u8]) -> Self {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return match payload {
                [] => Self::Peer { code: None, reason: "".into() },
                _ => Self::Protocol(Violation::OneByteClose),
            };
        };
        let code = u16::from_be_bytes(*code);
        if !may_be_sent(code) {
            return Self::Protocol(Violation::CloseCode(code));
        }
        match std::str::from_utf8(reason) {
            Ok(reason) => Self::Peer { code: Some(code.into()), reason: reason.into() },
            Err(_) => Self::InvalidCloseReason,
        }
    }

    /// Appends the Close frame that tells the peer about this end.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        if let Some(code) = self.code() {
            payload.extend_from_slice(&u16::from(code).to_be_bytes());
            payload.extend_from_slice(self.reason().as_bytes());
        }
        write_control(out, Control::Close, &payload);
    }
}

/// The codes that section 7.4 and its registry allow in a frame; 1014 is younger than the RFC.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// As much of `reason` as fits a Close frame, cut between characters.
fn shortened(reason: &str) -> &str {
    let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or(0)]
}

/// A number of bytes in the words of the configuration file.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// Reads on after our Close, only to see the peer's: nothing in it can be an error any more.
#[derive(Debug, Default)]
pub(super) struct Discard {
    /// Bytes of the current frame that are still to come.
    skip: u64,
    header: [u8; MAX_FRAME_HEADER],
    have: usize,
}

impl Discard {
    /// Starts inside a frame of which `skip` bytes are still to come, or, if that is 0, inside the
    /// header whose first bytes are `header`.
    pub(super) fn new(skip: u64, header: &[u8]) -> Self {
        let mut discard = Self { skip, ..Self::default() };
        discard.have = header.len();
        discard.header[..header.len()].copy_from_slice(header);
        discard
    }

    /// Passes over `bytes` and says whether the peer's Close began in them.
    pub(super) fn saw_close(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return false;
            }
            let taken = bytes.len().min(MAX_FRAME_HEADER - self.have);
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            let Some((header, used)) = FrameHeader::parse(&self.header[..self.have + taken]) else {
                self.have += taken;
                return false;
            };
            if header.opcode == OpCode::Control(Control::Close) {
                return true;
            }
            bytes = &bytes[used - self.have..];
            self.have = 0;
            self.skip = header.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_judged_as_the_registry_says() {
        let refused = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
        for code in refused {
            let end = End::from_peer(&u16::to_be_bytes(code));
            assert_eq!(end, End::Protocol(Violation::CloseCode(code)));
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            let end = End::from_peer(&u16::to_be_bytes(code));
            assert_eq!(end.code().map(u16::from), Some(code));
            assert_eq!(end.label(), "peer");
        }
    }

    #[test]
    fn a_close_of_the_peer_is_sent_back_byte_by_byte() {
        for payload in [&b""[..], b"\x03\xe8", b"\x03\xf6bye", "\u{f}\u{f}ö".as_bytes()] {
            let mut out = Vec::new();
            End::from_peer(payload).write(&mut out);
            assert_eq!(out[..2], [0x88, u8::try_from(payload.len()).expect("short")]);
            assert_eq!(&out[2..], payload);
        }
    }

    #[test]
    fn every_close_of_the_server_says_who_and_why_in_123_bytes() {
        let server = |reason: &str| End::Server { code: CloseCode::Away, reason: reason.into() };
        let ends = [
            (End::Protocol(Violation::ReservedBit), 1002),
            (End::Protocol(Violation::FragmentedControl), 1002),
            (End::Protocol(Violation::CloseCode(65_535)), 1002),
            (End::InvalidText, 1007),
            (End::InvalidCloseReason, 1007),
            (End::EmptyFragments, 1008),
            (End::TooBig(1 << 20), 1009),
            (End::TooBig(u64::MAX), 1009),
            (server("wsecho: going away"), 1001),
            (server(&format!("wsecho: {}", "ö".repeat(100))), 1001),
        ];
        for (end, code) in ends {
            assert!(end.reason().starts_with("wsecho: "), "{end:?}");
            let mut out = Vec::new();
            end.write(&mut out);
            assert!(out.len() <= 127, "{end:?}");
            assert_eq!(End::from_peer(&out[2..]).code().map(u16::from), Some(code), "{end:?}");
        }
        assert_eq!(
            End::TooBig(1 << 20).reason(),
            "wsecho: message over 1 MiB (limits.max_message_size)"
        );
        assert_eq!(Size(64 << 10).to_string(), "64 KiB");
        assert_eq!(Size(1000).to_string(), "1000 bytes");
    }

    #[test]
    fn the_close_of_the_peer_is_found_behind_anything_and_in_any_pieces() {
        let mut stream = vec![0; 5];
        // Payloads that look like a Close are passed over.
        stream.extend_from_slice(&[0xff, 0xfe, 0, 3, 1, 2, 3, 4, 0x88, 0x80, 0x88]);
        stream.extend_from_slice(&[0x02, 0x01, 0x88]);
        let close = stream.len();
        stream.extend_from_slice(&[0x88, 0x80, 1, 2, 3, 4]);
        for size in 1..=stream.len() {
            let mut discard = Discard::new(5, &[]);
            let seen = stream.chunks(size).position(|chunk| discard.saw_close(chunk));
            let expected = (close + 5) / size;
            assert_eq!(seen, Some(expected), "in pieces of {size}");
        }
    }

    #[test]
    fn a_header_that_was_cut_by_our_close_is_read_to_its_end() {
        let mut discard = Discard::new(0, &[0x82, 0xfe, 0]);
        assert!(!discard.saw_close(&[2, 1, 2, 3, 4, 0x88]));
        assert!(discard.saw_close(&[0x88, 0x88, 0x80, 0, 0, 0, 0]));
    }
}
