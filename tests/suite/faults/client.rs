//! A client that follows no rules but the test's: raw frames on a raw socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::engine::support::{CLOSE, FIN, Sent, frame};
use crate::inside::handshake;
use crate::launch::inherit;
use crate::service::{PATIENCE, Service};

/// Writes `bytes` to every client without blocking, until no socket takes any more. `sent` says how
/// far each client is, and is updated. A client that the service dropped takes no more either.
pub fn write_what_is_taken(clients: &[Client], bytes: &[u8], sent: &mut [usize]) {
    for client in clients {
        client.stream().set_nonblocking(true).expect("a socket");
    }
    let mut quiet = 0;
    while quiet < 20 {
        let before = sent.to_vec();
        for (client, sent) in clients.iter().zip(&mut *sent) {
            while *sent < bytes.len() {
                match client.stream().write(&bytes[*sent..]) {
                    Ok(written) => *sent += written,
                    Err(error) => {
                        use ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
                        let kinds = [WouldBlock, ConnectionReset, BrokenPipe];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        break;
                    }
                }
            }
        }
        quiet = if *sent == before { quiet + 1 } else { 0 };
        sleep(Duration::from_millis(10));
    }
    for client in clients {
        client.stream().set_nonblocking(false).expect("a socket");
    }
}

/// The size of a clamped socket buffer, which the kernel doubles.
const CLAMP: usize = 8 * 1024;

fn connected(socket: Socket, addr: &str) -> TcpStream {
    let addr: SocketAddr = addr.parse().expect("a TCP address");
    socket.connect(&addr.into()).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.into()
}

/// Reads one frame; the server's are not masked.
pub fn read_frame(reader: &mut impl Read) -> io::Result<Sent> {
    let mut start = [0; 2];
    reader.read_exact(&mut start)?;
    let mut extended = [0; 8];
    let width = match start[1] {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    reader.read_exact(&mut extended[8 - width..])?;
    let len = if width == 0 { start[1].into() } else { u64::from_be_bytes(extended) };
    let mut payload = vec![0; len as usize];
    reader.read_exact(&mut payload)?;
    Ok(Sent { fin: start[0] & FIN != 0, opcode: start[0] & 15, payload })
}

/// A WebSocket client after its handshake.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn open(service: &Service, path: &str) -> Self {
        Self::upgrade(service.connect(), path)
    }

    /// A client with small kernel buffers in both directions.
    pub fn open_clamped(service: &Service, path: &str) -> Self {
        Self::upgrade(connected(clamped_socket(), &service.addrs[0]), path)
    }

    /// A client whose kernel takes in no more than this, which it doubles.
    pub fn open_with_receive_buffer(service: &Service, path: &str, size: usize) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(size).expect("a size");
        Self::upgrade(connected(socket, &service.addrs[0]), path)
    }

    /// A client with an address of its own.
    pub fn open_from(source: Ipv4Addr, addr: &str, path: &str) -> Self {
        Self::upgrade(Self::silent_from(source, addr), path)
    }

    /// A connection from an address of its own, on which nothing is sent.
    pub fn silent_from(source: Ipv4Addr, addr: &str) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("a loopback address");
        connected(socket, addr)
    }

    /// A client that may compress its messages.
    pub fn open_compressing(service: &Service, path: &str) -> Self {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        let handshake = handshake(path);
        let head = handshake.strip_suffix("\r\n").expect("an empty line");
        let mut client = Self::request(service.connect(), &format!("{head}{offer}"));
        let head = client.read_head();
        assert!(head.contains("xtensions: permessage-deflate; "), "{head}");
        client
    }

    /// Opens a WebSocket on a connected stream.
    pub fn upgrade(stream: TcpStream, path: &str) -> Self {
        Self::adopt(Self::request(stream, &handshake(path)).0.into_inner())
    }

    /// A client that has sent its handshake.
    fn request(mut stream: TcpStream, handshake: &str) -> Self {
        stream.set_nodelay(true).expect("TCP");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(handshake.as_bytes()).expect("it reads");
        Self::unanswered(stream)
    }

    /// Reads the answer to a handshake already sent.
    pub fn adopt(stream: TcpStream) -> Self {
        let mut client = Self::unanswered(stream);
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    /// A client that has not read the answer to its handshake.
    pub fn unanswered(stream: TcpStream) -> Self {
        // Small, because ten thousand clients have one each; larger reads bypass it.
        Self(BufReader::with_capacity(512, stream))
    }

    /// Reads the head of an answer.
    pub fn read_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head).expect("an answer, not a reset");
            assert!(read > 0, "EOF in the middle of {head:?}");
        }
        head
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub fn addr(&self) -> SocketAddr {
        self.stream().local_addr().expect("it is connected")
    }

    /// Writes raw bytes.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes)
    }

    pub fn send(&self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload)).expect("it reads");
    }

    /// Reads raw bytes.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }

    /// Reads one frame.
    pub fn read_frame(&mut self) -> io::Result<Sent> {
        read_frame(&mut self.0)
    }

    /// Reads the frames of one message.
    pub fn read_message(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let frame = self.read_frame()?;
            if frame.opcode > 2 {
                return Err(io::Error::other(format!("not a message: {frame:?}")));
            }
            message.extend(frame.payload);
            if frame.fin {
                return Ok(message);
            }
        }
    }

    /// Sends a message, and only then reads its echo.
    pub fn echo(&mut self, first: u8, payload: &[u8]) {
        self.send(FIN | first, payload);
        assert!(self.read_message().expect("an echo") == payload, "the echo is another message");
    }

    /// Reads to a Close frame, and returns its code and reason.
    pub fn read_close(&mut self) -> (u16, String) {
        loop {
            let Sent { opcode, payload, .. } = self.read_frame().expect("a Close, not a reset");
            if opcode == CLOSE {
                let (code, reason) = payload.split_first_chunk().expect("a code");
                let reason = String::from_utf8(reason.to_vec()).expect("UTF-8");
                return (u16::from_be_bytes(*code), reason);
            }
        }
    }

    /// Reads to the end, which must be a FIN and not a reset; returns how much came.
    pub fn read_to_end(&mut self) -> usize {
        self.0.read_to_end(&mut Vec::new()).expect("a FIN, not a reset")
    }

    /// Whether neither data nor a FIN has come.
    pub fn has_nothing_to_read(&self) -> bool {
        self.stream().set_nonblocking(true).expect("a socket");
        let peeked = self.stream().peek(&mut [0]);
        self.stream().set_nonblocking(false).expect("a socket");
        self.0.buffer().is_empty() && peeked.is_err_and(|it| it.kind() == ErrorKind::WouldBlock)
    }

    /// Reads until the connection ends, one way or another.
    pub fn read_until_cut(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn clamped_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(CLAMP).expect("a size");
    socket.set_send_buffer_size(CLAMP).expect("a size");
    socket
}

/// A service whose sockets are clamped as well: connections take their buffer sizes from the
/// listener it inherits.
pub fn clamped_service(config: &str) -> Service {
    let socket = clamped_socket();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(1024).expect("it is bound");
    let listener = TcpListener::from(socket);
    Service::start_with(&format!("bind = \"systemd\"\n{config}"), |command| {
        inherit(&[&listener], command);
    })
}
