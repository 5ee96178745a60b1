//! A server that does what a test tells it to, rightly or wrongly.
//!
//! Owns the bytes of a correct one: the answer to a handshake, frames, echoes. What is wrong with them
//! is the script's.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::service::PATIENCE;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// Whatever a peer speaks through.
pub trait Transport: Read + Write {}

impl<T: Read + Write> Transport for T {}

/// The server's end of one connection.
pub struct Peer {
    tcp: TcpStream,
    transport: Box<dyn Transport>,
    /// Whether the script is done with the connection, which its end then resets.
    reset: bool,
}

/// Serves on a port of its own, every connection by this script, until the tests end.
pub fn serve(script: impl Fn(&mut Peer) + Clone + Send + 'static) -> u16 {
    serve_through(|tcp| Box::new(tcp), script)
}

/// The same through another transport, such as TLS.
pub fn serve_through(
    transport: impl Fn(TcpStream) -> Box<dyn Transport> + Clone + Send + 'static,
    script: impl Fn(&mut Peer) + Clone + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let (script, transport) = (script.clone(), transport.clone());
            thread::spawn(move || {
                tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let through = transport(tcp.try_clone().expect("a descriptor"));
                script(&mut Peer { tcp, transport: through, reset: false });
            });
        }
    });
    port
}

impl Peer {
    /// Sends these bytes; the probe may be gone already.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.says(bytes);
    }

    /// The same, and says whether the probe was still there.
    pub fn says(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let said = self.transport.write_all(bytes.as_ref());
        said.and_then(|()| self.transport.flush()).is_ok()
    }

    /// Reads up to the end of the stream, so that closing it is no reset.
    pub fn linger(&mut self) {
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
        self.wait();
    }

    /// Reads whatever comes until the probe ends the connection, and answers nothing.
    pub fn wait(&mut self) {
        let mut buffer = [0; 4096];
        while self.transport.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }

    /// Has the connection end with a reset, as soon as the script returns. Nothing more is read.
    pub fn reset(&mut self) {
        SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).expect("an option");
        self.reset = true;
    }

    /// Reads exactly so many bytes; `None` if the stream ends first.
    pub fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        if self.reset {
            return None;
        }
        let mut bytes = vec![0; length];
        match self.transport.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "the probe is silent");
                None
            }
        }
    }

    /// Reads a request.
    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.take(1) {
                Some(byte) => head.extend(byte),
                None => break,
            }
        }
        String::from_utf8(head).expect("a request")
    }

    /// Reads a request and answers it with these bytes, then with nothing more.
    pub fn answer(&mut self, bytes: &str) {
        self.head();
        self.say(bytes);
        self.linger();
    }

    /// Accepts a WebSocket, with more headers in the answer. Returns the request.
    pub fn accept(&mut self, more: &str) -> String {
        let head = self.head();
        if !head.is_empty() {
            self.accept_head(&head, more);
        }
        // Otherwise a second connection, which only asked for HTTP/2.
        head
    }

    /// The same for a request that was read.
    pub fn accept_head(&mut self, head: &str, more: &str) {
        let accept = derive_accept_key(value(head, "Sec-WebSocket-Key").as_bytes());
        self.say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        ));
    }

    /// The next frame: its first byte, and its payload without the mask.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let start = self.take(2)?;
        let length = match start[1] & 0x7f {
            126 => self.take(2)?.into_iter().fold(0, |sum, byte| sum << 8 | usize::from(byte)),
            127 => self.take(8)?.into_iter().fold(0, |sum, byte| sum << 8 | usize::from(byte)),
            length => usize::from(length),
        };
        assert_ne!(start[1] & 0x80, 0, "a client masks");
        let mask = self.take(4)?;
        let payload = self.take(length)?;
        let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        Some((start[0], unmasked.collect()))
    }

    /// Sends a frame with this first byte.
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(u8::try_from(length).expect("small")),
            length @ ..0x1_0000 => {
                frame.push(126);
                frame.extend(u16::try_from(length).expect("small").to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.say(frame);
    }

    /// Accepts a WebSocket and echoes frame by frame, up to and including a Close.
    ///
    /// `answer` may do something else for the frame with this number, counted from 0, pings and Close
    /// included; then it returns true.
    pub fn echo_but(&mut self, mut answer: impl FnMut(&mut Self, usize, u8, &[u8]) -> bool) {
        let mut count = 0;
        while let Some((first, payload)) = self.frame() {
            if !answer(self, count, first, &payload) {
                self.send(if first == PING { PONG } else { first }, &payload);
                if first == CLOSE {
                    return self.linger();
                }
            }
            count += 1;
        }
    }

    /// Whether nothing comes for so long.
    pub fn is_silent(&self, silence: Duration) -> bool {
        self.tcp.set_read_timeout(Some(silence)).expect("a timeout");
        let came = self.tcp.peek(&mut [0]);
        self.tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Echoes until the probe has been silent for so long, then does this.
    pub fn echo_until_silent(&mut self, silence: Duration, then: fn(&mut Self)) {
        while !self.is_silent(silence) {
            let Some((first, payload)) = self.frame() else { return };
            self.send(if first == PING { PONG } else { first }, &payload);
            if first == CLOSE {
                return self.linger();
            }
        }
        then(self);
        if !self.reset {
            self.wait();
        }
    }
}

/// The value of a header.
pub fn value<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    found.unwrap_or_else(|| panic!("no {name} in {head}"))
}
