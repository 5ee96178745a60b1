//! The bytes of a connection up to the end of its request's head.
//!
//! Owns the reading, and the memory that an unfinished head takes: its own bytes and 1 KiB more
//! at most, charged to the budget beyond what every connection may have. What the bytes mean is up to
//! the PROXY parser, the diagnosis and hyper.
//!
//! Source: section 2 of HAProxy's `proxy-protocol.txt` for what is read before anything else.

use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::sleep;

use super::head::{BadHead, Scan};
use crate::proxy::diagnosis::{Spoken, Verdict, spoken};
use crate::proxy::protocol::{self, Expect, ProxyError, ProxyHeader};
use crate::ws::session::{Budget, Charge, FREE};

/// The first memory of a head: what the allocator rounds to 512 bytes. Most handshakes fit into it.
const FIRST: usize = 496;
/// By how much it grows: what the allocator rounds to 1 KiB.
const STEP: usize = 1008;
/// How often a connection looks whether there is memory for its head.
const RETRY: Duration = Duration::from_millis(50);

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Prologue {
    /// With what may be a request.
    Request(Beginning),
    /// With something else. `by_proxy` says whether a trusted peer began with it, and not a client
    /// behind the peer's PROXY header.
    Wrong { verdict: Verdict, by_proxy: bool },
    /// With something that looks like a request, and is not.
    Bad(BadHead),
    /// Not at all: the client left without a byte of a request, as simple health checks do.
    Silent,
    /// The client left in the middle of a request.
    Incomplete,
}

/// A whole head, what precedes it and what follows.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) proxy: Option<ProxyHeader>,
    pub(super) head: Vec<u8>,
    /// What came behind the head: the client's first frames, if it opens a WebSocket.
    pub(super) rest: Vec<u8>,
}

/// Reads until a request's head is complete, or cannot be one any more. `may_proxy` says whether the
/// peer is trusted to send the PROXY header that `expect` requires.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    expect: Expect,
    may_proxy: bool,
    budget: &Budget,
) -> Prologue {
    let mut charge = Charge::new(budget);
    let mut held = Held::default();
    let mut scan = Scan::default();
    let mut proxy = None;
    let mut is_http = false;
    loop {
        let due = expect == Expect::Required && proxy.is_none();
        if held.last.len() == held.last.capacity() {
            // Every connection may have a little memory; for more the budget has to allow it.
            while held.len() + STEP > FREE && budget.is_spent() {
                // Boxed: it is rare, and every connection would carry it.
                Box::pin(sleep(RETRY)).await;
            }
            held.grow(due);
            charge.set((held.len() + STEP).saturating_sub(FREE));
        }
        let old = held.last.len();
        let spare = held.last.capacity() - old;
        match stream.read_buf(&mut (&mut held.last).limit(spare)).await {
            Ok(0) | Err(_) if held.len() == 0 => return Prologue::Silent,
            Ok(0) | Err(_) => return Prologue::Incomplete,
            Ok(_) => {}
        }
        let mut new = old;
        if due && !may_proxy {
            return Prologue::Wrong { verdict: Verdict::ProxyUntrusted, by_proxy: false };
        }
        if due {
            let verdict = match protocol::parse(&held.last) {
                Ok(Some((found, length))) => {
                    proxy = Some(found);
                    held.last.drain(..length);
                    None
                }
                Ok(None) => continue,
                Err(ProxyError::Absent) => Some(Verdict::ProxyMissing),
                Err(ProxyError::Malformed(defect)) => Some(Verdict::ProxyMalformed(defect)),
                Err(ProxyError::TooLong(_)) => Some(Verdict::ProxyTooLong),
            };
            if let Some(verdict) = verdict {
                return Prologue::Wrong { verdict, by_proxy: true };
            }
        }
        if !is_http {
            match (spoken(&held.last), proxy) {
                (Some(Spoken::Http), _) => is_http = true,
                (Some(Spoken::Other(Verdict::ProxyUnexpected)), Some(_)) => {
                    return Prologue::Wrong { verdict: Verdict::ProxyDoubled, by_proxy: false };
                }
                (Some(Spoken::Other(verdict)), _) => {
                    let by_proxy = may_proxy && proxy.is_none();
                    return Prologue::Wrong { verdict, by_proxy };
                }
                (None, _) => continue,
            }
            new = 0;
        }
        match scan.push(&held.last[new..]) {
            Ok(Some(length)) => {
                let rest = held.last.split_off(new + length);
                return Prologue::Request(Beginning { proxy, head: held.into_whole(), rest });
            }
            Ok(None) => {}
            Err(bad) => return Prologue::Bad(bad),
        }
    }
}

/// Bytes in pieces. One buffer that grew would leave a hole in the heap at each step,
/// and thousands of them several times their bytes.
#[derive(Default)]
struct Held {
    full: Vec<Box<[u8]>>,
    last: Vec<u8>,
}

impl Held {
    fn len(&self) -> usize {
        self.full.iter().map(|piece| piece.len()).sum::<usize>() + self.last.len()
    }

    /// Makes room for another piece. A PROXY header has to lie in one.
    fn grow(&mut self, in_one: bool) {
        if self.last.is_empty() {
            self.last.reserve_exact(FIRST);
        } else if in_one {
            self.last.reserve_exact(STEP);
        } else {
            let full = std::mem::replace(&mut self.last, Vec::with_capacity(STEP));
            self.full.push(full.into_boxed_slice());
        }
    }

    fn into_whole(mut self) -> Vec<u8> {
        if self.full.is_empty() {
            return self.last;
        }
        self.full.push(self.last.into_boxed_slice());
        self.full.concat()
    }
}
