//! WebSockets over HTTP/2, by extended CONNECT.
//!
//! Owns h2's client, and a stream of it as a stream of bytes. A server that does not announce extended
//! CONNECT is not asked for it: some end the whole connection then. It does not know what is said on
//! the WebSocket.
//!
//! Source: RFC 8441; RFC 9113.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::client::{Builder, Connection, SendRequest};
use h2::{PingPong, RecvStream, SendStream};
use hyper::http::response;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer;
use super::failure::{Failed, Failure};
use super::report::{Answer, Http2, Report, Stage};
use super::socket::Socket;
use super::talk::Talk;
use super::target::Target;
use super::upgrade::{self, Handshake};
use super::wire::{End, Stream};
use super::{Options, reach};

/// Whether HTTP/2 is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// After HTTP/1.1, if the server announces WebSockets over HTTP/2.
    #[default]
    Also,
    /// Instead of HTTP/1.1.
    Only,
    /// Not at all.
    Off,
}

/// What browsers offer in ALPN for a page, whose connection may then carry its WebSockets.
const OFFERED: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The largest head of an answer, in bytes.
const MAX_HEAD: u32 = 64 * 1024;
/// The most bytes of a refusal's body that are read.
const MAX_BODY: u64 = 16 * 1024;
/// How long the body may follow its head.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// The stage after all those of HTTP/1.1, on a connection of its own.
pub(super) async fn also(
    target: &Target,
    options: &Options,
    deadline: Instant,
    report: &mut Report,
) -> Result<(), Failed> {
    // Browsers speak HTTP/2 through TLS only.
    if !target.secure {
        return Ok(());
    }
    if options.http2 == Policy::Off {
        report.omit(Stage::Http2, "left out: --http2 off");
        return Ok(());
    }
    let begun = Instant::now();
    let mut own = Report::of_another_connection(report.address());
    let stream = match reach(target, options, OFFERED, deadline, &mut own).await {
        Ok(stream) => stream,
        Err(failed) => {
            let seen = failed.seen;
            report.warnings.push(format!("A second connection, to try HTTP/2, failed: {seen}"));
            report.omit(Stage::Http2, "not tried: a second connection failed");
            return Ok(());
        }
    };
    let tried = attempt(stream, target, options, deadline, &mut own).await;
    report.http2 = own.http2;
    let has_alpn = report.http2.as_ref().is_some_and(|http2| http2.alpn.is_some());
    let tried = match tried.map_err(|failed| (failed.failure, failed)) {
        Err((Failure::Http2NotOffered, _)) => {
            let why =
                if has_alpn { "not offered (ALPN: http/1.1)" } else { "not offered (no ALPN)" };
            report.omit(Stage::Http2, why);
            return Ok(());
        }
        Err((Failure::Http2NotAnnounced, _)) => {
            report.omit(Stage::Http2, "no WebSockets: extended CONNECT is not announced");
            return Ok(());
        }
        Err((_, failed)) => {
            let seen = format!("{} Over HTTP/1.1, the same WebSocket works.", failed.seen);
            Err(Failed { seen, ..failed })
        }
        Ok(()) => Ok(()),
    };
    report.finish(Stage::Http2, begun, tried)
}

/// The stage instead of those of HTTP/1.1.
pub(super) async fn only(
    target: &Target,
    options: &Options,
    deadline: Instant,
    report: &mut Report,
) -> Result<(), Failed> {
    let stream = reach(target, options, OFFERED, deadline, report).await?;
    for stage in [Stage::Http, Stage::Upgrade, Stage::Echo, Stage::Ping, Stage::Close] {
        report.omit(stage, "left out: --http2 only");
    }
    let begun = Instant::now();
    let tried = attempt(stream, target, options, deadline, report).await;
    report.finish(Stage::Http2, begun, tried)
}

/// Opens the WebSocket over HTTP/2 and uses it, as far as the server announces that.
async fn attempt(
    stream: Stream,
    target: &Target,
    options: &Options,
    deadline: Instant,
    report: &mut Report,
) -> Result<(), Failed> {
    let alpn = report.tls.as_ref().and_then(|tls| tls.alpn.clone());
    let is_offered = alpn.as_deref() == Some("h2");
    report.http2 = Some(Http2 { alpn, ..Http2::default() });
    if !is_offered {
        let seen = "The server does not choose h2 in ALPN.";
        return Err(Failed::new(Failure::Http2NotOffered, seen));
    }
    let handshake = Handshake::new(target, &options.asked);
    let late = |_| {
        let seen = "The server did not answer over HTTP/2 in time.";
        Failed::new(Failure::Http2Timeout, seen)
    };
    let mut client = Builder::new();
    // As browsers do, and as is enough for an answer to CONNECT.
    client.enable_push(false).max_header_list_size(MAX_HEAD);
    let begun = timeout_at(deadline, client.handshake(stream)).await.map_err(late)?;
    let (mut sender, mut connection) = begun.map_err(|error| broken(&error))?;
    let pings = connection.ping_pong();
    let conversation = async {
        let facts = report.http2.get_or_insert_default();
        let opening = open(&mut sender, pings, &handshake, facts, &mut report.answer);
        let (head, stream) = timeout_at(deadline, opening).await.map_err(late)??;
        let in_session = |failed: Failed| {
            let seen = format!("The WebSocket opens over HTTP/2, but fails. {}", failed.seen);
            Failed { failure: Failure::Http2Session, seen, ..failed }
        };
        let offered = &options.asked.subprotocols;
        let agreed = upgrade::terms(&head.headers, offered, "The answer").map_err(in_session)?;
        let compression = agreed.extensions.is_some();
        report.agreed = Some(agreed);
        let mut socket = Socket::new(Box::new(stream), compression);
        let mut talk = Talk::new(&mut socket, deadline);
        talk.echo(&options.dialogue, compression, report).await.map_err(in_session)?;
        report.ping = Some(talk.ping().await.map_err(in_session)?);
        report.closed = Some(talk.close().await.map_err(in_session)?);
        Ok(())
    };
    carried(connection, conversation).await?;
    let round_trip = report.round_trip();
    if let Some(facts) = &mut report.http2 {
        facts.round_trip = round_trip;
    }
    Ok(())
}

