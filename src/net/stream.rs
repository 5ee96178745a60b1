//! Accepted streams, and what a session asks of TCP.
//!
//! Owns the socket options of a connection. It does not know who limits connections, nor which
//! protocol they carry.
//!
//! Sources: socket(7), tcp(7).

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// The most that the kernel queues for a reader beyond what is in flight, in bytes; without this
/// limit it is 4 MiB (tcp(7), TCP_NOTSENT_LOWAT). We see progress in steps of half of it, so it
/// must be small for a slow reader.
pub(super) const UNSENT: u32 = 128 * 1024;
/// The same for a reader that has proven fast: fewer and larger writes.
const UNSENT_FAST: u32 = 512 * 1024;

/// Probes for dead peers, which sessions without pings would never notice.
pub(super) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// An accepted connection.
pub type Stream = Either<TcpStream, UnixStream>;

/// A stream that a session can run on.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Prepares for a session: data unacknowledged for `user_timeout` breaks the connection, and
    /// `keepalive` says whether the kernel probes a silent peer.
    ///
    /// This and what follows concerns TCP alone; other streams need nothing.
    fn prepare(&self, user_timeout: Duration, keepalive: bool) {
        let _ = (user_timeout, keepalive);
    }

    /// Lets data be unacknowledged for as long as the kernel retries, some 15 minutes.
    fn clear_user_timeout(&self) {}

    /// Has the kernel give up what it has not sent when the stream is closed, and reset the
    /// connection: for a peer that does not read.
    fn abandon(&self) {}

    /// Lets the kernel queue more, for a peer that reads fast.
    fn widen(&self) {}
}

impl Transport for DuplexStream {}

impl Transport for Stream {
    fn prepare(&self, user_timeout: Duration, keepalive: bool) {
        if let Self::Left(tcp) = self {
            let socket = SockRef::from(tcp);
            // Errors are harmless: these options only detect dead peers sooner.
            let _ = socket.set_tcp_user_timeout(Some(user_timeout));
            if !keepalive {
                let _ = socket.set_keepalive(false);
            }
        }
    }

    fn clear_user_timeout(&self) {
        if let Self::Left(tcp) = self {
            // As above.
            let _ = SockRef::from(tcp).set_tcp_user_timeout(None);
        }
    }

    fn abandon(&self) {
        if let Self::Left(tcp) = self {
            // As above: then it keeps its memory until its own timeout.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }

    fn widen(&self) {
        if let Self::Left(tcp) = self {
            // As above.
            let _ = SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_FAST);
        }
    }
}
