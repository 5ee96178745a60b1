//! Why a request gets no WebSocket, with the status, the label and the sentence of each reason.
//!
//! Owns the wording. It does not know the form of the answer.

use std::fmt;

use hyper::StatusCode;

use super::Trace;
use crate::ops::metrics::Label;

/// Why a request gets no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Neither GET nor HEAD.
    Method,
    /// The upgrade is not complete.
    Upgrade(Trace),
    /// `Sec-WebSocket-Version` names another version.
    Version,
    /// `Sec-WebSocket-Version` is missing, repeated or not a number.
    BadVersion,
    /// `Sec-WebSocket-Key` is missing, repeated or not 16 bytes in base64.
    BadKey,
    /// `Host` is missing, repeated or malformed.
    BadHost,
    /// `Sec-WebSocket-Protocol` has something that is not a token, or a token twice.
    BadSubprotocol,
    /// The request has a body, whose bytes could be taken for frames.
    Body,
    /// `origins` does not allow the page.
    Origin,
    /// `Origin` is repeated, or missing although `require_origin` is set.
    NoOrigin,
    /// The client has reached `limits.max_connections_per_client`.
    ClientFull,
    /// The service has reached `limits.max_connections`.
    Full,
    /// The service is stopping.
    Draining,
}

impl Rejection {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade(_) | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::BadVersion | Self::BadKey | Self::BadHost | Self::BadSubprotocol | Self::Body => {
                StatusCode::BAD_REQUEST
            }
            Self::Origin | Self::NoOrigin => StatusCode::FORBIDDEN,
            Self::ClientFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Full | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Label for Rejection {
    fn label(&self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Upgrade(_) => "upgrade",
            Self::Version => "version",
            Self::BadVersion => "bad_version",
            Self::BadKey => "bad_key",
            Self::BadHost => "bad_host",
            Self::BadSubprotocol => "bad_subprotocol",
            Self::Body => "body",
            Self::Origin => "origin",
            Self::NoOrigin => "no_origin",
            Self::ClientFull => "client_full",
            Self::Full => "full",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket is opened with GET",
            Self::Upgrade(_) => "the request is not a complete WebSocket upgrade",
            Self::Version => "this server only supports version 13 of the WebSocket protocol",
            Self::BadVersion => "exactly one Sec-WebSocket-Version is required, and it must be 13",
            Self::BadKey => "exactly one Sec-WebSocket-Key is required, of 16 bytes in base64",
            Self::BadHost => "exactly one Host is required, and it must be valid",
            Self::BadSubprotocol => {
                "Sec-WebSocket-Protocol must be a list of tokens without duplicates"
            }
            Self::Body => "the opening handshake must not have a body",
            Self::Origin => "this origin is not allowed here (origins)",
            Self::NoOrigin => "exactly one Origin is required (require_origin)",
            Self::ClientFull => {
                "this client has reached its limit (limits.max_connections_per_client): close some \
                 connections first"
            }
            Self::Full => {
                "the service has reached its limit (limits.max_connections): try again later"
            }
            Self::Draining => "the service is stopping: try again later",
        })
    }
}
