//! One connection, from accept to its answer or its upgrade.
//!
//! Owns hyper's builder and its timer: the limits on a request's head, the deadline for it, and
//! the hand-over of the stream after an upgrade. It does not know the paths, nor what is spoken
//! after the handshake.
//!
//! Source: RFC 9112.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use super::router::{Answer, Body, Router};
use super::wire::Wire;
use crate::net::listen::{PeerAddr, Transport};

/// The largest request head, in bytes; more is answered with 431.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields in a request; more are answered with 431.
const MAX_FIELDS: usize = 64;
/// The most that a connection over the limit may take over its request.
const OVERFLOW_DEADLINE: Duration = Duration::from_secs(2);

/// By which right a connection is served. The permit is kept as long as the connection lives.
#[derive(Debug)]
pub enum Admission {
    /// It is one of `limits.max_connections`.
    Admitted(OwnedSemaphorePermit),
    /// It is one too many: it is told so, and only `/healthz` is answered.
    Overflow(OwnedSemaphorePermit),
}

/// Serves one connection: one request, which is answered or upgraded.
///
/// It cannot fail. The head has to be complete within `timeouts.handshake` of this call.
pub async fn serve<S>(stream: S, peer: PeerAddr, router: Arc<Router>, admission: Admission)
where
    S: Transport,
{
    let timeouts = &router.policy().timeouts;
    let overflow = matches!(admission, Admission::Overflow(_));
    let deadline =
        if overflow { timeouts.handshake.min(OVERFLOW_DEADLINE) } else { timeouts.handshake };
    let wire = Wire::new(stream, timeouts.session.close);
    let upgrade = Mutex::new(None);
    let answer = |mut request: Request<Incoming>| {
        let response = match router.answer(&request, peer, overflow) {
            Answer::Plain(response) => response,
            Answer::Upgrade(response, opening) => {
                let upgraded = hyper::upgrade::on(&mut request);
                *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgraded, opening));
                response
            }
        };
        ready(Ok::<Response<Body>, Infallible>(response))
    };
    // Without a timer of its own hyper ignores the deadline silently.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline)
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .half_close(true)
        // As Tornado and most servers write them: some small clients compare case.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(wire), service_fn(answer))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::info!(%peer, reason = reason(&error), "connection closed without an answer of ours");
        return;
    }
    if let Some((upgraded, opening)) = upgrade.into_inner().unwrap_or_else(PoisonError::into_inner)
    {
        // The client may be gone before it could read the 101.
        if let Ok(upgraded) = upgraded.await {
            let (stream, first) = Wire::<S>::reclaim(upgraded);
            // A task of its own: what the request needed is freed, the session stays small.
            let session = Arc::clone(&router).run(opening, stream, first, peer, admission);
            router.drain().spawn(session);
        }
    }
}

/// What hyper's error says to an administrator.
fn reason(error: &hyper::Error) -> &'static str {
    if error.is_timeout() {
        "no complete request within timeouts.handshake"
    } else if error.is_parse_too_large() {
        "request head over 16 KiB or 64 fields"
    } else if error.is_parse_version_h2() {
        "HTTP/2 was spoken, this port speaks HTTP/1.1"
    } else if error.is_parse() {
        "not an HTTP/1.1 request"
    } else if error.is_incomplete_message() {
        "the client left in the middle of its request"
    } else {
        "the connection broke"
    }
}
