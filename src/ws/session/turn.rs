//! One turn of a session: send, read, echo.
//!
//! Owns how much a turn may do before others have theirs, and what is read while output waits. What
//! becomes of output that the socket does not take is for the session.

use std::future::Future;
use std::io::{self, Cursor, Read};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::write::poll_send_out;
use super::{Ended, READS, SHORT_TURNS, SHORT_WINDOW, SMALL_WINDOW, Scratch, Session, WINDOW};
use crate::net::stream::Transport;
use crate::ws::engine::Pressure;

/// What a turn with small messages reads or produces at most, in bytes.
const SMALL_TURN: usize = 16 * 1024;

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
        let most = if scratch.short_turns > 0 { SHORT_WINDOW } else { WINDOW };
        let was_idle = self.engine.is_idle();
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
            let room = self.room().min(most);
            if room == 0 {
                return Poll::Pending;
            }
            if work >= most || reads >= READS || scratch.inflaters.are_spent() {
                scratch.short_turns = scratch.short_turns.saturating_sub(1);
                // Not woken at once: that would be before tokio looks at the sockets of others.
                return pin!(yield_now()).poll(cx).map(|()| unreachable!("it has just been made"));
            }
            let read = match self.poll_read(cx, &mut scratch.window[..room]) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Pending => {
                    if was_idle && self.engine.is_idle() && (1..SMALL_TURN).contains(&work) {
                        scratch.short_turns = SHORT_TURNS;
                    }
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
        let before = self.engine.counts().bytes_in;
        let mut produced = 0;
        let Scratch { window, out, spare, inflaters, .. } = scratch;
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
        if self.engine.counts().bytes_in > before {
            self.stage.feed(now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Join, Sink, duplex, join, sink};
    use tokio::net::UnixStream;

    use crate::ws::session::{Budget, Shared, Timeouts, run};

    const MIB: usize = 1 << 20;

    /// Messages of 1 MiB without end.
    struct Endless {
        position: usize,
        /// The room of each read.
        rooms: Arc<Mutex<Vec<usize>>>,
        /// Told of the first read.
        neighbour: Option<std::os::unix::net::UnixStream>,
    }

    impl Transport for Join<Endless, Sink> {}

    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            const HEADER: [u8; 14] = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
            self.rooms.lock().unwrap().push(buffer.remaining());
            if let Some(mut neighbour) = self.neighbour.take() {
                neighbour.write_all(b"!")?;
            }
            while buffer.remaining() > 0 {
                let from = self.position % (HEADER.len() + MIB);
                let left = HEADER.len() + MIB - from;
                let header = HEADER.get(from..).unwrap_or_default();
                let rest = vec![0; left - header.len()];
                let bytes = [header, &rest].concat();
                let count = left.min(buffer.remaining());
                buffer.put_slice(&bytes[..count]);
                self.position += count;
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_stream_gives_way_to_sockets_after_each_turn_and_has_short_ones_beside_small_messages()
     {
        let shared: &'static Shared = Box::leak(Box::new(Shared::new(Budget::new(MIB))));
        let timeouts: &'static Timeouts = Box::leak(Box::default());
        let rooms = Arc::<Mutex<Vec<usize>>>::default();
        let reads = || rooms.lock().unwrap().len();
        let (neighbour, mut told) = UnixStream::pair().unwrap();
        let neighbour = Some(neighbour.into_std().unwrap());
        let endless = Endless { position: 0, rooms: Arc::clone(&rooms), neighbour };
        let stream = join(endless, sink());
        let (mut client, served) = duplex(64);
        let stream = run(stream, Vec::new(), Arc::default(), timeouts, shared, None, false);
        shared.drain.spawn(async { drop(stream.await) });
        let small = run(served, Vec::new(), Arc::default(), timeouts, shared, None, false);
        shared.drain.spawn(async { drop(small.await) });

        told.read_exact(&mut [0]).await.unwrap();
        assert!(reads() <= 8, "{} reads before the socket was looked at", reads());
        assert!(rooms.lock().unwrap().iter().all(|&room| room == WINDOW));

        client.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        let before = reads();
        while reads() < before + 4 * SHORT_TURNS as usize {
            yield_now().await;
        }
        let rooms = &rooms.lock().unwrap()[before..];
        let short = rooms.iter().filter(|&&room| room == SHORT_WINDOW).count();
        assert!((1..=2 * SHORT_TURNS as usize).contains(&short), "{rooms:?}");
        assert_eq!(rooms.last(), Some(&WINDOW), "the small session is silent");
    }
}
