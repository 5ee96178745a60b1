//! How a WebSocket ends, RFC 6455 sections 5.5.1, 7.1 and 7.4.
//!
//! Owns the reasons for an end with their codes and texts, the parsing of the client's Close, and
//! the search for it after ours. Knows nothing of echoing, nor of how long to wait.

use std::borrow::Cow;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use crate::ws::deflate::inflate::{Fault, Refused};
use crate::ws::frame::{PartialHeader, Violation, write_control};

/// The longest reason of a Close frame, in bytes.
pub const MAX_REASON: usize = 123;

/// More empty fragments than this in one message end the connection: they carry nothing, and cost
/// work and memory for as long as the client likes.
pub(super) const MAX_EMPTY_FRAGMENTS: u16 = 1023;

/// Who ended the WebSocket, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client sent a Close frame first; its code and reason were echoed.
    Peer {
        /// The client's code; `None` if its Close was empty.
        code: Option<CloseCode>,
        /// The client's reason: at most 123 bytes of text from the network.
        reason: Box<str>,
    },
    /// The server asked for it.
    Server {
        /// The code that was sent.
        code: CloseCode,
        /// The reason that was sent.
        reason: Box<str>,
    },
    /// The client asked for it when it opened the WebSocket.
    Requested {
        /// The code that was sent.
        code: CloseCode,
        /// The reason that was sent: text from the network.
        reason: Box<str>,
    },
    /// The client was told what it came for: 1000, without a reason.
    Told,
    /// The client broke the framing rules: 1002.
    Protocol(Violation),
    /// A text message is not UTF-8: 1007.
    InvalidText,
    /// The reason in the client's Close is not UTF-8: 1007.
    InvalidCloseReason,
    /// The reply to a message would exceed this limit in bytes: 1009.
    TooBig(u64),
    /// The client compressed a message so that nobody can inflate it: 1007.
    Compression(Fault),
    /// The compressed bytes of a message would exceed this limit: 1009.
    TooMuchCompressed(u64),
    /// A message had 1,024 empty fragments: 1008.
    EmptyFragments,
}

impl End {
    /// The code of the Close frame we sent; `None` for the answer to an empty one.
    #[must_use]
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            Self::Peer { code, .. } => *code,
            Self::Server { code, .. } | Self::Requested { code, .. } => Some(*code),
            Self::Told => Some(CloseCode::Normal),
            Self::Protocol(_) => Some(CloseCode::Protocol),
            Self::InvalidText | Self::InvalidCloseReason | Self::Compression(_) => {
                Some(CloseCode::Invalid)
            }
            Self::TooBig(_) | Self::TooMuchCompressed(_) => Some(CloseCode::Size),
            Self::EmptyFragments => Some(CloseCode::Policy),
        }
    }

    /// The stable label in metrics and access logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Peer { .. } => "peer",
            Self::Server { .. } => "server",
            Self::Requested { .. } => "requested",
            Self::Told => "told",
            Self::Protocol(violation) => violation.label(),
            Self::InvalidText => "invalid_text",
            Self::InvalidCloseReason => "invalid_close_reason",
            Self::TooBig(_) | Self::TooMuchCompressed(_) => "too_big",
            Self::Compression(fault) => fault.label(),
            Self::EmptyFragments => "empty_fragments",
        }
    }

    /// The reason of the Close frame we sent, at most 123 bytes.
    #[must_use]
    pub fn reason(&self) -> Cow<'_, str> {
        match self {
            Self::Peer { reason, .. } => Cow::Borrowed(reason),
            Self::Server { reason, .. } | Self::Requested { reason, .. } => {
                Cow::Borrowed(shortened(reason))
            }
            Self::Told => "".into(),
            Self::Protocol(violation) => format!("wsecho: {violation} (RFC 6455)").into(),
            Self::InvalidText => "wsecho: text message is not UTF-8".into(),
            Self::InvalidCloseReason => "wsecho: close reason is not UTF-8".into(),
            Self::TooBig(limit) => {
                format!("wsecho: message over {} (limits.max_message_size)", Size(*limit)).into()
            }
            Self::Compression(fault) => format!("wsecho: {fault} (RFC 7692)").into(),
            Self::TooMuchCompressed(limit) => format!(
                "wsecho: over {} of compressed data in one message (limits.max_message_size)",
                Size(*limit)
            )
            .into(),
            Self::EmptyFragments => "wsecho: 1024 empty fragments in one message".into(),
        }
    }

    /// The end for a compressed message; `limit` is that of the reply.
    pub(super) fn refusing(message: Refused, limit: u64) -> Self {
        match message {
            Refused::Fault(fault) => Self::Compression(fault),
            Refused::NotText => Self::InvalidText,
            Refused::TooBig => Self::TooBig(limit),
        }
    }

    /// Parses the payload of the client's Close: an [`End::Peer`], or what is wrong with it.
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

    /// Appends the Close frame for this end.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        if let Some(code) = self.code() {
            payload.extend_from_slice(&u16::from(code).to_be_bytes());
            payload.extend_from_slice(self.reason().as_bytes());
        }
        write_control(out, Control::Close, &payload);
    }
}

