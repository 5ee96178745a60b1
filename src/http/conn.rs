//! One connection, from accept to its answer or its upgrade.
//!
//! Owns hyper's builder and its timer: the limits on a request's head, the one deadline for the head
//! and what precedes it, and the hand-over of the stream after an upgrade. It does not know the
//! paths, nor what is spoken after the handshake.
//!
//! Source: RFC 9112.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::admin;
use super::answer::Body;
use super::prologue::{self, Prologue};
use super::refusal::Refusal;
use super::router::{Answer, Router};
use super::service::Service;
use super::upgrade::{self, Caller, Opening};
use super::wire::Wire;
use crate::net::listen::{PeerAddr, Transport};
use crate::ops::metrics::Label;
use crate::proxy::diagnosis::Verdict;
use crate::proxy::protocol::Expect;
use crate::ws::handshake::Rejection;

/// The largest request head, in bytes; a larger one is answered with 431.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields in a request; more are answered with 431.
const MAX_FIELDS: usize = 64;
/// How long a request may take on a connection over a limit, or to the admin listener.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);

/// The permit a connection is served under, kept as long as it lives.
#[derive(Debug)]
pub enum Admission {
    /// One of `limits.max_connections`.
    Admitted(OwnedSemaphorePermit),
    /// One over the limit: it is refused, and only `/healthz` is answered.
    Overflow(OwnedSemaphorePermit),
}

impl Admission {
    fn permit(self) -> OwnedSemaphorePermit {
        match self {
            Self::Admitted(permit) | Self::Overflow(permit) => permit,
        }
    }
}

/// Why a connection ended without an answer from the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    Timeout,
    TooLarge,
    NotHttp,
    Incomplete,
    Broken,
}

impl From<&hyper::Error> for Unanswered {
    fn from(error: &hyper::Error) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_parse_too_large() {
            Self::TooLarge
        } else if error.is_parse() {
            Self::NotHttp
        } else if error.is_incomplete_message() {
            Self::Incomplete
        } else {
            Self::Broken
        }
    }
}

impl Label for Unanswered {
    fn label(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::NotHttp => "not_http",
            Self::Incomplete => "incomplete",
            Self::Broken => "broken",
        }
    }
}

impl Unanswered {
    fn sentence(self) -> &'static str {
        match self {
            Self::Timeout => "no complete request within timeouts.handshake",
            Self::TooLarge => "request head over 16 KiB or 64 fields",
            Self::NotHttp => "not an HTTP/1.1 request",
            Self::Incomplete => "the client closed the connection in the middle of its request",
            Self::Broken => "the connection broke",
        }
    }
}

/// Serves one connection of the admin listener, which keeps the permit as long as it lives.
pub async fn serve_admin(
    stream: impl Transport,
    service: Arc<Service>,
    _permit: OwnedSemaphorePermit,
) {
    let wire = Wire::new(stream, SHORT_DEADLINE);
    let answer = |request: &Request<Incoming>| Answer::Plain(admin::answer(request, &service));
    let deadline = Instant::now() + SHORT_DEADLINE;
    if let Err(error) = exchange(wire, deadline, answer).await {
        tracing::debug!(reason = Unanswered::from(&error).label(), "admin: not answered");
    }
}

