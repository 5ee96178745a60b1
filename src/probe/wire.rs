//! The stream under a probe: any transport, and what it carried.
//!
//! Owns how a stream ended, and the first bytes in each direction, which neither hyper nor rustls
//! hands out when they cannot read them. It does not know what the bytes mean.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whatever a probe can speak through.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A stream of any kind.
pub(super) type Stream = Box<dyn Wire>;

/// The most bytes that are kept of each direction.
const KEPT: usize = 16 * 1024;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// The peer closed it.
    Fin,
    /// It was reset.
    Reset,
    /// TLS failed.
    Tls(rustls::Error),
    /// Anything else.
    Other(String),
}

impl From<&io::Error> for End {
    fn from(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(tls), _) => Self::Tls(tls.clone()),
            // rustls calls a FIN without close_notify by this name.
            (None, io::ErrorKind::UnexpectedEof) => Self::Fin,
            (
                None,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted,
            ) => Self::Reset,
            (None, _) => Self::Other(error.to_string()),
        }
    }
}

/// What a stream carried, up to 16 KiB in each direction, and how it ended.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
    /// How many bytes were received, also beyond those.
    pub received_bytes: usize,
    pub end: Option<End>,
}

/// Access to the recording of a stream that somebody else owns.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<Recording>>);

impl Recorder {
    pub(super) fn get(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is recorded, on which the client speaks first: what comes sooner is read only then.
/// hyper would not take it for an answer, and it may be one, such as the refusal of a PROXY header.
pub(super) struct Recorded {
    stream: Stream,
    recorder: Recorder,
    has_spoken: bool,
    reader: Option<Waker>,
    most: usize,
}

impl Recorded {
    /// Reading more than `most` bytes fails.
    pub(super) fn new(stream: Stream, most: usize) -> (Self, Recorder) {
        let recorder = Recorder::default();
        let copy = recorder.clone();
        (Self { stream, recorder, has_spoken: false, reader: None, most }, copy)
    }

    /// The stream itself, with `unread` in front of what it will yield.
    pub(super) fn into_stream(self, unread: Bytes) -> Stream {
        if unread.is_empty() { self.stream } else { Box::new(Unread { unread, rest: self.stream }) }
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_spoken {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.recorder.get().received_bytes > self.most {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let mut recording = self.recorder.get();
        let fresh = &buffer.filled()[before..];
        keep(&mut recording.received, fresh);
        recording.received_bytes += fresh.len();
        match &read {
            Ok(()) if fresh.is_empty() => {
                recording.end.get_or_insert(End::Fin);
            }
            Ok(()) => {}
            Err(error) => {
                recording.end.get_or_insert(error.into());
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.has_spoken = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        let mut recording = self.recorder.get();
        match &written {
            Ok(written) => keep(&mut recording.sent, &bytes[..*written]),
            Err(error) => {
                recording.end.get_or_insert(error.into());
            }
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A stream of which some bytes were read already.
struct Unread {
    unread: Bytes,
    rest: Stream,
}

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.rest).poll_read(cx, buffer);
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}
