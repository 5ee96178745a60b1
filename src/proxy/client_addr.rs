//! Who the client is, behind any number of proxies.
//!
//! Owns the forwarding headers and the rules for believing them. It does not know what the client's
//! address is used for.
//!
//! Each hop names the one before it, so a header is followed from right to left, and only as long as
//! the hops are trusted: anything further left could have been written by the client. Most proxies
//! set one of the headers and forward the others untouched, so headers that name different clients
//! are not believed at all.
//!
//! Sources: RFC 7239 for `Forwarded`; for the `X-` headers, which have no standard, what nginx,
//! HAProxy and Apache write.

mod account;
mod headers;
mod trusted;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName};

pub use account::{Account, Disbelief, Ignored, account};
pub use trusted::{ParseTrustedError, Trusted, TrustedPeer};

use crate::net::addr::PeerAddr;
use crate::net::field::list;
use crate::ops::metrics::Label;
use crate::proxy::protocol::ProxyHeader;
use headers::{Element, forwarded, host, node, nth_from_right, scheme};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Every header by which a proxy speaks for somebody else.
const ALL: [HeaderName; 5] =
    [FORWARDED, X_FORWARDED_FOR, X_REAL_IP, X_FORWARDED_PROTO, X_FORWARDED_HOST];

/// The longest chain of hops that is followed.
pub const MAX_HOPS: usize = 32;

/// Who we believe the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    /// An address and port: the socket's peer, or what a proxy named.
    Tcp(SocketAddr),
    /// An address that a proxy named without a port.
    Ip(IpAddr),
    /// A client of a Unix socket.
    Unix,
}

impl ClientAddr {
    /// The IP address, which a client of a Unix socket lacks.
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

/// How the client reached the first proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http` or `ws`.
    Plain,
    /// `https` or `wss`.
    Tls,
}

/// A header that can name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingHeader {
    /// RFC 7239.
    Forwarded,
    /// The most common one.
    XForwardedFor,
    /// A single address, customary with nginx.
    XRealIp,
}

impl fmt::Display for ForwardingHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarded => "Forwarded",
            Self::XForwardedFor => "X-Forwarded-For",
            Self::XRealIp => "X-Real-IP",
        })
    }
}

/// Where the walk along a header, from right to left, stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastHop {
    /// At a hop that is not trusted, as usual.
    Untrusted,
    /// At the left end, because all hops are trusted.
    Leftmost,
    /// Before an element without an address.
    Malformed,
    /// After [`MAX_HOPS`].
    Limit,
}

/// Why this client is believed. The sentence quotes nothing from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Nobody names anyone but the socket's peer.
    Peer,
    /// The peer sent forwarding headers, but is not trusted.
    PeerUntrusted,
    /// The PROXY header named it.
    Proxy,
    /// The PROXY header named a client that sent forwarding headers, but is not trusted.
    ProxyUntrusted,
    /// The PROXY header spoke for a client without an address, who may have written the forwarding
    /// headers: it is the peer.
    ProxyUnknown,
    /// A header was followed.
    Followed(ForwardingHeader, LastHop),
    /// `X-Real-IP` alone named it.
    XRealIp,
    /// `X-Real-IP` is the only header, and is not a single address.
    BadXRealIp,
    /// Two headers name different clients, so the proxy wrote at most one of them.
    Disagree(ForwardingHeader, ForwardingHeader),
}

