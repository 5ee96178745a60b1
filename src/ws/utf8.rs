//! UTF-8 that arrives in pieces, RFC 6455 section 8.1 and RFC 3629.
//!
//! Owns the unfinished character at the end of a piece. Knows no frames.

/// A validator that takes text in pieces, and fails at the first byte that cannot be valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The first bytes of a character that is not complete yet.
    begun: [u8; 3],
    len: u8,
}

/// A byte cannot be valid where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

impl Utf8 {
    /// Takes the next piece of the text.
    ///
    /// # Errors
    ///
    /// [`Invalid`] as soon as a byte rules out every continuation; the validator is then spent.
    #[inline]
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Invalid> {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            self.complete(byte)?;
            piece = rest;
        }
        let (whole, begun) = piece.split_at(piece.len() - begun_character(piece));
        simdutf8::basic::from_utf8(whole).map_err(|_| Invalid)?;
        for &byte in begun {
            self.complete(byte)?;
        }
        Ok(())
    }

    /// How many bytes at the end of all pieces so far belong to an unfinished character: 0 to 3.
    ///
    /// Text may end here, or be cut, only if this is 0.
    #[inline]
    #[must_use]
    pub fn unfinished(&self) -> usize {
        usize::from(self.len)
    }

    /// Adds one byte to the unfinished character.
    fn complete(&mut self, byte: u8) -> Result<(), Invalid> {
        let len = self.unfinished();
        let mut character = [0; 4];
        character[..len].copy_from_slice(&self.begun[..len]);
        character[len] = byte;
        match std::str::from_utf8(&character[..=len]) {
            Ok(_) => self.len = 0,
            Err(error) if error.error_len().is_none() => {
                self.begun[len] = byte;
                self.len += 1;
            }
            Err(_) => return Err(Invalid),
        }
        Ok(())
    }
}

/// How many bytes at the end of `piece` look like the start of an unfinished character: 0 to 3.
fn begun_character(piece: &[u8]) -> usize {
    let back = piece.iter().rev().take(3).position(|byte| !is_continuation(*byte));
    match back.map(|back| (back + 1, piece[piece.len() - 1 - back])) {
        Some((len, 0xc0..=0xdf)) if len < 2 => len,
        Some((len, 0xe0..=0xef)) if len < 3 => len,
        Some((len, 0xf0..=0xff)) if len < 4 => len,
        _ => 0,
    }
}

/// Whether the byte continues a character, so that text must not be cut before it.
#[inline]
#[must_use]
pub fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes a new validator takes before it fails, one at a time.
    fn fails_at(bytes: &[u8]) -> Option<usize> {
        let mut text = Utf8::default();
        bytes.iter().position(|byte| text.push(&[*byte]).is_err())
    }

    #[test]
    fn the_first_impossible_byte_is_the_one_that_fails() {
        let table: [(&[u8], Option<usize>); 14] = [
            (b"plain", None),
            ("κόσμε €😀".as_bytes(), None),
            (b"ab\xff", Some(2)),
            (b"\x80", Some(0)),
            (b"\xc0\xaf", Some(0)),
            (b"\xc1", Some(0)),
            (b"\xc3(", Some(1)),
            (b"\xe0\x80", Some(1)),
            (b"\xe2\x82A", Some(2)),
            (b"\xed\xa0\x80", Some(1)),
            (b"\xf0\x8f", Some(1)),
            (b"\xf4\x90", Some(1)),
            (b"\xf5", Some(0)),
            (b"\xf0\x9f\x98", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(fails_at(bytes), expected, "{bytes:02x?}");
            if let Some(at) = expected {
                for cut in 0..=at {
                    let mut text = Utf8::default();
                    let early = text.push(&bytes[..cut]);
                    assert_eq!(early, Ok(()), "{bytes:02x?} cut at {cut}");
                    assert_eq!(text.push(&bytes[cut..=at]), Err(Invalid), "{bytes:02x?} at {cut}");
                }
            }
        }
    }

    #[test]
    fn text_is_valid_however_it_is_cut() {
        let long = "aé€😀".repeat(40);
        for first in 0..long.len() {
            for second in [1, 2, 3, 64, 200] {
                let second = (first + second).min(long.len());
                let mut text = Utf8::default();
                for piece in [0..first, first..second, second..long.len()] {
                    let end = piece.end;
                    assert_eq!(text.push(&long.as_bytes()[piece]), Ok(()));
                    assert!(long.is_char_boundary(end - text.unfinished()));
                    assert_eq!(text.unfinished() == 0, long.is_char_boundary(end));
                }
            }
        }
    }

    #[test]
    fn every_scalar_value_passes_and_every_pair_of_bytes_is_judged_as_by_std() {
        let mut text = Utf8::default();
        for character in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            assert_eq!(text.push(character.encode_utf8(&mut buffer).as_bytes()), Ok(()));
        }
        for pair in 0..=u16::MAX {
            let bytes = pair.to_be_bytes();
            let possible = match std::str::from_utf8(&bytes) {
                Ok(_) => true,
                Err(error) => error.error_len().is_none(),
            };
            assert_eq!(Utf8::default().push(&bytes).is_ok(), possible, "{bytes:02x?}");
        }
    }
}
