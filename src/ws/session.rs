//! One open WebSocket: the engine on a stream (RFC 6455, sections 5.5 and 7).
//!
//! Owns reading and writing in turns, back-pressure, and the way out: Close, FIN, the client's FIN.
//! What becomes due when nothing happens is in `times`. It does not know HTTP, addresses or logs;
//! what the bytes mean is the engine's.
//!
//! Idle, a session owns its task and nothing else: reads go through one buffer per worker thread,
//! and output that the socket takes at once is sent from there.

mod backlog;
mod budget;
mod ended;
mod times;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use self::backlog::{Backlog, Spare};
pub use self::budget::{Budget, Charge};
pub use self::ended::Ended;
use crate::net::listen::Transport;
use crate::ops::drain::{Drain, Slot};
use crate::ops::metrics::Metrics;
use crate::ws::engine::{Counts, Echo, End, Engine, Out, Phase, Pressure};

/// The most that is read at once, in bytes: large reads are what makes large messages cheap. A
/// little over half a MiB, so that a header does not cost a message of 1 MiB a third read. One such
/// read is also the most that a session does before others have their turn.
const WINDOW: usize = 516 * 1024;
/// Reads in one turn, however small; well below tokio's own limit, so that a write is held up by
/// the socket alone.
const READS: u32 = 32;
/// The most slices given to one write; the kernel's own limit is 1,024.
const SLICES: usize = 64;
/// What may be read, and must be answered, when the process has no memory left.
const SMALL_WINDOW: usize = 4096;
/// What a connection may hold without being charged for it, in bytes.
pub const FREE: usize = 4096;
/// A client that has been sent so many bytes within so much time of its beginning reads fast.
const FAST: (u64, Duration) = (4 << 20, Duration::from_secs(4));

/// The times of a session: `[timeouts]` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A client that was silent for so long, give or take a tenth, is pinged.
    pub ping_interval: Duration,
    /// A pinged client from which no byte comes for so long is gone.
    pub pong: Duration,
    /// A client that takes no byte of what it is owed for so long is dropped.
    pub write: Duration,
    /// How long the closing handshake may take.
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            pong: Duration::from_secs(20),
            write: Duration::from_secs(30),
            close: Duration::from_secs(5),
        }
    }
}

/// What one session did.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// What was echoed.
    pub counts: Counts,
    /// How long it took.
    pub lasted: Duration,
}

/// What all sessions of a process share.
pub struct Shared {
    /// The memory of the process.
    pub budget: Budget,
    /// When the service stops.
    pub drain: Drain,
    /// What is counted.
    pub metrics: Metrics,
}

/// Echoes until the session ends. `first` is what the client sent together with its handshake.
///
/// With `pings` the client is pinged when it is silent; without, the session is silent too, and
/// ends after an hour.
pub fn run<'a, S>(
    stream: S,
    first: &[u8],
    echo: Arc<Echo>,
    timeouts: &'a Timeouts,
    shared: &'a Shared,
    pings: bool,
) -> impl Future<Output = Report> + use<'a, S>
where
    S: Transport,
{
    let mut session = Session::new(stream, echo, timeouts, shared, pings);
    session.begin_with(first);
    // The session is used where the future holds it: moved once more, it would be stored twice.
    async move {
        let mut timer = pin!(sleep_until(session.due().0));
        let mut slot = pin!(shared.drain.slot());
        let ended = poll_fn(|cx| session.poll(cx, timer.as_mut(), slot.as_mut())).await;
        Report { ended, counts: session.engine.counts(), lasted: session.began.elapsed() }
    }
}

/// What a worker lends to the session that has its turn.
struct Scratch {
    window: Box<[u8]>,
    out: Out,
    spare: Spare,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        window: vec![0; WINDOW].into_boxed_slice(),
        out: Out::new(),
        spare: Spare::default(),
    });
}

/// Why the server closes a session by its own will.
#[derive(Clone, Copy)]
enum Asked {
    Draining,
    TooOld,
}

struct Session<'a, S> {
    stream: S,
    timeouts: &'a Timeouts,
    shared: &'a Shared,
    engine: Engine,
    backlog: Backlog,
    charge: Charge<'a>,
    /// How long a silence leads to a ping; `None` means never.
    interval: Option<Duration>,
    began: Instant,
    /// When the last byte came; at first, when the session began.
    heard: Instant,
    /// When the ping was sent that nothing has come after.
    pinged: Option<Instant>,
    /// When the socket last took a byte of the backlog, or the backlog began.
    progress: Instant,
    /// Since when, or since which check, memory is charged.
    holding: Option<Instant>,
    /// Set when the drain has begun.
    slot: Option<Slot>,
    /// Why we asked the engine to close, if we did.
    asked: Option<Asked>,
    /// Nothing more is expected of the client: its side has ended, or our patience.
    eof: bool,
    /// Whether the client reads fast is known.
    rated: bool,
    /// The drain knows whom to wake.
    registered: bool,
    /// When the socket took our Close, while the client's has not come.
    closing: Option<Instant>,
    /// When our side of the connection was closed.
    left: Option<Instant>,
}

