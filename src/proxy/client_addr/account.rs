//! What the forwarding headers of a request were worth: who was believed, and what was not.
//!
//! Owns the reasons for disbelief. Whom to believe is decided by [`resolve`]; this is for those who
//! have to understand that decision.

use std::fmt;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::forwarded;
use super::{
    ALL, Because, Client, ClientAddr, FORWARDED, ForwardingHeader, LastHop, Trusted, Walk,
    X_FORWARDED_FOR, X_REAL_IP, resolve, walks,
};
use crate::net::addr::PeerAddr;
use crate::net::field::list;
use crate::ops::metrics::Label;
use crate::proxy::protocol::ProxyHeader;

/// What became of the forwarding headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Whom they name.
    pub client: Client,
    /// The trusted proxies between the client and the nearest hop, the nearest first.
    pub hops: Vec<ClientAddr>,
    /// What was not believed, in whole or in part.
    pub ignored: Vec<Ignored>,
    /// The path that the client asked for, if a proxy that is believed sent one. A client can have
    /// written it, unless that proxy always sets the header.
    pub path: Option<String>,
    /// The part of the path that a proxy cut off. As above.
    pub prefix: Option<String>,
}

/// A header, or the left part of one, that was not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Which.
    pub header: HeaderName,
    /// Why.
    pub because: Disbelief,
}

/// Why a header, or the left part of one, is not believed. The sentence quotes nothing from the
/// request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disbelief {
    /// Whoever sent it is not trusted.
    SenderUntrusted,
    /// The PROXY header named no client, so that anybody may have sent it.
    SenderUnknown,
    /// It names another client than another header.
    Disagrees,
    /// `X-Real-IP` is not a single address.
    NotAnAddress,
    /// The client may have written what is left of its address.
    WrittenByClient,
    /// What is left of the last hop is behind something that is not an address.
    Malformed,
    /// What is left of it is behind [`MAX_HOPS`](super::MAX_HOPS) others.
    TooLong,
}

impl Label for Disbelief {
    fn label(&self) -> &'static str {
        match self {
            Self::SenderUntrusted => "sender_untrusted",
            Self::SenderUnknown => "sender_unknown",
            Self::Disagrees => "disagrees",
            Self::NotAnAddress => "not_an_address",
            Self::WrittenByClient => "written_by_client",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }
}

impl fmt::Display for Disbelief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SenderUntrusted => "whoever sent it is not in proxy.trusted",
            Self::SenderUnknown => "the PROXY header names no client, so anybody may have sent it",
            Self::Disagrees => "it and another header name different clients",
            Self::NotAnAddress => "it is not a single address",
            Self::WrittenByClient => {
                "the first hop that is not in proxy.trusted may have written what is left of it"
            }
            Self::Malformed => "it has an element without an address, and is not followed past it",
            Self::TooLong => "it lists more hops than are followed",
        })
    }
}

