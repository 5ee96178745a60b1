//! Where a request's head ends, and what is wrong with its first line.
//!
//! Owns the limits on a head that is still arriving, so that hyper is given a head only when it is
//! complete: its own buffer grows by reallocation, which costs several times the bytes. It does not
//! know sockets, nor what the fields mean: whole heads are hyper's to parse.
//!
//! Source: RFC 9112, sections 2.2, 2.3 and 3.

use std::fmt;

use crate::net::field::is_token_char;
use crate::ops::metrics::Label;

/// The largest request head, in bytes; a larger one is answered with 431.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// The most header fields in a request; more are answered with 431.
pub(super) const MAX_FIELDS: usize = 100;
/// No method in use comes near it; without a bound, noise without a blank would be awaited as one.
const MAX_METHOD: u8 = 32;

/// Why bytes are not the head of an HTTP/1.1 request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// It has no end within [`MAX_HEAD`], or over [`MAX_FIELDS`] fields.
    TooLarge,
    /// The first line does not begin with a method.
    Method,
    /// The first line has more than three parts.
    Blank,
    /// The first line ends without a version, as in HTTP/0.9, or with another one.
    Version,
    /// The request target is not a URI.
    Target,
    /// Something below the first line.
    Field,
}

impl Label for BadHead {
    fn label(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            _ => "not_http",
        }
    }
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request head is over 16 KiB or 100 fields",
            Self::Method => "this is not an HTTP/1.1 request: it does not begin with a method",
            Self::Blank => {
                "the request target contains a blank: encode it as %20 (RFC 9112, section 3)"
            }
            Self::Version => {
                "the request line does not end with HTTP/1.1 or HTTP/1.0: other versions are not \
                 spoken here"
            }
            Self::Target => "the request target is not a valid URI",
            Self::Field => "a header field is malformed: a line is neither a field nor its end",
        })
    }
}

/// Follows a head while it arrives. Each byte is looked at once, and none is kept. Small, because
/// every connection without a complete head holds one.
#[derive(Debug)]
pub(super) struct Scan {
    length: u16,
    line: Reading,
}

/// The line that is arriving.
#[derive(Debug)]
enum Reading {
    /// An empty one before the request line, which is skipped (section 2.2).
    Before,
    Request(RequestLine),
    /// A field, or the empty line that ends the head.
    Field {
        is_empty: bool,
    },
}

impl Default for Scan {
    fn default() -> Self {
        Self { length: 0, line: Reading::Before }
    }
}

impl Scan {
    /// How many bytes were looked at; once the head is complete, its length.
    pub(super) fn seen(&self) -> usize {
        self.length.into()
    }

    /// Looks at the next piece of a connection's bytes. Returns how much of it belongs to the head,
    /// once the head is complete.
    ///
    /// # Errors
    /// As soon as no further bytes could make it a head.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Option<usize>, BadHead> {
        for (at, byte) in piece.iter().enumerate() {
            if self.seen() == MAX_HEAD {
                return Err(BadHead::TooLarge);
            }
            self.length += 1;
            match &mut self.line {
                Reading::Before if b"\r\n".contains(byte) => {}
                Reading::Before => {
                    let mut line = RequestLine::default();
                    line.push(*byte)?;
                    self.line = Reading::Request(line);
                }
                Reading::Request(line) => {
                    if line.push(*byte)? {
                        self.line = Reading::Field { is_empty: true };
                    }
                }
                Reading::Field { is_empty } => match byte {
                    b'\n' if *is_empty => return Ok(Some(at + 1)),
                    b'\n' => *is_empty = true,
                    b'\r' => {}
                    _ => *is_empty = false,
                },
            }
        }
        Ok(None)
    }
}

/// What is to be known of a request line (section 3), but for its target.
#[derive(Debug, Default)]
struct RequestLine {
    method: u8,
    /// At most 3, which are too many.
    blanks: u8,
    /// The last bytes of the line: room for a blank, the version and a CR.
    last: [u8; 10],
}

impl RequestLine {
    /// Looks at the next byte. Returns whether it ends the line.
    fn push(&mut self, byte: u8) -> Result<bool, BadHead> {
        match byte {
            b'\n' => return self.judge().map(|()| true),
            b' ' if self.method > 0 => self.blanks = 3.min(self.blanks + 1),
            b'\r' => {}
            _ if self.blanks > 0 => {}
            _ if is_token_char(byte) && self.method < MAX_METHOD => self.method += 1,
            _ => return Err(BadHead::Method),
        }
        self.last.rotate_left(1);
        self.last[9] = byte;
        Ok(false)
    }

