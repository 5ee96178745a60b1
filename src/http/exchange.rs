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
use std::task::{Context, Poll, Waker};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Body;
use super::head::{BadHead, MAX_FIELDS, MAX_HEAD, encode_target};

/// A body of this many bytes or more is not copied for each answer.
const SHARED: usize = 4096;

/// The bytes of an answer: its head and a small body, then a large body, which others may share.
pub(super) type Written = Chain<Bytes, Bytes>;

/// An answer that shares nothing.
pub(super) fn unshared(bytes: Vec<u8>) -> Written {
    Bytes::from(bytes).chain(Bytes::new())
}

/// The bytes of memory that an answer takes for itself.
pub(super) fn own(answer: &Written) -> usize {
    let body = answer.last_ref();
    answer.first_ref().len() + if body.is_unique() { body.len() } else { 0 }
}

/// Gives a whole head to `answer`, and returns what that says and the bytes of its response.
///
/// # Errors
/// When hyper cannot parse the head.
pub(super) async fn exchange<T: Send>(
    head: Vec<u8>,
    answer: impl FnOnce(&Request<Incoming>) -> (Response<Body>, T) + Send,
) -> Result<(Written, T), BadHead> {
    let state = Mutex::new((Some(answer), None));
    let service = |request: Request<Incoming>| {
        let (answer, said) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answer.take().expect("every answer closes the connection, so there is one");
        let (response, more) = answer(&request);
        *said = Some((body_of(&response), more));
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
        (_, Some((body, said))) => Ok((share(memory.written, body), said)),
        (Err(error), None) => Err(BadHead::from(&error)),
        (Ok(()), None) => Err(BadHead::Field),
    }
}

/// The body of a response, without copying it.
fn body_of(response: &Response<Body>) -> Bytes {
    let mut body = response.body().clone();
    match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}

/// Frees hyper's copy of a large body. The answer to HEAD has none.
fn share(mut written: Vec<u8>, body: Bytes) -> Written {
    if body.len() < SHARED || !written.ends_with(&body) {
        return unshared(written);
    }
    written.truncate(written.len() - body.len());
    written.shrink_to_fit();
    Bytes::from(written).chain(body)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_body_is_not_copied_and_a_small_one_goes_with_its_head() {
        for (length, method, shared) in
            [(SHARED, "GET", true), (SHARED - 1, "GET", false), (SHARED, "HEAD", false)]
        {
            let body = Bytes::from(vec![b'x'; length]);
            let answer = |_: &Request<Incoming>| {
                let mut response = Response::new(Body::from(body.clone()));
                let close = hyper::header::HeaderValue::from_static("close");
                response.headers_mut().insert(hyper::header::CONNECTION, close);
                (response, ())
            };
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
            let (mut written, ()) = exchange(head, answer).await.expect("a good head");
            let (first, last) = (written.first_ref(), written.last_ref());
            assert_eq!(own(&written), first.len(), "the test has the body too");
            assert!(first.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert_eq!(last.as_ptr() == body.as_ptr(), shared, "{method} {length}");
            assert_eq!(first.ends_with(b"\r\n\r\n"), shared || method == "HEAD");
            let all = written.copy_to_bytes(written.remaining());
            assert_eq!(all.ends_with(&body), method == "GET");
        }
    }
}
