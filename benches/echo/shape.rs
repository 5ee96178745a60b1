//! What is measured: this file owns the shapes of traffic and how each is turned into figures.

#![allow(
    clippy::cast_precision_loss,
    reason = "three significant digits are enough, and no count or size here comes near 2^52"
)]

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use flate2::Decompress;
use rustix::time::{ClockId, clock_gettime};

use crate::capacity;
use crate::load::{Limit, Load, Tally, Traffic};
use crate::process::{self, Process, Server};
use crate::wire::{self, Message};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
/// Threads that open and close connections concurrently.
const HANDSHAKERS: u64 = 8;
/// Connections that echo concurrently before memory is read.
const AT_ONCE: usize = 32;
/// Time for a server to free what it no longer needs.
const SETTLE: Duration = Duration::from_millis(300);

/// How long and how much to measure.
pub struct Effort {
    warm_up: Duration,
    window: Duration,
    handshakes: u64,
    /// Idle connections; a tenth of them also echo 1 MiB.
    idle: usize,
    capacity: capacity::Times,
}

impl Effort {
    pub const FULL: Self = Self {
        warm_up: Duration::from_millis(150),
        window: Duration::from_millis(900),
        handshakes: 6_000,
        idle: 10_000,
        capacity: capacity::Times {
            settle: Duration::from_secs(30),
            idle: Duration::from_secs(20),
            talk: Duration::from_secs(5),
        },
    };
    pub const QUICK: Self = Self {
        warm_up: Duration::from_millis(50),
        window: Duration::from_millis(150),
        handshakes: 800,
        idle: 1_000,
        capacity: capacity::Times {
            settle: Duration::ZERO,
            idle: Duration::from_secs(1),
            talk: Duration::from_millis(150),
        },
    };
}

/// The figures of one measurement, in the order of [`Shape::columns`].
pub type Figures = Vec<f64>;

/// The shapes of traffic, in the order of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Shape {
    Single,
    Pipelined,
    #[value(name = "64k")]
    Large,
    #[value(name = "1m")]
    Huge,
    Latency,
    Beside,
    Handshakes,
    Memory,
    /// JSON that the client compressed, and the same to wsecho without compression.
    #[value(name = "deflate-32")]
    DeflateSingle,
    #[value(name = "deflate-1k")]
    DeflatePipelined,
    #[value(name = "deflate-64k")]
    DeflateLarge,
    #[value(name = "deflate-1m")]
    DeflateHuge,
    DeflateMemory,
    Capacity,
}

/// A kind of traffic: connections, bytes in a message, messages in flight on each connection.
struct Json(usize, usize, usize);