/// Who the client is, as [`resolve`] says, and what became of each header.
#[must_use]
pub fn account(
    peer: PeerAddr,
    proxy: Option<ProxyHeader>,
    headers: &HeaderMap,
    trusted: &Trusted,
) -> Account {
    let client = resolve(peer, proxy, headers, trusted);
    let near = match proxy {
        Some(ProxyHeader::Proxied(addr)) => ClientAddr::Tcp(addr),
        _ => peer.into(),
    };
    let ignore = |header, because| Ignored { header, because };
    let present = |name: &HeaderName| headers.contains_key(name);
    let all = |because| ALL.into_iter().filter(present).map(|name| ignore(name, because)).collect();
    let (hops, ignored) = match client.because {
        Because::Peer | Because::Proxy | Because::XRealIp => (Vec::new(), Vec::new()),
        Because::PeerUntrusted | Because::ProxyUntrusted => {
            (Vec::new(), all(Disbelief::SenderUntrusted))
        }
        Because::ProxyUnknown => (Vec::new(), all(Disbelief::SenderUnknown)),
        Because::Disagree(..) => (Vec::new(), all(Disbelief::Disagrees)),
        Because::BadXRealIp => (Vec::new(), vec![ignore(X_REAL_IP, Disbelief::NotAnAddress)]),
        Because::Followed(..) => {
            let walks = walks(headers, near, trusted);
            let (_, followed) = walks.first().expect("a header was followed");
            let ignored = walks.iter().filter_map(|(header, walk)| {
                let (name, elements) = match header {
                    ForwardingHeader::Forwarded => (FORWARDED, forwarded(headers).count()),
                    _ => (X_FORWARDED_FOR, list(headers, &X_FORWARDED_FOR).count()),
                };
                let because = match walk.stop {
                    LastHop::Leftmost => return None,
                    LastHop::Untrusted => Disbelief::WrittenByClient,
                    LastHop::Malformed => Disbelief::Malformed,
                    LastHop::Limit => Disbelief::TooLong,
                };
                (elements > walk.hops.len()).then(|| ignore(name, because))
            });
            (passed(followed), ignored.collect())
        }
    };
    let said = |names: &[&str]| {
        let value = names.iter().find_map(|name| headers.get(*name));
        let lossy = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        value.filter(|_| client.is_forwarded()).map(lossy)
    };
    let path = said(&["x-original-uri", "x-forwarded-uri"]);
    let prefix = said(&["x-forwarded-prefix"]);
    Account { client, hops, ignored, path, prefix }
}

/// The hops before the client.
fn passed(walk: &Walk) -> Vec<ClientAddr> {
    let before = walk.hops.split_last().map_or(&[][..], |(_, before)| before);
    before.iter().map(|ip| ClientAddr::new(*ip, None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_believed_is_named_with_its_reason() {
        use Disbelief as D;
        type Case<'a> = (
            Option<ProxyHeader>,
            &'a str,
            &'a [(&'static str, &'static str)],
            &'a [&'a str],
            &'a [(&'static str, D)],
        );
        let (near, unknown) = ("127.0.0.1:9", Some(ProxyHeader::Unknown));
        let both = [("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.2")];
        let cases: [Case<'_>; 9] = [
            (None, near, &[("x-forwarded-for", "192.0.2.1")], &[], &[]),
            (
                None,
                near,
                &[("x-forwarded-for", "6.6.6.6, 192.0.2.1, 127.0.0.2")],
                &["127.0.0.2"],
                &[("x-forwarded-for", D::WrittenByClient)],
            ),
            (
                None,
                near,
                &[("forwarded", "for=6.6.6.6, for=unknown, for=127.0.0.2")],
                &[],
                &[("forwarded", D::Malformed)],
            ),
            (
                None,
                "192.0.2.9:1",
                &[("x-real-ip", "192.0.2.1"), ("x-forwarded-proto", "https")],
                &[],
                &[("x-real-ip", D::SenderUntrusted), ("x-forwarded-proto", D::SenderUntrusted)],
            ),
            (unknown, near, &[("x-real-ip", "::1")], &[], &[("x-real-ip", D::SenderUnknown)]),
            (
                None,
                near,
                &both,
                &[],
                &[("x-forwarded-for", D::Disagrees), ("x-real-ip", D::Disagrees)],
            ),
            (None, near, &[("x-real-ip", "a, b")], &[], &[("x-real-ip", D::NotAnAddress)]),
            (None, near, &[("x-real-ip", "192.0.2.1")], &[], &[]),
            (None, near, &[], &[], &[]),
        ];
        for (proxy, peer, lines, hops, ignored) in cases {
            let headers = lines
                .iter()
                .map(|(name, value)| {
                    (HeaderName::from_static(name), HeaderValue::from_static(value))
                })
                .collect();
            let peer = PeerAddr::Tcp(peer.parse().unwrap());
            let account = account(peer, proxy, &headers, &Trusted::default());
            assert_eq!(account.client, resolve(peer, proxy, &headers, &Trusted::default()));
            let found: Vec<_> = account.hops.iter().map(ToString::to_string).collect();
            assert_eq!(found, hops, "{lines:?}");
            let found: Vec<_> =
                account.ignored.iter().map(|it| (it.header.as_str(), it.because)).collect();
            assert_eq!(found, ignored, "{lines:?}");
        }
    }
}
