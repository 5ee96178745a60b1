//! Load from one thread: throughput and latency.
//!
//! Owns a run: how its connections are opened, when it ends, and what it counts. It does not know
//! frames. Memory does not grow with the messages: they are counted, and their times in a histogram.

mod connection;
mod histogram;
mod pace;
mod replies;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use futures_util::task::AtomicWaker;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, interval};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use self::connection::Connection;
use self::histogram::Histogram;
use self::pace::Schedule;
use self::replies::Payloads;
use super::Path;
use crate::probe::failure::{Failed, Failure};
use crate::probe::report::measured::{Load, Pace};
use crate::probe::wire::Stream;
use crate::ws::frame::write_masked;

/// How many handshakes are in flight at once.
const OPENING: usize = 16;
/// What one read takes at most, and about what one write does, in bytes.
const BUFFER: usize = 256 * 1024;
/// How often patience is checked and progress shown.
const TICK: Duration = Duration::from_millis(250);
/// How long the closing handshakes may take after the last echo, and all of it after Ctrl-C.
const LEAVING: Duration = Duration::from_secs(1);

/// The load to put on a server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long messages are sent.
    pub time: Duration,
    /// On how many connections.
    pub connections: u16,
    /// When they are sent.
    pub pace: Pace,
    /// Bytes of payload in each.
    pub bytes: usize,
}

/// What all connections of a run share.
struct Run {
    settings: Settings,
    schedule: Schedule,
    /// Whether the server sends a text first.
    greeting: bool,
    payloads: Payloads,
    /// A frame for each payload, and the length of one.
    frames: Vec<u8>,
    frame: usize,
    begun: Instant,
    /// When the last message is sent: as planned, or when Ctrl-C was pressed.
    end: Cell<Instant>,
    /// How long an echo may take.
    patience: Duration,
    interrupted: Cell<bool>,
    scratch: RefCell<Vec<u8>>,
    tally: RefCell<Tally>,
    /// One for each connection.
    wakers: Vec<AtomicWaker>,
}

struct Tally {
    sent: u64,
    echoed: u64,
    /// When the last echo came.
    last: Instant,
    latency: Histogram,
    lag: Histogram,
}

impl Run {
    fn new(settings: Settings, connections: usize, patience: Duration, greeting: bool) -> Self {
        let payloads = Payloads::new(settings.bytes, (BUFFER / settings.bytes.max(16)).max(2));
        let mut frames = Vec::new();
        for index in 0..payloads.count {
            let mask = fastrand::u32(..).to_ne_bytes();
            let binary = OpCode::Data(Data::Binary);
            write_masked(&mut frames, (true, false), binary, mask, payloads.get(index));
        }
        let rate = match settings.pace {
            Pace::Open { rate } => rate,
            Pace::Closed { .. } => 1,
        };
        let begun = Instant::now();
        Self {
            settings,
            schedule: Schedule::new(rate, connections.max(1), settings.time),
            greeting,
            frame: frames.len() / payloads.count,
            frames,
            payloads,
            begun,
            end: Cell::new(begun + settings.time),
            patience,
            interrupted: Cell::new(false),
            scratch: RefCell::new(vec![0; BUFFER]),
            tally: RefCell::new(Tally {
                sent: 0,
                echoed: 0,
                last: begun,
                latency: Histogram::new(),
                lag: Histogram::new(),
            }),
            wakers: (0..connections).map(|_| AtomicWaker::new()).collect(),
        }
    }

