//! One connection under load.
//!
//! Owns what is sent when, and which echo belongs to which message: a WebSocket keeps their order, so
//! counters suffice. The frames are made beforehand and sent over and over, so that any number of them
//! that is due takes one write. Their masks are then not new each time (RFC 6455, section 5.3), which
//! keeps pages from choosing what proxies see; here the probe chooses.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};

use super::Run;
use super::replies::{Replies, Stop, altered};
use crate::probe::failure::{Failed, Failure};
use crate::probe::report::measured::Pace;
use crate::probe::socket::Incoming;
use crate::probe::talk::ended;
use crate::probe::wire::{End, Stream};
use crate::ws::frame::write_masked;

/// The most reads before other connections get their turn.
const READS: usize = 16;

/// A connection; as a future it is ready once all that was sent on it has come back and it is closed.
pub(super) struct Connection<'a> {
    run: &'a Run,
    index: usize,
    stream: Stream,
    replies: Replies,
    /// Control frames to be sent before the next message.
    control: Vec<u8>,
    /// Messages that were due, bytes of their frames that were sent, and echoes.
    due: u64,
    sent_bytes: u64,
    echoed: u64,
    /// In a closed loop, how many messages became due when, and are not echoed.
    batches: VecDeque<(Instant, u64)>,
    /// When it last had nothing to wait for, or an echo came.
    moved: Instant,
    unflushed: bool,
    closing: bool,
    broken: Option<End>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(run: &'a Run, index: usize, stream: Stream) -> Self {
        Self {
            run,
            index,
            stream,
            replies: Replies::new(run.greeting),
            control: Vec::new(),
            due: 0,
            sent_bytes: 0,
            echoed: 0,
            batches: VecDeque::new(),
            moved: run.begun,
            unflushed: false,
            closing: false,
            broken: None,
        }
    }

    /// Messages of which every byte was sent.
    fn sent(&self) -> u64 {
        self.sent_bytes / self.run.frame as u64
    }

    /// Adds the messages that are due, and a Close once all of them are echoed.
    fn plan(&mut self, now: Instant) {
        let is_over = self.run.is_over(now);
        match self.run.settings.pace {
            Pace::Closed { in_flight } if !is_over => {
                let more = u64::from(in_flight) - (self.due - self.echoed);
                if more > 0 {
                    self.batches.push_back((now, more));
                    self.due += more;
                }
            }
            Pace::Open { .. } if !self.run.interrupted.get() => {
                self.due = self.run.schedule.count(self.index, now - self.run.begun);
            }
            _ => {}
        }
        if self.due == self.echoed {
            self.moved = now;
            if is_over && !self.closing {
                self.closing = true;
                let close = OpCode::Control(Control::Close);
                let code = 1000_u16.to_be_bytes();
                write_masked(&mut self.control, (true, false), close, [0; 4], &code);
            }
        }
    }

    /// Sends what the socket takes. Whether that failed shows in what is read, after what the server
    /// still sent.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) {
        while self.broken.is_none() {
            let frames = &self.run.frames;
            let at = usize::try_from(self.sent_bytes % frames.len() as u64).expect("an index");
            let within = at % self.run.frame;
            let at_boundary = within == 0;
            let left = self.due * self.run.frame as u64 - self.sent_bytes;
            let bytes = if !self.control.is_empty() && at_boundary {
                &self.control[..]
            } else {
                // Nothing but the current message comes before a control frame.
                let end = if self.control.is_empty() {
                    frames.len()
                } else {
                    at - within + self.run.frame
                };
                let end = end.min(at.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
                &frames[at..end]
            };
            if bytes.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => self.broken = Some(End::Fin),
                Poll::Ready(Ok(written)) if at_boundary && !self.control.is_empty() => {
                    self.control.drain(..written);
                }
                Poll::Ready(Ok(written)) => self.record_sent(written, now),
                Poll::Ready(Err(error)) => self.broken = Some((&error).into()),
                Poll::Pending => break,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => {
                    self.unflushed = false;
                    self.broken.get_or_insert((&error).into());
                }
                Poll::Pending => {}
            }
        }
    }

    fn record_sent(&mut self, bytes: usize, now: Instant) {
        let before = self.sent();
        self.sent_bytes += bytes as u64;
        let mut tally = self.run.tally.borrow_mut();
        tally.sent += self.sent() - before;
        if let Pace::Open { .. } = self.run.settings.pace {
            for index in before..self.sent() {
                tally.lag.record(self.since_due(index, now), 1);
            }
        }
    }

    /// The time since a message of an open loop was due.
    fn since_due(&self, index: u64, now: Instant) -> Duration {
        now.saturating_duration_since(self.run.begun + self.run.schedule.due(self.index, index))
    }

    /// Reads once.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let mut scratch = self.run.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
        let end = match read {
            Ok(()) if buffer.filled().is_empty() => End::Fin,
            Ok(()) => {
                let mut echoes = 0;
                let taken = self.replies.take(buffer.filled(), &self.run.payloads, &mut echoes);
                self.control.append(&mut self.replies.pongs);
                return Poll::Ready(self.record_echoes(echoes).and(taken));
            }
            Err(error) => (&error).into(),
        };
        // A reset may have been told to the writer only.
        let end = self.broken.take().unwrap_or(end);
        Poll::Ready(Err(Stop::Ended(Incoming::Ended(end))))
    }

    fn record_echoes(&mut self, echoes: u64) -> Result<(), Stop> {
        if echoes == 0 {
            return Ok(());
        }
        if self.echoed + echoes > self.sent() {
            return Err(altered("more messages came back than were sent"));
        }
        let now = Instant::now();
        self.moved = now;
        let mut tally = self.run.tally.borrow_mut();
        tally.echoed += echoes;
        tally.last = now;
        match self.run.settings.pace {
            Pace::Closed { .. } => {
                let mut left = echoes;
                while let (Some((due, waiting)), true) = (self.batches.front_mut(), left > 0) {
                    let done = left.min(*waiting);
                    tally.latency.record(now - *due, done);
                    *waiting -= done;
                    left -= done;
                    if *waiting == 0 {
                        self.batches.pop_front();
                    }
                }
            }
            Pace::Open { .. } => {
                for index in self.echoed..self.echoed + echoes {
                    tally.latency.record(self.since_due(index, now), 1);
                }
            }
        }
        self.echoed += echoes;
        Ok(())
    }

    /// Fails once an echo is overdue.
    fn check_patience(&self, now: Instant) -> Result<(), Failed> {
        let patience = self.run.patience;
        let waiting = self.due - self.echoed;
        let seconds = patience.as_secs_f64();
        let seen = if waiting == 0 || self.closing {
            return Ok(());
        } else if now > self.moved + patience {
            format!("A connection with {waiting} messages outstanding got no echo for {seconds} s.")
        } else if now > self.run.end.get() + patience {
            format!(
                "{waiting} messages had not come back on one connection {seconds} s after the last was due."
            )
        } else {
            return Ok(());
        };
        Err(Failed::new(Failure::LoadStalled, seen))
    }
}

impl Future for Connection<'_> {
    type Output = Result<(), Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.run.wakers[this.index].register(cx.waker());
        for _ in 0..READS {
            let now = Instant::now();
            this.plan(now);
            this.send(cx, now);
            match this.receive(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Stop::Ended(_))) if this.closing => return Poll::Ready(Ok(())),
                Poll::Ready(Err(stop)) => return Poll::Ready(Err(failed(stop))),
                Poll::Pending => {
                    this.check_patience(now)?;
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn failed(stop: Stop) -> Failed {
    let failed = match stop {
        Stop::Altered(failed) => return failed,
        Stop::Ended(incoming) => ended(incoming, "an echo"),
    };
    match failed.failure {
        Failure::FrameBroken => failed,
        _ => Failed { failure: Failure::LoadCut, ..failed },
    }
}
