//! One open WebSocket: the engine on a stream (RFC 6455, sections 5.5 and 7).
//!
//! Owns reading and writing in turns, and back-pressure. What is due when nothing happens is in
//! `times`, the way out in `stage`. It does not know HTTP, addresses or logs; what the bytes mean is
//! for the engine.
//!
//! Idle, a session owns its task and nothing else: reads go through one buffer per worker thread,
//! and output that the socket takes at once is sent from there.

mod backlog;
mod budget;
mod ended;
mod owed;
mod script;
mod stage;
mod times;
mod turn;
mod unproven;
mod write;

use std::cell::RefCell;
use std::future::Future;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFuture;

use self::backlog::{Backlog, Spare};
pub use self::budget::{Budget, Charge};
pub use self::ended::Ended;
use self::script::Plan;
pub use self::script::{After, Closing, Ping, Script};
use self::stage::Stage;
pub use self::times::Timeouts;
use self::unproven::Unproven;
use crate::net::stream::Transport;
use crate::ops::drain::Drain;
use crate::ops::metrics::Metrics;
use crate::ws::deflate::inflate::Inflaters;
use crate::ws::engine::{Counts, Echo, Engine, Out, Phase};

/// The most that is read at once, in bytes: large reads are what makes large messages cheap. A
/// little over half a MiB, so that a header does not cost a message of 1 MiB a third read. It is
/// also what one read may produce, and what a session reads or produces before others have their
/// turn.
const WINDOW: usize = 516 * 1024;
/// The same while others on the worker echo small messages: those wait half as long, and the large
/// ones become a tenth slower.
const SHORT_WINDOW: usize = 132 * 1024;
/// After a small message, so many turns of its worker are short.
const SHORT_TURNS: u32 = 16;
/// Reads in one turn, however small. Well below tokio's own budget for a task, so that a write that
/// is not ready always means that the socket is full.
const READS: u32 = 32;
/// What one read may take and produce when the process has no memory left.
const SMALL_WINDOW: usize = 4096;
/// What a connection may hold uncharged, in bytes.
pub const FREE: usize = 4096;
/// A client that has been sent this many bytes within this time of its beginning reads fast.
const FAST: (u64, Duration) = (4 << 20, Duration::from_secs(4));

/// What became of one session.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What was echoed.
    pub counts: Counts,
    /// How long it lasted.
    pub lasted: Duration,
}

/// What all sessions of the process share.
pub struct Shared {
    /// The memory they may take.
    pub budget: Budget,
    /// When and how they have to end.
    pub drain: Drain,
    /// Where they are counted.
    pub metrics: Metrics,
    /// How many are never pinged.
    unpinged: AtomicUsize,
}

impl Shared {
    /// What the sessions of a new process share.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let (drain, metrics, unpinged) = (Drain::default(), Metrics::new(), AtomicUsize::new(0));
        Self { budget, drain, metrics, unpinged }
    }
}

/// Echoes until the session ends. `first` is what the client sent together with its handshake.
///
/// A client that is silent for `timeouts.ping_interval` is pinged, unless `script` says otherwise.
/// Without pings, the session ends after an hour. Only 100 sessions at a time are pinged later than
/// usual, or never. With `compression`, the handshake agreed to permessage-deflate.
pub fn run<'a, S>(
    stream: S,
    first: Vec<u8>,
    echo: Arc<Echo>,
    timeouts: &'a Timeouts,
    shared: &'a Shared,
    script: Option<&'a Script>,
    compression: bool,
) -> impl Future<Output = Report> + use<'a, S>
where
    S: Transport,
{
    let engine = Engine::new(script::echo(script, echo), compression);
    let session = Session::new(stream, first, engine, timeouts, shared, script);
    let timer = sleep_until(session.due().0);
    Running { session, timer, drain: shared.drain.begun() }
}

pin_project! {
    /// A session and what wakes it: nearly all that an idle one costs. An async block would keep
    /// references into itself besides.
    #[project = Projection]
    struct Running<'a, S> {
        session: Session<'a, S>,
        #[pin]
        timer: Sleep,
        #[pin]
        drain: WaitForCancellationFuture<'a>,
    }
}

impl<S: Transport> Future for Running<'_, S> {
    type Output = Report;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let Projection { session, timer, drain } = self.project();
        let ended = ready!(session.poll(cx, timer, drain));
        Poll::Ready(Report { ended, counts: session.counts(), lasted: session.began.elapsed() })
    }
}

/// What a worker thread lends to the session whose turn it is.
struct Scratch {
    window: Box<[u8]>,
    out: Out,
    spare: Spare,
    inflaters: Inflaters,
    /// How many of its next turns are short.
    short_turns: u32,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        window: vec![0; WINDOW].into_boxed_slice(),
        out: Out::new(),
        spare: Spare::default(),
        inflaters: Inflaters::default(),
        short_turns: 0,
    });
}

struct Session<'a, S> {
    stream: S,
    /// Input that the engine has not taken: what came with the handshake, or more compressed
    /// messages than may be inflated in one turn.
    unread: Option<Box<Cursor<Box<[u8]>>>>,
    timeouts: &'a Timeouts,
    shared: &'a Shared,
    engine: Engine,
    backlog: Backlog,
    charge: Charge<'a>,
    stage: Stage,
    plan: Plan<'a>,
    began: Instant,
    /// When the last byte came.
    heard: Option<Instant>,
    /// When the ping was sent that nothing has come after.
    pinged: Option<Instant>,
    /// What the client may have to read before it can answer.
    unproven: Unproven,
    /// When the socket last took a byte of the backlog, or the backlog began.
    progress: Instant,
    /// Since when memory has been charged, or was last found affordable.
    holding: Option<Instant>,
}

