//! The bytes of a connection up to the end of its request's head.
//!
//! Owns the reading, and the memory that an unfinished head takes: little more than its own bytes,
//! which are charged to the budget beyond what every connection may have. What the bytes mean is up
//! to the PROXY parser, the diagnosis and hyper.
//!
//! Source: section 2 of HAProxy's `proxy-protocol.txt` for what is read before anything else.

use std::future::poll_fn;
use std::io;
use std::mem::{MaybeUninit, take};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::sleep;

use super::head::{BadHead, Scan};
use crate::proxy::diagnosis::{Spoken, Verdict, spoken};
use crate::proxy::protocol::{self, Expect, ProxyError, ProxyHeader};
use crate::ws::session::{Budget, Charge, FREE};

/// The most that one read takes: most heads come whole.
const READ: usize = 4096;
/// A head is kept in pieces of this size, the largest in 16: what the allocator makes of 1,040 bytes.
const PIECE: usize = 2 * STEP;
/// The last piece starts with half of it. Smaller steps would leave more unused, in holes.
const STEP: usize = 516;
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
#[expect(clippy::manual_async_fn, reason = "an async fn stores its arguments twice")]
pub(super) fn read(
    stream: &mut (impl AsyncRead + Unpin + Send),
    expect: Expect,
    may_proxy: bool,
    budget: &Budget,
) -> impl Future<Output = Prologue> + Send {
    async move {
        let mut charge = Charge::new(budget);
        let mut held = Held::default();
        let mut scan = Scan::default();
        let mut proxy = None;
        let mut is_http = false;
        if expect == Expect::Required {
            // Boxed: every connection would carry it.
            match Box::pin(proxy_header(stream, may_proxy)).await {
                Ok((header, rest)) => {
                    proxy = Some(header);
                    held.extend(&rest);
                }
                Err(end) => return end,
            }
        }
        loop {
            if !is_http {
                match (spoken(held.since(0).next().unwrap_or_default()), proxy) {
                    (Some(Spoken::Http), _) => is_http = true,
                    (Some(Spoken::Other(Verdict::ProxyUnexpected)), Some(_)) => {
                        return Prologue::Wrong { verdict: Verdict::ProxyDoubled, by_proxy: false };
                    }
                    (Some(Spoken::Other(verdict)), _) => {
                        let by_proxy = may_proxy && proxy.is_none();
                        return Prologue::Wrong { verdict, by_proxy };
                    }
                    (None, _) => {}
                }
            }
            if is_http {
                for piece in held.since(scan.seen()) {
                    match scan.push(piece) {
                        Ok(Some(_)) => {
                            let (whole, rest) = held.split(scan.seen());
                            return Prologue::Request(Beginning { proxy, head: whole, rest });
                        }
                        Ok(None) => {}
                        Err(bad) => return Prologue::Bad(bad),
                    }
                }
            }
            let read = poll_fn(|cx| {
                // Every connection may have a little memory; for more the budget has to allow it.
                let most = if budget.is_spent() { FREE.saturating_sub(held.len()) } else { READ };
                if most == 0 {
                    return Poll::Ready(Ok(None));
                }
                // On the stack: a connection of which nothing comes needs no memory for it.
                let mut bytes = [MaybeUninit::uninit(); READ];
                let mut buffer = ReadBuf::uninit(&mut bytes[..most]);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                held.extend(buffer.filled());
                Poll::Ready(Ok::<_, io::Error>(Some(buffer.filled().len())))
            });
            match read.await {
                // Boxed: it is rare, and every connection would carry it.
                Ok(None) => Box::pin(sleep(RETRY)).await,
                Ok(Some(0)) | Err(_) if held.len() == 0 => return Prologue::Silent,
                Ok(Some(0)) | Err(_) => return Prologue::Incomplete,
                Ok(Some(_)) => charge.set(held.len().saturating_sub(FREE)),
            }
        }
    }
}

/// Reads a PROXY header, and the bytes that come with it.
///
/// # Errors
/// What the connection begins with instead.
async fn proxy_header(
    stream: &mut (impl AsyncRead + Unpin),
    may_proxy: bool,
) -> Result<(ProxyHeader, Vec<u8>), Prologue> {
    let mut first = Vec::new();
    loop {
        // In one piece, as the parser wants it: it is short, and only trusted peers get to send one.
        if first.len() == first.capacity() {
            first.reserve_exact(STEP);
        }
        match stream.read_buf(&mut first).await {
            Ok(0) | Err(_) if first.is_empty() => return Err(Prologue::Silent),
            Ok(0) | Err(_) => return Err(Prologue::Incomplete),
            Ok(_) => {}
        }
        if !may_proxy {
            return Err(Prologue::Wrong { verdict: Verdict::ProxyUntrusted, by_proxy: false });
        }
        let verdict = match protocol::parse(&first) {
            Ok(Some((found, length))) => return Ok((found, first.split_off(length))),
            Ok(None) => continue,
            Err(ProxyError::Absent) => Verdict::ProxyMissing,
            Err(ProxyError::Malformed(defect)) => Verdict::ProxyMalformed(defect),
            Err(ProxyError::TooLong(_)) => Verdict::ProxyTooLong,
        };
        return Err(Prologue::Wrong { verdict, by_proxy: true });
    }
}

/// Bytes in pieces. One buffer that grew would leave a hole in the heap at each step, and thousands of
/// them several times their bytes.
#[derive(Default)]
struct Held {
    #[expect(clippy::vec_box, reason = "a Vec of arrays would be one buffer that grows")]
    full: Vec<Box<[u8; PIECE]>>,
    last: Vec<u8>,
}

impl Held {
    fn len(&self) -> usize {
        self.full.len() * PIECE + self.last.len()
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (new, rest) = bytes.split_at(bytes.len().min(PIECE - self.last.len()));
            let needed = (self.last.len() + new.len()).next_multiple_of(STEP);
            self.last.reserve_exact(needed - self.last.len());
            self.last.extend_from_slice(new);
            if self.last.len() == PIECE {
                let full = take(&mut self.last).into_boxed_slice();
                self.full.push(full.try_into().expect("it has this length"));
            }
            bytes = rest;
        }
    }

    /// The bytes from a position on, a piece at a time.
    fn since(&self, start: usize) -> impl Iterator<Item = &[u8]> {
        let full = self.full.iter().map(|piece| &piece[..]);
        let mut at = start % PIECE;
        full.chain([&*self.last]).skip(start / PIECE).map(move |piece| &piece[take(&mut at)..])
    }

    /// The first bytes, and those behind them.
    fn split(&self, at: usize) -> (Vec<u8>, Vec<u8>) {
        let mut head = self.since(0).collect::<Vec<_>>().concat();
        let rest = head.split_off(at);
        (head, rest)
    }
}
