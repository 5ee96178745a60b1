//! Addresses: those to listen on, and those of peers.
//!
//! Owns the forms of `bind`. It does not know sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Room for a path in `sockaddr_un`, without the final NUL (unix(7)).
const MAX_UNIX_PATH: usize = 107;

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
    /// An IP address without a port.
    #[error("the port is missing: write \"{0}\"")]
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
}
