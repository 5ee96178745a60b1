//! Who the client is, behind any number of proxies.
//!
//! Owns the forwarding headers and the rules by which they are believed. It does not know what the
//! client's address is used for.
//!
//! Each hop names the one before it, so a header is followed from right to left, and only as far as
//! those who wrote it are trusted; what stands further left a client could have written itself. A
//! proxy mostly manages one of the headers and passes the others on as they came, so headers that
//! name different clients are not believed at all.
//!
//! Sources: RFC 7239 for `Forwarded`; the `X-` headers have none, what nginx, HAProxy and Apache
//! write counts.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hyper::header::{FORWARDED, HeaderMap, HeaderName};
use hyper::http::uri::Authority;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::listen::PeerAddr;
use crate::net::proxy_protocol::ProxyHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// How many hops are followed.
pub const MAX_HOPS: usize = 32;
/// The longest host name with room for a port (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// Whose word is believed: an entry of `proxy.trusted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedPeer {
    /// `10.0.0.0/8`, `::1`.
    Network(IpNet),
    /// `unix`: every client of a Unix socket.
    Unix,
}

/// Why a text is no [`TrustedPeer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTrustedError {
    /// Not one of the known forms.
    #[error("not a network: write \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.1\" or \"unix\"")]
    Form,
    /// A name where an address is due: what it resolves to may change without notice.
    #[error("host names are not resolved: write an address or a network, e.g. \"192.0.2.0/24\"")]
    Name,
    /// No prefix, or one of more bits than the address has.
    #[error("the prefix of such a network is a number from 0 to {0}")]
    Prefix(u8),
    /// Bits behind the prefix are set, so it is not clear which of two things is meant.
    #[error(
        "an address within a network: write \"{0}\" for the network or \"{1}\" for the address"
    )]
    HostBits(IpNet, IpAddr),
}

impl FromStr for TrustedPeer {
    type Err = ParseTrustedError;

    fn from_str(text: &str) -> Result<Self, ParseTrustedError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let Ok(addr) = addr.parse::<IpAddr>() else {
            let name =
                addr.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            let letters = addr.bytes().any(|byte| byte.is_ascii_alphabetic());
            return Err(if name && letters {
                ParseTrustedError::Name
            } else {
                ParseTrustedError::Form
            });
        };
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => max,
            Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(ParseTrustedError::Form);
            }
            Some(digits) => {
                let prefix = digits.parse().ok().filter(|prefix| *prefix <= max);
                prefix.ok_or(ParseTrustedError::Prefix(max))?
            }
        };
        let network = IpNet::new_assert(addr, prefix);
        if network.addr() != network.network() {
            return Err(ParseTrustedError::HostBits(network.trunc(), addr));
        }
        Ok(Self::Network(canonical(network)))
    }
}

/// Addresses are compared in their canonical form, where an IPv4 address within IPv6 is IPv4.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new_assert(v4, v6.prefix_len() - MAPPED).into(),
            None => network,
        },
        _ => network,
    }
}

