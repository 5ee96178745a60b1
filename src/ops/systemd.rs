//! The protocols between a service and systemd: readiness, watchdog and socket activation.
//!
//! Owns `NOTIFY_SOCKET` (sd_notify(3)), `WATCHDOG_USEC` (sd_watchdog_enabled(3)) and `LISTEN_FDS`
//! (sd_listen_fds(3)). It does not know what a socket serves. Written for systemd 219, where
//! descriptors have no names and sockets can only be told apart by address.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::LazyLock;
use std::time::Duration;

use listenfd::ListenFd;
pub use sd_notify::NotifyState;
use socket2::SockRef;
use tokio::time::sleep;

/// How often, and how long apart, a state is sent again to a service manager that does not read.
const RETRIES: u32 = 20;
const RETRY: Duration = Duration::from_millis(50);

/// Opened once: a service that is out of descriptors must still report that it is alive.
static SOCKET: LazyLock<io::Result<UnixDatagram>> = LazyLock::new(|| {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
});

/// Tells the service manager about a change of state, in one datagram.
///
/// Without `NOTIFY_SOCKET` this does nothing. A failure is only logged: a service must not fail
/// because nobody listens to its status. While the service manager does not read, this waits for
/// 1 s at most, without blocking the thread; a watchdog ping or a status is dropped at once, since
/// another one follows.
pub async fn notify(states: &[NotifyState<'_>]) {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let is_repeated = |state| matches!(state, &NotifyState::Watchdog | &NotifyState::Status(_));
    let retries = if states.iter().all(is_repeated) { 0 } else { RETRIES };
    let lines = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n";
    for left in (0..=retries).rev() {
        let Err(error) = send(&name, &lines) else { return };
        let is_full = error.kind() == io::ErrorKind::WouldBlock;
        if is_full && left > 0 {
            sleep(RETRY).await;
        } else if !is_full || retries > 0 {
            tracing::warn!(%error, "cannot notify the service manager: check NOTIFY_SOCKET");
            return;
        }
    }
}

/// By hand, because sd-notify opens a socket each time, blocks forever, and takes an abstract name
/// for a path.
fn send(name: &str, lines: &str) -> io::Result<usize> {
    let addr = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = SOCKET.as_ref().map_err(|error| io::Error::from(error.kind()))?;
    socket.send_to_addr(lines.as_bytes(), &addr)
}

/// `RELOADING=1` with the timestamp that systemd 253 and later require.
#[must_use]
pub fn reloading() -> Vec<NotifyState<'static>> {
    std::iter::once(NotifyState::Reloading).chain(NotifyState::monotonic_usec_now().ok()).collect()
}

/// The timeout of the service manager's watchdog, if it watches this process.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// A listening socket that the service manager opened.
#[derive(Debug)]
pub enum Inherited {
    /// A TCP listener, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream listener; the service manager owns its path.
    Unix(UnixListener),
}

/// Why a passed descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// `Accept=yes` passes connections instead of listeners.
    #[error(
        "the socket unit passed a connection instead of a listener: set Accept=no in its [Socket]"
    )]
    Connected,
    /// A datagram socket, a FIFO or anything else that cannot carry a WebSocket.
    #[error(
        "descriptor {0} passed by systemd is not a stream listener: use ListenStream= in the .socket unit"
    )]
    NotAStream(usize),
}

/// Takes every socket passed in `LISTEN_FDS`, and clears the variables. They do not block any more:
/// other processes may be accepting on them, and a start that fails later must not hang those.
///
/// Call it once, before the first thread starts: it changes the environment.
///
/// # Errors
/// When a descriptor is not a stream listener.
pub fn inherited() -> Result<Vec<Inherited>, InheritedError> {
    /// `SD_LISTEN_FDS_START`.
    const FIRST: usize = 3;
    let mut passed = ListenFd::from_env();
    (0..passed.len())
        .map(|index| {
            let socket = if let Ok(Some(tcp)) = passed.take_tcp_listener(index) {
                Inherited::Tcp(tcp)
            } else if let Ok(Some(unix)) = passed.take_unix_listener(index) {
                Inherited::Unix(unix)
            } else {
                return Err(InheritedError::NotAStream(FIRST + index));
            };
            let options = match &socket {
                Inherited::Tcp(tcp) => SockRef::from(tcp),
                Inherited::Unix(unix) => SockRef::from(unix),
            };
            let listens = options.is_listener().unwrap_or(false);
            // A failure comes back when the socket is adopted.
            let _ = options.set_nonblocking(true);
            if listens { Ok(socket) } else { Err(InheritedError::Connected) }
        })
        .collect()
}
