//! Listening: addresses, sockets, and an accept that cannot fail.
//!
//! Owns the socket families, their options, the backlog, the life of a Unix socket's path, and
//! what to do when the machine is out of descriptors. It does not know who limits connections nor
//! what is spoken on them.
//!
//! Sources: socket(7), tcp(7), unix(7), accept(2).

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::ops::systemd::Inherited;

/// Connections that the kernel may hold for us; `net.core.somaxconn` cuts it silently.
pub const BACKLOG: i32 = 4096;

/// Room for a path in `sockaddr_un`, without its final NUL (unix(7)).
const MAX_UNIX_PATH: usize = 107;

/// The most that the kernel holds for a reader beyond what is under way, in bytes; without this
/// limit it is 4 MiB (tcp(7), TCP_NOTSENT_LOWAT). Progress is seen in steps of half of it, so for a
/// slow reader it has to be small.
const UNSENT: u32 = 128 * 1024;
/// The same for a reader that has shown to be fast: fewer and larger writes.
const UNSENT_FAST: u32 = 512 * 1024;

/// Probes for peers that sessions without pings would never miss.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// An accepted connection.
pub type Stream = Either<TcpStream, UnixStream>;

/// A stream that a session can run on.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Prepares for a session: what was sent and is not acknowledged for `user_timeout` breaks the
    /// connection, and `keepalive` says whether the kernel probes a silent peer.
    ///
    /// These are TCP's matters; other streams need nothing.
    fn prepare(&self, user_timeout: Duration, keepalive: bool) {
        let _ = (user_timeout, keepalive);
    }

    /// Lets the kernel take more at once, for a peer that reads fast.
    fn widen(&self) {}
}

impl Transport for DuplexStream {}

impl Transport for Stream {
    fn prepare(&self, user_timeout: Duration, keepalive: bool) {
        if let Self::Left(tcp) = self {
            let socket = SockRef::from(tcp);
            // A kernel without one of these options serves all the same: they only find dead peers
            // sooner.
            let _ = socket.set_tcp_user_timeout(Some(user_timeout));
            if !keepalive {
                let _ = socket.set_keepalive(false);
            }
        }
    }

    fn widen(&self) {
        if let Self::Left(tcp) = self {
            // As above.
            let _ = SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_FAST);
        }
    }
}

/// An address to listen on, as written in `bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:8888` or `[::1]:8888`; port 0 takes any free one.
    Tcp(SocketAddr),
    /// `unix:/run/wsecho/wsecho.sock`.
    Unix(PathBuf),
    /// `systemd`: every socket passed by a socket unit.
    Inherited,
}

/// Why a text is no [`ListenAddr`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddrError {
    /// Not one of the known forms.
    #[error(
        "not an address to listen on: write \"127.0.0.1:8888\", \"[::1]:8888\", \"unix:/path\" or \"systemd\""
    )]
    Form,
    /// A name where an address is due: what it resolves to may change without notice.
    #[error("host names are not resolved: write an IP address, e.g. \"127.0.0.1:{0}\"")]
    Name(u16),
    /// An IP address alone.
    #[error("the port is missing: write \"{0}\"")]
    Port(SocketAddr),
    /// `unix:` with a relative path.
    #[error("the path of a unix socket starts with '/': write \"unix:/run/wsecho/wsecho.sock\"")]
    RelativePath,
    /// Longer than the kernel's address structure.
    #[error("the path of a unix socket has at most {MAX_UNIX_PATH} bytes, this one has {0}")]
    LongPath(usize),
}

impl FromStr for ListenAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        const USUAL_PORT: u16 = 8888;
        if text == "systemd" {
            return Ok(Self::Inherited);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if !path.starts_with('/') {
                Err(ParseAddrError::RelativePath)
            } else if path.len() > MAX_UNIX_PATH {
                Err(ParseAddrError::LongPath(path.len()))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::Tcp(addr));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            return Err(ParseAddrError::Port(SocketAddr::new(ip, USUAL_PORT)));
        }
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if !host.is_empty() && !host.contains([':', '/', '*']) => {
                Err(ParseAddrError::Name(port))
            }
            _ => Err(ParseAddrError::Form),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited => f.write_str("systemd"),
        }
    }
}

/// The other end of an accepted socket. Behind a proxy this is the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket's clients have no address.
    Unix,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Why an address cannot be listened on. Each names the address and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// EADDRINUSE, or somebody answers on the Unix socket.
    #[error("{0} is in use by another process: stop that one (`ss -lp` names it) or change bind")]
    InUse(ListenAddr),
    /// EACCES on a port below 1024.
    #[error(
        "{0} is a port for root: let systemd open it (wsecho.socket, bind = \"systemd\") or use a port from 1024"
    )]
    Privileged(ListenAddr),
    /// EADDRNOTAVAIL.
    #[error("{0} is no address of this machine: `ip addr` lists them")]
    NotOurs(ListenAddr),
    /// Something that is no socket stands where the socket should be.
    #[error("{0} is not a socket, so it is left alone: move it away or change bind")]
    NotASocket(ListenAddr),
    /// The folder of a Unix socket is missing.
    #[error("the folder of {0} is missing: create it, or use /run/wsecho, which the unit creates")]
    NoFolder(ListenAddr),
    /// Anything else the kernel says.
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
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One listening socket.
pub struct Listener {
    acceptor: Acceptor,
    addr: ListenAddr,
    /// Whether it ends with us; one of systemd's keeps its backlog for who comes after us.
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
    /// With [`ListenAddr::Inherited`], whose sockets are [adopted](Listener::adopt), and outside
    /// of a tokio runtime.
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

