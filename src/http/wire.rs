//! The stream that hyper reads and writes, up to the upgrade.
//!
//! Owns two bounds that hyper lacks: on the writing of an answer, and on the lingering close
//! (RFC 9112, section 9.6) that lets a client read the answer to a request it is still sending.
//! It does not know what the bytes mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a closed connection is read and its bytes thrown away.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A stream with a bound on writing and a lingering close.
pub(super) struct Wire<S> {
    inner: S,
    /// Read before anybody knew whose it was; to be read again first.
    first: BytesMut,
    write_limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    half_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Wire<S> {
    /// Wraps a stream; `write_limit` runs from the first write that is held up.
    pub(super) fn new(inner: S, write_limit: Duration) -> Self {
        Self { inner, first: BytesMut::new(), write_limit, timer: None, half_closed: false }
    }

    /// Gives back what was read too early.
    pub(super) fn unread(&mut self, first: BytesMut) {
        self.first = first;
    }

    /// Takes the stream back after the upgrade, with what hyper had already read of it.
    pub(super) fn reclaim(upgraded: Upgraded) -> (S, Bytes) {
        let parts =
            upgraded.downcast::<TokioIo<Self>>().expect("hyper gives back the stream it was given");
        let wire = parts.io.into_inner();
        if wire.first.is_empty() {
            return (wire.inner, parts.read_buf);
        }
        (wire.inner, [&parts.read_buf[..], &wire.first[..]].concat().into())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx)
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.poll_timer(cx, self.write_limit).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.half_closed {
            let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.bounded(cx, polled))?;
            self.half_closed = true;
            self.timer = None;
        }
        // Closing while bytes are under way makes the kernel send a reset, which can overtake the
        // answer: read until the client closes too.
        let mut scratch = [0; 4096];
        loop {
            let mut discarded = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.inner).poll_read(cx, &mut discarded) {
                Poll::Ready(Ok(())) if !discarded.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        self.poll_timer(cx, LINGER).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
