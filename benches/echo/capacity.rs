//! As many sessions as the defaults allow. This file owns how they are opened, kept alive and
//! measured: their cost in the service and in the kernel, and the latency of the few that talk.

#![allow(clippy::cast_precision_loss, reason = "three significant digits are enough")]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::load::{Limit, Load, Traffic};
use crate::process::Process;
use crate::wire::{self, wrong};

/// Source addresses: one has only 28,000 ports to a destination.
const ADDRESSES: u8 = 5;
/// One session in this many talks while the others are idle.
const TALKERS: usize = 100;

/// How long each phase takes.
pub struct Times {
    /// Until pings are spread evenly: longer than the first ping interval.
    pub settle: Duration,
    pub idle: Duration,
    pub talk: Duration,
}

/// What [`measure`] returns, in this order.
pub const COLUMNS: [&str; 6] = [
    "RSS, bytes per session",
    "PSS, bytes per session",
    "kernel, bytes per session",
    "idle CPU, % of a core",
    "talkers' p50, ms",
    "talkers' p99, ms",
];

pub fn measure(
    server: &Process,
    sessions: usize,
    times: &Times,
) -> io::Result<[f64; COLUMNS.len()]> {
    // Allocate what all sessions share before the first reading.
    wire::close(wire::open(server.address(0))?)?;
    let memory = || {
        let kernel = kernel_memory()?;
        Ok::<_, io::Error>([server.memory("Rss:")?, server.memory("Pss:")?, kernel])
    };
    let before = memory()?;
    let mut streams = Vec::with_capacity(sessions);
    for source in (2..=ADDRESSES + 1).cycle().take(sessions) {
        let source = Ipv4Addr::new(127, 0, 0, source);
        streams.push(wire::open_from(source, server.address(0))?);
    }
    let after = memory()?;
    let per_session = |index: usize| (after[index] as f64 - before[index] as f64) / sessions as f64;
    // Both ends of a connection are in this kernel.
    let [rss, pss, kernel] = [per_session(0), per_session(1), per_session(2) / 2.0];

    keep_alive(&streams, times.settle)?;
    let before = server.cpu()?;
    let begun = Instant::now();
    keep_alive(&streams, times.idle)?;
    let busy = server.cpu()?.saturating_sub(before);
    let idle = 100.0 * busy.as_secs_f64() / begun.elapsed().as_secs_f64();

    let traffic = Traffic::text(32, 1).timed();
    let talkers = streams.iter().step_by(TALKERS).map(|stream| (stream, &traffic));
    let limit = Limit { messages: 100_000_000, time: times.talk, check_every_byte: true };
    let mut tally = Load::new(talkers)?.run(&limit)?;
    let [p50, p99] = tally.percentiles().map(|time| time.as_secs_f64() * 1e3);
    Ok([rss, pss, kernel, idle, p50, p99])
}

/// The kernel's slab memory in bytes, which includes sockets and everything attached to them.
fn kernel_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")?.strip_suffix(" kB"));
    let kibibytes: Option<u64> = line.and_then(|number| number.trim().parse().ok());
    Ok(1024 * kibibytes.ok_or_else(|| io::Error::other("no Slab line in /proc/meminfo"))?)
}

/// Answers pings, and fails on anything else.
fn keep_alive(streams: &[TcpStream], time: Duration) -> io::Result<()> {
    let end = Instant::now() + time;
    let pong = wire::pong();
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, stream, EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    let mut events = Vec::with_capacity(1024);
    let mut input = [0; 64];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&left))?;
        for epoll::Event { data, .. } in events.drain(..) {
            let mut stream = &streams[usize::try_from(data.u64()).expect("it was an index")];
            match stream.read(&mut input) {
                Ok(0) => return Err(wrong("the server closed an idle connection")),
                Ok(length) => {
                    for frame in input[..length].chunks(wire::PING.len()) {
                        if frame != wire::PING {
                            return Err(wrong("expected nothing but pings"));
                        }
                        stream.write_all(&pong)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
