//! One conversation. This file owns what a client has said, what must come back, byte for byte and
//! in order, and how a conversation may end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How long an answer may take, with two busy cores in mind.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The largest reply with the default configuration.
pub const LARGEST: usize = 1 << 20;

/// Characters of one to four bytes, twelve bytes in all.
const PROSE: &str = "aé€😀 b";
const STEP: usize = PROSE.len();
static TEXT: LazyLock<String> = LazyLock::new(|| PROSE.repeat(2 * LARGEST / STEP));
static BINARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; 2 * LARGEST];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes
});

/// The two endpoints of the default configuration.
#[derive(Clone, Copy)]
pub struct Endpoint {
    path: &'static str,
    prefix: &'static str,
}

pub const ENDPOINTS: [Endpoint; 2] =
    [Endpoint { path: "/socket", prefix: "server: " }, Endpoint { path: "/echo", prefix: "" }];

/// A message that was sent: enough to reconstruct its echo.
#[derive(Clone, Copy)]
struct Said {
    number: u64,
    text: bool,
    size: usize,
}

/// What came.
#[derive(Debug)]
pub enum Heard {
    Echo,
    Pong(Bytes),
    /// A Close frame, followed by the end of the connection.
    Closed(Option<u16>),
    /// The connection ended without a Close frame.
    Eof,
    /// The connection was reset.
    Reset,
}

/// A Close frame's code.
struct Close(Option<u16>);

/// Why a conversation did not start.
pub enum NoTalk {
    /// 503.
    Refused,
    Failed(String),
}

pub struct Talk {
    socket: WebSocketStream<TcpStream>,
    endpoint: Endpoint,
    id: u64,
    number: u64,
    owed: VecDeque<Said>,
    /// The Close that came, while the end of the stream has not come yet.
    closing: Option<Close>,
}

impl Talk {
    /// Shakes hands on a connected stream.
    pub async fn open(
        stream: TcpStream,
        service: SocketAddr,
        endpoint: Endpoint,
        id: u64,
    ) -> Result<Self, NoTalk> {
        // Small buffers: two thousand clients share this process.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let url = format!("ws://{service}{}", endpoint.path);
        let opening = client_async_with_config(url, stream, Some(config));
        match timeout(PATIENCE, opening).await {
            Ok(Ok((socket, _))) => {
                let owed = VecDeque::new();
                Ok(Self { socket, endpoint, id, number: 0, owed, closing: None })
            }
            Ok(Err(Error::Http(answer))) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Err(NoTalk::Refused)
            }
            Ok(Err(error)) => Err(NoTalk::Failed(format!("handshake: {error}"))),
            Err(_) => Err(NoTalk::Failed(format!("handshake: no answer in {PATIENCE:?}"))),
        }
    }

    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// The payload of a message: its number, then bytes that differ from those of any other message
    /// of the same size.
    fn payload(&self, said: Said) -> Vec<u8> {
        let mut payload = format!("{} {} ", self.id, said.number).into_bytes();
        let offset =
            usize::try_from(self.id.wrapping_mul(31).wrapping_add(said.number * 7) % 65_536)
                .expect("small");
        let (start, size) = (offset * STEP, said.size / STEP * STEP);
        let source = if said.text { TEXT.as_bytes() } else { &BINARY };
        payload.extend_from_slice(&source[start..start + size]);
        payload
    }

    fn say(&mut self, text: bool, size: usize) -> Message {
        self.number += 1;
        let said = Said { number: self.number, text, size };
        self.owed.push_back(said);
        let payload = self.payload(said);
        if text {
            Message::text(String::from_utf8(payload).expect("whole characters"))
        } else {
            Message::binary(payload)
        }
    }

    /// Sends a message of about this size; its echo is owed from now on.
    ///
    /// An error only says that the service can no longer be reached: [`Talk::hear`] says why.
    pub async fn send(&mut self, text: bool, size: usize) -> Result<(), Heard> {
        let message = self.say(text, size);
        self.send_message(message).await
    }

    pub async fn ping(&mut self, payload: Bytes) -> Result<(), Heard> {
        self.send_message(Message::Ping(payload)).await
    }

    pub async fn send_message(&mut self, message: Message) -> Result<(), Heard> {
        match timeout(PATIENCE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(heard_end(&error)),
            // A service that takes no byte for this long might as well be gone.
            Err(_) => Err(Heard::Reset),
        }
    }

    /// The next thing to come; an error if it is wrong.
    pub async fn hear(&mut self) -> Result<Heard, String> {
        match timeout(PATIENCE, self.next()).await {
            Ok(heard) => heard,
            Err(_) => {
                Err(format!("nothing came in {PATIENCE:?}, {} echoes missing", self.owed.len()))
            }
        }
    }

    /// The same, but silence is fine: `None` if nothing came in that time.
    pub async fn hear_for(&mut self, time: Duration) -> Result<Option<Heard>, String> {
        match timeout(time, self.next()).await {
            Ok(heard) => heard.map(Some),
            Err(_) if self.closing.is_none() => Ok(None),
            Err(_) => self.hear().await.map(Some),
        }
    }

    async fn next(&mut self) -> Result<Heard, String> {
        // A Close may have been read earlier, without waiting for the end of the stream.
        while self.closing.is_none() {
            let message = match self.socket.next().await {
                None => return Ok(Heard::Eof),
                Some(Err(error)) => return Ok(heard_end(&error)),
                Some(Ok(message)) => message,
            };
            match message {
                Message::Text(text) => {
                    self.check(
                        true,
                        text.as_str().strip_prefix(self.endpoint.prefix).map(str::as_bytes),
                    )?;
                    return Ok(Heard::Echo);
                }
                Message::Binary(bytes) => {
                    self.check(false, Some(&bytes))?;
                    return Ok(Heard::Echo);
                }
                Message::Pong(payload) => return Ok(Heard::Pong(payload)),
                Message::Close(frame) => self.closing = Some(Close(frame.map(|it| it.code.into()))),
                // tungstenite answers pings.
                _ => {}
            }
        }
        self.end_after_close().await
    }

    fn check(&mut self, text: bool, payload: Option<&[u8]>) -> Result<(), String> {
        let said = self.owed.pop_front().ok_or("an echo of a message never sent")?;
        if payload == Some(&self.payload(said)) && text == said.text {
            Ok(())
        } else {
            Err(format!("echo {} of {} bytes was altered", said.number, said.size))
        }
    }

    /// After a Close comes a FIN: a reset could overtake the Close.
    async fn end_after_close(&mut self) -> Result<Heard, String> {
        match self.socket.next().await {
            None | Some(Err(Error::ConnectionClosed)) => {}
            // Our own Close cannot be sent once this side has half-closed.
            Some(Err(Error::Io(error))) if error.kind() == ErrorKind::BrokenPipe => {}
            Some(other) => return Err(format!("after a Close: {other:?}")),
        }
        Ok(Heard::Closed(self.closing.as_ref().and_then(|close| close.0)))
    }

    /// Closes cleanly, and reads to the end.
    pub async fn close(&mut self, frame: Option<CloseFrame>) -> Result<Heard, String> {
        if let Err(end) = self.send_message(Message::Close(frame)).await {
            return Ok(end);
        }
        loop {
            match self.hear().await? {
                Heard::Echo | Heard::Pong(_) => {}
                end => return Ok(end),
            }
        }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }
}

fn heard_end(error: &Error) -> Heard {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Heard::Eof,
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Heard::Eof,
        _ => Heard::Reset,
    }
}

/// Connects to a service, which must never refuse.
pub async fn connect(service: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(service).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