    /// Whether nothing more is sent.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.end.get()
    }

    fn wake_all(&self) {
        self.wakers.iter().for_each(AtomicWaker::wake);
    }

    /// Sends and receives on all connections until everything came back, one of them fails, or
    /// Ctrl-C is pressed.
    async fn drive(
        &self,
        streams: Vec<Stream>,
        ctrl_c: &mut Signal,
        show: impl Fn(&Self),
    ) -> Result<(), Failed> {
        let connections = streams.into_iter().enumerate();
        let mut running: FuturesUnordered<_> =
            connections.map(|(index, stream)| Connection::new(self, index, stream)).collect();
        let is_open = matches!(self.settings.pace, Pace::Open { .. });
        let mut pacing = pin!(self.schedule.run(self.begun, |index| self.wakers[index].wake()));
        let mut is_paced = !is_open;
        let mut leave = self.end.get() + self.patience + LEAVING;
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                biased;
                ended = running.next() => match ended {
                    None => return Ok(()),
                    Some(ended) => ended?,
                },
                paced = &mut pacing, if !is_paced => {
                    paced.map_err(|error| {
                        let seen = format!("This host has no timer to send by: {error}.");
                        Failed::new(Failure::ConnectFailed, seen)
                    })?;
                    is_paced = true;
                }
                now = ticks.tick() => {
                    // Who does not answer a Close is not waited for.
                    if now >= leave {
                        return Ok(());
                    }
                    self.wake_all();
                    show(self);
                }
                _ = ctrl_c.recv(), if !self.interrupted.get() => {
                    let now = Instant::now();
                    self.interrupted.set(true);
                    self.end.set(now.min(self.end.get()));
                    leave = leave.min(now + LEAVING);
                    is_paced = true;
                    self.wake_all();
                }
            }
        }
    }

    /// What was found so far; `opening` is the time for all handshakes.
    fn found(&self, opening: Duration, complete: bool) -> Load {
        let tally = self.tally.borrow();
        let until = if complete { tally.last.max(self.end.get()) } else { Instant::now() };
        let is_open = matches!(self.settings.pace, Pace::Open { .. });
        Load {
            connections: self.wakers.len(),
            pace: self.settings.pace,
            bytes: self.settings.bytes,
            opening,
            took: until - self.begun,
            sent: tally.sent,
            echoed: tally.echoed,
            latency: tally.latency.spread(),
            lag: tally.lag.spread().filter(|_| is_open),
            interrupted: self.interrupted.get(),
        }
    }
}

/// Puts a server under load. A failure comes with what was found before it.
pub(super) async fn run(
    path: &Path<'_>,
    settings: Settings,
    greeting: bool,
) -> Result<(Load, Option<Failed>), Failed> {
    let mut ctrl_c = signal(SignalKind::interrupt()).map_err(|error| {
        let seen = format!("Ctrl-C cannot be watched for: {error}.");
        Failed::new(Failure::ConnectFailed, seen)
    })?;
    let begun = Instant::now();
    let mut streams = Vec::new();
    let interrupted = tokio::select! {
        opened = open(path, settings.connections, &mut streams) => {
            opened?;
            false
        }
        _ = ctrl_c.recv() => true,
    };
    let opening = begun.elapsed();
    let run = Run::new(settings, streams.len(), path.options.timeout, greeting);
    if interrupted {
        run.interrupted.set(true);
        run.end.set(run.begun);
    }
    let show = |run: &Run| progress(path, run);
    // Fairness is the connections' own; the budget of a task would only cost time.
    let driven = unconstrained(run.drive(streams, &mut ctrl_c, show)).await;
    let found = run.found(opening, driven.is_ok());
    let failed = driven.err().map(|failed| {
        let (seconds, echoed) = (found.took.as_secs_f64(), found.echoed);
        let seen = format!("{} That was after {seconds:.1} s and {echoed} echoes.", failed.seen);
        Failed { seen, ..failed }
    });
    Ok((found, failed))
}

/// Opens so many connections, a few at once.
async fn open(path: &Path<'_>, count: u16, streams: &mut Vec<Stream>) -> Result<(), Failed> {
    let handshakes = stream::iter(0..count).map(|_| path.open_plain());
    let mut opening = pin!(handshakes.buffer_unordered(OPENING));
    while let Some(opened) = opening.next().await {
        let stream = opened.map_err(|failed| {
            let which = format!("Connection {} of {count}: ", streams.len() + 1);
            let is_shown = failed.diagnosis().is_some();
            let quote = failed.quote.map(|it| if is_shown { which.clone() + &it } else { it });
            Failed { seen: which + &failed.seen, quote, ..failed }
        })?;
        streams.push(stream);
        path.progress(&format!("load: {} of {count} connections open", streams.len()));
    }
    Ok(())
}

fn progress(path: &Path<'_>, run: &Run) {
    let found = run.found(Duration::ZERO, false);
    let (elapsed, time) = (found.took.as_secs(), run.settings.time.as_secs());
    let rate = found.rate();
    path.progress(&format!("load: {elapsed} s of {time} s, {rate:.0} messages/s came back"));
}
