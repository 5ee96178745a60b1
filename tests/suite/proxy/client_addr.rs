//! Forwarding headers: any bytes, and chains of proxies.
//!
//! Both the proptest and the fuzzer call [`any_headers`] and [`chain`] with raw bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Result, Unstructured};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use wsecho::net::addr::PeerAddr;
use wsecho::proxy::client_addr::{
    Because, Client, ClientAddr, ForwardingHeader, LastHop, MAX_HOPS, Trusted, resolve,
};
use wsecho::proxy::protocol::ProxyHeader;

const NAMES: [HeaderName; 5] = [
    hyper::header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// What headers of this kind are made of, so that chance makes some that are good.
const PIECES: [&str; 24] = [
    "for=",
    "by=",
    "proto=",
    "host=",
    "\"",
    "\\",
    ",",
    ";",
    " ",
    "=",
    "[",
    "]",
    ":",
    "192.0.2.1",
    "10.0.0.1",
    "127.0.0.1",
    "::1",
    "[2001:db8::1]",
    "unknown",
    "_x",
    "https",
    "http",
    "a.example",
    "@",
];

fn trusted() -> Trusted {
    ["127.0.0.0/8", "::1", "unix", "10.0.0.0/8"]
        .map(|text| text.parse().unwrap())
        .into_iter()
        .collect()
}

/// Bytes that may stand in a header: some are pieces, some are not.
fn value(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        match u.int_in_range(0..=PIECES.len() * 5 / 4)? {
            piece if piece < PIECES.len() => value.extend(PIECES[piece].as_bytes()),
            _ => value.push(u.arbitrary()?),
        }
    }
    Ok(value
        .into_iter()
        .map(|byte| if byte < b' ' || byte == 127 { b'\t' } else { byte })
        .collect())
}

fn header(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).expect("without control characters")
}

/// The headers with `more` and a separator before everything in the lines of `name`.
fn prepended(headers: &HeaderMap, name: &HeaderName, more: &[u8], as_line: bool) -> HeaderMap {
    let mut lines: Vec<_> = headers.get_all(name).iter().cloned().collect();
    if as_line {
        lines.insert(0, header(more));
    } else {
        lines[0] = header(&[more, b",", lines[0].as_bytes()].concat());
    }
    let mut changed = headers.clone();
    changed.remove(name);
    for line in lines {
        changed.append(name, line);
    }
    changed
}

/// Headers of any bytes: nothing panics, none counts unless the hop in front is trusted, and what
/// stands left of an untrusted hop changes nothing.
pub fn any_headers(data: &[u8]) {
    // Without bytes left everything is the first choice, so this cannot fail.
    let _ = try_any_headers(&mut Unstructured::new(data));
}

fn try_any_headers(u: &mut Unstructured<'_>) -> Result<()> {
    let near = |u: &mut Unstructured<'_>| -> Result<SocketAddr> {
        let ip: [u8; 4] = *u.choose(&[[127, 0, 0, 1], [10, 0, 0, 1], [192, 0, 2, 9]])?;
        Ok(SocketAddr::new(ip.into(), u.arbitrary()?))
    };
    let peer = if u.arbitrary()? { PeerAddr::Unix } else { PeerAddr::Tcp(near(u)?) };
    let proxy = match u.int_in_range(0..=5)? {
        0 => Some(ProxyHeader::Proxied(near(u)?)),
        1 => Some(ProxyHeader::Local),
        2 => Some(ProxyHeader::Unknown),
        _ => None,
    };
    let mut headers = HeaderMap::new();
    for _ in 0..u.int_in_range(1..=5)? {
        headers.append(u.choose(&NAMES)?, header(&value(u)?));
    }
    let client = resolve(peer, proxy, &headers, &trusted());
    let near = match proxy {
        Some(ProxyHeader::Proxied(addr)) => PeerAddr::Tcp(addr),
        _ => peer,
    };
    if !trusted().contains(near) || proxy == Some(ProxyHeader::Unknown) {
        let Client { addr, host, .. } = client;
        assert_eq!((addr, host), (ClientAddr::from(near), None), "{headers:?}");
        return Ok(());
    }
    if let Some(host) = &client.host {
        assert!(
            host.len() <= 255 && host.is_ascii() && !host.contains(['@', '/', ' ']),
            "{host:?}"
        );
    }
    if let Because::Followed(followed, LastHop::Untrusted) = client.because {
        let name = if followed == ForwardingHeader::Forwarded { &NAMES[0] } else { &NAMES[1] };
        let changed = prepended(&headers, name, &value(u)?, u.arbitrary()?);
        assert_eq!(resolve(peer, proxy, &changed, &trusted()), client, "{headers:?} {changed:?}");
    }
    Ok(())
}

