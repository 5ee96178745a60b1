//! Time that stands still, and the wall clock.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use rustix::process::Signal;

use super::client::Client;
use super::measure::{SetOnDrop, wait_for};
use crate::engine::support::{FIN, PING, PONG, TEXT, frame};
use crate::service::Service;

#[test]
fn a_machine_that_slept_for_three_ping_periods_drops_no_client_that_answers() {
    const CLIENTS: usize = 50;
    const PERIOD: Duration = Duration::from_millis(300 + 1500);
    let mut service = Service::start(
        "log.format = \"json\"\ntimeouts.ping_interval = \"300ms\"\ntimeouts.pong = \"1500ms\"",
    );
    let mut mute = Client::open(&service, "/echo");
    let [asleep, enough] = [const { AtomicBool::new(false) }; 2];
    let [pings, waiting] = [const { AtomicUsize::new(0) }; 2];
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::open(&service, "/echo")).collect();
    scope(|scope| {
        let _end = SetOnDrop(&enough);
        let answering: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let stream = client.stream().try_clone().expect("a descriptor");
                let (asleep, enough, pings, waiting) = (&asleep, &enough, &pings, &waiting);
                let answering = scope.spawn(move || {
                    let mut frame = client.read_frame().expect("not dropped");
                    while frame.opcode == PING && !enough.load(Ordering::Acquire) {
                        waiting.fetch_add(1, Ordering::AcqRel);
                        while asleep.load(Ordering::Acquire) && !enough.load(Ordering::Acquire) {
                            sleep(Duration::from_millis(10));
                        }
                        waiting.fetch_sub(1, Ordering::AcqRel);
                        client.send(FIN | PONG, &frame.payload);
                        pings.fetch_add(1, Ordering::Relaxed);
                        frame = client.read_frame().expect("not dropped");
                    }
                    frame.payload
                });
                (stream, answering)
            })
            .collect();
        wait_for("all are pinged", || pings.load(Ordering::Relaxed) >= CLIENTS);
        // The clients fall asleep with a ping unanswered, and the service with them.
        asleep.store(true, Ordering::Release);
        wait_for("all have a ping", || waiting.load(Ordering::Acquire) == CLIENTS);
        service.signal(Signal::STOP);
        // Not a wait: this is how long they sleep.
        sleep(3 * PERIOD);
        service.signal(Signal::CONT);
        // Once this is answered, the service has checked its timers.
        Client::open(&service, "/echo").echo(TEXT, b"awake");
        asleep.store(false, Ordering::Release);
        let before = pings.load(Ordering::Relaxed);
        wait_for("pings keep coming", || pings.load(Ordering::Relaxed) >= before + 3 * CLIENTS);
        for (stream, _) in &answering {
            let mut stream = stream;
            stream.write_all(&frame(FIN | TEXT, b"alive")).expect("it reads");
        }
        for (_, answering) in answering {
            assert_eq!(answering.join().expect("not dropped"), b"alive");
        }
    });
    mute.read_until_cut();
    let line = service.log_line(&mute.addr().to_string());
    assert!(line.contains("\"ended\":\"pong_timeout\""), "{line}");
}

/// All Rust files under a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|it| it.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                Vec::from_iter(path.extension().is_some_and(|it| it == "rs").then_some(path))
            }
        })
        .collect()
}

#[test]
fn no_timer_looks_at_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = fs::read_to_string(root.join("clippy.toml")).unwrap();
    for forbidden in ["std::time::SystemTime::now", "std::time::Instant::now"] {
        assert!(rules.contains(&format!("{{ path = \"{forbidden}\"")), "{forbidden} is allowed");
    }
    // tracing-subscriber writes the time of day into log lines; metrics report two timestamps; a
    // probe says when it began; the doctor compares a file's time with that of a reload.
    let allowed =
        ["src/doctor/reload.rs", "src/ops/logging.rs", "src/ops/metrics.rs", "src/probe.rs"];
    let uses = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("UTF-8");
        text.contains("SystemTime") || text.contains("UNIX_EPOCH")
    };
    let mut found: Vec<_> = sources(&root.join("src")).into_iter().filter(uses).collect();
    found.sort();
    assert_eq!(found, allowed.map(|path| root.join(path)));
    let metrics = fs::read_to_string(root.join(allowed[2])).unwrap();
    assert_eq!(metrics.matches("SystemTime::now").count(), 1);
    let logging = fs::read_to_string(root.join(allowed[1])).unwrap();
    assert!(logging.contains("use tracing_subscriber::fmt::time::{FormatTime, SystemTime};"));
    assert!(!logging.contains("SystemTime::now"), "it may only write the time");
}
