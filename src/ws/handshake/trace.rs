//! Which parts of an upgrade a request has: RFC 6455, section 4.2.1, items 1 and 3 to 5.
//!
//! Owns what counts as an attempt and what as complete. It does not know why a part is missing.

use hyper::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, UPGRADE};
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
    /// The headers that Apache adds are there.
    pub forwarded_by_apache: bool,
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
            forwarded_by_apache: headers.contains_key("x-forwarded-host")
                && headers.contains_key("x-forwarded-server"),
        }
    }

    /// Whether somebody tried to open a WebSocket, however badly.
    #[must_use]
    pub fn is_attempt(self) -> bool {
        self.key || self.upgrade != Upgrade::Absent
    }

    pub(super) fn is_complete(self) -> bool {
        let Self { http_1_1, upgrade, connection, .. } = self;
        http_1_1 && upgrade == Upgrade::WebSocket && connection == Connection::Upgrade
    }
}
