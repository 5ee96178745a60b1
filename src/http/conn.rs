//! One connection, from accept to the end of its answer or to its upgrade.
//!
//! Owns its deadlines, the writing of an answer and the lingering close (RFC 9112, section 9.6). It
//! does not know the paths, nor what is spoken after the handshake.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

use super::admin;
use super::admission::Admission;
use super::exchange::{Written, exchange, own, unshared};
use super::head::BadHead;
use super::prologue::{self, Beginning, Prologue};
use super::refusal::Refusal;
use super::router::{Answer, Router};
use super::service::Service;
use super::upgrade::{self, Caller, Opening};
use crate::net::addr::PeerAddr;
use crate::net::stream::Transport;
use crate::ops::metrics::Label;
use crate::proxy::protocol::Expect;
use crate::ws::handshake::Rejection;
use crate::ws::session::{Charge, FREE};

/// How long a connection over a limit, or one to the admin listener, may last in all.
const BRIEF: Duration = Duration::from_secs(2);
/// How long a closed connection is read and its bytes thrown away.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    /// No complete head within `timeouts.handshake`.
    Timeout,
    /// No complete head within [`BRIEF`].
    Brief,
    /// The client closed the connection in the middle of its head.
    Incomplete,
    /// The answer could not be written.
    Broken,
    /// It had to make room in its lane.
    Evicted,
}

impl Label for Unanswered {
    fn label(&self) -> &'static str {
        match self {
            Self::Timeout | Self::Brief => "timeout",
            Self::Incomplete => "incomplete",
            Self::Broken => "broken",
            Self::Evicted => "full",
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "no complete request within timeouts.handshake",
            Self::Brief => "no complete request within the 2 s of a connection over a limit",
            Self::Incomplete => "the client closed the connection in the middle of its request",
            Self::Broken => "the connection broke before it was answered",
            Self::Evicted => "over a limit, and it made room for another one",
        })
    }
}

/// Serves one connection of the admin listener.
pub async fn serve_admin(mut stream: impl Transport, service: Arc<Service>, admission: Admission) {
    let end = Instant::now() + BRIEF;
    let read = {
        let budget = &service.shared.budget;
        let reading = pin!(prologue::read(&mut stream, Expect::Off, false, budget));
        within(pin!(sleep_until(end)), &admission, reading).await
    };
    let answer = match read {
        Ok(Prologue::Request(Beginning { head, .. })) => {
            let answer = |request: &_| (admin::answer(request, &service), ());
            match exchange(head, answer).await {
                Ok((bytes, ())) => bytes,
                Err(bad) => unshared(Refusal::from(bad).bytes()),
            }
        }
        Ok(Prologue::Bad(bad)) => unshared(Refusal::from(bad).bytes()),
        Ok(Prologue::Wrong { verdict, .. }) => unshared(Refusal::from(verdict).bytes()),
        Ok(Prologue::Silent | Prologue::Incomplete) | Err(_) => {
            tracing::debug!("admin: not answered");
            return;
        }
    };
    let charge = charge(&answer, &service);
    close(&mut stream, (answer, charge), &admission, Deadlines { written: end, closed: end }).await;
}

/// Serves one connection: one request, which is answered or upgraded.
///
/// It cannot fail. The head, with what comes before it, has to be complete within
/// `timeouts.handshake` of this call.
pub fn serve<S: Transport>(
    mut stream: S,
    peer: PeerAddr,
    router: Arc<Router>,
    mut admission: Admission,
) -> impl Future<Output = ()> + Send {
    let mut caller = Caller {
        peer,
        proxy: None,
        accepted: Instant::now(),
        refused: matches!(admission, Admission::Seated(_)).then_some(Rejection::Full),
        claim: None,
    };
    async move {
        let (service, policy) = (router.service(), router.policy());
        let _counted = service.count_connection();
        let trusted = policy.proxy.trusted.contains(caller.peer);
        // A trusted proxy has yet to name its client, whose quota it is.
        if !trusted && caller.refused.is_none() {
            caller.claim(service, policy.max_connections_per_client);
            if caller.refused.is_some() {
                Box::pin(admission.step_aside(&service.overflow)).await;
            }
        }
        let read = {
            let expect = policy.proxy.protocol;
            let reading =
                pin!(prologue::read(&mut stream, expect, trusted, &service.shared.budget));
            let (due, _) = head_due(&caller, policy.handshake_timeout);
            within(pin!(sleep_until(due)), &admission, reading).await
        };
        // Boxed: a connection without a head does not carry what follows it.
        Box::pin(respond(stream, read, &router, caller, admission)).await;
    }
}

/// By when a head has to be complete, and what it means if it is not.
fn head_due(caller: &Caller, timeout: Duration) -> (Instant, Unanswered) {
    match end(caller) {
        Some(end) if BRIEF < timeout => (end, Unanswered::Brief),
        _ => (caller.accepted + timeout, Unanswered::Timeout),
    }
}

/// When a connection over a limit ends, whatever it does.
fn end(caller: &Caller) -> Option<Instant> {
    caller.refused.map(|_| caller.accepted + BRIEF)
}

