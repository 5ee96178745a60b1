//! What comes before a request: a PROXY header where one is due, or the wrong protocol.
//!
//! Owns the reading of a connection's first bytes. It does not know what they mean, which is the
//! PROXY parser's matter and the diagnosis', nor who may speak PROXY.
//!
//! Source: section 2 of HAProxy's `proxy-protocol.txt` for what is read before anything else.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::proxy::diagnosis::{Spoken, Verdict, spoken};
use crate::proxy::protocol::{self, Expect, ProxyError, ProxyHeader};

/// Read at once. A handshake mostly fits.
const FIRST_READ: usize = 1024;

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Prologue {
    /// With what may be a request, whose first bytes these are.
    Request(BytesMut, Option<ProxyHeader>),
    /// With something that is none.
    Wrong(Verdict),
    /// Not at all: the client left in silence, as simple health checks do.
    Silent,
    /// It broke.
    Broken,
}

/// Reads until it is clear how a connection begins: with a PROXY header, if one is due.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), proxy: Expect) -> Prologue {
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    let mut header = None;
    loop {
        if proxy == Expect::Required && header.is_none() {
            match protocol::parse(&bytes) {
                Ok(Some((found, length))) => {
                    header = Some(found);
                    bytes.advance(length);
                }
                Ok(None) => {}
                Err(ProxyError::Absent) => return Prologue::Wrong(Verdict::ProxyMissing),
                Err(ProxyError::Malformed(_) | ProxyError::TooLong(_)) => {
                    return Prologue::Wrong(Verdict::ProxyMalformed);
                }
            }
        }
        let due = proxy == Expect::Required && header.is_none();
        if !due {
            match spoken(&bytes) {
                Some(Spoken::Http) => return Prologue::Request(bytes, header),
                Some(Spoken::Other(verdict)) => return Prologue::Wrong(verdict),
                None => {}
            }
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Prologue::Silent,
            Ok(0) if !due => return Prologue::Request(bytes, header),
            Ok(0) | Err(_) => return Prologue::Broken,
            Ok(_) => {}
        }
    }
}
