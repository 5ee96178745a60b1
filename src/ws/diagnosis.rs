//! What a handshake that did not arrive whole says about the proxy in front, and what mends it.
//!
//! Owns the names of proxies and the lines of their configuration. It judges a [`Trace`] and
//! nothing else: it does not know requests, answers or logs.
//!
//! `Upgrade` and `Connection` are hop-by-hop (RFC 9110, section 7.6.1) and have to be sent anew by
//! each proxy; `Sec-WebSocket-Key` is end-to-end and always arrives. So a key without an upgrade
//! proves that a proxy lost the rest, and what is left tells which line it lacks. The verdicts were
//! measured behind nginx 1.22 and 1.31, Apache 2.4 and HAProxy 2.6.

use std::fmt;

use crate::ws::handshake::{Connection, Trace, Upgrade};

const HTTP_VERSION: &str = "proxy_http_version 1.1;";
const SET_UPGRADE: &str = "proxy_set_header Upgrade $http_upgrade;";
const SET_CONNECTION: &str = "proxy_set_header Connection \"upgrade\";";
const APACHE: &str = "ProxyPass \"/socket\" \"ws://127.0.0.1:8888/socket\"";

/// What is wrong with a handshake that did not arrive whole.
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
}

impl Verdict {
    /// Judges what arrived of a handshake.
    #[must_use]
    pub fn of(trace: Trace) -> Self {
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

    /// A short name that never changes, for logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
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
        }
    }
}

/// The lines of a proxy's configuration that mend what is missing, and the place for them; nothing
/// where no proxy is to blame.
#[must_use]
pub fn remedy(trace: Trace) -> Option<(&'static str, Vec<&'static str>)> {
    match Verdict::of(trace) {
        Verdict::NoWebSocket | Verdict::NoKey => None,
        Verdict::Apache => Some((
            "Apache: in place of the ProxyPass with http:// (needs mod_proxy_wstunnel)",
            vec![APACHE],
        )),
        _ => {
            let lines = [
                (trace.http_1_1, HTTP_VERSION),
                (trace.upgrade == Upgrade::WebSocket, SET_UPGRADE),
                (trace.connection == Connection::Upgrade, SET_CONNECTION),
            ];
            let missing = lines.iter().filter(|(arrived, _)| !arrived).map(|(_, line)| *line);
            Some(("nginx: in the location with the proxy_pass", missing.collect()))
        }
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
            assert_eq!(remedy(trace).map(|(_, lines)| lines), Some(lines), "{trace:?}");
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
        assert_eq!(remedy(apache).map(|(_, lines)| lines), Some(vec![APACHE]));
        let browser = Trace { key: false, ..apache };
        let half = Trace { upgrade: Upgrade::WebSocket, ..browser };
        for (trace, verdict) in [(browser, Verdict::NoWebSocket), (half, Verdict::NoKey)] {
            assert_eq!(Verdict::of(trace), verdict);
            assert!(!verdict.to_string().contains("proxy") && remedy(trace).is_none());
        }
    }
}
