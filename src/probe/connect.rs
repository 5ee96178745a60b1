//! From a host to a connection: names, addresses, Unix sockets, PROXY headers.
//!
//! Owns name resolution and the attempts to connect. It does not know TLS, nor what an HTTP proxy is.
//!
//! Source: getaddrinfo(3) and connect(2) for the errors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::failure::{Failed, Failure};
use super::report::{Attempt, Family, Unconnected, plain};
use super::target::Pinned;
use super::wire::Stream;
use crate::proxy::protocol::{self, Version};

/// How long one of several addresses may take: the third SYN is sent after 3 s (tcp(7)).
const PATIENCE: Duration = Duration::from_millis(3500);
/// How long a connection may stay unused: some servers give a request little time.
const UNUSED: Duration = Duration::from_millis(500);

/// The addresses of a host, in the order in which clients try them.
pub(super) async fn resolve(
    host: &str,
    pinned: &[Pinned],
    family: Option<Family>,
    deadline: Instant,
) -> Result<Vec<IpAddr>, Failed> {
    let fixed: Vec<IpAddr> =
        pinned.iter().filter(|pinned| pinned.host == host).map(|pinned| pinned.ip).collect();
    let found = match host.parse() {
        _ if !fixed.is_empty() => fixed,
        Ok(ip) => vec![ip],
        Err(_) => match timeout_at(deadline, lookup_host((host, 0))).await {
            Ok(Ok(found)) => found.map(|addr| addr.ip()).collect(),
            Ok(Err(error)) => return Err(unresolved(host, &error)),
            Err(_) => {
                let seen = format!("The resolver did not answer for {host} in time.");
                return Err(Failed::new(Failure::ResolverFailed, seen));
            }
        },
    };
    let mut usable = Vec::new();
    for ip in found.iter().map(IpAddr::to_canonical) {
        if family.is_none_or(|family| family == Family::of(ip)) && !usable.contains(&ip) {
            usable.push(ip);
        }
    }
    if usable.is_empty() {
        let missing = family.map_or("", Family::name);
        let seen = format!("{host} has no {missing} address, only {}.", listed(&found));
        return Err(Failed::new(Failure::NoAddress, seen));
    }
    Ok(usable)
}

