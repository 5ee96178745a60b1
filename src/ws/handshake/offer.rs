//! What a client offers in its handshake, as it stands there: RFC 6455, sections 9.1 and 11.3.
//!
//! It does not judge: an offer may break the grammar.

use hyper::header::{
    HeaderMap, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
};

use crate::net::field::list;

/// What a client offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Whether it sent a key.
    pub key: bool,
    /// The versions that it sent: 13, where all is well.
    pub versions: Vec<&'a [u8]>,
    /// Its subprotocols, in its order.
    pub subprotocols: Vec<&'a [u8]>,
    /// Its extensions with their parameters, in its order.
    pub extensions: Vec<&'a [u8]>,
}

impl<'a> Offer<'a> {
    /// Reads the offer in these headers.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        Self {
            key: headers.contains_key(SEC_WEBSOCKET_KEY),
            versions: list(headers, &SEC_WEBSOCKET_VERSION).collect(),
            subprotocols: list(headers, &SEC_WEBSOCKET_PROTOCOL).collect(),
            extensions: list(headers, &SEC_WEBSOCKET_EXTENSIONS).collect(),
        }
    }
}