impl Shape {
    /// The traffic of a shape that is compressed.
    fn json(self) -> Option<Json> {
        match self {
            Self::DeflateSingle => Some(Json(64, 32, 1)),
            Self::DeflatePipelined => Some(Json(16, KIB, 64)),
            Self::DeflateLarge => Some(Json(8, 64 * KIB, 1)),
            Self::DeflateHuge => Some(Json(4, MIB, 1)),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "64 connections, 1 text message of 32 B in flight on each",
            Self::Pipelined => "16 connections, 64 text messages of 32 B in flight on each",
            Self::Large => "8 connections, binary messages of 64 KiB",
            Self::Huge => "4 connections, binary messages of 1 MiB",
            Self::Latency => "Round trip of 32 B on the only connection",
            Self::Beside => "Round trip of 32 B beside two streams of 1 MiB messages",
            Self::Handshakes => "Handshakes: connect, upgrade, close",
            Self::Memory => "Resident memory of an idle connection",
            Self::DeflateSingle => {
                "64 connections, 1 compressed JSON message of 32 B in flight on each"
            }
            Self::DeflatePipelined => {
                "16 connections, 64 compressed JSON messages of 1 KiB in flight on each"
            }
            Self::DeflateLarge => "8 connections, compressed JSON messages of 64 KiB",
            Self::DeflateHuge => "4 connections, compressed JSON messages of 1 MiB",
            Self::DeflateMemory => "Resident memory of an idle connection with compression",
            Self::Capacity => "10,000 sessions, 100 of them with a message of 32 B in flight",
        }
    }

    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Single | Self::Pipelined | Self::Large | Self::Huge => {
                &["server CPU, µs per message", "messages per second"]
            }
            Self::Latency => &["p50, µs", "p99, µs"],
            Self::Beside => &["p50, ms", "p99, ms", "streams, MiB per second"],
            Self::Handshakes => &["server CPU, µs per handshake", "handshakes per second"],
            Self::DeflateSingle
            | Self::DeflatePipelined
            | Self::DeflateLarge
            | Self::DeflateHuge => {
                &["server CPU, µs per message", "messages per second", "inflating alone, µs"]
            }
            Self::Capacity => &capacity::COLUMNS,
            Self::Memory | Self::DeflateMemory => {
                &["fresh, bytes", "after 64 KiB, bytes", "after 1 MiB, bytes"]
            }
        }
    }

    /// Whose first column the others' is compared with. The floor knows no compression.
    pub fn yardstick(self) -> Option<Server> {
        match self {
            Self::Memory | Self::DeflateMemory | Self::Capacity => None,
            _ if self.json().is_some() => Some(Server::Wsecho),
            _ => Some(Server::Floor),
        }
    }

    /// Whether it runs when no shape is asked for.
    pub fn is_compared(self) -> bool {
        self != Self::Capacity
    }

    /// Memory hardly varies between rounds and takes long to measure; so do many sessions.
    pub fn most_rounds(self) -> u32 {
        let few = matches!(self, Self::Memory | Self::DeflateMemory | Self::Capacity);
        if few { 3 } else { u32::MAX }
    }

    /// The shapes that more workers or instances matter for: many connections carry messages.
    pub const SCALING: [Self; 4] = [Self::Single, Self::Pipelined, Self::Large, Self::Huge];

    /// Whether it is measured for this server.
    pub fn is_for(self, server: Server) -> bool {
        let compresses = matches!(server, Server::Yawc | Server::NodeWs);
        match self {
            Self::Capacity => matches!(server, Server::Wsecho | Server::WsechoTwoWorkers),
            Self::DeflateMemory => server == Server::Wsecho || compresses,
            _ if self.json().is_some() => {
                matches!(server, Server::Wsecho | Server::WsechoUncompressed) || compresses
            }
            _ if compresses || server == Server::WsechoUncompressed => false,
            _ => !server.is_spread() || Self::SCALING.contains(&self),
        }
    }

    pub fn measure(self, server: &Process, effort: &Effort) -> io::Result<Figures> {
        if let Some(json) = self.json() {
            return deflated(server, effort, &json);
        }
        match self {
            Self::Single => messages(server, effort, 64, &Traffic::text(32, 1)),
            Self::Pipelined => messages(server, effort, 16, &Traffic::text(32, 64)),
            Self::Large => messages(server, effort, 8, &Traffic::binary(64 * KIB, 1)),
            Self::Huge => messages(server, effort, 4, &Traffic::binary(MIB, 1)),
            Self::Latency => latency(server, effort),
            Self::Beside => beside(server, effort),
            Self::Handshakes => handshakes(server, effort),
            Self::Memory => {
                let binary = [64 * KIB, MIB].map(|size| Traffic::binary(size, 1));
                memory(server, effort, wire::open, &binary)
            }
            Self::DeflateMemory => {
                let json = |size| Traffic::new(Message::json(size).compressed(), 1);
                memory(server, effort, wire::open_compressed, &[64 * KIB, MIB].map(json))
            }
            Self::Capacity => {
                capacity::measure(server, effort.idle, &effort.capacity).map(Figures::from)
            }
            Self::DeflateSingle
            | Self::DeflatePipelined
            | Self::DeflateLarge
            | Self::DeflateHuge => unreachable!("compressed shapes have their traffic"),
        }
    }
}

fn open(server: &Process, connections: usize) -> io::Result<Vec<TcpStream>> {
    (0..connections).map(|number| wire::open(server.address(number))).collect()
}

/// Warms up, checking every byte, then measures.
fn warm_and_run(load: &mut Load, effort: &Effort) -> io::Result<Tally> {
    load.run(&limit(effort.warm_up, true))?;
    load.run(&limit(effort.window, false))
}

/// Bounded by time: the count is out of reach.
fn limit(time: Duration, check_every_byte: bool) -> Limit {
    Limit { messages: 100_000_000, time, check_every_byte }
}

fn messages(
    server: &Process,
    effort: &Effort,
    connections: usize,
    traffic: &Traffic,
) -> io::Result<Figures> {
    exchange(server, effort, &open(server, connections)?, traffic)
}

fn exchange(
    server: &Process,
    effort: &Effort,
    streams: &[TcpStream],
    traffic: &Traffic,
) -> io::Result<Figures> {
    let mut load = Load::new(streams.iter().map(|stream| (stream, traffic)))?;
    load.run(&limit(effort.warm_up, true))?;
    let before = server.cpu()?;
    let tally = load.run(&limit(effort.window, false))?;
    Ok(per_item(before, server.cpu()?, tally.time, tally.messages))
}

fn deflated(server: &Process, effort: &Effort, json: &Json) -> io::Result<Figures> {
    let Json(connections, size, in_flight) = *json;
    let compressed = server.which() != Server::WsechoUncompressed;
    let open = if compressed { wire::open_compressed } else { wire::open };
    let streams: Vec<_> =
        (0..connections).map(|number| open(server.address(number))).collect::<io::Result<_>>()?;
    let message = Message::json(size);
    let message = if compressed { message.compressed() } else { message };
    let traffic = Traffic::new(message, in_flight);
    let mut figures = exchange(server, effort, &streams, &traffic)?;
    figures.push(inflating(&Message::json(size).compressed(), effort.window / 10));
    Ok(figures)
}

