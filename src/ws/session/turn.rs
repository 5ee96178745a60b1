//! One turn of a session: send, read, echo.
//!
//! Owns how much a turn may do before others have theirs, and what is read while output waits. What
//! becomes of output that the socket does not take is for the session.

use std::io::{self, Cursor, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::write::poll_send_out;
use super::{Ended, FAST, READS, SMALL_WINDOW, Scratch, Session, WINDOW};
use crate::net::stream::Transport;
use crate::ws::engine::Pressure;

/// The most that is read at once of what is unread, in bytes: about what a turn may inflate.
const UNREAD: usize = 32 * 1024;

impl<S: Transport> Session<'_, S> {
    /// One turn: sends what is owed, then reads and echoes, until the socket has no more input or
    /// others have to have their turn.
    ///
    /// Whenever it returns `Pending`, something will wake the session: the socket, because its
    /// last read, write or shutdown was pending; the timer; or, when others are to have their turn,
    /// the session itself. So whatever makes new output goes round the loop again: only a write
    /// that was tried will wake us.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Ended> {
        let mut work = 0;
        let mut reads = 0;
        scratch.inflaters.begin_turn();
        loop {
            // First, so that memory is freed before more is read.
            if !self.backlog.is_empty() {
                match self.backlog.poll_send(&mut self.stream, cx, &mut scratch.spare) {
                    Ok(0) => {}
                    Ok(sent) => {
                        let now = Instant::now();
                        self.sent(sent);
                        self.progress = now;
                        if self.backlog.is_empty() {
                            // A ping that waited here is on its way only now.
                            self.pinged = self.pinged.map(|_| now);
                        }
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
            // A backlog does not stop reading by itself: a client that writes a whole message before
            // it reads would wait for us, and we for it.
            let room = self.room();
            if room == 0 {
                return Poll::Pending;
            }
            if work >= WINDOW || reads >= READS || scratch.inflaters.are_spent() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = match self.poll_read(cx, &mut scratch.window[..room]) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Pending => {
                    // No frame is at hand that the pong could go before.
                    if self.release_pong(scratch) {
                        continue;
                    }
                    return Poll::Pending;
                }
            };
            if read == 0 {
                self.stage = self.stage.after_eof();
                continue;
            }
            reads += 1;
            match self.echo(cx, scratch, read) {
                Ok(produced) => work += read.max(produced),
                Err(error) => return Poll::Ready(self.broken(&error)),
            }
        }
    }

    /// Reads what is unread, and then from the socket.
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(unread) = &mut self.unread {
            let most = window.len().min(UNREAD);
            return Poll::Ready(unread.read(&mut window[..most]));
        }
        let mut buffer = ReadBuf::new(window);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Keeps what the engine did not take of what was read.
    fn keep(&mut self, rest: &[u8], now: Instant) {
        if let Some(unread) = &mut self.unread {
            let position = unread.position() - rest.len() as u64;
            unread.set_position(position);
            if position == unread.get_ref().len() as u64 {
                self.unread = None;
            }
        } else if !rest.is_empty() {
            self.unread = Some(Box::new(Cursor::new(rest.into())));
            if self.backlog.is_empty() {
                self.progress = now;
            }
        }
    }

    /// How much may be read now, in bytes: what it makes us send is bounded, not only what it is.
    /// With a backlog, memory limits reading; when the process has none left, reading waits for
    /// writing, and a session that needs some waits for others to give theirs back.
    pub(super) fn room(&self) -> usize {
        if !self.stage.reads() {
            return 0;
        }
        let spent = self.shared.budget.is_spent();
        if spent && self.engine.awaits_memory() {
            return 0;
        }
        let output = match (self.backlog.is_empty(), spent) {
            (true, false) => WINDOW,
            (true, true) => SMALL_WINDOW,
            (false, true) => 0,
            (false, false) => {
                // The largest message, and the headers of its fragments.
                let max = usize::try_from(self.engine.max_message_size());
                let max = max.unwrap_or(usize::MAX);
                let allowance = max.saturating_add(max / 1024 + 64 * 1024);
                WINDOW.min(allowance.saturating_sub(self.backlog.len()))
            }
        };
        self.engine.input_for(output)
    }

    /// Gives the engine what was read, and the socket the reply; returns how long that is.
    fn echo(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        read: usize,
    ) -> io::Result<usize> {
        let now = Instant::now();
        if self.unread.is_none() {
            self.heard = Some(now);
            if let Some(pinged) = self.pinged.take() {
                self.shared.metrics.ping_round_trip.observe((now - pinged).as_secs_f64());
                self.unproven.proved();
            }
        }
        let before = self.engine.counts();
        let mut produced = 0;
        let Scratch { window, out, spare, inflaters } = scratch;
        let mut taken = 0;
        while taken < read {
            let pressure = Pressure {
                unsent: !self.backlog.is_empty(),
                memory_spent: self.shared.budget.is_spent(),
            };
            let rest = &mut window[taken..read];
            out.clear();
            let counted = self.engine.counts();
            taken += self.engine.receive(rest, out, inflaters, pressure);
            produced += out.len();
            let mut sent = 0;
            let written = if pressure.unsent {
                Ok(())
            } else {
                poll_send_out(&mut self.stream, cx, out, rest, &mut sent)
            };
            self.sent(sent);
            if sent < out.len() {
                self.owe(out, rest, sent, spare, now);
                self.backlog.owe(counted, self.engine.counts(), out.slices(rest), sent);
            }
            written?;
            if inflaters.are_spent() || self.engine.awaits_memory() {
                break;
            }
        }
        // A whole frame that was held may be as large as a message.
        out.clear();
        self.keep(&window[taken..read], now);
        let after = self.engine.counts();
        if after.bytes_in > before.bytes_in {
            self.stage.feed(now);
        }
        let (before, after) = (before.bytes_out, after.bytes_out);
        if before < FAST.0 && after >= FAST.0 && now < self.began + FAST.1 {
            self.stream.widen();
        }
        self.settle(now);
        Ok(produced)
    }

    /// Moves the pong that waited for the backlog into it; returns whether there was one.
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
}
