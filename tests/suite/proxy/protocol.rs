//! PROXY headers: any bytes, and those that a writer of its own made.
//!
//! Both the proptest and the fuzzer call [`cut`] and [`written`] with raw bytes.

use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};
use wsecho::proxy::protocol::{MAX_PROXY_HEADER, ProxyError, ProxyHeader, parse, signature};

/// The first bytes of a connection say the same in whatever pieces they come: nothing until they
/// are complete, then what they say as a whole; and what is wrong stays wrong.
pub fn cut(data: &[u8]) {
    let whole = parse(data);
    assert!(whole != Ok(None) || data.len() < MAX_PROXY_HEADER);
    assert!(signature(data).is_none() || whole != Err(ProxyError::Absent));
    let mut wrong = false;
    for length in 0..=data.len() {
        let seen = parse(&data[..length]);
        match whole {
            Ok(Some((_, end))) if length >= end => assert_eq!(seen, whole, "{length} of {data:?}"),
            Ok(_) => assert_eq!(seen, Ok(None), "{length} of {data:?}"),
            Err(_) => {
                assert!(!matches!(seen, Ok(Some(_))), "{length} of {data:?}");
                assert!(seen.is_err() || !wrong, "{length} of {data:?}");
                wrong = seen.is_err();
            }
        }
    }
    if let Ok(Some((_, end))) = whole {
        assert!(end <= MAX_PROXY_HEADER && end <= data.len());
        assert!(signature(data).is_some());
    }
}

/// A header that was written by the book is read, and one byte of it changed is no trouble.
pub fn written(data: &[u8]) {
    // What the fuzzer leaves open is zero, so this cannot fail.
    let _ = write(&mut Unstructured::new(data));
}

fn write(u: &mut Unstructured<'_>) -> Result<()> {
    let (source, destination, ports): (IpAddr, IpAddr, (u16, u16)) = if u.arbitrary()? {
        (u.arbitrary::<[u8; 4]>()?.into(), u.arbitrary::<[u8; 4]>()?.into(), u.arbitrary()?)
    } else {
        (u.arbitrary::<[u8; 16]>()?.into(), u.arbitrary::<[u8; 16]>()?.into(), u.arbitrary()?)
    };
    let named = ProxyHeader::Proxied(SocketAddr::new(source.to_canonical(), ports.0));
    let (mut bytes, meaning) = match u.int_in_range(0..=5)? {
        0 | 1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {source} {destination} {} {}\r\n", ports.0, ports.1);
            (line.into_bytes(), named)
        }
        2 => (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::Unknown),
        kind => {
            let mut body = Vec::new();
            for ip in [source, destination] {
                match ip {
                    IpAddr::V4(v4) => body.extend(v4.octets()),
                    IpAddr::V6(v6) => body.extend(v6.octets()),
                }
            }
            body.extend(ports.0.to_be_bytes());
            body.extend(ports.1.to_be_bytes());
            let extension: &[u8] = u.arbitrary()?;
            body.extend(extension);
            let family = if source.is_ipv4() { 0x11 } else { 0x21 };
            let (command, family, meaning) = match kind {
                3 => (0x20, u.arbitrary()?, ProxyHeader::Local),
                4 => (0x21, *u.choose(&[0x00, 0x12, 0x22, 0x31, 0x32])?, ProxyHeader::Unknown),
                _ => (0x21, family, named),
            };
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            bytes.extend([command, family]);
            bytes.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(body);
            (bytes, meaning)
        }
    };
    let length = bytes.len();
    bytes.extend(b"GET / HTTP/1.1\r\n");
    if length <= MAX_PROXY_HEADER {
        assert_eq!(parse(&bytes), Ok(Some((meaning, length))), "{bytes:?}");
    } else {
        assert!(matches!(parse(&bytes), Err(ProxyError::TooLong(_))));
    }
    bytes.truncate(MAX_PROXY_HEADER);
    let place = u.choose_index(bytes.len())?;
    bytes[place] = u.arbitrary()?;
    cut(&bytes);
    Ok(())
}
