//! A failing path: carries one connection to the service, and does to it what a network or a
//! middlebox might.
//!
//! Owns the faults and nothing else; the bytes mean nothing to it. Each connection has its own
//! proxy, so that no fault can hit the wrong one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// The most that one piece holds, and roughly what each buffer along the path does.
const IN_FLIGHT: usize = 64 * 1024;
/// How long a cut path goes on reading, so that it ends with a FIN and not a reset.
const LINGER: Duration = Duration::from_secs(5);

/// What the path does. `after` counts bytes from the client, its request head included.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Each piece, of at most this size, is delayed by this much, in both directions.
    Slow { piece: usize, delay: Duration },
    /// Both sides get a FIN, and nothing more is passed on.
    Cut { after: usize },
    /// Both sides get a RST.
    Reset { after: usize },
    /// The service gets a FIN; its own bytes are still passed on.
    HalfClose { after: usize },
    /// Nothing more is passed on, and nobody is told.
    Stall { after: usize },
}

impl Fault {
    /// How many of the client's bytes are passed on, in pieces of what size, after what delay.
    fn terms(self) -> (usize, usize, Duration) {
        match self {
            Self::Slow { piece, delay } => (usize::MAX, piece.min(IN_FLIGHT), delay),
            Self::Cut { after }
            | Self::Reset { after }
            | Self::HalfClose { after }
            | Self::Stall { after } => (after, IN_FLIGHT, Duration::ZERO),
        }
    }
}

/// Connects to `service` through such a path.
///
/// The path is a task on the current runtime, and ends with its connections.
pub async fn connect(service: SocketAddr, fault: Fault) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (near, _) = listener.accept().await?;
    // Small kernel buffers, so that a stalled path pushes back.
    SockRef::from(&near).set_send_buffer_size(IN_FLIGHT)?;
    let socket = if service.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(u32::try_from(IN_FLIGHT).expect("small"))?;
    let far = socket.connect(service).await?;
    for stream in [&client, &near, &far] {
        stream.set_nodelay(true)?;
    }
    #[expect(clippy::disallowed_methods, reason = "not a task of the service")]
    tokio::spawn(async move {
        let (mut near, mut far) = (near, far);
        if carry(&mut near, &mut far, fault).await.is_err() {
            // One side was reset: pass that on to the other.
            reset(&near);
            reset(&far);
        }
    });
    Ok(client)
}

/// Why a path stopped before both sides had ended.
enum Stop {
    /// It is time for the fault.
    Fault,
    Broken(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Passes bytes on until both sides have ended or the fault is over.
async fn carry(client: &mut TcpStream, service: &mut TcpStream, fault: Fault) -> io::Result<()> {
    let (after, piece, delay) = fault.terms();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_service, mut to_service) = service.split();
    let up = async {
        let passed = pass(&mut from_client, &mut to_service, after, piece, delay).await;
        if matches!((&passed, fault), (Err(Stop::Fault), Fault::HalfClose { .. })) {
            to_service.shutdown().await?;
            copy(&mut from_client, &mut sink()).await?;
            return Ok(());
        }
        passed
    };
    let down = pass(&mut from_service, &mut to_client, usize::MAX, piece, delay);
    match (tokio::try_join!(up, down), fault) {
        (Ok(_), _) => Ok(()),
        (Err(Stop::Broken(error)), _) => Err(error),
        (Err(Stop::Fault), Fault::Reset { .. }) => Err(io::ErrorKind::ConnectionReset.into()),
        (Err(Stop::Fault), Fault::Stall { .. }) => {
            // Held open until the client gives up.
            copy(&mut from_client, &mut sink()).await.map(drop)
        }
        (Err(Stop::Fault), _) => {
            to_service.shutdown().await?;
            to_client.shutdown().await?;
            let (mut one, mut other) = (sink(), sink());
            let drained = async {
                tokio::join!(copy(&mut from_client, &mut one), copy(&mut from_service, &mut other))
            };
            // A side that goes on sending after that has been told often enough.
            let _ = timeout(LINGER, drained).await;
            Ok(())
        }
    }
}

/// Passes bytes on up to and including the end of the stream, or stops after `limit` bytes.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    limit: usize,
    piece: usize,
    delay: Duration,
) -> Result<(), Stop> {
    let mut buffer = vec![0; piece];
    let mut left = limit;
    while left > 0 {
        let room = piece.min(left);
        let read = from.read(&mut buffer[..room]).await?;
        if read == 0 {
            return Ok(to.shutdown().await?);
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
        to.write_all(&buffer[..read]).await?;
        left -= read;
    }
    Err(Stop::Fault)
}

/// Makes closing the connection send a RST.
fn reset(stream: &TcpStream) {
    // Fails if the peer has reset it already: nobody is left to tell.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
