//! Addresses: those to listen on, and those of peers.
//!
//! Owns the forms of `bind`. It does not know sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Room for a path in `sockaddr_un`, without the final NUL (unix(7)).
const MAX_UNIX_PATH: usize = 107;

/// Where this host reaches what listens on `ip`: the loopback address if that is every address.
#[must_use]
pub fn from_here(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// An address to listen on, as written in `bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:8888` or `[::1]:8888`; port 0 means any free one.
    Tcp(SocketAddr),
    /// `unix:/run/wsecho/wsecho.sock`.
    Unix(PathBuf),
    /// `systemd`: every socket passed by a socket unit.
    Inherited,
}

/// Why a text is not a [`ListenAddr`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddrError {
    /// None of the known forms.
    #[error(
        "not an address to listen on: write \"127.0.0.1:8888\", \"[::1]:8888\", \"unix:/path\" or \"systemd\""
    )]
    Form,
    /// A host name: what it resolves to may change without notice.
    #[error("host names are not resolved: write an IP address, e.g. \"127.0.0.1:{0}\"")]
    Name(u16),
    /// A port alone, or `*` for the address.
    #[error(
        "the address is missing: write \"127.0.0.1:{0}\" for this host only, \"0.0.0.0:{0}\" for every IPv4 address"
    )]
    Address(u16),
    /// Something that means this address, in a form that is not accepted.
    #[error("{0}: write \"{1}\"")]
    Meant(&'static str, String),
    /// No number, or one over 65535.
    #[error("the port must be a number up to 65535: write \"{0}\"")]
    Port(SocketAddr),
    /// `unix:` with a relative path.
    #[error("the path of a Unix socket must be absolute: write \"unix:/run/wsecho/wsecho.sock\"")]
    RelativePath,
    /// Longer than the kernel's address structure allows.
    #[error("the path of a Unix socket is limited to {MAX_UNIX_PATH} bytes, and this one has {0}")]
    LongPath(usize),
}

impl FromStr for ListenAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
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
        match text.parse() {
            Ok(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some() => {
                let v4 = SocketAddr::new(v6.ip().to_canonical(), v6.port());
                Err(meant("IPv6 sockets serve no IPv4", v4))
            }
            Ok(addr) => Ok(Self::Tcp(addr)),
            Err(_) => Err(slip(text)),
        }
    }
}

/// The port that is suggested where none was given.
const USUAL_PORT: u16 = 8888;

fn meant(wrong: &'static str, addr: impl fmt::Display) -> ParseAddrError {
    ParseAddrError::Meant(wrong, addr.to_string())
}

/// What is wrong with a text that is not an address, judged by what people type instead.
fn slip(text: &str) -> ParseAddrError {
    if let Some((_, url)) = text.split_once("://") {
        let authority = url.split('/').next().unwrap_or_default();
        return match authority.parse::<SocketAddr>() {
            Ok(addr) => meant("not a URL", addr),
            Err(_) => slip(authority),
        };
    }
    if text.starts_with('/') && text.len() <= MAX_UNIX_PATH {
        return meant("the path of a Unix socket needs its prefix", format_args!("unix:{text}"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = |host: &str| host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    // "::1:8888" could be an address without a port, but hardly ever is.
    if let (Some(ip), Ok(port)) = (ip(host), port.parse()) {
        return meant("an IPv6 address needs brackets", SocketAddr::new(ip, port));
    }
    if let Some(ip) = ip(text) {
        return meant("the port is missing", SocketAddr::new(ip, USUAL_PORT));
    }
    match (ip(host), port.parse()) {
        (Some(ip), _) => ParseAddrError::Port(SocketAddr::new(ip, USUAL_PORT)),
        (None, Ok(port)) if matches!(host, "" | "*") => ParseAddrError::Address(port),
        (None, Ok(port)) if is_name(host) => ParseAddrError::Name(port),
        (None, Err(_)) if text == "localhost" || (is_name(text) && text.contains('.')) => {
            ParseAddrError::Name(USUAL_PORT)
        }
        _ => ParseAddrError::Form,
    }
}

fn is_name(host: &str) -> bool {
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !host.is_empty() && host.bytes().all(is_of_a_name)
}

impl ListenAddr {
    /// Whether no two sockets can listen on these addresses: they are the same, or one is the
    /// wildcard of the other's family, on the same port.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(other)) = (self, other) else {
            return self == other;
        };
        let wildcard = one.ip().is_unspecified() || other.ip().is_unspecified();
        one.port() == other.port()
            && one.port() != 0
            && one.is_ipv4() == other.is_ipv4()
            && (wildcard || one.ip() == other.ip())
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

/// The other end of an accepted socket: the proxy, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// An address and port.
    Tcp(SocketAddr),
    /// Clients of a Unix socket have no address.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_errors_name_a_remedy() {
        let cases = [
            ("127.0.0.1:8888", Ok("127.0.0.1:8888")),
            ("[::1]:0", Ok("[::1]:0")),
            ("unix:/run/w.sock", Ok("unix:/run/w.sock")),
            ("systemd", Ok("systemd")),
            ("unix:run/w.sock", Err(ParseAddrError::RelativePath)),
            ("", Err(ParseAddrError::Form)),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<ListenAddr>().map(|addr| addr.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{text:?}");
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH));
        assert_eq!(long.parse::<ListenAddr>(), Err(ParseAddrError::LongPath(108)));
    }
    #[test]
    fn what_people_type_instead_of_an_address_is_answered_with_one() {
        for (text, remedy) in [
            ("localhost:80", "127.0.0.1:80"),
            ("localhost", "127.0.0.1:8888"),
            ("127.0.0.1", "127.0.0.1:8888"),
            ("::1", "[::1]:8888"),
            ("[::1]", "[::1]:8888"),
            ("::1:8888", "[::1]:8888"),
            (":::80", "[::]:80"),
            ("2001:db8::7:443", "[2001:db8::7]:443"),
            ("[::ffff:127.0.0.1]:8888", "127.0.0.1:8888"),
            ("8888", "127.0.0.1:8888"),
            (":8888", "127.0.0.1:8888"),
            ("*:8888", "127.0.0.1:8888"),
            ("127.0.0.1:99999", "127.0.0.1:8888"),
            ("127.0.0.1:http", "127.0.0.1:8888"),
            ("http://127.0.0.1:8888/echo", "127.0.0.1:8888"),
            ("ws://localhost:8888/", "127.0.0.1:8888"),
            ("/run/w.sock", "unix:/run/w.sock"),
            ("unix:w.sock", "unix:/run/wsecho/wsecho.sock"),
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err().to_string();
            let suggested = error.split('"').nth(1).unwrap_or_else(|| panic!("{text}: {error}"));
            assert_eq!(suggested, remedy, "{text}: {error}");
            assert!(suggested.parse::<ListenAddr>().is_ok(), "{text}: {error}");
        }
    }
}
