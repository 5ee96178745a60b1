//! What a client offers in its handshake, as it stands there: RFC 6455, sections 9.1 and 11.3.
//!
//! It does not judge: an offer may break the grammar.

use hyper::header::{
    HeaderMap, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
};

use super::MAX_SUBPROTOCOLS;
use crate::net::field::list;

/// The most elements of each list that are read: more than any that is accepted has.
const MOST: usize = MAX_SUBPROTOCOLS + 1;

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
    /// Reads the offer in these headers, and no more of a list than shows that it is too long.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        let first = |name| list(headers, name).take(MOST).collect();
        Self {
            key: headers.contains_key(SEC_WEBSOCKET_KEY),
            versions: first(&SEC_WEBSOCKET_VERSION),
            subprotocols: first(&SEC_WEBSOCKET_PROTOCOL),
            extensions: first(&SEC_WEBSOCKET_EXTENSIONS),
        }
    }
}