impl Label for Because {
    fn label(&self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::PeerUntrusted => "peer_untrusted",
            Self::Proxy => "proxy_header",
            Self::ProxyUntrusted => "proxy_header_client_untrusted",
            Self::ProxyUnknown => "proxy_header_unknown",
            Self::Followed(ForwardingHeader::Forwarded, _) => "forwarded",
            Self::Followed(ForwardingHeader::XForwardedFor, _) => "x_forwarded_for",
            Self::XRealIp | Self::Followed(ForwardingHeader::XRealIp, _) => "x_real_ip",
            Self::BadXRealIp => "bad_x_real_ip",
            Self::Disagree(..) => "headers_disagree",
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => {
                f.write_str("it is the peer of the socket, and no proxy named another client")
            }
            Self::PeerUntrusted => f.write_str(
                "it is the peer of the socket, and its forwarding headers are ignored because it \
                 is not in proxy.trusted",
            ),
            Self::Proxy => f.write_str("the PROXY header names it"),
            Self::ProxyUntrusted => f.write_str(
                "the PROXY header names it, and its forwarding headers are ignored because it is \
                 not in proxy.trusted",
            ),
            Self::ProxyUnknown => f.write_str(
                "it is the peer of the socket; the PROXY header names no client, so forwarding \
                 headers are ignored",
            ),
            Self::Followed(header, stop) => {
                write!(f, "{header}, followed from right to left, names it as the ")?;
                match stop {
                    LastHop::Untrusted => f.write_str("first hop that is not in proxy.trusted"),
                    LastHop::Leftmost => {
                        f.write_str("leftmost hop, and all of them are in proxy.trusted")
                    }
                    LastHop::Malformed => f.write_str("last hop before one without an address"),
                    LastHop::Limit => write!(f, "last of the {MAX_HOPS} hops that are followed"),
                }
            }
            Self::XRealIp => f.write_str("X-Real-IP names it"),
            Self::BadXRealIp => f.write_str(
                "it is the nearest hop, because X-Real-IP is not a single address: make the \
                 proxy set it instead of appending to it",
            ),
            Self::Disagree(one, other) => write!(
                f,
                "it is the nearest hop, because {one} and {other} name different clients: make \
                 the proxy set both, or clear the one that it does not set",
            ),
        }
    }
}

/// The client, as far as it is known and believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub addr: ClientAddr,
    /// The host that it asked for, if a proxy named it.
    pub host: Option<String>,
    /// The scheme that it used, if a proxy named it.
    pub scheme: Option<Scheme>,
    /// Why it is believed.
    pub because: Because,
}

impl Client {
    /// Whether an HTTP proxy that is believed forwarded the request for it, and appended its address:
    /// unlike a proxy that only passes bytes on, that one may have changed the request.
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        match self.because {
            Because::XRealIp => true,
            Because::Followed(_, stop) => stop != LastHop::Malformed,
            _ => false,
        }
    }
}

/// Who the client is.
///
/// `proxy` is what a trusted `peer` said in its PROXY header. The `headers` are followed only if the
/// nearest hop is trusted: the client of the PROXY header, if it names one, otherwise `peer`. The
/// host is the one written by the hop that named the client.
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
    let stays = |because| Client { addr: near, host: None, scheme: None, because };
    if proxy == Some(ProxyHeader::Unknown) {
        return stays(Because::ProxyUnknown);
    }
    if !trusted.trusts(near) {
        let any = ALL.into_iter().any(|name| headers.contains_key(name));
        return stays(if any { untrusted } else { unnamed });
    }

    let walks = walks(headers, near, trusted);
    if let [(one, walk), (other, second)] = &walks[..]
        && walk.client.ip() != second.client.ip()
    {
        return stays(Because::Disagree(*one, *other));
    }
    let mut lines = list(headers, &X_REAL_IP);
    let real = lines.next().map(|line| node(line).filter(|_| lines.next().is_none()));
    let (addr, because) = match (walks.first(), real) {
        (None, None) => (near, unnamed),
        (None, Some(None)) => (near, Because::BadXRealIp),
        (None, Some(Some(real))) => (real, Because::XRealIp),
        (Some((header, _)), Some(Some(real)))
            if !walks.iter().any(|(_, walk)| walk.passed(real)) =>
        {
            return stays(Because::Disagree(*header, ForwardingHeader::XRealIp));
        }
        (Some((header, walk)), _) => (walk.client, Because::Followed(*header, walk.stop)),
    };

    let hops = walks.last().map_or(0, |(_, walk)| walk.hops.len()).max(1);
    let written = walks.into_iter().next().map(|(_, walk)| walk.last).unwrap_or_default();
    Client {
        addr,
        host: agreed(written.host, nth_from_right(headers, &X_FORWARDED_HOST, hops, host)),
        scheme: agreed(written.scheme, nth_from_right(headers, &X_FORWARDED_PROTO, hops, scheme)),
        because,
    }
}

