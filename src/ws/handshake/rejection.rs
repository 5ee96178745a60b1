//! Why a request gets no WebSocket, with the status, the label and the sentence of each reason.
//!
//! Owns the wording, and how a text carries its label. It does not know the form of the answer.

use std::fmt;

use hyper::StatusCode;

use super::{MAX_SUBPROTOCOLS, Trace};
use crate::ops::metrics::Label;

/// What a page's origin was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The origins in the configuration.
    List,
    /// The host in the request: `Host`, or an absolute target's.
    Host,
    /// The host that a trusted proxy named.
    ForwardedHost,
}

/// Why a request gets no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not GET.
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
    /// `Sec-WebSocket-Protocol` has something that is not a token, a token twice, or over
    /// [`MAX_SUBPROTOCOLS`] of them.
    BadSubprotocol,
    /// The request has a body, whose bytes could be taken for frames.
    Body,
    /// `origins` does not allow the page.
    Origin(Compared),
    /// An option in the query of the URL has a value that it cannot have: the sentence says which it
    /// can.
    BadOption(&'static str),
    /// There are options in the query of the URL, which the endpoint does not allow.
    OptionsOff,
    /// `Origin` is repeated, or missing although `require_origin` is set.
    NoOrigin,
    /// The client has reached `limits.max_connections_per_client`.
    ClientFull,
    /// The service has reached `limits.max_connections`.
    Full,
    /// What would be said at once does not fit into `limits.buffer_budget`.
    MemorySpent,
}

impl Rejection {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade(_) | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::BadVersion
            | Self::BadKey
            | Self::BadHost
            | Self::BadSubprotocol
            | Self::BadOption(_)
            | Self::Body => StatusCode::BAD_REQUEST,
            Self::Origin(_) | Self::NoOrigin | Self::OptionsOff => StatusCode::FORBIDDEN,
            Self::ClientFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Full | Self::MemorySpent => StatusCode::SERVICE_UNAVAILABLE,
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
            Self::Origin(_) => "origin",
            Self::BadOption(_) => "bad_option",
            Self::OptionsOff => "options_off",
            Self::NoOrigin => "no_origin",
            Self::ClientFull => "client_full",
            Self::Full => "full",
            Self::MemorySpent => "memory_spent",
        }
    }
}

/// The text of a refusal with its label below it.
#[must_use]
pub fn labelled(text: &str, label: &str) -> String {
    format!("{text}\n\n({label})\n")
}

/// The text and the label of a body that [`labelled`] wrote; `None` if it is somebody else's.
#[must_use]
pub fn split_label(body: &str) -> Option<(&str, &str)> {
    let (text, rest) = body.trim_end().rsplit_once("\n\n(")?;
    let label = rest.strip_suffix(')')?;
    let is_label = !label.is_empty()
        && label.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    is_label.then(|| (text.trim_end(), label))
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
                return write!(
                    f,
                    "Sec-WebSocket-Protocol must be a list of at most {MAX_SUBPROTOCOLS} tokens \
                     without duplicates"
                );
            }
            Self::Body => "the opening handshake must not have a body",
            Self::Origin(Compared::List) => {
                "this origin is not allowed here: it is not in the list (origins)"
            }
            Self::Origin(Compared::Host) => {
                "this origin is not allowed here: it was compared with Host (origins = \
                 \"same-host\")"
            }
            Self::Origin(Compared::ForwardedHost) => {
                "this origin is not allowed here: it was compared with the host that the proxy \
                 named in X-Forwarded-Host or Forwarded (origins = \"same-host\")"
            }
            Self::BadOption(sentence) => sentence,
            Self::OptionsOff => "this endpoint takes no options in its URL (endpoint.options)",
            Self::NoOrigin => "exactly one Origin is required (origins, require_origin)",
            Self::ClientFull => {
                "this client has reached its limit (limits.max_connections_per_client): close some \
                 connections first"
            }
            Self::Full => {
                "the service has reached its limit (limits.max_connections): try again later"
            }
            Self::MemorySpent => {
                "the service has no memory left (limits.buffer_budget): try again later"
            }
        })
    }
}
