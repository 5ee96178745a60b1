//! `cargo bench --bench echo`: wsecho beside the floor and comparable servers, in one run.
//!
//! This file owns the command line, the choice of CPUs and the order of measurement. Every round
//! takes each shape and, within it, every server in turn (the order rotates from round to round),
//! so that the figures being compared are seconds apart. Every measurement gets a fresh server
//! process, so that no server keeps a lucky memory layout for the whole run.
//!
//! The other files: `floor` and `peers` are the servers wsecho is compared with, `process` runs a
//! server and reads its CPU time and memory, `load` generates the traffic, `wire` speaks the
//! client's side of the protocol, `shape` says what is measured (`capacity` is the largest shape),
//! `report` prints it and `chart` draws it.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark needs the real clock and has no session to drain"
)]

mod capacity;
mod chart;
mod floor;
#[path = "../../tests/suite/engine/frames.rs"]
mod frames;
mod load;
mod peers;
mod process;
mod report;
mod shape;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use process::{Cpus, Process, Server};
use report::Report;
use shape::{Effort, Shape};

/// No round starts that would end after this.
const LONGEST_RUN: Duration = Duration::from_secs(11 * 60);

/// Compare wsecho's CPU time, latency and memory with other echo servers.
#[derive(Parser)]
struct Options {
    /// Paired rounds; fewer than 11 decide nothing.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One short round, to check that everything runs.
    #[arg(long)]
    quick: bool,
    /// Measure only this shape (may be repeated).
    #[arg(long)]
    shape: Vec<Shape>,
    /// Measure only this server (may be repeated).
    #[arg(long)]
    server: Vec<Server>,
    /// Measure wsecho on more workers and instances, and draw the chart of docs/scaling.md.
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["shape", "server"])]
    scaling: Option<PathBuf>,
    /// Added by `cargo bench`; without it, as under `cargo test --benches`, the run is quick.
    #[arg(long, hide = true)]
    bench: bool,
    /// Run this server instead of the benchmark.
    #[arg(long, hide = true, requires = "cpus")]
    serve: Option<Server>,
    /// The CPUs of that server.
    #[arg(long, hide = true, value_delimiter = ',')]
    cpus: Vec<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.serve {
        Some(server) => server.become_it(&options.cpus),
        None => compare(&options).and_then(|report| {
            print!("{report}");
            options
                .scaling
                .as_ref()
                .map_or(Ok(()), |file| fs::write(file, chart::draw(&report.scaling())))
        }),
    };
    outcome.map_or_else(
        |error| {
            eprintln!("echo benchmark: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn compare(options: &Options) -> io::Result<Report> {
    raise_descriptor_limit()?;
    let cpus = Cpus::choose()?;
    process::pin(&[cpus.load])?;

    let mut shapes = chosen(&options.shape, Shape::is_compared);
    let mut servers = chosen(&options.server, Server::is_compared);
    if options.scaling.is_some() {
        shapes = Shape::SCALING.to_vec();
        servers = chosen(&[], |server| server == Server::Wsecho || server.is_spread());
    }
    servers.retain(|server| {
        let available = server.is_available();
        if !available {
            eprintln!("SKIPPED: {} is not installed: see docs/performance.md", server.name());
        }
        available
    });
    let (effort, rounds) = if options.quick || !options.bench {
        (Effort::QUICK, 1)
    } else {
        (Effort::FULL, options.rounds)
    };

    let mut report = Report::new(&cpus);
    let begun = Instant::now();
    let mut longest_round = Duration::ZERO;
    for round in 0..rounds {
        if begun.elapsed() + longest_round > LONGEST_RUN {
            eprintln!("stopped after {round} of {rounds} rounds: the run would take too long");
            break;
        }
        let round_begun = Instant::now();
        for &shape in shapes.iter().filter(|shape| round < shape.most_rounds()) {
            for &server in servers.iter().filter(|&&server| shape.is_for(server)) {
                let figures = Process::start(server, &cpus)
                    .and_then(|process| shape.measure(&process, &effort))
                    .map_err(|error| {
                        io::Error::other(format!("{}, {}: {error}", server.name(), shape.name()))
                    })?;
                report.add(shape, server, round, figures);
            }
        }
        servers.rotate_left(1);
        longest_round = longest_round.max(round_begun.elapsed());
        eprintln!("round {} of {rounds}: {:.0?}", round + 1, round_begun.elapsed());
    }
    Ok(report)
}

/// What was asked for, or else all that are compared.
fn chosen<T: ValueEnum + Copy>(asked: &[T], is_compared: impl Fn(T) -> bool) -> Vec<T> {
    let all = || T::value_variants().iter().copied().filter(|&one| is_compared(one)).collect();
    if asked.is_empty() { all() } else { asked.to_vec() }
}

/// Ten thousand connections need as many descriptors here and in the server, which inherits the
/// limit.
fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
