//! The PROXY protocol, versions 1 and 2: the header with which a proxy begins a connection, to name
//! the client that it speaks for.
//!
//! Owns both signatures and both grammars. It does not know sockets, nor who may send a header, which
//! proves nothing unless it comes from a trusted peer.
//!
//! Source: HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, including its CRLF (section 2.1).
const MAX_V1: usize = 107;
/// What precedes the addresses of version 2: signature, command, family, length.
const V2_START: usize = 16;

/// The longest header accepted. Version 2 could declare 64 KiB, but addresses take 232 bytes at most;
/// the rest are extensions, and only a client's whole certificate is a large one. nginx has the same
/// limit.
pub const MAX_PROXY_HEADER: usize = 4096;

/// Whether connections begin with a PROXY header: `proxy.proxy_protocol`. It is never guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// They begin with a request.
    #[default]
    Off,
    /// They begin with a header, which must come from a trusted peer.
    Required,
}

/// The two forms of a header.
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
    /// The proxy speaks for itself, usually for a health check.
    Local,
    /// It speaks for a client without an IP address, or without one that it can name: `UNKNOWN`, an
    /// unspecified family, a Unix socket, datagrams.
    Unknown,
    /// It speaks for this client.
    Proxied(SocketAddr),
}

/// Why a connection does not begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes are something else.
    #[error(
        "there is no PROXY header: make the proxy send one, or set proxy_protocol = \"off\" in [proxy]"
    )]
    Absent,
    /// It starts like one, but is not.
    #[error("the PROXY header is malformed, {0}: make sure that only the proxy can connect here")]
    Malformed(&'static str),
    /// More than [`MAX_PROXY_HEADER`].
    #[error(
        "the PROXY header has {0} bytes, which is more than {MAX_PROXY_HEADER}: make the proxy send fewer optional fields (TLVs)"
    )]
    TooLong(usize),
}

/// The version whose signature the bytes begin with.
///
/// No request can begin like this, so it also recognizes a header where none is expected.
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

/// Parses the header at the beginning of a connection: what it says, and its length in bytes.
///
/// `None` asks for more bytes; given [`MAX_PROXY_HEADER`] of them, the answer is never `None`.
///
/// # Errors
/// As soon as no further bytes could complete a header. See [`ProxyError`].
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    match signature(bytes) {
        Some(Version::V1) => parse_v1(bytes),
        Some(Version::V2) => parse_v2(bytes),
        None if may_become(bytes, V1) || may_become(bytes, V2) => Ok(None),
        None => Err(ProxyError::Absent),
    }
}

/// The header for a connection with these ends, the client's first; without them, the one that names
/// nobody.
#[must_use]
pub fn write(version: Version, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let ends = ends.map(|(from, to)| (from.ip(), to.ip(), from.port(), to.port()));
    match (version, ends) {
        (Version::V1, Some((IpAddr::V4(from), IpAddr::V4(to), port, to_port))) => {
            format!("PROXY TCP4 {from} {to} {port} {to_port}\r\n").into_bytes()
        }
        (Version::V1, Some((IpAddr::V6(from), IpAddr::V6(to), port, to_port))) => {
            format!("PROXY TCP6 {from} {to} {port} {to_port}\r\n").into_bytes()
        }
        (Version::V1, _) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V2, Some((IpAddr::V4(from), IpAddr::V4(to), port, to_port))) => {
            let ports = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
            [V2, &[0x21, 0x11, 0, 12], &from.octets(), &to.octets(), &ports].concat()
        }
        (Version::V2, Some((IpAddr::V6(from), IpAddr::V6(to), port, to_port))) => {
            let ports = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
            [V2, &[0x21, 0x21, 0, 36], &from.octets(), &to.octets(), &ports].concat()
        }
        // LOCAL: the sender speaks for itself.
        (Version::V2, _) => [V2, &[0x20, 0, 0, 0]].concat(),
    }
}

