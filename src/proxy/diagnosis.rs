//! What an incomplete handshake reveals about the proxy in front, and what fixes it.
//!
//! Owns the names of proxies and the lines of their configuration. It judges a [`Trace`], a path or
//! the first bytes of a connection; it does not know requests, answers or logs.
//!
//! `Upgrade` and `Connection` are hop-by-hop (RFC 9110, section 7.6.1), so each proxy must send them
//! itself; `Sec-WebSocket-Key` is end-to-end and always arrives, unless the client spoke HTTP/2. A key
//! without an upgrade therefore shows that a proxy dropped the rest, and what is left shows which line
//! its configuration lacks. The verdicts were measured behind nginx 1.22 and 1.31, Apache 2.4, HAProxy
//! 2.6, Caddy 2.11, lighttpd 1.4.69, Varnish 7.1, Squid 5.7, Traffic Server 9.2 and Envoy 1.40.

mod verdict;
mod warning;

use std::net::IpAddr;

use hyper::http::uri::Authority;
use serde::Serialize;

pub use self::verdict::Verdict;
pub use self::warning::Warning;
use crate::proxy::protocol;
use crate::ws::handshake::{Connection, Front, Trace, Upgrade};

const NGINX: &str = "nginx, next to proxy_pass";
pub(super) const HTTP_VERSION: &str = "proxy_http_version 1.1;";
pub(super) const SET_UPGRADE: &str = "proxy_set_header Upgrade $http_upgrade;";
pub(super) const SET_CONNECTION: &str = "proxy_set_header Connection \"upgrade\";";
pub(super) const SET_HOST: &str = "proxy_set_header Host $http_host;";
const APACHE: &str = "ProxyPass \"/socket\" \"ws://127.0.0.1:8888/socket\"";
const CADDY: &str = "reverse_proxy 127.0.0.1:8888";
pub(super) const ENVOY: &str = "upgrade_configs: [{upgrade_type: websocket}]";
pub(super) const LIGHTTPD: &str = "proxy.header = ( \"upgrade\" => \"enable\" )";
pub(super) const VARNISH_RECV: &str =
    "if (req.http.Upgrade ~ \"(?i)websocket\") { return (pipe); }";
pub(super) const VARNISH_PIPE: [&str; 2] = [
    "set bereq.http.Upgrade = req.http.Upgrade;",
    "set bereq.http.Connection = req.http.Connection;",
];
/// The trailing slash of the second line strips the prefix of the first.
const STRIP_PREFIX: [&str; 2] = ["location /ws/ {", "    proxy_pass http://wsecho/;"];
/// Without a path, `proxy_pass` leaves that of the request alone.
const KEEP_PATH: &str = "proxy_pass http://wsecho;";

/// What is wrong with an incomplete handshake, and what fixes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is wrong.
    pub verdict: Verdict,
    /// What fixes it; `None` if no proxy is to blame.
    pub remedy: Option<Remedy>,
}

/// What fixes the configuration of the proxy in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// The most likely product, and where to look in its configuration.
    #[serde(rename = "place")]
    pub location: &'static str,
    /// The lines that are missing there.
    pub lines: Vec<&'static str>,
    /// The same for any other product, in words.
    pub elsewhere: &'static str,
}

