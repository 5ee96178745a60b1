//! Time that stands still, and the clock on the wall.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use rustix::process::Signal;

use super::client::Client;
use super::measure::wait_for;
use crate::engine::support::{CLOSE, FIN, PING, PONG, TEXT};
use crate::service::Service;

#[test]
fn a_service_that_was_stopped_for_three_ping_periods_drops_nobody_who_answers() {
    const CLIENTS: usize = 50;
    const PERIOD: Duration = Duration::from_millis(500);
    let mut service = Service::start(
        "log.format = \"json\"\ntimeouts.ping_interval = \"500ms\"\ntimeouts.pong = \"500ms\"",
    );
    let mute = Client::open(&service, "/echo");
    let pings = AtomicU32::new(0);
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::open(&service, "/echo")).collect();
    scope(|scope| {
        let answering: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let stream = client.stream().try_clone().expect("a descriptor");
                let pings = &pings;
                let answering = scope.spawn(move || {
                    loop {
                        let frame = client.read_frame().expect("not dropped");
                        match frame.opcode {
                            PING => client.send(FIN | PONG, &frame.payload),
                            CLOSE => return client.read_to_end(),
                            TEXT => return usize::MAX,
                            other => panic!("{other}"),
                        }
                        pings.fetch_add(1, Ordering::Relaxed);
                    }
                });
                (stream, answering)
            })
            .collect();
        let all = CLIENTS as u32;
        wait_for("all are pinged", || pings.load(Ordering::Relaxed) >= all);
        service.signal(Signal::STOP);
        // Not waited for: it is how long the machine slept.
        sleep(4 * PERIOD);
        service.signal(Signal::CONT);
        let before = pings.load(Ordering::Relaxed);
        wait_for("they are pinged further", || pings.load(Ordering::Relaxed) >= before + 3 * all);
        let line = service.log_line("session ended");
        assert!(line.contains("\"ended\":\"pong_timeout\""), "{line}");
        assert!(line.contains(&mute.addr().to_string()), "only the mute one is dropped: {line}");
        for (stream, _) in &answering {
            let text = crate::engine::support::frame(FIN | TEXT, b"alive");
            std::io::Write::write_all(&mut &*stream, &text).expect("it reads");
        }
        for (_, answering) in answering {
            assert_eq!(answering.join().expect("not dropped"), usize::MAX);
        }
    });
}

/// All Rust files below a folder.
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
fn no_timer_looks_at_the_clock_on_the_wall() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = fs::read_to_string(root.join("clippy.toml")).unwrap();
    for forbidden in ["std::time::SystemTime::now", "std::time::Instant::now"] {
        assert!(rules.contains(&format!("{{ path = \"{forbidden}\"")), "{forbidden} is allowed");
    }
    // Log lines have the time of day, written by tracing-subscriber; metrics name two moments.
    let allowed = ["src/ops/logging.rs", "src/ops/metrics.rs"];
    let uses = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("UTF-8");
        text.contains("SystemTime") || text.contains("UNIX_EPOCH")
    };
    let mut found: Vec<_> = sources(&root.join("src")).into_iter().filter(uses).collect();
    found.sort();
    assert_eq!(found, allowed.map(|path| root.join(path)));
    let metrics = fs::read_to_string(root.join(allowed[1])).unwrap();
    assert_eq!(metrics.matches("SystemTime::now").count(), 1);
    let logging = fs::read_to_string(root.join(allowed[0])).unwrap();
    assert!(logging.contains("use tracing_subscriber::fmt::time::{FormatTime, SystemTime};"));
    assert!(!logging.contains("SystemTime::now"), "it only writes the time");
}
