//! What can be wrong in front of the service, in a label and a sentence.
//!
//! Owns both, and which trace of a handshake means which fault. It does not know what fixes it.

use std::fmt;

use crate::ops::metrics::Label;
use crate::proxy::blame::Fault;
use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

/// What is wrong in front of the service, or with the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody asked for a WebSocket: a browser or curl opened the endpoint.
    NoWebSocket,
    /// The client left out the key, without which no proxy can be blamed.
    NoKey,
    /// HTTP/1.0 and neither header: nginx before 1.29.7 with nothing but `proxy_pass`.
    NothingPassed,
    /// HTTP/1.1 and neither header.
    HeadersLost,
    /// Both headers, but HTTP/1.0.
    Http10,
    /// `Connection` was dropped.
    ConnectionLost,
    /// `Connection` was set to "", as recipes for keep-alive to the upstream do.
    ConnectionEmptied,
    /// `Upgrade` was dropped.
    UpgradeLost,
    /// `Upgrade` has another value, usually "upgrade".
    UpgradeValue,
    /// Apache's `ProxyPass http://`.
    Apache,
    /// What is missing fits no proxy known here.
    Incomplete,
    /// Envoy passed on a handshake from HTTP/2, which has no key, and made none.
    KeyLost,
    /// The path is that of no endpoint.
    NoEndpoint,
    /// A TLS handshake where plain HTTP is expected.
    TlsSpoken,
    /// The HTTP/2 preface where HTTP/1.1 is expected.
    Http2Spoken,
    /// A PROXY header where none is expected.
    ProxyUnexpected,
    /// No PROXY header where one is required.
    ProxyMissing,
    /// It starts like a PROXY header, but is not one, for this reason.
    ProxyMalformed(&'static str),
    /// A PROXY header over [`MAX_PROXY_HEADER`](crate::proxy::protocol::MAX_PROXY_HEADER).
    ProxyTooLong,
    /// A second PROXY header behind the first.
    ProxyDoubled,
    /// A PROXY header is required, but the peer is not trusted to send one.
    ProxyUntrusted,
    /// A page is refused because `Host` names the upstream instead of the site.
    HostLost,
}

impl Verdict {
    /// Judges what is left of a handshake.
    pub(super) fn of(trace: Trace) -> Self {
        let Trace { http_1_1, upgrade, connection, key, front } = trace;
        match (http_1_1, upgrade, connection) {
            _ if !trace.is_attempt() => Self::NoWebSocket,
            _ if trace.is_complete() && key => Self::NoWebSocket,
            _ if trace.is_complete() && front == Front::Envoy => Self::KeyLost,
            _ if !key => Self::NoKey,
            (true, Upgrade::Absent, Connection::KeepAlive) if front == Front::Apache => {
                Self::Apache
            }
            (true, Upgrade::Absent, Connection::Upgrade) => Self::UpgradeLost,
            (true, Upgrade::Absent, _) => Self::HeadersLost,
            (true, Upgrade::WebSocket, Connection::Absent) => Self::ConnectionEmptied,
            (true, Upgrade::WebSocket, _) => Self::ConnectionLost,
            (true, Upgrade::Other, Connection::Upgrade) => Self::UpgradeValue,
            (false, Upgrade::WebSocket, Connection::Upgrade) => Self::Http10,
            (false, Upgrade::Absent, Connection::Other | Connection::Absent) => Self::NothingPassed,
            _ => Self::Incomplete,
        }
    }

    /// What the proxy did to a handshake, if it did.
    #[must_use]
    pub fn fault(self) -> Option<Fault> {
        match self {
            Self::NothingPassed
            | Self::HeadersLost
            | Self::Http10
            | Self::ConnectionLost
            | Self::ConnectionEmptied
            | Self::UpgradeLost
            | Self::UpgradeValue
            | Self::Apache
            | Self::Incomplete
            | Self::KeyLost => Some(Fault::Upgrade),
            Self::HostLost => Some(Fault::Host),
            _ => None,
        }
    }
}

