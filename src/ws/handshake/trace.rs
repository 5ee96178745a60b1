//! Which parts of an upgrade a request has: RFC 6455, section 4.2.1, items 1 and 3 to 5.
//!
//! Owns what counts as an attempt and what as complete. It does not know why a part is missing.

use hyper::header::{CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_KEY, UPGRADE, VIA};
use hyper::{Request, Version};

use crate::net::field::list;

/// What a request's `Upgrade` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It is missing.
    Absent,
    /// It names `websocket`.
    WebSocket,
    /// It names other protocols.
    Other,
}

/// What a request's `Connection` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It is missing.
    Absent,
    /// It lists `upgrade`.
    Upgrade,
    /// It lists `keep-alive` instead.
    KeepAlive,
    /// It lists something else, usually `close`.
    Other,
}

/// The proxy in front, where its own headers give it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Nothing does, as with nginx and `HAProxy`.
    Unnamed,
    /// Apache httpd.
    Apache,
    /// Caddy.
    Caddy,
    /// Envoy, and what is built on it.
    Envoy,
    /// lighttpd.
    Lighttpd,
    /// Squid.
    Squid,
    /// Apache Traffic Server.
    TrafficServer,
    /// Varnish.
    Varnish,
}

impl Front {
    fn of(headers: &HeaderMap) -> Self {
        // Every hop appends itself, so the last one is the nearest.
        let nearest = list(headers, &VIA).next_back().unwrap_or_default();
        let nearest = String::from_utf8_lossy(nearest).to_ascii_lowercase();
        let named = [
            ("caddy", Self::Caddy),
            ("squid", Self::Squid),
            ("trafficserver", Self::TrafficServer),
            ("varnish", Self::Varnish),
        ];
        if let Some((_, front)) = named.iter().find(|(name, _)| nearest.contains(name)) {
            *front
        } else if headers.contains_key("x-varnish") {
            Self::Varnish
        } else if headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
            Self::Envoy
        } else if headers.contains_key("x-host") && headers.contains_key("x-forwarded-proto") {
            Self::Lighttpd
        } else if headers.contains_key("x-forwarded-host")
            && headers.contains_key("x-forwarded-server")
        {
            Self::Apache
        } else {
            Self::Unnamed
        }
    }
}

/// What is left of an upgrade in a request: the parts that a proxy may have dropped, and what gives
/// the proxy away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// HTTP/1.1, because HTTP/1.0 has no upgrade.
    pub http_1_1: bool,
    /// Whether `websocket` is asked for.
    pub upgrade: Upgrade,
    /// Whether the upgrade applies to this connection.
    pub connection: Connection,
    /// There is a `Sec-WebSocket-Key`, so a client did ask for a WebSocket.
    pub key: bool,
    /// Which product forwarded it.
    pub front: Front,
}

impl Trace {
    /// Reads what is left of an upgrade in a request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let has = |name: &HeaderName, token: &str| {
            list(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
        };
        Self {
            http_1_1: request.version() == Version::HTTP_11,
            upgrade: match headers.contains_key(UPGRADE) {
                false => Upgrade::Absent,
                true if has(&UPGRADE, "websocket") => Upgrade::WebSocket,
                true => Upgrade::Other,
            },
            connection: match headers.contains_key(CONNECTION) {
                false => Connection::Absent,
                true if has(&CONNECTION, "upgrade") => Connection::Upgrade,
                true if has(&CONNECTION, "keep-alive") => Connection::KeepAlive,
                true => Connection::Other,
            },
            key: headers.contains_key(SEC_WEBSOCKET_KEY),
            front: Front::of(headers),
        }
    }

    /// Whether somebody tried to open a WebSocket, however badly. Other protocols are upgraded to as
    /// well: some clients ask for `h2c` with every request.
    #[must_use]
    pub fn is_attempt(self) -> bool {
        self.key || self.upgrade == Upgrade::WebSocket
    }

    /// Whether it is an upgrade to WebSocket, with or without a key.
    #[must_use]
    pub fn is_complete(self) -> bool {
        let Self { http_1_1, upgrade, connection, .. } = self;
        http_1_1 && upgrade == Upgrade::WebSocket && connection == Connection::Upgrade
    }
}