/// Whether section 7.4 and its registry allow a code in a frame; 1012 to 1014 came after the RFC.
#[must_use]
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// As much of `reason` as fits a Close frame, cut between characters.
fn shortened(reason: &str) -> &str {
    let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or(0)]
}

/// A number of bytes as the configuration file would write it.
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

/// What stopped a turn for good.
pub(super) struct Ending {
    pub(super) end: End,
    /// Where to look for the client's Close; `None` if it has come.
    pub(super) awaited: Option<Discard>,
}

/// Reads on after our Close, only to find the client's: nothing else counts as an error any more.
#[derive(Debug, Default)]
pub(super) struct Discard {
    /// Bytes of the current frame's payload that are still to come.
    skip: u64,
    header: PartialHeader,
}

impl Discard {
    /// Starts in a payload of which `skip` bytes are still to come.
    pub(super) fn skipping(skip: u64) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Starts between two frames, or in a header that has begun.
    pub(super) fn within(header: PartialHeader) -> Self {
        Self { skip: 0, header }
    }

    /// Skips over `bytes` and says whether the client's Close began in them.
    pub(super) fn saw_close(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
            let Some((header, used)) = self.header.parse(bytes) else {
                return false;
            };
            if header.opcode == OpCode::Control(Control::Close) {
                return true;
            }
            bytes = &bytes[used..];
            self.skip = header.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_are_judged_by_the_registry() {
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
    fn a_close_of_the_client_is_echoed_byte_for_byte() {
        for payload in [&b""[..], b"\x03\xe8", b"\x03\xf6bye", "\u{f}\u{f}ö".as_bytes()] {
            let mut out = Vec::new();
            End::from_peer(payload).write(&mut out);
            assert_eq!(out[..2], [0x88, u8::try_from(payload.len()).expect("short")]);
            assert_eq!(&out[2..], payload);
        }
    }

    #[test]
    fn every_close_of_the_server_names_wsecho_and_the_reason_in_123_bytes() {
        let server = |reason: &str| End::Server { code: CloseCode::Away, reason: reason.into() };
        let ends = [
            (End::Protocol(Violation::ReservedBit), 1002),
            (End::Protocol(Violation::FragmentedControl), 1002),
            (End::Protocol(Violation::CloseCode(65_535)), 1002),
            (End::InvalidText, 1007),
            (End::InvalidCloseReason, 1007),
            (End::Compression(Fault::Corrupt), 1007),
            (End::Compression(Fault::ContextKept), 1007),
            (End::Compression(Fault::Truncated), 1007),
            (End::EmptyFragments, 1008),
            (End::TooBig(1 << 20), 1009),
            (End::TooBig(u64::MAX), 1009),
            (End::TooMuchCompressed(u64::MAX), 1009),
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
    fn the_close_of_the_client_is_found_behind_anything_and_in_any_pieces() {
        let mut stream = vec![0; 5];
        // Payloads that look like a Close are skipped.
        stream.extend_from_slice(&[0xff, 0xfe, 0, 3, 1, 2, 3, 4, 0x88, 0x80, 0x88]);
        stream.extend_from_slice(&[0x02, 0x01, 0x88]);
        let close = stream.len();
        stream.extend_from_slice(&[0x88, 0x80, 1, 2, 3, 4]);
        for size in 1..=stream.len() {
            let mut discard = Discard::skipping(5);
            let seen = stream.chunks(size).position(|chunk| discard.saw_close(chunk));
            let expected = (close + 5) / size;
            assert_eq!(seen, Some(expected), "in pieces of {size}");
        }
    }

    #[test]
    fn a_header_that_our_close_interrupted_is_completed() {
        let mut header = PartialHeader::default();
        assert_eq!(header.parse(&[0x82, 0xfe, 0]), None);
        let mut discard = Discard::within(header);
        assert!(!discard.saw_close(&[2, 1, 2, 3, 4, 0x88]));
        assert!(discard.saw_close(&[0x88, 0x88, 0x80, 0, 0, 0, 0]));
    }
}