impl Diagnosis {
    /// Diagnoses what is left of a handshake.
    #[must_use]
    pub fn of(trace: Trace) -> Self {
        const ELSEWHERE: &str = "any other proxy: use HTTP/1.1 to this service, and forward \
                                 `Upgrade` and `Connection` unchanged";
        let verdict = Verdict::of(trace);
        let (location, lines) = match verdict {
            Verdict::NoWebSocket | Verdict::NoKey => return Self { verdict, remedy: None },
            Verdict::Apache => (
                "Apache, instead of the ProxyPass to http:// (needs mod_proxy_wstunnel)",
                vec![APACHE],
            ),
            Verdict::KeyLost => (
                "Envoy, in http2_protocol_options of its listener, so that browsers open WebSockets \
                 over HTTP/1.1",
                vec!["allow_connect: false"],
            ),
            _ => {
                if let Some((location, lines)) = switch(trace.front) {
                    let remedy = Remedy { location, lines, elsewhere: ELSEWHERE };
                    return Self { verdict, remedy: Some(remedy) };
                }
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

/// What lets WebSockets through a product that has a switch of its own.
fn switch(front: Front) -> Option<(&'static str, Vec<&'static str>)> {
    Some(match front {
        // Apache's is a verdict of its own; elsewhere it is nginx, as far as can be told.
        Front::Unnamed | Front::Apache => return None,
        Front::Caddy => (
            "Caddy, as it is, without a header_up or request_header for Upgrade or Connection",
            vec![CADDY],
        ),
        Front::Envoy => ("Envoy, in its HttpConnectionManager", vec![ENVOY]),
        Front::Lighttpd => ("lighttpd, next to proxy.server", vec![LIGHTTPD]),
        Front::Squid => {
            ("Squid, in squid.conf", vec!["http_upgrade_request_protocols websocket allow all"])
        }
        Front::TrafficServer => (
            "Traffic Server, in remap.config, with your names",
            vec!["map ws://echo.example.com/ ws://127.0.0.1:8888/"],
        ),
        Front::Varnish => (
            "Varnish, the first line in vcl_recv, the others in vcl_pipe",
            [&[VARNISH_RECV], &VARNISH_PIPE[..]].concat(),
        ),
    })
}

/// Which endpoint is probably meant by a path that is none, and what fixes it, if a proxy is likely
/// to have changed the path.
#[must_use]
pub fn misplaced<'a>(path: &str, endpoints: &[&'a str]) -> (Option<&'a str>, Option<Remedy>) {
    const ELSEWHERE: &str = "any other proxy: make it pass on exactly the path of an endpoint; \
                             otherwise correct the client's URL";
    const STRIP: &str = "nginx, with your prefix for /ws/: these two slashes strip it";
    const KEEP: &str = "nginx, with nothing behind the upstream's name, where a slash cuts off what \
                        `location` matches";
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let clean = format!("/{}", parts.join("/"));
    let find = |fits: &dyn Fn(&str) -> bool| {
        let named = endpoints.iter().copied().filter(|meant| *meant != "/");
        named.filter(|meant| fits(meant)).max_by_key(|meant| meant.len())
    };
    let strip = || (STRIP, STRIP_PREFIX.to_vec());
    let keep = || (KEEP, vec![KEEP_PATH]);
    let (meant, (location, lines)) = if clean == "/" {
        let only = if let [only] = endpoints { Some(*only) } else { None };
        (only, keep())
    } else if let Some(same) = find(&|meant| clean == meant) {
        (Some(same), if path.starts_with("//") { strip() } else { keep() })
    } else if let Some(kept) = find(&|meant| clean.ends_with(meant)) {
        (Some(kept), strip())
    } else if let Some(cut) = find(&|meant| meant.ends_with(&clean[1..])) {
        (Some(cut), keep())
    } else {
        return (None, None);
    };
    (meant, Some(Remedy { location, lines, elsewhere: ELSEWHERE }))
}

/// What fixes [`Verdict::HostLost`].
#[must_use]
pub fn host_remedy() -> Remedy {
    let elsewhere = "any other proxy: forward `Host` unchanged, including its port";
    Remedy { location: NGINX, lines: vec![SET_HOST], elsewhere }
}

/// Whether a `Host` names this service as an upstream rather than a site: an address, or a name without
/// a dot, and a port of ours. A proxy that does not forward the client's `Host` sends such a name.
///
/// People who type an address or `localhost` name the proxy's port instead.
#[must_use]
pub fn is_upstream(host: &str, is_our_port: impl Fn(u16) -> bool) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    let is_typed = name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost");
    match authority.port_u16() {
        _ if !is_typed && (name.is_empty() || name.contains('.')) => false,
        Some(port) => is_our_port(port),
        // nginx sends the bare name of an `upstream`.
        None => !is_typed || is_our_port(80),
    }
}

/// What the peer speaks, judged by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1, as far as can be told.
    Http,
    /// Certainly something else.
    Other(Verdict),
}

