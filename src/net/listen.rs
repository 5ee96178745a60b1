//! Listening: sockets, and an accept that cannot fail.
//!
//! Owns the socket families, their options, the backlog, and what to do when the machine is out of
//! descriptors. It does not know who limits connections, nor which protocol they carry.
//!
//! Sources: socket(7), tcp(7), unix(7), accept(2).

mod path;

use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::either::Either;

use self::path::{OwnPath, remove_stale};
use super::addr::{ListenAddr, PeerAddr};
use super::stream::{KEEPALIVE, Stream, UNSENT};
use crate::ops::systemd::Inherited;

/// How long accept(2) may wait on a socket that somebody else makes blocking: the kernel rounds it up
/// to its next tick. What is accepted never blocks, whatever timeout it inherits.
const LONGEST_BLOCK: Duration = Duration::from_millis(1);
/// Connections that the kernel may queue for us; `net.core.somaxconn` caps it silently.
pub const BACKLOG: i32 = 4096;

/// Why listening failed. Each names the address and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// EADDRINUSE, or something answers on the Unix socket.
    #[error("{0} is in use by another process: stop it (`ss -lp` shows which) or change bind")]
    InUse(ListenAddr),
    /// EACCES on a port below 1024.
    #[error(
        "{0} is a privileged port: let systemd open it (wsecho.socket, bind = \"systemd\") or use port 1024 or above"
    )]
    Privileged(ListenAddr),
    /// EADDRNOTAVAIL.
    #[error("{0} is not an address of this machine: `ip addr` lists those that are")]
    NotOurs(ListenAddr),
    /// Something other than a socket is where the socket should be.
    #[error("{0} exists and is not a socket: remove it or change bind")]
    NotASocket(ListenAddr),
    /// The directory of a Unix socket does not exist.
    #[error(
        "the directory of {0} does not exist: create it, or use /run/wsecho, which the unit creates"
    )]
    NoFolder(ListenAddr),
    /// Any other error.
    #[error("cannot listen on {0}: {1}")]
    Other(ListenAddr, io::Error),
}