    /// Takes over a socket that systemd opened.
    ///
    /// # Errors
    /// When the kernel refuses to set its options.
    pub fn adopt(socket: Inherited) -> io::Result<Self> {
        match socket {
            Inherited::Tcp(tcp) => Ok(Self { own: false, ..Self::from_tcp(tcp)? }),
            Inherited::Unix(unix) => {
                let path = unix.local_addr()?.as_pathname().map(Path::to_path_buf);
                unix.set_nonblocking(true)?;
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
        // Linux hands a listener's options down to what it accepts: one system call for all.
        let socket = SockRef::from(&listener);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.set_tcp_notsent_lowat(UNSENT)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = ListenAddr::Tcp(listener.local_addr()?);
        Ok(Self { acceptor: Acceptor::Tcp(listener), addr, own: true, _path: None })
    }

    fn bind_unix(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The path takes the descriptor's mode less the umask, so it is never wider than asked,
        // not even between bind and chmod.
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

    /// The address, with the port that the kernel chose.
    #[must_use]
    pub fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
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

/// Removes a socket that nobody answers on, and nothing else.
fn remove_stale(path: &Path, addr: &ListenAddr) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(addr.clone()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(%addr, "removing a stale socket that nobody answers on");
            fs::remove_file(path).map_err(|error| BindError::new(addr, error))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(BindError::Other(addr.clone(), error))
        }
        Ok(_) | Err(_) => Err(BindError::InUse(addr.clone())),
    }
}

/// The path of a Unix socket that we bound; removed with this value, unless it was replaced.
struct OwnPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl OwnPath {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Another process may have removed it in between, which is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// All listening sockets, with one accept over them.
pub struct Listeners {
    all: Vec<Listener>,
    turn: usize,
    pause: Option<Duration>,
}

impl Listeners {
    const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    /// Joins listeners; they are served in turn.
    #[must_use]
    pub fn new(all: Vec<Listener>) -> Self {
        Self { all, turn: 0, pause: None }
    }

    /// The addresses, in the order of the configuration.
    pub fn addrs(&self) -> impl Iterator<Item = &ListenAddr> {
        self.all.iter().map(Listener::addr)
    }

    /// Leaves the inherited sockets to whoever comes after us, with the connections that wait there.
    pub fn keep_own(&mut self) {
        self.all.retain(|listener| listener.own);
    }

    /// Waits for the next connection. It cannot fail: a connection that is gone before it was
    /// taken is passed over, and when the machine is out of descriptors or memory this pauses,
    /// from 5 ms doubling to 1 s, and says so once.
    ///
    /// Cancel safe.
    pub async fn accept(&mut self) -> (Stream, PeerAddr) {
        loop {
            match std::future::poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(accepted) => {
                    if self.pause.take().is_some() {
                        tracing::info!("connections are accepted again");
                    }
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    let pause = self
                        .pause
                        .map_or(Self::SHORTEST_PAUSE, |pause| (pause * 2).min(Self::LONGEST_PAUSE));
                    if self.pause.replace(pause).is_none() {
                        tracing::warn!(%error, "no connection can be accepted: is LimitNOFILE too low?");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, PeerAddr)>> {
        for _ in 0..self.all.len() {
            self.turn = (self.turn + 1) % self.all.len();
            if let Poll::Ready(accepted) = self.all[self.turn].poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

/// accept(2): errors already pending on the new socket are passed on by accept itself.
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

    #[test]
    fn addresses_are_read_and_wrong_ones_get_a_remedy() {
        let cases = [
            ("127.0.0.1:8888", Ok("127.0.0.1:8888")),
            ("[::1]:0", Ok("[::1]:0")),
            ("unix:/run/w.sock", Ok("unix:/run/w.sock")),
            ("systemd", Ok("systemd")),
            ("localhost:80", Err(ParseAddrError::Name(80))),
            ("127.0.0.1", Err(ParseAddrError::Port("127.0.0.1:8888".parse().unwrap()))),
            ("::1", Err(ParseAddrError::Port("[::1]:8888".parse().unwrap()))),
            ("unix:run/w.sock", Err(ParseAddrError::RelativePath)),
            ("8888", Err(ParseAddrError::Form)),
            (":8888", Err(ParseAddrError::Form)),
            ("*:8888", Err(ParseAddrError::Form)),
            ("127.0.0.1:99999", Err(ParseAddrError::Form)),
            ("", Err(ParseAddrError::Form)),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<ListenAddr>().map(|addr| addr.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{text:?}");
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH));
        assert_eq!(long.parse::<ListenAddr>(), Err(ParseAddrError::LongPath(108)));
    }

    #[tokio::test]
    async fn connections_of_all_listeners_are_accepted_in_turn() {
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
            let (stream, _) = listeners.accept().await;
            let Either::Left(stream) = stream else { panic!("a TCP stream") };
            assert!(stream.nodelay().unwrap(), "small answers must not wait");
            served.push(stream.local_addr().unwrap().to_string());
        }
        assert_eq!(served[..2].iter().filter(|addr| **addr == addrs[1]).count(), 1, "{served:?}");
    }
}
