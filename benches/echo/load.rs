//! The load generator: one thread on epoll that keeps a number of messages in flight on each
//! connection, from frames made beforehand. This file owns that loop and its limits.
//!
//! Every header and length that comes back is checked. Of the payload, every byte is checked on
//! request, otherwise only the start of each read, so that the generator is not the bottleneck.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::wire::{Message, PATIENCE, Reply, wrong};

/// The most that one read takes: small enough that no connection waits long for its turn.
const SCRATCH: usize = 256 * 1024;
/// How much of each run of payload is compared unless every byte is.
const SAMPLE: usize = 64;

/// What one connection carries: the same message over and over.
pub struct Traffic {
    message: Message,
    in_flight: usize,
    /// Whether each round trip is recorded.
    timed: bool,
    /// As many frames as may be due at once, so that any number of them takes one write.
    frames: Vec<u8>,
    frame: usize,
}

impl Traffic {
    pub fn text(size: usize, in_flight: usize) -> Self {
        Self::new(Message::text(size), in_flight)
    }

    pub fn binary(size: usize, in_flight: usize) -> Self {
        Self::new(Message::binary(size), in_flight)
    }

    pub fn new(message: Message, in_flight: usize) -> Self {
        let frame = message.frame();
        let frames = frame.repeat(in_flight);
        Self { message, in_flight, timed: false, frames, frame: frame.len() }
    }

    pub fn timed(self) -> Self {
        Self { timed: true, ..self }
    }
}

/// When to stop sending: at whichever comes first.
pub struct Limit {
    pub messages: u64,
    pub time: Duration,
    pub check_every_byte: bool,
}

/// What was done; everything sent has been echoed.
pub struct Tally {
    pub messages: u64,
    pub time: Duration,
    pub round_trips: Vec<Duration>,
}

impl Tally {
    /// The median round trip and the 99th percentile.
    pub fn percentiles(&mut self) -> [Duration; 2] {
        self.round_trips.sort_unstable();
        [50, 99].map(|percent| self.round_trips[self.round_trips.len() * percent / 100])
    }
}

/// A set of open connections, each with its traffic.
pub struct Load<'a> {
    epoll: OwnedFd,
    clients: Vec<Client<'a>>,
    scratch: Vec<u8>,
}

impl<'a> Load<'a> {
    pub fn new(
        connections: impl IntoIterator<Item = (&'a TcpStream, &'a Traffic)>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for (stream, traffic) in connections {
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, stream, token(clients.len()), EventFlags::IN)?;
            clients.push(Client::new(stream, traffic));
        }
        Ok(Self { epoll, clients, scratch: vec![0; SCRATCH] })
    }

    /// Sends up to the limit, and returns once everything has come back.
    pub fn run(&mut self, limit: &Limit) -> io::Result<Tally> {
        let begun = Instant::now();
        let (mut sent, mut echoed) = (0, 0);
        let mut round_trips = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let messages = (limit.messages - sent).min(client.traffic.in_flight as u64);
            client.send(messages)?;
            client.watch(&self.epoll, index)?;
            sent += messages;
        }

        let patience = Timespec::try_from(PATIENCE).expect("a few seconds fit");
        let mut events = Vec::with_capacity(self.clients.len());
        while echoed < sent {
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience))?;
            if events.is_empty() {
                return Err(wrong("the server stopped answering"));
            }
            let sending = begun.elapsed() < limit.time;
            for epoll::Event { flags, data } in events.drain(..) {
                let index = usize::try_from(data.u64()).expect("it was an index");
                let client = &mut self.clients[index];
                // On errors too: the read then reports them.
                if flags != EventFlags::OUT {
                    let done = client.receive(&mut self.scratch, limit.check_every_byte)?;
                    echoed += done;
                    if done > 0 && client.traffic.timed {
                        round_trips.push(client.sent_at.elapsed());
                    }
                    if sending {
                        let messages = done.min(limit.messages - sent);
                        client.send(messages)?;
                        sent += messages;
                    }
                }
                if flags.contains(EventFlags::OUT) {
                    client.flush()?;
                }
                client.watch(&self.epoll, index)?;
            }
        }
        Ok(Tally { messages: sent, time: begun.elapsed(), round_trips })
    }
}

fn token(index: usize) -> EventData {
    EventData::new_u64(index as u64)
}

struct Client<'a> {
    stream: &'a TcpStream,
    traffic: &'a Traffic,
    reply: Reply,
    /// Bytes of frames that are due but that the socket has not taken.
    unsent: usize,
    /// Whether the poller reports when the socket has room for them.
    watching_room: bool,
    sent_at: Instant,
}

impl<'a> Client<'a> {
    fn new(stream: &'a TcpStream, traffic: &'a Traffic) -> Self {
        let reply = Reply::default();
        Self { stream, traffic, reply, unsent: 0, watching_room: false, sent_at: Instant::now() }
    }

    fn send(&mut self, messages: u64) -> io::Result<()> {
        if messages == 0 {
            return Ok(());
        }
        if self.traffic.timed {
            self.sent_at = Instant::now();
        }
        self.unsent += self.traffic.frame * usize::try_from(messages).expect("at most in_flight");
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unsent == 0 {
            return Ok(());
        }
        // All frames are alike: only the position in the first unfinished one matters.
        let start = (self.traffic.frame - self.unsent % self.traffic.frame) % self.traffic.frame;
        match self.stream.write(&self.traffic.frames[start..start + self.unsent]) {
            Ok(sent) => self.unsent -= sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Has the poller report room exactly while something is unsent.
    fn watch(&mut self, epoll: &OwnedFd, index: usize) -> io::Result<()> {
        let wanted = self.unsent > 0;
        if wanted != self.watching_room {
            let room = if wanted { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(epoll, self.stream, token(index), EventFlags::IN | room)?;
            self.watching_room = wanted;
        }
        Ok(())
    }

    /// Reads once and says how many messages were completed.
    fn receive(&mut self, scratch: &mut [u8], check_every_byte: bool) -> io::Result<u64> {
        match self.stream.read(scratch) {
            Ok(0) => Err(wrong("the server closed the connection")),
            Ok(length) => {
                let sample = if check_every_byte { usize::MAX } else { SAMPLE };
                self.reply.take(&scratch[..length], &self.traffic.message, sample)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}