impl<'a, S: Transport> Session<'a, S> {
    fn new(
        stream: S,
        echo: Arc<Echo>,
        timeouts: &'a Timeouts,
        shared: &'a Shared,
        pings: bool,
    ) -> Self {
        let began = Instant::now();
        let interval = timeouts.ping_interval;
        Self {
            stream,
            timeouts,
            shared,
            engine: Engine::new(echo),
            backlog: Backlog::default(),
            charge: Charge::new(&shared.budget),
            // Clients that came together shall not be pinged together.
            interval: pings.then(|| interval.mul_f64(0.9 + 0.2 * fastrand::f64())),
            began,
            heard: began,
            pinged: None,
            progress: began,
            holding: None,
            slot: None,
            asked: None,
            eof: false,
            rated: false,
            registered: false,
            closing: None,
            left: None,
        }
    }

    /// Takes what came with the handshake; its echo waits for the first turn.
    fn begin_with(&mut self, first: &[u8]) {
        let mut window = first.to_vec();
        let mut taken = 0;
        while taken < window.len() {
            let mut out = Out::new();
            let rest = &mut window[taken..];
            taken += self.engine.receive(rest, &mut out, Pressure::default());
            let total = out.len();
            self.backlog.extend(out.unsent(rest, 0), total, &mut Spare::default());
        }
        self.settle(self.began);
        self.count_since(Counts::default());
    }