/// The CPU time it takes to inflate a message, in microseconds.
fn inflating(message: &Message, time: Duration) -> f64 {
    let cpu = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
    };
    let (mut inflater, mut scratch) = (Decompress::new(false), vec![0; 16 * KIB]);
    let (begun, cpu_before, mut count) = (Instant::now(), cpu(), 0_u32);
    while begun.elapsed() < time {
        // So many that looking at the clock costs nothing.
        for _ in 0..16 {
            message.inflate(&mut inflater, &mut scratch);
        }
        count += 16;
    }
    (cpu() - cpu_before) / f64::from(count)
}

/// The CPU time per item in microseconds, and items per second.
fn per_item(cpu_before: Duration, cpu_after: Duration, time: Duration, count: u64) -> Figures {
    let (cpu, count) = (cpu_after.as_secs_f64() - cpu_before.as_secs_f64(), count as f64);
    vec![cpu * 1e6 / count, count / time.as_secs_f64()]
}

fn latency(server: &Process, effort: &Effort) -> io::Result<Figures> {
    let streams = open(server, 1)?;
    let traffic = Traffic::text(32, 1).timed();
    let mut load = Load::new(streams.iter().map(|stream| (stream, &traffic)))?;
    let mut tally = warm_and_run(&mut load, effort)?;
    Ok(tally.percentiles().map(|time| time.as_secs_f64() * 1e6).to_vec())
}

/// The client of the small session has real-time priority: on a CPU that it shares with the streams'
/// load, it would measure the slices of the kernel's scheduler.
fn beside(server: &Process, effort: &Effort) -> io::Result<Figures> {
    let streams = open(server, 3)?;
    let (small, huge) = (Traffic::text(32, 1).timed(), Traffic::binary(MIB, 2));
    let mut single = Load::new([(&streams[0], &small)])?;
    let mut streaming = Load::new(streams[1..].iter().map(|stream| (stream, &huge)))?;
    thread::scope(|scope| {
        let timed = scope.spawn(|| {
            if let Err(error) = process::at_real_time_priority() {
                eprintln!("NOTE: the scheduler's slices are part of this latency: {error}");
            }
            warm_and_run(&mut single, effort)
        });
        let streamed = warm_and_run(&mut streaming, effort)?;
        let mut timed = timed.join().expect("no panic")?;
        let mut figures = timed.percentiles().map(|time| time.as_secs_f64() * 1e3).to_vec();
        figures.push(streamed.messages as f64 / streamed.time.as_secs_f64());
        Ok(figures)
    })
}

fn handshakes(server: &Process, effort: &Effort) -> io::Result<Figures> {
    let open_and_close = |count| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..HANDSHAKERS)
                .map(|_| {
                    scope.spawn(move || {
                        (0..count).try_for_each(|_| wire::close(wire::open(server.address(0))?))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })
    };
    open_and_close(20)?;
    let each = effort.handshakes / HANDSHAKERS;
    let before = server.cpu()?;
    let begun = Instant::now();
    open_and_close(each)?;
    let time = begun.elapsed();
    // The last streams end here before the server has dropped its side.
    thread::sleep(Duration::from_millis(20));
    Ok(per_item(before, server.cpu()?, time, each * HANDSHAKERS))
}

fn memory(
    server: &Process,
    effort: &Effort,
    open: fn(SocketAddr) -> io::Result<TcpStream>,
    [medium, huge]: &[Traffic; 2],
) -> io::Result<Figures> {
    let settled = || {
        thread::sleep(SETTLE);
        server.memory("Rss:").map(|bytes| bytes as f64)
    };
    // Allocate what all connections share before the first reading.
    let first = open(server.address(0))?;
    echo_once(std::slice::from_ref(&first), huge)?;
    first.set_nonblocking(false)?;
    wire::close(first)?;
    let before = settled()?;

    let streams: Vec<_> =
        (0..effort.idle).map(|_| open(server.address(0))).collect::<io::Result<_>>()?;
    let fresh = (settled()? - before) / effort.idle as f64;

    echo_once(&streams, medium)?;
    let all = settled()?;
    let after_medium = (all - before) / effort.idle as f64;

    let some = &streams[..effort.idle / 10];
    echo_once(some, huge)?;
    let after_huge = after_medium + (settled()? - all) / some.len() as f64;
    Ok(vec![fresh, after_medium, after_huge])
}

/// One message on each connection, a few at a time.
fn echo_once(streams: &[TcpStream], traffic: &Traffic) -> io::Result<()> {
    for streams in streams.chunks(AT_ONCE) {
        let mut load = Load::new(streams.iter().map(|stream| (stream, traffic)))?;
        let messages = streams.len() as u64;
        load.run(&Limit { messages, time: Duration::ZERO, check_every_byte: true })?;
    }
    Ok(())
}
