//! One HTTP/1.1 request and its answer, and the stream behind it.
//!
//! Owns hyper's client. It serves both the handshake and CONNECT, and judges neither.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::http::response;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use tokio::time::{Instant, timeout_at};

use super::wire::{End, Recorded, Recorder, Stream};

/// The largest head that is taken, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most bytes that are read: a head may follow any number of provisional ones (RFC 9110, section
/// 15.2), and hyper reads ahead.
const MOST: usize = 2 * MAX_HEAD;
/// The most bytes of a body that are read.
const MAX_BODY: usize = 16 * 1024;
/// How long a body may follow its head: not every body ends.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// An answer.
pub(super) struct Exchanged {
    pub head: response::Parts,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// The stream, if the answer opens it for something else.
    pub stream: Option<Stream>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The connection ended first.
    Ended(End),
    /// This came, which is not HTTP.
    NotHttp(Vec<u8>),
    /// The head does not end within so many bytes.
    HeadTooLarge(usize),
    /// The deadline passed after so many bytes.
    Late(usize),
}

/// A request in flight.
pub(super) struct Exchange {
    stream: Recorded,
    pub(super) recorder: Recorder,
}

impl Exchange {
    pub(super) fn new(stream: Stream) -> Self {
        let (stream, recorder) = Recorded::new(stream, MOST);
        Self { stream, recorder }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn run(
        self,
        request: Request<Empty<Bytes>>,
        deadline: Instant,
    ) -> Result<Exchanged, Unanswered> {
        let Self { stream, recorder } = self;
        let is_connect = request.method() == Method::CONNECT;
        let opens = move |status: StatusCode| {
            // hyper hands out no stream behind a 204.
            let is_tunnel = status.is_success() && status != StatusCode::NO_CONTENT;
            if is_connect { is_tunnel } else { status == StatusCode::SWITCHING_PROTOCOLS }
        };
        let unanswered = |error: hyper::Error| {
            let recording = recorder.get();
            match &recording.end {
                _ if error.is_parse_too_large() || recording.received_bytes > MOST => {
                    Unanswered::HeadTooLarge(MAX_HEAD)
                }
                Some(end) if recording.received.is_empty() => Unanswered::Ended(end.clone()),
                Some(end) if recording.received.starts_with(b"HTTP/") && !error.is_parse() => {
                    Unanswered::Ended(end.clone())
                }
                _ if recording.received.is_empty() => {
                    Unanswered::Ended(End::Other(error.to_string()))
                }
                _ => Unanswered::NotHttp(recording.received.clone()),
            }
        };
        let (mut sender, connection) =
            // Not every server takes lower case.
            http1::Builder::new()
                .title_case_headers(true)
                .max_buf_size(MAX_HEAD)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(&unanswered)?;
        let exchange = async {
            let answered = timeout_at(deadline, sender.send_request(request)).await;
            let Ok(answered) = answered else {
                return Err(Unanswered::Late(recorder.get().received_bytes));
            };
            let (head, mut body) = answered.map_err(&unanswered)?.into_parts();
            let until = deadline.min(Instant::now() + BODY_PATIENCE);
            let mut start = Vec::new();
            while !opens(head.status) && start.len() < MAX_BODY {
                match timeout_at(until, body.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        start.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                    }
                    // What came of a body that breaks off is worth showing.
                    Ok(Some(Err(_)) | None) | Err(_) => break,
                }
            }
            Ok((head, start))
        };
        let mut exchange = pin!(exchange);
        let mut connection = pin!(connection.without_shutdown());
        let mut parts = None;
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut exchange => break answered,
                ended = &mut connection, if parts.is_none() => parts = Some(ended),
            }
        };
        let (head, body) = answered?;
        if !opens(head.status) {
            return Ok(Exchanged { head, body, stream: None });
        }
        let parts = match parts {
            Some(parts) => parts,
            None => timeout_at(deadline, connection)
                .await
                .map_err(|_| Unanswered::Late(recorder.get().received_bytes))?,
        };
        let parts = parts.map_err(&unanswered)?;
        let stream = parts.io.into_inner().into_stream(parts.read_buf);
        Ok(Exchanged { head, body, stream: Some(stream) })
    }
}