/// A client, behind it any number of trusted proxies that each do their work, and before it
/// whatever the client sent by itself.
pub fn chain(data: &[u8]) {
    // As above.
    let _ = try_chain(&mut Unstructured::new(data));
}

fn try_chain(u: &mut Unstructured<'_>) -> Result<()> {
    let client: IpAddr = if u.arbitrary()? {
        Ipv4Addr::from([192, 0, 2, u.arbitrary()?]).into()
    } else {
        Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u.arbitrary()?]).into()
    };
    let mut hops = vec![client];
    for hop in 0..u.int_in_range(0..=40)? {
        hops.push(Ipv4Addr::from([10, 0, u.arbitrary()?, hop]).into());
    }
    let name = if u.arbitrary()? { &NAMES[0] } else { &NAMES[1] };
    let standard = name == NAMES[0];
    let (mut honest, mut spoofed) = (HeaderMap::new(), HeaderMap::new());
    let mut lines = vec![value(u)?];
    for _ in 0..u.int_in_range(0..=2)? {
        spoofed.append(name, header(&value(u)?));
        spoofed.append(&NAMES[3], header(&value(u)?));
    }
    for (place, hop) in hops.iter().enumerate() {
        let node = node(u, *hop, standard)?;
        // A proxy adds a line of its own, or to the last one.
        match lines.last_mut() {
            Some(line) if u.arbitrary()? => {
                line.extend(*u.choose(&[&b","[..], b", ", b" ,\t"])?);
                line.extend(node.as_bytes());
            }
            _ => lines.push(node.clone().into_bytes()),
        }
        honest.append(name, header(node.as_bytes()));
        let host = if place == 0 { "client.example" } else { "proxy.example" };
        for headers in [&mut honest, &mut spoofed] {
            headers.append(&NAMES[3], HeaderValue::from_static(host));
        }
    }
    for line in &lines {
        spoofed.append(name, header(line));
    }

    let due = hops[hops.len().saturating_sub(MAX_HOPS)];
    let found = resolve(PeerAddr::Unix, None, &honest, &trusted());
    assert_eq!(found.addr.ip(), Some(due), "{honest:?}");
    let host = if due == client { "client.example" } else { "proxy.example" };
    assert_eq!(found.host.as_deref(), Some(host), "{honest:?}");
    let despite = resolve(PeerAddr::Unix, None, &spoofed, &trusted());
    assert_eq!((despite.addr, despite.host), (found.addr, found.host), "{spoofed:?}");
    Ok(())
}

/// How a proxy writes an address.
fn node(u: &mut Unstructured<'_>, ip: IpAddr, standard: bool) -> Result<String> {
    let port: Option<u16> = u.arbitrary()?;
    let node = match (ip, port) {
        (_, Some(port)) => SocketAddr::new(ip, port).to_string(),
        (IpAddr::V6(ip), None) if standard || u.arbitrary()? => format!("[{ip}]"),
        (_, None) => ip.to_string(),
    };
    Ok(if !standard {
        node
    } else if node.contains(':') || u.arbitrary()? {
        format!("by=\"_a,b;\\\"c\"; For=\"{node}\"")
    } else {
        format!("for={node};by=_x")
    })
}