impl BindError {
    fn new(addr: &ListenAddr, error: io::Error) -> Self {
        let addr = addr.clone();
        let low_port = matches!(addr, ListenAddr::Tcp(tcp) if tcp.port() < 1024);
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(addr),
            io::ErrorKind::PermissionDenied if low_port => Self::Privileged(addr),
            io::ErrorKind::AddrNotAvailable => Self::NotOurs(addr),
            io::ErrorKind::NotFound => Self::NoFolder(addr),
            _ => Self::Other(addr, error),
        }
    }

    /// Whether a later attempt may succeed without anyone fixing the configuration or permissions.
    #[must_use]
    pub fn may_heal(&self) -> bool {
        /// No IPv6 in this kernel.
        const EAFNOSUPPORT: i32 = 97;
        match self {
            Self::InUse(_) | Self::NotOurs(_) | Self::NoFolder(_) => true,
            Self::Privileged(_) | Self::NotASocket(_) => false,
            Self::Other(_, error) => {
                use io::ErrorKind as Kind;
                !matches!(
                    error.kind(),
                    // A link-local address without its interface, for one.
                    Kind::InvalidInput | Kind::PermissionDenied | Kind::ReadOnlyFilesystem
                ) && error.raw_os_error() != Some(EAFNOSUPPORT)
            }
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

/// One listening socket.
pub struct Listener {
    acceptor: Acceptor,
    addr: ListenAddr,
    /// Whether we opened it. One of systemd's outlives us, and its queue waits for our successor.
    own: bool,
    _path: Option<OwnPath>,
}

impl Listener {
    /// Opens a socket and listens on it; `unix_mode` is the mode of a Unix socket's path.
    ///
    /// # Errors
    /// See [`BindError`].
    ///
    /// # Panics
    /// With [`ListenAddr::Inherited`], whose sockets are [adopted](Listener::adopt), and outside a
    /// tokio runtime.
    pub fn bind(addr: &ListenAddr, unix_mode: u32) -> Result<Self, BindError> {
        match addr {
            ListenAddr::Tcp(tcp) => {
                Self::bind_tcp(*tcp).map_err(|error| BindError::new(addr, error))
            }
            ListenAddr::Unix(path) => {
                remove_stale(path, addr)?;
                Self::bind_unix(path, unix_mode).map_err(|error| BindError::new(addr, error))
            }
            ListenAddr::Inherited => panic!("inherited sockets are adopted, not bound"),
        }
    }

    /// Takes over a socket that systemd opened, and that other processes may share.
    ///
    /// # Errors
    /// When the kernel refuses to set its options.
    pub fn adopt(socket: Inherited) -> io::Result<Self> {
        match socket {
            Inherited::Tcp(tcp) => {
                SockRef::from(&tcp).set_read_timeout(Some(LONGEST_BLOCK))?;
                Ok(Self { own: false, ..Self::from_tcp(tcp)? })
            }
            Inherited::Unix(unix) => {
                let path = unix.local_addr()?.as_pathname().map(Path::to_path_buf);
                unix.set_nonblocking(true)?;
                SockRef::from(&unix).set_read_timeout(Some(LONGEST_BLOCK))?;
                Ok(Self {
                    acceptor: Acceptor::Unix(UnixListener::from_std(unix)?),
                    addr: ListenAddr::Unix(path.unwrap_or_default()),
                    own: false,
                    _path: None,
                })
            }
        }
    }

    fn bind_tcp(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // No SO_REUSEPORT: it would hide a second instance and lose queued connections.
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Self::from_tcp(socket.into())
    }

    fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        // On Linux accepted sockets inherit these options: one system call for all of them.
        let socket = SockRef::from(&listener);
        if_known("TCP_NODELAY", socket.set_tcp_nodelay(true))?;
        if_known("TCP_KEEPIDLE", socket.set_tcp_keepalive(&KEEPALIVE))?;
        if_known("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = ListenAddr::Tcp(listener.local_addr()?);
        Ok(Self { acceptor: Acceptor::Tcp(listener), addr, own: true, _path: None })
    }

    fn bind_unix(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The path gets the descriptor's mode less the umask, so it is never more permissive than
        // asked, not even between bind and chmod.
        File::from(OwnedFd::from(socket.try_clone()?))
            .set_permissions(Permissions::from_mode(mode))?;
        socket.bind(&SockAddr::unix(path)?)?;
        let own = OwnPath::of(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            acceptor: Acceptor::Unix(UnixListener::from_std(socket.into())?),
            addr: ListenAddr::Unix(path.to_path_buf()),
            own: true,
            _path: Some(own),
        })
    }

    /// The address, with the port the kernel chose.
    #[must_use]
    pub fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// Whether a connection waits to be accepted.
    fn is_waited_at(&self) -> bool {
        let mut listening = [PollFd::new(&self.acceptor, PollFlags::IN)];
        poll(&mut listening, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
        if !self.own {
            // Whoever shares the socket may have cleared the flag, as systemd does when it starts a
            // unit without NonBlocking=yes. What cannot be set is bounded by LONGEST_BLOCK.
            let _ = SockRef::from(&self.acceptor).set_nonblocking(true);
        }
        match &self.acceptor {
            Acceptor::Tcp(tcp) => tcp.poll_accept(cx).map_ok(|(stream, addr)| {
                let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                (Either::Left(stream), PeerAddr::Tcp(addr))
            }),
            Acceptor::Unix(unix) => {
                unix.poll_accept(cx).map_ok(|(stream, _)| (Either::Right(stream), PeerAddr::Unix))
            }
        }
    }
}

/// The options that a connection should have and this kernel does not know.
#[must_use]
pub fn lacking() -> Vec<&'static str> {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { return Vec::new() };
    [
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT)),
        ("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(Duration::from_secs(1)))),
    ]
    .into_iter()
    .filter_map(|(option, set)| set.is_err().then_some(option))
    .collect()
}