impl<'a, S: Transport> Session<'a, S> {
    fn new(
        stream: S,
        first: Vec<u8>,
        engine: Engine,
        timeouts: &'a Timeouts,
        shared: &'a Shared,
        script: Option<&'a Script>,
    ) -> Self {
        let began = Instant::now();
        let first = first.into_boxed_slice();
        // Our own timer has to fire first: it can tell a slow peer from a dead one.
        let is_usual = script.is_none_or(|script| script.ping == Ping::Usual);
        stream.prepare(timeouts.write + Duration::from_secs(10), is_usual);
        let mut session = Self {
            stream,
            heard: (!first.is_empty()).then_some(began),
            unread: (!first.is_empty()).then(|| Box::new(Cursor::new(first))),
            timeouts,
            shared,
            engine,
            backlog: Backlog::default(),
            charge: Charge::new(&shared.budget),
            stage: Stage::Open { registered: false },
            plan: Plan::new(script, timeouts.ping_interval, &shared.unpinged),
            began,
            pinged: None,
            unproven: Unproven::default(),
            progress: began,
            holding: None,
        };
        session.settle(began);
        SCRATCH.with_borrow_mut(|scratch| session.begin(scratch));
        session
    }

    /// One turn, and whatever is due.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        drain: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Poll<Ended> {
        // Polled once to be woken when the drain begins, and not again before that: it takes a lock
        // that all sessions share.
        if let Stage::Open { registered } = self.stage
            && (!registered || self.shared.drain.is_draining())
        {
            self.stage = match drain.poll(cx) {
                Poll::Ready(()) => {
                    Stage::Draining { slot: self.shared.drain.slot(), fed: Instant::now() }
                }
                Poll::Pending => Stage::Open { registered: true },
            };
        }
        let before = self.counts();
        let polled = SCRATCH.with_borrow_mut(|scratch| {
            loop {
                if let Poll::Ready(ended) = self.poll_turn(cx, scratch) {
                    return Poll::Ready(ended);
                }
                let (deadline, _) = self.due();
                if deadline < timer.deadline() {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                // The timer is never moved later while a session is busy, because moving it costs
                // more than an early wake-up: the deadline may have moved since it was set.
                let (deadline, due) = self.due();
                let over = if deadline <= now { self.act(due, now, scratch) } else { None };
                if let Some(ended) = over {
                    return Poll::Ready(ended);
                }
                timer.as_mut().reset(self.due().0);
            }
        });
        self.count_since(before);
        polled
    }

    /// What came, and what of its echo the socket has taken.
    fn counts(&self) -> Counts {
        self.backlog.taken_off(self.engine.counts())
    }

    /// Adds what was echoed since `before` to the metrics, and gives a fast reader a longer queue.
    fn count_since(&self, before: Counts) {
        let now = self.counts();
        if now == before {
            return;
        }
        let (much, time) = FAST;
        if before.bytes_out < much && now.bytes_out >= much && self.began.elapsed() < time {
            self.stream.widen();
        }
        let traffic = &self.shared.metrics.traffic;
        traffic.add(
            now.messages - before.messages,
            now.bytes_in - before.bytes_in,
            now.bytes_out - before.bytes_out,
        );
        if now.compressed_in > 0 {
            traffic.add_inflated(
                now.compressed_in - before.compressed_in,
                now.inflated - before.inflated,
            );
        }
    }

    /// Adds the engine's output, but for its first `sent` bytes, to the backlog.
    fn owe(&mut self, out: &Out, window: &[u8], sent: usize, spare: &mut Spare, now: Instant) {
        if self.backlog.is_empty() {
            self.progress = now;
        }
        let total = out.len() - sent;
        self.backlog.extend(out.unsent(window, sent), total, spare);
        self.settle(now);
    }

    /// Notes that the socket took this many bytes.
    fn sent(&mut self, bytes: usize) {
        let before = self.unproven;
        self.unproven.sent(bytes);
        if self.unproven.is_much() && !before.is_much() {
            self.stream.clear_user_timeout();
        }
    }

    /// Brings charge and stage in line with what the engine and the backlog hold now.
    fn settle(&mut self, now: Instant) {
        let unread = self.unread.as_ref().map_or(0, |unread| unread.get_ref().len());
        let unsent = self.engine.held_capacity() + self.backlog.capacity();
        let held = unread + self.plan.held() + unsent;
        let charged = held.saturating_sub(FREE);
        self.charge.set(charged);
        self.holding = (charged > 0).then(|| self.holding.unwrap_or(now));
        if self.engine.phase() == Phase::Closing && self.backlog.is_empty() {
            self.stage = self.stage.after_our_close(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::io::ReadBuf;
    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::sleep;

    /// A stream whose shutdown takes some time, as that of TLS may.
    struct SlowToShut {
        stream: DuplexStream,
        delay: Option<Pin<Box<Sleep>>>,
    }

    impl Transport for SlowToShut {}

    impl AsyncRead for SlowToShut {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for SlowToShut {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let second = || Box::pin(sleep(Duration::from_secs(1)));
            std::task::ready!(self.delay.get_or_insert_with(second).as_mut().poll(cx));
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pending_shutdown_is_polled_until_it_is_done() {
        let shared = Shared::new(Budget::new(1 << 20));
        let (timeouts, echo) = (Timeouts::default(), Arc::default());
        let (mut client, stream) = duplex(1024);
        let stream = SlowToShut { stream, delay: None };
        client.shutdown().await.expect("a duplex pair can");
        let report = run(stream, Vec::new(), echo, &timeouts, &shared, None, false).await;
        assert_eq!(report.ended, Ended::NeverUsed(None));
        assert_eq!(report.lasted.as_secs(), 1, "the FIN was sent");
    }
}