/// Answers or upgrades what began like this.
async fn respond<S: Transport>(
    mut stream: S,
    read: Result<Prologue, Unanswered>,
    router: &Router,
    mut caller: Caller,
    mut admission: Admission,
) {
    let (service, policy, peer) = (router.service(), router.policy(), caller.peer);
    let end = end(&caller);
    let answer = match read {
        Ok(Prologue::Request(Beginning { proxy, head, rest })) => {
            caller.proxy = proxy;
            match answer(head, router, &mut caller).await {
                Ok((bytes, None)) => bytes,
                Ok((mut bytes, Some(opening))) => {
                    let due = Instant::now() + policy.timeouts.close;
                    let written = {
                        let writing = pin!(stream.write_all_buf(&mut bytes));
                        within(pin!(sleep_until(due)), &admission, writing).await
                    };
                    if matches!(written, Ok(Ok(()))) {
                        start(opening, service, stream, rest, admission);
                    } else {
                        unanswered(service, peer, Unanswered::Broken);
                    }
                    return;
                }
                Err(bad) => refuse(service, peer, &bad.into()),
            }
        }
        Ok(Prologue::Wrong { verdict, by_proxy }) => {
            if by_proxy {
                service.metrics().fault(&verdict);
            }
            refuse(service, peer, &verdict.into())
        }
        Ok(Prologue::Bad(bad)) => refuse(service, peer, &bad.into()),
        Ok(Prologue::Silent) => {
            tracing::debug!(%peer, "the client left without sending a request");
            return;
        }
        Ok(Prologue::Incomplete) => return unanswered(service, peer, Unanswered::Incomplete),
        Err(Unanswered::Timeout) => {
            return unanswered(service, peer, head_due(&caller, policy.handshake_timeout).1);
        }
        Err(why) => return unanswered(service, peer, why),
    };
    // Before all that waits: others have to see that the memory is taken.
    let charge = charge(&answer, service);
    // Who gets no WebSocket takes no room from those that may.
    admission.step_aside(&service.overflow).await;
    let due = Deadlines::new(Instant::now() + policy.timeouts.close, end);
    close(&mut stream, (answer, charge), &admission, due).await;
}

/// Charges an answer to the budget while it waits to be written.
fn charge<'a>(answer: &Written, service: &'a Service) -> Charge<'a> {
    let mut charge = Charge::new(&service.shared.budget);
    charge.set(own(answer).saturating_sub(FREE));
    charge
}

/// Starts the session behind a 101, in a task of its own: it carries none of the connection's state for
/// the hours that it may last, only the permit.
fn start<S: Transport>(
    opening: Opening,
    service: &Arc<Service>,
    stream: S,
    first: Vec<u8>,
    admission: Admission,
) {
    let permit = admission.into_permit();
    service.drain().spawn(upgrade::run(opening, Arc::clone(service), stream, first, permit));
}

/// Answers a request; with the session to open, if it opens one.
async fn answer(
    head: Vec<u8>,
    router: &Router,
    caller: &mut Caller,
) -> Result<(Written, Option<Opening>), BadHead> {
    exchange(head, |request| match router.answer(request, caller) {
        Answer::Plain(response) => (response, None),
        Answer::Upgrade(response, opening) => (response, Some(opening)),
    })
    .await
}

/// Awaits a step of a connection, unless the timer strikes or it has to make room.
///
/// Timer and step are pinned by the caller: passed by value, they would be stored here once more.
fn within<F: Future>(
    mut timer: Pin<&mut Sleep>,
    admission: &Admission,
    mut step: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, Unanswered>> {
    let mut evicted = admission.evicted();
    poll_fn(move |cx| {
        if evicted.as_mut().is_some_and(|evicted| evicted.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(Unanswered::Evicted));
        }
        // Before the step: one that never waits would use up tokio's budget for the timer as well.
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Unanswered::Timeout));
        }
        step.as_mut().poll(cx).map(Ok)
    })
}

/// By when an answer has to be written, and its connection closed.
#[derive(Clone, Copy)]
struct Deadlines {
    written: Instant,
    closed: Instant,
}

impl Deadlines {
    /// A connection over a limit has an end of its own.
    fn new(written: Instant, end: Option<Instant>) -> Self {
        match end {
            Some(end) => Self { written: end.min(written), closed: end },
            None => Self { written, closed: written + LINGER },
        }
    }
}

/// Writes an answer and closes the connection, in time.
///
/// Closing while bytes are in flight makes the kernel send a reset, which can overtake the answer: so
/// the client is read until it closes too, for [`LINGER`] at most, however much it sends.
async fn close(
    stream: &mut impl Transport,
    (mut answer, charge): (Written, Charge<'_>),
    admission: &Admission,
    due: Deadlines,
) {
    let written = {
        let writing = pin!(async {
            stream.write_all_buf(&mut answer).await?;
            stream.shutdown().await
        });
        within(pin!(sleep_until(due.written)), admission, writing).await
    };
    if !matches!(written, Ok(Ok(()))) {
        // A client that does not read its answer loses nothing.
        return;
    }
    drop((answer, charge));
    // Not an array, which every connection's future would have to hold.
    let mut discarded = vec![0; 4096];
    let discarding = pin!(async { while matches!(stream.read(&mut discarded).await, Ok(1..)) {} });
    // The answer is written: whether the client closes in time does not matter any more.
    let closed = due.closed.min(Instant::now() + LINGER);
    let _ = within(pin!(sleep_until(closed)), admission, discarding).await;
}

/// Counts and logs a connection that is refused before there is a request, and words its answer.
fn refuse(service: &Service, peer: PeerAddr, refusal: &Refusal) -> Written {
    if service.refuse(peer.into(), refusal) {
        let reason = refusal.label();
        tracing::info!(%peer, reason, "connection refused: {}", refusal.message);
    }
    unshared(refusal.bytes())
}

/// Counts and logs a connection that ended without an answer.
fn unanswered(service: &Service, peer: PeerAddr, why: Unanswered) {
    if service.refuse(peer.into(), &why) {
        let reason = why.label();
        tracing::info!(%peer, reason, "connection closed unanswered: {why}");
    }
}
