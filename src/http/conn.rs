//! One connection, from accept to its answer or its upgrade.
//!
//! Owns hyper's builder and its timer: the limits on a request's head, the one deadline for it and
//! for what comes before, and the hand-over of the stream after an upgrade. It does not know the
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
use super::prologue::{self, Prologue};
use super::refusal::{Body, Refusal};
use super::router::{Answer, Caller, Lasting, Opening, Router};
use super::wire::Wire;
use crate::net::listen::{PeerAddr, Transport};
use crate::net::proxy_protocol::Expect;
use crate::ops::metrics::Label;
use crate::ws::diagnosis::Verdict;
use crate::ws::handshake::Rejection;

/// The largest request head, in bytes; more is answered with 431.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields in a request; more are answered with 431.
const MAX_FIELDS: usize = 64;
/// The most that a connection over a limit, or one of the admin listener, may take over its request.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);

/// By which right a connection is served. The permit is kept as long as the connection lives.
#[derive(Debug)]
pub enum Admission {
    /// It is one of `limits.max_connections`.
    Admitted(OwnedSemaphorePermit),
    /// It is one too many: it is told so, and only `/healthz` is answered.
    Overflow(OwnedSemaphorePermit),
}

impl Admission {
    fn permit(self) -> OwnedSemaphorePermit {
        match self {
            Self::Admitted(permit) | Self::Overflow(permit) => permit,
        }
    }
}

/// Why a connection ended without an answer of the router.
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
            Self::Incomplete => "the client left in the middle of its request",
            Self::Broken => "the connection broke",
        }
    }
}

/// Serves one connection of the admin listener. The permit is kept as long as it lives.
pub async fn serve_admin(
    stream: impl Transport,
    lasting: Arc<Lasting>,
    _permit: OwnedSemaphorePermit,
) {
    let wire = Wire::new(stream, SHORT_DEADLINE);
    let answer = |request: &Request<Incoming>| Answer::Plain(admin::answer(request, &lasting));
    let deadline = Instant::now() + SHORT_DEADLINE;
    if let Err(error) = exchange(wire, deadline, answer).await {
        tracing::debug!(reason = Unanswered::from(&error).label(), "admin: not answered");
    }
}

/// Reads one request and answers it. Returns what has to be done if that opens a WebSocket.
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
        // Without a timer of its own hyper ignores the deadline silently.
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
    let lasting = router.lasting();
    let _counted = lasting.count_connection();
    let mut caller = Caller {
        peer,
        proxy: None,
        accepted: Instant::now(),
        refused: matches!(admission, Admission::Overflow(_)).then_some(Rejection::Full),
        claim: None,
    };
    let policy = router.policy();
    let trusted = policy.proxy.trusted.contains(peer);
    // Whoever may name another client is not judged before having done so.
    if !trusted && caller.refused.is_none() {
        match router.claim(peer.into()) {
            Ok(claim) => caller.claim = claim,
            Err(rejection) => caller.refused = Some(rejection),
        }
    }
    let patience = policy.timeouts.handshake;
    let patience = if caller.refused.is_some() { patience.min(SHORT_DEADLINE) } else { patience };
    let deadline = caller.accepted + patience;
    let mut wire = Wire::new(stream, policy.timeouts.session.close);

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
                    // The client may be gone before it could read the 101.
                    if let Ok(upgraded) = upgraded.await {
                        let (stream, first) = Wire::<S>::reclaim(upgraded);
                        // A task of its own: what the request needed is freed, the session stays
                        // small.
                        let session =
                            Arc::clone(&router).run(opening, stream, first, admission.permit());
                        lasting.drain().spawn(session);
                    }
                    return;
                }
                Err(error) => Unanswered::from(&error),
            }
        }
        Ok(Prologue::Wrong(verdict)) => {
            let refusal = Refusal::of_first_bytes(verdict);
            if lasting.refuse(peer, &refusal) {
                let reason = refusal.label();
                tracing::info!(%peer, reason, "connection refused: {}", refusal.message);
            }
            // A peer that does not wait for our words loses nothing by it.
            let _ = wire.write_all(&refusal.bytes()).await;
            let _ = wire.shutdown().await;
            return;
        }
        Ok(Prologue::Silent) => {
            tracing::debug!(%peer, "the client left without a word");
            return;
        }
        Ok(Prologue::Broken) => Unanswered::Incomplete,
        Err(_) => Unanswered::Timeout,
    };
    if lasting.refuse(peer, &unanswered) {
        let reason = unanswered.label();
        let sentence = unanswered.sentence();
        tracing::info!(%peer, reason, "connection closed without an answer of ours: {sentence}");
    }
}