/// Runs `work` while the connection carries its frames.
async fn carried<T>(
    mut connection: Connection<Stream, Bytes>,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut work = pin!(work);
    let ended = tokio::select! {
        biased;
        done = &mut work => return done,
        ended = &mut connection => ended,
    };
    // Only now does a ping that waits for its pong fail.
    drop(connection);
    // The connection knows better than its streams why it ended.
    work.await.map_err(|failed| match ended {
        _ if failed.failure != Failure::Http2Failed => failed,
        Err(error) => broken(&error),
        Ok(()) => Failed::new(Failure::Http2Failed, CLOSED),
    })
}

/// Asks for the WebSocket, if the server announces that it may be asked.
async fn open(
    sender: &mut SendRequest<Bytes>,
    pings: Option<PingPong>,
    handshake: &Handshake,
    facts: &mut Http2,
    answered: &mut Option<Answer>,
) -> Result<(response::Parts, Duplex), Failed> {
    // SETTINGS are the first frame of a server (RFC 9113, section 3.4): its pong comes after them.
    if let Some(mut pings) = pings {
        pings.ping(h2::Ping::opaque()).await.map_err(|error| broken(&error))?;
    }
    facts.announced = sender.is_extended_connect_protocol_enabled();
    if !facts.announced {
        let seen = "The server speaks HTTP/2, but its SETTINGS do not announce extended CONNECT.";
        return Err(Failed::new(Failure::Http2NotAnnounced, seen));
    }
    let (head, stream) = ask(sender, handshake, false).await?;
    facts.status = Some(head.status.as_u16());
    let Answer { status, reason, .. } = answered.insert(answer::facts(&head));
    if head.status.is_success() {
        return Ok((head, stream));
    }
    let seen =
        format!("The server announces extended CONNECT, but answers it with {status} {reason}");
    let mut body = Vec::new();
    // What came of a body that does not end is worth showing.
    let _ = timeout(BODY_PATIENCE, stream.take(MAX_BODY).read_to_end(&mut body)).await;
    let quote = answer::refused(&head, &body).quote.unwrap_or_default();
    // Servers miss the key with the one or the other.
    if matches!(head.status, StatusCode::BAD_REQUEST | StatusCode::UPGRADE_REQUIRED) {
        let again = ask(sender, handshake, true).await;
        if again.is_ok_and(|(head, _)| head.status.is_success()) {
            let seen = format!("{seen}; with a Sec-WebSocket-Key it succeeds.");
            return Err(Failed::new(Failure::Http2Key, seen).quoting(quote));
        }
    }
    Err(Failed::new(Failure::Http2Refused, format!("{seen}.")).quoting(quote))
}

/// Sends an extended CONNECT.
async fn ask(
    sender: &mut SendRequest<Bytes>,
    handshake: &Handshake,
    with_key: bool,
) -> Result<(response::Parts, Duplex), Failed> {
    let mut request: Request<()> = handshake.over_http2(with_key).ok_or_else(|| {
        let seen = "`Host` is not HOST or HOST:PORT, which HTTP/2 requires.";
        Failed::new(Failure::Http2Failed, seen)
    })?;
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| broken(&error))?;
    let asked = sender.send_request(request, false);
    let (answer, send) = asked.map_err(|error| broken(&error))?;
    let (head, receive) = answer.await.map_err(|error| broken(&error))?.into_parts();
    Ok((head, Duplex { send, receive, unread: Bytes::new() }))
}

const CLOSED: &str = "The server closed the HTTP/2 connection.";

fn broken(error: &h2::Error) -> Failed {
    let end = error.get_io().map(End::from);
    let seen = match error.reason() {
        Some(reason) if error.is_remote() && error.is_reset() => {
            format!("The server reset the HTTP/2 stream ({reason:?}).")
        }
        Some(reason) if error.is_remote() => {
            format!("The server ended the HTTP/2 connection ({reason:?}).")
        }
        _ if matches!(end, Some(End::Fin | End::Reset)) => CLOSED.to_owned(),
        _ => format!("The HTTP/2 connection failed: {error}."),
    };
    Failed::new(Failure::Http2Failed, seen)
}

/// Both directions of an HTTP/2 stream.
struct Duplex {
    send: SendStream<Bytes>,
    receive: RecvStream,
    unread: Bytes,
}

fn to_io(error: h2::Error) -> io::Error {
    match (error.reason(), error.is_io()) {
        (Some(reason), _) => io::Error::other(format!("the HTTP/2 stream was reset ({reason:?})")),
        (None, true) => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        (None, false) => io::Error::other(error),
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    let released = self.receive.flow_control().release_capacity(data.len());
                    released.map_err(to_io)?;
                    self.unread = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(granted) => granted.map_err(to_io)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let length = self.send.capacity().min(bytes.len());
        let sent = self.send.send_data(Bytes::copy_from_slice(&bytes[..length]), false);
        Poll::Ready(sent.map(|()| length).map_err(to_io))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection sends what it has.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(to_io))
    }
}
