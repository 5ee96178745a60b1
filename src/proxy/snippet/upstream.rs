//! Where a proxy connects to, and how its configuration writes that.
//!
//! Owns the way from the addresses of `bind`, or from those that an administrator gives, to upstreams,
//! and quoting. It does not know products, nor templates beyond [`Values`].
//!
//! Sources: nginx's ngx_http_core_module for decoded paths, RFC 3986, section 2.1.

use std::net::{Ipv4Addr, SocketAddr};

use super::template::Values;
use crate::net::addr::{ListenAddr, from_here};

/// Reads the address of a machine: an IP address and a port, neither of which may be left open.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn machine(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(ListenAddr::Tcp(tcp)) if tcp.ip().is_unspecified() => {
            Err("a proxy cannot connect to every address: write that of the machine".into())
        }
        Ok(ListenAddr::Tcp(tcp)) if tcp.port() == 0 => Err("the port cannot be 0".into()),
        Ok(ListenAddr::Tcp(tcp)) => Ok(tcp),
        Ok(ListenAddr::Unix(_) | ListenAddr::Inherited) => {
            Err("not an address of a machine: write one such as \"192.0.2.11:8888\"".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Where a proxy connects to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// An address, and what the administrator has to know about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) address: Address,
    note: Option<&'static str>,
}

impl Upstream {
    /// How to reach each listener from this machine, without duplicates.
    pub(super) fn of(bind: &[ListenAddr]) -> Vec<Self> {
        /// The port of the default, and of `wsecho.socket`.
        const PORT: u16 = 8888;
        let mut upstreams: Vec<Self> = Vec::new();
        for listen in bind {
            let (address, note) = match listen {
                ListenAddr::Tcp(tcp) => {
                    let ip = from_here(tcp.ip());
                    match tcp.port() {
                        0 => {
                            let note = "`bind` leaves the port open: set one there and here.";
                            (Address::Tcp((ip, PORT).into()), Some(note))
                        }
                        port => (Address::Tcp((ip, port).into()), None),
                    }
                }
                ListenAddr::Unix(path) => (Address::Unix(path.display().to_string()), None),
                ListenAddr::Inherited => {
                    let note = "as in wsecho.socket; `systemctl cat wsecho.socket` shows changes.";
                    (Address::Tcp((Ipv4Addr::LOCALHOST, PORT).into()), Some(note))
                }
            };
            if upstreams.iter().all(|upstream| upstream.address != address) {
                upstreams.push(Self { address, note });
            }
        }
        upstreams
    }

    /// The addresses of several machines, which are known as they are.
    pub(super) fn of_machines(machines: &[SocketAddr]) -> Vec<Self> {
        let upstream = |machine: &SocketAddr| Self { address: Address::Tcp(*machine), note: None };
        machines.iter().map(upstream).collect()
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// The address as nginx and HAProxy write it, each with a prefix of its own for Unix sockets.
    pub(super) fn named(&self, unix: &str, special: &[char]) -> String {
        match &self.address {
            Address::Tcp(tcp) => tcp.to_string(),
            Address::Unix(path) => quoted(&[unix, path].concat(), special),
        }
    }
}

/// What the administrator has to know about these addresses.
pub(super) fn notes(upstreams: &[Upstream]) -> Values {
    let note = |upstream: &Upstream| {
        upstream.note.map(|note| format!("{}: {note}", upstream.named("unix:", &[])))
    };
    upstreams.iter().filter_map(note).collect()
}

/// In double quotes unless the text is plain, with a backslash before each `special`.
pub(super) fn quoted(text: &str, special: &[char]) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-:@~%".contains(char);
    if text.chars().all(plain) {
        return text.into();
    }
    format!("\"{}\"", escaped(text, special))
}

pub(super) fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if special.contains(&char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// A path without its percent-encoding, as nginx and Apache compare it.
pub(super) fn decoded(path: &str) -> Vec<u8> {
    let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let encoded = behind.get(..2).filter(|_| *first == b'%').and_then(hex);
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_a_proxy_can_connect_to_is_a_machine() {
        assert_eq!(machine("192.0.2.11:8888"), Ok("192.0.2.11:8888".parse().unwrap()));
        assert_eq!(machine("[2001:db8::1]:80"), Ok("[2001:db8::1]:80".parse().unwrap()));
        for (text, sentence) in [
            ("0.0.0.0:8888", "every address"),
            ("[::]:8888", "every address"),
            ("192.0.2.11:0", "port cannot be 0"),
            ("192.0.2.11", "the port is missing"),
            ("unix:/run/w.sock", "not an address of a machine"),
            ("systemd", "not an address of a machine"),
            ("echo1.example.com:8888", "host names are not resolved"),
            ("1;}", "not an address"),
        ] {
            let error = machine(text).unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