pub(super) fn listed(addrs: &[IpAddr]) -> String {
    addrs.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Only the text of getaddrinfo's error gets through std: gai_strerror(3), which no locale changes
/// here.
fn unresolved(host: &str, error: &io::Error) -> Failed {
    let text = error.to_string();
    let said = text.rsplit(": ").next().unwrap_or(&text);
    let failure = match said {
        "Name or service not known" => Failure::NoSuchName,
        "No address associated with hostname" => Failure::NoAddress,
        _ => Failure::ResolverFailed,
    };
    Failed::new(failure, format!("{host} cannot be resolved: {said}."))
}

/// A connection, and what is known of it.
pub(super) struct Connected {
    pub stream: Stream,
    /// Both ends, for a PROXY header.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Connects to a port by each family of addresses; that which clients would try first is used if it
/// works. It is given up once something was `unacknowledged` for so long.
pub(super) async fn tcp(
    addresses: &[IpAddr],
    port: u16,
    deadline: Instant,
    unacknowledged: Option<Duration>,
    attempts: &mut Vec<Attempt>,
) -> Result<Connected, Failed> {
    let first = addresses.first().copied().map(Family::of);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .iter()
        .map(|ip| SocketAddr::new(*ip, port))
        .partition(|addr| Some(Family::of(addr.ip())) == first);
    let patience = if addresses.len() == 1 { Duration::MAX } else { PATIENCE };
    // A family that drops packets must leave time for the stages to come.
    let now = Instant::now();
    let half = now + deadline.saturating_duration_since(now) / 2;
    let until = if other.is_empty() { deadline } else { half };
    let ((stream, tried), (spare, also_tried)) =
        tokio::join!(by_family(&preferred, patience, until), by_family(&other, patience, until));
    // The one in use comes last, so that it is known.
    let used_first = stream.is_some();
    let (last, before) = if used_first { (tried, also_tried) } else { (also_tried, tried) };
    let unused = now.elapsed().saturating_sub(last.iter().map(|it| it.took).sum());
    attempts.extend(before);
    attempts.extend(last);
    let Some(mut stream) = stream.or(spare) else { return Err(unconnected(attempts)) };
    if let (true, Ok(addr)) = (unused > UNUSED, stream.peer_addr()) {
        let until = deadline.min(Instant::now() + PATIENCE);
        let again = timeout_at(until, TcpStream::connect(addr)).await;
        if let Ok(Ok(fresh)) = again {
            stream = fresh;
        }
    }
    // Without it, a connection is given up later.
    let _ = SockRef::from(&stream).set_tcp_user_timeout(unacknowledged);
    // A probe measures round trips: nothing may wait for more to send.
    let ends =
        stream.set_nodelay(true).and_then(|()| Ok((stream.local_addr()?, stream.peer_addr()?)));
    Ok(Connected { stream: Box::new(stream), ends: ends.ok() })
}

/// Tries the addresses of one family in turn until one is connected.
async fn by_family(
    addrs: &[SocketAddr],
    patience: Duration,
    deadline: Instant,
) -> (Option<TcpStream>, Vec<Attempt>) {
    let mut attempts = Vec::new();
    for addr in addrs {
        let begun = Instant::now();
        let until = begun.checked_add(patience).map_or(deadline, |until| until.min(deadline));
        let connected = timeout_at(until, TcpStream::connect(addr)).await;
        let took = begun.elapsed();
        let (stream, error) = match connected {
            Ok(Ok(stream)) => (Some(stream), None),
            Ok(Err(error)) if !has_route(*addr) => {
                (None, Some(Unconnected::NoRoute(plain(&error))))
            }
            Ok(Err(error)) => (None, Some(Unconnected::of(&error))),
            Err(_) => (None, Some(Unconnected::Timeout)),
        };
        let family = Some(Family::of(addr.ip()));
        attempts.push(Attempt { to: addr.to_string(), family, took, error });
        if stream.is_some() {
            return (stream, attempts);
        }
    }
    (None, attempts)
}

/// Whether this host has a route to an address. Connecting a datagram socket asks the kernel, and sends
/// nothing.
fn has_route(addr: SocketAddr) -> bool {
    let any: IpAddr = match Family::of(addr.ip()) {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(addr));
    // To a broadcast address there is a route, but no permission.
    asked.map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |()| true)
}

/// What nobody could connect to. The family that clients try first decides what it is called.
fn unconnected(attempts: &[Attempt]) -> Failed {
    let errors = attempts.iter().filter_map(|Attempt { to, error, took, .. }| {
        let seen = match error.as_ref()? {
            Unconnected::Refused => format!("{to} refused the connection."),
            Unconnected::Timeout => {
                format!("{to} did not answer within {:.1} s.", took.as_secs_f64())
            }
            Unconnected::NoRoute(error)
            | Unconnected::Unreachable(error)
            | Unconnected::Other(error) => format!("{to}: {error}."),
        };
        Some((seen, error.as_ref()?))
    });
    let (seen, errors): (Vec<_>, Vec<_>) = errors.unzip();
    let failure = match errors.first() {
        Some(Unconnected::Refused) => Failure::Refused,
        Some(Unconnected::Timeout) => Failure::TcpTimeout,
        Some(Unconnected::NoRoute(_) | Unconnected::Unreachable(_)) => Failure::Unreachable,
        Some(Unconnected::Other(_)) | None => Failure::ConnectFailed,
    };
    Failed::new(failure, seen.join(" "))
}

/// Connects to a Unix socket.
pub(super) async fn unix(
    path: &Path,
    deadline: Instant,
    attempts: &mut Vec<Attempt>,
) -> Result<Connected, Failed> {
    let begun = Instant::now();
    let connected = timeout_at(deadline, UnixStream::connect(path)).await;
    let to = path.display().to_string();
    let (failure, error) = match connected {
        Ok(Ok(stream)) => {
            attempts.push(Attempt { to, family: None, took: begun.elapsed(), error: None });
            return Ok(Connected { stream: Box::new(stream), ends: None });
        }
        Ok(Err(error)) => {
            let failure = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Failure::SocketMissing
                }
                io::ErrorKind::PermissionDenied => Failure::SocketDenied,
                _ => Failure::ConnectFailed,
            };
            (failure, Unconnected::of(&error))
        }
        Err(_) => (Failure::TcpTimeout, Unconnected::Timeout),
    };
    let seen = format!("{to}: {error}.");
    attempts.push(Attempt { to, family: None, took: begun.elapsed(), error: Some(error) });
    Err(Failed::new(failure, seen))
}

/// Begins the connection with a PROXY header, as a load balancer would for a client at our end.
pub(super) async fn send_proxy_header(
    connected: Connected,
    version: Version,
) -> Result<Stream, Failed> {
    let Connected { mut stream, ends } = connected;
    let sent = stream.write_all(&protocol::write(version, ends)).await;
    sent.map_err(|error| {
        let seen = format!("The PROXY header cannot be sent: {error}.");
        Failed::new(Failure::ConnectFailed, seen)
    })?;
    Ok(stream)
}
