//! What a handshake that did not arrive whole says about the proxy in front, and what mends it.
//!
//! Owns the names of proxies and the lines of their configuration. It judges a [`Trace`] or the
//! first bytes of a connection, and nothing else: it does not know requests, answers or logs.
//!
//! `Upgrade` and `Connection` are hop-by-hop (RFC 9110, section 7.6.1) and have to be sent anew by
//! each proxy; `Sec-WebSocket-Key` is end-to-end and always arrives. So a key without an upgrade
//! proves that a proxy lost the rest, and what is left tells which line it lacks. The verdicts were
//! measured behind nginx 1.22 and 1.31, Apache 2.4 and HAProxy 2.6.

use std::fmt;
use std::net::IpAddr;

use hyper::http::uri::Authority;
use serde::Serialize;

use crate::ops::metrics::Label;
use crate::proxy::protocol;
use crate::ws::handshake::{Connection, Trace, Upgrade};

const NGINX: &str = "nginx, in the location with the proxy_pass";
pub(super) const HTTP_VERSION: &str = "proxy_http_version 1.1;";
pub(super) const SET_UPGRADE: &str = "proxy_set_header Upgrade $http_upgrade;";
pub(super) const SET_CONNECTION: &str = "proxy_set_header Connection \"upgrade\";";
pub(super) const SET_HOST: &str = "proxy_set_header Host $http_host;";
pub(super) const APACHE: &str = "ProxyPass \"/socket\" \"ws://127.0.0.1:8888/socket\"";

/// What is wrong in front of the service, or with who calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No WebSocket was meant: somebody opened the endpoint with a browser or curl.
    NoWebSocket,
    /// A client sent half a handshake; without a key no proxy can be blamed.
    NoKey,
    /// HTTP/1.0 and neither header: nginx before 1.29.7 with nothing but `proxy_pass`.
    NothingPassed,
    /// HTTP/1.1 and neither header.
    HeadersLost,
    /// Both headers, but HTTP/1.0.
    Http10,
    /// `Connection` is lost.
    ConnectionLost,
    /// `Connection` is overridden with "", as recipes for keep-alive to the upstream do.
    ConnectionEmptied,
    /// `Upgrade` is lost.
    UpgradeLost,
    /// `Upgrade` has a value of its own, mostly "upgrade".
    UpgradeValue,
    /// Apache's `ProxyPass http://`.
    Apache,
    /// Several parts are missing in a way that no proxy known here has by default.
    Incomplete,
    /// A TLS handshake, where plain HTTP is due.
    TlsSpoken,
    /// The preface of HTTP/2, where HTTP/1.1 is due.
    Http2Spoken,
    /// A PROXY header, where none is expected.
    ProxyUnexpected,
    /// No PROXY header, where one is required.
    ProxyMissing,
    /// A PROXY header that is none after all.
    ProxyMalformed,
    /// A PROXY header is required, and the peer is not trusted to send it.
    ProxyUntrusted,
    /// The page is refused because `Host` names the upstream instead of the site.
    HostLost,
}

impl Verdict {
    /// Judges what arrived of a handshake.
    fn of(trace: Trace) -> Self {
        let Trace { http_1_1, upgrade, connection, key, forwarded_by_apache } = trace;
        match (http_1_1, upgrade, connection) {
            (_, Upgrade::Absent, _) if !key => Self::NoWebSocket,
            _ if !key => Self::NoKey,
            (true, Upgrade::Absent, Connection::KeepAlive) if forwarded_by_apache => Self::Apache,
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
            Self::TlsSpoken => "tls_spoken",
            Self::Http2Spoken => "http2_spoken",
            Self::ProxyUnexpected => "proxy_protocol_unexpected",
            Self::ProxyMissing => "proxy_protocol_missing",
            Self::ProxyMalformed => "proxy_protocol_malformed",
            Self::ProxyUntrusted => "proxy_protocol_untrusted",
            Self::HostLost => "host_lost",
        }
    }
}

/// What is wrong with a handshake that arrived incomplete, and what fixes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is wrong.
    pub verdict: Verdict,
    /// What fixes it; `None` where no proxy is to blame.
    pub remedy: Option<Remedy>,
}

/// What fixes the configuration of the proxy in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// The most likely product, and where in its configuration.
    #[serde(rename = "place")]
    pub location: &'static str,
    /// The lines that are missing there.
    pub lines: Vec<&'static str>,
    /// The same for every other product, in words.
    pub elsewhere: &'static str,
}

