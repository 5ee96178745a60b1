//! One open WebSocket: from the end of the handshake to the last byte (RFC 6455, sections 5 to 7).
//!
//! Owns the echo, its limits and the closing handshake. It does not know HTTP, addresses or logs.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::ops::drain::Drain;

/// What a session is run by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Stands before the payload of each text message that is echoed.
    pub prefix: String,
    /// The largest message in bytes; a larger one ends the session with 1009.
    pub max_message_size: usize,
    /// How long the closing handshake may take.
    pub close: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prefix: String::new(), max_message_size: 1 << 20, close: Duration::from_secs(5) }
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed, with this code and reason; 1005 stands for none.
    ByClient(u16, Utf8Bytes),
    /// The client was gone without a Close frame.
    Lost,
    /// The client broke the protocol.
    Protocol,
    /// A message was over the limit.
    TooBig,
    /// The service is stopping.
    Draining,
}

impl Ended {
    /// A short name that never changes, for logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::ByClient(..) => "by_client",
            Self::Lost => "lost",
            Self::Protocol => "protocol",
            Self::TooBig => "too_big",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient(code, _) => write!(f, "closed by the client with {code}"),
            Self::Lost => f.write_str("connection lost without a Close frame"),
            Self::Protocol => f.write_str("the client broke the protocol"),
            Self::TooBig => f.write_str("message over limits.max_message_size"),
            Self::Draining => f.write_str("closed with 1001, the service is stopping"),
        }
    }
}

/// What one session did.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// Messages echoed.
    pub messages: u64,
    /// Payload bytes of those messages, as they came.
    pub bytes: u64,
}

/// Echoes until the session ends. `first` is what the client sent together with its handshake.
///
/// When the drain begins, the session is closed with 1001 after its slot.
pub async fn run<S>(stream: S, first: Bytes, settings: &Settings, drain: &Drain) -> Report
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(settings.max_message_size))
        .max_frame_size(Some(settings.max_message_size));
    let mut socket =
        WebSocketStream::from_partially_read(stream, first.into(), Role::Server, Some(config))
            .await;
    let mut report = Report { ended: Ended::Lost, messages: 0, bytes: 0 };
    let leave = async {
        let slot = drain.slot().await;
        sleep_until(slot.due).await;
    };
    let mut leave = std::pin::pin!(leave);
    loop {
        let received = tokio::select! {
            received = socket.next() => received,
            () = &mut leave => {
                report.ended = Ended::Draining;
                close(&mut socket, CloseCode::Away, "wsecho: the service is stopping", settings.close)
                    .await;
                return report;
            }
        };
        let echo = match received {
            Some(Ok(Message::Text(text))) => {
                report.messages += 1;
                report.bytes += text.len() as u64;
                let prefixed = !settings.prefix.is_empty();
                Message::Text(if prefixed {
                    (settings.prefix.clone() + &text).into()
                } else {
                    text
                })
            }
            Some(Ok(Message::Binary(bytes))) => {
                report.messages += 1;
                report.bytes += bytes.len() as u64;
                Message::Binary(bytes)
            }
            Some(Ok(Message::Close(frame))) => {
                report.ended = frame.map_or(Ended::ByClient(1005, Utf8Bytes::default()), |frame| {
                    Ended::ByClient(frame.code.into(), frame.reason)
                });
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. }))) => {
                report.ended = Ended::TooBig;
                let reason = "wsecho: message over limits.max_message_size";
                close(&mut socket, CloseCode::Size, reason, settings.close).await;
                return report;
            }
            Some(Err(Error::Protocol(_) | Error::Utf8(_))) => {
                report.ended = Ended::Protocol;
                return report;
            }
            Some(Err(_)) | None => return report,
        };
        if socket.send(echo).await.is_err() {
            return report;
        }
    }
}

/// Sends a Close frame and waits for the client's, in `limit` at most.
async fn close<S>(
    socket: &mut WebSocketStream<S>,
    code: CloseCode,
    reason: &'static str,
    limit: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        socket.close(Some(CloseFrame { code, reason: reason.into() })).await?;
        while socket.next().await.transpose()?.is_some() {}
        Ok::<_, Error>(())
    };
    // The client may be gone or mute: either way the session is over.
    let _ = timeout(limit, handshake).await;
}
