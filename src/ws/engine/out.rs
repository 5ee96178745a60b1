//! The output of one turn: complete frames, as a list of slices for one vectored write.
//!
//! Owns the order of the bytes and which of them are copied. Knows no frames. Large payloads stay
//! where they were read; headers and small frames are copied into one buffer, which the worker
//! reuses.

use std::ops::Range;

/// A payload of this many bytes or more is referred to instead of copied.
///
/// A slice of its own costs the kernel about as much as copying this many bytes.
pub(super) const COPY_BELOW: usize = 4096;

/// With this many copied bytes the engine ends its turn. Only a prefix can make that many from one
/// window: without the limit, a flood of empty texts would multiply into the worker's memory.
const FULL: usize = 256 * 1024;

/// The output of [`Engine::receive`](super::Engine::receive), reusable without allocating.
///
/// It always ends with a complete frame. It refers to the window of the last `receive`, so it must
/// be written, or copied with [`Out::unsent`], and cleared before the next one.
#[derive(Debug, Default)]
pub struct Out {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    /// How many of the copied bytes are covered by pieces; the rest comes after all pieces.
    placed: usize,
    /// Bytes that are not in `copied`.
    elsewhere: usize,
}

#[derive(Debug)]
enum Piece {
    Copied(Range<usize>),
    Window(Range<usize>),
    Held(Vec<u8>),
}

impl Out {
    /// An empty output; it allocates on its first use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes there are to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.copied.len() + self.elsewhere
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in the order in which to send them; no slice is empty.
    ///
    /// `window` is that of the last `receive`. There are at most two slices for each 4 KiB of it,
    /// and a few more: write them in batches.
    ///
    /// # Panics
    ///
    /// If `window` is shorter than what `receive` was given.
    pub fn slices<'a>(&'a self, window: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let last = &self.copied[self.placed..];
        self.pieces
            .iter()
            .map(move |piece| match piece {
                Piece::Copied(range) => &self.copied[range.clone()],
                Piece::Window(range) => &window[range.clone()],
                Piece::Held(bytes) => bytes,
            })
            .chain((!last.is_empty()).then_some(last))
    }

    /// As [`Out::slices`], without the first `sent` bytes.
    ///
    /// # Panics
    ///
    /// If `window` is shorter than what `receive` was given.
    pub fn unsent<'a>(
        &'a self,
        window: &'a [u8],
        mut sent: usize,
    ) -> impl Iterator<Item = &'a [u8]> {
        self.slices(window).filter_map(move |slice| {
            let rest = &slice[sent.min(slice.len())..];
            sent -= slice.len() - rest.len();
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// Drops everything, and keeps the memory for the next turn.
    pub fn clear(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        self.placed = 0;
        self.elsewhere = 0;
    }

    pub(super) fn is_full(&self) -> bool {
        self.copied.len() >= FULL
    }

    /// The buffer for headers and other small bytes.
    pub(super) fn copied(&mut self) -> &mut Vec<u8> {
        &mut self.copied
    }

    /// Adds bytes of the window: copied if they are few, otherwise by reference.
    #[inline]
    pub(super) fn window(&mut self, window: &[u8], range: Range<usize>) {
        if range.len() < COPY_BELOW {
            self.copied.extend_from_slice(&window[range]);
        } else {
            self.place(range.len(), Piece::Window(range));
        }
    }

    /// Adds bytes that the connection held: copied and freed if they are few, otherwise moved.
    pub(super) fn held(&mut self, bytes: Vec<u8>) {
        if bytes.len() < COPY_BELOW {
            self.copied.extend_from_slice(&bytes);
        } else {
            self.place(bytes.len(), Piece::Held(bytes));
        }
    }

    fn place(&mut self, len: usize, piece: Piece) {
        if self.placed < self.copied.len() {
            self.pieces.push(Piece::Copied(self.placed..self.copied.len()));
            self.placed = self.copied.len();
        }
        self.pieces.push(piece);
        self.elsewhere += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(window: &[u8]) -> Out {
        let mut out = Out::new();
        out.copied().extend_from_slice(b"head");
        out.window(window, 10..10 + COPY_BELOW);
        out.held(vec![b'h'; COPY_BELOW]);
        out.copied().extend_from_slice(b"mid");
        out.held(vec![b's'; 5]);
        out.window(window, 9000..9001);
        out.window(window, 5000..9500);
        out.copied().extend_from_slice(b"tail");
        out
    }

    fn expected(window: &[u8]) -> Vec<u8> {
        let mut bytes = b"head".to_vec();
        bytes.extend_from_slice(&window[10..10 + COPY_BELOW]);
        bytes.extend_from_slice(&[b'h'; COPY_BELOW]);
        bytes.extend_from_slice(b"midsssss");
        bytes.push(window[9000]);
        bytes.extend_from_slice(&window[5000..9500]);
        bytes.extend_from_slice(b"tail");
        bytes
    }

    #[test]
    fn slices_keep_the_order_in_which_they_were_added() {
        let window: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut out = sample(&window);
        assert_eq!(out.slices(&window).collect::<Vec<_>>().concat(), expected(&window));
        assert_eq!(out.len(), expected(&window).len());
        assert!(out.slices(&window).all(|slice| !slice.is_empty()));
        out.clear();
        assert!(out.is_empty());
        assert_eq!(out.slices(&window).count(), 0);
    }

    #[test]
    fn what_was_not_sent_is_the_rest_for_every_count() {
        let window: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let whole = expected(&window);
        for sent in (0..=whole.len()).step_by(7).chain([4, 4 + COPY_BELOW, whole.len()]) {
            let out = sample(&window);
            let rest = out.unsent(&window, sent).collect::<Vec<_>>().concat();
            assert_eq!(rest, whole[sent..], "after {sent} bytes");
        }
    }
}