impl Diagnosis {
    /// Diagnoses what arrived of a handshake.
    #[must_use]
    pub fn of(trace: Trace) -> Self {
        const ELSEWHERE: &str = "any other proxy: make it speak HTTP/1.1 to this service and pass \
                                 `Upgrade` and `Connection` on as the client sent them";
        let verdict = Verdict::of(trace);
        let (location, lines) = match verdict {
            Verdict::NoWebSocket | Verdict::NoKey => return Self { verdict, remedy: None },
            Verdict::Apache => (
                "Apache, in place of the ProxyPass with http:// (needs mod_proxy_wstunnel)",
                vec![APACHE],
            ),
            _ => {
                let lines = [
                    (trace.http_1_1, HTTP_VERSION),
                    (trace.upgrade == Upgrade::WebSocket, SET_UPGRADE),
                    (trace.connection == Connection::Upgrade, SET_CONNECTION),
                ];
                let missing = lines.iter().filter(|(arrived, _)| !arrived).map(|(_, line)| *line);
                (NGINX, missing.collect())
            }
        };
        Self { verdict, remedy: Some(Remedy { location, lines, elsewhere: ELSEWHERE }) }
    }
}

/// What fixes [`Verdict::HostLost`].
#[must_use]
pub fn host_remedy() -> Remedy {
    let elsewhere = "any other proxy: make it pass `Host` on as the client sent it, port included";
    Remedy { location: NGINX, lines: vec![SET_HOST], elsewhere }
}

/// Whether a `Host` names an upstream, as proxies write it that do not pass on the client's: an
/// address, or a name without a dot.
#[must_use]
pub fn is_upstream(host: &str) -> bool {
    let authority = host.parse::<Authority>();
    authority.is_ok_and(|authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name.parse::<IpAddr>().is_ok() || !name.contains('.')
    })
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// What may be HTTP/1.1.
    Http,
    /// What is certainly not.
    Other(Verdict),
}

/// Judges the first bytes of a connection on which HTTP/1.1 is due. `None` asks for more bytes.
#[must_use]
pub fn spoken(first: &[u8]) -> Option<Spoken> {
    /// A handshake record of any version (RFC 8446, section 5.1).
    const TLS: &[u8] = &[0x16, 0x03];
    /// How HTTP/2 begins (RFC 9113, section 3.4).
    const HTTP_2: &[u8] = b"PRI * HTTP/2.0";
    let undecided = |whole: &[u8]| whole.starts_with(first);
    if first.starts_with(TLS) {
        Some(Spoken::Other(Verdict::TlsSpoken))
    } else if first.starts_with(HTTP_2) {
        Some(Spoken::Other(Verdict::Http2Spoken))
    } else if protocol::signature(first).is_some() {
        Some(Spoken::Other(Verdict::ProxyUnexpected))
    } else if undecided(TLS) || undecided(HTTP_2) || protocol::parse(first) == Ok(None) {
        None
    } else {
        Some(Spoken::Http)
    }
}

