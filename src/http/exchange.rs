//! One request and its answer, in memory: hyper as the codec between a head and an answer's bytes.
//!
//! Owns hyper's builder. It does not know sockets: the head is complete before hyper sees it, and the
//! answer is written by whoever asked. So hyper keeps no buffer and no timer for a peer that is slow,
//! and never reads past the head.
//!
//! Source: RFC 9112.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Body;
use super::head::{BadHead, MAX_FIELDS, MAX_HEAD, encode_target};

/// Gives a whole head to `answer`, and returns what that says and the bytes of its response.
///
/// # Errors
/// When hyper cannot parse the head.
pub(super) async fn exchange<T: Send>(
    head: Vec<u8>,
    answer: impl FnOnce(&Request<Incoming>) -> (Response<Body>, T) + Send,
) -> Result<(Vec<u8>, T), BadHead> {
    let state = Mutex::new((Some(answer), None));
    let service = |request: Request<Incoming>| {
        let (answer, said) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answer.take().expect("every answer closes the connection, so there is one");
        let (response, more) = answer(&request);
        *said = Some(more);
        ready(Ok::<Response<Body>, Infallible>(response))
    };
    let memory = Memory { head: encode_target(head), read: 0, written: Vec::new() };
    let mut connection = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        // The encoding of a target may have added to it.
        .max_header_size(4 * MAX_HEAD)
        // As Tornado and most servers write them: some small clients compare case.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(memory), service_fn(service));
    let served = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let memory = connection.into_parts().io.into_inner();
    let (_, said) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (served, said) {
        (_, Some(said)) => Ok((memory.written, said)),
        (Err(error), None) => Err(BadHead::from(&error)),
        (Ok(()), None) => Err(BadHead::Field),
    }
}

impl From<&hyper::Error> for BadHead {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::TooLarge;
        }
        // hyper tells these apart only in words.
        match error.to_string() {
            text if text.contains("URI") => Self::Target,
            text if text.contains("version") => Self::Version,
            text if text.contains("method") => Self::Method,
            _ => Self::Field,
        }
    }
}

/// A head to read, behind which nothing ever comes, and room for what is written.
struct Memory {
    head: Vec<u8>,
    read: usize,
    written: Vec<u8>,
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.head[self.read..];
        if rest.is_empty() {
            return Poll::Pending;
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