/// Each header that lists hops, followed.
fn walks(
    headers: &HeaderMap,
    near: ClientAddr,
    trusted: &Trusted,
) -> Vec<(ForwardingHeader, Walk)> {
    let usual = list(headers, &X_FORWARDED_FOR)
        .rev()
        .map(|text| Element { node: node(text), ..Element::default() });
    [
        (ForwardingHeader::Forwarded, Walk::along(forwarded(headers), near, trusted)),
        (ForwardingHeader::XForwardedFor, Walk::along(usual, near, trusted)),
    ]
    .into_iter()
    .filter_map(|(header, walk)| Some((header, walk?)))
    .collect()
}

/// What either of two says, unless they contradict each other.
fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => one.or(other),
    }
}

/// One header, followed from right to left.
struct Walk {
    /// The hops on the way, the client last.
    hops: Vec<IpAddr>,
    client: ClientAddr,
    stop: LastHop,
    /// The element that names the client, or the rightmost if none does.
    last: Element,
}

impl Walk {
    /// Follows `elements` from the rightmost, which `near` wrote. `None` if there are none.
    fn along(
        elements: impl Iterator<Item = Element>,
        near: ClientAddr,
        trusted: &Trusted,
    ) -> Option<Self> {
        let mut elements = elements.peekable();
        elements.peek()?;
        let mut walk = Self {
            hops: Vec::new(),
            client: near,
            stop: LastHop::Leftmost,
            last: Element::default(),
        };
        for element in elements {
            let Some(node) = element.node else {
                if walk.hops.is_empty() {
                    walk.last = element;
                }
                walk.stop = LastHop::Malformed;
                break;
            };
            if walk.hops.len() == MAX_HOPS {
                walk.stop = LastHop::Limit;
                break;
            }
            walk.hops.extend(node.ip());
            walk.client = node;
            walk.last = element;
            if !trusted.trusts(node) {
                walk.stop = LastHop::Untrusted;
                break;
            }
        }
        Some(walk)
    }

