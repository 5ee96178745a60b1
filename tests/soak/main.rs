//! `cargo test --test soak`: thousands of clients of all kinds, on failing paths, while the service
//! is reloaded and restarted. Nothing may be lost, refused or leaked.
//!
//! Two services share the clients. One is restarted every period on the same listening socket, as
//! systemd does it; the other runs the whole time, so that its memory means something. Both are
//! reloaded every period.
//!
//! This file owns the command line and the verdict. `service` runs a service, `client` runs one
//! client after another, `talk` is a client's conversation and what it may see, `samples` holds the
//! figures over time and `graph` plots them.

#![allow(
    clippy::disallowed_methods,
    reason = "clients are not tasks of the service, and the clock is real"
)]
#![allow(clippy::cast_precision_loss, reason = "three significant digits are enough")]

mod client;
#[path = "../suite/fault_proxy.rs"]
mod fault_proxy;
mod graph;
#[path = "../suite/launch.rs"]
mod launch;
#[path = "../suite/proc.rs"]
mod proc;
mod samples;
mod service;
mod talk;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use client::World;
use samples::{Sample, Samples};
use service::Service;

/// Run wsecho under load for a while; without arguments, just long enough to see that it works.
#[derive(Parser)]
struct Options {
    /// How long clients come and go.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// How many clients there are at a time.
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Seconds between reloads, and between restarts.
    #[arg(long, default_value_t = 6)]
    period: u64,
    /// Repeat the clients' choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
}

/// How long anything may take once the clients have been told to leave.
const PATIENCE: Duration = Duration::from_secs(60);
/// How sessions of these clients may end: by their Close, half-close or reset, by a fault of their
/// path, or by a restart.
const ENDS: [&str; 6] = ["peer", "eof", "broken", "pong_timeout", "write_timeout", "draining"];
/// How much memory may have grown in the end: a busy allocator does not give everything back.
const KEPT: usize = 8 << 20;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            eprintln!("soak: {} complaints", complaints.len());
            // The last findings say the most.
            for complaint in complaints.iter().rev().take(50) {
                eprintln!("soak: {complaint}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<Vec<String>> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{} s, {} sessions, --seed {seed}", options.seconds, options.sessions);

    let services = [Service::start("stays")?, Service::start("restarts")?].map(Arc::new);
    let [stays, restarts] = &services;
    // Use each once, so that what is allocated for the first client does not count.
    for service in &services {
        client::greet(service.addr())?;
    }
    let before: Vec<_> = services.iter().map(|it| idle(it)).collect::<io::Result<_>>()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let world = Arc::new(World::new(services.to_vec()));
    fastrand::seed(seed);
    let clients: Vec<_> = (0..options.sessions)
        .map(|slot| runtime.spawn(client::live(Arc::clone(&world), slot, fastrand::u64(..))))
        .collect();

    let period = Duration::from_secs(options.period);
    let mut samples = Samples::default();
    thread::scope(|scope| {
        let administrators = [
            scope.spawn(|| administer(&world, stays, period, false)),
            scope.spawn(|| administer(&world, restarts, period, true)),
        ];
        let begun = Instant::now();
        for second in 0..=options.seconds {
            sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
            samples.add(Sample::take(second, &world));
        }
        world.over.store(true, Ordering::Relaxed);
        for administrator in administrators {
            let outcome = administrator.join().expect("no panic");
            if let Err(error) = outcome {
                world.complain(error.to_string());
            }
        }
    });
    let ended = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, async {
            for client in clients {
                client.await.expect("no panic");
            }
        })
        .await
    });
    if ended.is_err() {
        world.complain(format!("a client is still waiting {PATIENCE:?} after the end"));
    }

    for (service, before) in services.iter().zip(before) {
        if let Err(complaint) = settle(service, before) {
            world.complain(format!("{}: {complaint}", service.name));
        }
    }
    for complaint in samples.judge() {
        world.complain(complaint);
    }
    for service in &services {
        service.stop()?;
        let log = service.log();
        println!("{}: sessions ended: {:?}", service.name, log.ended);
        for label in log.ended.keys().filter(|label| !ENDS.contains(&label.as_str())) {
            world.complain(format!("{}: a session ended by {label}", service.name));
        }
        for line in &log.loud {
            world.complain(format!("{}: unexplained: {line}", service.name));
        }
    }
    println!("{}", samples.summary());
    println!("{}", world.summary());

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::write(folder.join("soak.csv"), samples.csv())?;
    fs::write(folder.join("soak.svg"), graph::draw(&samples))?;
    println!("{}", folder.join("soak.svg").display());
    Ok(world.complaints())
}

/// The descriptors of an idle service, and its memory in bytes.
fn idle(service: &Service) -> io::Result<(usize, usize)> {
    let pid = service.pid();
    Ok((proc::descriptors(pid)?, proc::bytes(pid, "status", "VmRSS")?))
}

/// Waits until a service without clients is back to where it was before.
fn settle(service: &Service, before: (usize, usize)) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let now = idle(service).map_err(|error| error.to_string())?;
        if now.0 <= before.0 && now.1 <= before.1 + KEPT {
            let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
            println!(
                "{}: {} descriptors and {:.1} MiB before the clients; {} and {:.1} MiB after",
                service.name,
                before.0,
                mib(before.1),
                now.0,
                mib(now.1)
            );
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("descriptors and memory were {before:?} and are still {now:?}"));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Reloads in the middle of each period, and perhaps restarts at its end.
fn administer(
    world: &World,
    service: &Service,
    period: Duration,
    restarts: bool,
) -> io::Result<()> {
    let mut next = Instant::now() + period / 2;
    for turn in 0.. {
        while Instant::now() < next {
            if world.is_over() {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        next += period / 2;
        if turn % 2 == 0 {
            service.reload()?;
        } else if restarts {
            service.restart()?;
        }
    }
    Ok(())
}