/// Whether `bytes` could be the beginning of `whole`, or begin with it.
fn may_become(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.iter().zip(whole).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    const UNKNOWN: &[u8] = b"UNKNOWN";
    const TCP4: &[u8] = b"TCP4 ";
    const TCP6: &[u8] = b"TCP6 ";

    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let end = seen.windows(2).position(|pair| pair == b"\r\n");
    let text = &seen[V1.len()..end.unwrap_or(seen.len())];
    // A lone CR at the end is the first half of the CRLF.
    let text = if end.is_none() { text.strip_suffix(b"\r").unwrap_or(text) } else { text };

    let unknown = text.strip_prefix(UNKNOWN);
    let tcp = text.strip_prefix(TCP4).or_else(|| text.strip_prefix(TCP6));
    let possible = [UNKNOWN, TCP4, TCP6].iter().any(|family| may_become(text, family));
    if !possible || unknown.is_some_and(|ignored| !may_become(ignored, b" ")) {
        return Err(ProxyError::Malformed("its family is not TCP4, TCP6 or UNKNOWN"));
    }
    let field = |byte: &u8| byte.is_ascii_hexdigit() || b" .:".contains(byte);
    if tcp.is_some_and(|fields| !fields.iter().all(field)) {
        return Err(ProxyError::Malformed("it has a byte that belongs to no address or port"));
    }
    let Some(end) = end else {
        return if seen.len() == MAX_V1 {
            Err(ProxyError::Malformed("its line is longer than 107 bytes"))
        } else {
            Ok(None)
        };
    };
    let header = if unknown.is_some() {
        ProxyHeader::Unknown
    } else {
        source_v1(text)
            .ok_or(ProxyError::Malformed("its line is not a family, two addresses and two ports"))?
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

/// A port without a sign or leading zeros, which the standard library would accept.
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
        return Err(ProxyError::Malformed("its address family is unknown"));
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
    if end > MAX_PROXY_HEADER {
        return Err(ProxyError::TooLong(end));
    }
    // Extensions follow the addresses; a receiver may skip them (section 2.2).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_header_is_read_back() {
        let v4: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:6".parse().unwrap();
        for version in [Version::V1, Version::V2] {
            for addr in [v4, v6] {
                let header = write(version, Some((addr, addr)));
                assert_eq!(parse(&header), Ok(Some((ProxyHeader::Proxied(addr), header.len()))));
            }
        }
        let local = write(Version::V2, None);
        assert_eq!(parse(&local), Ok(Some((ProxyHeader::Local, local.len()))));
        let unknown = write(Version::V1, None);
        assert_eq!(parse(&unknown), Ok(Some((ProxyHeader::Unknown, unknown.len()))));
    }

    use ProxyError::{Absent, Malformed, TooLong};
    use ProxyHeader::{Local, Unknown};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, body].concat()
    }

    fn from(addr: &str) -> ProxyHeader {
        ProxyHeader::Proxied(addr.parse().unwrap())
    }

    /// Asserts what a header means with a request behind it, and when it arrives in pieces.
    fn assert_means(header: &[u8], meaning: ProxyHeader) {
        let text = String::from_utf8_lossy(header);
        let stream = [header, REQUEST].concat();
        for length in 0..=stream.len() {
            let expected = (length >= header.len()).then_some((meaning, header.len()));
            assert_eq!(parse(&stream[..length]), Ok(expected), "{length} bytes of {text:?}");
        }
    }

    #[test]
    fn a_header_of_version_1_names_its_source_however_it_is_cut() {
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (line, meaning) in [
            ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", from("192.168.0.1:56324")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                from("255.255.255.255:65535"),
            ),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", from("1.2.3.4:0")),
            ("PROXY TCP6 2001:db8::1 ::1 8 443\r\n", from("[2001:db8::1]:8")),
            ("PROXY TCP6 2001:DB8::A ::1 8 443\r\n", from("[2001:db8::a]:8")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 8 443\r\n", from("192.0.2.1:8")),
            (
                &format!("PROXY TCP6 {long} {long} 65535 65535\r\n"),
                from(&format!("[{long}]:65535")),
            ),
            ("PROXY UNKNOWN\r\n", Unknown),
            ("PROXY UNKNOWN \r\n", Unknown),
            ("PROXY UNKNOWN what\never \r stands here\r\n", Unknown),
            (&format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n"), Unknown),
        ] {
            assert_means(line.as_bytes(), meaning);
        }
    }

    #[test]
    fn a_line_that_only_looks_like_version_1_is_malformed() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.256 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOW\r\n",
            "PROXY TCP4 \r\n",
            "PROXY TCP4\r\n",
            "PROXY \r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Err(Malformed(_))), "{line:?}");
        }
    }

    #[test]
    fn the_line_of_version_1_has_at_most_107_bytes() {
        let line =
            |length: usize| [b"PROXY UNKNOWN ", &vec![b'x'; length - 16][..], b"\r\n"].concat();
        assert_means(&line(107), Unknown);
        assert!(matches!(parse(&line(108)), Err(Malformed(_))));
        assert_eq!(parse(&line(108)[..106]), Ok(None));
        assert!(matches!(parse(&line(108)[..107]), Err(Malformed(_))));
    }

    #[test]
    fn a_header_of_version_2_names_its_source_however_it_is_cut() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 7;
        v6[32..].copy_from_slice(&[0xff, 0xff, 0x01, 0xbb]);
        let mut mapped = v6;
        mapped[..16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        // A PP2_TYPE_NOOP of two bytes, then a truncated one: extensions are skipped unread.
        let extended = [&v4[..], &[4, 0, 2, 0, 0, 5, 0]].concat();
        for (header, meaning) in [
            (v2(0x21, 0x11, &v4), from("192.0.2.1:4660")),
            (v2(0x21, 0x11, &extended), from("192.0.2.1:4660")),
            (v2(0x21, 0x21, &v6), from("[2001::7]:65535")),
            (v2(0x21, 0x21, &mapped), from("192.0.2.1:65535")),
            (v2(0x21, 0x00, b""), Unknown),
            (v2(0x21, 0x00, &v4), Unknown),
            (v2(0x21, 0x01, &v4), Unknown),
            (v2(0x21, 0x10, &v4), Unknown),
            (v2(0x21, 0x12, &v4), Unknown),
            (v2(0x21, 0x22, &v6), Unknown),
            (v2(0x21, 0x31, &[1; 216]), Unknown),
            (v2(0x21, 0x32, &[1; 216]), Unknown),
            (v2(0x20, 0x00, b""), Local),
            (v2(0x20, 0x11, &v4), Local),
            (v2(0x20, 0x11, b"short"), Local),
            (v2(0x20, 0xff, &v6), Local),
        ] {
            assert_means(&header, meaning);
        }
    }

    #[test]
    fn version_2_is_refused_at_the_first_byte_that_is_wrong() {
        for (header, at) in [
            (v2(0x11, 0x11, &[0; 12]), 13),
            (v2(0x22, 0x11, &[0; 12]), 13),
            (v2(0x2f, 0x00, b""), 13),
            (v2(0x21, 0x13, &[0; 12]), 14),
            (v2(0x21, 0x41, &[0; 36]), 14),
            (v2(0x21, 0x11, &[0; 11]), 16),
            (v2(0x21, 0x21, &[0; 35]), 16),
        ] {
            assert_eq!(parse(&header[..at - 1]), Ok(None), "{header:?}");
            for length in at..=header.len() {
                assert!(matches!(parse(&header[..length]), Err(Malformed(_))), "{header:?}");
            }
        }
    }

    #[test]
    fn a_header_of_version_2_has_at_most_4096_bytes() {
        assert_means(&v2(0x21, 0x00, &[0; MAX_PROXY_HEADER - 16]), Unknown);
        assert_eq!(parse(&v2(0x21, 0x00, &[0; MAX_PROXY_HEADER - 15])[..16]), Err(TooLong(4097)));
        assert_eq!(parse(&[V2, b"\x20\0\xff\xff"].concat()), Err(TooLong(65551)));
    }

    #[test]
    fn what_is_no_header_is_known_at_its_first_wrong_byte() {
        for (bytes, wrong) in [
            ("GET / HTTP/1.1\r\n", 1),
            ("\u{16}\u{3}\u{1}", 1),
            ("PRI * HTTP/2.0\r\n", 3),
            ("PROXY\t", 6),
            ("PROXYING", 6),
            ("proxy TCP4", 1),
            ("\r\nGET /", 3),
            ("\r\n\r\n\0\r\nQUIT\r", 12),
        ] {
            assert_eq!(parse(&bytes.as_bytes()[..wrong - 1]), Ok(None), "{bytes:?}");
            for length in wrong..=bytes.len() {
                assert_eq!(parse(&bytes.as_bytes()[..length]), Err(Absent), "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_header_that_nobody_asked_for_is_known_by_its_signature() {
        assert_eq!(signature(b"PROXY TCP4 1.2.3.4"), Some(Version::V1));
        assert_eq!(signature(&v2(0x21, 0x11, &[0; 12])), Some(Version::V2));
        assert_eq!(signature(&V2[..11]), None);
        assert_eq!(signature(REQUEST), None);
    }

    #[test]
    fn each_error_names_a_remedy() {
        for (error, expected) in [
            (
                Absent,
                "there is no PROXY header: make the proxy send one, or set proxy_protocol = \"off\" in [proxy]",
            ),
            (
                Malformed("x"),
                "the PROXY header is malformed, x: make sure that only the proxy can connect here",
            ),
            (
                TooLong(5000),
                "the PROXY header has 5000 bytes, which is more than 4096: make the proxy send fewer optional fields (TLVs)",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}