    /// One turn, and whatever has become due.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        slot: Pin<&mut impl Future<Output = Slot>>,
    ) -> Poll<Ended> {
        // Polled once to be woken, and then not before there is something to learn: it takes a
        // lock that all sessions share.
        if self.slot.is_none() && (!self.registered || self.shared.drain.is_draining()) {
            self.registered = true;
            if let Poll::Ready(slot) = slot.poll(cx) {
                self.slot = Some(slot);
            }
        }
        let before = self.engine.counts();
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
                // It may have moved since the timer was set: then the timer only runs on.
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

    /// Adds to what all sessions have echoed what this one has since `before`.
    fn count_since(&self, before: Counts) {
        let now = self.engine.counts();
        if now != before {
            self.shared.metrics.traffic.add(
                now.messages - before.messages,
                now.bytes_in - before.bytes_in,
                now.bytes_out - before.bytes_out,
            );
        }
    }

    /// Adds what is left of the engine's output after the first `sent` bytes to what is owed.
    fn owe(&mut self, out: &mut Out, window: &[u8], sent: usize, spare: &mut Spare, now: Instant) {
        if self.backlog.is_empty() {
            self.progress = now;
        }
        let total = out.len() - sent;
        self.backlog.extend(out.unsent(window, sent), total, spare);
        self.settle(now);
    }

    /// Draws the consequences of what the engine and the backlog hold now.
    fn settle(&mut self, now: Instant) {
        let held = self.engine.held_capacity() + self.backlog.capacity();
        let charged = held.saturating_sub(FREE);
        self.charge.set(charged);
        self.holding = (charged > 0).then(|| self.holding.unwrap_or(now));
        if self.engine.phase() == Phase::Closing && self.backlog.is_empty() {
            self.closing.get_or_insert(now);
        }
    }

    /// Sends what is owed, then reads and echoes, until the socket has no more or others have to
    /// have their turn.
    fn poll_turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Ended> {
        let mut bytes = 0;
        let mut reads = 0;
        loop {
            if !self.backlog.is_empty() {
                match self.backlog.poll_send(&mut self.stream, cx, &mut scratch.spare) {
                    Ok(0) => {}
                    Ok(_) => {
                        let now = Instant::now();
                        self.progress = now;
                        self.settle(now);
                    }
                    Err(error) => return Poll::Ready(self.broken(&error)),
                }
            }
            if self.backlog.is_empty() && self.is_over() {
                if self.release_pong(scratch) {
                    continue;
                }
                if let Poll::Ready(ended) = self.poll_leave(cx) {
                    return Poll::Ready(ended);
                }
            }
            let room = self.room();
            if room == 0 {
                return Poll::Pending;
            }
            if bytes >= WINDOW || reads >= READS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = ReadBuf::new(&mut scratch.window[..room]);
            let read = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => buffer.filled().len(),
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Pending => {
                    if self.release_pong(scratch) {
                        continue;
                    }
                    return Poll::Pending;
                }
            };
            if read == 0 {
                self.eof = true;
                continue;
            }
            bytes += read;
            reads += 1;
            if let Err(error) = self.echo(cx, scratch, read) {
                return Poll::Ready(self.broken(&error));
            }
        }
    }

    /// How much may be read now, in bytes. While output waits, memory is what limits reading; when
    /// the process has none left, reading waits for writing.
    fn room(&self) -> usize {
        if self.eof {
            return 0;
        }
        let spent = self.shared.budget.is_spent();
        match (self.backlog.is_empty(), spent) {
            (true, false) => WINDOW,
            (true, true) => SMALL_WINDOW,
            (false, true) => 0,
            (false, false) => {
                // A client that writes a whole message before it reads must not be stuck.
                let max = usize::try_from(self.engine.max_message_size());
                let max = max.unwrap_or(usize::MAX);
                let allowance = max.saturating_add(max / 1024 + 64 * 1024);
                WINDOW.min(allowance.saturating_sub(self.backlog.len()))
            }
        }
    }

    /// Gives the engine what was read, and the socket what it answers.
    fn echo(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, read: usize) -> io::Result<()> {
        let now = Instant::now();
        self.heard = now;
        if let Some(pinged) = self.pinged.take() {
            self.shared.metrics.ping_round_trip.observe((now - pinged).as_secs_f64());
        }
        let Scratch { window, out, spare } = scratch;
        let mut taken = 0;
        while taken < read {
            let pressure = Pressure {
                unsent: !self.backlog.is_empty(),
                memory_spent: self.shared.budget.is_spent(),
            };
            let rest = &mut window[taken..read];
            out.clear();
            taken += self.engine.receive(rest, out, pressure);
            let sent =
                if pressure.unsent { 0 } else { poll_send_out(&mut self.stream, cx, out, rest)? };
            if sent < out.len() {
                self.owe(out, rest, sent, spare, now);
            }
        }
        if !self.rated && self.engine.counts().bytes_out >= FAST.0 {
            self.rated = true;
            if now < self.began + FAST.1 {
                self.stream.widen();
            }
        }
        self.settle(now);
        Ok(())
    }

    /// Sends the pong that waited for the backlog; says whether there was one.
    fn release_pong(&mut self, scratch: &mut Scratch) -> bool {
        let Scratch { out, spare, .. } = scratch;
        if !self.backlog.is_empty() {
            return false;
        }
        out.clear();
        self.engine.release_pong(out);
        if out.is_empty() {
            return false;
        }
        self.owe(out, &[], 0, spare, Instant::now());
        true
    }

    /// Whether nothing is left but to close the connection.
    fn is_over(&self) -> bool {
        self.eof || self.engine.phase() == Phase::Closed
    }

    /// Closes our side. After both Close frames the client's end is waited for: a connection that
    /// is closed while bytes are under way is reset, and a reset can overtake our Close.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.left.is_none() {
            self.left = Some(Instant::now());
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if self.eof { Poll::Ready(self.ended()) } else { Poll::Pending }
    }

    fn ended(&self) -> Ended {
        match (self.asked, self.engine.end()) {
            (Some(Asked::Draining), Some(End::Server { .. })) => Ended::Draining,
            (Some(Asked::TooOld), Some(End::Server { .. })) => Ended::TooOld,
            (_, Some(end)) => Ended::Closed(end.clone()),
            (_, None) => Ended::Eof,
        }
    }

    /// How the session ended, if the connection broke now: after both Close frames it has not.
    fn broken(&self, error: &io::Error) -> Ended {
        if self.engine.end().is_some() { self.ended() } else { Ended::Broken(error.kind()) }
    }
}

/// Writes as much of the engine's output as the socket takes, and says how much that was.
fn poll_send_out(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    out: &Out,
    window: &[u8],
) -> io::Result<usize> {
    let mut sent = 0;
    while sent < out.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (place, slice) in slices.iter_mut().zip(out.unsent(window, sent)) {
            *place = IoSlice::new(slice);
            count += 1;
        }
        let written = poll_write(stream, cx, &slices[..count])?;
        if written == 0 {
            break;
        }
        sent += written;
    }
    Ok(sent)
}

/// Writes once, and says how much the socket took: 0 when it takes no more now.
fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    match Pin::new(stream).poll_write_vectored(cx, slices) {
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(written) => written,
        Poll::Pending => Ok(0),
    }
}