impl fmt::Display for TrustedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Whose word is believed: `proxy.trusted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted(Vec<TrustedPeer>);

impl Default for Trusted {
    /// This machine.
    fn default() -> Self {
        let loopback = [
            Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into(),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ];
        loopback.map(TrustedPeer::Network).into_iter().chain([TrustedPeer::Unix]).collect()
    }
}

impl FromIterator<TrustedPeer> for Trusted {
    fn from_iter<I: IntoIterator<Item = TrustedPeer>>(peers: I) -> Self {
        Self(peers.into_iter().collect())
    }
}

impl Trusted {
    /// Whether what `peer` says of others is believed.
    #[must_use]
    pub fn contains(&self, peer: PeerAddr) -> bool {
        self.trusts(peer.into())
    }

    fn trusts(&self, hop: ClientAddr) -> bool {
        self.0.iter().any(|trusted| match (trusted, hop.ip()) {
            (TrustedPeer::Network(network), Some(ip)) => network.contains(&ip),
            (TrustedPeer::Unix, None) => true,
            _ => false,
        })
    }
}

/// Whom we believe the client to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    /// An address and port: the socket's peer, or named by a proxy that tells ports.
    Tcp(SocketAddr),
    /// An address named by a proxy that does not.
    Ip(IpAddr),
    /// The client of a Unix socket.
    Unix,
}

impl ClientAddr {
    /// The address, which a client of a Unix socket lacks.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Ip(ip) => Some(*ip),
            Self::Unix => None,
        }
    }

    fn new(ip: IpAddr, port: Option<u16>) -> Self {
        let ip = ip.to_canonical();
        port.map_or(Self::Ip(ip), |port| Self::Tcp(SocketAddr::new(ip, port)))
    }

    /// Parses a node of RFC 7239, section 6, but for those that hide their address. IPv6 may stand
    /// without brackets, as it does in `X-Forwarded-For`.
    fn parse(node: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(node).ok()?;
        if let Ok(ip) = text.parse() {
            return Some(Self::new(ip, None));
        }
        let (ip, port): (IpAddr, &str) = if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']')?;
            (ip.parse::<Ipv6Addr>().ok()?.into(), port)
        } else {
            let (ip, port) = text.split_at(text.find(':')?);
            (ip.parse().ok()?, port)
        };
        if port.is_empty() {
            return Some(Self::new(ip, None));
        }
        let port = port.strip_prefix(':')?;
        if let Some(hidden) = port.strip_prefix('_') {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            return (!hidden.is_empty() && hidden.bytes().all(known)).then(|| Self::new(ip, None));
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self::new(ip, Some(port.parse().ok().filter(|_| digits)?)))
    }
}

impl From<PeerAddr> for ClientAddr {
    fn from(peer: PeerAddr) -> Self {
        match peer {
            PeerAddr::Tcp(addr) => Self::Tcp(addr),
            PeerAddr::Unix => Self::Unix,
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A header that can name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// RFC 7239.
    Forwarded,
    /// The usual one.
    XForwardedFor,
    /// nginx's habit: one address.
    XRealIp,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarded => "Forwarded",
            Self::XForwardedFor => "X-Forwarded-For",
            Self::XRealIp => "X-Real-IP",
        })
    }
}

/// Where following a header from right to left ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a hop that is not trusted: the usual end.
    Untrusted,
    /// At the left end: all hops are trusted.
    Leftmost,
    /// Before an element that names no address.
    Malformed,
    /// After [`MAX_HOPS`].
    Limit,
}

/// Why somebody is believed to be the client. It is a sentence with nothing of the request's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Nothing names anybody but the socket's peer.
    Peer,
    /// The peer is not trusted and sent headers that would name another client.
    PeerUntrusted,
    /// The PROXY header named it.
    Proxy,
    /// The PROXY header named it, it is not trusted, and it sent headers that would name another.
    ProxyUntrusted,
    /// The PROXY header spoke for somebody without an address; the peer stays, and no header is
    /// believed, because it could be that somebody's.
    ProxyUnknown,
    /// A header was followed.
    Followed(Header, Stop),
    /// `X-Real-IP` alone named it.
    XRealIp,
    /// `X-Real-IP` alone was there, and is not one address.
    BadXRealIp,
    /// Two headers name different clients, so at most one is the proxy's.
    Disagree(Header, Header),
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("it is the peer of the socket, and no proxy named another"),
            Self::PeerUntrusted => f.write_str(
                "it is the peer of the socket; its forwarding headers are ignored because it is \
                 not listed in proxy.trusted",
            ),
            Self::Proxy => f.write_str("the PROXY header names it"),
            Self::ProxyUntrusted => f.write_str(
                "the PROXY header names it; its forwarding headers are ignored because it is not \
                 listed in proxy.trusted",
            ),
            Self::ProxyUnknown => f.write_str(
                "it is the peer of the socket; the PROXY header does not tell for whom it speaks, \
                 so forwarding headers are ignored",
            ),
            Self::Followed(header, stop) => {
                write!(f, "{header}, followed from right to left, leads to ")?;
                f.write_str(match stop {
                    Stop::Untrusted => "it as the first that is not listed in proxy.trusted",
                    Stop::Leftmost => "it as the leftmost, and all are listed in proxy.trusted",
                    Stop::Malformed => "it as the last before one without an address",
                    Stop::Limit => "it as the last that is followed, the 32nd",
                })
            }
            Self::XRealIp => f.write_str("X-Real-IP names it"),
            Self::BadXRealIp => f.write_str(
                "the hop in front stays the client, because X-Real-IP is not one address: have \
                 the proxy set it, not add to it",
            ),
            Self::Disagree(one, other) => write!(
                f,
                "the hop in front stays the client, because {one} and {other} name different \
                 ones: have the proxy set both, or remove the one that it does not set",
            ),
        }
    }
}

/// The client, as far as it is known and believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub addr: ClientAddr,
    /// Whether it came to the first proxy over TLS, if a proxy said so.
    pub https: Option<bool>,
    /// The host that it asked for, if a proxy named it.
    pub host: Option<String>,
    /// Why.
    pub because: Because,
}

/// Who the client is, from the socket's peer, a PROXY header of a trusted peer, and the request's
/// headers.
#[must_use]
pub fn resolve(
    peer: PeerAddr,
    proxy: Option<ProxyHeader>,
    headers: &HeaderMap,
    trusted: &Trusted,
) -> Client {
    let (near, unnamed, untrusted) = match proxy {
        Some(ProxyHeader::Proxied(addr)) => {
            (ClientAddr::Tcp(addr), Because::Proxy, Because::ProxyUntrusted)
        }
        Some(ProxyHeader::Local | ProxyHeader::Unknown) | None => {
            (peer.into(), Because::Peer, Because::PeerUntrusted)
        }
    };
    let stays = |because| Client { addr: near, https: None, host: None, because };
    if proxy == Some(ProxyHeader::Unknown) {
        return stays(Because::ProxyUnknown);
    }
    if !trusted.trusts(near) {
        let all = [&FORWARDED, &X_FORWARDED_FOR, &X_REAL_IP, &X_FORWARDED_PROTO, &X_FORWARDED_HOST];
        let any = all.into_iter().any(|name| headers.contains_key(name));
        return stays(if any { untrusted } else { unnamed });
    }

    let usual = list(headers, &X_FORWARDED_FOR)
        .map(|node| Element { node: ClientAddr::parse(node), ..Element::default() });
    let walks: Vec<(Header, Walk)> = [
        (Header::Forwarded, Walk::along(forwarded(headers), near, trusted)),
        (Header::XForwardedFor, Walk::along(usual, near, trusted)),
    ]
    .into_iter()
    .filter_map(|(header, walk)| Some((header, walk?)))
    .collect();
    if let [(one, walk), (other, second)] = &walks[..] {
        if walk.client.ip() != second.client.ip() {
            return stays(Because::Disagree(*one, *other));
        }
    }
    let real = list(headers, &X_REAL_IP).next().map(|last| {
        let alone = headers.get_all(X_REAL_IP).iter().count() == 1;
        ClientAddr::parse(last).filter(|_| alone)
    });
    let (addr, because) = match (walks.first(), real) {
        (None, None) => (near, unnamed),
        (None, Some(None)) => (near, Because::BadXRealIp),
        (None, Some(Some(real))) => (real, Because::XRealIp),
        (Some((header, _)), Some(Some(real)))
            if !walks.iter().any(|(_, walk)| walk.passed(real)) =>
        {
            return stays(Because::Disagree(*header, Header::XRealIp));
        }
        (Some((header, walk)), _) => (walk.client, Because::Followed(*header, walk.stop)),
    };

    let hops = walks.last().map_or(0, |(_, walk)| walk.hops.len()).max(1);
    let written = walks.into_iter().next().map(|(_, walk)| walk.last).unwrap_or_default();
    Client {
        addr,
        https: agreed(written.https, nth_from_right(headers, &X_FORWARDED_PROTO, hops, https)),
        host: agreed(written.host, nth_from_right(headers, &X_FORWARDED_HOST, hops, host)),
        because,
    }
}

/// What one of two says, unless they contradict.
fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => one.or(other),
    }
}

/// What one hop wrote of the one before it.
#[derive(Debug, Default)]
struct Element {
    node: Option<ClientAddr>,
    https: Option<bool>,
    host: Option<String>,
}

/// One header, followed from right to left.
#[derive(Debug)]
struct Walk {
    /// Those named on the way, the client last.
    hops: Vec<IpAddr>,
    client: ClientAddr,
    stop: Stop,
    /// The element that names the client; if none names anybody, the rightmost.
    last: Element,
}

impl Walk {
    /// Follows `elements`, the rightmost first, of which `near` wrote the first. `None` without any.
    fn along(
        elements: impl Iterator<Item = Element>,
        near: ClientAddr,
        trusted: &Trusted,
    ) -> Option<Self> {
        let mut elements = elements.peekable();
        elements.peek()?;
        let mut walk =
            Self { hops: Vec::new(), client: near, stop: Stop::Leftmost, last: Element::default() };
        for element in elements {
            let Some(node) = element.node else {
                if walk.hops.is_empty() {
                    walk.last = element;
                }
                walk.stop = Stop::Malformed;
                break;
            };
            if walk.hops.len() == MAX_HOPS {
                walk.stop = Stop::Limit;
                break;
            }
            walk.hops.extend(node.ip());
            walk.client = node;
            walk.last = element;
            if !trusted.trusts(node) {
                walk.stop = Stop::Untrusted;
                break;
            }
        }
        Some(walk)
    }

    fn passed(&self, hop: ClientAddr) -> bool {
        hop.ip().is_some_and(|ip| self.hops.contains(&ip))
    }
}

/// The elements of all lines of a list, from right to left. Empty ones do not count (RFC 9110,
/// section 5.6.1).
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// What stands at the place of the `hops`-th hop. A list may be shorter, because some proxies
/// replace what others add to.
fn nth_from_right<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    hops: usize,
    parse: fn(&[u8]) -> Option<T>,
) -> Option<T> {
    list(headers, name).take(hops).last().and_then(parse)
}

fn https(proto: &[u8]) -> Option<bool> {
    let is = |name: &str| proto.eq_ignore_ascii_case(name.as_bytes());
    if is("https") || is("wss") {
        Some(true)
    } else if is("http") || is("ws") {
        Some(false)
    } else {
        None
    }
}

/// A host with or without a port, in lower case.
fn host(text: &[u8]) -> Option<String> {
    let authority = Authority::try_from(text).ok().filter(|_| text.len() <= MAX_HOST)?;
    // Without userinfo the host stands first.
    let port =
        authority.as_str().strip_prefix(authority.host()).filter(|_| !text.contains(&b'@'))?;
    let good = !authority.host().is_empty() && (port.is_empty() || authority.port_u16().is_some());
    good.then(|| authority.as_str().to_ascii_lowercase())
}

/// The elements of `Forwarded`, from right to left.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Element> {
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
    /// There is at least one, known or not.
    any: bool,
    node: Option<Vec<u8>>,
    proto: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

impl Pairs {
    /// Cuts the last element off `line`, with the comma before it. `None` if it is malformed.
    ///
    /// It is read backwards, so that nothing further left can change what it means: a quote that a
    /// client opens would otherwise swallow what the proxy adds.
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
            // Colons and brackets ask for quotes, but many a configuration has none.
            None => cut_while(line, |byte| is_token(byte) || b":[]".contains(&byte))?.to_vec(),
        };
        *line = line.strip_suffix(b"=")?;
        let name = cut_while(line, is_token)?;
        *line = line.trim_ascii_end();
        if !matches!(line.last(), None | Some(b',' | b';')) {
            return None;
        }
        self.any = true;
        let known = [("for", &mut self.node), ("proto", &mut self.proto), ("host", &mut self.host)];
        for (known, slot) in known {
            // No parameter may stand twice in an element.
            if name.eq_ignore_ascii_case(known.as_bytes()) && slot.replace(value.clone()).is_some()
            {
                return None;
            }
        }
        Some(())
    }

    fn read(self) -> Element {
        Element {
            node: self.node.and_then(|node| ClientAddr::parse(&node)),
            https: self.proto.and_then(|proto| https(&proto)),
            host: self.host.and_then(|name| host(&name)),
        }
    }
}

/// Cuts a quoted-string off `open`, which lacks the closing quote, and leaves what precedes it in
/// `line` (RFC 9110, section 5.6.4).
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

/// Cuts off the longest end of `line` whose bytes are all `of` a kind. `None` if it is empty.
fn cut_while<'a>(line: &mut &'a [u8], of: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
    let start = line.iter().rposition(|byte| !of(*byte)).map_or(0, |at| at + 1);
    let (rest, end) = line.split_at(start);
    *line = rest;
    (!end.is_empty()).then_some(end)
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