/// Reads one request and answers it. Returns the session to start, if that opens a WebSocket.
async fn exchange<S: Transport>(
    wire: Wire<S>,
    deadline: Instant,
    answer: impl FnMut(&Request<Incoming>) -> Answer + Send,
) -> hyper::Result<Option<(Opening, OnUpgrade)>> {
    let state = Mutex::new((answer, None));
    let service = |mut request: Request<Incoming>| {
        let (answer, upgrade) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let response = match answer(&request) {
            Answer::Plain(response) => response,
            Answer::Upgrade(response, opening) => {
                *upgrade = Some((opening, hyper::upgrade::on(&mut request)));
                response
            }
        };
        ready(Ok::<Response<Body>, Infallible>(response))
    };
    http1::Builder::new()
        // Without a timer hyper silently ignores the deadline.
        .timer(TokioTimer::new())
        .header_read_timeout(deadline.saturating_duration_since(Instant::now()))
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .half_close(true)
        // As Tornado and most servers write them: some small clients compare case.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(wire), service_fn(service))
        .with_upgrades()
        .await?;
    Ok(state.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

/// Serves one connection: one request, which is answered or upgraded.
///
/// It cannot fail. The head, with what comes before it, has to be complete within
/// `timeouts.handshake` of this call.
pub async fn serve<S>(stream: S, peer: PeerAddr, router: Arc<Router>, admission: Admission)
where
    S: Transport,
{
    let (service, policy) = (router.service(), router.policy());
    let _counted = service.count_connection();
    let mut caller = Caller {
        peer,
        proxy: None,
        accepted: Instant::now(),
        refused: matches!(admission, Admission::Overflow(_)).then_some(Rejection::Full),
        claim: None,
    };
    let trusted = policy.proxy.trusted.contains(peer);
    // A trusted proxy has yet to name its client, whose quota it is.
    if !trusted && caller.refused.is_none() {
        match service.claim(peer.into(), policy.max_connections_per_client) {
            Ok(claim) => caller.claim = claim,
            Err(rejection) => caller.refused = Some(rejection),
        }
    }
    let patience = policy.handshake_timeout;
    let patience = if caller.refused.is_some() { patience.min(SHORT_DEADLINE) } else { patience };
    let deadline = caller.accepted + patience;
    let mut wire = Wire::new(stream, policy.timeouts.close);

    let proxy = policy.proxy.protocol;
    let beginning = if proxy == Expect::Required && !trusted {
        Ok(Prologue::Wrong(Verdict::ProxyUntrusted))
    } else {
        timeout_at(deadline, prologue::read(&mut wire, proxy)).await
    };
    let unanswered = match beginning {
        Ok(Prologue::Request(first, header)) => {
            wire.unread(first);
            caller.proxy = header;
            match exchange(wire, deadline, |request| router.answer(request, &mut caller)).await {
                Ok(None) => return,
                Ok(Some((opening, upgraded))) => {
                    hand_over::<S>(opening, upgraded, service, admission).await;
                    return;
                }
                Err(error) => Unanswered::from(&error),
            }
        }
        Ok(Prologue::Wrong(verdict)) => {
            let refusal = Refusal::of_first_bytes(verdict);
            if service.refuse(peer, &refusal) {
                let reason = refusal.label();
                tracing::info!(%peer, reason, "connection refused: {}", refusal.message);
            }
            // A peer that does not wait for the answer loses nothing.
            let _ = wire.write_all(&refusal.bytes()).await;
            let _ = wire.shutdown().await;
            return;
        }
        Ok(Prologue::Silent) => {
            tracing::debug!(%peer, "the client left without sending a byte");
            return;
        }
        Ok(Prologue::Broken) => Unanswered::Incomplete,
        Err(_) => Unanswered::Timeout,
    };
    if service.refuse(peer, &unanswered) {
        let reason = unanswered.label();
        let sentence = unanswered.sentence();
        tracing::info!(%peer, reason, "connection closed unanswered: {sentence}");
    }
}

/// Takes the stream back from hyper after a 101, and starts the session on it.
///
/// hyper may have read past the request: what it holds of the client's first frames is the session's
/// first input. The session is a task of its own, so that it carries none of this connection's state
/// (request, hyper's buffers, this future) for the hours that it may last; only the permit moves on.
async fn hand_over<S: Transport>(
    opening: Opening,
    upgraded: OnUpgrade,
    service: &Arc<Service>,
    admission: Admission,
) {
    // The client may be gone before it has read the 101.
    if let Ok(upgraded) = upgraded.await {
        let (stream, first) = Wire::<S>::reclaim(upgraded);
        let session = upgrade::run(opening, Arc::clone(service), stream, first, admission.permit());
        service.drain().spawn(session);
    }
}