/// Leaves out an option that the kernel does not know, as those before EL 7.3's do not know
/// TCP_NOTSENT_LOWAT: none of them is essential.
fn if_known(option: &str, set: io::Result<()>) -> io::Result<()> {
    const ENOPROTOOPT: i32 = 92;
    const EINVAL: i32 = 22;
    match set {
        Err(error) if matches!(error.raw_os_error(), Some(ENOPROTOOPT | EINVAL)) => {
            tracing::debug!("this kernel does not know {option}: left out");
            Ok(())
        }
        set => set,
    }
}

/// Which sockets connections are accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Each of them.
    All,
    /// Those that we opened: whoever shares the others may have room for their connections.
    Own,
}

/// All listening sockets, behind one accept.
pub struct Listeners {
    all: Vec<Listener>,
    turn: usize,
    pause: Option<Duration>,
}

impl Listeners {
    const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    /// Joins listeners; they take turns.
    #[must_use]
    pub fn new(all: Vec<Listener>) -> Self {
        Self { all, turn: 0, pause: None }
    }

    /// The addresses, in the order of the configuration.
    pub fn addrs(&self) -> impl Iterator<Item = &ListenAddr> {
        self.all.iter().map(Listener::addr)
    }

    /// Leaves the inherited sockets, and the connections queued there, to our successor.
    pub fn keep_own(&mut self) {
        self.all.retain(|listener| listener.own);
    }

    /// Whether a connection waits at an inherited socket.
    #[must_use]
    pub fn are_waited_at(&self) -> bool {
        self.all.iter().any(|listener| !listener.own && listener.is_waited_at())
    }

    /// Waits for the next connection, from our own sockets alone or from all of them. It cannot fail:
    /// a connection that is gone before it is accepted is skipped, and when the machine is out of
    /// descriptors or memory, this backs off from 5 ms to 1 s and logs it once.
    ///
    /// Cancel safe.
    pub async fn accept(&mut self, from: Reach) -> (Stream, PeerAddr) {
        loop {
            match std::future::poll_fn(|cx| self.poll_accept(from, cx)).await {
                Ok(accepted) => {
                    if self.pause.take().is_some() {
                        tracing::info!("accepting connections again");
                    }
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    let pause = self
                        .pause
                        .map_or(Self::SHORTEST_PAUSE, |pause| (pause * 2).min(Self::LONGEST_PAUSE));
                    if self.pause.replace(pause).is_none() {
                        tracing::warn!(%error, "cannot accept connections: is LimitNOFILE too low?");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn poll_accept(
        &mut self,
        from: Reach,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Stream, PeerAddr)>> {
        for _ in 0..self.all.len() {
            self.turn = (self.turn + 1) % self.all.len();
            let listener = &self.all[self.turn];
            if (listener.own || from == Reach::All)
                && let Poll::Ready(accepted) = listener.poll_accept(cx)
            {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

/// accept(2): accept itself reports errors that are already pending on the new socket.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    const EPROTO: i32 = 71;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    ) || error.raw_os_error() == Some(EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn listeners_take_turns() {
        let any: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let bind = || Listener::bind(&any, 0).expect("a free port");
        let mut listeners = Listeners::new(vec![bind(), bind()]);
        let addrs: Vec<String> = listeners.addrs().map(ToString::to_string).collect();
        let mut clients = Vec::new();
        for addr in [&addrs[0], &addrs[0], &addrs[1]] {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        let mut served = Vec::new();
        for _ in 0..3 {
            let (stream, _) = listeners.accept(Reach::All).await;
            let Either::Left(stream) = stream else { panic!("a TCP stream") };
            assert!(stream.nodelay().unwrap(), "small writes must not wait");
            served.push(stream.local_addr().unwrap().to_string());
        }
        assert_eq!(served[..2].iter().filter(|addr| **addr == addrs[1]).count(), 1, "{served:?}");
    }
}