    fn passed(&self, hop: ClientAddr) -> bool {
        hop.ip().is_some_and(|ip| self.hops.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    /// Loopback, Unix, and two networks of proxies.
    fn trusted() -> Trusted {
        ["127.0.0.0/8", "::1", "unix", "10.0.0.0/8", "2001:db8:1::/48"]
            .map(|text| text.parse().unwrap())
            .into_iter()
            .collect()
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = match *name {
                "F" => FORWARDED,
                "XFF" => X_FORWARDED_FOR,
                "XFP" => X_FORWARDED_PROTO,
                "XFH" => X_FORWARDED_HOST,
                "XRI" => X_REAL_IP,
                other => panic!("{other}"),
            };
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn peer(text: &str) -> PeerAddr {
        match text {
            "unix" => PeerAddr::Unix,
            _ => PeerAddr::Tcp(text.parse().unwrap()),
        }
    }

    /// The client behind a proxy on this machine.
    fn behind(lines: &[(&str, &str)]) -> Client {
        resolve(peer("127.0.0.1:9"), None, &headers(lines), &trusted())
    }

    fn followed(header: ForwardingHeader, stop: LastHop) -> Because {
        Because::Followed(header, stop)
    }

    #[test]
    fn x_forwarded_for_is_followed_to_the_first_hop_that_is_not_trusted() {
        use LastHop::{Leftmost, Malformed, Untrusted};
        let near = "127.0.0.1:9";
        for (lines, client, stop) in [
            // The usual cases: one proxy, several, several lines.
            (&["192.0.2.1"][..], "192.0.2.1", Untrusted),
            (&["6.6.6.6, 192.0.2.1"], "192.0.2.1", Untrusted),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.1"], "192.0.2.1", Untrusted),
            (&["6.6.6.6,192.0.2.1\t,\t10.0.0.1 , 2001:db8:1::5"], "192.0.2.1", Untrusted),
            (&["6.6.6.6", "192.0.2.1", "10.0.0.1"], "192.0.2.1", Untrusted),
            (&["6.6.6.6, 192.0.2.1", "10.0.0.1, 10.0.0.2"], "192.0.2.1", Untrusted),
            (&["10.0.0.7, 10.0.0.1"], "10.0.0.7", Leftmost),
            (&["127.0.0.1"], "127.0.0.1", Leftmost),
            // Ports, brackets, and both families in one.
            (&["192.0.2.1:567"], "192.0.2.1:567", Untrusted),
            (&["192.0.2.1, 10.0.0.1:567"], "192.0.2.1", Untrusted),
            (&["2001:db8::1"], "2001:db8::1", Untrusted),
            (&["[2001:db8::1]"], "2001:db8::1", Untrusted),
            (&["[2001:db8::1]:8"], "[2001:db8::1]:8", Untrusted),
            (&["::ffff:192.0.2.1"], "192.0.2.1", Untrusted),
            (&["6.6.6.6, ::ffff:10.0.0.1"], "6.6.6.6", Untrusted),
            (&["[::ffff:192.0.2.1]:8"], "192.0.2.1:8", Untrusted),
            // Empty elements do not count.
            (&[", ,192.0.2.1,, 10.0.0.1,"], "192.0.2.1", Untrusted),
            (&["192.0.2.1", "", " , "], "192.0.2.1", Untrusted),
            // What only looks like an address ends the walk before it.
            (&["6.6.6.6, unknown, 10.0.0.1"], "10.0.0.1", Malformed),
            (&["unknown"], near, Malformed),
            (&["localhost"], near, Malformed),
            (&["192.0.2.01"], near, Malformed),
            (&["0xc0000201"], near, Malformed),
            (&["3221225985"], near, Malformed),
            (&["192.0.2"], near, Malformed),
            (&["192.0.2.256"], near, Malformed),
            (&["192.0.2.1/32"], near, Malformed),
            (&["192.0.2.1 6.6.6.6"], near, Malformed),
            (&["\"192.0.2.1\""], near, Malformed),
            (&["192.0.2.1:"], near, Malformed),
            (&["192.0.2.1:+8"], near, Malformed),
            (&["192.0.2.1:65536"], near, Malformed),
            (&["192.0.2.1:8:8"], near, Malformed),
            (&["[192.0.2.1]"], near, Malformed),
            (&["[2001:db8::1"], near, Malformed),
            (&["[2001:db8::1]8"], near, Malformed),
            (&["[2001:db8::1]]:8"], near, Malformed),
            (&["[]"], near, Malformed),
            (&["fe80::1%eth0"], near, Malformed),
            (&["for=192.0.2.1"], near, Malformed),
            (&["１９２.0.2.1"], near, Malformed),
            (&["192.0.2.1;6.6.6.6"], near, Malformed),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("XFF", *line)).collect();
            let found = behind(&lines);
            let seen = (found.addr.to_string(), found.because);
            assert_eq!(
                seen,
                (client.into(), followed(ForwardingHeader::XForwardedFor, stop)),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn forwarded_is_followed_to_the_first_hop_that_is_not_trusted() {
        use LastHop::{Leftmost, Malformed, Untrusted};
        let near = "127.0.0.1:9";
        for (lines, client, stop) in [
            // The examples of RFC 7239, section 4 and 7.4.
            (&["for=\"_gazonk\""][..], near, Malformed),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "[2001:db8:cafe::17]:4711", Untrusted),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60", Untrusted),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17", Untrusted),
            (&["for=192.0.2.43, for=\"[2001:db8:1::17]\""], "192.0.2.43", Untrusted),
            (&["for=192.0.2.43,for=\"[2001:db8:1::17]\",for=unknown"], near, Malformed),
            (&["for=192.0.2.43", "for=\"[2001:db8:1::17]\""], "192.0.2.43", Untrusted),
            (&["for=_hidden, for=10.0.0.1;by=_SEVKISEK"], "10.0.0.1", Malformed),
            (&["for=10.0.0.7"], "10.0.0.7", Leftmost),
            // Ports, also hidden ones.
            (&["for=\"192.0.2.1:47011\""], "192.0.2.1:47011", Untrusted),
            (&["for=\"192.0.2.1:_port\""], "192.0.2.1", Untrusted),
            (&["for=\"[2001:db8::1]:_a.b-c\""], "2001:db8::1", Untrusted),
            (&["for=\"192.0.2.1:_\""], near, Malformed),
            // Against the grammar, but many proxies write it like this.
            (&["for=2001:db8::1"], "2001:db8::1", Untrusted),
            (&["for=[2001:db8::1]:8; proto=https"], "[2001:db8::1]:8", Untrusted),
            // Commas and semicolons in quotes split nothing; neither case nor order matters.
            (&["by=\"a,for=6.6.6.6\";FOR=192.0.2.1"], "192.0.2.1", Untrusted),
            (&["for=192.0.2.1;by=\", for=10.0.0.1;\""], "192.0.2.1", Untrusted),
            (&["for=192.0.2.1;by=\"\\\", for=10.0.0.1\""], "192.0.2.1", Untrusted),
            (&["for=192.0.2.1;by=\"=\\\",for=10.0.0.1\""], "192.0.2.1", Untrusted),
            (&["for=\"192\\.0.2.1\""], "192.0.2.1", Untrusted),
            (&[";for=192.0.2.1;;by=x;"], "192.0.2.1", Untrusted),
            (&["for=192.0.2.1,, ; ,"], "192.0.2.1", Untrusted),
            // A quote that a client opens does not swallow what the proxy adds.
            (&["for=\"6.6.6.6, for=192.0.2.1"], "192.0.2.1", Untrusted),
            (&["for=\"6.6.6.6, for=\"192.0.2.1\""], "192.0.2.1", Untrusted),
            (&["for=\"6.6.6.6\\, for=\"192.0.2.1\""], "192.0.2.1", Untrusted),
            (&["for=\"6.6.6.6", "for=192.0.2.1"], "192.0.2.1", Untrusted),
            (&["for=6.6.6.6;by=\"", "for=192.0.2.1;by=\"x\""], "192.0.2.1", Untrusted),
            // Malformed elements.
            (&["192.0.2.1"], near, Malformed),
            (&["for"], near, Malformed),
            (&["for="], near, Malformed),
            (&["=192.0.2.1"], near, Malformed),
            (&["for =192.0.2.1"], near, Malformed),
            (&["for= 192.0.2.1"], near, Malformed),
            (&["for=192.0.2.1 by=x"], near, Malformed),
            (&["by=x"], near, Malformed),
            (&["for=192.0.2.1;for=192.0.2.1"], near, Malformed),
            (&["for=192.0.2.1;proto=http;Proto=http"], near, Malformed),
            (&["for=\"192.0.2.1"], near, Malformed),
            (&["for=192.0.2.1\""], near, Malformed),
            (&["for=\"192.0.2.1\\\""], near, Malformed),
            (&["for=\"192.0.2.1\\\\\"\""], near, Malformed),
            (&["for=\"\""], near, Malformed),
            (&["f\"or=192.0.2.1\""], near, Malformed),
            (&["for==192.0.2.1"], near, Malformed),
            (&["for=192.0.2.1;b(y=x"], near, Malformed),
            (&["\""], near, Malformed),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("F", *line)).collect();
            let found = behind(&lines);
            let seen = (found.addr.to_string(), found.because);
            assert_eq!(
                seen,
                (client.into(), followed(ForwardingHeader::Forwarded, stop)),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn at_most_32_hops_are_followed() {
        let chain = |hops: u8| {
            let hops: Vec<_> = (1..=hops).rev().map(|hop| format!("10.0.0.{hop}")).collect();
            behind(&[("XFF", &format!("192.0.2.1, {}", hops.join(", ")))])
        };
        assert_eq!(chain(31).addr.to_string(), "192.0.2.1");
        let cut = chain(32);
        assert_eq!(cut.addr.to_string(), "10.0.0.32");
        assert_eq!(cut.because, followed(ForwardingHeader::XForwardedFor, LastHop::Limit));
    }

    #[test]
    fn headers_that_name_different_clients_are_not_believed() {
        use ForwardingHeader::{Forwarded, XForwardedFor, XRealIp};
        let near = "127.0.0.1:9";
        let forwarded = followed(Forwarded, LastHop::Untrusted);
        let x_forwarded = followed(XForwardedFor, LastHop::Untrusted);
        let (ours, theirs) = ("192.0.2.1", "for=192.0.2.1");
        for (lines, client, because) in [
            (&[("F", theirs), ("XFF", ours)][..], ours, forwarded),
            (&[("F", theirs), ("XFF", "6.6.6.6, 192.0.2.1:8")], ours, forwarded),
            (&[("F", theirs), ("XFF", "192.0.2.1, 10.0.0.1")], ours, forwarded),
            (
                &[("F", "for=6.6.6.6"), ("XFF", ours)],
                near,
                Because::Disagree(Forwarded, XForwardedFor),
            ),
            (
                &[("F", "for=unknown"), ("XFF", ours)],
                near,
                Because::Disagree(Forwarded, XForwardedFor),
            ),
            (&[("F", theirs), ("XFF", "x")], near, Because::Disagree(Forwarded, XForwardedFor)),
            (&[("F", " "), ("XFF", ours)], ours, x_forwarded),
            (&[("XRI", ours)], ours, Because::XRealIp),
            (&[("XRI", " 192.0.2.1:8 ")], "192.0.2.1:8", Because::XRealIp),
            (&[("XRI", "10.0.0.9")], "10.0.0.9", Because::XRealIp),
            (&[("XRI", ours), ("XFF", "6.6.6.6, 192.0.2.1")], ours, x_forwarded),
            (&[("XRI", ours), ("F", theirs)], ours, forwarded),
            (&[("XRI", "10.0.0.1"), ("XFF", "192.0.2.1, 10.0.0.1")], ours, x_forwarded),
            (&[("XRI", ours), ("XFF", "6.6.6.6")], near, Because::Disagree(XForwardedFor, XRealIp)),
            (
                &[("XRI", "6.6.6.6"), ("XFF", "6.6.6.6, 192.0.2.1")],
                near,
                Because::Disagree(XForwardedFor, XRealIp),
            ),
            (&[("XRI", "6.6.6.6"), ("F", theirs)], near, Because::Disagree(Forwarded, XRealIp)),
            (&[("XRI", ours), ("XFF", "unknown")], near, Because::Disagree(XForwardedFor, XRealIp)),
            (
                &[("XRI", "6.6.6.6"), ("XFF", ours), ("F", theirs)],
                near,
                Because::Disagree(Forwarded, XRealIp),
            ),
            // What is not a single address contradicts nothing.
            (&[("XRI", "192.0.2.1, 192.0.2.1")], near, Because::BadXRealIp),
            (&[("XRI", ours), ("XRI", ours)], near, Because::BadXRealIp),
            (&[("XRI", "x")], near, Because::BadXRealIp),
            (&[("XRI", "x"), ("XFF", ours)], ours, x_forwarded),
            (&[("XRI", "")], near, Because::Peer),
            (&[("XFP", "https")], near, Because::Peer),
            (&[], near, Because::Peer),
        ] {
            let found = behind(lines);
            let seen = (found.addr.to_string(), found.because);
            assert_eq!(seen, (client.into(), because), "{lines:?}");
        }
    }

    #[test]
    fn headers_are_believed_from_a_trusted_neighbour_only() {
        let all = &[
            ("F", "for=192.0.2.1;proto=https;host=a.example"),
            ("XFF", "192.0.2.1"),
            ("XFP", "https"),
            ("XFH", "a.example"),
        ];
        let proxied = |text: &str| Some(ProxyHeader::Proxied(text.parse().unwrap()));
        let yes = followed(ForwardingHeader::Forwarded, LastHop::Untrusted);
        for (socket, proxy, client, because) in [
            ("127.9.9.9:1", None, "192.0.2.1", yes),
            ("[::1]:1", None, "192.0.2.1", yes),
            ("unix", None, "192.0.2.1", yes),
            ("10.0.0.1:1", None, "192.0.2.1", yes),
            ("11.0.0.1:1", None, "11.0.0.1:1", Because::PeerUntrusted),
            ("[::2]:1", None, "[::2]:1", Because::PeerUntrusted),
            ("unix", Some(ProxyHeader::Local), "192.0.2.1", yes),
            ("unix", Some(ProxyHeader::Unknown), "unix", Because::ProxyUnknown),
            ("unix", proxied("10.0.0.1:5"), "192.0.2.1", yes),
            ("unix", proxied("11.0.0.1:5"), "11.0.0.1:5", Because::ProxyUntrusted),
        ] {
            let found = resolve(peer(socket), proxy, &headers(all), &trusted());
            let seen = (found.addr.to_string(), found.because);
            assert_eq!(seen, (client.into(), because), "{socket} {proxy:?}");
            let believed = because == yes;
            assert_eq!(found.host, believed.then(|| "a.example".into()), "{socket} {proxy:?}");
        }
        for (proxy, expected) in [
            (None, Because::Peer),
            (proxied("11.0.0.1:5"), Because::Proxy),
            (proxied("10.0.0.1:5"), Because::Proxy),
        ] {
            let found = resolve(peer("192.0.2.9:1"), proxy, &HeaderMap::new(), &trusted());
            assert_eq!(found.because, expected);
        }
        let nobody = Trusted::from_iter([]);
        assert_eq!(resolve(PeerAddr::Unix, None, &headers(all), &nobody).addr, ClientAddr::Unix);
    }

    #[test]
    fn the_host_is_the_one_that_the_believed_hop_wrote() {
        for (lines, host) in [
            (&[("XFH", "A.example:8443")][..], Some("a.example:8443")),
            (&[("XFH", "[2001:db8::1]:8")], Some("[2001:db8::1]:8")),
            (&[], None),
            // With one hop the rightmost counts, with two the second.
            (&[("XFF", "192.0.2.1"), ("XFH", "a, b")], Some("b")),
            (&[("XFF", "6.6.6.6, 192.0.2.1"), ("XFH", "a, b")], Some("b")),
            (&[("XFF", "192.0.2.1, 10.0.0.1"), ("XFH", "a, b")], Some("a")),
            (&[("XFF", "192.0.2.1, 10.0.0.1"), ("XFH", "a"), ("XFH", "b")], Some("a")),
            (&[("XFF", "192.0.2.1, 10.0.0.1"), ("XFH", "b, a, b")], Some("a")),
            (&[("XFF", "192.0.2.1, 10.0.0.1"), ("XFH", "evil, a.example, b")], Some("a.example")),
            // A proxy that replaces it leaves one for all.
            (&[("XFF", "192.0.2.1, 10.0.0.1"), ("XFH", "a")], Some("a")),
            (&[("XFF", "x"), ("XFH", "b, a")], Some("a")),
            // Its neighbour does not stand in for a bad one.
            (&[("XFH", "a.example, u@b.example")], None),
            (&[("XFH", "a:1@a:8")], None),
            (&[("XFH", "a b")], None),
            (&[("XFH", "a/b")], None),
            (&[("XFH", "a:b")], None),
            (&[("XFH", "a:65536")], None),
            (&[("XFH", ":8")], None),
            (&[("XFH", "[::1")], None),
            (&[("F", "for=192.0.2.1;proto=https;host=\"a.example:8443\"")], Some("a.example:8443")),
            (&[("F", "host=a.example:8;proto=WSS;for=192.0.2.1")], Some("a.example:8")),
            (&[("F", "for=6.6.6.6;host=b, for=192.0.2.1;host=a, for=10.0.0.1;host=b")], Some("a")),
            (&[("F", "for=6.6.6.6;host=a, for=192.0.2.1")], None),
            (&[("F", "for=6.6.6.6;host=b, for=_hidden;host=a")], Some("a")),
            (&[("F", "for=192.0.2.1;host=\"u@a.example\"")], None),
            // Both headers: what they agree on, or what only one says.
            (&[("F", "for=192.0.2.1;host=a"), ("XFH", "a")], Some("a")),
            (&[("F", "for=192.0.2.1;proto=https"), ("XFH", "a")], Some("a")),
            (&[("F", "for=192.0.2.1;host=b"), ("XFH", "a")], None),
            (&[("F", "for=192.0.2.1;host=a"), ("XFF", "192.0.2.2"), ("XFH", "a")], None),
        ] {
            assert_eq!(behind(lines).host.as_deref(), host, "{lines:?}");
        }
        let long = "a".repeat(255);
        assert_eq!(behind(&[("XFH", &long)]).host.as_ref(), Some(&long));
        assert_eq!(behind(&[("XFH", &format!("{long}a"))]).host, None);
    }

    #[test]
    fn a_client_takes_little_room_in_its_session() {
        assert!(size_of::<ClientAddr>() <= 32);
    }
}
