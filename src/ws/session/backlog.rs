//! Output that the socket has not taken yet.
//!
//! Owns the chunks it is kept in, which are freed as they are sent. What they echo is for `owed`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::Context;

use tokio::io::AsyncWrite;

use super::owed::Owed;
use super::write::{SLICES, poll_write};
use crate::ws::engine::Counts;

/// The size of a full chunk, in bytes: large enough that the allocator maps it separately, and
/// returns it to the system when it is freed.
const CHUNK: usize = 128 * 1024;
/// The size of the smallest chunk, in bytes.
const SMALL: usize = 512;

/// For this many bytes or more a full chunk is used: odd sizes fragment the allocator's heap.
const LARGE: usize = CHUNK / 16;
/// Full chunks that a worker keeps for the next backlog; mapping and unmapping one costs as much as
/// sending half of it.
const MOST_SPARE: usize = 4;

/// Empty full-size chunks, shared by all sessions of a worker.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<Vec<u8>>);

impl Spare {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    fn put(&mut self, mut chunk: Vec<u8>) {
        if chunk.capacity() == CHUNK && self.0.len() < MOST_SPARE {
            chunk.clear();
            self.0.push(chunk);
        }
    }
}

/// Unsent bytes, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog(Option<Box<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    all: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are already sent.
    sent: usize,
    len: usize,
    capacity: usize,
    owed: Owed,
}

impl Backlog {
    /// Whether everything is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many bytes are unsent.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |chunks| chunks.len)
    }

    /// The bytes of memory they take.
    pub(super) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |chunks| chunks.capacity)
    }

    /// Appends pieces of `total` bytes together.
    pub(super) fn extend<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
        mut total: usize,
        spare: &mut Spare,
    ) {
        for piece in pieces {
            let chunks = self.0.get_or_insert_default();
            chunks.len += piece.len();
            chunks.copy(piece, total, spare);
            total -= piece.len();
        }
    }

    /// Notes that what is in it is a message that echoes nothing.
    pub(super) fn begins_with_greeting(&mut self) {
        if let Some(chunks) = &mut self.0 {
            chunks.owed.begin_with_greeting();
        }
    }

    /// Notes what the whole output of a turn echoes, of which `sent` bytes did not come here.
    pub(super) fn owe<'a>(
        &mut self,
        before: Counts,
        after: Counts,
        output: impl Iterator<Item = &'a [u8]>,
        mut sent: usize,
    ) {
        let Some(chunks) = &mut self.0 else { return };
        chunks.owed.add(before, after);
        for slice in output {
            if sent == 0 {
                break;
            }
            let slice = &slice[..sent.min(slice.len())];
            chunks.owed.sent(slice);
            sent -= slice.len();
        }
    }

    /// What of these counts is sent, and not here.
    pub(super) fn taken_off(&self, counts: Counts) -> Counts {
        self.0.as_ref().map_or(counts, |chunks| chunks.owed.taken_off(counts))
    }

    /// Writes as much as the socket takes, and returns how much that was.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        spare: &mut Spare,
    ) -> io::Result<usize> {
        let mut sent = 0;
        while let Some(chunks) = &mut self.0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut skip = chunks.sent;
            let count = chunks.all.len().min(slices.len());
            for (slice, chunk) in slices.iter_mut().zip(&chunks.all) {
                *slice = IoSlice::new(&chunk[skip..]);
                skip = 0;
            }
            let written = poll_write(stream, cx, &slices[..count])?;
            if written == 0 {
                break;
            }
            sent += written;
            chunks.forget(written, spare);
            if chunks.len == 0 {
                self.0 = None;
            }
        }
        Ok(sent)
    }
}

impl Chunks {
    fn push(&mut self, chunk: Vec<u8>) {
        self.capacity += chunk.capacity();
        self.all.push_back(chunk);
    }

    /// Copies bytes, the first of `total` that are about to come.
    fn copy(&mut self, mut bytes: &[u8], mut total: usize, spare: &mut Spare) {
        while !bytes.is_empty() {
            let room = self.all.back().map_or(0, |last| last.capacity() - last.len());
            if room == 0 {
                let small = || Vec::with_capacity(total.max(SMALL));
                self.push(if total < LARGE { small() } else { spare.take() });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.all.back_mut().expect("it has room").extend_from_slice(now);
            bytes = later;
            total -= now.len();
        }
    }

    /// Frees what is sent.
    fn forget(&mut self, written: usize, spare: &mut Spare) {
        self.len -= written;
        let mut left = written;
        let mut from = self.sent;
        for chunk in &self.all {
            let slice = &chunk[from..];
            let slice = &slice[..left.min(slice.len())];
            self.owed.sent(slice);
            left -= slice.len();
            from = 0;
            if left == 0 {
                break;
            }
        }
        self.sent += written;
        while self.all.front().is_some_and(|first| first.len() <= self.sent) {
            let first = self.all.pop_front().expect("it was there");
            self.sent -= first.len();
            self.capacity -= first.capacity();
            spare.put(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Poll, Waker};

    /// Takes some bytes, then none for one call.
    struct Trickle {
        taken: Vec<u8>,
        ready: bool,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if self.ready {
                return Poll::Pending;
            }
            let count = bytes.len().min(100_000);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn bytes_are_sent_in_order_and_their_memory_is_freed() {
        let mut bytes: Vec<u8> = vec![0x82, 127, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40];
        bytes.extend((0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]));
        let all = Counts { messages: 1, bytes_out: 1_000_000, ..Counts::default() };
        let (first, rest) = bytes.split_at(10);
        let (second, third) = rest.split_at(500_000);
        let mut backlog = Backlog::default();
        let mut spare = Spare::default();
        backlog.extend([first, second, third].into_iter(), bytes.len(), &mut spare);
        backlog.owe(Counts::default(), all, std::iter::empty(), 0);
        assert_eq!(backlog.taken_off(all), Counts::default(), "nothing is sent");
        assert_eq!(backlog.len(), bytes.len());
        assert!(backlog.capacity() < bytes.len() + CHUNK);

        let mut stream = Trickle { taken: Vec::new(), ready: true };
        let mut cx = Context::from_waker(Waker::noop());
        let mut before = backlog.capacity();
        while !backlog.is_empty() {
            backlog.poll_send(&mut stream, &mut cx, &mut spare).unwrap();
            assert_eq!(backlog.len() + stream.taken.len(), bytes.len());
            let payload = stream.taken.len().saturating_sub(first.len()) as u64;
            assert_eq!(backlog.taken_off(all).bytes_out, payload);
            assert!(backlog.capacity() <= before);
            before = backlog.capacity();
        }
        assert_eq!(stream.taken, bytes);
        assert_eq!((backlog.capacity(), backlog.taken_off(all)), (0, all));
        assert_eq!(spare.0.len(), MOST_SPARE, "more are not kept");
    }
}