impl Label for Verdict {
    fn label(&self) -> &'static str {
        match self {
            Self::NoWebSocket => "no_websocket",
            Self::NoKey => "no_key",
            Self::NothingPassed => "proxy_nothing_passed",
            Self::HeadersLost => "proxy_headers_lost",
            Self::Http10 => "proxy_http_1_0",
            Self::ConnectionLost => "proxy_connection_lost",
            Self::ConnectionEmptied => "proxy_connection_emptied",
            Self::UpgradeLost => "proxy_upgrade_lost",
            Self::UpgradeValue => "proxy_upgrade_value",
            Self::Apache => "proxy_apache",
            Self::Incomplete => "proxy_incomplete",
            Self::KeyLost => "proxy_key_lost",
            Self::NoEndpoint => "no_endpoint",
            Self::TlsSpoken => "tls_spoken",
            Self::Http2Spoken => "http2_spoken",
            Self::ProxyUnexpected => "proxy_protocol_unexpected",
            Self::ProxyMissing => "proxy_protocol_missing",
            Self::ProxyMalformed(_) => "proxy_protocol_malformed",
            Self::ProxyTooLong => "proxy_protocol_too_long",
            Self::ProxyDoubled => "proxy_protocol_doubled",
            Self::ProxyUntrusted => "proxy_protocol_untrusted",
            Self::HostLost => "host_lost",
        }
    }
}

/// The sentence, without the lines to add.
/// A table: one sentence a verdict, without the lines that fix it.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWebSocket => {
                "this WebSocket endpoint works: open it with a WebSocket client, or with \
                 new WebSocket(\"ws://…\") in a browser's console"
            }
            Self::NoKey => {
                "this handshake lacks Sec-WebSocket-Key, which every WebSocket client sends"
            }
            Self::NothingPassed => {
                "a WebSocket handshake arrived, but the proxy in front speaks HTTP/1.0 and dropped \
                 `Upgrade` and `Connection`"
            }
            Self::HeadersLost => {
                "a WebSocket handshake arrived, but the proxy in front dropped `Upgrade` and \
                 `Connection`"
            }
            Self::Http10 => {
                "a WebSocket handshake arrived, but the proxy in front sent it as HTTP/1.0, which \
                 has no upgrade"
            }
            Self::ConnectionLost => {
                "a WebSocket handshake arrived, but the proxy in front dropped \
                 `Connection: upgrade`"
            }
            Self::ConnectionEmptied => {
                "a WebSocket handshake arrived, but the proxy in front set `Connection` to an \
                 empty value"
            }
            Self::UpgradeLost => {
                "a WebSocket handshake arrived, but the proxy in front dropped `Upgrade: websocket`"
            }
            Self::UpgradeValue => {
                "a WebSocket handshake arrived, but the proxy in front replaced \
                 `Upgrade: websocket` with another value"
            }
            Self::Apache => {
                "a WebSocket handshake arrived, but Apache in front forwarded it as plain HTTP"
            }
            Self::Incomplete => {
                "a WebSocket handshake arrived, but the proxy in front forwarded only part of it"
            }
            Self::KeyLost => {
                "a WebSocket handshake arrived, but without Sec-WebSocket-Key: clients send none \
                 over HTTP/2, and Envoy in front added none"
            }
            Self::NoEndpoint => "no WebSocket endpoint has this path",
            Self::TlsSpoken => {
                "this port speaks plain HTTP, but the peer speaks TLS: in nginx write \
                 `proxy_pass http://`, not `https://`, in HAProxy remove `ssl`; a client uses \
                 ws:// here, and wss:// to a proxy that terminates TLS"
            }
            Self::Http2Spoken => {
                "this port speaks HTTP/1.1, but the peer speaks HTTP/2: make the proxy use \
                 HTTP/1.1 to this service"
            }
            Self::ProxyUnexpected => {
                "the peer sent a PROXY header, which is not expected here: set \
                 proxy_protocol = \"required\" in [proxy], or remove `send-proxy` in HAProxy, \
                 `proxy_protocol on;` in nginx"
            }
            Self::ProxyMissing => {
                "there is no PROXY header, but [proxy] has proxy_protocol = \"required\": make the \
                 proxy send one (`send-proxy-v2` in HAProxy, `proxy_protocol on;` in nginx's \
                 stream module), or set it to \"off\""
            }
            Self::ProxyMalformed(defect) => {
                return write!(
                    f,
                    "the PROXY header is malformed, {defect}: make sure that only the proxy can \
                     connect here"
                );
            }
            Self::ProxyTooLong => {
                "the PROXY header is longer than 4096 bytes: make the proxy send fewer optional \
                 fields (TLVs)"
            }
            Self::ProxyDoubled => {
                "a second PROXY header follows the first: only the nearest proxy may send one; it \
                 has to read that of the proxy before it (`accept-proxy` in HAProxy, `listen … \
                 proxy_protocol` in nginx), or that one must not send it"
            }
            Self::ProxyUntrusted => {
                "this peer is not trusted to send a PROXY header: if it is your proxy, add it to \
                 trusted in [proxy]"
            }
            Self::HostLost => {
                "this origin is refused because the proxy in front replaced `Host`, so pages of \
                 this site look like pages of another"
            }
        })
    }
}
