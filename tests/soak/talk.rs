//! One conversation: this file owns what a client has said, what must come back, byte by byte and in
//! order, and how a conversation may end.

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

/// How long an answer may take on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The largest reply that the service gives at its defaults.
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

/// A message that was sent, from which its echo can be made again.
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
    /// A Close frame, and behind it the end of the connection.
    Closed(Option<u16>),
    /// The end of the connection without a Close frame.
    Eof,
    /// The connection was reset.
    Reset,
}

/// A Close frame's code.
struct Close(Option<u16>);

/// Why there is no conversation.
pub enum NoTalk {
    /// 503
    Refused,
    Failed(String),
}

pub struct Talk {
    socket: WebSocketStream<TcpStream>,
    endpoint: Endpoint,
    id: u64,
    number: u64,
    owed: VecDeque<Said>,
    /// The Close that came, while the end behind it has not.
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
        // Two thousand clients share one process.
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

    /// The payload of a message: its number, and then bytes that no other message of this size has
    /// at the same place.
    fn payload(&self, said: Said) -> Vec<u8> {
        let mut payload = format!("{} {} ", self.id, said.number).into_bytes();
        let place =
            usize::try_from(self.id.wrapping_mul(31).wrapping_add(said.number * 7) % 65_536)
                .expect("small");
        let (start, size) = (place * STEP, said.size / STEP * STEP);
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
    /// An error only says that this is no way to reach the service any more: why is to be heard.
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
            // A service that takes no byte for so long might as well be gone.
            Err(_) => Err(Heard::Reset),
        }
    }

    /// The next thing that comes; it is an error if it is wrong.
    pub async fn hear(&mut self) -> Result<Heard, String> {
        match timeout(PATIENCE, self.next()).await {
            Ok(heard) => heard,
            Err(_) => Err(format!("nothing came in {PATIENCE:?}, {} echoes due", self.owed.len())),
        }
    }

    /// The same, but silence may last: `None` when nothing came in that time.
    pub async fn hear_for(&mut self, time: Duration) -> Result<Option<Heard>, String> {
        match timeout(time, self.next()).await {
            Ok(heard) => heard.map(Some),
            Err(_) if self.closing.is_none() => Ok(None),
            Err(_) => self.hear().await.map(Some),
        }
    }

    async fn next(&mut self) -> Result<Heard, String> {
        // Nobody may have waited until the end behind a Close.
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
                // A ping is answered by the library.
                _ => {}
            }
        }
        self.end_behind_close().await
    }

    fn check(&mut self, text: bool, payload: Option<&[u8]>) -> Result<(), String> {
        let said = self.owed.pop_front().ok_or("an echo of nothing")?;
        if payload == Some(&self.payload(said)) && text == said.text {
            Ok(())
        } else {
            Err(format!("echo {} of {} bytes is altered", said.number, said.size))
        }
    }

    /// Behind a Close comes a FIN: a reset could overtake the Close.
    async fn end_behind_close(&mut self) -> Result<Heard, String> {
        match self.socket.next().await {
            None | Some(Err(Error::ConnectionClosed)) => {}
            // Ours cannot be sent once this side has half-closed.
            Some(Err(Error::Io(error))) if error.kind() == ErrorKind::BrokenPipe => {}
            Some(other) => return Err(format!("behind a Close: {other:?}")),
        }
        Ok(Heard::Closed(self.closing.as_ref().and_then(|close| close.0)))
    }

    /// Closes in good order, and reads what comes up to the end.
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

/// Connects to a service that must never refuse.
pub async fn connect(service: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(service).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
