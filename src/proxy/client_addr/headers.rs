//! What the forwarding headers say, element by element, from right to left.
//!
//! Owns their grammar. It does not know who is believed.
//!
//! Sources: RFC 7239, sections 4 to 6; RFC 9110, section 5.6.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName};
use hyper::http::uri::Authority;

use super::{ClientAddr, Scheme};
use crate::net::field::{is_token_char, list};

/// The longest host name with room for a port (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// What a hop wrote about the one before it.
#[derive(Default)]
pub(super) struct Element {
    pub node: Option<ClientAddr>,
    pub host: Option<String>,
    pub scheme: Option<Scheme>,
}

/// Parses a node of RFC 7239, section 6, unless it hides its address. IPv6 needs no brackets, as in
/// `X-Forwarded-For`.
pub(super) fn node(text: &[u8]) -> Option<ClientAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse() {
        return Some(ClientAddr::new(ip, None));
    }
    let (ip, port): (IpAddr, &str) = if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        (ip.parse::<Ipv6Addr>().ok()?.into(), port)
    } else {
        let (ip, port) = text.split_at(text.find(':')?);
        (ip.parse().ok()?, port)
    };
    if port.is_empty() {
        return Some(ClientAddr::new(ip, None));
    }
    let port = port.strip_prefix(':')?;
    if let Some(hidden) = port.strip_prefix('_') {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        return (!hidden.is_empty() && hidden.bytes().all(known))
            .then(|| ClientAddr::new(ip, None));
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    Some(ClientAddr::new(ip, Some(port.parse().ok().filter(|_| digits)?)))
}

/// The element that the `hops`-th hop wrote, counted from the right. A list may be shorter, because
/// some proxies replace what others append to.
pub(super) fn nth_from_right<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    hops: usize,
    parse: fn(&[u8]) -> Option<T>,
) -> Option<T> {
    list(headers, name).rev().take(hops).last().and_then(parse)
}

/// A host with or without a port, in lower case.
pub(super) fn host(text: &[u8]) -> Option<String> {
    let authority = Authority::try_from(text).ok().filter(|_| text.len() <= MAX_HOST)?;
    // Without userinfo the host comes first.
    let port =
        authority.as_str().strip_prefix(authority.host()).filter(|_| !text.contains(&b'@'))?;
    let good = !authority.host().is_empty() && (port.is_empty() || authority.port_u16().is_some());
    good.then(|| authority.as_str().to_ascii_lowercase())
}

/// A scheme, in any case. Some proxies write that of the WebSocket.
pub(super) fn scheme(text: &[u8]) -> Option<Scheme> {
    let is = |name: &str| text.eq_ignore_ascii_case(name.as_bytes());
    if is("https") || is("wss") {
        Some(Scheme::Tls)
    } else {
        (is("http") || is("ws")).then_some(Scheme::Plain)
    }
}

/// The elements of `Forwarded`, from right to left.
pub(super) fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Element> {
    headers.get_all(FORWARDED).iter().rev().flat_map(|line| {
        let mut rest = line.as_bytes();
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                match Pairs::cut(&mut rest) {
                    Some(Pairs { any: false, .. }) => {}
                    Some(pairs) => return Some(pairs.read()),
                    None => {
                        rest = &[];
                        return Some(Element::default());
                    }
                }
            }
            None
        })
    })
}

/// The parameters of one element of `Forwarded` (RFC 7239, section 4).
#[derive(Default)]
struct Pairs {
    /// There is at least one, known or unknown.
    any: bool,
    node: Option<Vec<u8>>,
    proto: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

impl Pairs {
    /// Cuts the last element off `line`, with the comma before it. `None` if it is malformed.
    ///
    /// It is parsed backwards, so that nothing further left can change its meaning: otherwise a quote
    /// opened by the client would swallow what the proxy appends.
    fn cut(line: &mut &[u8]) -> Option<Self> {
        let mut pairs = Self::default();
        loop {
            *line = line.trim_ascii_end();
            match line.split_last() {
                None => return Some(pairs),
                Some((b',', rest)) => {
                    *line = rest;
                    return Some(pairs);
                }
                Some((b';', rest)) => *line = rest,
                Some(_) => pairs.cut_pair(line)?,
            }
        }
    }

    fn cut_pair(&mut self, line: &mut &[u8]) -> Option<()> {
        let value = match line.strip_suffix(b"\"") {
            Some(open) => cut_quoted(open, line)?,
            // Colons and brackets require quotes, but many configurations omit them.
            None => cut_while(line, |byte| is_token_char(byte) || b":[]".contains(&byte))?.to_vec(),
        };
        *line = line.strip_suffix(b"=")?;
        let name = cut_while(line, is_token_char)?;
        *line = line.trim_ascii_end();
        if !matches!(line.last(), None | Some(b',' | b';')) {
            return None;
        }
        self.any = true;
        let known = [("for", &mut self.node), ("proto", &mut self.proto), ("host", &mut self.host)];
        for (known, slot) in known {
            // No parameter may occur twice in an element.
            if name.eq_ignore_ascii_case(known.as_bytes()) && slot.replace(value.clone()).is_some()
            {
                return None;
            }
        }
        Some(())
    }

    fn read(self) -> Element {
        Element {
            node: self.node.and_then(|node| self::node(&node)),
            host: self.host.and_then(|name| host(&name)),
            scheme: self.proto.and_then(|name| scheme(&name)),
        }
    }
}

/// Cuts a quoted-string off the end of `open`, which lacks the closing quote, and leaves what
/// precedes it in `line` (RFC 9110, section 5.6.4).
fn cut_quoted<'a>(open: &'a [u8], line: &mut &'a [u8]) -> Option<Vec<u8>> {
    let mut start = open.len();
    loop {
        start = open[..start].iter().rposition(|byte| *byte == b'"')?;
        *line = &open[..start];
        if line.last() != Some(&b'\\') {
            break;
        }
    }
    let mut text = Vec::new();
    let mut quoted = open[start + 1..].iter();
    while let Some(&byte) = quoted.next() {
        match byte {
            b'"' => return None,
            b'\\' => text.push(*quoted.next()?),
            _ => text.push(byte),
        }
    }
    Some(text)
}

/// Cuts off the longest end of `line` whose bytes are all `of` one kind. `None` if it is empty.
fn cut_while<'a>(line: &mut &'a [u8], of: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
    let start = line.iter().rposition(|byte| !of(*byte)).map_or(0, |at| at + 1);
    let (rest, end) = line.split_at(start);
    *line = rest;
    (!end.is_empty()).then_some(end)
}
