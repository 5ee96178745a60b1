//! The PROXY protocol, versions 1 and 2: what a proxy writes before a connection's first byte to
//! name the client that it speaks for.
//!
//! Owns both signatures and both grammars. It knows neither sockets nor who may speak the protocol:
//! a header proves nothing unless it comes from a trusted peer.
//!
//! Source: HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included (section 2.1).
const MAX_V1: usize = 107;
/// What precedes the addresses of version 2: signature, command, family, length.
const V2_START: usize = 16;

/// The longest header that is read. Version 2 could declare 64 KiB; addresses take 232 bytes at
/// most, the rest are extensions, of which only a client's whole certificate is large. nginx has
/// the same bound.
pub const MAX_HEADER: usize = 4096;

/// Whether connections begin with a PROXY header: `proxy.proxy_protocol`. It is never guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// They begin with a request.
    #[default]
    Off,
    /// They begin with a header, from a trusted peer.
    Required,
}

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a PROXY header says of the connection that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy speaks for itself, mostly to check our health.
    Local,
    /// It speaks for somebody who has no IP address, or none that it can tell: `UNKNOWN`, an
    /// unspecified family, a Unix socket, datagrams.
    Unknown,
    /// It speaks for this client.
    Proxied(SocketAddr),
}

/// Why a connection does not begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes are those of something else.
    #[error(
        "there is no PROXY header: have the proxy send one, or set proxy_protocol = \"off\" in [proxy]"
    )]
    Absent,
    /// It begins like one and is none.
    #[error("the PROXY header is malformed, {0}: make sure that only the proxy connects here")]
    Malformed(&'static str),
    /// More than [`MAX_HEADER`].
    #[error(
        "the PROXY header has {0} bytes, which is more than {MAX_HEADER}: have the proxy send fewer of the optional fields (TLVs)"
    )]
    TooLong(usize),
}

/// The version whose signature the bytes begin with.
///
/// No request can begin so: this tells a PROXY header where none is due.
#[must_use]
pub fn signature(bytes: &[u8]) -> Option<Version> {
    if bytes.starts_with(V1) {
        Some(Version::V1)
    } else if bytes.starts_with(V2) {
        Some(Version::V2)
    } else {
        None
    }
}

/// Reads a header from the beginning of a connection: what it says, and how many bytes are its own.
///
/// `None` asks for more bytes; given [`MAX_HEADER`] of them, the answer is never `None`.
///
/// # Errors
/// As soon as no further bytes could make it a header. See [`ProxyError`].
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    match signature(bytes) {
        Some(Version::V1) => parse_v1(bytes),
        Some(Version::V2) => parse_v2(bytes),
        None if may_become(bytes, V1) || may_become(bytes, V2) => Ok(None),
        None => Err(ProxyError::Absent),
    }
}

/// Whether `bytes` begin with `whole`, as far as both go.
fn may_become(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(byte, due)| byte == due)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    const UNKNOWN: &[u8] = b"UNKNOWN";
    const TCP4: &[u8] = b"TCP4 ";
    const TCP6: &[u8] = b"TCP6 ";

    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let end = seen.windows(2).position(|pair| pair == b"\r\n");
    let text = &seen[V1.len()..end.unwrap_or(seen.len())];
    // The first half of the line's end is not yet part of the text.
    let text = if end.is_none() { text.strip_suffix(b"\r").unwrap_or(text) } else { text };

    if ![UNKNOWN, TCP4, TCP6].iter().any(|family| may_become(text, family)) {
        return Err(ProxyError::Malformed("its family is none of TCP4, TCP6 and UNKNOWN"));
    }
    let unknown = text.strip_prefix(UNKNOWN);
    if let Some(ignored) = unknown {
        if !may_become(ignored, b" ") {
            return Err(ProxyError::Malformed("its family is none of TCP4, TCP6 and UNKNOWN"));
        }
    } else if let Some(fields) = text.get(TCP4.len()..) {
        if !fields.iter().all(|byte| byte.is_ascii_hexdigit() || b" .:".contains(byte)) {
            return Err(ProxyError::Malformed("a byte in it belongs to no address and no port"));
        }
    }

    let Some(end) = end else {
        return if seen.len() == MAX_V1 {
            Err(ProxyError::Malformed("its line does not end within 107 bytes"))
        } else {
            Ok(None)
        };
    };
    let header = if unknown.is_some() {
        ProxyHeader::Unknown
    } else {
        source_v1(text).ok_or(ProxyError::Malformed(
            "its line is not a family, two addresses of it and two ports",
        ))?
    };
    Ok(Some((header, end + 2)))
}

/// The client in `TCP4 SOURCE DESTINATION PORT PORT`.
fn source_v1(text: &[u8]) -> Option<ProxyHeader> {
    let mut fields = std::str::from_utf8(text).ok()?.split(' ');
    let mut field = || fields.next();
    let (family, source, destination) = (field()?, field()?, field()?);
    let (source_port, destination_port) = (field()?, field()?);
    if field().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (port, _) = (port(source_port)?, port(destination_port)?);
    Some(proxied(source, port))
}

/// A port without a sign or leading zeros, which the standard library takes.
fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| port.to_string() == text)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    const MAX_FAMILY: u8 = 0x3;
    const MAX_PROTOCOL: u8 = 0x2;

    let Some(&command) = bytes.get(V2.len()) else { return Ok(None) };
    if command != LOCAL && command != PROXY {
        return Err(ProxyError::Malformed(if command >> 4 == 2 {
            "its command is neither LOCAL nor PROXY"
        } else {
            "its version is not 2"
        }));
    }
    let Some(&family) = bytes.get(V2.len() + 1) else { return Ok(None) };
    let known = family >> 4 <= MAX_FAMILY && family & 0xf <= MAX_PROTOCOL;
    // The family of LOCAL is ignored (section 2.2).
    if command == PROXY && !known {
        return Err(ProxyError::Malformed("its address family does not exist"));
    }
    let Some(&length) = bytes.get(V2_START - 2..).and_then(<[u8]>::first_chunk) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(length));
    let addresses = match (command, family) {
        (PROXY, TCP4) => 12,
        (PROXY, TCP6) => 36,
        _ => 0,
    };
    if length < addresses {
        return Err(ProxyError::Malformed("it is too short for its addresses"));
    }
    let end = V2_START + length;
    if end > MAX_HEADER {
        return Err(ProxyError::TooLong(end));
    }
    // What follows the addresses are extensions, which a receiver may skip (section 2.2).
    let Some(body) = bytes.get(V2_START..end) else { return Ok(None) };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let header = match (command, family) {
        (PROXY, TCP4) => {
            let source = body.first_chunk::<4>().expect("its length was checked");
            proxied(IpAddr::from(*source), port(8))
        }
        (PROXY, TCP6) => {
            let source = body.first_chunk::<16>().expect("its length was checked");
            proxied(IpAddr::from(*source), port(32))
        }
        (PROXY, _) => ProxyHeader::Unknown,
        _ => ProxyHeader::Local,
    };
    Ok(Some((header, end)))
}

fn proxied(ip: IpAddr, port: u16) -> ProxyHeader {
    ProxyHeader::Proxied(SocketAddr::new(ip.to_canonical(), port))
}