/// Judges the first bytes of a connection where HTTP/1.1 is expected. `None` asks for more bytes.
#[must_use]
pub fn spoken(first: &[u8]) -> Option<Spoken> {
    /// A handshake record of any version (RFC 8446, section 5.1).
    const TLS: &[u8] = &[0x16, 0x03];
    /// The preface of HTTP/2 (RFC 9113, section 3.4).
    const HTTP_2: &[u8] = b"PRI * HTTP/2.0";
    let undecided = |signature: &[u8]| signature.starts_with(first);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measured_trace_has_its_verdict_and_its_lines() {
        use {Connection as C, Upgrade as U};
        let complete = Trace {
            http_1_1: true,
            upgrade: U::WebSocket,
            connection: C::Upgrade,
            key: true,
            front: Front::Unnamed,
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
            let trace = Trace { http_1_1, upgrade, connection, ..complete };
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
            front: Front::Apache,
        };
        assert_eq!(Verdict::of(apache), Verdict::Apache);
        let remedy = Diagnosis::of(apache).remedy;
        assert_eq!(remedy.map(|remedy| remedy.lines), Some(vec![APACHE]));
        let browser = Trace { key: false, ..apache };
        let half = Trace { upgrade: Upgrade::WebSocket, ..browser };
        let complete = Trace { connection: Connection::Upgrade, key: true, ..half };
        let h2c = Trace { upgrade: Upgrade::Other, key: false, ..complete };
        for (trace, verdict) in [
            (browser, Verdict::NoWebSocket),
            (half, Verdict::NoKey),
            (h2c, Verdict::NoWebSocket),
            (complete, Verdict::NoWebSocket),
            (Trace { key: false, ..complete }, Verdict::NoKey),
        ] {
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
        let ours = |port| port == 8888;
        let upstreams = ["127.0.0.1:8888", "[::1]:8888", "wsecho", "wsecho:8888", "localhost:8888"];
        for upstream in upstreams {
            assert!(is_upstream(upstream, ours), "{upstream}");
        }
        for site in [
            "echo.example.com",
            "echo.example.com:8888",
            "localhost:8080",
            "localhost",
            "192.0.2.1",
            "[::1]:8443",
            "intranet:8080",
            "",
            "a b",
        ] {
            assert!(!is_upstream(site, ours), "{site}");
        }
        assert!(is_upstream("127.0.0.1", |port| port == 80), "80 is left out");
    }

    #[test]
    fn the_switch_of_the_product_in_front_comes_before_the_lines_of_nginx() {
        for (front, line) in [
            (Front::Caddy, "reverse_proxy "),
            (Front::Varnish, "return (pipe)"),
            (Front::Envoy, "upgrade_type: websocket"),
            (Front::Lighttpd, "proxy.header"),
            (Front::Squid, "http_upgrade_request_protocols websocket "),
            (Front::TrafficServer, "map ws://"),
        ] {
            let trace = Trace {
                http_1_1: true,
                upgrade: Upgrade::Absent,
                connection: Connection::Other,
                key: true,
                front,
            };
            let Diagnosis { verdict, remedy } = Diagnosis::of(trace);
            assert_eq!(verdict, Verdict::HeadersLost);
            let text = format!("{remedy:?}");
            assert!(text.contains(line) && !text.contains("nginx"), "{text}");
        }
        let envoy = Trace {
            http_1_1: true,
            upgrade: Upgrade::WebSocket,
            connection: Connection::Upgrade,
            key: false,
            front: Front::Envoy,
        };
        assert_eq!(Diagnosis::of(envoy).verdict, Verdict::KeyLost);
        assert_eq!(Diagnosis::of(envoy).remedy.unwrap().lines, ["allow_connect: false"]);
    }

    #[test]
    fn a_path_that_a_proxy_changed_is_traced_to_its_endpoint_and_the_line_that_fixes_it() {
        let (strip, keep) = (Some(&STRIP_PREFIX[..]), Some(&[KEEP_PATH][..]));
        let two = ["/socket", "/echo"];
        let deep = ["/", "/ws/echo"];
        for (endpoints, path, meant, lines) in [
            (&two, "/ws/socket", Some("/socket"), strip),
            (&two, "/a/b//echo/", Some("/echo"), strip),
            (&two, "//socket", Some("/socket"), strip),
            (&two, "/socket/", Some("/socket"), keep),
            (&two, "/et", Some("/socket"), keep),
            (&two, "/", None, keep),
            (&two, "//", None, keep),
            (&deep, "/echo", Some("/ws/echo"), keep),
            (&deep, "/x/ws/echo", Some("/ws/echo"), strip),
            (&two, "/sockets", None, None),
            (&two, "/chat", None, None),
        ] {
            let (found, remedy) = misplaced(path, endpoints);
            let found = (found, remedy.as_ref().map(|remedy| &*remedy.lines));
            assert_eq!(found, (meant, lines), "{path} on {endpoints:?}");
        }
        assert_eq!(misplaced("/", &["/only"]).0, Some("/only"));
    }
}