    fn judge(&self) -> Result<(), BadHead> {
        let last = self.last.strip_suffix(b"\r").unwrap_or(&self.last);
        match (self.blanks, last.ends_with(b" HTTP/1.1") || last.ends_with(b" HTTP/1.0")) {
            (2, true) => Ok(()),
            (3.., true) => Err(BadHead::Blank),
            _ => Err(BadHead::Version),
        }
    }
}

/// Percent-encodes the characters of a target that clients do send and hyper refuses, as other
/// servers accept them. (RFC 3986, section 2, has them encoded.)
pub(super) fn encode_target(head: Vec<u8>) -> Vec<u8> {
    let start = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(0);
    let end = head[start..].iter().position(|byte| *byte == b'\n').map_or(start, |at| start + at);
    let query = head[..end].iter().position(|byte| *byte == b'?').unwrap_or(end);
    let bad = |at: usize| match head[at] {
        b'<' | b'>' => true,
        b'`' => at < query,
        b'"' => at > query,
        _ => false,
    };
    if !(start..end).any(bad) {
        return head;
    }
    let mut encoded = Vec::with_capacity(head.len() + 64);
    for (at, byte) in head.iter().enumerate().take(end).skip(start) {
        if bad(at) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(*byte);
        }
    }
    encoded.extend_from_slice(&head[end..]);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8], size: usize) -> Result<Option<usize>, BadHead> {
        let mut scan = Scan::default();
        for (index, piece) in bytes.chunks(size).enumerate() {
            if let Some(length) = scan.push(piece)? {
                return Ok(Some(index * size + length));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_is_cut() {
        for (head, rest) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET"),
            ("\r\n\r\nGET / HTTP/1.0\r\n\r\n", "\r\n\r\n"),
            ("GET / HTTP/1.1\nHost: a\n\n", "\n\n"),
            ("G HTTP/1.1 HTTP/1.1\r\nA: b\r\n\r\n", ""),
        ] {
            let all = [head, rest].concat();
            for size in 1..=all.len() {
                assert_eq!(scan(all.as_bytes(), size), Ok(Some(head.len())), "{all:?} by {size}");
            }
            assert_eq!(scan(&all.as_bytes()[..head.len() - 1], 1), Ok(None), "{all:?}");
        }
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_at_its_first_line() {
        for (line, bad) in [
            ("GET /a b HTTP/1.1\r\n", BadHead::Blank),
            ("GET / x\n", BadHead::Version),
            ("GET /\r\n", BadHead::Version),
            ("GET / HTTP/0.9\r\n", BadHead::Version),
            ("GET / HTTP/2.0\r\n", BadHead::Version),
            ("GET  / HTTP/1.1\r\n", BadHead::Blank),
            (" GET / HTTP/1.1\r\n", BadHead::Method),
            ("\u{16}GET / HTTP/1.1\r\n", BadHead::Method),
            ("{\"a\":", BadHead::Method),
            (&"x".repeat(33), BadHead::Method),
        ] {
            for size in 1..=line.len() {
                assert_eq!(scan(line.as_bytes(), size), Err(bad), "{line:?} by {size}");
            }
        }
        assert_eq!(scan("x".repeat(32).as_bytes(), 1), Ok(None));
    }

    #[test]
    fn a_head_has_at_most_16_kib() {
        let head = |length: usize| {
            let start = "GET / HTTP/1.1\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
        };
        for size in [1, 1000, MAX_HEAD + 1] {
            assert_eq!(scan(&head(MAX_HEAD), size), Ok(Some(MAX_HEAD)));
            assert_eq!(scan(&head(MAX_HEAD + 1), size), Err(BadHead::TooLarge));
            assert_eq!(scan(&vec![b'\n'; MAX_HEAD + 1], size), Err(BadHead::TooLarge));
        }
    }

    #[test]
    fn only_the_target_is_encoded() {
        let head = |line: &str| format!("{line}\r\nX: <\"`>\r\n\r\n").into_bytes();
        for (line, encoded) in [
            ("GET /a HTTP/1.1", "GET /a HTTP/1.1"),
            ("GET /<a>`\" HTTP/1.1", "GET /%3Ca%3E%60\" HTTP/1.1"),
            ("GET /?<a>`\" HTTP/1.1", "GET /?%3Ca%3E`%22 HTTP/1.1"),
        ] {
            assert_eq!(encode_target(head(line)), head(encoded), "{line}");
        }
    }
}