/// The sentence, without the lines.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWebSocket => {
                "this is a WebSocket endpoint and works: open it with a WebSocket client, or with \
                 new WebSocket(\"ws://…\") in a browser's console"
            }
            Self::NoKey => {
                "this is half a handshake: a WebSocket client sends Sec-WebSocket-Key as well"
            }
            Self::NothingPassed => {
                "a WebSocket client called, but the proxy in front passed on neither HTTP/1.1 nor \
                 `Upgrade` nor `Connection`"
            }
            Self::HeadersLost => {
                "a WebSocket client called, but the proxy in front passed on neither `Upgrade` nor \
                 `Connection`"
            }
            Self::Http10 => {
                "a WebSocket client called, but the proxy in front speaks HTTP/1.0 to this service, \
                 which knows no upgrade"
            }
            Self::ConnectionLost => {
                "a WebSocket client called, but the proxy in front did not pass on \
                 `Connection: upgrade`"
            }
            Self::ConnectionEmptied => {
                "a WebSocket client called, but the proxy in front overrides `Connection` with \
                 nothing"
            }
            Self::UpgradeLost => {
                "a WebSocket client called, but the proxy in front did not pass on \
                 `Upgrade: websocket`"
            }
            Self::UpgradeValue => {
                "a WebSocket client called, but the proxy in front sends a value of its own in \
                 `Upgrade`"
            }
            Self::Apache => {
                "a WebSocket client called, but Apache in front passed it on as plain HTTP"
            }
            Self::Incomplete => {
                "a WebSocket client called, but the proxy in front passed on a part of the \
                 handshake only"
            }
            Self::TlsSpoken => {
                "TLS was spoken to this port, which speaks plain HTTP: in nginx write \
                 `proxy_pass http://`, not `https://`, in HAProxy leave out `ssl`; a client uses \
                 ws:// here, and wss:// to a proxy in front that ends TLS"
            }
            Self::Http2Spoken => {
                "HTTP/2 was spoken to this port, which speaks HTTP/1.1: have the proxy use HTTP/1.1 \
                 to this upstream"
            }
            Self::ProxyUnexpected => {
                "the peer speaks the PROXY protocol, which is not expected here: set \
                 proxy_protocol = \"required\" in [proxy], or leave out `send-proxy` in HAProxy, \
                 `proxy_protocol on;` in nginx"
            }
            Self::ProxyMissing => {
                "no PROXY header came, but [proxy] says proxy_protocol = \"required\": have the \
                 proxy send it (`send-proxy-v2` in HAProxy, `proxy_protocol on;` in nginx's \
                 stream), or set \"off\""
            }
            Self::ProxyMalformed => {
                "the PROXY header is malformed: make sure that only the proxy connects here"
            }
            Self::ProxyUntrusted => {
                "this peer may not send a PROXY header: add it to [proxy] trusted if it is your proxy"
            }
            Self::HostLost => {
                "pages of this origin are not admitted: the proxy in front does not pass on `Host`, \
                 so they cannot be told from pages of another site"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measured_trace_has_its_verdict_and_its_lines() {
        use {Connection as C, Upgrade as U};
        let whole = Trace {
            http_1_1: true,
            upgrade: U::WebSocket,
            connection: C::Upgrade,
            key: true,
            forwarded_by_apache: false,
        };
        let all = vec![HTTP_VERSION, SET_UPGRADE, SET_CONNECTION];
        let both = vec![SET_UPGRADE, SET_CONNECTION];
        let cases = [
            (false, U::Absent, C::Other, Verdict::NothingPassed, all.clone()),
            (true, U::Absent, C::Other, Verdict::HeadersLost, both.clone()),
            (false, U::WebSocket, C::Upgrade, Verdict::Http10, vec![HTTP_VERSION]),
            (true, U::WebSocket, C::Other, Verdict::ConnectionLost, vec![SET_CONNECTION]),
            (true, U::WebSocket, C::Absent, Verdict::ConnectionEmptied, vec![SET_CONNECTION]),
            (true, U::Absent, C::Upgrade, Verdict::UpgradeLost, vec![SET_UPGRADE]),
            (true, U::Other, C::Upgrade, Verdict::UpgradeValue, vec![SET_UPGRADE]),
            (true, U::Absent, C::Absent, Verdict::HeadersLost, both),
            (false, U::Other, C::KeepAlive, Verdict::Incomplete, all),
        ];
        for (http_1_1, upgrade, connection, verdict, lines) in cases {
            let trace = Trace { http_1_1, upgrade, connection, ..whole };
            assert_eq!(Verdict::of(trace), verdict, "{trace:?}");
            let remedy = Diagnosis::of(trace).remedy;
            assert_eq!(remedy.map(|remedy| remedy.lines), Some(lines), "{trace:?}");
        }
    }

    #[test]
    fn a_proxy_is_blamed_only_when_a_key_has_arrived() {
        let apache = Trace {
            http_1_1: true,
            upgrade: Upgrade::Absent,
            connection: Connection::KeepAlive,
            key: true,
            forwarded_by_apache: true,
        };
        assert_eq!(Verdict::of(apache), Verdict::Apache);
        let remedy = Diagnosis::of(apache).remedy;
        assert_eq!(remedy.map(|remedy| remedy.lines), Some(vec![APACHE]));
        let browser = Trace { key: false, ..apache };
        let half = Trace { upgrade: Upgrade::WebSocket, ..browser };
        for (trace, verdict) in [(browser, Verdict::NoWebSocket), (half, Verdict::NoKey)] {
            assert_eq!(Verdict::of(trace), verdict);
            assert!(
                !verdict.to_string().contains("proxy") && Diagnosis::of(trace).remedy.is_none()
            );
        }
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes_however_they_are_cut() {
        use Verdict as V;
        let cases: [(&[u8], Option<V>); 10] = [
            (b"\x16\x03\x01\x02\x00\x01", Some(V::TlsSpoken)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(V::Http2Spoken)),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Some(V::ProxyUnexpected)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some(V::ProxyUnexpected)),
            (b"GET / HTTP/1.1\r\n", None),
            (b"PUT / HTTP/1.1\r\n", None),
            (b"PROPFIND / HTTP/1.1\r\n", None),
            (b"\r\nGET / HTTP/1.1\r\n", None),
            (b"\x16GET", None),
            (b"\xff\xfe", None),
        ];
        for (bytes, verdict) in cases {
            let expected = verdict.map_or(Spoken::Http, Spoken::Other);
            let judged = (0..=bytes.len()).find_map(|length| spoken(&bytes[..length]));
            assert_eq!(judged, Some(expected), "{}", bytes.escape_ascii());
            assert_eq!(spoken(bytes), Some(expected), "{}", bytes.escape_ascii());
        }
        assert_eq!(spoken(b""), None);
    }

    #[test]
    fn a_host_of_an_upstream_is_told_from_a_host_of_a_site() {
        for upstream in ["127.0.0.1:8888", "[::1]:8888", "wsecho", "wsecho:8888", "localhost"] {
            assert!(is_upstream(upstream), "{upstream}");
        }
        for site in ["echo.example.com", "echo.example.com:8443", "", "a b"] {
            assert!(!is_upstream(site), "{site}");
        }
    }
}
